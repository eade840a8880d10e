"""A client's connection while it speaks ordinary HTTP, from one request to the next.

Every head on it is read here, by the reader that also stands at the door: no request is judged in two ways, and an upgrade behind
ordinary requests never comes to aiohttp. aiohttp's protocol takes in bodies, holds the client back and runs the handler; of a request
it is told no more than where its body ends, in framing of our own, so that there is nothing that it could read otherwise. One request is
under way at a time: what comes behind it is kept until its body is in and its answer is out. The client is always read, so that it is
noticed when it leaves; who sends too much ahead is answered once more and has to come again. Only while a body waits for its turn,
because it costs too much to be read at once, or aiohttp holds it back, the client is not read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.policy.forwarding import Peer
from proxy.server.capacity import Place
from proxy.server.http_client import Intermediary, begin_body, end_bodies
from proxy.server.sockets import reset_at_close
from proxy.server.upgrade import NO_ROUTE, UpgradePath
from proxy.wire.body import BodyFraming, RequestBody, framing_of_request
from proxy.wire.handshake import END_OF_HEAD, HandshakeError, RequestHead, is_empty_line, parse_request_head, start_of_head, wants_upgrade

MAX_AHEAD: Final = 64 * 1024  # bytes that are kept of requests behind the one under way

_LINES: Final = b"POST / HTTP/1.1\r\nHost: gate\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_CHUNKED: Final = _LINES + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HttpSessions:
    """What all sessions share, and all of them by aiohttp's protocol. `head_size` in bytes, `head_timeout` in seconds."""

    upgrades: UpgradePath
    head_size: int
    head_timeout: float
    open: dict[web.RequestHandler, HttpSession] = field(default_factory=dict)


class Stage(Enum):
    """How far the request that is under way has come."""

    NONE = "there is none"
    ASKED = "nothing of its answer is out"
    ANSWERING = "a part of its answer is out"
    ANSWERED = "its answer is out; of its body something may still come"


class HttpSession(asyncio.Protocol):
    """One connection. `head` and, once it is known, `route`: of the request that is under way, or was last."""

    __slots__ = (
        "_body",
        "_held_back",
        "_inner",
        "_overrun",
        "_place",
        "_received",
        "_sessions",
        "_timer",
        "_transport",
        "_turn",
        "_unread",
        "head",
        "peer",
        "route",
        "stage",
    )

    head: RequestHead
    route: str

    def __init__(self, sessions: HttpSessions, inner: web.RequestHandler, transport: asyncio.Transport, peer: Peer) -> None:
        self._sessions = sessions
        self._inner = inner
        self._transport = transport
        self._received = b""  # of the next head, and what came with it
        self._body = RequestBody(BodyFraming(length=0))
        self._unread = b""  # of the body, and what came with it: waits for the next turn of the loop
        self._turn: asyncio.Handle | None = None
        self._held_back = False  # by aiohttp, which has enough of the body for now
        self.stage = Stage.NONE
        self._overrun = False  # the client sent too much ahead: nothing more of it counts
        self._timer: asyncio.TimerHandle | None = None
        self._place: Place | None = None
        self.peer = peer

    def begin(self, received: bytes) -> None:
        """Take over from whoever has read `received`."""
        self._sessions.open[self._inner] = self
        self._transport.set_protocol(self)
        self._inner.connection_made(_Inlet(self._transport, self))
        self.data_received(received)

    # --- what the transport tells --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._unread:
            self._unread += data
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        body = self._body
        if not body.complete:
            try:
                content, data = body.receive_data(data)
            except HandshakeError as error:
                self.refuse_body(error)
                return
            self._inner.data_received(self._framed(content))
            if not body.complete:
                if data:
                    self._put_off(data)
                return
        searched = max(0, len(self._received) - len(END_OF_HEAD) + 1)
        self._received += data
        self._advance(searched)

    def _put_off(self, data: bytes) -> None:
        """The rest has its turn when all others have had theirs: nobody keeps us busy by the way in which he cuts his body."""
        self._unread = data
        self._read_on()

    def _read_on(self) -> None:
        """Read the client if nothing is to be done first."""
        if self._unread and not self._held_back and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)
        wanted = not self._unread and not self._held_back
        if wanted != self._transport.is_reading() and not self._transport.is_closing():
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _take_turn(self) -> None:
        self._turn = None
        if self._held_back:
            return
        unread, self._unread = self._unread, b""
        self._receive(unread)
        if self._inner in self._sessions.open:
            self._read_on()

    def hold_back(self, *, held: bool) -> None:
        """aiohttp wants no more of the body for now, or wants more again."""
        self._held_back = held
        self._read_on()

    def _framed(self, content: bytes) -> bytes:
        """A part of the body as aiohttp is to read it."""
        if not self._body.chunked:
            return content
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        return chunk + _LAST_CHUNK if self._body.complete else chunk

    def eof_received(self) -> None:
        """Who sends no more is gone: nothing tells half a close from a whole one."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # --- from one request to the next ----------------------------------------------------------------------------------------------

    def begin_answer(self, head: bytes) -> None:
        """Write the head of the answer; its body is the caller's to write."""
        self.stage = Stage.ANSWERING
        begin_body(self._transport)
        self.write(head)

    def write(self, data: bytes) -> None:
        """Write bytes of our own: an interim answer, or the head of the final one."""
        self._transport.write(data)

    def answered(self) -> None:
        """The answer to the request is out, and another request may follow."""
        self.stage = Stage.ANSWERED
        if self._overrun:
            self.end()
        else:
            self._advance(0)

    def _advance(self, searched: int) -> None:
        """Read the next head, once the request before it is over. `searched`: bytes in which no end of a head begins."""
        size = self._sessions.head_size
        if self.stage is Stage.ANSWERED and self._body.complete:
            self.stage = Stage.NONE
        if self.stage is not Stage.NONE:
            if len(self._received) > MAX_AHEAD:
                self._overrun = True
            if self._overrun:
                self._received = b""
            return
        start = start_of_head(self._received)
        end = self._received.find(END_OF_HEAD, searched)
        if end - start > size or (end < 0 and len(self._received) - start >= size + len(END_OF_HEAD)):
            self._refuse_head(HandshakeError(f"the head is longer than {size} bytes", 431), self._received)
        elif end >= 0:
            self._head_received(start, end)
        elif not is_empty_line(self._received):
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        """A part of a head is there: from now on it is pending, as at the door."""
        if self._timer is not None:
            return
        sessions = self._sessions
        self._place = sessions.upgrades.capacity.enter(self.peer.name)
        if self._place is None:
            self.end(sessions.upgrades.no_room("too many heads are under way"))
            return
        self._timer = asyncio.get_running_loop().call_later(sessions.head_timeout, self._too_late)

    def _too_late(self) -> None:
        self._refuse_head(HandshakeError(f"the head was not there within {self._sessions.head_timeout:g} s", 408), self._received)

    def _head_received(self, start: int, end: int) -> None:
        received, self._received = self._received, b""
        behind = received[end + len(END_OF_HEAD) :]
        self._stop_waiting()
        try:
            head = parse_request_head(received[start:end])
            if wants_upgrade(head):
                self._take_over(head, behind)
                return
            framing = framing_of_request(head)
        except HandshakeError as error:
            self._refuse_head(error, received)
            return
        self.head = head
        self.route = NO_ROUTE
        self.stage = Stage.ASKED
        self._body = RequestBody(framing)
        self._inner.data_received(_framing_head(framing))
        if behind:
            self.data_received(behind)

    def _take_over(self, head: RequestHead, behind: bytes) -> None:
        """An upgrade: nothing of aiohttp stays (DESIGN, "The door" 9)."""
        if behind:
            raise HandshakeError("bytes came behind the head of an upgrade")
        upgrades = self._sessions.upgrades
        end_bodies(self._transport, upgrades.dialer.keepalive.user_timeout)
        upgrades.begin(self._detach(), head, self.peer)

    def refuse_body(self, error: HandshakeError) -> None:
        """Where this body ends cannot be told, or it does not come: nothing behind it can be read. Its upload is cut off."""
        if self.stage is Stage.ASKED:
            self.end(self._sessions.upgrades.refusal(error, self.route))
        else:
            self.cut_off()

    def _refuse_head(self, error: HandshakeError, received: bytes) -> None:
        self.end(self._sessions.upgrades.bad_head(error, received))

    # --- how it ends ---------------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Leave if no request is under way."""
        if self.stage is Stage.NONE:
            self._detach().close()

    def cut_off(self) -> None:
        """End in the middle of an answer, or of whatever is under way, so that nobody takes it for the whole."""
        transport = self._detach()
        if self.stage is Stage.ANSWERING and self.head.version == b"HTTP/1.0":
            reset_at_close(transport)  # an orderly end would be the end of the body
        transport.abort()

    async def flush(self, writer: AbstractStreamWriter) -> None:
        """Wait until all that was written is out: who lingers has little time."""
        if self._transport.can_write_eof():  # not TLS, which is closed in another way
            self._transport.set_write_buffer_limits(0)
            await writer.drain()

    def end(self, answer: bytes = b"") -> None:
        """Say the last word, unless it is said already, and let the client leave."""
        transport = self._detach()
        if transport.is_closing():
            return
        if answer:
            transport.write(answer)
        if transport.can_write_eof() or self._overrun or not self._body.complete:
            self._sessions.upgrades.lingering.adopt(transport)
        else:  # TLS has no end of one direction, and without one of the stream an answer that ends with it is not whole
            self._sessions.open[self._inner] = self  # until it is gone
            transport.close()

    def _detach(self) -> asyncio.Transport:
        """Let go of aiohttp: it believes the connection lost, and the transport is the caller's. A request under way is cancelled."""
        self._leave()
        self._inner.transport = None  # so that it does not close what is not its own any more
        self._inner.connection_lost(None)
        if not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()
        return self._transport

    def _leave(self) -> None:
        self._stop_waiting()
        self._unread = b""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._sessions.open.pop(self._inner, None)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._place is not None:
            self._place.leave()
            self._place = None


class _Inlet(Intermediary):
    """The client's transport as aiohttp has it: whether it is read is the session's to say, which may have more reasons not to."""

    def __init__(self, transport: asyncio.Transport, session: HttpSession) -> None:
        super().__init__(transport)
        self._session = session

    def pause_reading(self) -> None:
        self._session.hold_back(held=True)

    def resume_reading(self) -> None:
        self._session.hold_back(held=False)


def _framing_head(framing: BodyFraming) -> bytes:
    """What aiohttp is told of a request."""
    if framing.chunked:
        return _CHUNKED
    return b"%bContent-Length: %d\r\n\r\n" % (_LINES, framing.length or 0)
