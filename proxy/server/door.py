"""The door: reads the first request of a connection. Upgrades go to the control path, all else to aiohttp.

Reading a head is a state of its own with a protocol of its own; whoever takes the connection on sets another protocol. A connection
that says nothing until its deadline is closed silently; one that said half a head gets 408. How many may stand at the door, in all and
from one address, is bounded; beyond that the answer is 503.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from proxy.policy.forwarding import Peer
from proxy.policy.identity import Identifier
from proxy.server.capacity import Capacity, Place
from proxy.server.passthrough import Passthrough
from proxy.server.timing_wheel import Deadline, TimingWheel
from proxy.server.upgrade import UpgradePath
from proxy.wire.handshake import END_OF_HEAD, HandshakeError, is_empty_line, parse_request_head, start_of_head, wants_upgrade

HEAD_SIZE: Final = 16 * 1024  # bytes
HEAD_TIMEOUT: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Entrance:
    """What all doors share. `connections` tells how many clients are there; `head_size` in bytes, `head_timeout` in seconds."""

    upgrades: UpgradePath
    passthrough: Passthrough
    identifier: Identifier
    capacity: Capacity
    connections: Callable[[], int]
    wheel: TimingWheel
    head_size: int = HEAD_SIZE
    head_timeout: float = HEAD_TIMEOUT
    doors: set[Door] = field(default_factory=set)
    handshakes: dict[asyncio.Task[None], socket.socket] = field(default_factory=dict)  # of TLS, before the door


class Door(asyncio.Protocol):
    """One connection until its first head is whole."""

    __slots__ = ("_deadline", "_entrance", "_peer", "_place", "_received", "_transport")

    _transport: asyncio.Transport
    _peer: Peer

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._received = b""
        self._place: Place | None = None
        self._deadline: Deadline | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's, also uvloop's, which is no subclass
        entrance = self._entrance
        entrance.doors.add(self)
        peer = self._who_is_there()
        if peer is None:
            self.end()
            return
        self._peer = peer
        self._place = entrance.capacity.enter(peer.name)
        if self._place is None or entrance.connections() > entrance.capacity.bounds.connections:
            self._leave()
            entrance.upgrades.turn_away(self._transport, "too many connections")
            return
        self._deadline = entrance.wheel.call_later(entrance.head_timeout, self._too_late)

    def _who_is_there(self) -> Peer | None:
        """None: a TCP peer that is gone already, and whose address nobody can tell. It must not pass for a Unix socket's peer, whose
        word is trusted: what it sent before it left can still be read."""
        peername = self._transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            return self._entrance.identifier.peer(peername[0])
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            return self._entrance.identifier.peer("")
        return None

    def data_received(self, data: bytes) -> None:
        size = self._entrance.head_size
        searched = max(0, len(self._received) - len(END_OF_HEAD) + 1)
        self._received += data
        start = start_of_head(self._received)
        end = self._received.find(END_OF_HEAD, searched)
        if end - start > size or (end < 0 and len(self._received) - start >= size + len(END_OF_HEAD)):
            self._turn_away(HandshakeError(f"the head is longer than {size} bytes", 431))
        elif end >= 0:
            self._head_received(start, end)

    def _head_received(self, start: int, end: int) -> None:
        entrance = self._entrance
        received = self._received
        try:
            head = parse_request_head(received[start:end])
            if not wants_upgrade(head):
                self._leave()
                entrance.passthrough.take(self._transport, received, self._peer)
                return
            if len(received) > end + len(END_OF_HEAD):
                raise HandshakeError("bytes came behind the head of an upgrade")
        except HandshakeError as error:
            self._turn_away(error)
            return
        self._leave()
        entrance.upgrades.begin(self._transport, head, self._peer)

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _too_late(self) -> None:
        if not is_empty_line(self._received):
            self._turn_away(HandshakeError(f"the head was not there within {self._entrance.head_timeout:g} s", 408))
        else:
            self.end()

    def _turn_away(self, error: HandshakeError) -> None:
        self._leave()
        self._transport.write(self._entrance.upgrades.bad_head(error, self._received))
        self._entrance.upgrades.lingering.adopt(self._transport)

    def end(self) -> None:
        """Close without a word: nothing was asked yet. On TLS even that takes a while, so it is counted as lingering."""
        self._leave()
        self._entrance.upgrades.lingering.adopt(self._transport, heard=True)

    def _leave(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._place is not None:
            self._place.leave()
        self._entrance.doors.discard(self)
