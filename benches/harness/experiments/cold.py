"""From exec to the first answer, and the memory of a process tree then and after a load."""

from .. import stats, words
from ..bench import group, spread
from ..field import label

NAME = "cold"
TITLE = "Cold start and memory"

KINDS = ["ours-sqlite", "ours", "ours-redis", "nginx", "actix", "actix-redis", "node", "node-redis"]


def run(bench):
    samples = []
    for number in bench.rounds():
        for kind in KINDS:
            with stats.Watch() as watch:
                server = bench.field.start(kind, bench.cores)
            with server:
                first = server.memory()
                bench.hot(1)(server)
                after = server.memory()
            samples.append({"server": kind, "round": number, "ms": server.first_answer * 1000, "rss": first["rss"], "pss": first["pss"],
                            "pss_after": after["pss"], "seen": watch.seen})
    return {"samples": samples, "command": "the server, and GETs every few milliseconds until one is answered"}


def text(data):
    rows = []
    for (kind,), mine in group(data["samples"], "server").items():
        rows.append([label(kind), words.ranged(spread(mine, "ms")), words.mib(spread(mine, "rss")["median"]),
                     words.mib(spread(mine, "pss")["median"]), words.mib(spread(mine, "pss_after")["median"])])
    return "\n\n".join([
        "One worker a core; the database runs already, and SQLite's demo catalogue of 1,000 shoes is made anew in each round. Rss counts "
        "pages that workers share once each, Pss once in all.",
        words.table(["server", "ms to the first answer", "Rss MiB", "Pss MiB", "Pss MiB after a load"], rows)])
