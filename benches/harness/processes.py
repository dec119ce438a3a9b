"""Processes: started so that they end with us, stopped with a deadline, and what a tree of them has used (proc(5))."""

import ctypes
import os
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")

# Bytes of the end of a log that are shown when something fails.
TAIL = 2000

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

# Everything that runs, in the order of its start.
_running = []


class Failed(Exception):
    """Something did not work; the text says what, for a person."""


def _on_its_own(stop_signal):
    """A process group, and an end when ours comes. No session: the kernel shares the processors out among sessions first
    (sched(7), autogroup), which would give the generator alone as much as a server's whole tree."""
    os.setpgrp()
    _libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))


class Process:
    """A program in a process group of its own, which gets `stop_signal` if this process dies."""

    def __init__(self, name, command, log, env=None, user=None, cwd=None, cpus=None, stop_signal=signal.SIGTERM):
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.stop_signal = stop_signal

        def prepare():
            _on_its_own(stop_signal)
            if cpus:
                os.sched_setaffinity(0, cpus)

        extra = {"user": user, "group": user, "extra_groups": []} if user else {}
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd,
                preexec_fn=prepare, **extra)
        self.pid = self.child.pid
        self.started = time.monotonic()
        _running.append(self)

    def ended(self):
        return self.child.poll() is not None

    def tail(self):
        """The end of what it has written."""
        try:
            with open(self.log, "rb") as log:
                log.seek(max(0, os.path.getsize(self.log) - TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def stop(self, patience=15):
        """Asks it to end, and makes it after `patience` seconds."""
        if self in _running:
            _running.remove(self)
        if not self.ended():
            self.child.send_signal(self.stop_signal)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        # Whoever is left of its group, too.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


def stop_all():
    """Ends what still runs, the youngest first."""
    for process in reversed(list(_running)):
        process.stop()


def run(command, patience, env=None, cwd=None, check=True, user=None, stdin=None):
    """Runs a program to its end, `patience` seconds at most, and answers with what it wrote to standard output."""
    command = [str(word) for word in command]
    extra = {"user": user, "group": user, "extra_groups": []} if user else {}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, cwd=cwd, preexec_fn=lambda: _on_its_own(signal.SIGKILL), **extra)
    try:
        out, err = child.communicate(stdin.encode() if stdin else None, timeout=patience)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)[:200]} did not end within {patience} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if check and child.returncode != 0:
        text = (err or out).decode(errors="replace").strip()[-TAIL:]
        raise Failed(f"{' '.join(command)[:200]} failed with {child.returncode}: {text}")
    return out.decode(errors="replace")


def wait_until(condition, patience, what, process=None):
    """Waits until `condition()` is true; fails if that takes too long or if the process ends."""
    until = time.monotonic() + patience
    while not condition():
        if process is not None and process.ended():
            raise Failed(f"{process.name} ended instead of {what}: {process.tail()}")
        if time.monotonic() > until:
            raise Failed(f"{what} did not happen within {patience} s" + (f": {process.tail()}" if process else ""))
        time.sleep(0.02)


def tree(root):
    """The process ids of `root` and all that descend from it."""
    children = {}
    for pid, fields in _stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


def cpu_seconds(*roots):
    """User and system time of these trees, with that of descendants which have ended and been waited for."""
    stats = dict(_stats())
    pids = {pid for root in roots for pid in tree(root)}
    # utime, stime, cutime, cstime.
    return sum(sum(int(n) for n in stats[pid][11:15]) for pid in pids if pid in stats) / TICKS


def clock_seconds(pid):
    """CPU time of a process, all threads, to the nanosecond: by its clock (clock_getcpuclockid(3)), for /proc counts by the hundredth
    of a second."""
    return time.clock_gettime((~pid << 3) | 2)


def memory(root):
    """Resident memory of the tree in bytes: `rss` counts pages that processes share once each, `pss` in proportion."""
    total = {"rss": 0, "pss": 0}
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                for line in rollup:
                    key = line.split(":")[0].lower()
                    if key in total:
                        total[key] += int(line.split()[1]) * 1024
        except OSError:
            # It has ended.
            pass
    return total


def _stats():
    """The fields of /proc/PID/stat after the name, for all processes."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    yield int(entry), stat.read().rpartition(") ")[2].split()
            except OSError:
                pass
