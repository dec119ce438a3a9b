"""How much of everything a cluster needs, reckoned from what one host was measured to take and from what caches were simulated to
answer. Pure arithmetic: the same figures make the same numbers. Times are microseconds of CPU time."""

import dataclasses
import math

from . import stats
from .experiments import fanout

# The host that is assumed, for each role: the seed's t3.xlarge, four virtual processors and 16 GiB. One of ours is taken for one of
# those that were measured.
PROCESSORS, GIB = 4, 16

# How busy a processor may be for good, so that what queues stays short and a neighbour's part can be taken over.
BUSY = 0.6

# What of its processors a worker may spend on hearing of others' writes before that is called broken.
HEARING = 0.1

# Bits a second that a host may send for good.
NIC = 1e9

# Seconds from one request of a client's connection to its next.
PAUSE = 10

# GiB of answers that one Redis is trusted with: of the host's, with room for a fork.
REDIS_GIB = 10

# Masters of a Redis Cluster among which keys can be spread: its buckets (src/cache/shards.rs).
MOST_MASTERS = 64

# Bytes of Ethernet, IP and TCP (with time stamps) around each segment, and of content in a full one.
FRAME, SEGMENT = 66, 1448

# The default of --max-connections, of one worker.
MAX_CONNECTIONS = 20_000

# The default of --lanes, each with a connection to the database.
LANES = 4


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured. Of the server: a GET from its own cache, from Redis and from PostgreSQL, a POST, a message that a worker
    hears; of the stores: a read, a write and a copy of a message; of nginx: a request that it passes on."""

    hit: float
    redis_hit: float
    miss: float
    write: float
    redis_read: float
    redis_write: float
    database_read: float
    database_write: float
    balancer: float
    # A GET of the seed's stack, rebuilt, from Redis.
    node: float
    # KiB of an idle connection.
    idle_kib: float
    # Bytes.
    response: int
    unchanged: int
    kept: float
    redis_kept: float
    # By messages a second.
    heard_at: dict
    copy_at: dict

    def heard(self, writes):
        return between(self.heard_at, writes)

    def redis_copy(self, writes):
        return between(self.copy_at, writes)

    @property
    def miss_of_both(self):
        """A GET that Redis lacks, too: Redis is asked, then the lease is taken, PostgreSQL asked and Redis filled."""
        return self.miss + 3 * (self.redis_hit - self.hit)


def between(measured, rate):
    """A cost at a rate between those that were measured, on a line over the logarithm; beyond them, that of the last one."""
    rates = sorted(measured)
    rate = min(max(rate, rates[0]), rates[-1])
    above = next(one for one in rates if one >= rate)
    below = max((one for one in rates if one <= rate), default=above)
    part = 0 if above == below else math.log(rate / below) / math.log(above / below)
    return measured[below] + part * (measured[above] - measured[below])


def costs(results, simulated):
    """The medians of the experiments; `None` if one of them was not done."""
    def samples(name, **wanted):
        return [s for s in results.experiments[name]["data"]["samples"] if all(s.get(key) == value for key, value in wanted.items())]

    def median(key, name, **wanted):
        return stats.spread([s[key] for s in samples(name, **wanted)])["median"]

    if any(results.experiments.get(name, {}).get("status") != "done" for name in ("saturation", "database", "idle", "hosts", "fanout")):
        return None
    messages = {rate: fanout.costs(results.experiments["fanout"]["data"], rate) for rate in fanout.RATES}
    stored = {kind: median("store_us", "saturation", server=kind, method="POST") for kind in ("ours", "ours-redis")}
    size = simulated["bytes"]
    return Costs(
        hit=median("cpu_us", "saturation", server="ours-redis", method="GET"),
        redis_hit=median("cpu_us", "saturation", server="ours-redis-only", method="GET"),
        miss=median("cpu_us", "database", server="ours-uncached", method="GET"),
        write=median("cpu_us", "saturation", server="ours-redis", method="POST"),
        redis_read=median("store_us", "saturation", server="ours-redis-only", method="GET"),
        redis_write=stored["ours-redis"] - stored["ours"],
        database_read=median("store_us", "database", server="ours-uncached", method="GET"),
        database_write=stored["ours"],
        balancer=median("balancer_us", "hosts", setup="eight hosts behind nginx", stores="PostgreSQL and Redis", pace="closed"),
        node=median("cpu_us", "saturation", server="node-redis", method="GET"),
        idle_kib=median("kib", "idle", server="ours"),
        response=size["response"], unchanged=size["unchanged"], kept=size["kept"],
        redis_kept=fanout.kept_bytes(results.experiments["fanout"]["data"])["median"],
        heard_at={rate: of["heard"]["median"] for rate, of in messages.items()},
        # A difference of two, which noise may turn.
        copy_at={rate: max(0.0, of["copy"]["median"]) for rate, of in messages.items()})


@dataclasses.dataclass(frozen=True)
class Need:
    """What a cluster needs. Counts are of all groups together; shares are of one group."""

    # The more of the two.
    hosts: int
    by_work: int
    by_network: int
    # Of a processor of each worker, for hearing of writes.
    hearing: float
    # Copies of messages that all Redis send a second, together.
    copies: float
    # Masters of a group's Redis, and whether that many are enough; how much of one processor each needs, since it has one thread,
    # and how much of that goes into copies of messages, which more masters would not share.
    masters: int
    enough: bool
    redis: float
    telling: float
    redis_gib: float
    # SELECTs a second of all groups together; and the replicas, with which one database server more than is needed is there.
    selects: float
    replicas: int
    # Of the processors of a group's primary.
    primary: float
    balancers: int
    # Of the clients, wherever they end.
    connections: float
    # Bits a second of one host.
    bits: float
    # Connections to a group's database servers, if each host opens what it may.
    sessions: int


def with_spare(hosts):
    """Whole ones, and a tenth of them more, one at least, which may be away."""
    return max(math.ceil(hosts) + 1, math.ceil(hosts * 1.1))


def reckon(plan, cell, cost):
    """What a plan needs when its caches answer as this cell of the simulation says, with as few masters of Redis as will do; with one
    where no number does."""
    needs = (reckon_with(masters, plan, cell, cost) for masters in range(1, MOST_MASTERS + 1))
    return next((need for need in needs if need.enough), None) or reckon_with(1, plan, cell, cost)


def reckon_with(masters, plan, cell, cost):
    """The same with so many masters of Redis in each group."""
    groups = plan["groups"]
    # All of these are of one group.
    requests, writes = plan["requests"] / groups, cell["writes"]
    reads = requests - writes
    asks_redis = reads * (1 - cell["l1_hits"])
    selects = asks_redis * (1 - cell["redis_hits"])
    # A cluster passes each message on to all masters, and a worker subscribes at each.
    hearing = masters * writes * cost.heard(masters * writes) / 1e6
    used = ((reads - asks_redis) * cost.hit + (asks_redis - selects) * cost.redis_hit + selects * cost.miss_of_both
            + writes * cost.write) / 1e6
    # Who hears too much has nothing left for requests.
    left = PROCESSORS * max(BUSY - hearing, 0.01)
    wire = cost.response + FRAME * math.ceil(cost.response / SEGMENT)
    by_work, by_network = with_spare(used / left), with_spare(reads * wire * 8 / NIC)
    hosts = max(by_work, by_network)
    telling = writes * hosts * PROCESSORS * cost.redis_copy(writes) / 1e6
    # Beside its lookup, a miss takes a lease and fills.
    redis = telling + ((asks_redis + 2 * selects) * cost.redis_read + writes * cost.redis_write) / 1e6 / masters
    gib = cell["catalog"] * cost.redis_kept / 2**30
    # A read that fills Redis asks the primary how far it is, too: at most what a read costs.
    database = (writes * cost.database_write + selects * cost.database_read) / 1e6
    return Need(
        hosts=groups * hosts, by_work=groups * by_work, by_network=groups * by_network, hearing=hearing,
        copies=groups * masters * writes * hosts * PROCESSORS, masters=masters, enough=redis <= BUSY and gib <= masters * REDIS_GIB,
        redis=redis, telling=telling, redis_gib=gib, selects=groups * selects,
        replicas=groups * max(1, math.ceil(database / (PROCESSORS * BUSY))), primary=database / PROCESSORS,
        balancers=with_spare(plan["requests"] * cost.balancer / 1e6 / (PROCESSORS * BUSY)),
        connections=plan["requests"] * PAUSE, bits=reads * wire * 8 / hosts, sessions=hosts * PROCESSORS * LANES)


def limits(need):
    """What one group has only one of, or can't have more of: its name, and how much of what it may take it takes; the worst first."""
    found = [
        ("Redis", need.redis / BUSY),
        ("the primary", need.primary / BUSY),
        ("hearing of writes", need.hearing / HEARING),
    ]
    return sorted(found, key=lambda pair: -pair[1])


def usual(plan):
    """The cell of a plan that its host count was chosen for."""
    return next(cell for cell in plan["cells"] if cell["skew"] == 1.0)


def problems(plans, cost):
    """Plans whose hosts are not those that come out: their workers were simulated at another rate, a sentence each."""
    found = []
    for plan in plans:
        hosts = reckon(plan, usual(plan), cost).hosts
        if abs(hosts - plan["hosts"]) > max(1, 0.1 * hosts):
            found.append(f"{plan['name']} was simulated with {plan['hosts']} hosts and needs {hosts}: write that into PLANS of "
                         "benches/simulation.rs, then benches/run simulate")
    return found
