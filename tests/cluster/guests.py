"""Very many guests on one loop: WebSocket clients and the game that they want to get to, both as bare protocols.

A guest knocks, is let in or not, and may then say `tick` as often as it likes; the game says it back. All frames have one size, so
nobody has to parse. A guest that is inside and loses its connection without having left is `lost`: no test may have any.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

from proxy.wire.handshake import accept_value
from tests.support.raw import KEY

PATIENCE = 20.0  # seconds
END = b"\r\n\r\n"
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + accept_value(KEY.encode())
    + END
)
TICK = b"\x82\x88\0\0\0\0"  # a binary frame of 8 bytes, masked with zeros
TOCK = b"\x82\x08"
SAID = 14  # bytes of a tick
ANSWERED = 10


class Guest(asyncio.Protocol):
    """One client. `status`: of the answer to its upgrade."""

    def __init__(self, head: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = head
        self._received = b""
        self._ticks: list[asyncio.Future[float]] = []
        self._leaving = False
        self.status: asyncio.Future[int] = self._loop.create_future()
        self.answered_after = 0.0  # seconds from the upgrade to its answer
        self.is_inside = False
        self.is_lost = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._started = self._loop.time()
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.status.done():
            head, end, rest = self._received.partition(END)
            if not end:
                return
            self._received = rest
            self.answered_after = self._loop.time() - self._started
            self.is_inside = head[9:12] == b"101"
            self.status.set_result(int(head[9:12]))
        if not self.is_inside:
            self._received = b""
        while self.is_inside and len(self._received) >= ANSWERED and self._received.startswith(TOCK):
            (sent,) = struct.unpack(">d", self._received[2:ANSWERED])
            self._received = self._received[ANSWERED:]
            if self._ticks:
                self._ticks.pop(0).set_result(self._loop.time() - sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = self.is_inside and not self._leaving
        self.is_inside = False
        if not self.status.done():
            self.status.set_result(0)
        for tick in self._ticks:
            tick.cancel()
        self.gone.set()

    async def tick(self) -> float:
        """Say something and hear it back: the seconds that it took."""
        async with asyncio.timeout(PATIENCE):
            return await self.say()

    def say(self) -> asyncio.Future[float]:
        """The same without waiting; cancelled if the connection ends before the answer."""
        heard = self._loop.create_future()
        self._ticks.append(heard)
        self._transport.write(TICK + struct.pack(">d", self._loop.time()))
        return heard

    def leave(self) -> None:
        """Without a word, as many do."""
        self._leaving = True
        self._transport.abort()


class _Game(asyncio.Protocol):
    """The game's end of one tunnel."""

    def __init__(self, ends: set[_Game]) -> None:
        self._ends = ends
        self._received = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_open:
            _, end, rest = self._received.partition(END)
            if not end:
                return
            self._is_open, self._received = True, rest
            self.transport.write(SWITCHING)
        self._hear()

    def _hear(self) -> None:
        """Take what was said as far as it is whole, and say it back."""
        while len(self._received) >= SAID and self._received[0] == TICK[0]:
            mask, payload = self._received[2:6], self._received[6:SAID]
            self._received = self._received[SAID:]
            plain = bytes(one ^ mask[index % 4] for index, one in enumerate(payload))
            self.transport.write(TOCK + plain)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)


class _Listener(_Game):
    """One end of a game that says nothing back. `sizes`: of the payloads of all frames that it has heard, in bytes."""

    def __init__(self, ends: set[_Game], sizes: list[int]) -> None:
        super().__init__(ends)
        self.sizes = sizes

    def _hear(self) -> None:
        whole = 0  # bytes
        while (found := _client_frame(self._received, whole)) is not None:
            size, end = found
            self.sizes.append(size)
            whole = end
        self._received = self._received[whole:]


def _client_frame(received: bytes, start: int) -> tuple[int, int] | None:
    """The payload and the end, in bytes, of the masked frame that begins at `start`; None if it is not whole. RFC 6455 §5.2."""
    if len(received) < start + 2:
        return None
    size = received[start + 1] & 0x7F
    extended = {126: 2, 127: 8}.get(size, 0)
    if extended:
        size = int.from_bytes(received[start + 2 : start + 2 + extended], "big")
    end = start + 2 + extended + 4 + size
    return (size, end) if len(received) >= end else None


@asynccontextmanager
async def game() -> AsyncIterator[str]:
    """A game for everybody; its URL."""
    ends: set[_Game] = set()
    async with _open(lambda: _Game(ends), ends) as url:
        yield url


@asynccontextmanager
async def listening_game() -> AsyncIterator[tuple[str, list[list[int]]]]:
    """A game that takes frames of any size and says nothing. Its URL; and the sizes of the payloads, connection by connection."""
    ends: set[_Game] = set()
    heard: list[list[int]] = []

    def listen() -> _Listener:
        heard.append([])
        return _Listener(ends, heard[-1])

    async with _open(listen, ends) as url:
        yield url, heard


@asynccontextmanager
async def _open(serve: Callable[[], _Game], ends: set[_Game]) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, backlog=4096)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for end in list(ends):
            end.transport.abort()


class Party:
    """All guests of a test. They leave at its end."""

    def __init__(self) -> None:
        self.guests: list[Guest] = []

    @property
    def inside(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.is_inside]

    @property
    def lost(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.is_lost]

    async def knock(self, *asks: tuple[int, bytes]) -> list[Guest]:
        """(port, head) each, all at once: all connections first, then all heads as fast as they go. Waits for all answers."""
        guests = await self.park(*asks)
        await self.answered(guests)
        return guests

    async def park(self, *asks: tuple[int, bytes]) -> list[Guest]:
        """The same, waiting for no answer: a kernel accepts connections and heads for a gate that is frozen."""
        loop = asyncio.get_running_loop()
        guests = [Guest(head) for _, head in asks]
        self.guests += guests
        pairs = zip(guests, asks, strict=True)
        async with asyncio.timeout(PATIENCE):
            made = [loop.create_connection(lambda guest=guest: guest, "127.0.0.1", port) for guest, (port, _) in pairs]  # type: ignore[misc]  # a default binds the loop's variable
            await asyncio.gather(*made)
        return guests

    async def answered(self, guests: Sequence[Guest]) -> None:
        """Until all of them have heard whether they are let in. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(guest.status for guest in guests))

    async def leave(self, guests: Sequence[Guest] | None = None) -> None:
        """These guests or all, and until they are gone here."""
        leaving = self.inside if guests is None else [guest for guest in guests if guest.is_inside]
        for guest in leaving:
            guest.leave()
        for guest in leaving:
            await guest.gone.wait()


@asynccontextmanager
async def party() -> AsyncIterator[Party]:
    people = Party()
    try:
        yield people
    finally:
        with suppress(asyncio.CancelledError):
            await people.leave()


def statuses(guests: Sequence[Guest]) -> dict[int, int]:
    """How many got each answer."""
    counts: dict[int, int] = {}
    for guest in guests:
        counts[guest.status.result()] = counts.get(guest.status.result(), 0) + 1
    return counts
