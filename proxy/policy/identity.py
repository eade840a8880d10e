"""Who asks: the token's digest, and the address that the trusted proxies vouch for.

Tokens are not verified here (the backend does that); they are only told apart. So the danger is one real token that can be spelled
in many ways, or sent twice: each spelling would be a user of its own, with limits of its own. Tokens are brought to one form, as far
as no two real tokens share one, and a source with two different tokens is refused. A token itself is never kept: only its keyed digest.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.policy.rules import Per, Rule
from proxy.wire.handshake import list_tokens

DIGEST_SIZE: Final = 16  # bytes: 128 bits, so that nobody finds two principals with one key
PEERS: Final = 4096  # addresses whose reading is remembered
KEYS: Final = 16384  # digests that are remembered, of what is counted: users (as digests themselves), addresses, rooms
MAX_SECRET: Final = 64  # bytes, the longest key of BLAKE2b
DOCUMENTED_SECRET: Final = b"wsgate: no secret is configured"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Fields = Mapping[bytes, Sequence[bytes]]

MAX_PAIRS: Final = 256  # query parameters or cookies; reading each costs microseconds, before any limit could help

_FORWARDED_PAIR: Final = re.compile(  # RFC 7239 §4, and unquoted ports, which are common; `end` says whether more follows
    rb"[ \t]*(?:(?P<name>[-!#$%&'*+.^_`|~0-9A-Za-z]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\",;\\ \t]*))?[ \t]*(?P<end>[;,]|$)"
)
_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_SCHEME: Final = re.compile(rb"[A-Za-z][-+.0-9A-Za-z]*")  # RFC 3986 §3.1
_BRACKETED: Final = re.compile(rb"\[([^]]*)\](?::.*)?")
_PREFIX: Final = re.compile(rb"(?:(?:bearer|j:)[-+:,\x00-\x20]*)+", re.IGNORECASE)  # j: is what Express calls JSON in a cookie
_BASE64: Final = re.compile(rb"eyJ|\.eJ|gAAAAA")  # how JSON, deflated JSON and Fernet begin in base64: JWT, itsdangerous, Flask
SIGNATURE_DIGITS: Final = 20  # of base64, 120 bits, tell two signatures apart
UUID_DIGITS: Final = 32
_UUID: Final = re.compile(rb"[0-9a-f]{32}")
_AROUND: Final = bytes(range(0x21)) + b"\x7f\"'"
_ESCAPE: Final = re.compile(rb"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)
_UUID_FILLING: Final = re.compile(rb"urn:|uuid:|[{}-]")


class IdentityError(Exception):
    """Whose request this is cannot be told for sure; `status` is the answer. Never quotes the token."""

    status = 400


class SourceKind(Enum):
    """Where a token may stand; the values are the YAML words."""

    BEARER = "bearer"
    QUERY = "query"
    COOKIE = "cookie"
    SUBPROTOCOL = "subprotocol"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One place to look for a token. `name` is the query parameter, the cookie, or the prefix of the subprotocol."""

    kind: SourceKind
    name: bytes = b""


DEFAULT_SOURCES: Final = (
    TokenSource(SourceKind.BEARER),
    TokenSource(SourceKind.QUERY, b"token"),
    TokenSource(SourceKind.COOKIE, b"session"),
    TokenSource(SourceKind.SUBPROTOCOL, b"bearer."),
)


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """The `identity` section."""

    sources: tuple[TokenSource, ...] = DEFAULT_SOURCES
    trusted_proxies: tuple[Network, ...] = ()
    ipv6_prefix: int = 64
    secret: bytes = field(default=DOCUMENTED_SECRET, repr=False)


@dataclass(slots=True)  # not frozen: it is made for each upgrade, and that took half a microsecond more
class Principal:
    """Who asks, in the only form that is kept; nobody changes it. `user` is a digest; for an anonymous client it is
    of this connection alone."""

    user: bytes
    anonymous: bool
    address: Address | None  # None: a peer on a Unix socket that names no client
    ip: bytes  # what `per: ip` counts: the address, of IPv6 its prefix
    route: str
    room: str | None
    connection: bytes  # the id of this connection, random


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the client's transport. `text` and `node`: its address in X-Forwarded-For and in Forwarded."""

    address: Address | None  # None: a Unix socket
    trusted: bool
    name: str | None = None  # what `per: ip` counts, as text, where it stands for itself; None for a trusted peer, which speaks for many
    text: bytes = field(init=False, compare=False, repr=False)
    node: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", b"" if self.address is None else str(self.address).encode())
        object.__setattr__(self, "node", format_node(self.address))


class Identifier:
    """Turns heads into principals' parts, under one set of identity rules."""

    def __init__(self, rules: IdentityRules) -> None:
        self._rules = rules
        self._secret = rules.secret if len(rules.secret) <= MAX_SECRET else blake2b(rules.secret).digest()
        self._hashes = {domain: self._keyed(domain) for domain in (b"token", b"anonymous", b"key")}
        self._key_digest = lru_cache(KEYS)(self._digest_of_parts)
        self.peer = lru_cache(PEERS)(self._peer)

    def user(self, query: bytes, fields: Fields, connection: bytes) -> tuple[bytes, bool]:
        """(digest of the user, anonymous). Without a token each connection is its own user.

        Raises IdentityError when a token is there twice and not the same.
        """
        for source in self._rules.sources:
            token = find_token(source, query, fields)
            if token:
                return self._digest(b"token", token), False
        return self._digest(b"anonymous", connection), True

    def _peer(self, address: str) -> Peer:
        """The peer of a transport; an empty address is a Unix socket, whose peer is always trusted."""
        if not address:
            return Peer(None, trusted=True)
        parsed = parse_address(address.encode())
        if parsed is not None and self.is_trusted(parsed):
            return Peer(parsed, trusted=True)
        return Peer(parsed, trusted=False, name="unknown" if parsed is None else self.ip(parsed).hex())

    def is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._rules.trusted_proxies)

    def client_address(self, peer: Peer, fields: Fields) -> Address | None:
        """The address of who asks: of a trusted peer, the last one in its forwarding header that is not trusted itself.

        X-Forwarded-For counts before Forwarded. An entry that is no address ends the search: whoever named it is the client.
        """
        client = peer.address
        if not peer.trusted:
            return client
        for entry in reversed(forwarded_for(fields)):
            address = parse_address(entry)
            if address is None:
                break
            client = address
            if not self.is_trusted(address):
                break
        return client

    def vouched_name(self, peer: Peer, fields: Fields) -> str | None:
        """As Peer.name, of the client that a trusted peer speaks for; None where it names none but proxies."""
        address = self.client_address(peer, fields)
        return None if address is None or self.is_trusted(address) else self.ip(address).hex()

    def ip(self, address: Address | None) -> bytes:
        """What `per: ip` counts."""
        if address is None:
            return b"unix socket"  # 11 bytes: no address is as long
        if isinstance(address, IPv6Address):
            host_bits = address.max_prefixlen - self._rules.ipv6_prefix
            return (int(address) >> host_bits << host_bits).to_bytes(16, "big")
        return address.packed

    def key(self, rule: Rule, principal: Principal, per: Iterable[Per]) -> bytes:
        """The key of a rule for a principal: the rule's name and a digest that cannot be made to collide (length-prefixed)."""
        return rule.name.encode() + b":" + self._key_digest(*[part_of(principal, one) for one in per])

    def _digest_of_parts(self, *parts: bytes) -> bytes:
        return self._digest(b"key", b"".join([len(part).to_bytes(4, "big") + part for part in parts]))

    def _digest(self, domain: bytes, value: bytes) -> bytes:
        copy = self._hashes[domain].copy()
        copy.update(value)
        return copy.digest()

    def _keyed(self, domain: bytes) -> blake2b:
        """A digest of nothing yet, to be copied: keying one takes longer than all that is digested here."""
        return blake2b(digest_size=DIGEST_SIZE, key=self._secret, person=domain)


def part_of(principal: Principal, per: Per) -> bytes:
    """What of a principal is counted."""
    if per is Per.USER:
        return principal.user
    if per is Per.IP:
        return principal.ip
    if per is Per.ROOM:
        return (principal.room or "").encode()
    if per is Per.ROUTE:
        return principal.route.encode()
    return principal.connection if per is Per.CONNECTION else b""


def find_token(source: TokenSource, query: bytes, fields: Fields) -> bytes | None:
    """The token at one place, in one form; None if there is none. Raises IdentityError if there are two that differ."""
    match source.kind:
        case SourceKind.BEARER:
            found = _bearer(fields)
        case SourceKind.QUERY:
            found = _query(source.name, query)
        case SourceKind.COOKIE:
            found = _cookie(source.name, fields)
        case SourceKind.SUBPROTOCOL:
            found = _subprotocol(source.name, fields)
    if len(found) > 1:
        raise IdentityError(f"two different tokens in the {source.kind.value}")
    return found.pop() if found else None


def _bearer(fields: Fields) -> set[bytes]:
    """RFC 6750 §2.1. Many backends take what follows without a look at the scheme, so only credentials that are Basic are not a token."""
    values = fields.get(b"authorization", ())
    if len(values) > 1:
        raise IdentityError("Authorization is there twice")
    words = values[0].split() if values else []
    if len(words) == len(("Bearer", "token")) and words[0] == b"Bearer" and words[1].lower() != b"bearer":
        form = _one_form(words[1])  # the common case; what follows is right for it, too
        return {form} if form else set()
    if not words or words[-1].lower() == b"bearer" or _is_basic(words):
        return set()
    return _forms([words[1] if words[0].lower() == b"bearer" else b" ".join(words[1:]) or words[0]])


def _is_basic(words: Sequence[bytes]) -> bool:
    """Well-formed credentials of RFC 7617."""
    if len(words) != 2 or words[0].lower() != b"basic":
        return False
    try:
        return b":" in b64decode(words[1], validate=True)
    except binascii.Error:
        return False


def _query(name: bytes, query: bytes) -> set[bytes]:
    """Most end a parameter at `&`; some at `;` too, and some read a raw `#` or a second `?` as an end. Tokens have none of these raw."""
    return _forms(_form_decoded(value) for value in _values(name, re.split(rb"[&;#?]", query)))


def _form_decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _cookie(name: bytes, fields: Fields) -> set[bytes]:
    """A cookie ends at `;`. Some readers end it at white space or a comma too (aiohttp and http.cookies do, but not at blanks around
    the `=`), so a token may stand where only they find it; but one that we find is taken whole, since JSON in a cookie has commas."""
    lines = fields.get(b"cookie", ())
    values = _values(name, [pair for line in lines for pair in line.split(b";")])
    if not values:
        values = _values(name, [pair for line in lines for pair in re.split(rb"[;,\s]", re.sub(rb"\s*=\s*", b"=", line))])
    return _forms(unquote_to_bytes(_unquoted(value.strip())) for value in values)


def _unquoted(value: bytes) -> bytes:
    """Python's http.cookies quotes a value with octal escapes inside."""
    if len(value) < len(b'""') or not (value.startswith(b'"') and value.endswith(b'"')):
        return value
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8),)) if match[1] else match[2], value[1:-1])


def _subprotocol(prefix: bytes, fields: Fields) -> set[bytes]:
    offered = list_tokens(fields.get(b"sec-websocket-protocol", ()))
    return _forms(one[len(prefix) :] for one in offered if one.lower().startswith(prefix.lower()))


def _values(name: bytes, pairs: Sequence[bytes]) -> list[bytes]:
    """The values that stand under a name, or under one that a backend takes for it."""
    if len(pairs) > MAX_PAIRS:
        raise IdentityError(f"more than {MAX_PAIRS} parameters or cookies")
    wanted = _loose_name(name)
    split = [pair.partition(b"=") for pair in pairs]
    return [value for key, _, value in split if _loose_name(key) == wanted]


def _loose_name(name: bytes) -> bytes:
    """Of a parameter or cookie: ASP.NET ignores case; PHP ignores leading blanks and what a NUL follows, and turns . into _;
    `name[]` is an array of its own name to PHP and to qs."""
    name = unquote_to_bytes(name.replace(b"+", b" ")).strip().lower()
    return re.split(rb"[\x00[]", name, maxsplit=1)[0].replace(b".", b"_").replace(b" ", b"_")


def _forms(texts: Iterable[bytes]) -> set[bytes]:
    """The different tokens among these texts; at most two, which is one too many."""
    forms: set[bytes] = set()
    for text in dict.fromkeys(texts):
        form = _one_form(text)
        if form:
            forms.add(form)
        if len(forms) > 1:
            break
    return forms


def _one_form(text: bytes) -> bytes:
    """The one form of a token's spellings: what decoders overlook, and what no two real tokens differ by alone.

    That is: quotes and white space around it, the word Bearer before it, padding behind it, the case, braces and dashes of a UUID, and
    in a signed token (JWT, itsdangerous, Fernet) what lenient base64 decoders skip. All else is told apart to the bit.
    """
    text = text.strip(_AROUND)
    if match := _PREFIX.match(text):
        text = text[match.end() :].strip(_AROUND)
    if _BASE64.match(text):
        return _base64_form(text)
    if len(text) < UUID_DIGITS:
        return text.rstrip(b"=")
    bare = _UUID_FILLING.sub(b"", text.lower())
    return bare if _UUID.fullmatch(bare) else text.rstrip(b"=")


def _base64_form(text: bytes) -> bytes:
    """Lenient decoders skip foreign characters, a blank may be a `+` and that a `-`, and the last digit of a signature has bits
    that nobody reads: what is left without all these still tells two tokens apart."""
    *signed, last = [re.sub(rb"[^0-9A-Z_a-z]", b"", part) for part in text.replace(b"/", b"_").split(b".")]
    return b".".join((*signed, last[:SIGNATURE_DIGITS] if signed else last[:-2]))


def echoed_subprotocol(sources: Sequence[TokenSource], protocols: Sequence[bytes]) -> bytes | None:
    """What the 101 of a refusal echoes: the first offered subprotocol that carries no token, else the first; None if none was.

    Only something that could stand in a 101 is echoed: a token of RFC 9110 §5.6.2, as RFC 6455 §4.1 asks of what is offered.
    """
    prefixes = tuple(source.name.lower() for source in sources if source.kind is SourceKind.SUBPROTOCOL)
    sendable = [protocol for protocol in protocols if _TOKEN.fullmatch(protocol)]
    for protocol in sendable:
        if not protocol.lower().startswith(prefixes):
            return protocol
    return sendable[0] if sendable else None


def forwarded_for(fields: Fields) -> list[bytes]:
    """The chain of addresses that proxies wrote, oldest first: of X-Forwarded-For, else of Forwarded (RFC 7239 §5.2)."""
    chain = list_tokens(fields.get(b"x-forwarded-for", ()))
    return chain or [node for line in fields.get(b"forwarded", ()) for node in _forwarded_nodes(line) or (b"",)]


def _forwarded_nodes(line: bytes) -> list[bytes] | None:
    """The `for` of each element, empty where it has none or several. None if the line cannot be read: quotes that one writer left
    open and another closed would hide an element or make one up, so nothing in such a line is worth anything."""
    nodes = []
    fors: list[bytes] = []
    pairs = position = 0
    while True:
        match = _FORWARDED_PAIR.match(line, position)
        if match is None:
            return None
        if match["name"]:
            pairs += 1
            if match["name"].lower() == b"for":
                fors.append(match["value"].strip(b'"'))
        if match["end"] != b";":
            if pairs:
                nodes.append(fors[0] if len(fors) == 1 else b"")
            if not match["end"]:
                return nodes
            fors = []
            pairs = 0
        position = match.end()


def parse_address(text: bytes) -> Address | None:
    """An address with or without port and brackets; None for anything else (`unknown`, `_hidden`). Mapped IPv4 becomes IPv4."""
    text = text.strip()
    if bracketed := _BRACKETED.fullmatch(text):
        text = bracketed[1]
    elif text.count(b":") == 1:
        text = text.partition(b":")[0]
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without a zone
    return address


def format_node(address: Address | None) -> bytes:
    """An address as it stands in Forwarded (RFC 7239 §6)."""
    if address is None:
        return b"unknown"
    return f'"[{address}]"'.encode() if isinstance(address, IPv6Address) else str(address).encode()


def forwarding_headers(peer: Peer, fields: Fields, *, host: bytes, proto: bytes) -> list[tuple[bytes, bytes]]:
    """X-Forwarded-* and Forwarded for the upstream: of a trusted peer carried on and added to, else made anew from what we saw.

    Both tell the chain that we counted: one that only the client wrote and the proxy in front let through must not contradict it.
    """
    if not peer.trusted:  # which a peer without an address always is
        return [
            (b"X-Forwarded-For", peer.text),
            (b"X-Forwarded-Host", host),
            (b"X-Forwarded-Proto", proto),
            (b"Forwarded", _element(peer, host, proto)),
        ]
    chain = forwarded_for(fields)
    proto = next((one for one in reversed(list_tokens(fields.get(b"x-forwarded-proto", ()))) if _SCHEME.fullmatch(one)), proto)
    host = (list_tokens(fields.get(b"x-forwarded-host", ())) or [host])[-1]
    ours = _element(peer, host, proto)
    if list_tokens(fields.get(b"x-forwarded-for", ())):
        elements = [b"for=" + format_node(parse_address(node)) for node in chain]
    else:
        elements = [b"for=unknown" if _forwarded_nodes(line) is None else line for line in fields.get(b"forwarded", ()) if line]
        chain = [node or b"unknown" for node in chain]
    if peer.address is not None:
        chain.append(peer.text)
    headers = [
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Proto", proto),
        (b"Forwarded", b", ".join([*elements, ours])),
    ]
    if chain:
        headers.insert(0, (b"X-Forwarded-For", b", ".join(chain)))
    return headers


def _element(peer: Peer, host: bytes, proto: bytes) -> bytes:
    """What we add to Forwarded (RFC 7239 §4)."""
    if b'"' in host or b"\\" in host:
        host = host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'for=%b;host="%b";proto=%b' % (peer.node, host, proto)
