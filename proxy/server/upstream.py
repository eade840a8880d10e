"""Dialing the backend: connect, send the client's handshake, read the answer's head.

The answer is one of three: a 101, whose transport stands still exactly behind its head; another answer, to be relayed as it is; or
an UpstreamError. Whoever cancels a dial leaves no socket behind.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, cast

from proxy.policy.upstreams import TcpAddress, UnixAddress, Upstream
from proxy.server.capacity import Dials
from proxy.server.expiry import Expiry
from proxy.server.names import Names
from proxy.server.sockets import Keepalive, hand_over
from proxy.server.timing_wheel import TimingWheel
from proxy.server.tls import SHUTDOWN_TIMEOUT, keep_the_end, server_name, upstream_context
from proxy.wire.body import BodyFraming, BodyWalker, framing_of
from proxy.wire.handshake import END_OF_HEAD, HandshakeError, Header, ResponseHead, build_head, end_to_end, parse_response_head

RELAY_IDLE: Final = 60.0  # seconds without a byte of a relayed answer
MAX_HEAD: Final = 16 * 1024  # bytes of an answer's head, earlier 1xx ones included
TOO_MANY_DIALS: Final = "too many connections to the upstream are under way"
SWITCHING_PROTOCOLS: Final = 101


class UpstreamError(Exception):
    """The backend cannot be reached or does not speak. `status` is the answer: 502, or 504 when it hangs."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


class Answer(NamedTuple):
    """What the backend said. Its transport does not read until somebody resumes it; `rest` came behind the head."""

    transport: asyncio.Transport
    head: ResponseHead
    rest: bytes


class Dialer:
    """Opens connections to upstreams; `dials` bounds for each of them how many are under way at once."""

    def __init__(self, upstreams: Iterable[Upstream], keepalive: Keepalive, wheel: TimingWheel) -> None:
        self._loop = asyncio.get_running_loop()
        self._wheel = wheel
        self.keepalive = keepalive
        self.dials = Dials()
        self.names = Names()
        self._contexts = {upstream.name: upstream_context(upstream) for upstream in upstreams}

    async def dial(self, upstream: Upstream, request: bytes) -> Answer:
        """Send a handshake and wait for the answer. Raises UpstreamError; when cancelled, closes what was opened."""
        if not self.dials.begin(upstream):
            raise UpstreamError(TOO_MANY_DIALS, 503)
        try:
            return await self._dial(upstream, request)
        finally:
            self.dials.end(upstream)

    async def _dial(self, upstream: Upstream, request: bytes) -> Answer:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        try:
            return await self._ask(upstream, request, answer)
        finally:
            _want_no_more(answer)

    async def _ask(self, upstream: Upstream, request: bytes, answer: asyncio.Future[Answer]) -> Answer:
        try:
            with Expiry(self._wheel, upstream.connect_timeout):
                transport = await self._connect(upstream, lambda: _AwaitingAnswer(answer, request))
        except TimeoutError:
            raise UpstreamError("the upstream does not accept the connection", 504) from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise UpstreamError("no more files can be opened", 503) from None  # it is we who are full
            raise UpstreamError(f"the upstream cannot be reached: {_reason(error)}", 502) from None
        deadline = self._wheel.call_later(upstream.handshake_timeout, partial(_time_out, answer))
        try:
            return await answer
        except HandshakeError as error:
            transport.abort()
            raise UpstreamError(error.detail, 502) from None
        except BaseException:  # cancelled, or cut off: whatever ends the wait, the socket goes with it
            transport.abort()
            raise
        finally:
            deadline.cancel()

    async def _connect(self, upstream: Upstream, protocol: Callable[[], _AwaitingAnswer]) -> asyncio.Transport:
        loop = self._loop
        address = upstream.address
        if isinstance(address, UnixAddress):
            transport, _ = await loop.create_unix_connection(protocol, address.path)
            return transport
        transport = await self._connect_to_one(upstream, address, protocol)
        self.keepalive.apply_to_transport(transport)
        return transport

    async def _connect_to_one(self, upstream: Upstream, address: TcpAddress, protocol: Callable[[], _AwaitingAnswer]) -> asyncio.Transport:
        """The first of a host's addresses that accepts. Raises what the last one said."""
        failure: OSError | None = None
        for found in await self.names.addresses(address.host):
            try:
                return await self._connect_to(upstream, found.text, address.port, protocol)
            except OSError as error:
                failure = error
        assert failure is not None
        raise failure

    async def _connect_to(self, upstream: Upstream, ip: str, port: int, protocol: Callable[[], _AwaitingAnswer]) -> asyncio.Transport:
        context = self._contexts[upstream.name]
        if context is None:
            transport, _ = await self._loop.create_connection(protocol, ip, port)
            return transport
        transport, _ = await self._loop.create_connection(
            protocol,
            ip,
            port,
            ssl=context,
            server_hostname=server_name(upstream),
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        keep_the_end(transport)
        return transport


def _time_out(answer: asyncio.Future[Answer]) -> None:
    if not answer.done():
        answer.set_exception(UpstreamError("the upstream does not answer the handshake", 504))


def _want_no_more(answer: asyncio.Future[Answer]) -> None:
    """A dial that ends before its answer is awaited leaves nothing that somebody would have to look at."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()


def _reason(error: OSError) -> str:
    """Why a dial failed, in words that do not name the address: asyncio's do, and they would go to the client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as it should"
    if isinstance(error, socket.gaierror) or not error.errno:
        return "its name does not resolve" if isinstance(error, socket.gaierror) else "none of its addresses answers"
    return os.strerror(error.errno)


class _AwaitingAnswer(asyncio.Protocol):
    """Reads the head of the answer, then stands still."""

    def __init__(self, answer: asyncio.Future[Answer], request: bytes) -> None:
        self._answer = answer
        self._request = request
        self._received = b""
        self._room = MAX_HEAD  # bytes that are left for heads
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's, also uvloop's, which is no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._answer.done():
            return
        self._received += data
        try:
            head = self._head()
        except HandshakeError as error:
            self._answer.set_exception(error)
            return
        if head is not None:
            self._transport.pause_reading()
            self._answer.set_result(Answer(self._transport, head, self._received))

    def _head(self) -> ResponseHead | None:
        """The final head once it is whole; other 1xx answers before it are passed over (RFC 9110 §15.2)."""
        while 0 <= (end := self._received.find(END_OF_HEAD)) <= self._room:
            head = parse_response_head(self._received[:end])
            self._received = self._received[end + len(END_OF_HEAD) :]
            if head.status >= 200 or head.status == SWITCHING_PROTOCOLS:
                return head
            self._room -= end + len(END_OF_HEAD)
        if len(self._received) >= self._room + len(END_OF_HEAD):
            raise HandshakeError("upstream: the head of its answer is longer than 16 KiB", 502)
        return None

    def eof_received(self) -> bool:
        self._cut_off()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut_off()

    def _cut_off(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(UpstreamError("the upstream closed the connection instead of answering", 502))


class AnswerRelay:
    """Carries an answer that is no 101 to the client: status, headers and body as they are.

    Takes both transports over with `begin`. `on_end` is called once, when all has been written to the client or nothing more will
    come; the client's connection is the caller's again then. Raises HandshakeError (502) when the answer's framing is ambiguous.
    """

    def __init__(self, answer: Answer, client: asyncio.Transport, wheel: TimingWheel, on_end: Callable[[AnswerRelay], None]) -> None:
        self.client = client
        self._answer = answer
        self._upstream = answer.transport
        self._on_end = on_end
        self._framing = framing_of(answer.head)
        self._body = BodyWalker(self._framing)
        self._wheel = wheel
        self._deadline = wheel.call_later(RELAY_IDLE, self.end)
        self._paused = False  # the client is slower than the upstream
        self._finished = False  # the upstream has said all
        self._ended = False
        self.heard = False  # the client's side of the stream has ended
        self.left = False  # the client's connection is lost

    def begin(self) -> None:
        """Write the head, and what came behind it."""
        hand_over(self.client, _AnswerReader(self))
        self.client.write(_relayed_head(self._answer.head, self._framing))
        hand_over(self._upstream, _AnswerWriter(self))
        self.receive(self._answer.rest)
        if not self._finished and not self._paused:
            self._upstream.resume_reading()

    def pause(self) -> None:
        """The client's buffer is full."""
        self._paused = True
        if not self._finished:
            self._upstream.pause_reading()

    def resume(self) -> None:
        """The client's buffer has room again; at the end: it is empty."""
        self._paused = False
        if self._finished:
            self.end()
        else:
            self._upstream.resume_reading()

    def receive(self, data: bytes) -> None:
        """More of the body."""
        self._deadline.cancel()
        self._deadline = self._wheel.call_later(RELAY_IDLE, self.end)
        try:
            body = self._body.receive_data(data)
        except HandshakeError:
            self.end()
            return
        if body:
            self.client.write(body)
        if self._body.complete:
            self.finish()

    def finish(self) -> None:
        """Let go of the upstream, and hand the client back once all is written: whoever lingers with it has little time."""
        if self._finished:
            return
        self._finished = True
        self._upstream.abort()
        self.client.set_write_buffer_limits(0)  # so that `resume` means an empty buffer
        if not self.client.get_write_buffer_size():
            self.end()

    def end(self) -> None:
        """Let go of the upstream and hand the client back as it is."""
        if self._ended:
            return
        self._finished = self._ended = True
        self._deadline.cancel()
        self._upstream.abort()
        self._on_end(self)


class _AnswerWriter(asyncio.Protocol):
    """The upstream, which writes the answer."""

    def __init__(self, relay: AnswerRelay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self._relay.receive(data)

    def eof_received(self) -> bool:
        self._relay.finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.finish()


class _AnswerReader(asyncio.Protocol):
    """The client, which reads it. What it still sends goes nowhere."""

    def __init__(self, relay: AnswerRelay) -> None:
        self._relay = relay

    def pause_writing(self) -> None:
        self._relay.pause()

    def resume_writing(self) -> None:
        self._relay.resume()

    def eof_received(self) -> bool:
        self._relay.heard = True
        self._relay.end()
        return self._relay.client.can_write_eof()  # not on TLS, which knows no half-open stream

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.left = True
        self._relay.end()


def _relayed_head(head: ResponseHead, framing: BodyFraming) -> bytes:
    kept = end_to_end(head.headers, head.fields)
    if framing.chunked:
        kept = [header for header in kept if header[0].lower() != b"content-length"]
        kept.append((b"Transfer-Encoding", b"chunked"))
    last: Header = (b"Connection", b"close")
    line = b"HTTP/1.1 %d %b" % (head.status, head.reason)
    return build_head(line, (*kept, last))
