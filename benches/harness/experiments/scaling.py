"""More workers than cores, and fewer: what a worker more costs."""

from .. import words
from ..bench import drop_words, group, spread

NAME = "scaling"
TITLE = "One to sixteen workers"

WORKERS = [1, 2, 4, 8, 16]


def run(bench):
    seconds = bench.pick(2, 1)
    servers = [bench.field.start("ours", workers) for workers in WORKERS]
    bench.warm_up(*servers)
    samples = []
    for number in bench.rounds():
        for server in servers:
            samples.append(bench.measure(server, bench.hot(seconds), round=number))
    memory = {str(server.workers): server.memory() for server in servers}
    for server in servers:
        server.stop()
    return {"samples": drop_words(samples), "memory": memory, "command": samples[0]["command"]}


def text(data):
    rows = [[workers, words.ranged(spread(mine, "rate")), words.ranged(spread(mine, "cpu_us")), words.middle(spread(mine, "p99")),
             words.mib(data["memory"][str(workers)]["pss"])]
            for (workers,), mine in group(data["samples"], "workers").items()]
    return "\n\n".join([
        "Hot GETs over 64 keep-alive connections. Beyond the number of cores a worker more only costs switches between them.",
        words.table(["workers", "GETs a second", "CPU µs a request", "p99 ms", "memory MiB (Pss)"], rows)])
