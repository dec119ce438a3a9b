"""The same rows into CouchDB and into PostgreSQL by `canvas-cluster seed`, by turns, each with its index, and some answers out of each.
CouchDB is in no Debian: what stands in for it in the tests does so here, too (tests/couchdb), with its documents in LevelDB on the
disk. It is one process of Node; how fast CouchDB itself is it can't tell."""

import base64
import json
import re
import time
import urllib.request

from .. import processes, stats, words
from ..bench import group, spread
from ..field import accepts, clean_environment, free_port
from ..processes import Failed, Process
from .seeding import SEEDS_ROWS, SEEDS_SECONDS, fresh, peak_memory

NAME = "couchdb"
TITLE = "Seeding CouchDB"

# The seed's own time for as many rows as with PostgreSQL, in the same batches of 10,000 (its journal, 2019-09-28).
SEEDS_COUCHDB_SECONDS = 1277

USER, PASSWORD = "canvas", "loopback"

# Seconds that one seed may take, and the stand-in to be there.
PATIENCE, START = 2400, 60

# What the seed says when it has stored the last row.
INDEXING = "building the index"


class StandIn:
    """A server that speaks CouchDB's protocol, with a folder of its own. `with StandIn(bench) as couchdb: …`"""

    def __init__(self, bench):
        self.root, self.field = bench.layout.root / "tests" / "couchdb", bench.field
        self.process = None

    def __enter__(self):
        folder = self.field.private_folder("couchdb")
        (folder / "data").mkdir()
        self.port = free_port()
        env = {**clean_environment(), "USER": USER, "PASSWORD": PASSWORD, "PORT": str(self.port)}
        self.process = Process("CouchDB's stand-in", ["node", self.root / "server.js", folder / "data"], folder / "log", env=env, cwd=folder)
        processes.wait_until(lambda: accepts(self.port), START, "an answer of CouchDB's stand-in", self.process)
        return self

    def __exit__(self, *_):
        self.process.stop()

    @property
    def url(self):
        return f"couchdb://{USER}:{PASSWORD}@127.0.0.1:{self.port}/shoes"

    def rows(self):
        """How many documents there are, but for the one that has the index."""
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/shoes", headers={"Authorization": f"Basic {credentials}"})
        with urllib.request.urlopen(request, timeout=START) as answer:
            return json.load(answer)["doc_count"] - 1

    def peak(self):
        """Its peak of resident memory in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024


def seed(bench, what, number, url, rows):
    """Seeds a database; its sample. `loaded` is the time until the last row was in, `seconds` that until the index was built, too."""
    env = {**clean_environment(), "CANVAS_DATABASE_URL": url}
    folder = bench.field.private_folder("seed")
    told, loaded = folder / "seed.log", None
    begun = time.monotonic()

    def look():
        nonlocal loaded
        if loaded is None and told.exists() and INDEXING in told.read_text(encoding="utf-8"):
            loaded = time.monotonic() - begun

    with stats.Watch() as watch:
        seconds, peak = peak_memory([bench.layout.server, "seed", "--rows", rows], env, folder, PATIENCE, look)
    look()
    if loaded is None:
        raise Failed(f"the seed of {what} did not tell when its rows were in")
    bench.say(f"{what}: {rows:,} rows in {loaded:.1f} s, and with the index in {seconds:.1f} s")
    return {"what": what, "round": number, "loaded": loaded, "seconds": seconds, "peak": peak, "store_peak": None, "seen": watch.seen}


def check(bench, what, rows, counted, kind, database):
    """Whether all rows are there: their number, and the first, the last and some between as a server answers them."""
    if counted != rows:
        raise Failed(f"{what} has {counted} rows after {rows} were seeded")
    with bench.field.start(kind, 1, database=database) as server:
        for shoe in sorted({1, rows // 3, rows // 2, rows - 1, rows}):
            with urllib.request.urlopen(f"{server.base}/api/images/?shoe_id={shoe}", timeout=START) as answer:
                found = json.load(answer)
            if [row["shoe_id"] for row in found] != [shoe]:
                raise Failed(f"{what} answers {json.dumps(found)[:300]} for shoe {shoe}")


def run(bench):
    field, rows = bench.field, bench.pick(1_000_000, 20_000)
    samples, data = [], {"rows": rows, "command": f"canvas-cluster seed --rows {rows} --database-url couchdb://…; the same with postgres://…"}
    for number in bench.rounds(3):
        sample = seed(bench, "PostgreSQL", number, fresh(field, "seeded"), rows)
        check(bench, "PostgreSQL", rows, int(field.psql("SELECT count(*) FROM shoe_images", "seeded")), "ours", "seeded")
        field.psql("DROP DATABASE seeded", "postgres")
        samples.append(sample)
        with StandIn(bench) as couchdb:
            sample = seed(bench, "CouchDB", number, couchdb.url, rows)
            check(bench, "CouchDB", rows, couchdb.rows(), "ours-elsewhere", couchdb.url)
            sample["store_peak"] = couchdb.peak()
        samples.append(sample)
        bench.keep({**data, "samples": samples})
    return {**data, "samples": samples}


def ratio(data, key="loaded"):
    """CouchDB's time to PostgreSQL's."""
    by = group(data["samples"], "what")
    return stats.ratios([s[key] for s in by[("CouchDB",)]], [s[key] for s in by[("PostgreSQL",)]])


def text(data):
    rows = data["rows"]
    table = []
    for (what,), mine in group(data["samples"], "what").items():
        rates = stats.spread([rows / s["loaded"] for s in mine])
        store = max((s["store_peak"] or 0 for s in mine), default=0)
        table.append([f"{what}'s stand-in" if what == "CouchDB" else what, f"{rows:,}", words.ranged(spread(mine, "loaded")),
                      words.ranged(rates), words.ranged(spread(mine, "seconds")), words.mib(max(s["peak"] for s in mine)),
                      words.mib(store) if store else "–"])
    for what, seconds in (("the seed: PostgreSQL", SEEDS_SECONDS), ("the seed: CouchDB", SEEDS_COUCHDB_SECONDS)):
        table.append([what, f"{SEEDS_ROWS:,}", words.number(seconds), words.number(SEEDS_ROWS / seconds), "–", "–", "–"])
    return "\n\n".join([
        "Rows by `canvas-cluster seed` into empty databases, by turns; then all are counted and some are asked for. In CouchDB's place "
        "stands PouchDB's server, which speaks its protocol: one process of Node, with its documents in LevelDB on the disk. So this shows "
        "what a seed costs on our side, and that all rows arrive; it does not show how fast CouchDB is.",
        words.table(["", "rows", "seconds for the rows", "rows a second", "seconds with the index", "peak memory of the seed, MiB",
                     "of the stand-in, MiB"], table),
        f"The rows take {words.ranged(ratio(data))} times as long into the stand-in as into PostgreSQL, and with the index "
        f"{words.ranged(ratio(data, 'seconds'))} times; into CouchDB they took the seed "
        f"{words.number(SEEDS_COUCHDB_SECONDS / SEEDS_SECONDS)} times as long, by batches of 10,000 and without an index."])
