"""Ten million rows: `canvas-cluster seed` beside the floor, psql's \\copy of the same rows from a ready file into the same table with
the same index, built after the load too. And what the index does for a point query, as in the seed."""

import os
import re
import shutil
import time

from .. import processes, stats, words
from ..bench import group, spread
from ..field import clean_environment
from ..processes import Failed

NAME = "seeding"
TITLE = "Seeding"

# The seed's own time for ten million rows, in batches of 10,000 (its journal, 2019-09-28).
SEEDS_SECONDS = 469.616
SEEDS_ROWS = 10_000_000

# Bytes of disk a row: table, index, write-ahead log and the file, with room to spare.
BYTES_A_ROW = 2_000

# The table, word for word as the tool makes it.
TABLE = """CREATE TABLE shoe_images (id serial PRIMARY KEY, shoe_id int,
    img1 varchar(255), img2 varchar(255), img3 varchar(255), img4 varchar(255), img5 varchar(255), img6 varchar(255),
    img7 varchar(255), vid1 varchar(255), vid2 varchar(255))"""
INDEX = "CREATE INDEX shoe_images_shoe_id_idx ON shoe_images (shoe_id)"
COLUMNS = "id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2"

PATIENCE = 1200


def peak_memory(command, env, cwd, patience=PATIENCE, look=lambda: None):
    """Runs a program; answers with its seconds and its peak of resident memory in bytes. Calls `look` again and again meanwhile."""
    begun = time.monotonic()
    process = processes.Process("the seed", command, cwd / "seed.log", env=env, cwd=cwd)
    peak = 0
    try:
        while not process.ended():
            if time.monotonic() - begun > patience:
                raise Failed(f"the seed did not end within {patience} s")
            try:
                with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                    found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
                    peak = max(peak, int(found[1]) * 1024 if found else 0)
            except OSError:
                pass
            look()
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        if process.child.returncode != 0:
            raise Failed(f"the seed failed: {process.tail()}")
        return seconds, peak
    finally:
        process.stop()


def point_query(field, database, shoe):
    """Milliseconds of `SELECT … WHERE shoe_id = …`, as psql's \\timing says, the middle of three."""
    out = field.psql("\\timing on\n" + f"SELECT * FROM shoe_images WHERE shoe_id = {shoe};\n" * 3, database, PATIENCE)
    times = sorted(float(ms) for ms in re.findall(r"^Time: ([0-9.]+) ms", out, re.M))
    if len(times) != 3:
        raise Failed(f"psql told no times: {out[-300:]}")
    return times[1]


def fresh(field, name):
    field.psql(f"DROP DATABASE IF EXISTS {name}", "postgres")
    field.psql(f"CREATE DATABASE {name}", "postgres")
    field.psql("CHECKPOINT", "postgres", PATIENCE)
    return field.url(name)


def run(bench):
    field = bench.field
    rows = bench.pick(SEEDS_ROWS, 200_000)
    free = shutil.disk_usage(field.folder).free
    if free < rows * BYTES_A_ROW:
        rows = max(100_000, free // BYTES_A_ROW)
        bench.say(f"only {words.mib(free)} MiB of disk are free: {rows:,} rows")
    # psql reads and writes the file itself, as us.
    path = field.folder / "rows.copy"
    samples, data = [], {"rows": rows, "command": f"canvas-cluster seed --rows {rows}; psql -c '\\copy shoe_images from rows.copy'"}
    server = bench.layout.server
    for number in bench.rounds():
        url = fresh(field, "seeded")
        env = {**clean_environment(), "CANVAS_DATABASE_URL": url}
        with stats.Watch() as watch:
            seconds, peak = peak_memory([server, "seed", "--rows", rows], env, field.folder)
        samples.append({"what": "seed", "round": number, "seconds": seconds, "peak": peak, "seen": watch.seen})
        if not path.exists():
            field.psql(f"\\copy (SELECT {COLUMNS} FROM shoe_images) TO '{path}'", "seeded", PATIENCE)
        count = int(field.psql("SELECT count(*) FROM shoe_images", "seeded", PATIENCE))
        if count != rows:
            raise Failed(f"{count} rows were seeded instead of {rows}")
        field.psql("DROP DATABASE seeded", "postgres")

        fresh(field, "copied")
        with stats.Watch() as watch:
            begun = time.monotonic()
            field.psql(TABLE, "copied")
            field.psql(f"\\copy shoe_images ({COLUMNS}) FROM '{path}'", "copied", PATIENCE)
            copied = time.monotonic() - begun
            # Timed apart: the query without an index is the seed's story, and no part of the load.
            if number == 0:
                data["query_before"] = point_query(field, "copied", rows - 1)
            begun = time.monotonic()
            field.psql(INDEX, "copied", PATIENCE)
            field.psql("ANALYZE shoe_images", "copied", PATIENCE)
            seconds = copied + time.monotonic() - begun
        samples.append({"what": "copy", "round": number, "seconds": seconds, "peak": None, "seen": watch.seen})
        if number == 0:
            data["query_after"] = point_query(field, "copied", rows - 1)
        field.psql("DROP DATABASE copied", "postgres")
        bench.keep({**data, "samples": samples})
    os.unlink(path)
    return {**data, "samples": samples}


def ratio(data):
    by = group(data["samples"], "what")
    return stats.ratios([s["seconds"] for s in by[("seed",)]], [s["seconds"] for s in by[("copy",)]])


def text(data):
    by = group(data["samples"], "what")
    seed, copy = by[("seed",)], by[("copy",)]
    rows = data["rows"]
    beside = words.number(SEEDS_SECONDS) if rows == SEEDS_ROWS else f"{words.number(SEEDS_SECONDS)} for {SEEDS_ROWS:,}"
    table = [["canvas-cluster seed", words.ranged(spread(seed, "seconds")), words.ranged(ratio(data)),
              words.mib(max(s["peak"] for s in seed))],
             ["psql \\copy of a ready file", words.ranged(spread(copy, "seconds")), "1", "–"],
             ["the seed (pg-promise, batches of 10,000)", beside, "–", "–"]]
    return "\n\n".join([
        f"{rows:,} rows into an empty table of PostgreSQL with its defaults for everything that keeps data safe; the index on `shoe_id` and "
        "the statistics are made after the load in both. The floor reads a file that is there already; the tool makes its rows.",
        words.table(["", "seconds", "to \\copy", "peak memory MiB"], table),
        f"A point query by `shoe_id` takes {words.number(data['query_before'])} ms before the index and "
        f"{words.number(data['query_after'])} ms after it (the seed: some 18 s, and \"a few milliseconds\")."])
