"""Several hosts of this server behind nginx, as the seed's final run had them, all on this machine. To an experiment a fleet is a
server: it has a base to ask, costs CPU time, and stops."""

import os

from .field import free_port, nofile
from .processes import Process, cpu_seconds

# Idle connections that each of nginx's workers keeps to the hosts.
KEPT = 128


class Fleet:
    """`hosts` servers of a kind with so many workers each. `cpu()` is the time of all their trees and of nginx's, `balancer_cpu()`
    that of nginx alone."""

    def __init__(self, field, kind, hosts, workers, balancer_workers):
        self.kind, self.workers = kind, workers
        self.hosts, self.balancer = [], None
        try:
            self.hosts = [field.start(kind, workers) for _ in range(hosts)]
            self.balancer, self.base = _balance(field, [host.port for host in self.hosts], balancer_workers)
            field.await_answer(self.base, self.balancer)
        except BaseException:
            self.stop()
            raise

    def cpu(self):
        return self.balancer_cpu() + cpu_seconds(*(host.process.pid for host in self.hosts))

    def balancer_cpu(self):
        return cpu_seconds(self.balancer.pid)

    def store_cpu(self):
        # They have the same stores.
        return self.hosts[0].store_cpu()

    def stop(self):
        if self.balancer:
            self.balancer.stop()
        for host in self.hosts:
            host.stop()


def _balance(field, ports, workers):
    """nginx in front of the hosts, with what the seed found important: least_conn, keep-alive on both sides, and limits on files."""
    port = free_port()
    folder = field.private_folder("balancer")
    upstreams = "".join(f"        server 127.0.0.1:{upstream};\n" for upstream in ports)
    (folder / "nginx.conf").write_text(f"""daemon off;
worker_processes {workers};
worker_rlimit_nofile {nofile()};
pid {folder}/nginx.pid;
error_log {folder}/log;
events {{ worker_connections {nofile() // 2}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    upstream hosts {{
        zone hosts 256k;
        least_conn;
{upstreams}        keepalive {KEPT};
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096 reuseport;
        location / {{
            proxy_pass http://hosts;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
""", encoding="ascii")
    command = ["nginx", "-p", folder, "-c", folder / "nginx.conf"]
    return Process("nginx, the balancer", command, folder / "log", env=dict(os.environ), cwd=folder), f"http://127.0.0.1:{port}"
