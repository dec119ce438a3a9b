"""Workers that are killed (SIGKILL) under a paced load: what is lost, and how late the rest is."""

import os
import random
import signal
import time

from .. import words
from ..bench import drop_words, group, spread
from ..field import label

NAME = "kill"
TITLE = "Workers that die"

KINDS = ["ours", "node", "nginx"]
RATE = 1000
PAUSE = 1.0


def run(bench):
    seconds = bench.pick(8, 3)
    servers = [bench.field.start(kind, max(2, bench.cores)) for kind in KINDS]
    bench.warm_up(*servers)
    samples = []
    for number in bench.rounds(quick_most=1):
        for server in servers:
            kills = []

            def begin(generator, server=server, kills=kills):
                time.sleep(PAUSE / 2)
                while not generator.ended():
                    workers = server.workers_of()
                    if workers:
                        os.kill(random.choice(workers), signal.SIGKILL)
                        kills.append(1)
                    time.sleep(PAUSE)

            sample = bench.measure(server, bench.paced(RATE, seconds, begin=begin), round=number)
            samples.append({**sample, "kills": len(kills)})
    for server in servers:
        server.stop()
    return {"samples": drop_words(samples), "command": samples[0]["command"]}


def text(data):
    rows = []
    for (kind,), mine in group(data["samples"], "server").items():
        failed = sum(sum(s["errors"].values()) for s in mine)
        kills = sum(s["kills"] for s in mine)
        rows.append([label(kind), kills, sum(s["ok"] for s in mine), failed, words.number(failed / max(1, kills)),
                     words.middle(spread(mine, "p50")), words.ranged(spread(mine, "p99")), words.middle(spread(mine, "max"))])
    return "\n\n".join([
        f"GETs at {RATE:,} a second with keep-alive; each second one worker is killed. Connections that the dead one had accepted are "
        "lost; whether a request was under way on them is what differs.",
        words.table(["server", "kills", "answered", "failed", "failed a kill", "p50 ms", "p99 ms", "slowest ms"], rows)])
