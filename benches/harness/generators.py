"""Generators of load: oha for a constant rate, wrk for as much as goes, k6 as the seed used it. Each answers with the same words:

`asked` and `sent` requests, `ok` answers (2xx), `errors` by their kind, `rate` of ok answers a second, and latencies `p50`, `p90`,
`p99`, `p999`, `max` in milliseconds. `command` is what was run. oha tells some of that of ok answers (`ok_p50`, `ok_p99`) and of all
others (`refused_p50`, `refused_p99`) by themselves too; None where there were none.
"""

import json
import os
import pathlib
import random
import shlex

from . import processes
from .processes import Failed

HERE = pathlib.Path(__file__).resolve().parent

# Seconds after which a request counts as failed: loader.io's, with which the seed was measured.
TIMEOUT = 10

# oha holds a connection for each request that waits; more than these at once are not sent.
CONNECTIONS = 256


def connections_for(rate):
    """As many as keep the rate while answers take a tenth of a second."""
    return max(1, min(CONNECTIONS, rate // 10 + 1))


class Generators:
    """Where the programs are, and a folder for their lists of requests."""

    def __init__(self, tools, python, folder):
        self.oha_path, self.k6_path = tools / "bin" / "oha", python / "bin" / "k6"
        self.folder = folder
        self.wrk_path = "wrk"

    def reads(self, base, shoes):
        """A file of URLs, one a shoe."""
        path = self.folder / f"reads-{abs(hash((base, tuple(shoes))))}"
        if not path.exists():
            path.write_text("".join(f"{base}/api/images/?shoe_id={shoe}\n" for shoe in shoes), encoding="ascii")
        return path

    def writes(self, shoes):
        """A file of rows as JSON, one a shoe, some 470 bytes each as the rows of the table."""
        path = self.folder / f"writes-{abs(hash(tuple(shoes)))}"
        if not path.exists():
            path.write_text("".join(body(shoe) + "\n" for shoe in shoes), encoding="ascii")
        return path

    def oha(self, base, rate, seconds, *, shoes=None, bodies=None, connections=None, keep_alive=True, begin=None):
        """A constant rate, whatever the server does (open loop), latencies corrected for coordinated omission: they count
        from the moment when a request should have been sent, and so the opening of its connection if each has its own. What
        could not be sent at all because every connection waited is `asked` and not `sent`. `begin` is called with the running
        program, to do something meanwhile."""
        command = [
            self.oha_path, "--no-tui", "--output-format", "json", "-z", f"{round(seconds * 1000)}ms", "-w", "-q", rate, "--latency-correction",
            "--stats-success-breakdown", "-c", connections or connections_for(rate), "-t", f"{TIMEOUT}s", "--redirect", "0"]
        if not keep_alive:
            command.append("--disable-keepalive")
        if bodies:
            command += ["-m", "POST", "-T", "application/json", "-Z", self.writes(bodies), f"{base}/api/images/"]
        else:
            command += ["--urls-from-file", self.reads(base, shoes)]
        out = self._run(command, seconds + TIMEOUT + 20, begin)
        answer = json.loads(out)
        statuses = answer["statusCodeDistribution"]
        failed = {kind: count for kind, count in answer["errorDistribution"].items() if "deadline" not in kind}
        failed.update({status: count for status, count in statuses.items() if not status.startswith("2")})
        ok = sum(count for status, count in statuses.items() if status.startswith("2"))
        percentiles = {key: (value or 0) * 1000 for key, value in answer["latencyPercentiles"].items()}
        apart = {f"{name}_{key}": value and value * 1000
                 for name, which in (("ok", "Successful"), ("refused", "NotSuccessful"))
                 for key, value in answer[f"latencyPercentiles{which}"].items() if key in ("p50", "p99")}
        asked = max(1, round(rate * seconds))
        return {
            "asked": asked, "sent": ok + sum(failed.values()), "ok": ok, "errors": failed,
            "rate": ok / max(answer["summary"]["total"], 1e-9),
            "p50": percentiles["p50"], "p90": percentiles["p90"], "p99": percentiles["p99"], "p999": percentiles["p99.9"],
            "max": (answer["summary"]["slowest"] or 0) * 1000, **apart, "command": shown(command)}

    def wrk(self, base, seconds, *, shoes=None, bodies=None, connections=64, close=False, cpus=None):
        """As much as goes, each connection sending its next request when it has its answer (closed loop)."""
        threads = max(1, min(connections, (os.cpu_count() or 1) // 2))
        command = [self.wrk_path, "-t", threads, "-c", connections, "-d", f"{seconds}s", "--timeout", f"{TIMEOUT}s",
                   "-s", HERE / "wrk.lua"]
        if close:
            command += ["-H", "Connection: close"]
        command += [f"{base}/api/images/", "--"]
        command += ["writes", self.writes(bodies)] if bodies else ["reads", self.reads("", shoes)]
        if cpus:
            command = ["taskset", "-c", ",".join(str(cpu) for cpu in sorted(cpus)), *command]
        out = self._run(command, seconds + TIMEOUT + 20)
        answer = json.loads(out[out.rindex("\n{"):])
        failed = {kind: count for kind, count in answer["errors"].items() if count}
        ok = answer["requests"] - answer["errors"]["status"]
        return {
            "asked": answer["requests"], "sent": answer["requests"], "ok": ok, "errors": failed,
            "rate": ok / max(answer["seconds"], 1e-9), **answer["latency"], "command": shown(command)}

    def k6(self, base, rate, seconds, shoes):
        """The seed's own tool, at a constant rate of arrivals."""
        script = HERE.parent / "k6.js"
        env = {**os.environ, "k6_url": base, "k6_rate": str(rate), "k6_seconds": str(seconds), "k6_type": "GET",
               "k6_shoes": str(len(shoes)), "K6_NO_USAGE_REPORT": "true"}
        command = [self.k6_path, "run", "--quiet", "--no-color", script]
        out = processes.run(command, seconds + TIMEOUT + 40, env=env)
        answer = json.loads(out[out.index("{"):])
        answer["command"] = " ".join(
            [f"{key}={env[key]}" for key in ("k6_type", "k6_url", "k6_rate", "k6_seconds", "k6_shoes")]) + " " + shown(command)
        return answer

    def _run(self, command, patience, begin=None):
        if begin is None:
            return processes.run(command, patience)
        # Its output is read when it has ended, and fits a file better than a pipe.
        log = self.folder / f"generator-{random.randrange(1 << 60):x}"
        process = processes.Process("the generator", command, log)
        try:
            begin(process)
            processes.wait_until(process.ended, patience, "the end of the generator")
            text = log.read_text()
            if process.child.returncode != 0:
                raise Failed(f"{shown(command)} failed: {process.tail()}")
            return text[text.index("{"):]
        finally:
            process.stop()


def body(shoe):
    """A row as a client sends it."""
    media = {f"img{n}": f"https://cdn.example.com/{shoe:07}/img{n}.jpg" for n in range(1, 8)}
    media.update({f"vid{n}": f"https://cdn.example.com/{shoe:07}/vid{n}.mp4" for n in (1, 2)})
    return json.dumps({"shoe_id": shoe, **media})


def shown(command):
    """A command as a person would type it, paths shortened."""
    words = [str(word) for word in command]
    words[0] = os.path.basename(words[0])
    return " ".join(shlex.quote(word if not word.startswith("/") else os.path.basename(word)) for word in words)


def error_share(result):
    """The share of the requests asked for that failed or could not even be sent. One that a rounding at the edge of the time
    has cost is none."""
    failed = sum(result["errors"].values())
    unsent = max(0, result["asked"] - result["sent"] - 1)
    return min(1.0, (failed + unsent) / max(1, result["asked"]))
