"""The seed's own tool, k6, beside oha at one rate: do they tell the same?"""

from .. import words
from ..bench import drop_words, group, spread

NAME = "generators"
TITLE = "k6 beside oha"

RATE = 1000


def run(bench):
    seconds = bench.pick(5, 3)
    samples, commands = [], {}
    with bench.field.start("ours-redis", bench.cores) as server:
        bench.warm_up(server)
        loads = {"oha": bench.paced(RATE, seconds), "k6": lambda s: bench.generators.k6(s.base, RATE, seconds, bench.shoes)}
        for number in bench.rounds():
            for tool, load in loads.items():
                sample = bench.measure(server, load, tool=tool, round=number)
                commands[tool] = sample["command"]
                samples.append(sample)
    return {"samples": drop_words(samples), "command": "; ".join(commands.values())}


def agree(data):
    """Whether both saw the rate that was asked for, without errors."""
    by = group(data["samples"], "tool")
    return all(abs(spread(mine, "rate")["median"] / RATE - 1) < 0.05 and not any(s["errors"] for s in mine) for mine in by.values())


def text(data):
    rows = [[tool, words.ranged(spread(mine, "rate")), words.ranged(spread(mine, "p50")), words.ranged(spread(mine, "p99")),
             words.middle(spread(mine, "cpu_us")), sum(sum(s["errors"].values()) for s in mine)]
            for (tool,), mine in group(data["samples"], "tool").items()]
    verdict = ("Both reach the rate without an error" if agree(data) else "**They do not agree on the rate**")
    return "\n\n".join([
        f"GETs at a constant {RATE:,} a second from this server with PostgreSQL and Redis. {verdict}; k6 takes far more of the processors "
        "itself, and its latencies count from the moment when a request was sent, oha's from when it should have been.",
        words.table(["generator", "answers a second", "p50 ms", "p99 ms", "server's CPU µs a request", "errors"], rows)])
