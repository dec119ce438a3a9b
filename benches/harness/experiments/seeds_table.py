"""The seed's tables: constant rates of GETs and POSTs, without a cache and with Redis, with 1, 2 and 4 workers, in the seed's own
columns and beside its figures."""

from .. import words
from ..bench import drop_words, group, spread
from ..generators import error_share
from ..plots import lines

NAME = "seeds-table"
TITLE = "The seed's tables"

RATES = [1, 10, 100, 1000, 2000, 2500, 3500, 10_000]

# From where it becomes interesting.
QUICK_RATES = RATES[3:4] + RATES[5:]
WORKERS = [1, 2, 4]

# Which of our kinds and which of the baseline's stand for a column of the seed's.
PAIRS = {"without a cache": ("ours-uncached", "node"), "with Redis": ("ours-redis", "node-redis")}

# What the seed measured with loader.io over the network (its own round trip was some 70 ms): latency in ms, answers a minute,
# share of errors, note. One t2.micro, one Node process.
SEED = {
    ("without a cache", "GET", 1): {
        1: (74, "60", "0 %", ""), 10: (74, "600", "0 %", ""), 100: (73, "6,000", "0 %", ""), 1000: (73, "59,388", "0 %", ""),
        2000: (144, "119,863", "0 %", ""), 2500: (577, "81,344", "45.7 %", ""),
        10_000: (1691, "–", "53 %", "ended after 10 s")},
    ("without a cache", "POST", 1): {
        1: (80, "60", "0 %", ""), 10: (76, "600", "0 %", ""), 100: (74, "5,926", "0 %", ""), 1000: (76, "59,358", "0 %", ""),
        10_000: (941, "–", "83 %", "ended after 3 s")},
    ("with Redis", "GET", 1): {
        2500: (74, "149,826", "0 %", ""), 3500: (2293, "106,541", "2 %", "53 % before the limit on open files was raised")},
    # In words only, with one worker a core: t3.medium and t3.xlarge.
    ("with Redis", "GET", 2): {3500: ("", "", "", "\"easily handled\""), 10_000: ("", "", "", "failed")},
    ("with Redis", "GET", 4): {10_000: ("", "", "", "\"easily handled\"")},
}


def run(bench):
    samples, commands = [], {}
    fields = [(workers, cache) for workers in WORKERS for cache in PAIRS]
    for number, (workers, cache) in enumerate(fields):
        servers = [bench.field.start(kind, workers) for kind in PAIRS[cache]]
        bench.warm_up(*servers)
        for turn in bench.rounds(quick_most=1, parts=len(fields) - number):
            for method in ("GET", "POST"):
                for rate in bench.pick(RATES, QUICK_RATES):
                    # The lowest rates need the time for a request at all.
                    seconds = 1 if rate <= 10 else 0.6
                    for server in servers:
                        sample = bench.measure(server, bench.paced(rate, seconds, method), cache=cache, method=method, rps=rate,
                                               round=turn)
                        commands.setdefault(method, sample["command"])
                        samples.append(sample)
        for server in servers:
            server.stop()
        bench.say(f"{workers} workers {cache}")
        bench.keep({"samples": drop_words(samples), "command": "; ".join(commands.values())})
    return {"samples": drop_words(samples), "command": "; ".join(commands.values())}


def cells(mine):
    """Latency, p99, answers a minute, share of errors."""
    asked = sum(s["asked"] for s in mine)
    errors = sum(error_share(s) * s["asked"] for s in mine) / asked
    return [words.ranged(spread(mine, "p50"), 2), words.middle(spread(mine, "p99"), 2),
            words.number(spread(mine, "rate")["median"] * 60), words.percent(errors)]


def text(data):
    parts = ["A constant rate for a moment (a second at most), in each of several rounds: the seed's columns, and its figures beside "
             "ours. Its latencies are averages that loader.io saw over a network whose round trip takes some 70 ms; ours are medians "
             "(with the range of the rounds) over loopback, corrected for coordinated omission. *Errors* are failed requests and those that could not even be sent, "
             "because all 256 connections were waiting. Without a cache means that this server keeps nothing of its own either "
             "(`--l1-bytes 0`). *Node* is the seed's stack, rebuilt (`peers/node-cluster`)."]
    for (cache, method, workers), mine in group(data["samples"], "cache", "method", "workers").items():
        seed = SEED.get((cache, method, workers), {})
        by = group(mine, "rps", "server")
        ours, node = PAIRS[cache]
        rows = []
        for rate in RATES:
            latency, throughput, errors, note = seed.get(rate, ("", "", "", ""))
            rows.append([f"{rate:,}", f"{latency:,} ms" if latency else "", throughput, errors,
                         *(cells(by[(rate, ours)]) if (rate, ours) in by else ["–"] * 4),
                         *(cells(by[(rate, node)]) if (rate, node) in by else ["–"] * 4), note])
        parts.append(f"**{method} {cache}, {workers} {'worker' if workers == 1 else 'workers'}**")
        head = ["RPS", "seed: latency", "a minute", "errors", "ours: ms", "p99", "a minute", "errors",
                "Node: ms", "p99", "a minute", "errors", "the seed's note"]
        parts.append(words.table(head, rows))
    return "\n\n".join(parts)


def plots(data):
    def draw(figure):
        series = {}
        chosen = [s for s in data["samples"] if s["method"] == "GET" and s["workers"] == 1 and s["rps"] >= 10]
        for (kind, rate), mine in sorted(group(chosen, "server", "rps").items()):
            series.setdefault(kind, []).append((rate, max(spread(mine, "p99")["median"], 0.01)))
        lines(figure, series, "GETs asked for a second, one worker", "99th percentile of latency, ms", log=True)
    return [("latency.svg", draw)]
