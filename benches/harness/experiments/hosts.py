"""The seed's final run, scaled to this machine: eight hosts with two workers each behind nginx, beside one host with four."""

from .. import words
from ..bench import drop_words, group, spread
from ..fleet import Fleet
from ..generators import error_share

NAME = "hosts"
TITLE = "The seed's final run"

HOSTS, WORKERS, BALANCER_WORKERS = 8, 2, 2
ONE_HOSTS_WORKERS = 4

# Where rows come from.
KINDS = {"PostgreSQL": "ours", "PostgreSQL and Redis": "ours-redis"}

# The seed's goal.
RATE = 10_000

EIGHT, ONE = "eight hosts behind nginx", "one host"

# What the seed had in the place of each, and how that went; all with Redis.
SEED = {
    EIGHT: "eight t2.micro behind a t3.medium's nginx: 10,000 a second, at most 1 % of errors",
    ONE: "one t3.xlarge, four workers: 10,000 a second \"easily handled\""}


def run(bench):
    seconds = bench.pick(2, 1)
    loads = {"paced": bench.paced(RATE, seconds), "closed": bench.hot(seconds)}
    samples = []
    for at, (stores, kind) in enumerate(KINDS.items()):
        fleet = Fleet(bench.field, kind, HOSTS, WORKERS, BALANCER_WORKERS)
        one = bench.field.start(kind, ONE_HOSTS_WORKERS)
        bench.warm_up(fleet, one)
        for number in bench.rounds(quick_most=1, parts=len(KINDS) - at):
            for pace, load in loads.items():
                for setup, server in ((EIGHT, fleet), (ONE, one)):
                    before = fleet.balancer_cpu()
                    sample = bench.measure(server, load, setup=setup, stores=stores, pace=pace, round=number)
                    spent = (fleet.balancer_cpu() - before) * 1e6 / max(1, sample["ok"])
                    samples.append({**sample, "balancer_us": spent if setup == EIGHT else None})
        fleet.stop()
        one.stop()
        bench.say(stores)
        bench.keep({"samples": drop_words(samples), "command": samples[0]["command"]})
    commands = [next(s["command"] for s in samples if s["pace"] == pace) for pace in loads]
    return {"samples": drop_words(samples), "command": "; ".join(commands)}


def text(data):
    parts = [f"{HOSTS} hosts of this server with {WORKERS} workers each behind nginx ({BALANCER_WORKERS} workers, least_conn, keep-alive), beside one host with "
             f"{ONE_HOSTS_WORKERS} workers, by turns, GETs of 1,000 shoes: at the seed's goal of {RATE:,} a second, and as many as go over 64 "
             "connections. All of it shares this machine's processors, where each of the seed's hosts had its own; so what counts is the "
             "CPU time, of all hosts and nginx together. Our hosts share one Redis; each of the seed's had its own."]
    for stores in KINDS:
        rows = []
        for setup in (EIGHT, ONE):
            by = {pace: mine for (pace,), mine in
                  group([s for s in data["samples"] if s["stores"] == stores and s["setup"] == setup], "pace").items()}
            paced, closed = by["paced"], by["closed"]
            asked = sum(s["asked"] for s in paced)
            rows.append([setup, words.ranged(spread(paced, "rate")),
                         words.percent(sum(error_share(s) * s["asked"] for s in paced) / asked),
                         words.middle(spread(paced, "p50")), words.middle(spread(paced, "p99")), words.ranged(spread(paced, "cpu_us")),
                         words.ranged(spread(closed, "rate")), words.ranged(spread(closed, "cpu_us")),
                         words.middle(spread(closed, "balancer_us")), sum(sum(s["errors"].values()) for s in closed),
                         SEED[setup] if stores == "PostgreSQL and Redis" else ""])
        parts.append(words.table([stores, f"at {RATE:,}: answered a second", "errors", "p50 ms", "p99 ms", "CPU µs a request",
                                  "as many as go: a second", "CPU µs a request", "nginx's part", "errors", "the seed's"], rows))
    return "\n\n".join(parts)
