"""Latency while the server is reloaded four times a second, beside a quiet time; nginx reloads beside it."""

import os
import signal
import time

from .. import stats, words
from ..bench import drop_words, group, spread
from ..field import label
from ..generators import error_share

NAME = "reload"
TITLE = "Latency during reloads"

KINDS = ["ours", "nginx"]
RATE = 1000

# Seconds between two HUPs.
PAUSE = 0.25


def hup(server):
    """Has the load `begin` with reloading the server until it ends."""
    def begin(generator):
        while not generator.ended():
            os.kill(server.process.pid, signal.SIGHUP)
            time.sleep(PAUSE)
    return begin


def run(bench):
    seconds = bench.pick(8, 2)
    servers = [bench.field.start(kind, bench.cores) for kind in KINDS]
    bench.warm_up(*servers)
    samples = []
    for number in bench.rounds():
        for server in servers:
            for state in ("quiet", "reloading"):
                more = {"begin": hup(server)} if state == "reloading" else {}
                samples.append(bench.measure(server, bench.paced(RATE, seconds, **more), state=state, round=number))
            if server.process.ended():
                raise RuntimeError(f"{server.label} did not survive: {server.process.tail()}")
            # The last reload's old workers leave before the next quiet time.
            time.sleep(2)
    for server in servers:
        server.stop()
    return {"samples": drop_words(samples), "command": samples[0]["command"]}


def ratio(data, kind="ours"):
    """p99 while reloading to p99 while quiet, round by round."""
    p99 = {state: [s["p99"] for s in data["samples"] if s["server"] == kind and s["state"] == state]
           for state in ("quiet", "reloading")}
    return stats.ratios(p99["reloading"], p99["quiet"])


def p99(data, state, kind="ours"):
    return stats.spread([s["p99"] for s in data["samples"] if s["server"] == kind and s["state"] == state])


def lost(data, kind="ours"):
    return sum(sum(s["errors"].values()) for s in data["samples"] if s["server"] == kind)


def text(data):
    rows = []
    for (kind, state), mine in group(data["samples"], "server", "state").items():
        rows.append([f"{label(kind)}, {state}", words.ranged(spread(mine, "p50")), words.ranged(spread(mine, "p99")),
                     words.middle(spread(mine, "max")), sum(s["ok"] for s in mine), sum(sum(s["errors"].values()) for s in mine),
                     words.percent(max(error_share(s) for s in mine))])
    said = [f"{label(kind)}: p99 is {words.ranged(ratio(data, kind))} times that of the quiet time." for kind in KINDS]
    return "\n\n".join([
        f"GETs at {RATE:,} a second with keep-alive, and a HUP every {PAUSE * 1000:.0f} ms, by turns with as long a quiet time.",
        words.table(["server", "p50 ms", "p99 ms", "slowest ms", "answered", "failed", "failed or not sent, worst round"], rows),
        " ".join(said)])
