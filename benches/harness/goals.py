"""What was to be reached, and what was: the project's own bar, held to the figures of the report. A goal that is missed is told as such."""

from . import stats, words
from .bench import group
from .experiments import database, hot, idle, overload, reload, saturation, scaling, seeding


def rows(results):
    """A goal a row: what, the bar, what was measured, whether that reaches it. Only of experiments that were done."""
    found = []
    for experiment, goals in GOALS:
        entry = results.experiments.get(experiment.NAME)
        if entry and entry["status"] == "done":
            for what, least, most, measured in goals:
                value = measured(entry["data"])
                if value:
                    bar = f"at least {least}" if least is not None else f"at most {most}"
                    middle = value["median"]
                    reached = middle >= least if least is not None else middle <= most
                    found.append([what, bar, words.ranged(value), "reached" if reached else "**missed**"])
    return found


HEAD = ["goal", "bar", "measured", ""]


def _of(data, key, server, **more):
    """The values of a server's samples, round by round."""
    return [s[key] for s in data["samples"] if s["server"] == server and all(s[name] == value for name, value in more.items())]


def _ratio(key, ours, theirs, **more):
    return lambda data: stats.ratios(_of(data, key, ours, **more), _of(data, key, theirs, **more))


def _value(key, server, **more):
    return lambda data: stats.spread(_of(data, key, server, **more))


def _inverse(key, ours, theirs, **more):
    return lambda data: stats.ratios(_of(data, key, theirs, **more), _of(data, key, ours, **more))


def _four_to_one(data):
    cpu = {workers: [s["cpu_us"] for s in mine] for (workers,), mine in group(data["samples"], "workers").items()}
    return stats.ratios(cpu[4], cpu[1])


def _goodput(method):
    """At five times the capacity, to the best of all rates in the same round."""
    def measured(data):
        mine = [s for s in data["samples"] if s["server"] == "ours-uncached" and s["method"] == method]
        best = {number: max(s["rate"] for s in same) for (number,), same in group(mine, "round").items()}
        return stats.spread([s["rate"] / best[s["round"]] for s in mine if s["factor"] == 5])
    return measured


def _replacing(client, state):
    return lambda data: reload.ratio(data, "ours", client, state)


def _memory(data):
    return stats.spread([s["peak"] / 1024 / 1024 for s in data["samples"] if s["what"] == "seed"])


GOALS = [
    (hot, [
        ("CPU time of a hot GET, to nginx's of a constant", None, 1.0, _ratio("cpu_us", "ours-sqlite", "nginx")),
        ("CPU time of a hot GET: how many times Node's with Redis", 20, None, _inverse("cpu_us", "ours-sqlite", "node-redis"))]),
    (database, [
        ("GETs from PostgreSQL without a cache, to pgbench", 1.0, None, _ratio("rate", "ours-uncached", "pgbench", method="GET")),
        ("GETs from PostgreSQL without a cache, to Node's", 6, None, _ratio("rate", "ours-uncached", "node", method="GET")),
        ("CPU µs of such a GET", None, 20, _value("cpu_us", "ours-uncached", method="GET")),
        ("POSTs to PostgreSQL, to pgbench", 0.9, None, _ratio("rate", "ours-uncached", "pgbench", method="POST"))]),
    (saturation, [
        ("GETs from Redis without the worker's own cache, to Node's", 8, None, _ratio("rate", "ours-redis-only", "node-redis", method="GET"))]),
    (scaling, [("CPU time of a hot GET with four workers, to that with one", None, 1.05, _four_to_one)]),
    (overload, [
        ("GETs answered at five times the capacity, to the best rate", 0.9, None, _goodput("GET")),
        ("POSTs answered at five times the capacity, to the best rate", 0.9, None, _goodput("POST")),
        ("p99 ms of GETs that are answered at five times the capacity", None, 100, _value("ok_p99", "ours-uncached", method="GET", factor=5))]),
    (reload, [(f"p99 while {state}, {reload.CLIENTS[client]}, to the quiet one", None, 3, _replacing(client, state))
              for state in reload.STATES["ours"] if state != "quiet" for client in reload.CLIENTS]),
    (idle, [("KiB of an idle connection", None, 8, _value("kib", "ours"))]),
    (seeding, [
        ("time of seeding, to \\copy of a ready file", None, 1.2, seeding.ratio),
        ("MiB of memory for seeding", None, 200, _memory)]),
]
