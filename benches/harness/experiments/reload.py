"""Latency while the server is reloaded four times a second, beside a quiet time; nginx reloads beside it."""

import concurrent.futures
import os
import signal
import time

from .. import stats, words
from ..bench import group
from ..field import label

NAME = "reload"
TITLE = "Latency during reloads"

KINDS = ["ours", "nginx"]

# Requests a second, of clients that keep their connections and of those that open one for each request.
KEPT = 800
FRESH = 200

CLIENTS = {"kept": "keep-alive", "fresh": "a connection each"}

# Seconds between two HUPs.
PAUSE = 0.25


def hup(server):
    """Has the load `begin` with reloading the server until it ends."""
    def begin(generator):
        while not generator.ended():
            os.kill(server.process.pid, signal.SIGHUP)
            time.sleep(PAUSE)
    return begin


def both(bench, seconds, reloading):
    """Both clients at once; the answer is that of the one that keeps its connections, and of the other one in `fresh`."""
    def load(server):
        more = {"begin": hup(server)} if reloading else {}
        # Both read the same list, which is written at its first use.
        bench.generators.reads(server.base, bench.shoes)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fresh = pool.submit(bench.paced(FRESH, seconds, keep_alive=False), server)
            kept = bench.paced(KEPT, seconds, **more)(server)
            return {**kept, "fresh": fresh.result()}
    return load


def run(bench):
    seconds = bench.pick(8, 3)
    servers = [bench.field.start(kind, bench.cores) for kind in KINDS]
    bench.warm_up(*servers)
    samples = []
    commands = []
    for number in bench.rounds():
        for server in servers:
            for state in ("quiet", "reloading"):
                both_at_once = bench.measure(server, both(bench, seconds, state == "reloading"), state=state, round=number)
                samples += apart(both_at_once)
                commands = commands or [both_at_once["command"], both_at_once["fresh"]["command"]]
            if server.process.ended():
                raise RuntimeError(f"{server.label} did not survive: {server.process.tail()}")
            # The last reload's old workers leave before the next quiet time.
            time.sleep(2)
    for server in servers:
        server.stop()
    return {"samples": samples, "command": " & ".join(commands)}


def apart(both_at_once):
    """A sample for each of the two clients. What the server took for their answers is not told: nobody knows for which."""
    about = {key: both_at_once[key] for key in ("server", "workers", "state", "round", "seen")}
    found = {"kept": both_at_once, "fresh": both_at_once["fresh"]}
    keep = ("asked", "sent", "ok", "errors", "rate", "p50", "p90", "p99", "p999", "max")
    return [{**about, "client": client, **{key: result[key] for key in keep}} for client, result in found.items()]


def ratio(data, kind="ours", client="kept"):
    """p99 while reloading to p99 while quiet, round by round."""
    quiet, reloading = (
        [s["p99"] for s in data["samples"] if (s["server"], s["client"], s["state"]) == (kind, client, state)]
        for state in ("quiet", "reloading"))
    return stats.ratios(reloading, quiet)


def fresh_ratio(data):
    """The same of those who open a connection for each request."""
    return ratio(data, client="fresh")


def p99(data, state, kind="ours", client="kept"):
    return stats.spread([s["p99"] for s in data["samples"] if (s["server"], s["client"], s["state"]) == (kind, client, state)])


def lost(data, kind="ours"):
    return sum(sum(s["errors"].values()) for s in data["samples"] if s["server"] == kind)


def text(data):
    rows = []
    for (kind, client, state), mine in group(data["samples"], "server", "client", "state").items():
        spread = {key: stats.spread([s[key] for s in mine]) for key in ("p50", "p99", "max")}
        rows.append([f"{label(kind)}, {CLIENTS[client]}, {state}", words.ranged(spread["p50"]), words.ranged(spread["p99"]),
                     words.middle(spread["max"]), sum(s["ok"] for s in mine), sum(sum(s["errors"].values()) for s in mine)])
    said = [f"{label(kind)}: p99 is {words.ranged(ratio(data, kind))} times that of the quiet time with keep-alive, and "
            f"{words.ranged(ratio(data, kind, 'fresh'))} times with a connection for each request." for kind in KINDS]
    return "\n\n".join([
        f"{KEPT} GETs a second with keep-alive and, at once, {FRESH} with a connection for each, and a HUP every {PAUSE * 1000:.0f} ms, "
        "by turns with as long a quiet time.",
        words.table(["server, client", "p50 ms", "p99 ms", "slowest ms", "answered", "failed"], rows),
        " ".join(said)])
