"""Composition root: the only file that sees the whole Config. It builds the parts, opens the ports, and takes all down again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from math import ceil
from typing import Final, NoReturn

import uvloop
from aiohttp import web

from proxy import __version__
from proxy.config import Config, StoreSettings
from proxy.ledger.fallback_store import FallbackStore, OnStoreDown, StoreOptions, open_store
from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.scoped_store import ScopedStore
from proxy.ledger.store import Store, StoreEvents, StoreState
from proxy.log import Level, LineFormat, Log
from proxy.metrics import Breaches, Exposition, GateCollector, Totals
from proxy.policy.admission import AdmissionRules, RefusalHistory
from proxy.policy.identity import DOCUMENTED_SECRET, Identifier
from proxy.policy.meter import MeterRules
from proxy.policy.routes import RouteTable
from proxy.policy.rules import FRAME_QUANTITIES, SEAT_QUANTITIES, Scope
from proxy.policy.upstreams import Address, TcpAddress, UnixAddress
from proxy.server.admin import build_admin
from proxy.server.capacity import Bounds, Capacity
from proxy.server.door import Door, Entrance
from proxy.server.http_client import is_compiled
from proxy.server.linger import LINGER, Lingering
from proxy.server.live import Live
from proxy.server.passthrough import Passthrough
from proxy.server.sockets import Keepalive, listen_tcp, listen_unix
from proxy.server.store_watch import StoreWatch, over_limit
from proxy.server.timing_wheel import TimingWheel
from proxy.server.tls import server_context
from proxy.server.tls_listener import TlsListener
from proxy.server.tunnel import Surroundings
from proxy.server.turns import Turns
from proxy.server.upgrade import GOING_DOWN, NO_ROUTE, Result, UpgradePath
from proxy.server.upstream import Dialer
from proxy.server.vigil import Patience, Rounds
from proxy.unhandled import report_to
from proxy.wire.frames import CloseCode

SWEEP_INTERVAL: Final = 1.0  # seconds
CROWD_INTERVAL: Final = 60  # sweeps between two looks at who holds most of the users
MAX_WARNED: Final = 100  # addresses that the log warns of
STOP_TIMEOUT: Final = 3.0  # seconds that connections have to leave at least: a little more than they linger
ADMIN_SHUTDOWN: Final = 0.2  # seconds that a question to the admin port has left, twice: aiohttp's own 60 s outlast any supervisor
STOP_STEP: Final = 0.02  # seconds
ACCEPTING: Final = 3  # turns of the loop until a connection that it has accepted is at its door
BACKLOG: Final = 4096  # connections that the kernel may hold for us; it has a bound of its own
GC_THRESHOLD: Final = 50_000  # allocations between two young collections: tunnels live long, and full passes over them cost
MOST_FILES: Final = 1 << 20  # where there is no hard limit: what Linux allows by default (fs.nr_open)
OWN_FILES: Final = 128  # open files that are nobody's connection


class StoreRequiredError(Exception):
    """The store cannot be used, and without it the gate does not start. Its text tells why, and no password."""


class Gate:
    """One running instance. `start` opens the ports, `stop` takes leave of all connections; both are called once."""

    def __init__(self, config: Config, log: Log, max_connections: int | None = None) -> None:
        self._config = config
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.totals = _zeroed_totals(config)
        self._watch = StoreWatch(self.totals.store, log)
        self._shared = _shared_store(config.store, self._watch)
        self._memory = MemoryStore()
        own_rules = [rule.name for rule in config.rules if rule.scope is Scope.INSTANCE]
        self._store: Store = self._memory if self._shared is None else ScopedStore(self._memory, self._shared, own_rules)
        self._wheel = TimingWheel(self._loop)
        self._history = RefusalHistory()
        self._turns = Turns(self._loop)
        self._lingering = Lingering(self._wheel, self._turns)
        self._meters = MeterRules(config.rules, Identifier(config.identity))
        self.live = Live(self.totals, self._store, log)
        self.max_connections = max_connections or config.limits.max_connections or connections_for(open_files())
        self._keepalive = Keepalive(
            config.tunnel.keepalive.idle,
            config.tunnel.keepalive.interval,
            config.tunnel.keepalive.count,
            config.tunnel.user_timeout,
        )
        self._entrance = self._build_entrance()
        self._exposition = self._build_exposition()
        self._servers: list[asyncio.Server | TlsListener] = []
        self._admin: web.AppRunner | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweeps = 0
        self._warned: set[str] = set()
        self.listen: Address = config.listen  # as opened, from `start` on
        self.admin: TcpAddress = config.admin

    def _build_entrance(self) -> Entrance:
        config = self._config
        identifier = Identifier(config.identity)
        routes = RouteTable(config.routes)
        limits = config.limits
        capacity = Capacity(Bounds(self.max_connections, limits.max_pending, limits.max_pending_per_ip))
        tunnel = config.tunnel
        patience = Patience(tunnel.slow_reader, tunnel.ping_interval, tunnel.ping_timeout, tunnel.idle_timeout, tunnel.max_lifetime)
        scheme = b"http" if config.tls is None else b"https"
        self._path = UpgradePath(
            routes=routes,
            upstreams=config.upstreams,
            identifier=identifier,
            sources=config.identity.sources,
            admission=AdmissionRules(config.rules, identifier),
            meters=self._meters,
            store=self._store,
            history=self._history,
            refuse_with=config.refuse_with,
            totals=self.totals,
            live=self.live,
            loop=self._loop,
            wheel=self._wheel,
            lingering=self._lingering,
            capacity=capacity,
            log=self._log,
            dialer=Dialer(config.upstreams.values(), self._keepalive, self._wheel),
            surroundings=Surroundings(self._lingering, self.live, self._wheel, Rounds(self._wheel, patience), self._turns),
            buffer=tunnel.buffer,
            scheme=scheme,
        )
        self._passthrough = Passthrough(self._path, self._keepalive, limits.head_size, limits.head_timeout)
        return Entrance(
            self._path,
            self._passthrough,
            identifier,
            capacity,
            self.connections,
            self._wheel,
            limits.head_size,
            limits.head_timeout,
        )

    def _build_exposition(self) -> Exposition:
        seats = {rule.name: 0 for rule in self._config.rules if rule.quantity in SEAT_QUANTITIES}
        return Exposition(
            GateCollector(
                self.totals,
                __version__,
                breaches=lambda: _breaches(self._meters),
                seats=lambda: seats | dict(self._store.seats()),
                over_limit=lambda: seats | dict(self._over_limit()),
                traffic=self.live.traffic,
            )
        )

    def _over_limit(self) -> Mapping[str, int]:
        others = (lambda _: 0) if self._shared is None else self._shared.others
        return over_limit((held.grant for held in self.live.held.values()), others)

    def connections(self) -> int:
        """Client connections that are there now, whatever their state."""
        entrance = self._entrance
        at_the_door = len(entrance.doors) + len(entrance.handshakes)
        under_way = len(self._path.tasks) + len(self._path.relays) + len(self._passthrough)
        return at_the_door + under_way + len(self.live.held) + len(self._lingering)

    async def start(self) -> None:
        """Open the admin port, then, after the store's first answer or its deadline, the public one.

        Raises OSError, with the address in its text, when one cannot be opened, and StoreRequiredError.
        """
        self.admin = await self._open_admin()
        await self._passthrough.open()
        await self._start_store()
        self.listen = await self._open_public()
        self._sweep()

    async def _start_store(self) -> None:
        if self._shared is None:
            return
        self._watch.begin()
        problem = await self._shared.start()
        if problem is None:
            return
        if self._config.store.required:
            raise StoreRequiredError(f"store_required, but {self._config.store.address} cannot be used: {problem}")
        self._watch.state_changed(StoreState.DOWN, problem)

    async def _open_admin(self) -> TcpAddress:
        address = self._config.admin
        self._admin = web.AppRunner(build_admin(self._exposition, self.is_ready), access_log=None, shutdown_timeout=ADMIN_SHUTDOWN)
        await self._admin.setup()
        with _naming(address):
            await web.TCPSite(self._admin, address.host, address.port).start()
        return TcpAddress(address.host, self._admin.addresses[0][1])

    async def _open_public(self) -> Address:
        address = self._config.listen
        tls = self._config.tls
        context = None if tls is None else server_context(tls.certificate, tls.key)
        with _naming(address):
            if isinstance(address, UnixAddress):
                sockets = [listen_unix(address.path, BACKLOG)]
            else:
                sockets = listen_tcp(address.host, address.port, self._keepalive, BACKLOG)
        opened = address if isinstance(address, UnixAddress) else TcpAddress(address.host, sockets[0].getsockname()[1])
        for sock in sockets:
            self._servers.append(await self._serve(sock) if context is None else TlsListener(sock, self._entrance, context))
        return opened

    async def _serve(self, sock: socket.socket) -> asyncio.Server:
        if sock.family == socket.AF_UNIX:
            return await self._loop.create_unix_server(self._door, sock=sock, backlog=BACKLOG)
        return await self._loop.create_server(self._door, sock=sock, backlog=BACKLOG)

    def _door(self) -> Door:
        return Door(self._entrance)

    def is_ready(self) -> bool:
        """The public port is open."""
        return bool(self._servers) and all(server.is_serving() for server in self._servers)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._store.sweep(now)
        self._history.sweep(now)
        self._log.flush()
        self._sweeps += 1
        if self._sweeps % CROWD_INTERVAL == 0:
            self._warn_of_crowd()
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL, self._sweep)

    def _warn_of_crowd(self) -> None:
        crowd = self.live.crowded_address()
        if crowd is None or crowd[0] in self._warned or len(self._warned) >= MAX_WARNED:
            return
        address, users, everybody = crowd
        self._warned.add(address)
        text = "one address holds most of the users: if it is a proxy, list it in identity.trusted_proxies"
        self._log.warning(text, address=address, users=users, of=everybody)

    @property
    def lingering_connections(self) -> int:
        """Connections that have had our last word and are not gone yet."""
        return len(self._lingering)

    def remembered(self) -> int:
        """Keys in all tables that clients can grow."""
        tables = len(self._memory) + (0 if self._shared is None else len(self._shared)) + len(self._history) + len(self._entrance.capacity)
        return tables + self.connections() - len(self.live.held)

    async def stop(self, drain: float = 0.0) -> None:
        """Stop accepting, close every tunnel with 1001, spread over `drain` seconds less those that a close lingers, and wait.

        Upgrades that are under way have the same time; the others hear then that there is none left.
        """
        started = self._loop.time()
        for server in self._servers:
            server.close()
        self._passthrough.finish()
        for door in list(self._entrance.doors):
            door.end()
        last_words = started + max(0.0, drain - LINGER)
        await self._spread(started, max(0.0, drain - LINGER))
        while self._path.tasks and self._loop.time() < last_words:  # noqa: ASYNC110 -- as below
            await asyncio.sleep(STOP_STEP)
        deadline = started + max(drain, STOP_TIMEOUT)
        while self._take_leave() and self._loop.time() < deadline:  # noqa: ASYNC110 -- many things end; at a stop 20 ms are nothing
            await asyncio.sleep(STOP_STEP)
        for _ in range(ACCEPTING):
            await asyncio.sleep(0)
            self._take_leave()
        await self.abort()

    async def _spread(self, started: float, seconds: float) -> None:
        """Close the tunnels little by little, so that their clients do not all come to another instance at once."""
        tunnels = list(self.live.held)
        random.shuffle(tunnels)
        total = len(tunnels)
        while tunnels and seconds:
            share = min(1.0, (self._loop.time() - started) / seconds)
            while tunnels and total - len(tunnels) < ceil(total * share):
                tunnels.pop().drain(CloseCode.GOING_AWAY, GOING_DOWN)
            await asyncio.sleep(STOP_STEP)

    def _take_leave(self) -> bool:
        """Tell everybody, also those who come while we go. False once nobody is there any more."""
        for door in list(self._entrance.doors):
            door.end()
        self._path.stop()
        for relay in list(self._path.relays):
            relay.end()
        for tunnel in list(self.live.held):
            tunnel.drain(CloseCode.GOING_AWAY, GOING_DOWN)
        return self.connections() > 0

    async def abort(self) -> None:
        """End what is left at once."""
        self._lingering.abort()
        await self._passthrough.close()
        if self._shared is not None:
            await self._shared.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._wheel.stop()
        self._log.flush()
        if self._admin is not None:
            await self._admin.cleanup()


@contextlib.contextmanager
def _naming(address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # whose own text names the address too; a name that does not resolve has a negative number
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None


def _shared_store(settings: StoreSettings, events: StoreEvents) -> FallbackStore | None:
    """The store beyond this process, if there is to be one; not started.

    Raises StoreRequiredError where the library is not installed that speaks to it.
    """
    if settings.address is None:
        return None
    try:
        import_module("redis.asyncio")  # takes a while: now, and not within the deadline of the first connection
    except ImportError:
        raise StoreRequiredError("the store needs the package redis: pip install 'wsgate[redis]'") from None
    when_down = OnStoreDown(settings.on_down.value)
    options = StoreOptions(settings.address, settings.prefix, settings.timeout, settings.holder_ttl, when_down)
    return open_store(options, events)


def _zeroed_totals(config: Config) -> Totals:
    """Every series that can come to be is there from the start, so that rates over it are right from the first event on."""
    totals = Totals(
        close_codes=frozenset({CloseCode.LIMIT_EXCEEDED, CloseCode.PAYLOAD_TOO_LARGE, CloseCode.ROOM_FULL})
        | {rule.close_code for rule in config.rules}
    )
    for rule in config.rules:
        if rule.quantity not in FRAME_QUANTITIES or rule.penalty:
            totals.refusals[rule.name, rule.mode.value] = 0
            totals.store.conflicts[(rule.name,)] = 0
    for result in Result:
        if result in (Result.NO_ROUTE, Result.BAD_REQUEST, Result.UNAVAILABLE):
            totals.upgrades[NO_ROUTE, result.value] = 0
        for route in config.routes:
            totals.upgrades[route.name, result.value] = 0
    return totals


def _breaches(meters: MeterRules) -> Breaches:
    for one in meters.frame_rules:
        for action, frames in one.totals():
            yield one.rule.name, action, one.rule.mode.value, frames


def run(config: Config) -> NoReturn:
    """Run until SIGTERM or SIGINT; a second one ends at once. Ends the process: with status 1 when a port cannot be opened, else 0."""
    log = Log(
        level=Level[config.log.level.name],
        line_format=LineFormat(config.log.format.value),
        access=config.log.access,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _leave(runner.run(_serve(config, log)))


def _leave(code: int) -> NoReturn:
    """All is said and closed. The ordinary way out waits for threads, and a resolver that hangs may hold one for a minute."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(code)


async def _serve(config: Config, log: Log) -> int:
    files = open_files()
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    report_to(log, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        gate = Gate(config, log)
    except StoreRequiredError as error:
        log.error(str(error))
        return 1
    if config.identity.secret == DOCUMENTED_SECRET:
        log.warning("no identity.secret: tokens are digested under a key that everybody knows")
    if not is_compiled():
        log.warning("aiohttp runs without its C extensions: ordinary HTTP costs several times as much (is AIOHTTP_NO_EXTENSIONS set?)")
    try:
        await gate.start()
    except (OSError, StoreRequiredError) as error:
        log.error(getattr(error, "strerror", None) or str(error))
        await gate.abort()
        return 1
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    log.info(
        "listening",
        address=str(gate.listen),
        admin=str(gate.admin),
        version=__version__,
        max_connections=gate.max_connections,
        open_files=files,
    )
    await signals.get()
    log.info("stopping", connections=gate.totals.connections, drain=config.drain)
    stopping = asyncio.ensure_future(gate.stop(config.drain))
    second = asyncio.ensure_future(signals.get())
    await asyncio.wait((stopping, second), return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        stopping.result()  # raises what went wrong
    else:
        stopping.cancel()
        log.warning("stopped at once, by a second signal", connections=gate.totals.connections)
    second.cancel()
    log.info("stopped")
    return 0


def open_files() -> int:
    """Raise the number of files that we may open to the hard limit. Returns that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def connections_for(files: int) -> int:
    """How many clients fit: each may need a second file, for its upstream."""
    return max(1, (files - OWN_FILES) // 2)
