"""RFC 6455 §4 and RFC 9112: heads, read strictly.

One validator of raw header pairs serves every way in, so an upgrade cannot be judged in two ways. What is *almost* an upgrade is
refused here and never passes as something else: a request that the gate takes for plain HTTP and the backend for an upgrade would
walk around every limit. Nothing is repaired: a head is forwarded as it came or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
WEBSOCKET_VERSION: Final = b"13"
END_OF_HEAD: Final = b"\r\n\r\n"

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110 §5.6.2
_LINE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))  # RFC 9110 §5.5: no control bytes
_TARGET: Final = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
_HOST: Final = b"!$%&'()*+-.:;=[]_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 3986 §3.2.2, no list
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64, RFC 6455 §4.1
_OWS: Final = b" \t"
_CRLF: Final = b"\r\n"
_NEEDS_HTTP_1_1: Final = "a WebSocket upgrade needs HTTP/1.1"

Header = tuple[bytes, bytes]
"""(name, value) as on the wire; the value without the white space around it."""

Fields = Mapping[bytes, Sequence[bytes]]
"""All values of a header field, in order, by its name in lower case."""

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110 §7.6.1, lower case."""

_COMMON_NAMES: Final = {
    name: name.lower()
    for name in (
        b"Accept",
        b"Accept-Encoding",
        b"Accept-Language",
        b"Authorization",
        b"Cache-Control",
        b"Connection",
        b"Content-Length",
        b"Cookie",
        b"Date",
        b"Host",
        b"Origin",
        b"Pragma",
        b"Sec-WebSocket-Accept",
        b"Sec-WebSocket-Extensions",
        b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Version",
        b"Server",
        b"Upgrade",
        b"User-Agent",
        b"X-Forwarded-For",
        b"X-Forwarded-Host",
        b"X-Forwarded-Proto",
    )
}
"""Names as clients and servers spell them, and in lower case: these need no look at their letters."""

_END_TO_END: Final = frozenset((b"authorization", b"cookie", b"sec-websocket-protocol"))
"""What `Connection` cannot name away: a client is counted by them, and what was counted is what goes upstream."""


class HandshakeError(Exception):
    """A head that is refused. `status` is the answer, `headers` go with it, the text says what was wrong with what."""

    def __init__(self, detail: str, status: int = 400, headers: Sequence[Header] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.headers = tuple(headers)


class RequestHead(NamedTuple):  # as all heads: made for each request, and a frozen dataclass takes three times as long
    """A request line and its headers. `fields` maps lower-case names to all values, in order."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[Header, ...]
    fields: Fields


class UpgradeRequest(NamedTuple):
    """A request head that is an upgrade in every respect (RFC 6455 §4.2.1)."""

    head: RequestHead
    host: bytes
    key: bytes  # as sent, base64
    protocols: tuple[bytes, ...]  # Sec-WebSocket-Protocol, in order of preference


class ResponseHead(NamedTuple):
    """A status line and its headers, as RequestHead."""

    status: int
    reason: bytes
    headers: tuple[Header, ...]
    fields: Fields


def start_of_head(received: bytes) -> int:
    """Where a request's head begins: behind one empty line, which some clients send first, and no more than one. RFC 9112 §2.2."""
    return len(_CRLF) if received.startswith(_CRLF) else 0


def is_empty_line(received: bytes) -> bool:
    """Is nothing there of a request, or no more than that empty line, or a part of it?"""
    return _CRLF.startswith(received)


def parse_request_head(data: bytes) -> RequestHead:
    """Read a head up to, and without, its empty line.

    Raises HandshakeError: 400; for a version that is not HTTP/1.1 or 1.0: 426 where the head asks for a WebSocket, else 505.
    """
    line, headers, fields = _parse_head(data)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise HandshakeError("request line is not 'METHOD target HTTP/1.1'")
    method, target, version = parts
    if not method or method.translate(None, _TOKEN):
        raise HandshakeError("method is not a token")
    if not target or target.translate(None, _TARGET):
        raise HandshakeError("request target is empty or has control bytes")
    head = RequestHead(method, target, version, headers, fields)
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if wants_upgrade(head):
            raise _upgrade_required(_NEEDS_HTTP_1_1)
        raise HandshakeError("HTTP version is not 1.1 or 1.0", 505)
    return head


def parse_response_head(data: bytes) -> ResponseHead:
    """Read an upstream's head up to, and without, its empty line. Raises HandshakeError (502)."""
    try:
        line, headers, fields = _parse_head(data)
    except HandshakeError as error:
        raise HandshakeError(f"upstream: {error.detail}", 502) from None
    version, _, rest = line.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit() or code < b"100":
        raise HandshakeError("upstream: status line is not 'HTTP/1.1 NNN reason'", 502)
    return ResponseHead(int(code), reason, headers, fields)


def _parse_head(data: bytes) -> tuple[bytes, tuple[Header, ...], dict[bytes, list[bytes]]]:
    lines = data.split(b"\r\n")
    if data.translate(None, _LINE) != b"\r\n" * (len(lines) - 1):
        raise HandshakeError("head has a control byte or a bare CR or LF")
    headers = []
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        folded = _COMMON_NAMES.get(name)
        if folded is None:
            if not name or name.translate(None, _TOKEN):
                raise HandshakeError("header line is not 'Name: value'")
            folded = name.lower()
        if not colon:
            raise HandshakeError("header line is not 'Name: value'")
        value = value.strip(_OWS)
        headers.append((name, value))
        if folded in fields:
            fields[folded].append(value)
        else:
            fields[folded] = [value]
    return lines[0], tuple(headers), fields


def check_field_line(line: bytes) -> None:
    """Raises HandshakeError for what is not `Name: value`, without its CRLF."""
    _parse_head(b"\r\n" + line)


def check_text(text: bytes) -> None:
    """Raises HandshakeError for control bytes (RFC 9110 §5.5)."""
    if text.translate(None, _LINE):
        raise HandshakeError("a control byte")


def index_headers(headers: Iterable[Header]) -> dict[bytes, list[bytes]]:
    """Lower-case name -> all values, in order."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def list_tokens(values: Iterable[bytes]) -> list[bytes]:
    """The elements of a comma-separated list over all header lines of one name (RFC 9110 §5.6.1), empty ones left out."""
    return [token for value in values for part in value.split(b",") if (token := part.strip(_OWS))]


def wants_upgrade(head: RequestHead) -> bool:
    """Is this request meant as a WebSocket upgrade, well-formed or not? If so, only `validate_upgrade` may let it through."""
    fields = head.fields
    if b"sec-websocket-key" in fields or b"sec-websocket-version" in fields:
        return True
    return any(b"websocket" in value.lower() for value in fields.get(b"upgrade", ()))


def looks_like_upgrade(received: bytes) -> bool:
    """As `wants_upgrade`, of a head that cannot be read or is not whole: for whoever counts, and decides nothing by it."""
    return _ALMOST_UPGRADE.search(received) is not None


_ALMOST_UPGRADE: Final = re.compile(rb"\nsec-websocket-(?:key|version)[ \t]*:|\nupgrade[ \t]*:[^\n]*websocket", re.IGNORECASE)


def validate_upgrade(head: RequestHead) -> UpgradeRequest:
    """The only way to an UpgradeRequest. Raises HandshakeError (400 or 426) with what was expected and what was found."""
    fields = head.fields
    if head.method != b"GET":
        raise HandshakeError("the method of a WebSocket upgrade is GET")
    if head.version != b"HTTP/1.1":
        raise _upgrade_required(_NEEDS_HTTP_1_1)
    if not head.target.startswith(b"/"):
        raise HandshakeError("request target is not a path")
    host = validate_host(fields)
    if b"upgrade" not in fields:
        raise _upgrade_required("Upgrade: websocket is missing (does a proxy in front remove it?)")
    if _only(fields, b"upgrade", "Upgrade").lower() != b"websocket":
        raise HandshakeError("Upgrade is not exactly 'websocket'")
    if not _names_upgrade(fields):
        raise _upgrade_required("Connection does not name Upgrade (does a proxy in front remove it?)")
    if b"transfer-encoding" in fields:
        raise HandshakeError("a WebSocket upgrade has no Transfer-Encoding")
    if b"content-length" in fields and fields[b"content-length"] != [b"0"]:
        raise HandshakeError("a WebSocket upgrade has no body")
    if fields.get(b"sec-websocket-version") != [WEBSOCKET_VERSION]:
        raise _upgrade_required("Sec-WebSocket-Version is not 13")
    offered = fields.get(b"sec-websocket-protocol")
    return UpgradeRequest(head, host, _key(fields), tuple(list_tokens(offered)) if offered else ())


def _names_upgrade(fields: Fields) -> bool:
    """Does Connection name Upgrade?"""
    values = fields.get(b"connection", ())
    return values == [b"Upgrade"] or b"upgrade" in {token.lower() for token in list_tokens(values)}


def validate_host(fields: Fields) -> bytes:
    """The one Host of an HTTP/1.1 request. RFC 9112 §3.2. Raises HandshakeError (400)."""
    host = _only(fields, b"host", "Host")
    if not host or host.translate(None, _HOST):
        raise HandshakeError("Host is not a host name")
    return host


def _key(fields: Fields) -> bytes:
    key = _only(fields, b"sec-websocket-key", "Sec-WebSocket-Key")
    if not _KEY.fullmatch(key):
        raise HandshakeError("Sec-WebSocket-Key is not 16 bytes in base64")
    return key


def _only(fields: Fields, name: bytes, spelled: str) -> bytes:
    values = fields.get(name, ())
    if len(values) != 1:
        raise HandshakeError(f"{spelled} is there {len(values)} times instead of once")
    return values[0]


def _upgrade_required(detail: str) -> HandshakeError:
    """RFC 6455 §4.4: say which version we speak."""
    return HandshakeError(detail, 426, ((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", WEBSOCKET_VERSION)))


@lru_cache(maxsize=1)  # it is checked in the upstream's 101 and then written into ours
def accept_value(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key. RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def end_to_end(headers: Iterable[Header], fields: Fields) -> list[Header]:
    """The headers without the hop-by-hop ones and those that Connection names, as far as it may. RFC 9110 §7.6.1."""
    away = _removed(fields)
    return [header for header in headers if header[0].lower() not in away]


def _removed(fields: Fields) -> frozenset[bytes]:
    """The names, in lower case, of the headers that are for one hop only."""
    values = fields.get(b"connection", ())
    if values == [b"Upgrade"]:
        return HOP_BY_HOP
    named = {token.lower() for token in list_tokens(values)}
    return HOP_BY_HOP | (named - _END_TO_END)


def carried_headers(head: RequestHead, owned: Container[bytes], *, trusted: bool) -> list[Header]:
    """The client's headers that go upstream, in order and as spelled.

    Without those for one hop, and those that spell one of `owned` (lower case), which are the caller's to write, also with `_` for
    `-`: many backends read them as the same. Any other X-Forwarded-* goes on only if the peer is `trusted`.
    """
    away = _removed(head.fields)
    kept = []
    for header in head.headers:
        name = _COMMON_NAMES.get(header[0]) or header[0].lower()
        folded = name.replace(b"_", b"-")
        if name not in away and folded not in owned and (trusted or not folded.startswith(b"x-forwarded-")):
            kept.append(header)
    return kept


def build_upgrade_request(request: UpgradeRequest, *, extensions: bytes, forwarded: Sequence[Header], trusted: bool = False) -> bytes:
    """The head that goes upstream: the client's own, with our `Sec-WebSocket-Extensions` (empty: none) and `forwarded` headers.

    `Connection` cannot name a `forwarded` one away, nor any header that the upgrade itself needs.
    """
    head = request.head
    kept = carried_headers(head, _NEVER_KEPT.union([name.lower() for name, _ in forwarded]), trusted=trusted)
    ours: list[Header] = []
    if request.protocols:
        ours.append((b"Sec-WebSocket-Protocol", b", ".join(head.fields[b"sec-websocket-protocol"])))
    if extensions:
        ours.append((b"Sec-WebSocket-Extensions", extensions))
    return build_head(_UPGRADE_HEAD % (head.target, request.host, request.key), (*ours, *kept, *forwarded))


_UPGRADE_HEAD: Final = (  # up to its last CRLF
    b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13"
)
_OWNED: Final = frozenset(
    (
        b"host",
        b"content-length",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
        b"http2-settings",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    )
)


_NEVER_KEPT: Final = _OWNED | HOP_BY_HOP


def validate_101(response: ResponseHead, request: UpgradeRequest) -> None:
    """Check an upstream's 101 as a client would. RFC 6455 §4.1. Raises HandshakeError (502)."""
    fields = response.fields
    if [value.lower() for value in fields.get(b"upgrade", ())] != [b"websocket"]:
        raise HandshakeError("upstream: 101 without 'Upgrade: websocket'", 502)
    if not _names_upgrade(fields):
        raise HandshakeError("upstream: 101 without 'Connection: Upgrade'", 502)
    if list(fields.get(b"sec-websocket-accept", ())) != [accept_value(request.key)]:
        raise HandshakeError("upstream: 101 with a wrong Sec-WebSocket-Accept", 502)
    chosen = fields.get(b"sec-websocket-protocol", ())
    if len(chosen) > 1 or (chosen and chosen[0] not in request.protocols):
        raise HandshakeError("upstream: 101 with a subprotocol that was not offered", 502)


def build_101(response: ResponseHead, request: UpgradeRequest, *, extensions: bytes) -> bytes:
    """The 101 for the client: the upstream's own end-to-end headers, with our `Sec-WebSocket-Extensions` (empty: none)."""
    away = _removed(response.fields) | _OF_THE_101
    kept = [header for header in response.headers if header[0].lower() not in away]
    if extensions:
        kept.insert(0, (b"Sec-WebSocket-Extensions", extensions))
    return build_head(_SWITCHING_HEAD % accept_value(request.key), kept)


_OF_THE_101: Final = frozenset((b"sec-websocket-accept", b"sec-websocket-extensions", b"content-length"))
_SWITCHING_HEAD: Final = (  # up to its last CRLF
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b"
)


def build_own_101(request: UpgradeRequest, *, subprotocol: bytes | None) -> bytes:
    """The 101 of a refusal: one offered subprotocol, without which browsers fail before they read our Close; no extension."""
    ours: list[Header] = []
    if subprotocol is not None:
        ours.append((b"Sec-WebSocket-Protocol", subprotocol))
    return build_head(_SWITCHING_HEAD % accept_value(request.key), ours)


def build_response(status: int, headers: Iterable[Header], body: bytes) -> bytes:
    """A whole answer of ours; it ends its connection."""
    line = b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())
    framing = ((b"Content-Length", b"%d" % len(body)), (b"Connection", b"close"))
    return build_head(line, (*headers, *framing)) + body


def build_head(line: bytes, headers: Iterable[Header]) -> bytes:
    """Serialise a head, its empty line included."""
    return b"\r\n".join((line, *[b"%b: %b" % header for header in headers], b"", b""))
