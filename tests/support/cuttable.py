"""A link that can be cut: a TCP proxy on the loopback between a client and a server, for partitions as networks have them.

    forward        bytes go through
    hold           packets are lost: nothing comes through, nobody is told; what was sent arrives once the link is whole again, as TCP
                   would have it. New connections seem to be made and then are as silent
    refuse         connections are reset, new ones are refused
    lose_replies   what the client asks is done, and it never hears of it: on the connections of that time, for ever
    half_open      the server has forgotten the connections that are there, and their clients are not told; new ones are fine
    delay          seconds that every byte takes, in each direction

It runs in the event loop of the test. Its own delay is a turn of that loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import cast


class State(Enum):
    """What a new connection meets."""

    FORWARD = auto()
    HOLD = auto()
    REFUSE = auto()
    LOSE_REPLIES = auto()


class Cuttable:
    """One link. `connections`, `to_server` and `to_client` count what has come so far: connections, and bytes that were passed on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Client] = set()
        self.port = 0
        self.state = State.FORWARD
        self.delay = 0.0
        self.connections = 0
        self.to_server = 0
        self.to_client = 0

    @property
    def open_connections(self) -> int:
        return len(self._pairs)

    async def open(self) -> None:
        """Listen: on a free port, and after a `refuse` on the same one."""
        loop = asyncio.get_running_loop()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = await loop.create_server(lambda: _Client(self), sock=listener)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def shut(self) -> None:
        """The end of it all."""
        self._close()
        self._reset()

    def _reset(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    # --- what is done to it ---------------------------------------------------------------------------------------------------

    async def forward(self) -> None:
        """Make it whole again."""
        self.state = State.FORWARD
        self.delay = 0.0
        if self._server is None:
            await self.open()
        for pair in list(self._pairs):
            pair.release()

    def hold(self) -> None:
        self.state = State.HOLD
        for pair in self._pairs:
            pair.held = True

    def refuse(self) -> None:
        self.state = State.REFUSE
        self._close()
        self._reset()

    def lose_replies(self) -> None:
        self.state = State.LOSE_REPLIES
        for pair in self._pairs:
            pair.deaf = True

    def half_open(self) -> None:
        for pair in list(self._pairs):
            pair.forget_server()


class _End(asyncio.Protocol):
    """One end of a pair: what it reads goes to `other`, in order, when the link lets it through."""

    def __init__(self, link: Cuttable) -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes | None] = []  # None: the end of the stream
        self._on_its_way: deque[tuple[float, bytes | None]] = deque()  # when it is due, what it is

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def deliver(self, data: bytes | None) -> None:
        """To this end, `delay` seconds from now, and never before what is on its way already.

        Timers alone would not keep the order: those of one moment come in any, and one that is due comes after what can be read by then.
        """
        loop = asyncio.get_running_loop()
        if not self._on_its_way and not self.link.delay:
            self._write(data)
            return
        due = loop.time() + self.link.delay
        self._on_its_way.append((due, data))
        if len(self._on_its_way) == 1:
            loop.call_at(due, self._arrive)

    def _arrive(self) -> None:
        """The first one, and whatever is due with it."""
        loop = asyncio.get_running_loop()
        self._write(self._on_its_way.popleft()[1])
        while self._on_its_way and self._on_its_way[0][0] <= loop.time():
            self._write(self._on_its_way.popleft()[1])
        if self._on_its_way:
            loop.call_at(self._on_its_way[0][0], self._arrive)

    def _write(self, data: bytes | None) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if data is None:
            self.transport.close()
        else:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Client(_End):
    """The client's end, and the pair as a whole."""

    def __init__(self, link: Cuttable) -> None:
        super().__init__(link)
        self.held = link.state is State.HOLD
        self.deaf = link.state is State.LOSE_REPLIES
        self.forgotten = False
        self.server = _Server(link, self)
        self._dial: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.link.connections += 1
        self.link._pairs.add(self)
        self._dial = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self.link._target)
        except OSError:
            self.reset()

    def data_received(self, data: bytes) -> None:
        self.up(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.link._pairs.discard(self)
        self.up(None)

    def up(self, data: bytes | None) -> None:
        """Towards the server."""
        if self.forgotten:
            return
        if self.held or self.server.transport is None:
            self.server.waiting.append(data)
            return
        self.link.to_server += len(data or b"")
        self.server.deliver(data)

    def down(self, data: bytes | None) -> None:
        """Towards the client."""
        if self.forgotten or self.deaf:
            return
        if self.held:
            self.waiting.append(data)
            return
        self.link.to_client += len(data or b"")
        self.deliver(data)

    def release(self) -> None:
        """What was held goes on its way."""
        self.held = False
        if self.server.transport is not None:
            waiting, self.server.waiting = self.server.waiting, []
            for data in waiting:
                self.up(data)
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.down(data)

    def forget_server(self) -> None:
        self.forgotten = True
        self.server.abort()

    def reset(self) -> None:
        self.link._pairs.discard(self)
        if self._dial is not None and not self._dial.done():
            self._dial.cancel()
        self.abort()
        self.server.abort()


class _Server(_End):
    """The server's end."""

    def __init__(self, link: Cuttable, client: _Client) -> None:
        super().__init__(link)
        self.client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.client.forgotten:
            self.abort()
        elif not self.client.held:
            self.client.release()

    def data_received(self, data: bytes) -> None:
        self.client.down(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.down(None)


@asynccontextmanager
async def cuttable(port: int, host: str = "127.0.0.1") -> AsyncIterator[Cuttable]:
    """A link to a server on `host` and `port`, whole at first."""
    link = Cuttable(host, port)
    await link.open()
    try:
        yield link
    finally:
        link.shut()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
