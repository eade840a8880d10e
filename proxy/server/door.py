"""The door: reads the first request of a connection, keeps upgrades, turns all else away.

Reading a head is a state of its own with a protocol of its own; whoever takes the connection on sets another protocol. A connection
that says nothing until its deadline is closed silently; one that said half a head gets 408.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from proxy.policy.identity import Identifier, Peer
from proxy.server.answers import problem
from proxy.server.upgrade import NO_ROUTE, Result, UpgradePath
from proxy.wire.handshake import END_OF_HEAD, HandshakeError, parse_request_head, wants_upgrade

HEAD_SIZE: Final = 16 * 1024  # bytes
HEAD_TIMEOUT: Final = 10.0  # seconds


class Door(asyncio.Protocol):
    """One connection until its first head is whole."""

    __slots__ = ("_doors", "_identifier", "_path", "_peer", "_received", "_timer", "_transport")

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle
    _peer: Peer

    def __init__(self, path: UpgradePath, identifier: Identifier, doors: set[Door]) -> None:
        self._path = path
        self._identifier = identifier
        self._doors = doors
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's, also uvloop's, which is no subclass
        self._doors.add(self)
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._too_late)
        peer = self._who_is_there()
        if peer is None:
            self.end()
        else:
            self._peer = peer

    def _who_is_there(self) -> Peer | None:
        """None: a TCP peer that is gone already, and whose address nobody can tell. It must not pass for a Unix socket's peer, whose
        word is trusted: what it sent before it left can still be read."""
        peername = self._transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            return self._identifier.peer(peername[0])
        if self._transport.get_extra_info("socket").family == socket.AF_UNIX:
            return self._identifier.peer("")
        return None

    def data_received(self, data: bytes) -> None:
        searched = max(0, len(self._received) - len(END_OF_HEAD) + 1)
        self._received += data
        end = self._received.find(END_OF_HEAD, searched)
        if end > HEAD_SIZE or (end < 0 and len(self._received) >= HEAD_SIZE + len(END_OF_HEAD)):
            self._turn_away(problem(431, f"the head is longer than {HEAD_SIZE} bytes"))
        elif end >= 0:
            self._head_received(self._received[:end], self._received[end + len(END_OF_HEAD) :])

    def _head_received(self, data: bytes, rest: bytes) -> None:
        try:
            head = parse_request_head(data)
            if not wants_upgrade(head):
                self._turn_away(problem(501, "this is a gate for WebSocket upgrades; other requests are not passed on yet"))
                return
            if rest:
                raise HandshakeError("bytes came behind the head of an upgrade")
        except HandshakeError as error:
            self._path.totals.upgrades[NO_ROUTE, Result.BAD_REQUEST.value] += 1
            self._turn_away(problem(error.status, error.detail, error.headers))
            return
        self._leave()
        self._path.begin(self._transport, head, self._peer)

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _too_late(self) -> None:
        if self._received:
            self._turn_away(problem(408, f"the head was not there within {HEAD_TIMEOUT:g} s"))
        else:
            self.end()

    def _turn_away(self, answer: bytes) -> None:
        self._leave()
        self._transport.write(answer)
        self._path.lingering.adopt(self._transport)

    def end(self) -> None:
        """Close without a word: nothing was asked yet."""
        self._leave()
        self._transport.close()

    def _leave(self) -> None:
        self._timer.cancel()
        self._doors.discard(self)
