"""What the database itself can do, by its own tool: pgbench asks the same question with prepared statements, and makes the same row,
each at the number of clients that does most; by turns with this server and its peers, all without any cache."""

import random
import re

from .. import processes, stats, words
from ..bench import drop_words, group, spread
from ..field import label
from ..generators import body
from ..processes import Failed

NAME = "database"
TITLE = "The database and its own tool"

KINDS = ["ours-uncached", "actix", "node"]

CLIENTS = [8, 16, 32, 64]

# So many shoes are asked for by each round's clients, of all that there are.
ASKED = 100_000

COLUMNS = "shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2"


def run(bench):
    seconds = bench.pick(3, 1)
    servers = [bench.field.start(kind, bench.cores) for kind in KINDS]
    chance = random.Random(1)
    shoes = [chance.randrange(1, bench.field.rows + 1) for _ in range(ASKED)]
    loads = {"GET": lambda server: bench.generators.wrk(server.base, seconds, shoes=shoes), "POST": bench.post(seconds)}
    scripts = {"GET": read_script(bench), "POST": write_script(bench)}
    bench.warm_up(*servers)
    best = {method: max(CLIENTS, key=lambda clients: pgbench(bench, scripts[method], clients, bench.pick(2, 1))["rate"]) for method in scripts}
    samples = []
    # Reads first: shoes that are written to have more rows to answer with.
    for at, (method, script) in enumerate(scripts.items()):
        for number in bench.rounds(parts=len(scripts) - at):
            with stats.Watch() as watch:
                theirs = pgbench(bench, script, best[method], seconds)
            samples.append({**theirs, "server": "pgbench", "method": method, "round": number, "seen": watch.seen})
            for server in servers:
                samples.append(bench.measure(server, loads[method], method=method, round=number))
    for server in servers:
        server.stop()
    command = next(s["command"] for s in samples if s["server"] == "pgbench")
    return {"samples": drop_words(samples), "clients": best, "rows": bench.field.rows, "command": command}


def read_script(bench):
    path = bench.field.folder / "read.sql"
    path.write_text(f"\\set shoe random(1, {bench.field.rows})\n"
                    f"SELECT id, {COLUMNS} FROM shoe_images WHERE shoe_id = :shoe;\n", encoding="ascii")
    return path


def write_script(bench):
    """A row as the POSTs have it."""
    import json
    row = json.loads(body(1))
    texts = ", ".join("NULL" if row.get(name) is None else f"'{row[name]}'" for name in COLUMNS.split(", ")[1:])
    path = bench.field.folder / "write.sql"
    path.write_text(f"\\set shoe random(1001, {bench.field.rows})\n"
                    f"INSERT INTO shoe_images ({COLUMNS}) VALUES (:shoe, {texts}) RETURNING id;\n", encoding="ascii")
    return path


def pgbench(bench, script, clients, seconds):
    command = [bench.layout.postgres_program("pgbench"), "-n", "-M", "prepared", "-c", str(clients), "-j", str(bench.cores),
               "-T", str(seconds), "-f", str(script), bench.field.url()]
    out = processes.run(command, seconds + 60)
    rate = re.search(r"^tps = ([0-9.]+)", out, re.MULTILINE)
    if not rate:
        raise Failed(f"pgbench said no rate: {out[-300:]}")
    return {"rate": float(rate.group(1)),
            "command": f"pgbench -n -M prepared -c {clients} -j {bench.cores} -T {seconds} -f {script.name}"}


def text(data):
    parts = [f"GETs of {data['rows']:,} shoes, evenly, and POSTs of new rows; pgbench with "
             f"{data['clients']['GET']} and {data['clients']['POST']} clients, which did most."]
    for method in ("GET", "POST"):
        mine = [s for s in data["samples"] if s["method"] == method]
        by = {server: samples for (server,), samples in group(mine, "server").items()}
        rates = {server: [s["rate"] for s in samples] for server, samples in by.items()}
        rows = [["pgbench" if server == "pgbench" else label(server), words.ranged(spread(samples, "rate")),
                 words.ranged(stats.ratios(rates[server], rates["pgbench"])),
                 "" if server == "pgbench" else words.ranged(spread(samples, "cpu_us")),
                 "" if server == "pgbench" else words.middle(spread(samples, "store_us"))]
                for server, samples in by.items()]
        parts.append(words.table([method, "a second", "to pgbench's", "CPU µs", "PostgreSQL µs"], rows))
    return "\n\n".join(parts)
