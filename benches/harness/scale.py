"""ARCHITECTURE's section on many hosts, made of results.json, simulation.json and the reckoning of `capacity`; and its plot."""

import json
import os

from . import capacity, processes, words
from .capacity import BUSY, FRAME, GIB, HEARING, MAX_CONNECTIONS, NIC, PAUSE, PROCESSORS

BEGIN = "<!-- scale: made from benches/results.json and benches/simulation.json by benches/run report -->"
END = "<!-- /scale -->"

PLOT = "simulation.svg"
FORMAT = 1

# Seconds for the simulation, with a build before it.
PATIENCE = 1800

# Clusters whose messages are counted: writes a second, and hosts.
WRITES, HOSTS = [100, 1_000, 10_000], [2, 10, 100]


def load(folder):
    """What benches/simulation.rs has printed."""
    simulated = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    if simulated["format"] != FORMAT:
        raise SystemExit(f"benches/run: simulation.json has format {simulated['format']}, not {FORMAT}: benches/run simulate makes it anew")
    return simulated


def simulate(layout, folder):
    """Runs the simulation, a few minutes of one processor, and keeps what it prints."""
    told = processes.run(["cargo", "bench", "--locked", "--quiet", "--bench", "simulation"], PATIENCE, cwd=layout.root)
    json.loads(told)
    fresh = folder / "simulation.new"
    fresh.write_text(told, encoding="utf-8")
    os.replace(fresh, folder / "simulation.json")


def problems(results, simulated):
    """What does not fit together, a sentence each."""
    cost = capacity.costs(results, simulated)
    return [] if cost is None else capacity.problems(simulated["plans"], cost) + contradictions(simulated["plans"], cost)


def contradictions(plans, cost):
    """What `breaking` says in words and the figures no longer do, a sentence each."""
    first, second, second_parted, whole, parted = (capacity.reckon(plan, capacity.usual(plan), cost) for plan in plans)
    worst = [capacity.limits(capacity.reckon_with(1, plan, capacity.usual(plan), cost))[0] for plan in plans]
    said = [
        ("at 100,000 nothing but the default of --max-connections breaks",
         worst[0][1] < 1 and first.connections / first.hosts / PROCESSORS > MAX_CONNECTIONS),
        ("at 100,000 one host does the work", first.by_work == 2 and first.by_network == 2),
        ("at 1 million Redis breaks first, and hosts are bound by the network", worst[1][0] == "Redis" and worst[1][1] > 1 and second.by_network > second.by_work),
        ("PostgreSQL's default of 100 connections is too few for 1 million", second.sessions > 100),
        ("at 1 million several masters are enough", second.enough and second.masters > 1),
        ("at 10 million the copies are more than any master can send", not whole.enough and whole.telling > 1),
        ("in groups all of it is small again", all(need.enough and need.masters <= 2 for need in (second_parted, parted))),
        ("balancers are as many as hosts", abs(whole.balancers / parted.hosts - 1) < 0.25),
    ]
    return [f"ARCHITECTURE says \"{sentence}\", and the figures no longer do: write `breaking` of benches/harness/scale.py anew"
            for sentence, holds in said if not holds]


def block(results, simulated):
    """What stands between the marks."""
    cost = capacity.costs(results, simulated)
    if cost is None:
        raise SystemExit("benches/run: the reckoning of many hosts needs saturation, database, idle, hosts and fanout: "
                         "benches/run --only NAME measures what is missing")
    plans = simulated["plans"]
    needs = {plan["name"]: capacity.reckon(plan, capacity.usual(plan), cost) for plan in plans}
    parts = [BEGIN, assumptions(results, simulated, cost), prices(cost), clusters(plans, needs, cost)]
    parts += breaking(simulated, plans, needs, cost)
    parts += [skews(plans, cost), "**What the caches answer.**", by_size(simulated), f"![What a worker's own cache answers](benches/plots/{PLOT})",
              by_time(simulated), by_writes(simulated), messages(cost), nine_machines(cost), END]
    return "\n\n".join(parts)


def percent(share):
    """A share without a part of a percent, unless it is less than that."""
    if share < 0.1 or 0.99 < share < 1:
        return words.percent(share)
    return f"{share:,.0%}".replace("%", " %")


def count(value):
    return words.number(value, 2)


def assumptions(results, simulated, cost):
    environment = results.experiments["saturation"]["environment"]
    a_write = round(simulated["plans"][0]["requests"] / capacity.usual(simulated["plans"][0])["writes"])
    return (
        f"Assumed: hosts of {PROCESSORS} virtual processors and {GIB} GiB for every role, the size of the seed's t3.xlarge but of a kind whose processors may be "
        f"busy for good, {percent(BUSY)} at most; {NIC / 1e9:.0f} Gbit/s each; 10,000,000 shoes, asked for by Zipf's law with an exponent of 1; one request of {a_write:,} a write, spread evenly over the "
        f"shoes; a client that keeps its connection and asks once in {PAUSE} seconds; a tenth of the hosts, one at least, to spare. The times are "
        f"those of {environment['processor'].split(',')[0]}, two processors that generator and databases shared, and are scaled linearly: "
        "that a third and a fourth processor, and a hundredth host, do as much as the first one is not measured, it is assumed. "
        "What a larger PostgreSQL does to locks, and how fast a replica replays, is not in it either.")


def prices(cost):
    rows = [
        ["a GET from the worker's own cache", f"{cost.hit:.1f} µs"],
        ["from Redis, and Redis' part", f"{cost.redis_hit:.1f} + {cost.redis_read:.1f} µs"],
        ["from PostgreSQL, lease and fill included, and PostgreSQL's part", f"{cost.miss_of_both:.1f} + {cost.database_read:.1f} µs"],
        ["a write, PostgreSQL's part and Redis'", f"{cost.write:.1f} + {cost.database_write:.1f} + {cost.redis_write:.1f} µs"],
        *([f"a write of another host for each worker that hears of it, at {rate:,} a second, and Redis' part", f"{cost.heard(rate):.1f} + {cost.redis_copy(rate):.1f} µs"]
          for rate in cost.heard_at),
        ["nginx's part of a request", f"{cost.balancer:.1f} µs"],
        ["an idle connection", f"{cost.idle_kib:.2f} KiB"],
        ["an answer: on the wire, in a worker, in Redis", f"{cost.response} + {FRAME}, {cost.kept:,.0f}, {cost.redis_kept:.0f} bytes"],
        ["an answer that has not changed (304)", f"{cost.unchanged} + {FRAME} bytes"],
    ]
    return words.table(["what it takes", "measured"], rows)


def clusters(plans, needs, cost):
    head = ["requests a second", *(plan["name"] for plan in plans)]
    cells = [capacity.usual(plan) for plan in plans]
    all_of = [needs[plan["name"]] for plan in plans]
    rows = [
        ["own cache of a worker", *(f"{cell['l1_bytes'] >> 20} MiB, {cell['l1_ttl_ms'] // 1000} s" for cell in cells)],
        ["it answers", *(percent(cell["l1_hits"]) for cell in cells)],
        ["Redis answers of the rest", *(percent(cell["redis_hits"]) for cell in cells)],
        ["**hosts**, one or a tenth to spare", *(f"**{need.hosts:,}**" for need in all_of)],
        ["… by work, by network", *(f"{need.by_work}, {need.by_network}" for need in all_of)],
        ["Mbit/s a host", *(count(need.bits / 1e6) for need in all_of)],
        ["**connections** of clients", *(f"{need.connections:,.0f}" for need in all_of)],
        ["a worker, and their memory a host", *(f"{count(need.connections / need.hosts / PROCESSORS)}, "
                                               f"{words.number(need.connections / need.hosts * cost.idle_kib / 1024**2, 2)} GiB" for need in all_of)],
        ["**Redis** masters, in all groups", *(f"**{plan['groups'] * need.masters}**" if need.enough else "**none are enough**" for plan, need in zip(plans, all_of))],
        ["of a processor each, for copies alone, GiB a group", *(f"{words.number(need.redis, 2)}, {words.number(need.telling, 2)}, {need.redis_gib:.1f}" for need in all_of)],
        ["SELECTs a second", *(count(need.selects) for need in all_of)],
        ["**replicas**, one a group to be promoted", *(f"**{need.replicas}**" for need in all_of)],
        ["writes a second, a group", *(count(cell["writes"]) for cell in cells)],
        ["of the primary, a group", *(percent(need.primary) for need in all_of)],
        ["of each worker, to hear of writes", *(percent(need.hearing) for need in all_of)],
        ["messages a second", *(count(need.copies) for need in all_of)],
        ["balancers like the seed's nginx", *(str(need.balancers) for need in all_of)],
        ["connections to a group's databases", *(f"{need.sessions:,}" for need in all_of)],
    ]
    return words.table(head, rows)


def breaking(simulated, plans, needs, cost):
    """What breaks first at each size, and what is done then: a paragraph each."""
    first, second, second_parted, whole, parted = (needs[plan["name"]] for plan in plans)
    _, of_second, of_second_parted, of_whole, of_parted = (capacity.usual(plan) for plan in plans)
    groups = [plan["groups"] for plan in plans]

    with_one = [capacity.reckon_with(1, plan, capacity.usual(plan), cost) for plan in plans]

    def order(need):
        return ", ".join(f"{name} {percent(used)}" for name, used in capacity.limits(need))

    def gib(need):
        return words.number(need.connections / need.hosts * cost.idle_kib / 1024**2, 2)

    edge = {(one["requests"], one["max_age"]): one for one in simulated["edge"]}
    hottest, second_long, minute = (edge[(1e7, age)] for age in (0, 1.0, 60.0))
    generations = simulated["generations"]
    told = whole.copies * cost.redis_copy(of_whole["writes"]) / 1e6
    return [
        f"How much of what it may take a group needs, if its Redis is one ({percent(BUSY)} of a processor, since it has one thread; {percent(BUSY)} of "
        f"the primary's processors; {percent(HEARING)} of a worker's time for hearing of writes):",
        words.table(["requests a second", "the worst first"], [[plan["name"], order(need)] for plan, need in zip(plans, with_one)]),

        f"**At 100,000 a second** one host does the work and the other is there so that it may die. What breaks first is no processor but a default: "
        f"{first.connections:,.0f} clients are {count(first.connections / first.hosts / PROCESSORS)} connections a worker, and `--max-connections` is {MAX_CONNECTIONS:,}. So it is raised, with the limits "
        f"that `canvas-cluster tune` names; they take {gib(first)} GiB of a host, and the kernel's sockets some more. Or a balancer ends them, and its own few are all that hosts see. "
        "The replica is there to be promoted; its processors are not needed.",

        f"**At 1 million** Redis breaks first: what the workers' own caches miss, {percent(1 - of_second['l1_hits'])} of the requests, and the messages are {words.number(with_one[1].redis, 2)} processors of work for its one thread. "
        f"So it becomes a Redis Cluster (`redis+cluster://`) of {second.masters} masters. They share the lookups, and not the messages: what one master is told all of them tell, each to every worker, so that the copies take "
        f"{words.number(second.telling, 2)} of a processor of each master, and each worker hears every write {second.masters} times, for {percent(second.hearing)} of its time (what the masters tell each other comes on top, and was not measured). "
        f"Hosts come next, and there the network before the processors: {second.by_network} hosts by {NIC / 1e9:.0f} Gbit/s, {second.by_work} by work. The database has next to nothing to do, since Redis answers "
        f"{percent(of_second['redis_hits'])} of what it is asked; but {second.sessions} sessions, one for each lane, are more than the 100 that PostgreSQL allows by default: PgBouncer (`--database-pooler`), or more of "
        f"them. {second.balancers} balancers that take requests apart as the seed's nginx does need one in front of them that does not (DNS, anycast, one of the fourth layer).",

        f"**At 10 million, one cluster breaks, whatever is added to it.** Each of {of_whole['writes']:,.0f} writes a second is told to each of {whole.hosts * PROCESSORS:,} workers: the copies alone are {words.number(whole.telling, 2)} processors of every master, so that "
        f"no number of masters is enough; the lookups, which they would share, are {words.number(with_one[3].redis - with_one[3].telling, 2)} more. And the table of "
        f"generations wears out: it has {generations:,} entries, so {of_whole['writes']:,.0f} writes a second end every kept answer after {generations / of_whole['writes']:.1f} s on average, whoever's it is. One subscription a host instead of one "
        f"a worker would divide the copies by {PROCESSORS}, several writes in a message what each costs, and a larger table is a constant: each moves the end and none takes it away, since every host goes on to hear of every write. They are not built.",

        "**So the shoes are parted** by `shoe_id` into groups, each a cluster of its own with its own `--database-url`, `--redis-url` and hosts, and the balancer chooses the group by the query "
        "(nginx: `split_clients $arg_shoe_id` or `hash $arg_shoe_id consistent`; HAProxy: `balance url_param shoe_id`). This server needs no change for that, since no host "
        "asks another one. A write names its shoe in its body, or a row by its id, which a balancer does not read: who writes, a shop's own programs, chooses the group by the same hash, and a row stays in its group. "
        f"In {groups[4]} groups, with `--l1-ttl 60s` and `--l1-bytes 512MiB` (a message ends what another host has written, so the longer life counts only for writes past every server), all of it is small again: "
        f"a worker's cache, which is that of a {groups[4]}th of the shoes, answers {percent(of_parted['l1_hits'])} instead of {percent(of_whole['l1_hits'])}; {of_parted['writes']:,.0f} writes a second in each group are "
        f"{percent(parted.hearing)} of a worker's time for hearing, and {generations / of_parted['writes']:.0f} s for an entry of the table; {words.number(parted.redis, 2)} of a processor is what a Redis needs. "
        f"At 1 million {groups[2]} groups do the same for {words.number(second_parted.redis, 2)} of a processor each, in the place of the cluster; the {second_parted.hosts} hosts instead of {second.hosts} are the spare one of each group. "
        f"What is left at 10 million is the network, and the {parted.balancers} balancers in front: as many machines as there are hosts, so they are the next thing to do without, by clients that know the groups' names.",

        f"**One shoe** is what parting does not help: the most popular has {percent(hottest['first'] / 1e7)} of all requests, {count(hottest['first'])} a second at 10 million, "
        f"{hottest['first'] / 1e7 * groups[4]:.1f} times what a group has to answer on average. Each worker of its group answers it from its own cache, so hosts are added to that group; or better, `--cache-max-age` and a network of caches: "
        f"{hottest['points']:.0f} points that may keep an answer for one second leave {count(second_long['first'])} a second of that shoe and {percent(second_long['left'])} of all requests, "
        f"for a minute {percent(minute['left'])}; the price is an answer as old as that. Without a max-age a cache asks each time, and the strong "
        f"ETag makes the answer {cost.unchanged} bytes instead of {cost.response}, which relieves the network and no processor.",
    ]


def skews(plans, cost):
    """Hosts and Redis at other exponents."""
    exponents = [cell["skew"] for cell in plans[0]["cells"]]
    rows = []
    for plan in plans:
        needs = [capacity.reckon(plan, cell, cost) for cell in plan["cells"]]
        rows.append([plan["name"], *(f"{need.hosts}, {plan['groups'] * need.masters if need.enough else '–'}, {need.replicas}" for need in needs)])
    return "\n\n".join([
        "Zipf's exponent is a guess, and decides a good deal. Hosts, masters of Redis (a dash where none are enough) and replicas, in all groups together, at others:",
        words.table(["requests a second", *(f"s = {exponent}" for exponent in exponents)], rows)])


def by_size(simulated):
    """Of the larger catalog: what the worker has, and Redis of the rest."""
    cells = simulated["by_size"]
    parts = []
    for catalog in sorted({cell["catalog"] for cell in cells}):
        mine = [cell for cell in cells if cell["catalog"] == catalog]
        sizes, exponents = (sorted({cell[key] for cell in mine}) for key in ("l1_bytes", "skew"))
        at = {(cell["l1_bytes"], cell["skew"]): cell for cell in mine}
        rows = [[f"{size >> 20} MiB", *(f"{percent(at[(size, exponent)]['l1_hits'])}, {percent(at[(size, exponent)]['redis_hits'])}" for exponent in exponents)]
                for size in sizes]
        parts.append(words.table([f"{catalog:,} shoes", *(f"s = {exponent}" for exponent in exponents)], rows))
    one = cells[0]
    return "\n\n".join([
        f"`benches/run simulate` asks the real `cache::l1` by a clock of its own, {one['rate']:,.0f} times a second, with `--l1-ttl` of {one['l1_ttl_ms'] // 1000} s and no writes, "
        f"until it has forgotten how it began. The second figure is what a Redis with room for all has of the misses of {one['workers']} such workers, reckoned "
        "(a test plays a small cluster through and compares).", *parts])


def by_time(simulated):
    cells = simulated["by_time"]
    times, sizes = (sorted({cell[key] for cell in cells}) for key in ("l1_ttl_ms", "l1_bytes"))
    at = {(cell["l1_ttl_ms"], cell["l1_bytes"]): percent(cell["l1_hits"]) for cell in cells}
    rows = [[f"{time // 1000} s", *(at[(time, size)] for size in sizes)] for time in times]
    return "\n\n".join([
        f"Time decides as much as room does: what a worker is asked for within `--l1-ttl` has an end. {cells[0]['catalog']:,} shoes, s = {cells[0]['skew']}:",
        words.table(["`--l1-ttl`", *(f"{size >> 20} MiB" for size in sizes)], rows)])


def by_writes(simulated):
    cells = simulated["by_writes"]
    writes, times = (sorted({cell[key] for cell in cells}) for key in ("writes", "l1_ttl_ms"))
    at = {(cell["writes"], cell["l1_ttl_ms"]): cell for cell in cells}
    rows = [[f"{rate:,.0f}", *(f"{percent(at[(rate, time)]['l1_hits'])}, {percent(at[(rate, time)]['redis_hits'])}" for time in times)] for rate in writes]
    return "\n\n".join([
        "Writes end what is kept: all that shares the shoe's entry of the table, and in Redis the shoe for as long as its tombstone stays. The same, "
        f"{cells[0]['l1_bytes'] >> 20} MiB, with writes that all hosts make together:",
        words.table(["writes a second", *(f"`--l1-ttl {time // 1000}s`" for time in times)], rows)])


def messages(cost):
    """The fan-out of invalidations."""
    rows = [[f"{writes:,}", percent(writes * cost.heard(writes) / 1e6),
             *(f"{count(writes * hosts * PROCESSORS)}, {percent(writes * hosts * PROCESSORS * cost.redis_copy(writes) / 1e6)}" for hosts in HOSTS)] for writes in WRITES]
    return "\n\n".join([
        f"**Invalidation's fan-out.** Each write is a message to each of {PROCESSORS} workers of each host. What of its processor a worker spends on hearing; and the copies that Redis sends a second, "
        "with what of its one processor that takes. Where many come, several share a wake-up and each costs less:",
        words.table(["writes a second", "a worker", *(f"{hosts} hosts" for hosts in HOSTS)], rows)])


def nine_machines(cost):
    """The seed's final run beside the same reckoning."""
    requests = 10_000
    used = {"Node": requests * cost.node / 1e6, "ours": requests * cost.redis_hit / 1e6, "balancer": requests * cost.balancer / 1e6}
    rows = [
        ["hosts", "8 t2.micro, a virtual processor each", f"{capacity.with_spare(used['ours'] / (PROCESSORS * BUSY))}, one of them to spare"],
        ["requests a second of each", f"{requests // 8:,}", f"{requests:,} of one, if the other has died"],
        ["processors busy with them", f"{used['Node']:.2f}, by the rebuilt Node cluster of the report", f"{used['ours']:.2f}"],
        ["balancer", "nginx on a t3.medium", f"the same: {used['balancer']:.2f} of a processor"],
        ["Redis", "8, one on each host", f"1: {requests * cost.redis_read / 1e6:.2f} of a processor"],
    ]
    return "\n\n".join([
        f"**Beside the seed's nine machines**, which reached {requests:,} requests a second: the same reckoning, all requests answered by Redis and none from a worker's own cache, as the seed had it.",
        words.table(["", "the seed", "canvas-cluster"], rows),
        "It is processor time of the report's machine on both sides; a t2.micro's is less, and it may use a tenth of it for good (AWS' baseline), so eight were not too many. The report's "
        "[final run](benches/REPORT.md#the-seeds-final-run) is that measured and not reckoned: eight hosts behind nginx and one host, on one machine."])


def drawings(simulated):
    """The plot of what a worker's own cache answers."""
    return [(PLOT, lambda figure: draw(figure, simulated))]


def draw(figure, simulated):
    axes = figure.subplots()
    cells = simulated["by_size"]
    for catalog, style in zip(sorted({cell["catalog"] for cell in cells}), ("--", "-")):
        for exponent, colour in zip(sorted({cell["skew"] for cell in cells}), ("#777777", "#3465a4", "#3c873a", "#c8102e")):
            points = [(cell["l1_bytes"] >> 20, cell["l1_hits"] * 100) for cell in cells if cell["catalog"] == catalog and cell["skew"] == exponent]
            axes.plot(*zip(*sorted(points)), style, marker="o", markersize=4, color=colour, label=f"s = {exponent}, {catalog:,} shoes")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({cell["l1_bytes"] >> 20 for cell in cells}), [str(mib) for mib in sorted({cell["l1_bytes"] >> 20 for cell in cells})])
    axes.set_ylim(0, 100)
    axes.set_xlabel("MiB of a worker's own cache")
    axes.set_ylabel("% of requests that it answers")
    axes.grid(True, alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)


def with_block(results, simulated, text):
    """ARCHITECTURE with the block made anew."""
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin] + block(results, simulated) + text[end:]
