"""Ten thousand connections that have each been answered once and stay: what they cost in memory."""

import selectors
import socket
import time

from .. import stats, words
from ..field import label, nofile
from ..plots import bars
from ..processes import Failed

NAME = "idle"
TITLE = "Idle connections"

KINDS = ["ours", "nginx", "actix", "node"]
CROWD = 10_000

# Beside connections a process has some other files open.
SPARE = 500

# Connections from one address of 127.0.0.0/8, well within its range of ports.
AN_ADDRESS = 5_000

# Connections that are opened at once.
BATCH = 250

SETTLING = 4
PATIENCE = 60


def crowd(server, count, offset):
    """Connections that were each answered once."""
    request = b"GET /api/images/?shoe_id=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = []
    until = time.monotonic() + PATIENCE
    while len(clients) < count:
        with selectors.DefaultSelector() as waiting:
            for number in range(len(clients), min(count, len(clients) + BATCH)):
                client = socket.socket()
                client.bind((f"127.2.{offset}.{1 + number // AN_ADDRESS}", 0))
                client.connect(("127.0.0.1", server.port))
                client.sendall(request)
                client.setblocking(False)
                waiting.register(client, selectors.EVENT_READ, bytearray())
                clients.append(client)
            left = len(waiting.get_map())
            while left:
                ready = waiting.select(timeout=5)
                if not ready and time.monotonic() > until:
                    raise Failed(f"{left} of {BATCH} connections of {server.label} were not answered")
                for key, _ in ready:
                    piece = key.fileobj.recv(65536)
                    key.data.extend(piece)
                    if not piece:
                        raise Failed(f"{server.label} closed a connection instead of answering")
                    if is_whole(bytes(key.data)):
                        waiting.unregister(key.fileobj)
                        left -= 1
    return clients


def is_whole(answer):
    head, end, content = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise Failed(f"not a 200: {head[:80]!r}")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    return len(content) >= int(fields[b"content-length"])


def run(bench):
    count = min(CROWD, nofile() - SPARE)
    samples, offset = [], 0
    for number in bench.rounds(quick_most=1):
        for kind in KINDS:
            with bench.field.start(kind, bench.cores) as server:
                # What every later connection finds there.
                crowd(server, 50, offset)
                before = server.memory()
                with stats.Watch() as watch:
                    begun = time.monotonic()
                    clients = crowd(server, count, offset + 1)
                    opening = time.monotonic() - begun
                    time.sleep(SETTLING)
                    after = server.memory()
                for client in clients:
                    client.close()
            samples.append({"server": kind, "connections": count, "round": number, "seconds": opening,
                            "kib": (after["pss"] - before["pss"]) / 1024 / count, "seen": watch.seen})
            offset = (offset + 2) % 250
    return {"samples": samples, "connections": count, "command": f"{count} sockets of the harness's own"}


def text(data):
    from ..bench import group, spread
    rows = [[label(kind), words.ranged(spread(mine, "kib")), words.middle(stats.spread([s["connections"] / s["seconds"] for s in mine]))]
            for (kind,), mine in group(data["samples"], "server").items()]
    return "\n\n".join([
        f"{data['connections']:,} keep-alive connections, each answered once, {SETTLING} s later; growth of the process tree's memory (Pss). "
        "The kernel's buffers of sockets are not in it.",
        words.table(["server", "KiB a connection", "opened and answered a second"], rows)])


def plots(data):
    from ..bench import group, spread
    by = group(data["samples"], "server")
    return [("memory.svg", lambda figure: bars(
        figure, [(kind, spread(mine, "kib")) for (kind,), mine in by.items()], "KiB of memory for an idle connection"))]
