"""Routes: which upstream a path goes to, and which room it names.

Backends read paths more leniently than we do (they squeeze slashes, ignore case, decode). A path that only a lenient reader takes
for a room must not slip past that room's cap through the catch-all: it is refused. What is matched here goes upstream byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

PATHS: Final = 4096  # whose routes are remembered
MAX_REMEMBERED: Final = 256  # bytes of such a path
MAX_ROOM_NAME: Final = 200  # bytes of UTF-8

_FORBIDDEN: Final = re.compile(rb"//|[;\\#\x00-\x20\x7f-\xff]|%2[fF]|%5[cC]|%00")
_PLAIN: Final = re.compile(rb"(?:/[-a-z0-9_~!$&'()*+,:@=][-a-z0-9._~!$&'()*+,:@=]*)+/?")  # the same to every reader
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DOT_SEGMENT: Final = re.compile(rb"(?:\.|%2[eE]){1,2}")
_NAME: Final = re.compile(r"\{([a-z_][a-z0-9_]*)(\*?)\}")


class PathError(Exception):
    """A path that is refused; `status` is the answer."""

    status = 400


class RoomCase(Enum):
    """Whether `Lobby` and `lobby` are one room."""

    KEEP = "keep"
    FOLD = "fold"


class Compression(Enum):
    """Whether an upstream is offered what a client offers, or no extension at all."""

    PASS = "pass"  # noqa: S105 -- a word of the YAML, no password
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of `routes`. `room` is a template over the names of `path`, None where paths name no room."""

    name: str
    path: str
    upstream: str
    room: str | None = None
    room_case: RoomCase = RoomCase.KEEP
    compression: Compression = Compression.PASS


class Match(NamedTuple):
    """Where an upgrade goes. `room` is None where its route has none."""

    route: Route
    room: str | None


def template_names(template: str) -> list[str]:
    """The names of a path or room template. Raises ValueError when it cannot be read."""
    rest = _NAME.sub("", template)
    if "{" in rest or "}" in rest:
        raise ValueError("braces hold a name: {room}, or {rest*} at the end for all that follows")
    names = [match[1] for match in _NAME.finditer(template)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{{{name}}} is there twice")
    return names


def compile_path(template: str) -> re.Pattern[bytes]:
    """The strict form of a path template, for `fullmatch` on raw paths. Raises ValueError with what is wrong."""
    if not template.startswith("/"):
        raise ValueError("a path begins with /")
    plain = _NAME.sub("x", template)
    if not plain.isascii() or _FORBIDDEN.search(plain.encode()):
        raise ValueError("a path has plain segments: no //, no ;, no \\, no #, no spaces, no encoded slashes, ASCII only")
    template_names(template)
    try:
        check_path(plain.encode())
    except PathError as error:
        raise ValueError(str(error)) from None
    return _compile(template, re.escape)


def _compile(template: str, literal: Callable[[str], str]) -> re.Pattern[bytes]:
    *segments, last = template.split("/")[1:]
    pattern = ""
    for segment in segments:
        pattern += "/" + _compile_segment(segment, literal)
    rest = _NAME.fullmatch(last)
    if rest and rest[2]:
        pattern += f"(?:/(?P<{rest[1]}>.*))?" if pattern else f"/(?P<{rest[1]}>.*)"
    elif last:
        pattern += "/" + _compile_segment(last, literal) + "/?"
    else:
        pattern += "/?" if pattern else "/"
    return re.compile(pattern.encode(errors="surrogateescape"), re.DOTALL)


def _compile_segment(segment: str, literal: Callable[[str], str]) -> str:
    pattern = ""
    position = 0
    for match in _NAME.finditer(segment):
        if match[2]:
            raise ValueError(f"{{{match[1]}*}} stands alone at the end of a path")
        pattern += literal(segment[position : match.start()]) + f"(?P<{match[1]}>[^/]+)"
        position = match.end()
    return pattern + literal(segment[position:])


def _lenient_literal(text: str) -> str:
    return re.escape(_lenient_form(text.encode()).decode(errors="surrogateescape"))


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """(path, query) of an origin-form request target; the query without its question mark."""
    path, _, query = target.partition(b"?")
    return path, query


class RouteTable:
    """All routes, in order; the first match wins."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._strict = [(route, compile_path(route.path)) for route in routes]
        self._lenient = [(route, _compile(route.path, _lenient_literal)) for route in routes]
        self._remembered = lru_cache(PATHS)(self._match)

    def match(self, path: bytes) -> Match | None:
        """The route of a path and its room; None where there is no route.

        Raises PathError for a path that a backend may read in another way than we do (DESIGN, "The door" 4).
        """
        return self._remembered(path) if len(path) <= MAX_REMEMBERED else self._match(path)

    def _match(self, path: bytes) -> Match | None:
        strict, names = _first(self._strict, path)
        if _PLAIN.fullmatch(path):
            squeezed = path.rstrip(b"/")
        else:
            check_path(path)
            squeezed = re.sub(rb"/+", b"/", _lenient_form(path)).rstrip(b"/") or b"/"
        lenient, _ = _first(self._lenient, squeezed)
        if lenient is not strict and lenient is not None and lenient.room is not None:
            raise PathError("the path names a room only when it is read leniently; spell it as the route does")
        if strict is None:
            return None
        return Match(strict, _room(strict, names))

    def find(self, path: bytes) -> Route | None:
        """The route of an ordinary request: the first that matches its path as it came. Nothing is counted, so nothing is refused."""
        return _first(self._strict, path)[0]


def check_path(path: bytes) -> None:
    """Raises PathError for what two readers may read differently."""
    if not path.startswith(b"/"):
        raise PathError("the request target is not a path")
    if _FORBIDDEN.search(path):
        raise PathError("the path has an empty segment, an encoded slash, or one of ; \\ # or a byte that is not ASCII")
    if _BAD_ESCAPE.search(path):
        raise PathError("the path has a % without two hexadecimal digits")
    for segment in path.split(b"/"):
        if segment and _DOT_SEGMENT.fullmatch(segment):
            raise PathError("the path has a dot segment")


def _first(table: Sequence[tuple[Route, re.Pattern[bytes]]], path: bytes) -> tuple[Route | None, dict[str, bytes]]:
    for route, pattern in table:
        match = pattern.fullmatch(path)
        if match:
            return route, match.groupdict(b"") if route.room is not None else {}
    return None, {}


def _lenient_form(text: bytes) -> bytes:
    """As a lenient backend may see it: decoded once, in lower case (of Unicode: a long s is an s to some)."""
    return unquote_to_bytes(text).decode(errors="surrogateescape").casefold().encode(errors="surrogateescape")


def _room(route: Route, names: dict[str, bytes]) -> str | None:
    if route.room is None:
        return None
    try:
        decoded = {name: unquote_to_bytes(value.rstrip(b"/")).decode() for name, value in names.items()}  # a slash ends {rest*}, too
    except UnicodeDecodeError:
        raise PathError("the room name is not UTF-8") from None
    room = _NAME.sub(lambda name: decoded[name[1]], route.room)
    if len(room.encode()) > MAX_ROOM_NAME:
        raise PathError(f"the room name is longer than {MAX_ROOM_NAME} bytes")
    return room.casefold() if route.room_case is RoomCase.FOLD else room
