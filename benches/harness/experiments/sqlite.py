"""The embedded database: GETs of a whole table without any cache and POSTs, beside SQLite's own command line, which runs the same
statements one after another from a file."""

import json
import random
import re
import time

from .. import processes, stats, words
from ..bench import drop_words, group, spread
from ..field import label
from ..generators import body
from ..processes import Failed

NAME = "sqlite"
TITLE = "SQLite and its own command line"

KIND = "ours-sqlite-uncached"
CLI = "sqlite3"

# Statements of a file; the command line runs all of them, however long that takes.
READS, WRITES = 100_000, 2_000

COLUMNS = "shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2"

# As the server has it: a commit is on the disk before it is answered.
SETTINGS = "PRAGMA journal_mode = WAL;\nPRAGMA synchronous = FULL;\n"

PATIENCE = 120


def run(bench):
    seconds = bench.pick(3, 1)
    field = bench.field
    server = field.start(KIND, bench.cores)
    chance = random.Random(1)
    shoes = [chance.randrange(1, field.sqlite_rows + 1) for _ in range(READS)]
    scripts = {"GET": write_script(field, "reads.sql", map(select, shoes)),
               "POST": write_script(field, "writes.sql", (insert(chance.randrange(1, field.sqlite_rows)) for _ in range(WRITES)))}
    counts = {"GET": READS, "POST": WRITES}
    loads = {"GET": lambda server: bench.generators.wrk(server.base, seconds, shoes=shoes), "POST": bench.post(seconds)}
    loads["GET"](server)
    samples = []
    # Reads first: shoes that are written to have more rows to answer with.
    for at, (method, script) in enumerate(scripts.items()):
        for number in bench.rounds(parts=len(scripts) - at):
            with stats.Watch() as watch:
                theirs = command_line(field, script, counts[method])
            samples.append({**theirs, "server": CLI, "method": method, "round": number, "seen": watch.seen})
            samples.append(bench.measure(server, loads[method], method=method, round=number))
    server.stop()
    return {"samples": drop_words(samples), "rows": field.sqlite_rows, "command": f"sqlite3 shoes.db <reads.sql; {samples[1]['command']}"}


def select(shoe):
    return f"SELECT id, {COLUMNS} FROM shoe_images WHERE shoe_id = {shoe};"


def insert(shoe):
    row = json.loads(body(shoe))
    values = ", ".join(str(row[name]) if name == "shoe_id" else f"'{row[name]}'" for name in COLUMNS.split(", "))
    return f"INSERT INTO shoe_images ({COLUMNS}) VALUES ({values}) RETURNING id;"


def write_script(field, name, statements):
    path = field.folder / name
    path.write_text(SETTINGS + "\n".join(statements) + "\n", encoding="ascii")
    return path


def command_line(field, script, count):
    """Statements a second."""
    begun = time.monotonic()
    # What the server's last clients have asked for may still be under way, and hold the lock.
    out = processes.run(
        ["bash", "-c", f"set -o pipefail; sqlite3 -bail -cmd '.timeout 10000' '{field.sqlite()}' <'{script}' | wc -l"], PATIENCE)
    seconds = time.monotonic() - begun
    # The journal's mode is a line, too.
    if not re.fullmatch(rf"\s*{count + 1}\s*", out):
        raise Failed(f"sqlite3 answered {out.strip()} lines to {count} statements")
    return {"rate": count / seconds, "cpu_us": None, "p99": None}


def text(data):
    parts = [f"GETs of {data['rows']:,} shoes, evenly, without any cache, and POSTs of new rows, over 64 connections, one worker a core; "
             "the command line runs one statement after another in one process, and commits each by itself. Writes that wait at the same time "
             "share a commit of this server's, which is what fsync allows."]
    for method in ("GET", "POST"):
        by = {server: mine for (server,), mine in group([s for s in data["samples"] if s["method"] == method], "server").items()}
        floor = [s["rate"] for s in by[CLI]]
        rows = [["sqlite3, the command line" if server == CLI else label(server), words.ranged(spread(mine, "rate")),
                 words.ranged(stats.ratios([s["rate"] for s in mine], floor)),
                 "" if server == CLI else words.ranged(spread(mine, "cpu_us")), "" if server == CLI else words.middle(spread(mine, "p99"))]
                for server, mine in by.items()]
        parts.append(words.table([method, "a second", "to sqlite3's", "CPU µs", "p99 ms"], rows))
    return "\n\n".join(parts)


def ratio(data, method):
    by = group([s for s in data["samples"] if s["method"] == method], "server")
    return stats.ratios([s["rate"] for s in by[(KIND,)]], [s["rate"] for s in by[(CLI,)]])
