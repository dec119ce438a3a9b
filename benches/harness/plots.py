"""Plots as SVG, that are the same bytes for the same figures."""

from .field import COLOURS, KINDS, label

# Text stays text, and ids don't change from run to run.
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "canvas-cluster", "font.size": 10, "font.family": "sans-serif"}

STYLES = {"redis": "--", "sqlite": ":", "uncached": "-", "only": "-."}


def colour(kind):
    return COLOURS[KINDS[kind].program]


def bars(figure, entries, what):
    """Horizontal bars, the first on top, with the range of the rounds. `entries` are pairs of a kind and a spread."""
    axes = figure.subplots()
    entries = list(reversed(entries))
    medians = [spread["median"] for _, spread in entries]
    low = [max(0, spread["median"] - spread["min"]) for _, spread in entries]
    high = [max(0, spread["max"] - spread["median"]) for _, spread in entries]
    axes.barh([label(kind) for kind, _ in entries], medians, xerr=[low, high], color=[colour(kind) for kind, _ in entries],
              error_kw={"elinewidth": 1, "capsize": 2})
    for at, (median, above) in enumerate(zip(medians, high)):
        axes.annotate(f" {median:,.0f}" if median >= 10 else f" {median:.2f}", (median + above, at), va="center")
    axes.set_xlabel(what)
    axes.set_xlim(left=min(0, *medians), right=max(m + h for m, h in zip(medians, high)) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)


def lines(figure, series, x, y, log):
    """A line a kind through its points."""
    axes = figure.subplots()
    for kind, points in series.items():
        style = next((STYLES[word] for word in kind.split("-") if word in STYLES), "-")
        axes.plot(*zip(*sorted(points)), style, marker="o", markersize=4, color=colour(kind), label=label(kind))
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def save(draw, path):
    """Draws a plot into a file."""
    # Here, so that what draws nothing needs no matplotlib.
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update(SETTINGS)
    from matplotlib import pyplot
    figure = pyplot.figure(figsize=(8, 4), layout="constrained")
    try:
        # Transparent on dark pages would hide black text.
        figure.set_facecolor("white")
        draw(figure)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    finally:
        pyplot.close(figure)
