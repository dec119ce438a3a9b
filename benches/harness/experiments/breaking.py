"""Where each server breaks: the highest constant rate that it answers with at most 1 % of errors and a p99 of at most a second."""

from .. import stats, words
from ..bench import drop_words, group, spread
from ..field import label
from ..generators import error_share
from ..plots import bars

NAME = "breaking"
TITLE = "Where they break"

FIELDS = [("GET", ["ours-uncached", "actix", "node"]), ("GET", ["ours", "ours-redis", "actix-redis", "node-redis"]),
          ("POST", ["ours", "actix", "node"]), ("POST", ["ours-redis", "actix-redis", "node-redis"])]

# What "broken" means: more than this share of errors, …
ERRORS = 0.01

# … or a p99 over this many milliseconds.
SLOW = 1000

# The steps between rates, in a whole run and in a quick one.
STEP, QUICK_STEP = 1.1, 1.25

# The most steps in one direction.
STEPS, QUICK_STEPS = 12, 3

# How long a rate must hold: what waits longer than SLOW must have the time to.
SECONDS = 1

# No rate is tried above it: one generator on a shared machine can't keep it.
HIGHEST = 200_000


def holds(sample):
    return error_share(sample) <= ERRORS and sample["p99"] <= SLOW


def search(bench, server, method, start, samples, number, step, steps):
    """The highest rate that holds, looked for by so many steps at most up or down from `start`."""
    def tried(rate):
        sample = bench.measure(server, bench.paced(round(rate), SECONDS, method), method=method, asked_rate=round(rate), round=number)
        samples.append({**sample, "holds": holds(sample)})
        return holds(sample)

    rate = min(start, HIGHEST)
    if tried(rate):
        best = rate
        for _ in range(steps):
            rate *= step
            if rate > HIGHEST or not tried(rate):
                break
            best = rate
        return best
    for _ in range(steps):
        rate /= step
        if tried(rate):
            return rate
    return 0


def run(bench):
    step = bench.pick(STEP, QUICK_STEP)
    samples, found = [], []

    def data():
        return {"samples": drop_words(samples), "found": found, "step": step, "command": samples[0]["command"]}

    for at, (method, kinds) in enumerate(FIELDS):
        servers = [bench.field.start(kind, bench.cores) for kind in kinds]
        bench.warm_up(*servers)
        # A closed loop tells about where it will be.
        starts = {server.kind: bench.capacity(server, method) * 0.8 for server in servers}
        for number in bench.rounds(quick_most=1, parts=len(FIELDS) - at):
            for server in servers:
                # The first round walks far, the others begin where the one before has ended.
                steps = bench.pick(STEPS, QUICK_STEPS) if number == 0 else 3
                best = search(bench, server, method, starts[server.kind], samples, number, step, steps)
                if best:
                    starts[server.kind] = best
                found.append({"server": server.kind, "method": method, "round": number, "rate": round(best)})
        for server in servers:
            server.stop()
        bench.say(f"{method} of {', '.join(kinds)}")
        bench.keep(data())
    return data()


def breaks_at(data, kind, method):
    """The spread of the highest rates that held."""
    return stats.spread([f["rate"] for f in data["found"] if f["server"] == kind and f["method"] == method])


def text(data):
    parts = [f"The highest constant rate that is answered with at most {ERRORS:.0%} of errors and within a second by 99 of 100 (open loop, "
             f"at most 256 requests waiting), with one worker a core; found in steps of {data.get('step', STEP) - 1:.0%}, anew in each round. The generator "
             "shares the processors: the fastest servers are held back by it."]
    for method in ("GET", "POST"):
        rows = []
        for (kind,), mine in group([f for f in data["found"] if f["method"] == method], "server").items():
            best = breaks_at(data, kind, method)
            held = [s for s in data["samples"] if s["server"] == kind and s["method"] == method and s["holds"]]
            rows.append([label(kind), words.ranged(best), words.middle(spread(held, "p50")), words.middle(spread(held, "p99"))])
        parts.append(words.table([method, "a second", "p50 ms where it held", "p99 ms where it held"], rows))
    return "\n\n".join(parts)


def plots(data):
    kinds = [kind for method, kinds in FIELDS if method == "GET" for kind in kinds]
    return [("breaking.svg", lambda figure: bars(
        figure, [(kind, breaks_at(data, kind, "GET")) for kind in kinds if breaks_at(data, kind, "GET")],
        "GETs a second before it breaks, one worker a core"))]
