"""What was measured, on what, and when: versions, kernel, processor, limits. Each experiment's results carry it."""

import datetime
import os
import platform
import re
import resource

from . import processes


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _first_line(command):
    try:
        lines = processes.run(command, 20, check=False).strip().splitlines()
        return lines[0].strip() if lines else "unknown"
    except (OSError, processes.Failed):
        return "unknown"


def _cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory():
    with open("/proc/meminfo", encoding="ascii") as info:
        kib = int(info.readline().split()[1])
    return f"{kib / 1024 / 1024:.1f} GiB"


def _system():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def environment(layout):
    """Name and value of everything that a figure may depend on, in the report's order."""
    commit = _first_line(["git", "-C", layout.root, "rev-parse", "--short=12", "HEAD"])
    if _first_line(["git", "-C", layout.root, "status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"]) not in ("", "unknown"):
        commit += " and changes"
    lock = (layout.peers / "actix" / "Cargo.lock").read_text(encoding="utf-8")
    node = (layout.peers / "node-cluster" / "package.json").read_text(encoding="utf-8")

    def locked(name):
        return re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock)[1]

    def required(name):
        return re.search(rf'"{name}": "([^"]+)"', node)[1]

    nginx = processes.run(["sh", "-c", "nginx -v 2>&1"], 20, check=False).strip().rpartition("/")[2]
    return {
        "processor": f"{_cpu()}, {os.cpu_count()} of them",
        "memory": _memory(),
        "system": f"{_system()}, Linux {platform.release()}",
        "open files": f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,}",
        "canvas-cluster": f"{_first_line([layout.server, '--version']).split()[-1]}, commit {commit}",
        "rustc": _first_line(["rustc", "--version"]),
        "PostgreSQL": _first_line([layout.postgres_program("postgres"), "--version"]).split(") ")[-1],
        "Redis": _first_line(["redis-server", "--version"]).split("v=")[-1].split()[0],
        "nginx": nginx,
        "Node": f"{_first_line(['node', '--version'])}, express {required('express')}, pg-promise {required('pg-promise')}, "
                f"redis {required('redis')}",
        "actix-web": f"{locked('actix-web')}, deadpool-postgres {locked('deadpool-postgres')}, deadpool-redis {locked('deadpool-redis')}",
        "oha": _first_line([layout.tools / "bin" / "oha", "--version"]).split()[-1],
        "wrk": re.sub(r"^wrk |\s*\[.*", "", _first_line(["sh", "-c", "wrk -v 2>&1"])),
        "k6": _first_line([layout.python / "bin" / "k6", "version"]).split()[1],
    }
