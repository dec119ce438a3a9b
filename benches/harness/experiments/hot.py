"""The hot GET against the floor: nginx that returns the same bytes as a constant, one worker each on one core, keep-alive, the
same generator with the same requests on the other cores. CPU time hardly moves when the machine is busy; throughput does."""

from .. import stats, words
from ..bench import drop_words, group, spread
from ..field import label

NAME = "hot"
TITLE = "A hot GET against nginx's constant"

KINDS = ["ours-sqlite", "ours-sqlite-unfiltered", "nginx", "actix-redis", "node-redis"]


def run(bench):
    seconds = bench.pick(2, 1)
    # The last core for servers: the first is where most interrupts are.
    cores = set(range(bench.cores))
    server_cpus = {bench.cores - 1} if bench.cores > 1 else cores
    generator_cpus = cores - server_cpus or cores
    samples = []
    servers = [bench.field.start(kind, 1, cpus=server_cpus) for kind in KINDS]
    load = bench.hot(seconds, cpus=generator_cpus)
    for server in servers:
        load(server)
    for number in bench.rounds(most=10):
        for server in servers:
            samples.append(bench.measure(server, load, round=number))
    for server in servers:
        server.stop()
    return {"samples": drop_words(samples), "command": samples[0]["command"]}


def ratio(data, peer="nginx"):
    """Our CPU time a request to a peer's, round by round."""
    by = group(data["samples"], "server")
    cpu = {kind: [s["cpu_us"] for s in by[(kind,)]] for kind in KINDS}
    return stats.ratios(cpu["ours-sqlite"], cpu[peer])


def text(data):
    by = group(data["samples"], "server")
    floor = [s["cpu_us"] for s in by[("nginx",)]]
    rows = []
    for kind in KINDS:
        mine = by[(kind,)]
        rows.append([label(kind), words.ranged(spread(mine, "cpu_us")),
                     words.ranged(stats.ratios([s["cpu_us"] for s in mine], floor)), words.ranged(spread(mine, "rate"))])
    return "\n\n".join([
        "GETs of 1,000 shoes, evenly, over 64 keep-alive connections, from memory: this server's from its own cache, nginx's a constant of "
        "its configuration with the same fields and the content of one shoe, actix-web's and Node's from Redis. One worker each, on one core. The filter of "
        "system calls, which nginx has not, is on by default; a row without it tells what it costs.",
        words.table(["server", "CPU µs a request", "to nginx's", "requests a second"], rows)])
