"""The token of a request: where it may stand, and one form for all spellings of it.

Tokens are not verified here (the backend does that); they are only told apart. So the danger is one real token that can be spelled
in many ways, or sent twice: each spelling would be a user of its own, with limits of its own. Tokens are brought to one form, as far
as no two real tokens share one, and a source with two different tokens is refused.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.wire.handshake import Fields, list_tokens

MAX_PAIRS: Final = 256  # query parameters or cookies; reading each costs microseconds, before any limit could help
SIGNATURE_DIGITS: Final = 20  # of base64, 120 bits, tell two signatures apart
UUID_DIGITS: Final = 32

_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_PREFIX: Final = re.compile(rb"(?:(?:bearer|j:)[-+:,\x00-\x20]*)+", re.IGNORECASE)  # j: is what Express calls JSON in a cookie
_BASE64: Final = re.compile(rb"eyJ|\.eJ|gAAAAA")  # how JSON, deflated JSON and Fernet begin in base64: JWT, itsdangerous, Flask
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
