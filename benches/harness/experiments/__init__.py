"""A file an experiment. Each has a `NAME`, a `TITLE`, a `run(bench)` that answers with figures for the JSON, `text(data)` that makes
markdown of them, and maybe `plots(data)`, a list of (file name, function that draws it)."""

from . import breaking, churn, cold, couchdb, database, fanout, generators, hosts, hot, idle, kill, overload, reload, saturation, scaling, seeding, seeds_table, sqlite

# The order of the report.
ALL = [breaking, seeds_table, hosts, hot, saturation, database, sqlite, overload, reload, kill, scaling, churn, idle, cold, fanout, seeding, couchdb, generators]

# The order of the run: short ones first, so that a run that is ended early has answered most questions; the last one takes as many
# rounds as there is time for.
RUN = [hot, saturation, database, sqlite, scaling, overload, reload, kill, churn, idle, cold, generators, fanout, hosts, breaking, seeding, seeds_table]

# Measured when they are asked for by their names: they take longer than a whole run has left.
APART = [couchdb]
