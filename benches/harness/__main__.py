"""The command line of `benches/run`, once everything is installed. Bounded as a whole and in each part; Ctrl-C stops what was
started, keeps what was measured, and exits with 130."""

import argparse
import os
import resource
import signal
import sys
import threading
import time
import traceback

from . import budget, experiments, machine, processes, report, scale
from .bench import Bench
from .field import Field
from .generators import Generators
from .layout import Layout
from .results import Results


def arguments():
    parser = argparse.ArgumentParser(prog="benches/run", description="Measures this server beside its peers.")
    parser.add_argument("command", nargs="?", choices=["measure", "report", "check", "list", "simulate"], default="measure",
                        help="measure (the default); report: make REPORT.md and the blocks of README and ARCHITECTURE of the results "
                             "again; check: whether they are what the results make; list: the experiments; simulate: what caches answer, anew, into simulation.json")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than ten minutes; into target/benches/quick")
    parser.add_argument("--only", action="append", metavar="NAME", default=[],
                        choices=[experiment.NAME for experiment in experiments.ALL], help="this experiment alone; may be repeated")
    parser.add_argument("--out", metavar="DIR", help="where results.json, REPORT.md and plots/ are (benches)")
    parser.add_argument("--server", metavar="FILE", help="the canvas-cluster to measure (target/release/canvas-cluster)")
    return parser.parse_args()


class Ended(BaseException):
    """The run is told to end, or its time is over; not an error of an experiment."""


def end(number, _frame):
    raise Ended("the time of the whole run is over" if number == signal.SIGALRM else "interrupted")


def main():
    asked = arguments()
    if asked.command == "list":
        for experiment in experiments.ALL:
            print(f"{experiment.NAME:12} {experiment.TITLE}")
        return 0
    layout = Layout(asked.server)
    out = layout.work / "quick" if asked.quick else layout.benches
    if asked.out:
        out = type(layout.root)(asked.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.json")
    if asked.command == "check":
        stale = report.stale(results, out, layout.root / "README.md", layout.root / "ARCHITECTURE.md")
        for name in stale:
            print(f"benches/run: {name} is not what results.json makes; benches/run report does that", file=sys.stderr)
        wrong = budget.problems([experiment.NAME for experiment in experiments.ALL]) + scale.problems(results, scale.load(out))
        for sentence in wrong:
            print(f"benches/run: {sentence}", file=sys.stderr)
        return 1 if stale or wrong else 0
    if asked.command == "simulate":
        try:
            scale.simulate(layout, out)
        except processes.Failed as why:
            print(f"benches/run: nothing was simulated, and simulation.json is as it was: {why}", file=sys.stderr)
            return 1
        print(f"simulated: {out / 'simulation.json'}; benches/run report tells it in ARCHITECTURE.md")
        return 0
    if asked.command == "measure":
        code = measure(layout, results, asked)
        # What is kept is rounded: the report is made of that, as it will be the next time.
        results = Results(results.path)
    else:
        code = 0 if results.experiments else 1
    if not results.experiments:
        print("benches/run: there are no results", file=sys.stderr)
        return 1
    report.write(results, out)
    # README and ARCHITECTURE show what is committed.
    if out == layout.benches:
        report.write_readme(results, layout.root / "README.md")
        report.write_scale(results, out, layout.root / "ARCHITECTURE.md")
    print(f"the report: {out / 'REPORT.md'}")
    return code


def measure(layout, results, asked):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    limit = budget.QUICK_LIMIT if asked.quick else budget.LIMIT
    signal.alarm(limit)
    until = time.monotonic() + limit
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    chosen = [it for it in [*experiments.RUN, *experiments.APART] if it.NAME in asked.only] if asked.only else experiments.RUN
    # Shoes in the table: so many that no cache of the database's decides, and few enough to be there in seconds.
    rows, sqlite_rows = (20_000, 20_000) if asked.quick else (1_000_000, 200_000)
    failed, took = [], {}
    code = 0
    try:
        environment = machine.environment(layout)
        with Field(layout, rows, sqlite_rows) as field:
            bench = Bench(field, Generators(layout.tools, layout.python, field.folder), asked.quick, layout)
            for experiment in chosen:
                begun = time.monotonic()
                bench.until = min(begun + budget.of(experiment.NAME, asked.quick), until - budget.SPARE)
                if not conduct(experiment, bench, results, environment):
                    failed.append(experiment.NAME)
                took[experiment.NAME] = time.monotonic() - begun
    except Ended as why:
        print(f"benches/run: {why}; what was measured is kept", file=sys.stderr)
        code = 130
    finally:
        signal.alarm(0)
        processes.stop_all()
    print(f"== How long it took\n{budget.table(took, asked.quick)}", flush=True)
    if failed:
        print(f"benches/run: failed: {', '.join(failed)}", file=sys.stderr)
        return code or 1
    return code


def conduct(experiment, bench, results, environment):
    """Runs an experiment and keeps what comes of it. Whether it went well."""
    print(f"== {experiment.TITLE}", flush=True)
    begun, date = time.monotonic(), machine.now()

    def entry(status, why, data):
        return {"status": status, "why": why, "date": date, "seconds": round(time.monotonic() - begun, 1), "quick": bench.quick,
                "environment": environment, "data": data}

    partial = {}

    def keep(data):
        partial.update(data)
        results.keep(f"{experiment.NAME}", entry("running", "it has not ended", data))

    bench.keep, bench.say = keep, lambda line: print(f"   {line}", flush=True)
    before = list(processes._running)
    earlier = results.experiments.get(experiment.NAME)
    try:
        data = experiment.run(bench)
        # What can't be told is as good as not measured: better to know now.
        experiment.text(data)
        results.keep(experiment.NAME, entry("done", "", data))
        print(f"   done in {time.monotonic() - begun:.0f} s", flush=True)
        return True
    except Ended as why:
        # An earlier, whole result is worth more than half of a new one.
        results.keep(experiment.NAME, earlier if earlier else entry("failed", str(why), partial))
        raise
    except Exception as error:  # pylint: disable=broad-except
        results.keep(experiment.NAME, entry("failed", f"{type(error).__name__}: {error}", partial))
        print(f"   failed: {error}", file=sys.stderr, flush=True)
        if os.environ.get("BENCHES_TRACE"):
            traceback.print_exc()
        return False
    finally:
        # The databases stay for the next one.
        stores = (bench.field._postgres, bench.field._redis)
        for process in list(processes._running):
            if process not in before and process not in stores:
                process.stop()


if __name__ == "__main__":
    assert threading.active_count() == 1
    sys.exit(main())
