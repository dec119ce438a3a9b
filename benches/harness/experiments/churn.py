"""A connection for each request: what accepting costs."""

from .. import words
from ..bench import drop_words, group, spread
from ..field import label

NAME = "churn"
TITLE = "A connection for each request"

KINDS = ["ours-sqlite", "nginx", "actix-redis", "node-redis"]


def run(bench):
    seconds = bench.pick(2, 1)
    servers = [bench.field.start(kind, bench.cores) for kind in KINDS]
    bench.warm_up(*servers)
    samples = []
    for number in bench.rounds():
        for server in servers:
            samples.append(bench.measure(server, bench.hot(seconds, close=True), round=number))
    for server in servers:
        server.stop()
    return {"samples": drop_words(samples), "command": samples[0]["command"]}


def text(data):
    rows = [[label(kind), words.ranged(spread(mine, "rate")), words.ranged(spread(mine, "cpu_us")), words.middle(spread(mine, "p99")),
             sum(sum(s["errors"].values()) for s in mine)]
            for (kind,), mine in group(data["samples"], "server").items()]
    return "\n\n".join([
        "Hot GETs with `Connection: close`, 64 clients, one worker a core.",
        words.table(["server", "GETs a second", "CPU µs a request", "p99 ms", "errors"], rows)])
