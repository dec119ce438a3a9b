"""Latency while workers are replaced without a pause, beside a quiet time: by reloads, upgrades, more and fewer workers; nginx reloads
beside it."""

import concurrent.futures
import itertools
import os
import random
import signal
import time

from .. import stats, words
from ..bench import group
from ..field import label

NAME = "reload"
TITLE = "Latency while workers are replaced"

# Requests a second, of clients that keep their connections and of those that open one for each request.
KEPT = 800
FRESH = 200

CLIENTS = {"kept": "keep-alive", "fresh": "a connection each"}

# What is told to the master over and over, and the least and most seconds between two signals.
CHANGES = {
    "quiet": None,
    "reloading": ([signal.SIGHUP], (0.25, 0.25)),
    "storm of reloads": ([signal.SIGHUP], (0, 0.025)),
    "upgrading": ([signal.SIGUSR2], (0.25, 0.25)),
    "scaling": ([signal.SIGTTIN, signal.SIGTTOU], (0.25, 0.25)),
}

STATES = {"ours": list(CHANGES), "nginx": ["quiet", "reloading"]}


def changing(server, change):
    """Has the load `begin` with changing the server until it ends."""
    signals, apart = change

    def begin(generator):
        for which in itertools.cycle(signals):
            if generator.ended():
                break
            os.kill(server.process.pid, which)
            time.sleep(random.uniform(*apart))
    return begin


def both(bench, seconds, change):
    """Both clients at once; the answer is that of the one that keeps its connections, and of the other one in `fresh`."""
    def load(server):
        more = {"begin": changing(server, change)} if change else {}
        # Both read the same list, which is written at its first use.
        bench.generators.reads(server.base, bench.shoes)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fresh = pool.submit(bench.paced(FRESH, seconds, keep_alive=False), server)
            kept = bench.paced(KEPT, seconds, **more)(server)
            return {**kept, "fresh": fresh.result()}
    return load


def run(bench):
    seconds = bench.pick(6, 2)
    servers = [bench.field.start(kind, bench.cores) for kind in STATES]
    bench.warm_up(*servers)
    samples = []
    commands = []
    for number in bench.rounds():
        for server in servers:
            for state in STATES[server.kind]:
                both_at_once = bench.measure(server, both(bench, seconds, CHANGES[state]), state=state, round=number)
                samples += each(both_at_once)
                commands = commands or [both_at_once["command"], both_at_once["fresh"]["command"]]
                if server.process.ended():
                    raise RuntimeError(f"{server.label} did not survive: {server.process.tail()}")
                # The last old workers leave before the next time begins.
                time.sleep(2)
    for server in servers:
        server.stop()
    return {"samples": samples, "command": " & ".join(commands)}


def each(both_at_once):
    """A sample for each of the two clients. What the server took for their answers is not told: nobody knows for which."""
    about = {key: both_at_once[key] for key in ("server", "workers", "state", "round", "seen")}
    found = {"kept": both_at_once, "fresh": both_at_once["fresh"]}
    keep = ("asked", "sent", "ok", "errors", "rate", "p50", "p90", "p99", "p999", "max")
    return [{**about, "client": client, **{key: result[key] for key in keep}} for client, result in found.items()]


def ratio(data, kind, client, state):
    """p99 while the server changes to p99 while it is quiet, round by round."""
    quiet, changes = (
        [s["p99"] for s in data["samples"] if (s["server"], s["client"], s["state"]) == (kind, client, which)] for which in ("quiet", state))
    return stats.ratios(changes, quiet)


def p99(data, state, kind="ours", client="kept"):
    return stats.spread([s["p99"] for s in data["samples"] if (s["server"], s["client"], s["state"]) == (kind, client, state)])


def lost(data, kind="ours"):
    return sum(sum(s["errors"].values()) for s in data["samples"] if s["server"] == kind)


def said(signals, apart):
    """What is told, and how often, in words."""
    times = " to ".join(f"{seconds * 1000:.0f}" for seconds in dict.fromkeys(apart))
    return f"{' and '.join(which.name for which in signals)} every {times} ms"


def text(data):
    rows = []
    for (kind, client, state), mine in group(data["samples"], "server", "client", "state").items():
        spread = {key: stats.spread([s[key] for s in mine]) for key in ("p50", "p99", "max")}
        times = "" if state == "quiet" else words.ranged(ratio(data, kind, client, state))
        rows.append([f"{label(kind)}, {CLIENTS[client]}, {state}", words.ranged(spread["p50"]), words.ranged(spread["p99"]), times,
                     words.middle(spread["max"]), sum(s["ok"] for s in mine), sum(sum(s["errors"].values()) for s in mine)])
    rows.sort(key=lambda row: row[0].rsplit(", ", 1)[0])
    told = "; ".join(f"*{state}*: {said(*change)}" for state, change in CHANGES.items() if change)
    return "\n\n".join([
        f"{KEPT} GETs a second with keep-alive and, at once, {FRESH} with a connection for each, while the master is told to replace its "
        f"workers over and over, by turns with as long a quiet time ({told}). *Times quiet* is p99 to that of the quiet time, round by round.",
        words.table(["server, client", "p50 ms", "p99 ms", "times quiet", "slowest ms", "answered", "failed"], rows)])
