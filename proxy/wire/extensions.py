"""RFC 7692 in the handshake: which compression is offered upstream, and what the client is told.

The gate neither inflates nor deflates. But a message that it drops is missing from the history of whoever compresses with context
takeover, and every later message would be garbage. So where messages may be dropped, the client is told in the 101 to compress
each message on its own (`client_no_context_takeover`; RFC 7692 §7.1.1.2 lets a server say so unasked).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.wire.handshake import HandshakeError

PERMESSAGE_DEFLATE: Final = b"permessage-deflate"
MAX_EXTENSIONS: Final = 32  # elements; browsers offer one
CLIENT_NO_CONTEXT_TAKEOVER: Final = b"client_no_context_takeover"
SERVER_NO_CONTEXT_TAKEOVER: Final = b"server_no_context_takeover"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER: Final = rb"[ \t]*;[ \t]*(" + _TOKEN + rb")(?:[ \t]*=[ \t]*(" + _TOKEN + rb'|"' + _TOKEN + rb'"))?'
_EXTENSION: Final = re.compile(rb"[ \t]*(" + _TOKEN + rb")((?:" + _PARAMETER + rb")*)[ \t]*(?:,|$)")
_ONE_PARAMETER: Final = re.compile(_PARAMETER)


@dataclass(frozen=True, slots=True)
class Extension:
    """One element of Sec-WebSocket-Extensions. RFC 6455 §9.1."""

    name: bytes  # lower case
    parameters: tuple[bytes, ...]  # their names, lower case
    raw: bytes  # as sent, without the white space around it


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the upstream's 101 settled: which bits its frames may use, and the header for the client (empty: none)."""

    rsv1: bool
    lenient: bool
    header: bytes

    @property
    def is_droppable_outward(self) -> bool:
        """Can a message of the server be left out, and the client read those behind it? Not if the server compresses with context."""
        return not self.rsv1 or any(SERVER_NO_CONTEXT_TAKEOVER in one.parameters for one in parse_extensions([self.header]))


def parse_extensions(values: Iterable[bytes]) -> list[Extension]:
    """All elements over all header lines. Raises ValueError when they do not follow the grammar of RFC 6455 §9.1."""
    found: list[Extension] = []
    text = b",".join(values)
    position = 0
    while position < len(text):
        if text[position] in b", \t":
            position += 1
            continue
        match = _EXTENSION.match(text, position)
        if match is None:
            raise ValueError("Sec-WebSocket-Extensions cannot be read")
        name, parameters = match[1].lower(), match[2]
        if len(found) == MAX_EXTENSIONS:
            raise ValueError(f"Sec-WebSocket-Extensions has more than {MAX_EXTENSIONS} elements")
        names = tuple(part[1].lower() for part in _ONE_PARAMETER.finditer(parameters))
        found.append(Extension(name, names, match[1] + parameters))
        position = match.end()
    return found


def select_offers(values: Sequence[bytes], *, metered: bool) -> list[Extension]:
    """What goes upstream of a client's offers: all, or under frame rules those of permessage-deflate only.

    Raises HandshakeError (400) when the offers cannot be read.
    """
    if not values:
        return []
    try:
        offers = parse_extensions(values)
    except ValueError as error:
        raise HandshakeError(str(error)) from None
    return [offer for offer in offers if not metered or offer.name == PERMESSAGE_DEFLATE]


def without_server_context(offers: Iterable[Extension]) -> list[Extension]:
    """Offers that ask the server to compress each message on its own (RFC 7692 §7.1.1.1), since one may be dropped on its way."""
    return [_asking(offer, SERVER_NO_CONTEXT_TAKEOVER) if offer.name == PERMESSAGE_DEFLATE else offer for offer in offers]


def _asking(offer: Extension, parameter: bytes) -> Extension:
    if parameter in offer.parameters:
        return offer
    return Extension(offer.name, (*offer.parameters, parameter), offer.raw + b"; " + parameter)


def join_offers(offers: Iterable[Extension]) -> bytes:
    """The header value for the upstream."""
    return b", ".join(offer.raw for offer in offers)


def settle(values: Sequence[bytes], offers: Iterable[Extension], *, may_drop: bool) -> Agreed:
    """Judge the upstream's answer to `offers`. Raises HandshakeError (502) when it took what was not offered, or two."""
    try:
        answers = parse_extensions(values)
    except ValueError as error:
        raise HandshakeError(f"upstream: {error}", 502) from None
    if not answers:
        return Agreed(rsv1=False, lenient=False, header=b"")
    if len(answers) > 1:
        raise HandshakeError("upstream: two extensions in its 101", 502)
    (answer,) = answers
    if answer.name not in {offer.name for offer in offers}:
        raise HandshakeError("upstream: an extension that was not offered", 502)
    if answer.name != PERMESSAGE_DEFLATE:
        return Agreed(rsv1=True, lenient=True, header=answer.raw)
    header = answer.raw
    if may_drop and CLIENT_NO_CONTEXT_TAKEOVER not in answer.parameters:
        header += b"; " + CLIENT_NO_CONTEXT_TAKEOVER
    return Agreed(rsv1=True, lenient=False, header=header)
