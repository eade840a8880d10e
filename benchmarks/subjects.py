"""What is measured: each proxy with its configuration, started alone on a core of its own in front of an echo server.

Every subject forwards all paths, and refuses /refused/... with 429. It is started anew for each measurement, so that none carries
what an earlier one left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 15.0  # seconds until a server listens
STOP_TIMEOUT = 5.0  # seconds after SIGTERM


class BenchmarkError(Exception):
    """A measurement that means nothing, and why."""


@dataclass(frozen=True)
class Tools:
    """Programs, and a folder for what they write."""

    nginx: Path
    haproxy: Path
    wsecho: Path
    wsload: Path
    scratch: Path


@dataclass(frozen=True)
class Cores:
    """Numbers of cores: one for the proxy, the others for load and backend."""

    proxy: int
    others: frozenset[int]


def share_out(available: frozenset[int]) -> Cores:
    """The last core for the proxy. With one core alone everything shares it, and figures are worth little."""
    proxy = max(available)
    return Cores(proxy, available - {proxy} or available)


@dataclass(frozen=True)
class Running:
    """A server that listens. `pid` is the process that carries the load."""

    port: int
    pid: int


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What is started in here stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def process(command: Sequence[str | Path], cores: frozenset[int], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, in a session of its own (Ctrl-C is for us, and we end it), and end it with all its children."""
    with log.open("wb") as output, on_cores(cores):
        server = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield server
    finally:
        os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        while not has_ended(server.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(server.pid, signal.SIGKILL)  # before the wait (and no poll anywhere): the number cannot be anybody else's yet
        server.wait()


def has_ended(pid: int) -> bool:
    """Whether this child has ended, without burying it: until then its group keeps its number."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_children() -> None:
    """End what is left when we leave: a signal may come between the start of a server and the place that would end it."""
    for pid in children_of(os.getpid()):
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                end(pid, signal.SIGKILL)


def until(is_so: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server that starts. Raises BenchmarkError with its last words when it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    while not is_so():
        if has_ended(server.pid) or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise BenchmarkError(f"it does not start: {' / '.join(words) or 'no output'}")
        time.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def echo_server(tools: Tools, cores: Cores) -> Iterator[Running]:
    port, log = free_port(), tools.scratch / "wsecho.log"
    with process([tools.wsecho, "-q", "-p", str(port)], cores.others, log) as server:
        until(lambda: accepts(port), server, log)
        yield Running(port, server.pid)


# --- the proxies ------------------------------------------------------------------------------------------------------------

# Temporary files in the scratch folder: the usual place belongs to root. The fewest syscalls that nginx can do with.
NGINX = """
worker_processes 1;
daemon off;
pid {scratch}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {scratch}/nginx-body; proxy_temp_path {scratch}/nginx-proxy; fastcgi_temp_path {scratch}/nginx-fastcgi;
  uwsgi_temp_path {scratch}/nginx-uwsgi; scgi_temp_path {scratch}/nginx-scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /refused/ {{ return 429; }}
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_read_timeout 600s;
      proxy_send_timeout 600s;
    }}
  }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn {connections}
  ulimit-n {files}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 600s
  backlog 4096
  maxconn {connections}
frontend door
  bind 127.0.0.1:{port}
  http-request deny deny_status 429 if {{ path_beg /refused/ }}
  default_backend echo
backend echo
  server echo 127.0.0.1:{upstream} maxconn {connections}
"""

# Without rules the gate walks frames (it must know where they end) and meters nothing.
WSGATE = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
upstreams:
  echo: {{url: "ws://127.0.0.1:{upstream}"}}
identity:
  secret: the-secret-of-the-benchmark
routes:
  - {{name: refused, path: "/refused/{{rest*}}", upstream: echo}}
  - {{name: tournament, path: "/ws/tournament/{{room}}", upstream: echo}}
  - {{name: rest, path: "/{{rest*}}", upstream: echo}}
refuse_with: http
"""

# The rules of config/wsgate.yaml, with limits that nobody reaches.
RULES_AT_THE_UPGRADE = """
rules:
  - {name: nobody,           per: ip,   connections: 0, when: {route: refused}}
  - {name: user-connections, per: user, connections: 1000000}
  - {name: ip-connections,   per: ip,   connections: 1000000}
  - {name: room-seats,       per: room, members: 1000000}
  - {name: ip-upgrades,      per: ip,   upgrades: 1000000/s, burst: 1000000}
"""
RULES_ON_THE_FRAMES = """\
  - {name: user-messages,    per: user, messages: 1000000/s, burst: 1000000, on_excess: drop}
  - {name: ip-messages,      per: ip,   messages: 1000000/s, burst: 1000000, on_excess: drop}
  - {name: payload,          per: connection, message_size: 1MiB}
"""


@contextlib.contextmanager
def direct(tools: Tools, cores: Cores, upstream: int) -> Iterator[Running]:  # noqa: ARG001 -- one signature for all subjects
    """No proxy at all: what the load and the backend take by themselves."""
    yield Running(upstream, 0)


@contextlib.contextmanager
def nginx(tools: Tools, cores: Cores, upstream: int) -> Iterator[Running]:
    port, config = free_port(), tools.scratch / "nginx.conf"
    config.write_text(NGINX.format(scratch=tools.scratch, port=port, upstream=upstream, files=open_files() - 100))
    with listening([tools.nginx, "-e", "stderr", "-p", tools.scratch, "-c", config], cores, tools, port) as server:
        until(lambda: bool(children_of(server.pid)), server, tools.scratch / "proxy.log")  # the master listens before it has a worker
        yield Running(port, children_of(server.pid)[0])


@contextlib.contextmanager
def haproxy(tools: Tools, cores: Cores, upstream: int) -> Iterator[Running]:
    port, config = free_port(), tools.scratch / "haproxy.cfg"
    files = open_files() - 100
    config.write_text(HAPROXY.format(port=port, upstream=upstream, files=files, connections=(files - 100) // 2))
    with listening([tools.haproxy, "-db", "-f", config], cores, tools, port) as server:
        yield Running(port, server.pid)


@contextlib.contextmanager
def aiohttp_relay(tools: Tools, cores: Cores, upstream: int) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.aiohttp_relay", "--port", str(port), "--upstream", f"ws://127.0.0.1:{upstream}"]
    with listening(command, cores, tools, port) as server:
        yield Running(port, server.pid)


@contextlib.contextmanager
def listening(command: Sequence[str | Path], cores: Cores, tools: Tools, port: int) -> Iterator[subprocess.Popen[bytes]]:
    log = tools.scratch / "proxy.log"
    with process(command, frozenset({cores.proxy}), log) as server:
        until(lambda: accepts(port), server, log)
        yield server


def wsgate(rules: str) -> Subject:
    @contextlib.contextmanager
    def start(tools: Tools, cores: Cores, upstream: int) -> Iterator[Running]:
        config, log = tools.scratch / "wsgate.yaml", tools.scratch / "proxy.log"
        config.write_text(WSGATE.format(upstream=upstream) + rules)
        with process([sys.executable, "-m", "proxy", "run", "--config", config], frozenset({cores.proxy}), log) as server:
            until(lambda: announced_port(log.read_text()) is not None, server, log)
            port = announced_port(log.read_text())
            assert port is not None
            yield Running(port, server.pid)

    return start


def announced_port(log: str) -> int | None:
    """The port in the gate's line "listening"; None while there is none."""
    for line in log.splitlines():
        if '"listening"' in line and line.endswith("}"):
            return int(json.loads(line)["address"].rpartition(":")[2])
    return None


def open_files() -> int:
    """How many a process may have; the limit is raised to what is allowed, and children inherit that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(hard, 1_000_000) if hard != resource.RLIM_INFINITY else 1_000_000  # HAProxy and nginx allocate for all of them
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


Subject = Callable[[Tools, Cores, int], contextlib.AbstractContextManager[Running]]

SUBJECTS: dict[str, Subject] = {
    "direct": direct,
    "nginx": nginx,
    "wsgate": wsgate(RULES_AT_THE_UPGRADE + RULES_ON_THE_FRAMES),
    "HAProxy": haproxy,
    "wsgate, no frame rules": wsgate(RULES_AT_THE_UPGRADE),
    "aiohttp relay": aiohttp_relay,
}
