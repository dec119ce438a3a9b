"""The results: one JSON, an entry an experiment, kept after each so that a later failure costs nothing of the earlier."""

import json
import os
import pathlib

FORMAT = 1


class Results:
    """`experiments` maps names to entries: status (`done`, `failed`, `running`), why, date, seconds, quick, environment, data."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.experiments = {}
        if self.path.exists():
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept.get("format") == FORMAT:
                self.experiments = kept["experiments"]

    def keep(self, name, entry):
        """Puts an entry in the place of an older one, and the whole on the disk."""
        self.experiments[name] = entry
        self.write()

    def write(self):
        parts = [f'"{name}": {_layout(entry)}' for name, entry in sorted(self.experiments.items())]
        text = '{"format": %d,\n"experiments": {\n%s\n}}\n' % (FORMAT, ",\n".join(parts))
        json.loads(text)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self.path)


def _layout(entry):
    """A line a sample, so that a difference can be read."""
    data = dict(entry.get("data") or {})
    samples = data.pop("samples", [])
    head = json.dumps({**entry, "data": data}, ensure_ascii=False)
    if not samples:
        return head
    lines = ",\n".join(json.dumps(_rounded(sample), ensure_ascii=False) for sample in samples)
    # The data is the last key, so that its end is the end.
    assert head.endswith("}}")
    comma = ", " if data else ""
    return f'{head[:-2]}{comma}"samples": [\n{lines}]}}}}'


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
