"""How long an experiment may take, a row each, and how long all of them together: `benches/run check` holds the sums to the promise."""

# Seconds after which a run ends, whatever it is doing: less than an hour, and less than ten minutes.
LIMIT, QUICK_LIMIT = 3500, 590

# Seconds of it that no experiment is given: the databases' end, the plots, and a machine that is slower than ours.
SPARE = 52

# Seconds from the beginning of an experiment to its end, in a whole run and in a quick one. Rounds are repeated while the time lasts;
# there is always one.
SECONDS = {
    "hot": (125, 20),
    "saturation": (220, 50),
    "database": (160, 36),
    "sqlite": (60, 14),
    "scaling": (75, 18),
    "overload": (420, 42),
    "reload": (260, 30),
    "kill": (200, 26),
    "churn": (60, 14),
    "idle": (135, 26),
    "cold": (70, 20),
    "generators": (65, 14),
    "fanout": (45, 8),
    "hosts": (120, 24),
    "breaking": (300, 80),
    "seeding": (330, 10),
    "seeds-table": (800, 106),
}

# The same of those that are measured only when they are asked for, and count in no sum.
APART = {
    "couchdb": (1800, 120),
}


def of(name, quick):
    return {**SECONDS, **APART}[name][1 if quick else 0]


def problems(names):
    """What is wrong with the table, a sentence each: an experiment without a row, a row without an experiment, a sum that is too much."""
    found = [f"the budget has no row for {name}" for name in names if name not in {**SECONDS, **APART}]
    found += [f"the budget has a row for {name}, which is no experiment" for name in {**SECONDS, **APART} if name not in names]
    for column, limit, what in ((0, LIMIT, "whole"), (1, QUICK_LIMIT, "quick")):
        total = sum(row[column] for row in SECONDS.values())
        if total > limit - SPARE:
            found.append(f"the experiments of a {what} run may take {total} s, more than {limit - SPARE}")
    return found


def table(took, quick):
    """How long each took, a line each; `took` maps names to seconds."""
    lines = [f"   {name:12} {seconds:6.1f} s of {of(name, quick):3}{'  over' if seconds > of(name, quick) else ''}"
             for name, seconds in took.items()]
    return "\n".join([*lines, f"   {'together':12} {sum(took.values()):6.1f} s"])
