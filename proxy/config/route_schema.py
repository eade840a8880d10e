"""The `routes` section, and the one route that stands for none.

Paths and rooms are judged by `policy.routes` itself, so what is accepted here is what will be matched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from proxy.config.reading import NAME, Kind, Reading, any_of, choice, names_of, suggestion, whole
from proxy.config.yaml_nodes import Node, Table, Text
from proxy.policy.routes import Compression, RoomCase, Route, compile_path, template_names

KEYS: Final = ("name", "path", "upstream", "room", "room_case", "compression")
DEFAULT_NAME: Final = "default"
DEFAULT_PATH: Final = "/{rest*}"
ROOM: Final = "room"  # the name in a path that gives a room without being asked

ROUTES_WORDS: Final = "a list of at least one route"
ROUTE_WORDS: Final = 'a mapping such as {name: rest, path: "/{rest*}", upstream: game}'


def _parse_path(text: str) -> tuple[str, re.Pattern[bytes]]:
    try:
        return text, compile_path(text)
    except ValueError as error:
        raise ValueError(f"{PATH.expected} ({error})") from None


def _parse_room(text: str) -> tuple[str, list[str]]:
    if not text or not text.isprintable():
        raise ValueError(ROOM_TEMPLATE.expected)
    try:
        return text, template_names(text)
    except ValueError as error:
        raise ValueError(f"{ROOM_TEMPLATE.expected} ({error})") from None


def _parse_upstream(text: str) -> str:
    return text


PATH: Final = Kind("a path such as /ws/{room} or /{rest*}", _parse_path)
ROOM_TEMPLATE: Final = Kind("the name of a room, made from names in the path, such as {room}", _parse_room)
UPSTREAM: Final = Kind("the name of an upstream", _parse_upstream)
ROOM_CASE: Final = choice(RoomCase)
COMPRESSION: Final = choice(Compression)


def read_routes(reading: Reading, top: Table, upstreams: Collection[str] | None) -> tuple[tuple[Route, ...] | None, Collection[str] | None]:
    """(routes, None after a problem; their names as far as they are known, for the rules that speak of them).

    `upstreams`: the names of all upstreams, None where they could not be read.
    """
    if "routes" not in top.entries:
        return _default_routes(reading, top, upstreams), [DEFAULT_NAME]
    node = top.entries["routes"]
    items = reading.items(node, ROUTES_WORDS)
    if items is None:
        return None, None
    if not items:
        reading.report(node.place, ROUTES_WORDS, "none")
        return None, None
    reader = _RouteReader(reading, upstreams)
    routes = whole([reader.read(item) for item in items])
    return routes, None if reader.nameless else reader.names


def _default_routes(reading: Reading, top: Table, upstreams: Collection[str] | None) -> tuple[Route, ...] | None:
    if upstreams is None:
        return None
    if len(upstreams) > 1:
        reading.report(top.place.key("routes"), f"routes that say which upstream is for what ({names_of(upstreams)})", "nothing")
        return None
    return tuple(Route(DEFAULT_NAME, DEFAULT_PATH, upstream) for upstream in upstreams)


class _RouteReader:
    """Reads routes one after the other, and remembers what must not be there twice."""

    def __init__(self, reading: Reading, upstreams: Collection[str] | None) -> None:
        self._reading = reading
        self._upstreams = upstreams
        self._paths: dict[bytes, int] = {}  # compiled path -> line
        self.names: dict[str, int] = {}  # name -> line
        self.nameless = False  # is there a route whose name could not be read?

    def read(self, node: Node) -> Route | None:
        table = self._reading.fields(node, ROUTE_WORDS, KEYS)
        if table is None:
            self.nameless = True
            return None
        name = self._name(table)
        path, names = self._path(table)
        upstream = self._upstream(table)
        room = self._room(table, names)
        room_case = self._reading.optional(table, "room_case", ROOM_CASE, RoomCase.KEEP)
        compression = self._reading.optional(table, "compression", COMPRESSION, Compression.PASS)
        if names is not None and "room_case" in table.entries and "room" not in table.entries and ROOM not in names:
            self._reading.report(table.keys["room_case"], "a room too: neither the path nor a room key names one", "room_case alone")
        if name is None or path is None or upstream is None or room_case is None or compression is None:
            return None
        return Route(name, path, upstream, room, room_case, compression)

    def _name(self, table: Table) -> str | None:
        name = self._reading.required(table, "name", NAME)
        if name is None:
            self.nameless = True
        else:
            self._reading.unique(table.entries["name"].place, name, self.names)
        return name

    def _path(self, table: Table) -> tuple[str | None, list[str] | None]:
        """(path, the names in it)."""
        read = self._reading.required(table, "path", PATH)
        if read is None:
            return None, None
        path, pattern = read
        place = table.entries["path"].place
        if pattern.pattern in self._paths:
            self._reading.report(place, f"another path than the one on line {self._paths[pattern.pattern]}", "the same again")
        self._paths.setdefault(pattern.pattern, place.line)
        return path, template_names(path)

    def _upstream(self, table: Table) -> str | None:
        name = self._reading.required(table, "upstream", UPSTREAM)
        node = table.entries.get("upstream")
        if name is None or self._upstreams is None or name in self._upstreams or not isinstance(node, Text):
            return name
        hint = suggestion(name, self._upstreams) if not node.from_environment else ""
        self._reading.report(node.place, f"the name of an upstream: {names_of(self._upstreams)}{hint}", node.shown)
        return None

    def _room(self, table: Table, names: Sequence[str] | None) -> str | None:
        """The room template; None where there is none, and after a problem. `names`: of the path, None after a problem."""
        if "room" not in table.entries:
            return f"{{{ROOM}}}" if names and ROOM in names else None
        read = self._reading.scalar(table.entries["room"], ROOM_TEMPLATE)
        if read is None or names is None:
            return None
        room, used = read
        node = table.entries["room"]
        for name in used:
            if name not in names and isinstance(node, Text):
                known = any_of(f"{{{one}}}" for one in names) if names else "none"
                self._reading.report(node.place, f"names of the path ({known})", node.shown)
        return room
