"""aiohttp's client, made to carry requests as they are: nothing added, followed, kept, unpacked or respelled.

Each upstream has a client of its own, which keeps idle connections for a moment and bounds how many it opens at once.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import aiohttp
from aiohttp import http_parser
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from proxy.policy.upstreams import UnixAddress, Upstream
from proxy.server.capacity import Dials
from proxy.server.names import Names
from proxy.server.sockets import Keepalive
from proxy.server.tls import keep_the_end, server_name, upstream_context
from proxy.server.upstream import TOO_MANY_DIALS, UpstreamError
from proxy.wire.handshake import END_OF_HEAD

READ_TIMEOUT: Final = 300.0  # seconds without a byte of an answer: long polls and event streams are slower than pages
TAKE_TIMEOUT: Final = 300.0  # seconds in which a living peer may take nothing of a body, and a dead one goes unnoticed while it does
CONTINUE_TIMEOUT: Final = 1.0  # seconds that a body waits for the upstream's 100; many servers never send one (RFC 9110 §10.1.1)
KEEP_ALIVE: Final = 4.0  # seconds that an idle connection is kept: less than the 5 s of Node and uvicorn, so that we close it first
MAX_FIELD: Final = 16 * 1024  # bytes of an answer's status line or of one header field
MAX_HEAD: Final = 256 * 1024  # bytes of an answer's head, interim ones before it included: browsers and curl take as much
SHORTEST_FIELD: Final = len("a:\r\n")  # bytes
BODY_BUFFER: Final = 64 * 1024  # bytes of a body that are read ahead


def is_compiled() -> bool:
    """Does aiohttp run with its C extensions? Its fallback in Python costs much more, and had bugs of its own."""
    return http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


def begin_body(transport: asyncio.Transport) -> None:
    """A body goes out: the peer may take its time. Linux counts a window that a living peer keeps shut against `TCP_USER_TIMEOUT`, too."""
    with _tcp_socket(transport) as sock:
        if sock is not None and 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) < TAKE_TIMEOUT * 1000:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKE_TIMEOUT * 1000))


def end_bodies(transport: asyncio.Transport, user_timeout: float) -> None:
    """No body goes out any more: what holds for other connections holds again, in seconds."""
    with _tcp_socket(transport) as sock:
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))


@contextmanager
def _tcp_socket(transport: asyncio.Transport) -> Iterator[socket.socket | None]:
    """The socket of a transport. None where it is lost already, not of TCP, or knows no user timeout, which is Linux's."""
    pseudo = transport.get_extra_info("socket")
    if pseudo is None or transport.is_closing() or pseudo.family == socket.AF_UNIX or not hasattr(socket, "TCP_USER_TIMEOUT"):
        yield None
        return
    sock = socket.socket(pseudo.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=pseudo.fileno())
    try:
        yield sock
    finally:
        sock.detach()


class BodyLostError(Exception):
    """The rest of a request's body will not come. To be raised by a body; who does so has given the request up."""


class HttpClient:
    """Asks one upstream. To be made where an event loop runs, and closed."""

    def __init__(self, upstream: Upstream, keepalive: Keepalive, dials: Dials, names: Names) -> None:
        address = upstream.address
        self._authority = "upstream" if isinstance(address, UnixAddress) else str(address)
        self._scheme = "http" if upstream.tls is None else "https"
        self._server_name = None if upstream.tls is None else server_name(upstream)
        self._session = aiohttp.ClientSession(
            connector=_connector(upstream, keepalive, dials, names),
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, connect=upstream.connect_timeout, sock_read=READ_TIMEOUT),
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEAD // SHORTEST_FIELD,  # it is their bytes that are bounded
            read_bufsize=BODY_BUFFER,
        )

    async def ask(
        self, method: str, target: str, headers: CIMultiDict[str], body: AsyncIterator[bytes] | None, *, expects: bool
    ) -> aiohttp.ClientResponse:
        """Send a request, its target as it is; the answer's body is the caller's to read. `expects`: the body waits for a 100.

        In target and headers each character stands for the byte of its number (latin-1).

        Raises UpstreamError: 502, 503 when too many connections are being opened, 504. A request without a body is asked once more
        when its connection ends without an answer, if its method is idempotent (RFC 9110 §9.2.2).
        """
        try:
            return await self._session.request(
                _Method(method),
                # As a path, query and all: any other way in, yarl reads it and loses what says nothing, such as an empty query.
                URL.build(scheme=self._scheme, authority=self._authority, path=target, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                expect100=expects,
                server_hostname=self._server_name,
            )
        except TimeoutError:
            raise UpstreamError("the upstream does not answer", 504) from None
        except aiohttp.ClientConnectorError:
            raise UpstreamError("the upstream cannot be reached", 502) from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamError("the upstream does not answer as it should", 502) from None

    async def close(self) -> None:
        await self._session.close()


class Intermediary(asyncio.Transport):
    """Stands before a transport, and does by itself what a subclass overrides."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._transport.writelines(list_of_data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class _HeadInBytes(Intermediary):
    """Writes one head, which aiohttp wrote in UTF-8, with a byte for each character again; then it is gone."""

    def __init__(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._protocol = protocol
        protocol.transport = self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.transport = self._transport
        head, end, behind = bytes(data).partition(END_OF_HEAD)
        self._transport.write(head.decode().encode("latin-1") + end + behind)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))


class _Method(str):
    """A method as the client spells it, which is case-sensitive (RFC 9110 §9.1): aiohttp would put all in capital letters."""

    __slots__ = ()

    def upper(self) -> str:
        return self


class _Answers(ResponseHandler):
    """Who waits for more of a body hears that its connection has ended; of one whose framing turns out wrong aiohttp tells nobody.
    Heads are bounded by their bytes, and an interim one does not end the wait for the final one. An answer that has come counts, even if
    the connection was lost to a write before it was read: who answers before it has read all, and closes, resets the connection."""

    _room = MAX_HEAD  # bytes that are left for heads
    _awaited = True  # the final head
    _asked = False  # the request is out, body and all

    def set_response_params(self, **options: Any) -> None:
        self._room = MAX_HEAD
        self._awaited = True
        self._asked = False
        super().set_response_params(**options)

    def start_timeout(self) -> None:
        self._asked = True
        super().start_timeout()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        self._awaited = data[0].code < 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaited:
            if self._asked:  # aiohttp ends the wait when any head has come
                self.start_timeout()
            self._room -= len(data)
            if self._room < 0 and self.transport is not None:
                self.set_exception(aiohttp.ClientPayloadError("the head is too long"))
                self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self.transport is not None:
            for data in _unread(self.transport):
                self.data_received(data)
        body = self._payload
        super().connection_lost(exc)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the connection ended before the body"))


def _unread(transport: asyncio.Transport) -> Iterator[bytes]:
    """What is still to be read from a transport that is lost, but not closed yet. Of TLS nothing: nobody would decrypt it."""
    pseudo = transport.get_extra_info("socket")
    if transport.get_extra_info("sslcontext") is not None or pseudo is None or pseudo.fileno() < 0:
        return
    sock = socket.socket(fileno=pseudo.fileno())
    try:
        for _ in range(MAX_HEAD // BODY_BUFFER):
            data = sock.recv(BODY_BUFFER, socket.MSG_DONTWAIT)
            if not data:
                break
            yield data
    except OSError:
        pass
    finally:
        sock.detach()


class _Attentive:
    """Writes a body, and lets the event loop read first where there is something to read: behind an answer may stand a reset, to which a
    write would lose it. What is lost in spite of that `_Answers` finds, but not under TLS."""

    def __init__(self, writer: AbstractStreamWriter, protocol: ResponseHandler) -> None:
        self._writer = writer
        self._protocol = protocol

    async def write(self, chunk: bytes) -> None:
        if _has_spoken(self._protocol.transport):
            await asyncio.sleep(0)
        await self._writer.write(chunk)


class _Request(aiohttp.ClientRequest):
    """Says nothing of a body that is not there; the head does not wait for the body, and that not for ever for a 100."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        texts = (self.url.raw_path_qs, *self.headers.values())
        if protocol is not None and protocol.transport is not None:
            if self.body:
                begin_body(protocol.transport)
            if not all(text.isascii() for text in texts):
                _HeadInBytes(protocol, protocol.transport)
        return await super().send(conn)

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        told = "Content-Length" in self.headers
        super().update_body_from_data(body, _stacklevel)
        if body is None and not told:
            self.headers.popall("Content-Length", None)

    def write_bytes(self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None) -> Coroutine[Any, Any, None]:
        """aiohttp makes a task of what this returns. The head goes out now: the connection that was looked at a moment ago still lives."""
        writer.send_headers()
        return self._write_body(writer, conn, content_length)

    async def _write_body(self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None) -> None:
        """Instead of aiohttp's own, by which a body that is not taken comes before the answer that tells why, and errors come to nobody."""
        protocol = conn.protocol
        assert protocol is not None
        try:
            if self._continue is not None:
                await writer.drain()
                await self._continue
            if self._body is not None:
                attentive = cast(AbstractStreamWriter, _Attentive(writer, protocol))  # a body needs no more of it
                await self._body.write_with_length(attentive, content_length)
            await writer.write_eof()
        except ConnectionError:
            protocol.force_close()  # its end is about to be told, and what it said before counts
        except BodyLostError:
            conn.close()
        except BaseException:
            conn.close()
            raise
        else:
            protocol.start_timeout()

    def update_expect_continue(self, expect: bool = False) -> None:  # noqa: FBT001, FBT002 -- aiohttp's signature
        super().update_expect_continue(expect)
        if self._continue is not None:
            self.loop.call_later(CONTINUE_TIMEOUT, _go_on, self._continue)


def _go_on(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)


class _BoundedDials(aiohttp.BaseConnector):
    """A connector that asks `dials` before it opens one more connection, and uses none again that has ended."""

    def __init__(self, *, upstream: Upstream, dials: Dials, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEP_ALIVE, **options)
        answers: Callable[..., ResponseHandler] = _Answers
        self._factory = partial(answers, loop=self._loop)
        self._upstream = upstream
        self._dials = dials

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        """An idle connection on which there is something to read has ended, or is out of step. Many servers close theirs unannounced, and
        then nobody can say whether a request was heard."""
        while (connection := await super()._get(key, traces)) is not None and _has_spoken(connection.transport):
            connection.close()
        return connection

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- aiohttp's signature
    ) -> ResponseHandler:
        if not self._dials.begin(self._upstream):
            raise UpstreamError(TOO_MANY_DIALS, 503)
        try:
            protocol = await super()._create_connection(req, traces, timeout)
            if protocol.transport is not None and protocol.transport.get_extra_info("sslcontext") is not None:
                keep_the_end(protocol.transport)
            return protocol
        finally:
            self._dials.end(self._upstream)


def _has_spoken(transport: asyncio.Transport | None) -> bool:
    """Is there something to read, be it the end? poll(2)."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _TcpConnector(_BoundedDials, aiohttp.TCPConnector):
    pass


class _UnixConnector(_BoundedDials, aiohttp.UnixConnector):
    pass


def _connector(upstream: Upstream, keepalive: Keepalive, dials: Dials, names: Names) -> aiohttp.BaseConnector:
    address = upstream.address
    if isinstance(address, UnixAddress):
        return _UnixConnector(path=address.path, upstream=upstream, dials=dials)
    context = upstream_context(upstream)
    ssl = True if context is None else context
    return _TcpConnector(
        ssl=ssl, socket_factory=_sockets(keepalive), resolver=_Resolver(names), use_dns_cache=False, upstream=upstream, dials=dials
    )


class _Resolver(AbstractResolver):
    """Looks names up as for upgrades."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=found.text, port=port, family=found.family, proto=0, flags=socket.AI_NUMERICHOST)
            for found in await self._names.addresses(host)
            if family in (socket.AF_UNSPEC, found.family)
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _sockets(keepalive: Keepalive) -> Callable[[Any], socket.socket]:
    def connect(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        sock = socket.socket(family, kind, protocol)
        keepalive.apply(sock)
        return sock

    return connect
