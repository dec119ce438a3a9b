"""REPORT.md and the plots, made of the results; and README's block, made of them too. Nothing in either is written by hand."""

import re

from . import experiments, goals, plots, scale, stats, words
from .experiments import breaking, couchdb, hot, idle, reload, saturation, seeding
from .field import label

BEGIN = "<!-- measured: made from benches/results.json by benches/run report; a test holds its figures to benches/REPORT.md -->"
END = "<!-- /measured -->"


def done(results, experiment):
    entry = results.experiments.get(experiment.NAME)
    return entry["data"] if entry and entry["status"] == "done" else None


def headline(results):
    """The rows of the first table: what, this server, the strongest peers."""
    rows = []
    data = done(results, breaking)
    if data:
        def rate(kind, method):
            return words.ranged(breaking.breaks_at(data, kind, method))
        rows += [
            ["GETs a second before it breaks, without a cache", rate("ours-uncached", "GET"), rate("actix", "GET"), rate("node", "GET")],
            ["… with Redis", rate("ours-redis", "GET"), rate("actix-redis", "GET"), rate("node-redis", "GET")],
            ["POSTs a second before it breaks", rate("ours", "POST"), rate("actix", "POST"), rate("node", "POST")]]
    data = done(results, saturation)
    if data:
        def cost(kind):
            mine = [s for s in data["samples"] if s["server"] == kind and s["method"] == "GET"]
            return words.ranged(stats.spread([s["cpu_us"] for s in mine]))
        rows.append(["CPU time of a GET with Redis, µs", cost("ours-redis"), cost("actix-redis"), cost("node-redis")])
    data = done(results, idle)
    if data:
        def kib(kind):
            return words.ranged(stats.spread([s["kib"] for s in data["samples"] if s["server"] == kind]))
        rows.append(["memory of an idle connection, KiB", kib("ours"), kib("actix"), kib("node")])
    return rows


def claims(results):
    """Single figures, each a sentence."""
    said = []
    data = done(results, hot)
    if data:
        said.append(f"A hot GET takes {words.ranged(hot.ratio(data))} of the CPU time in which nginx returns the same bytes as a constant.")
    data = done(results, reload)
    if data:
        lost = reload.lost(data)
        quiet, reloading = (words.ranged(reload.p99(data, state)) for state in ("quiet", "reloading"))
        said.append(f"While it is told to reload four times a second, and replaces worker after worker, p99 is {reloading} ms instead of {quiet} ms, and "
                    f"{'no request' if lost == 0 else lost} failed.")
    data = done(results, seeding)
    if data:
        seconds = stats.spread([s["seconds"] for s in data["samples"] if s["what"] == "seed"])
        said.append(f"{data['rows']:,} rows are seeded in {words.ranged(seconds)} s, {words.ranged(seeding.ratio(data))} times the time of "
                    "psql's `\\copy` from a ready file.")
    data = done(results, couchdb)
    if data:
        loaded = stats.spread([s["loaded"] for s in data["samples"] if s["what"] == "CouchDB"])
        said.append(f"{data['rows']:,} rows are seeded into what stands in for CouchDB in {words.ranged(loaded)} s, {words.ranged(couchdb.ratio(data))} "
                    "times the time of PostgreSQL, before the index.")
    return said


HEAD = ["one worker a core", "canvas-cluster", "actix-web", "Node cluster"]


def write(results, folder):
    """Writes REPORT.md and plots/ into the folder."""
    (folder / "plots").mkdir(exist_ok=True)
    for experiment, data in shown(results):
        for name, draw in drawings(experiment, data):
            plots.save(draw, folder / "plots" / name)
    (folder / "REPORT.md").write_text(render(results), encoding="utf-8")


def write_scale(results, folder, architecture):
    """Puts the reckoning of many hosts between ARCHITECTURE's marks anew, and draws its plot."""
    simulated = scale.load(folder)
    for name, draw in scale.drawings(simulated):
        plots.save(draw, folder / "plots" / name)
    text = architecture.read_text(encoding="utf-8")
    fresh = scale.with_block(results, simulated, text)
    if fresh != text:
        architecture.write_text(fresh, encoding="utf-8")


def stale(results, folder, readme, architecture):
    """The names of the files that are not what the results make of them; plots aside."""
    found = []
    if (folder / "REPORT.md").read_text(encoding="utf-8") != render(results):
        found.append("REPORT.md")
    text = readme.read_text(encoding="utf-8")
    if with_block(results, text) != text:
        found.append("README.md")
    text = architecture.read_text(encoding="utf-8")
    if scale.with_block(results, scale.load(folder), text) != text:
        found.append("ARCHITECTURE.md")
    return found


def shown(results):
    """Experiments that were done, in the report's order, and their data."""
    for experiment in experiments.ALL:
        data = done(results, experiment)
        if data:
            yield experiment, data


def drawings(experiment, data):
    return getattr(experiment, "plots", lambda data: [])(data)


def render(results):
    """REPORT.md."""
    parts = [
        "# What was measured",
        "Made by `benches/run` on one machine, on which server, databases and generator share the processors; the raw figures are in "
        "[results.json](results.json). A figure is the median of its rounds, with the least and the greatest in brackets; servers are measured "
        "by turns, after a warm-up. Latencies are in milliseconds."]
    rows = headline(results)
    if rows:
        parts += ["## In short", words.table(HEAD, rows)]
    said = claims(results)
    if said:
        parts.append("\n".join(f"- {claim}" for claim in said))
    reached = goals.rows(results)
    if reached:
        parts += ["## Goals", words.table(goals.HEAD, reached)]
    failed = [(name, entry) for name, entry in results.experiments.items() if entry["status"] != "done"]
    if failed:
        parts += ["## What failed", "\n".join(f"- {name}: {one_line(entry['why'])}" for name, entry in failed)]
    for experiment, _ in shown(results):
        parts += section(experiment, results.experiments[experiment.NAME])
    parts += ["## The machine", environments(results)]
    return "\n\n".join(parts) + "\n"


def section(experiment, entry):
    data = entry["data"]
    parts = [f"## {experiment.TITLE}", experiment.text(data)]
    parts += [f"![{experiment.TITLE}](plots/{name})" for name, _ in drawings(experiment, data)]
    parts.append(disturbed(stats.disturbance(data["samples"])))
    rounds = 1 + max(sample.get("round", 0) for sample in data["samples"])
    parts.append(f"`{one_line(data['command'])}` · {rounds} {'round' if rounds == 1 else 'rounds'}, {entry['seconds']:.0f} s, {entry['date']}"
                 + (" · a quick run" if entry["quick"] else ""))
    return parts


def disturbed(seen):
    if not seen["disturbed"]:
        return "Nothing else disturbed it."
    return (f"**Disturbed**: during {seen['disturbed']} of {seen['measurements']} measurements other programs used more than "
            f"{stats.OTHERS:.0%} of the processors' time (at most {seen['worst_others']:.0%}), or the hypervisor took more than "
            f"{stats.STEAL:.0%} (at most {seen['worst_steal']:.0%}).")


def environments(results):
    """One table for all that were measured under the same circumstances."""
    found = []
    for name, entry in sorted(results.experiments.items()):
        for names, environment in found:
            if environment == entry["environment"]:
                names.append(name)
                break
        else:
            found.append(([name], entry["environment"]))
    parts = []
    for names, environment in found:
        if len(found) > 1:
            parts.append(f"Of {', '.join(names)}:")
        parts.append(words.table(["", "version"], environment.items()).replace("---:", "---"))
    return "\n\n".join(parts)


def one_line(text):
    return re.sub(r"\s+", " ", str(text)).replace("`", "'")[:600]


def readme_block(results):
    parts = []
    rows = headline(results)
    if rows:
        parts.append(words.table(HEAD, rows))
    if done(results, breaking):
        parts.append(f"![{breaking.TITLE}](benches/plots/breaking.svg)")
    parts += claims(results)
    return "\n\n".join([BEGIN, *parts, END])


def write_readme(results, path):
    """Puts the block between README's marks anew."""
    text = path.read_text(encoding="utf-8")
    fresh = with_block(results, text)
    if fresh != text:
        path.write_text(fresh, encoding="utf-8")


def with_block(results, text):
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin] + readme_block(results) + text[end:]
