"""Ordinary HTTP, carried by aiohttp's server and client: streamed both ways, nothing of it held in memory, nothing respelled.

aiohttp parses and frames; what a message *says* goes through as it came: path, header order and spelling, status, redirects, cookies,
compressed bodies. Hop-by-hop headers and everything of an upgrade are removed, forwarding headers are made anew.

A kept-alive connection may bring an upgrade behind ordinary requests. `HttpSession` stands between the transport and aiohttp's
protocol for exactly that: it lets go of aiohttp whole (DESIGN, "The door" 9) and hands transport and head to the control path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Final, cast

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from proxy.policy.identity import Identifier, Peer, forwarding_headers
from proxy.policy.routes import RouteTable, split_target
from proxy.policy.upstreams import UnixAddress, Upstream
from proxy.server.answers import PROBLEM_JSON, problem_body
from proxy.server.tls import server_name, upstream_context
from proxy.server.upgrade import UpgradePath
from proxy.wire.handshake import (
    END_OF_HEAD,
    HandshakeError,
    RequestHead,
    end_to_end,
    index_headers,
    list_tokens,
    wants_upgrade,
)

KEEP_ALIVE: Final = 75.0  # seconds that an idle client connection is kept; above the 60 s of common fronts
READ_TIMEOUT: Final = 300.0  # seconds without a byte of an answer: long polls and event streams are slower than pages
SHUTDOWN_TIMEOUT: Final = 1.0  # seconds
BODY_BUFFER: Final = 64 * 1024  # bytes of a body that are read ahead
MAX_LINE: Final = 16 * 1024  # bytes of a request line or of one header field
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING_PROTOCOLS: Final = 101
BODYLESS: Final = frozenset((204, 304))  # RFC 9110 §6.4.1

_STRIPPED: Final = frozenset((b"http2-settings", b"host", b"expect", b"content-length"))


class HttpSession(asyncio.Protocol):
    """A client's connection while it speaks ordinary HTTP: every event goes on to aiohttp's protocol."""

    __slots__ = ("_inner", "_recent", "peer", "transport")

    def __init__(self, inner: asyncio.Protocol, transport: asyncio.Transport, peer: Peer) -> None:
        self._inner = inner
        self._recent = b""
        self.transport = transport
        self.peer = peer

    def begin(self, received: bytes) -> None:
        """Take over from whoever has read `received`."""
        self.transport.set_protocol(self)
        self._inner.connection_made(self.transport)
        self.data_received(received)

    def data_received(self, data: bytes) -> None:
        self._recent = data
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def is_last_head(self) -> bool:
        """Did nothing come behind the head that was read last?"""
        return self._recent.endswith(END_OF_HEAD)

    def detach(self, inner: web.RequestHandler) -> asyncio.Transport:
        """Let go of aiohttp: it believes the connection lost, and the transport is the caller's."""
        inner.transport = None  # so that it does not close what is ours now
        inner.connection_lost(None)
        return self.transport


class _Sent(web.StreamResponse):
    """Tells aiohttp's server that the answer is out (or somebody else's): it writes nothing of its own."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._kept = keep_alive

    @property
    def keep_alive(self) -> bool:
        """May another request follow on this connection?"""
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Passthrough:
    """Carries every request that is no upgrade. `open` and `close` bracket its life."""

    def __init__(
        self,
        routes: RouteTable,
        upstreams: Mapping[str, Upstream],
        identifier: Identifier,
        upgrades: UpgradePath,
        scheme: bytes,
    ) -> None:
        self._scheme = scheme
        self._routes = routes
        self._upstreams = upstreams
        self._identifier = identifier
        self._upgrades = upgrades
        self._clients: dict[str, aiohttp.ClientSession] = {}
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves cancels the upstream request
            access_log=None,
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )

    def __len__(self) -> int:
        """Client connections that speak ordinary HTTP."""
        return len(self._server.connections)

    def take(self, transport: asyncio.Transport, received: bytes, peer: Peer) -> None:
        """Serve a connection whose first request, already read, is no upgrade."""
        HttpSession(self._server(), transport, peer).begin(received)

    async def open(self) -> None:
        """Make the clients; they connect when there is something to ask."""
        for name, upstream in self._upstreams.items():
            self._clients[name] = _client(upstream)

    def finish(self) -> None:
        """Keep no connection alive any more: those that are idle end now, the others after their request."""
        self._server.pre_shutdown()

    async def close(self) -> None:
        """Let running requests finish for a moment, then end all."""
        await self._server.shutdown(SHUTDOWN_TIMEOUT)
        for client in self._clients.values():
            await client.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        head = _request_head(request)
        transport = cast(asyncio.Transport, request.transport)
        session = cast(HttpSession, transport.get_protocol())
        if wants_upgrade(head):
            return self._hand_over(session, request, head)
        try:
            return await self._relay(request, head, session.peer)
        except _RefusedError as refused:
            return await _answer_problem(request, refused.status, str(refused))

    def _hand_over(self, session: HttpSession, request: web.BaseRequest, head: RequestHead) -> web.StreamResponse:
        clean = session.is_last_head()
        transport = session.detach(request.protocol)
        if clean:
            self._upgrades.begin(transport, head, session.peer)
        else:
            self._upgrades.refuse_head(transport, HandshakeError("bytes came behind the head of an upgrade"))
        return _Sent(keep_alive=False)

    async def _relay(self, request: web.BaseRequest, head: RequestHead, peer: Peer) -> web.StreamResponse:
        upstream = self._upstream(head)
        expects = b"100-continue" in {token.lower() for token in list_tokens(head.fields.get(b"expect", ()))}
        try:
            answer = await self._clients[upstream.name].request(
                request.method,
                URL(f"{_origin(upstream)}{head.target.decode('ascii')}", encoded=True),
                headers=_request_headers(head, peer, self._scheme),
                data=_body(request, expects=expects) if request.body_exists else None,
                allow_redirects=False,
                expect100=expects,
                server_hostname=None if upstream.tls is None else server_name(upstream),
            )
        except TimeoutError:
            raise _RefusedError("the upstream does not answer", 504) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _RefusedError(f"the upstream cannot be reached: {type(error).__name__}", 502) from None
        async with answer:
            if answer.status == SWITCHING_PROTOCOLS:
                raise _RefusedError("the upstream switched protocols unasked", 502)
            return await _relay_answer(request, answer)

    def _upstream(self, head: RequestHead) -> Upstream:
        if head.method == b"CONNECT":
            raise _RefusedError("CONNECT is for forward proxies", 405)
        if not head.target.startswith(b"/") or not head.target.isascii() or b"#" in head.target:
            raise _RefusedError("the request target is not a path in ASCII", 400)
        path, _ = split_target(head.target)
        route = self._routes.find(path)
        if route is None:
            raise _RefusedError("no route matches this path", 404)
        return self._upstreams[route.upstream]


class _RefusedError(Exception):
    """A request that gets an answer of ours."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


async def _answer_problem(request: web.BaseRequest, status: int, detail: str) -> web.StreamResponse:
    """A problem document. It ends the connection: what is still to come of the request is not waited for."""
    body = problem_body(status, detail)
    headers = CIMultiDict({"Content-Type": PROBLEM_JSON[1].decode(), "Content-Length": str(len(body)), "Connection": "close"})
    await request.writer.write_headers(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", headers)
    await request.writer.write_eof(b"" if request.method == "HEAD" else body)
    return _Sent(keep_alive=False)


def _client(upstream: Upstream) -> aiohttp.ClientSession:
    address = upstream.address
    context = upstream_context(upstream)
    connector: aiohttp.BaseConnector
    if isinstance(address, UnixAddress):
        connector = aiohttp.UnixConnector(address.path, limit=0)
    else:
        connector = aiohttp.TCPConnector(limit=0, ssl=True if context is None else context)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=upstream.connect_timeout, sock_read=READ_TIMEOUT),
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        read_bufsize=BODY_BUFFER,
    )


def _origin(upstream: Upstream) -> str:
    """Scheme and authority; the Host that is sent is the client's own."""
    if isinstance(upstream.address, UnixAddress):
        return "http://upstream"
    return f"{'http' if upstream.tls is None else 'https'}://{upstream.address}"


def _request_head(request: web.BaseRequest) -> RequestHead:
    version = b"HTTP/%d.%d" % (request.version.major, request.version.minor)
    headers = tuple(request.raw_headers)
    return RequestHead(
        request.method.encode(), request.raw_path.encode("utf-8", "surrogateescape"), version, headers, index_headers(headers)
    )


def _request_headers(head: RequestHead, peer: Peer, scheme: bytes) -> CIMultiDict[str]:
    """The client's end-to-end headers, in order and as spelled, without what belongs to an upgrade; our forwarding headers."""
    hosts = head.fields.get(b"host", ())
    if len(hosts) > 1 or (not hosts and head.version == b"HTTP/1.1"):
        raise _RefusedError(f"Host is there {len(hosts)} times instead of once", 400)
    host = hosts[0] if hosts else b""
    forwarded = forwarding_headers(peer, head.fields, host=host, proto=scheme)
    owned = _STRIPPED | {name.lower() for name, _ in forwarded} | {b"x-forwarded-for", b"forwarded"}
    headers: CIMultiDict[str] = CIMultiDict()
    if host:
        headers["Host"] = _text(host)
    for name, value in end_to_end(head.headers, head.fields):
        folded = name.lower().replace(b"_", b"-")
        if folded not in owned and not folded.startswith(b"sec-websocket-"):
            headers.add(_text(name), _text(value))
    for name, value in forwarded:
        headers.add(_text(name), _text(value))
    lengths = head.fields.get(b"content-length", ())
    if lengths and b"transfer-encoding" not in head.fields:
        headers["Content-Length"] = _text(lengths[0])
    return headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _RefusedError("a header is not UTF-8", 400) from None


async def _body(request: web.BaseRequest, *, expects: bool) -> AsyncIterator[bytes]:
    """The request's body as it comes. It is asked for once the upstream wants it: only then the client is told to go on."""
    if expects and request.transport is not None:
        request.transport.write(CONTINUE)
    async for chunk in request.content.iter_any():
        yield chunk


async def _relay_answer(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    fields = index_headers(answer.raw_headers)
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in end_to_end(answer.raw_headers, fields):
        headers.add(name.decode("latin-1"), value.decode("utf-8", "replace"))
    writer = request.writer
    bodyless = request.method == "HEAD" or answer.status in BODYLESS
    keep_alive = request.keep_alive
    if not bodyless and b"content-length" not in fields:
        if request.version == aiohttp.HttpVersion11:
            headers["Transfer-Encoding"] = "chunked"
            writer.enable_chunking()
        else:
            keep_alive = False  # only the end of the connection can tell where the body ends
    if not keep_alive or request.version != aiohttp.HttpVersion11:
        headers["Connection"] = "keep-alive" if keep_alive else "close"
    await writer.write_headers(f"HTTP/1.1 {answer.status} {answer.reason}", headers)
    writer.send_headers()
    try:
        if not bodyless:
            async for chunk in answer.content.iter_any():
                await writer.write(chunk)
        await writer.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()  # half an answer must not look like a whole one
        return _Sent(keep_alive=False)
    return _Sent(keep_alive=keep_alive)
