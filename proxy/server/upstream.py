"""Dialing the backend: connect, send the client's handshake, read the answer's head.

The answer is one of three: a 101, whose transport stands still exactly behind its head; another answer, to be relayed as it is; or
an UpstreamError. Whoever cancels a dial leaves no socket behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from proxy.policy.upstreams import TcpAddress, UnixAddress
from proxy.wire.body import BodyFraming, BodyWalker, framing_of
from proxy.wire.handshake import END_OF_HEAD, HandshakeError, Header, ResponseHead, build_head, end_to_end, parse_response_head

CONNECT_TIMEOUT: Final = 5.0  # seconds
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds, from the connection to the end of the answer's head
RELAY_IDLE: Final = 60.0  # seconds without a byte of a relayed answer
MAX_HEAD: Final = 16 * 1024  # bytes of an answer's head, earlier 1xx ones included
SWITCHING_PROTOCOLS: Final = 101


class UpstreamError(Exception):
    """The backend cannot be reached or does not speak. `status` is the answer: 502, or 504 when it hangs."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the backend said. Its transport does not read until somebody resumes it; `rest` came behind the head."""

    transport: asyncio.Transport
    head: ResponseHead
    rest: bytes


async def dial(address: TcpAddress | UnixAddress, request: bytes) -> Answer:
    """Send a handshake and wait for the answer. Raises UpstreamError; when cancelled, closes what was opened."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    transport: asyncio.Transport
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            if isinstance(address, UnixAddress):
                transport, _ = await loop.create_unix_connection(lambda: _AwaitingAnswer(answer, request), address.path)
            else:
                transport, _ = await loop.create_connection(lambda: _AwaitingAnswer(answer, request), address.host, address.port)
    except TimeoutError:
        raise UpstreamError("the upstream does not accept the connection", 504) from None
    except OSError as error:
        raise UpstreamError(f"the upstream cannot be reached: {error.strerror or type(error).__name__}", 502) from None
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            return await answer
    except TimeoutError:
        transport.abort()
        raise UpstreamError("the upstream does not answer the handshake", 504) from None
    except HandshakeError as error:
        transport.abort()
        raise UpstreamError(error.detail, 502) from None
    except BaseException:  # cancelled, or cut off: whatever ends the wait, the socket goes with it
        transport.abort()
        raise


class _AwaitingAnswer(asyncio.Protocol):
    """Reads the head of the answer, then stands still."""

    def __init__(self, answer: asyncio.Future[Answer], request: bytes) -> None:
        self._answer = answer
        self._request = request
        self._received = b""
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
        while (end := self._received.find(END_OF_HEAD)) >= 0 and end <= MAX_HEAD:
            head = parse_response_head(self._received[:end])
            self._received = self._received[end + len(END_OF_HEAD) :]
            if head.status >= 200 or head.status == SWITCHING_PROTOCOLS:
                return head
        if len(self._received) > MAX_HEAD:
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

    Takes both transports over. `on_end` is called once, when all has been written to the client or nothing more will come; the
    client's connection is the caller's again then. Raises HandshakeError (502) when the answer's framing is ambiguous.
    """

    def __init__(self, answer: Answer, client: asyncio.Transport, on_end: Callable[[], None]) -> None:
        framing = framing_of(answer.head)
        self.upstream = answer.transport
        self._client = client
        self._on_end = on_end
        self._body = BodyWalker(framing)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(RELAY_IDLE, self.end)
        self._ended = False
        client.set_protocol(_AnswerReader(self))
        client.write(_relayed_head(answer.head, framing))
        answer.transport.set_protocol(_AnswerWriter(self))
        self.receive(answer.rest)
        if not self._ended:
            answer.transport.resume_reading()

    def receive(self, data: bytes) -> None:
        """More of the body."""
        self._timer.cancel()
        self._timer = self._loop.call_later(RELAY_IDLE, self.end)
        try:
            body = self._body.receive_data(data)
        except HandshakeError:
            self.end()
            return
        if body:
            self._client.write(body)
        if self._body.complete:
            self.end()

    def end(self) -> None:
        """Let go of the upstream and hand the client back."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        self.upstream.abort()
        self._on_end()


class _AnswerWriter(asyncio.Protocol):
    """The upstream, which writes the answer."""

    def __init__(self, relay: AnswerRelay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self._relay.receive(data)

    def eof_received(self) -> bool:
        self._relay.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.end()


class _AnswerReader(asyncio.Protocol):
    """The client, which reads it. What it still sends goes nowhere."""

    def __init__(self, relay: AnswerRelay) -> None:
        self._relay = relay

    def pause_writing(self) -> None:
        self._relay.upstream.pause_reading()

    def resume_writing(self) -> None:
        self._relay.upstream.resume_reading()

    def eof_received(self) -> bool:
        self._relay.end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.end()


def _relayed_head(head: ResponseHead, framing: BodyFraming) -> bytes:
    kept = end_to_end(head.headers, head.fields)
    if framing.chunked:
        kept = [header for header in kept if header[0].lower() != b"content-length"]
        kept.append((b"Transfer-Encoding", b"chunked"))
    last: Header = (b"Connection", b"close")
    line = b"HTTP/1.1 %d %b" % (head.status, head.reason)
    return build_head(line, (*kept, last))
