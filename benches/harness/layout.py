"""Where things are."""

import glob
import pathlib
import shutil

from .processes import Failed


class Layout:
    def __init__(self, server=None):
        self.root = pathlib.Path(__file__).resolve().parents[2]
        self.benches = self.root / "benches"
        self.peers = self.benches / "peers"
        # What is built and installed for measuring; git ignores it.
        self.work = self.root / "target" / "benches"
        self.tools = self.work / "tools"
        self.python = self.work / "python"
        self.server = pathlib.Path(server).resolve() if server else self.root / "target" / "release" / "canvas-cluster"
        self.actix = self.work / "actix" / "release" / "actix-peer"

    @staticmethod
    def postgres_program(name):
        """Debian keeps the server's programs out of PATH, one folder a major version: the newest."""
        found = shutil.which(name)
        if name == "psql" and found:
            return found
        folders = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: float(path.split("/")[4]))
        if folders:
            return folders[-1]
        if found:
            return found
        raise Failed(f"PostgreSQL's {name} is not installed")
