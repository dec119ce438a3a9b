"""The field: this server and its peers, each started on free loopback ports in a private folder, over one PostgreSQL and one
Redis that are private too. Closing the field stops all of it and deletes the folder.
"""

import dataclasses
import os
import pwd
import shutil
import signal
import socket
import tempfile
import time
import pathlib
import urllib.request

from . import processes
from .processes import Failed, Process, cpu_seconds, wait_until

PASSWORD = "loopback"

# What a public server would have, and PostgreSQL's own defaults for everything that keeps data safe. The seed raised
# max_connections to 500, too.
POSTGRES = """listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 500
shared_buffers = 512MB
max_wal_size = 4GB
maintenance_work_mem = 256MB
"""

# Redis keeps what was used last, as the seed's did.
REDIS = ["--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"]

# Seconds that a server may take to answer its first request.
START = 60


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to run a server; `label` stands in tables and plots."""

    label: str
    program: str
    redis: bool = False
    # This server only: where rows are (sqlite: the demo catalogue; sqlite-rows: as many as asked for; url: where one says), and whether its
    # own cache is on.
    database: str = "postgres"
    l1: bool = True
    arguments: tuple = ()


KINDS = {
    "ours-sqlite": Kind("canvas-cluster, SQLite", "ours", database="sqlite"),
    "ours-sqlite-unfiltered": Kind("canvas-cluster, --seccomp=false", "ours", database="sqlite", arguments=("--seccomp=false",)),
    "ours-sqlite-uncached": Kind("canvas-cluster, SQLite, no cache", "ours", database="sqlite-rows", l1=False),
    "ours": Kind("canvas-cluster", "ours"),
    "ours-uncached": Kind("canvas-cluster, no cache", "ours", l1=False),
    "ours-elsewhere": Kind("canvas-cluster", "ours", database="url"),
    "ours-redis": Kind("canvas-cluster + Redis", "ours", redis=True),
    "ours-redis-only": Kind("canvas-cluster + Redis, no own cache", "ours", redis=True, l1=False),
    "node": Kind("Node cluster", "node"),
    "node-redis": Kind("Node cluster + Redis", "node", redis=True),
    "actix": Kind("actix-web", "actix"),
    "actix-redis": Kind("actix-web + Redis", "actix", redis=True),
    "nginx": Kind("nginx, a constant", "nginx"),
}

COLOURS = {"ours": "#c8102e", "node": "#3c873a", "actix": "#3465a4", "nginx": "#777777"}


def label(kind):
    return KINDS[kind].label


class Server:
    """A server that answers. `cpu()` is its process tree's time, `store_cpu()` that of PostgreSQL and Redis behind it."""

    def __init__(self, kind, workers, process, port, stores):
        self.kind, self.workers, self.process, self.port = kind, workers, process, port
        self.stores = stores
        self.base = f"http://127.0.0.1:{port}"
        self.first_answer = None

    @property
    def label(self):
        return label(self.kind)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def store_cpu(self):
        return cpu_seconds(*(store.pid for store in self.stores)) if self.stores else 0.0

    def memory(self):
        return processes.memory(self.process.pid)

    def workers_of(self):
        """The process ids of its workers."""
        return [pid for pid in processes.tree(self.process.pid) if pid != self.process.pid]

    def stop(self):
        self.process.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Field:
    def __init__(self, layout, rows, sqlite_rows):
        self.layout, self.rows, self.sqlite_rows = layout, rows, sqlite_rows
        # /var/tmp is on a disk where /tmp may be memory. Another user must be able to pass through to its part.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="canvas-benches-", dir="/var/tmp"))
        self.folder.chmod(0o711)
        self._postgres = self._redis = None
        self._postgres_port = self._redis_port = 0
        self._slow = False
        self._numbers = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        processes.stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Databases

    def psql(self, sql, database="canvas", patience=120):
        """Runs SQL and answers with its rows, unaligned."""
        command = [self.layout.postgres_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database)]
        return processes.run(command, patience, stdin=sql)

    def url(self, database="canvas"):
        self.postgres()
        return f"postgres://canvas:{PASSWORD}@127.0.0.1:{self._postgres_port}/{database}"

    def postgres(self):
        """The private PostgreSQL, started by the first who asks; its database `canvas` holds `rows` shoes."""
        if self._postgres is None or self._postgres.ended():
            self._postgres, self._slow = None, False
            self._start_postgres()
        return self._postgres

    def sqlite(self):
        """A file of SQLite's with `sqlite_rows` shoes."""
        path = self.folder / "sqlite" / "shoes.db"
        if not path.exists():
            path.parent.mkdir(mode=0o700)
            processes.run([self.layout.server, "migrate"], 60, env={**clean_environment(), "CANVAS_DATABASE_URL": f"sqlite:{path}"})
            self.seed(f"sqlite:{path}", self.sqlite_rows)
        return path

    def slow_database(self, a_row):
        """The name of a database whose every row takes so many seconds, in each of its connections. It waits and does not compute, so
        that what it can do is known whatever else the processors do."""
        name = "slow"
        if not self._slow:
            self.psql(f"CREATE DATABASE {name}", "postgres")
            self.seed(self.url(name), 20_000)
            media = ", ".join(f"img{n}" for n in range(2, 8)) + ", vid1, vid2"
            self.psql(f"""
                ALTER TABLE shoe_images RENAME TO stored;
                CREATE FUNCTION slowly(text) RETURNS text VOLATILE LANGUAGE sql AS 'SELECT $1 FROM pg_sleep({a_row})';
                CREATE VIEW shoe_images AS SELECT id, shoe_id, slowly(img1::text)::varchar AS img1, {media} FROM stored;
                ANALYZE stored""", name)
            self._slow = True
        return name

    def redis(self):
        if self._redis is None or self._redis.ended():
            port = free_port()
            command = ["redis-server", "--bind", "127.0.0.1", "--port", port, *REDIS]
            redis = Process("Redis", command, self.folder / "redis.log", cwd=self.folder)
            wait_until(lambda: accepts(port), START, "an answer of Redis", redis)
            self._redis, self._redis_port = redis, port
        return self._redis

    def redis_port(self):
        self.redis()
        return self._redis_port

    def _start_postgres(self):
        user = unprivileged_user()
        home = self.folder / f"postgres-{self._next()}"
        home.mkdir()
        if user:
            shutil.chown(home, user, user)
        password = home / "password"
        password.write_text(PASSWORD, encoding="ascii")
        password.chmod(0o644)
        data = home / "data"
        processes.run([
            self.layout.postgres_program("initdb"), "-D", data, "-U", "canvas", "--auth=scram-sha-256", "--encoding=UTF8",
            "--locale=C", "--no-sync", "--no-instructions", f"--pwfile={password}"], 120, user=user, cwd=home)
        with open(data / "postgresql.conf", "a", encoding="ascii") as settings:
            settings.write(POSTGRES)
        self._postgres_port = free_port()
        command = [self.layout.postgres_program("postgres"), "-D", data, "-p", self._postgres_port]
        log = home / "log"
        log.touch()
        if user:
            shutil.chown(log, user, user)
        self._postgres = Process("PostgreSQL", command, log, user=user, cwd=home, stop_signal=signal.SIGINT)

        def answers():
            try:
                return self.psql("SELECT 1", "postgres", 10).strip() == "1"
            except Failed:
                return False

        wait_until(answers, START, "an answer of PostgreSQL", self._postgres)
        self.psql("CREATE DATABASE canvas", "postgres")
        self.seed(self.url(), self.rows)
        self.psql("CHECKPOINT")

    def seed(self, url, rows):
        env = {**clean_environment(), "CANVAS_DATABASE_URL": url}
        processes.run([self.layout.server, "seed", "--rows", rows], 600, env=env, cwd=self.folder)

    # Servers

    def start(self, kind, workers, cpus=None, patience=START, database="canvas"):
        """Starts a server, on one of PostgreSQL's databases (or a URL) if that is where its rows are, and waits until it has answered a request."""
        what = KINDS[kind]
        stores = []
        if what.program != "nginx" and what.database == "postgres":
            stores.append(self.postgres())
        if what.redis:
            stores.append(self.redis())
        for attempt in range(3):
            # Another program may take the port between our look and the start.
            port = free_port()
            folder = self.private_folder(kind)
            command, env = getattr(self, "_" + what.program)(what, workers, port, folder, database)
            process = Process(what.label, command, folder / "log", env=env, cwd=folder, cpus=cpus)
            server = Server(kind, workers, process, port, stores)
            try:
                self.await_answer(server.base, process, patience)
                server.first_answer = time.monotonic() - process.started
                return server
            except Failed:
                process.stop()
                if attempt == 2 or "in use" not in process.tail().lower():
                    raise
        raise AssertionError

    def private_folder(self, name):
        folder = self.folder / f"{name}-{self._next()}"
        folder.mkdir(mode=0o700)
        return folder

    @staticmethod
    def await_answer(base, process, patience=START):
        """Waits until a server has answered a request, or fails."""
        until = process.started + patience
        while True:
            try:
                with urllib.request.urlopen(base + "/api/images/?shoe_id=1", timeout=5) as answer:
                    answer.read()
                return
            except OSError as error:
                if process.ended():
                    raise Failed(f"{process.name} ended at once: {process.tail()}") from error
                if time.monotonic() > until:
                    raise Failed(f"{process.name} does not answer: {error}; {process.tail()}") from error
                time.sleep(0.001)

    def _ours(self, what, workers, port, folder, database):
        env = clean_environment()
        command = [self.layout.server, "--workers", workers, "--listen", f"127.0.0.1:{port}", "--state-dir", folder / "state",
                   "--control-socket", folder / "control.sock", "--tune-host=false"]
        if what.database == "postgres":
            env["CANVAS_DATABASE_URL"] = self.url(database)
        if what.database == "url":
            env["CANVAS_DATABASE_URL"] = database
        if what.database == "sqlite-rows":
            env["CANVAS_DATABASE_URL"] = f"sqlite:{self.sqlite()}"
        if what.redis:
            env["CANVAS_REDIS_URL"] = f"redis://127.0.0.1:{self._redis_port}/1"
        if not what.l1:
            command += ["--l1-bytes", "0"]
        return [*command, *what.arguments], env

    def _peer(self, what, workers, port, database):
        env = {**os.environ, "PEER_LISTEN": f"127.0.0.1:{port}", "PEER_WORKERS": str(workers), "DATABASE_URL": self.url(database),
               "NODE_ENV": "production"}
        env.pop("REDIS_URL", None)
        if what.redis:
            env["REDIS_URL"] = f"redis://127.0.0.1:{self._redis_port}/2"
        return env

    def _node(self, what, workers, port, _folder, database):
        return ["node", self.layout.peers / "node-cluster" / "server.js"], self._peer(what, workers, port, database)

    def _actix(self, what, workers, port, _folder, database):
        return [self.layout.actix], self._peer(what, workers, port, database)

    def _nginx(self, _what, workers, port, folder, _database):
        """The same bytes as this server's answer, from nginx's memory: what the network and the generator cost."""
        head, content = self._our_answer()
        fields = "".join(f"add_header {name} '{value}';\n" for name, value in head)
        (folder / "nginx.conf").write_text(f"""daemon off;
worker_processes {workers};
worker_rlimit_nofile {nofile()};
pid {folder}/nginx.pid;
error_log {folder}/log;
events {{ worker_connections {nofile() - 100}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096 reuseport;
        default_type application/json;
        {fields}
        location / {{ return 200 '{content}'; }}
    }}
}}
""", encoding="ascii")
        return ["nginx", "-p", folder, "-c", folder / "nginx.conf"], dict(os.environ)

    def _our_answer(self):
        with self.start("ours-sqlite", 1) as server:
            with urllib.request.urlopen(server.base + "/api/images/?shoe_id=1", timeout=10) as answer:
                content = answer.read().decode("ascii")
                own = ("date", "server", "content-length", "content-type", "connection")
                return [field for field in answer.getheaders() if field[0].lower() not in own], content

    def _next(self):
        self._numbers += 1
        return self._numbers


def clean_environment():
    """Ours without settings of this server's that a person may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CANVAS_")}


def nofile():
    import resource
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)


def free_port():
    """A port below those that outgoing connections take, so that no client's socket is in its way."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as ports:
        first = int(ports.read().split()[0])
    start = 10_000 if first > 12_000 else 1_100
    span = max(first - start, 500)
    for number in range(span):
        port = start + (number * 7919 + os.getpid() * 31 + time.monotonic_ns() // 1000) % span
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Failed("no port is free")


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def unprivileged_user():
    """PostgreSQL refuses to run as root; its package brings a user for it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            pass
    raise Failed("PostgreSQL needs a user that is not root, and there is neither postgres nor nobody")
