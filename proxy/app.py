"""Composition root: the only file that sees the whole Config. It builds the parts, opens the ports, and takes all down again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import Final

import uvloop
from aiohttp import web

from proxy import __version__
from proxy.config import Config
from proxy.ledger.memory_store import MemoryStore
from proxy.log import Log
from proxy.metrics import Breaches, Exposition, GateCollector, Totals
from proxy.policy.admission import AdmissionRules, RefusalHistory
from proxy.policy.identity import DOCUMENTED_SECRET, Identifier
from proxy.policy.meter import MeterRules
from proxy.policy.routes import RouteTable
from proxy.policy.rules import FRAME_QUANTITIES, SEAT_QUANTITIES
from proxy.policy.upstreams import Address, TcpAddress, UnixAddress
from proxy.server.admin import build_admin
from proxy.server.door import Door
from proxy.server.linger import Lingering
from proxy.server.upgrade import NO_ROUTE, Live, Result, UpgradePath
from proxy.wire.frames import CloseCode

SWEEP_INTERVAL: Final = 1.0  # seconds
STOP_TIMEOUT: Final = 3.0  # seconds that connections have to leave when we stop: a little more than they linger
BACKLOG: Final = 4096  # connections that the kernel may hold for us; it has a bound of its own
GC_THRESHOLD: Final = 50_000  # allocations between two young collections: tunnels live long, and full passes over them cost


class Gate:
    """One running instance. `start` opens the ports, `stop` takes leave of all connections; both are called once."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._store = MemoryStore()
        self._history = RefusalHistory()
        self._lingering = Lingering(loop)
        self._doors: set[Door] = set()
        self._identifier = Identifier(config.identity)
        meters = MeterRules(config.rules, self._identifier)
        self.totals = _zeroed_totals(config)
        self.live = Live(self.totals, self._store)
        self._path = UpgradePath(
            routes=RouteTable(config.routes),
            upstreams=config.upstreams,
            identifier=self._identifier,
            sources=config.identity.sources,
            admission=AdmissionRules(config.rules, self._identifier),
            meters=meters,
            store=self._store,
            history=self._history,
            refuse_with=config.refuse_with,
            totals=self.totals,
            live=self.live,
            lingering=self._lingering,
        )
        seats = {rule.name: 0 for rule in config.rules if rule.quantity in SEAT_QUANTITIES}
        collector = GateCollector(
            self.totals,
            __version__,
            breaches=lambda: _breaches(meters),
            seats=lambda: seats | dict(self._store.seats()),
            traffic=self.live.traffic,
        )
        self._exposition = Exposition(collector)
        self._server: asyncio.Server | None = None
        self._admin: web.AppRunner | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.listen: Address = config.listen  # as opened, from `start` on
        self.admin: TcpAddress = config.admin

    async def start(self) -> None:
        """Open the admin port, then the public one. Raises OSError, with the address in its text, when one cannot be opened."""
        self.admin = await self._open_admin()
        self.listen = await self._open_public()
        self._sweep()

    async def _open_admin(self) -> TcpAddress:
        address = self._config.admin
        self._admin = web.AppRunner(build_admin(self._exposition, self.is_ready), access_log=None)
        await self._admin.setup()
        with _naming(address):
            await web.TCPSite(self._admin, address.host, address.port).start()
        return TcpAddress(address.host, self._admin.addresses[0][1])

    async def _open_public(self) -> Address:
        address = self._config.listen
        with _naming(address):
            if isinstance(address, UnixAddress):
                self._server = await self._loop.create_unix_server(self._door, address.path, backlog=BACKLOG)
                return address
            self._server = await self._loop.create_server(self._door, address.host, address.port, backlog=BACKLOG)
        return TcpAddress(address.host, self._server.sockets[0].getsockname()[1])

    def _door(self) -> Door:
        return Door(self._path, self._identifier, self._doors)

    def is_ready(self) -> bool:
        """The public port is open."""
        return self._server is not None and self._server.is_serving()

    def _sweep(self) -> None:
        now = time.monotonic()
        self._store.sweep(now)
        self._history.sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL, self._sweep)

    @property
    def lingering_connections(self) -> int:
        """Connections that have had our last word and are not gone yet."""
        return len(self._lingering)

    def remembered(self) -> int:
        """Keys in all tables that clients can grow."""
        tables = (self._store, self._history, self._doors, self._path.tasks, self._path.relays, self._lingering)
        return sum(len(table) for table in tables)

    async def stop(self) -> None:
        """Stop accepting, close every tunnel with 1001, and wait for them a little."""
        if self._server is not None:
            self._server.close()
        deadline = self._loop.time() + STOP_TIMEOUT
        while self._take_leave() and self._loop.time() < deadline:  # noqa: ASYNC110 -- sets that empty for many reasons; at a stop 20 ms are nothing
            await asyncio.sleep(0.02)
        self._lingering.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._admin is not None:
            await self._admin.cleanup()

    def _take_leave(self) -> bool:
        """Tell everybody, also those who come while we go. False once nobody is there any more."""
        for door in list(self._doors):
            door.end()
        for task in list(self._path.tasks):
            task.cancel()
        for relay in list(self._path.relays):
            relay.end()
        for tunnel in list(self.live.held):
            tunnel.drain(CloseCode.GOING_AWAY, "the gate is going down")
        return bool(self._path.tasks or self.live.held or len(self._lingering))


@contextlib.contextmanager
def _naming(address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # whose own text names the address too; a name that does not resolve has a negative number
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None


def _zeroed_totals(config: Config) -> Totals:
    """Every series that can come to be is there from the start, so that rates over it are right from the first event on."""
    totals = Totals(
        close_codes=frozenset({CloseCode.LIMIT_EXCEEDED, CloseCode.PAYLOAD_TOO_LARGE, CloseCode.ROOM_FULL})
        | {rule.close_code for rule in config.rules}
    )
    for rule in config.rules:
        if rule.quantity not in FRAME_QUANTITIES:
            totals.refusals[rule.name, rule.mode.value] = 0
    for result in Result:
        if result in (Result.NO_ROUTE, Result.BAD_REQUEST):
            totals.upgrades[NO_ROUTE, result.value] = 0
        for route in config.routes:
            totals.upgrades[route.name, result.value] = 0
    return totals


def _breaches(meters: MeterRules) -> Breaches:
    for one in meters.frame_rules:
        yield one.rule.name, "drop", one.rule.mode.value, one.drops
        yield one.rule.name, "close", one.rule.mode.value, one.closes


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 1 when a port cannot be opened."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, Log()))


async def _serve(config: Config, log: Log) -> int:
    raise_open_files()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gate = Gate(config, log)
    if config.identity.secret == DOCUMENTED_SECRET:
        log.warning("no identity.secret: tokens are digested under a key that everybody knows")
    try:
        await gate.start()
    except OSError as error:
        log.error(error.strerror or str(error))
        await gate.stop()
        return 1
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    log.info("listening", address=str(gate.listen), admin=str(gate.admin), version=__version__)
    await stop.wait()
    log.info("stopping", connections=gate.totals.connections)
    await gate.stop()
    log.info("stopped")
    return 0


def raise_open_files() -> int:
    """Let us have as many open files as the hard limit allows. Returns that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
