"""What is made of measurements: medians with their range, ratios, and whether something else disturbed them."""

import os
import statistics
import time

from . import processes

# A measurement is disturbed when other programs used more than this share of all processors' time, …
OTHERS = 0.05

# … or the hypervisor kept more than this from us.
STEAL = 0.02


def spread(values):
    """The median of the values with their least and greatest; `None` for those that are not there is left out."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def ratios(ours, theirs):
    """The spread of ours to theirs, round by round: what disturbs a whole round leaves its ratio alone."""
    pairs = [(a, b) for a, b in zip(ours, theirs) if a is not None and b]
    return spread([a / b for a, b in pairs])


class Watch:
    """Looks at the processors while something is measured. `with Watch() as watch: …`, then `watch.seen`.

    `others` is the share of all processors' time that programs used which are not ours, `steal` what the hypervisor gave
    to other guests. Interrupts are nobody's.
    """

    def __enter__(self):
        self._before = self._look()
        return self

    def __exit__(self, *_):
        after = self._look()
        busy, steal, ours, at = (b - a for a, b in zip(self._before, after))
        capacity = max(at, 1e-9) * (os.cpu_count() or 1)
        self.seen = {
            "seconds": round(at, 3),
            "others": round(max(0.0, busy - ours) / capacity, 4),
            "steal": round(max(0.0, steal) / capacity, 4),
        }

    @staticmethod
    def _look():
        with open("/proc/stat", encoding="ascii") as stat:
            user, nice, system, _idle, _iowait, _irq, _softirq, steal = (int(n) for n in stat.readline().split()[1:9])
        ours = processes.cpu_seconds(os.getpid())
        return (user + nice + system) / processes.TICKS, steal / processes.TICKS, ours, time.monotonic()


def is_disturbed(seen):
    # A tick of 10 ms is a large share of a short time, so that two of them are overlooked.
    slack = 0.02 / max(seen["seconds"], 0.02) / (os.cpu_count() or 1)
    return seen["others"] > OTHERS + slack or seen["steal"] > STEAL + slack


def disturbance(samples):
    """What disturbed these measurements, in numbers for the report."""
    seen = [sample["seen"] for sample in samples]
    return {
        "measurements": len(seen),
        "disturbed": sum(map(is_disturbed, seen)),
        "worst_others": max((s["others"] for s in seen), default=0),
        "worst_steal": max((s["steal"] for s in seen), default=0),
    }


class Rounds:
    """Counts rounds, until there are `most` or the time is over; there is always one. Iterate over it."""

    def __init__(self, most, budget):
        self.most, self.until = most, time.monotonic() + budget

    def __iter__(self):
        longest = 0.0
        for number in range(self.most):
            begun = time.monotonic()
            if number > 0 and begun + longest > self.until:
                return
            yield number
            longest = max(longest, time.monotonic() - begun)
