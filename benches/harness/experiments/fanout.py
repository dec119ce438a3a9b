"""What a write costs those who only hear of it: messages as another host would send them, at several rates, to few and to many
workers; and what an answer takes of Redis' memory. ARCHITECTURE.md's reckoning of many hosts is made of these."""

import http.client
import socket
import time

from .. import stats, words
from ..bench import group, spread
from ..processes import Failed, clock_seconds, wait_until

NAME = "fanout"
TITLE = "What hosts tell each other"

RATES = [100, 1_000, 10_000]

# Two sizes, so that what a message costs Redis can be told from what each copy of it does.
WORKERS = [2, 8]

CHANNEL = "canvas-cluster:invalidations"

# Answers that Redis is given, for what one takes, and so many before them.
KEPT, BEFORE = 4_000, 100

# Seconds between two pieces of what is sent: a message at a time, where a rate is low.
BEAT = 0.001


class Redis:
    """A connection that only sends commands and counts their answers."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)

    def ask(self, *words_of_it):
        """One command, and its answer as text: a bulk string's or a number's."""
        self.socket.sendall(_command(words_of_it))
        answer = self._line()
        if answer.startswith(b"$"):
            length = int(answer[1:])
            piece = bytearray()
            while len(piece) < length + 2:
                piece += self._receive()
            return piece[:length].decode()
        if answer.startswith(b"-"):
            raise Failed(f"Redis refuses {words_of_it[0]}: {answer.decode()}")
        return answer[1:].decode()

    def publish(self, rate, seconds, shoes):
        """So many messages a second, each of one write; answers with how many were sent."""
        sent, began = 0, time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            due = int(now * rate) - sent
            pieces = [_command(("PUBLISH", CHANNEL, f"feedbeef @1/{0x3000000 + sent + number:x} {shoes[(sent + number) % len(shoes)]}"))
                      for number in range(due)]
            if pieces:
                self.socket.sendall(b"".join(pieces))
                for _ in pieces:
                    if not self._line().startswith(b":"):
                        raise Failed("Redis did not take a message")
                sent += due
            time.sleep(BEAT)
        return sent

    _rest = b""

    def _line(self):
        # A bulk string's content is never in what is left: `ask` takes all of it.
        while b"\r\n" not in self._rest:
            self._rest += self.socket.recv(65536) or _ended()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _receive(self):
        if self._rest:
            piece, self._rest = self._rest, b""
            return piece
        return self.socket.recv(65536) or _ended()


def _ended():
    raise Failed("Redis closed the connection")


def _command(words_of_it):
    encoded = [str(word).encode() for word in words_of_it]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def run(bench):
    seconds = bench.pick(2, 0.5)
    samples = []
    for at, workers in enumerate(WORKERS):
        with bench.field.start("ours-redis", workers) as server:
            redis = Redis(bench.field.redis_port())
            wait_until(lambda: redis.ask("PUBSUB", "NUMSUB", CHANNEL) and subscribers(redis) == workers, 20,
                       f"the subscription of {workers} workers", server.process)
            if at == 0:
                samples.append(memory(server, redis, bench))
            for number in bench.rounds(most=3, quick_most=1, parts=len(WORKERS) - at):
                for rate in [0, *RATES]:
                    with stats.Watch() as watch:
                        before = [clock_seconds(pid) for pid in server.workers_of()], clock_seconds(bench.field.redis().pid)
                        sent = redis.publish(rate, seconds, bench.written)
                        after = [clock_seconds(pid) for pid in server.workers_of()], clock_seconds(bench.field.redis().pid)
                    samples.append({
                        "what": "messages", "round": number, "workers": workers, "asked_rate": rate, "sent": sent, "seconds": seconds,
                        "workers_ms": (sum(after[0]) - sum(before[0])) * 1000, "redis_ms": (after[1] - before[1]) * 1000, "seen": watch.seen})
            redis.socket.close()
        bench.say(f"{workers} workers")
    return {"samples": samples, "command": "PUBLISH commands of the harness's own"}


def subscribers(redis):
    """How many hear; the answer is a list of the channel and their number, of which `ask` has read the beginning."""
    redis._line()
    redis._line()
    return int(redis._line()[1:])


def memory(server, redis, bench):
    """Bytes of Redis for an answer that it keeps: the growth by some thousands."""
    kept = bench.pick(KEPT, KEPT // 4)
    shoes = range(bench.field.rows - BEFORE - kept + 1, bench.field.rows + 1)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def fetch(some):
        for shoe in some:
            client.request("GET", f"/api/images/?shoe_id={shoe}")
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise Failed(f"shoe {shoe} was answered {answer.status}")

    def used():
        return int(next(line for line in redis.ask("INFO", "memory").splitlines() if line.startswith("used_memory:")).split(":")[1])

    def keys():
        redis.ask("SELECT", 1)
        return int(redis.ask("DBSIZE"))

    with stats.Watch() as watch:
        fetch(shoes[:BEFORE])
        before, had = used(), keys()
        fetch(shoes[BEFORE:])
        # The lane fills after it has answered.
        wait_until(lambda: keys() - had == kept, 10, "the last fill of Redis", server.process)
        after = used()
    client.close()
    return {"what": "memory", "round": 0, "keys": kept, "bytes": (after - before) / kept, "seen": watch.seen}


def costs(data, rate):
    """Microseconds of a worker for a message that it hears, and of Redis for one that it takes and for each copy, at a rate: the
    spreads over the rounds, less what the same time costs in silence."""
    mine = {key: samples for key, samples in
            group([s for s in data["samples"] if s["what"] == "messages"], "workers", "asked_rate").items()}

    def a_message(workers, key):
        quiet = stats.spread([s[key] for s in mine[(workers, 0)]])["median"]
        return [(s[key] - quiet) * 1000 / s["sent"] for s in mine[(workers, rate)]]

    heard = [used / workers for workers in WORKERS for used in a_message(workers, "workers_ms")]
    few, many = (a_message(workers, "redis_ms") for workers in WORKERS)
    copies = [(b - a) / (WORKERS[1] - WORKERS[0]) for a, b in zip(few, many)]
    taken = [a - WORKERS[0] * copy for a, copy in zip(few, copies)]
    return {"heard": stats.spread(heard), "copy": stats.spread(copies), "taken": stats.spread(taken)}


def kept_bytes(data):
    return spread([s for s in data["samples"] if s["what"] == "memory"], "bytes")


def text(data):
    rows = []
    for rate in RATES:
        of = costs(data, rate)
        rows.append([f"{rate:,}", words.ranged(of["heard"]), words.ranged(of["taken"]), words.ranged(of["copy"])])
    return "\n\n".join([
        f"Messages of one write each, as another host sends them, to {WORKERS[0]} and to {WORKERS[1]} workers, each of which subscribes: CPU time "
        "above that of silence. The more come together, the fewer wake-ups there are. Redis sends a copy to every worker; what "
        "a copy costs is the difference between the two.",
        words.table(["messages a second", "a worker: µs for one that it hears", "Redis: µs for one", "and for each copy"], rows),
        f"An answer that Redis keeps takes {words.middle(kept_bytes(data))} bytes of its memory, with key, place and time to live."])
