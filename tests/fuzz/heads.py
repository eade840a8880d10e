"""An independent reader of heads: the grammar of RFC 9112 as one regular expression, and RFC 6455 §4.2.1 as a list of questions.

It takes a head whole and knows nothing of how ours is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 §5.6.2
VCHAR = rb"[\x21-\x7e\x80-\xff]"  # and obs-text, RFC 9110 §5.5
FIELD = rb"\r\n(" + TCHAR + rb"+):[ \t]*((?:" + VCHAR + rb"(?:[\t \x21-\x7e\x80-\xff]*" + VCHAR + rb")?)?)[ \t]*"
FIELDS = re.compile(FIELD)
BLOCK = re.compile(rb"(?:" + FIELD + rb")*")
REQUEST_LINE = re.compile(rb"(" + TCHAR + rb"+) (" + VCHAR + rb"+) ([\t\x21-\x7e\x80-\xff]*)")  # the version is judged apart
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?")
HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+;=:%\[\]]+")  # RFC 3986 §3.2.2, in characters; no comma, which would make a list
KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


@dataclass(frozen=True)
class Head:
    """The parts of the first line, and all header lines."""

    line: tuple[bytes, ...]
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        return [value for other, value in self.headers if other.lower() == name]

    def tokens(self, name: bytes) -> list[bytes]:
        parts = (part.strip(b" \t") for value in self.values(name) for part in value.split(b","))
        return [part for part in parts if part]


def read(data: bytes, first: re.Pattern[bytes]) -> Head | None:
    """A head without its empty line; None if it breaks the grammar."""
    line, crlf, rest = data.partition(b"\r\n")
    found = first.fullmatch(line)
    if not found or not BLOCK.fullmatch(crlf + rest):
        return None
    return Head(tuple(part or b"" for part in found.groups()), tuple(FIELDS.findall(crlf + rest)))


def read_request(data: bytes) -> Head | int:
    """A request's head, or the status of the refusal."""
    head = read(data, REQUEST_LINE)
    if head is None:
        return 400
    if head.line[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return 426 if wants_upgrade(head) else 505
    return head


def wants_upgrade(head: Head) -> bool:
    """Would anybody take this for a WebSocket's upgrade?"""
    named = b"websocket" in b",".join(head.values(b"upgrade")).lower()
    return bool(named or head.values(b"sec-websocket-key") or head.values(b"sec-websocket-version"))


def judge_upgrade(head: Head) -> set[int]:
    """The statuses with which a head may be refused; none: it is an upgrade."""
    method, target, version = head.line
    host, key, upgrade = head.values(b"host"), head.values(b"sec-websocket-key"), head.values(b"upgrade")
    length = head.values(b"content-length")
    bad = (
        method != b"GET"
        or not target.startswith(b"/")
        or len(host) != 1
        or not HOST.fullmatch(host[0])
        or (upgrade != [] and (len(upgrade) > 1 or upgrade[0].lower() != b"websocket"))
        or head.values(b"transfer-encoding") != []
        or length not in ([], [b"0"])
        or len(key) != 1
        or not KEY.fullmatch(key[0])
    )
    needs_more = (
        version != b"HTTP/1.1"
        or not upgrade
        or b"upgrade" not in [token.lower() for token in head.tokens(b"connection")]
        or head.values(b"sec-websocket-version") != [b"13"]
    )
    return ({400} if bad else set()) | ({426} if needs_more else set())
