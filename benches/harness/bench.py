"""What every experiment works with: the field, the generators, how long things may take, and one way to measure."""

import dataclasses
import os
import random
import time

from . import stats
from .field import Field
from .generators import Generators
from .layout import Layout

# GETs ask for this many shoes, evenly: a cache can hold them, and no single row is asked for all the time.
HOT_SHOES = 1000


@dataclasses.dataclass
class Bench:
    field: Field
    generators: Generators
    quick: bool
    layout: Layout
    # The moment (monotonic) when the experiment's time is over.
    until: float = float("inf")
    # Called with what is known so far, to be kept if the rest fails.
    keep: object = lambda data: None
    # Called with a line that tells how far it is.
    say: object = print

    @property
    def cores(self):
        return os.cpu_count() or 1

    def pick(self, full, quick):
        return quick if self.quick else full

    def rounds(self, most=5, quick_most=2, parts=1):
        """So many rounds, while the experiment's time lasts: of what is left of it, the part of one of so many that are still to come."""
        return stats.Rounds(self.pick(most, quick_most), (self.until - time.monotonic()) / parts)

    @property
    def shoes(self):
        return range(1, min(HOT_SHOES, self.field.rows) + 1)

    @property
    def written(self):
        """Shoes that POSTs add rows to: not those that are read, whose answers would grow."""
        few = random.Random(1)
        return [few.randrange(HOT_SHOES + 1, self.field.rows + 1) for _ in range(1000)]

    def measure(self, server, load, **about):
        """Runs a load, and answers with its figures, what it cost the server (`cpu_us`: microseconds of CPU time an answer, user
        and system, of the whole process tree) and the stores behind it (`store_us`), and what was seen of others meanwhile."""
        with stats.Watch() as watch:
            cpu, store = server.cpu(), server.store_cpu()
            result = load(server)
            cpu, store = server.cpu() - cpu, server.store_cpu() - store
        answers = max(1, result["ok"])
        return {**about, "server": server.kind, "workers": server.workers, **result,
                "cpu_us": cpu * 1e6 / answers, "store_us": store * 1e6 / answers, "seen": watch.seen}

    # Loads

    def hot(self, seconds, **more):
        """As many GETs as go."""
        return lambda server: self.generators.wrk(server.base, seconds, shoes=self.shoes, **more)

    def post(self, seconds, **more):
        """As many POSTs as go."""
        return lambda server: self.generators.wrk(server.base, seconds, bodies=self.written, **more)

    def paced(self, rate, seconds, method="GET", **more):
        """A constant rate."""
        def load(server):
            if method == "POST":
                return self.generators.oha(server.base, rate, seconds, bodies=self.written, **more)
            return self.generators.oha(server.base, rate, seconds, shoes=self.shoes, **more)
        return load

    def warm_up(self, *servers):
        """Fills caches and has connections, prepared statements and just-in-time compilers ready."""
        for server in servers:
            self.hot(self.pick(2, 1))(server)

    def capacity(self, server, method="GET", seconds=1):
        """Answers a second when as much is asked as goes."""
        load = self.post(seconds) if method == "POST" else self.hot(seconds)
        return max(1.0, load(server)["rate"])


def group(samples, *keys):
    """Samples by their values of these keys, in the order of their first one."""
    groups = {}
    for sample in samples:
        groups.setdefault(tuple(sample[key] for key in keys), []).append(sample)
    return groups


def spread(samples, key):
    return stats.spread([sample[key] for sample in samples])


def drop_words(samples):
    """The samples without their commands, which are told once."""
    return [{key: value for key, value in sample.items() if key != "command"} for sample in samples]
