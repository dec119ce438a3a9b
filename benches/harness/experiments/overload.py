"""More than a server can answer, up to five times as much: how much of it is still answered, and how late."""

from .. import words
from ..bench import drop_words, group, spread
from ..field import label
from ..plots import lines

NAME = "overload"
TITLE = "Overload"

KINDS = ["ours-uncached", "actix", "node"]
FACTORS, QUICK_FACTORS = [0.5, 1, 2, 3, 5], [1, 2, 5]

# Enough clients for what waits at five times the capacity.
CONNECTIONS = 2000


# Seconds that the database takes for a row of a GET.
A_ROW = 0.0025


def run(bench):
    seconds = bench.pick(2, 1)
    databases = {"GET": bench.field.slow_database(A_ROW), "POST": "canvas"}
    samples, capacities, servers = [], {}, {}
    for method, database in databases.items():
        servers[method] = [bench.field.start(kind, bench.cores, database=database) for kind in KINDS]
        bench.warm_up(*servers[method])
        for server in servers[method]:
            capacities[f"{server.kind} {method}"] = bench.capacity(server, method, bench.pick(3, 1))
    for number in bench.rounds(quick_most=1):
        for method in databases:
            for factor in bench.pick(FACTORS, QUICK_FACTORS):
                for server in servers[method]:
                    rate = max(1, round(capacities[f"{server.kind} {method}"] * factor))
                    load = bench.paced(rate, seconds, method, connections=CONNECTIONS)
                    samples.append(bench.measure(server, load, method=method, factor=factor, asked_rate=rate, round=number))
        bench.say(f"round {number + 1}")
    for server in (server for group_ in servers.values() for server in group_):
        server.stop()
    return {"samples": drop_words(samples), "capacities": capacities, "command": samples[0]["command"]}


def text(data):
    parts = [f"A constant rate of so many times what the server answers at most when asked in a closed loop (its capacity), from "
             f"{CONNECTIONS:,} connections, without a cache. GETs come from a database that waits {A_ROW * 1000:g} ms for each row in each "
             "of its connections, so that it is what there is not enough of, and not the processors, which the generator shares; what each can do "
             "is then a matter of how many connections it comes with (this server: 4 a worker), and only what becomes of it counts. POSTs go "
             "to one that is as fast as it can be. *Goodput* is answers of 2xx a second; latencies count from when a request "
             "should have been sent, apart for what was answered and for what was refused; so they hold what the generator itself "
             "was late. What it could not send, since all connections waited for answers or the processors had no time for it, "
             "is in *not sent*."]
    for method in ("GET", "POST"):
        rows = []
        for (kind, factor), mine in group([s for s in data["samples"] if s["method"] == method], "server", "factor").items():
            asked = sum(s["asked"] for s in mine)
            sent = sum(s["sent"] for s in mine)
            rows.append([label(kind), f"{factor:g}", words.number(mine[0]["asked_rate"]), words.ranged(spread(mine, "rate")),
                         words.middle(spread(mine, "ok_p50")), words.middle(spread(mine, "ok_p99")),
                         words.middle(spread(mine, "refused_p50")), words.middle(spread(mine, "refused_p99")),
                         words.percent(sum(sum(s["errors"].values()) for s in mine) / max(1, sent)),
                         words.percent(max(0, asked - sent) / asked)])
        rows.sort(key=lambda row: [label(kind) for kind in KINDS].index(row[0]))
        parts.append(words.table(
            [method, "times capacity", "asked a second", "goodput", "p50 ms", "p99 ms", "refused: p50 ms", "p99 ms",
             "refused or failed", "not sent"], rows))
    return "\n\n".join(parts)


def plots(data):
    def draw(figure):
        series = {}
        for (kind, factor), mine in group([s for s in data["samples"] if s["method"] == "GET"], "server", "factor").items():
            capacity = data["capacities"][f"{kind} GET"]
            median = spread(mine, "rate")["median"]
            series.setdefault(kind, []).append((factor, median / capacity))
        lines(figure, series, "asked, in times of the capacity", "GETs answered, in times of the capacity", log=False)
    return [("overload.svg", draw)]
