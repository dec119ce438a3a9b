"""As much as goes (closed loop), all servers by turns with one worker a core: throughput and what a request costs."""

from .. import words
from ..bench import drop_words, group, spread
from ..field import label
from ..plots import bars

NAME = "saturation"
TITLE = "Saturation"

READS = ["nginx", "ours-sqlite", "ours", "ours-redis", "ours-redis-only", "ours-uncached", "actix-redis", "actix",
         "node-redis", "node"]
WRITES = ["ours-sqlite", "ours", "ours-redis", "actix", "actix-redis", "node", "node-redis"]


def run(bench):
    seconds = bench.pick(2, 1)
    servers = {kind: bench.field.start(kind, bench.cores) for kind in READS}
    bench.warm_up(*servers.values())
    samples = []
    for number in bench.rounds():
        for method, kinds, load in [("GET", READS, bench.hot(seconds)), ("POST", WRITES, bench.post(seconds))]:
            for kind in kinds:
                # The demo catalogue of SQLite has fewer shoes than POST adds to, which is no matter.
                samples.append(bench.measure(servers[kind], load, method=method, round=number))
    for server in servers.values():
        server.stop()
    commands = {method: next(s["command"] for s in samples if s["method"] == method and s["server"] == "ours")
                for method in ("GET", "POST")}
    return {"samples": drop_words(samples), "command": "; ".join(commands.values())}


def text(data):
    parts = ["GETs of 1,000 shoes, evenly, and POSTs of new rows, over 64 keep-alive connections, one worker a core. The "
             "generator shares the processors, so the CPU time a request says more than the throughput; *stores* is that of PostgreSQL "
             "and Redis."]
    for method in ("GET", "POST"):
        by = group([s for s in data["samples"] if s["method"] == method], "server")
        rows = [[label(kind), words.ranged(spread(mine, "rate")), words.ranged(spread(mine, "cpu_us")),
                 words.middle(spread(mine, "store_us")), words.middle(spread(mine, "p50")), words.middle(spread(mine, "p99")),
                 sum(sum(s["errors"].values()) for s in mine)]
                for (kind,), mine in by.items()]
        parts.append(words.table([method, "a second", "CPU µs", "stores µs", "p50 ms", "p99 ms", "errors"], rows))
    return "\n\n".join(parts)


def plots(data):
    by = group([s for s in data["samples"] if s["method"] == "GET"], "server")
    return [("throughput.svg", lambda figure: bars(
        figure, [(kind, spread(mine, "rate")) for (kind,), mine in by.items()], "GETs a second, one worker a core"))]
