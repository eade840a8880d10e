"""Ordinary HTTP, carried by aiohttp's server and client: streamed both ways, nothing of it held in memory, nothing respelled.

What a message *says* goes through as it came: target, header order and spelling, status, redirects, cookies, compressed bodies.
Hop-by-hop headers and everything of an upgrade are removed, forwarding headers are made anew, and a body is framed again. What
cannot be carried so is refused, and a refusal ends the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from enum import Enum
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from proxy.policy.forwarding import Peer, forwarding_headers
from proxy.policy.routes import split_target
from proxy.policy.upstreams import Upstream
from proxy.server.http_client import BODY_BUFFER, BodyLostError, HttpClient
from proxy.server.http_session import HttpSession, HttpSessions, Stage
from proxy.server.sockets import Keepalive
from proxy.server.upgrade import NO_SUCH_ROUTE, UpgradePath
from proxy.server.upstream import SWITCHING_PROTOCOLS, UpstreamError
from proxy.wire.body import BodyFraming, framing_of
from proxy.wire.handshake import (
    END_OF_HEAD,
    HOP_BY_HOP,
    HandshakeError,
    Header,
    RequestHead,
    ResponseHead,
    build_head,
    carried_headers,
    end_to_end,
    index_headers,
    list_tokens,
    parse_response_head,
    validate_host,
)

KEEP_ALIVE: Final = 75.0  # seconds that an idle client connection is kept; above the 60 s of common fronts
BODY_TIMEOUT: Final = 60.0  # seconds that we wait for BODY_PART of a request's body, or for its end
BODY_PART: Final = 1024  # bytes: who sends a byte now and then holds a connection, here and upstream, for nothing
SHUTDOWN_TIMEOUT: Final = 1.0  # seconds
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_CONTENT: Final = 204
BODYLESS: Final = frozenset((NO_CONTENT, 304))  # RFC 9110 §6.4.1

_OWNED: Final = HOP_BY_HOP | {b"http2-settings", b"host", b"expect", b"x-forwarded-for", b"forwarded"}


class Delimiter(Enum):
    """What tells the client where the body of an answer ends."""

    NO_BODY = "there is none"
    LENGTH = "Content-Length"
    CHUNKS = "chunks"
    END = "the end of the connection"


class _Sent(web.StreamResponse):
    """Tells aiohttp's server that the answer is out: it writes nothing of its own."""

    keep_alive = True  # whether another request may follow is the session's to say

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Passthrough:
    """Carries every request that is no upgrade. `open` and `close` bracket its life. `head_size`: bytes, `head_timeout`: seconds."""

    def __init__(self, upgrades: UpgradePath, keepalive: Keepalive, head_size: int, head_timeout: float) -> None:
        self._upgrades = upgrades
        self._keepalive = keepalive
        self._sessions = HttpSessions(upgrades, head_size, head_timeout)
        self._clients: dict[str, HttpClient] = {}
        self._finishing = False
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves cancels the upstream request
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE,
            read_bufsize=BODY_BUFFER,
            tcp_keepalive=False,  # sockets that were accepted have it already
        )

    def __len__(self) -> int:
        """Client connections that speak ordinary HTTP."""
        return len(self._sessions.open)

    def take(self, transport: asyncio.Transport, received: bytes, peer: Peer) -> None:
        """Serve a connection whose first request, already read, is no upgrade."""
        HttpSession(self._sessions, self._server(), transport, peer).begin(received)

    async def open(self) -> None:
        """Make the clients; they connect when there is something to ask."""
        dialer = self._upgrades.dialer
        for name, upstream in self._upgrades.upstreams.items():
            self._clients[name] = HttpClient(upstream, self._keepalive, dialer.dials, dialer.names)

    def finish(self) -> None:
        """Keep no connection alive any more: those that are idle end now, the others after their request."""
        self._finishing = True
        for session in list(self._sessions.open.values()):
            session.finish()

    async def close(self) -> None:
        """End all at once."""
        for session in list(self._sessions.open.values()):
            session.cut_off()
        await self._server.shutdown(SHUTDOWN_TIMEOUT)
        for client in self._clients.values():
            await client.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        session = self._sessions.open[request.protocol]
        try:
            kept = await self._relay(request, session)
        except (HandshakeError, UpstreamError) as error:
            session.end(_last_word(session.head, self._upgrades.refusal(error, session.route)))
        except (aiohttp.ClientError, TimeoutError):
            session.cut_off()  # half an answer must not look like a whole one
        else:
            if kept and not self._finishing:
                session.answered()
            else:
                await session.flush(request.writer)
                session.end()
        return _Sent()

    async def _relay(self, request: web.BaseRequest, session: HttpSession) -> bool:
        """Carry one request, and its answer. Returns whether the client's connection may be kept."""
        head = session.head
        upstream = self._upstream(session)
        self._upgrades.warn_of_unlisted_proxy(session.peer, head)
        headers = _request_headers(head, session.peer, self._upgrades.scheme)
        upload = _Upload(request, session)
        body = upload.chunks() if request.body_exists else None
        client = self._clients[upstream.name]
        method, target = head.method.decode(), _text(head.target)
        try:
            answering = await client.ask(method, target, headers, body, expects=upload.unasked)
        except UpstreamError as error:
            self._upgrades.note_dial(session.route, error)
            raise
        self._upgrades.note_dial(session.route)
        async with answering as answer:
            if answer.status == SWITCHING_PROTOCOLS:
                raise UpstreamError("the upstream switched protocols unasked", 502)
            # A body that was not asked for may still come or not, so what comes behind the answer could be read in two ways.
            kept = _is_kept_alive(head) and not self._finishing and not upload.unasked
            return await self._relay_answer(request, session, answer, kept=kept)

    async def _relay_answer(self, request: web.BaseRequest, session: HttpSession, answer: aiohttp.ClientResponse, *, kept: bool) -> bool:
        head = session.head
        reason = (answer.reason or "").encode(errors="surrogateescape")
        raw = answer.raw_headers
        response = ResponseHead(answer.status, reason, raw, index_headers(raw))
        framing = framing_of(response)
        delimiter = _delimiter(head, answer.status, framing)
        kept = kept and delimiter is not Delimiter.END
        headers = _answer_head(response, delimiter, framing)
        if not kept:
            headers.append((b"Connection", b"close"))
        elif head.version == b"HTTP/1.0":
            headers.append((b"Connection", b"keep-alive"))
        written = build_head(b"HTTP/1.1 %d %b" % (answer.status, reason), headers)
        parse_response_head(written.removesuffix(END_OF_HEAD))  # aiohttp reads answers leniently; what it let through ends here
        session.begin_answer(written)
        await _write_body(request, answer, delimiter)
        return kept

    def _upstream(self, session: HttpSession) -> Upstream:
        head = session.head
        method = head.method.upper()
        if method == b"CONNECT" or (method == b"HEAD" and head.method != b"HEAD"):  # whose answers end in another way
            raise HandshakeError("CONNECT is not carried, nor HEAD in other letters", 501)
        # What `*` asks is asked of the whole server: of that behind the route of `/`.
        path, _ = split_target(b"/" if head.target == b"*" and head.method == b"OPTIONS" else head.target)
        if not path.startswith(b"/") or not path.isascii() or b"#" in head.target:
            raise HandshakeError("the request target is not a path in ASCII")
        route = self._upgrades.routes.find(path)
        if route is None:
            raise HandshakeError(NO_SUCH_ROUTE, 404)
        session.route = route.name
        return self._upgrades.upstreams[route.upstream]


class _Upload:
    """The body of a request on its way. `unasked`: the client sends it only when it is told to go on, and was not told yet."""

    def __init__(self, request: web.BaseRequest, session: HttpSession) -> None:
        head = session.head
        expected = {token.lower() for token in list_tokens(head.fields.get(b"expect", ()))}
        self._request = request
        self._session = session
        self._patience = BODY_TIMEOUT  # seconds that we still wait for this part of the body; what the upstream takes does not count
        self._missing = BODY_PART  # bytes of it
        self.unasked = request.body_exists and head.version == b"HTTP/1.1" and b"100-continue" in expected

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. It is asked for when the upstream wants it, and only then the client is told to go on."""
        if self.unasked:
            if self._session.stage is not Stage.ASKED:  # answered without it: the client will not send it now
                await asyncio.get_running_loop().create_future()
            self.unasked = False
            self._session.write(CONTINUE)
        while chunk := await self._next_chunk():
            yield chunk

    async def _next_chunk(self) -> bytes:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                chunk = await self._request.content.readany()
        except TimeoutError:
            self._session.refuse_body(HandshakeError(f"{BODY_PART} bytes of the body did not come within {BODY_TIMEOUT:g} s", 408))
            raise BodyLostError from None
        except (ConnectionError, web.PayloadAccessError):  # its client has left, or its answer is out
            raise BodyLostError from None
        self._patience -= time.monotonic() - started
        self._missing -= len(chunk)
        if self._missing <= 0:
            self._patience, self._missing = BODY_TIMEOUT, BODY_PART
        return chunk


def _is_kept_alive(head: RequestHead) -> bool:
    """RFC 9112 §9.3."""
    options = {token.lower() for token in list_tokens(head.fields.get(b"connection", ()))}
    if b"close" in options:
        return False
    return head.version == b"HTTP/1.1" or b"keep-alive" in options


def _request_headers(head: RequestHead, peer: Peer, scheme: bytes) -> CIMultiDict[str]:
    """The client's end-to-end headers, in order and as spelled first, without what belongs to an upgrade; our forwarding headers."""
    fields = head.fields
    host = validate_host(fields) if head.version == b"HTTP/1.1" or b"host" in fields else b""
    forwarded = forwarding_headers(peer, fields, host=host, proto=scheme)
    owned = _OWNED | {name.lower() for name, _ in forwarded}
    headers: CIMultiDict[str] = CIMultiDict()
    if host:
        headers["Host"] = _text(host)
    spelled: dict[bytes, str] = {}  # of a name that is there twice in two spellings aiohttp would lose the first
    for name, value in carried_headers(head, owned, trusted=peer.trusted):
        lower = name.lower()
        if lower != b"content_length" and not lower.replace(b"_", b"-").startswith(b"sec-websocket-"):
            headers.add(spelled.setdefault(lower, _text(name)), _text(value))
    for name, value in forwarded:
        headers.add(_text(name), _text(value))
    return headers


def _text(value: bytes) -> str:
    """As the client takes it: a character for each byte, whatever they mean."""
    return value.decode("latin-1")


async def _write_body(request: web.BaseRequest, answer: aiohttp.ClientResponse, delimiter: Delimiter) -> None:
    """Write the body of an answer as it comes. Raises aiohttp.ClientError or TimeoutError when it breaks off."""
    writer = request.writer
    if delimiter is Delimiter.CHUNKS:
        writer.enable_chunking()
    if delimiter is not Delimiter.NO_BODY:
        async for chunk in answer.content.iter_any():
            await writer.write(chunk)
    await writer.write_eof()


def _delimiter(head: RequestHead, status: int, framing: BodyFraming) -> Delimiter:
    """RFC 9112 §6.3, for the client."""
    if head.method == b"HEAD" or status in BODYLESS:
        return Delimiter.NO_BODY
    if framing.length is not None:
        return Delimiter.LENGTH
    return Delimiter.CHUNKS if head.version == b"HTTP/1.1" else Delimiter.END


def _answer_head(answer: ResponseHead, delimiter: Delimiter, framing: BodyFraming) -> list[Header]:
    """The upstream's end-to-end headers, in order and as spelled, and how the body ends for the client."""
    # Without a body it tells of another answer's, that to GET; 204 has none to tell of (RFC 9110 §8.6).
    has_length = delimiter is Delimiter.LENGTH or (delimiter is Delimiter.NO_BODY and answer.status != NO_CONTENT)
    headers = end_to_end(answer.headers, answer.fields)
    lengths = [header for header in headers if header[0].lower() == b"content-length"]
    if not has_length:
        headers = [header for header in headers if header not in lengths]
    elif delimiter is Delimiter.LENGTH and not lengths:  # Connection named it away
        headers.append((b"Content-Length", b"%d" % (framing.length or 0)))
    if delimiter is Delimiter.CHUNKS:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return headers


def _last_word(head: RequestHead, answer: bytes) -> bytes:
    """A refusal as the answer to this request: to HEAD, without its body."""
    return answer[: answer.index(END_OF_HEAD) + len(END_OF_HEAD)] if head.method == b"HEAD" else answer
