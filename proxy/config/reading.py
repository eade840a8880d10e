"""From a tree of texts to typed values: the questions that a schema asks, and the problems that wrong answers give.

Every question returns the value, or None once its problem is told. So a schema reads on after a mistake, and all mistakes come out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Final, Generic, TypeVar

from proxy.config.problems import Place, Problem, show_key
from proxy.config.yaml_nodes import Broken, Listing, Node, Table, Text, describe, is_nothing

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Amount = TypeVar("Amount", int, float)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of scalar: what is expected, in words, and how a text is read. `parse` raises ValueError with more exact words."""

    expected: str
    parse: Callable[[str], T]


MAX_NAMED: Final = 8
MAX_COMPARED: Final = 100

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def parse_name(text: str) -> str:
    """The name of a rule, route or upstream; it is a metric label and a part of close reasons. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(NAME.expected)
    return text


def _parse_flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(FLAG.expected)
    return text == "true"


def _parse_file(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(FILE.expected)
    return text


NAME: Final = Kind("a name of at most 64 letters, digits, - _ or ., beginning with a letter or digit", parse_name)
FLAG: Final = Kind("true or false", _parse_flag)
FILE: Final = Kind("the path of a file", _parse_file)


def beside(place: Place, path: str) -> Path:
    """A path in a configuration: a relative one starts at the folder of the file."""
    return Path(place.file).parent / path


def within(what: str, parse: Callable[[str], Amount], minimum: str, maximum: str, why: str = "") -> Kind[Amount]:
    """An amount that has bounds, both of them allowed and written as the user would. `why`: more words about the bounds."""
    expected = f"{what} from {minimum} to {maximum}{why}"
    least, most = parse(minimum), parse(maximum)

    def parse_within(text: str) -> Amount:
        try:
            amount = parse(text)
        except ValueError:
            raise ValueError(expected) from None
        if not least <= amount <= most:
            raise ValueError(expected)
        return amount

    return Kind(expected, parse_within)


def choice(values: Iterable[E], later: Sequence[str] = (), where: str = "") -> Kind[E]:
    """One of the words that are the values of an enum. `later`: words that are known but not supported yet. `where`: for which key."""
    words = {one.value: one for one in values}
    expected = any_of(words) + where

    def parse(text: str) -> E:
        if text in later:
            raise ValueError(f"{expected} ({text} is not supported yet)")
        if text not in words:
            raise ValueError(expected + suggestion(text, words))
        return words[text]

    return Kind(expected, parse)


def any_of(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def names_of(known: Collection[str]) -> str:
    """The names that there are, cut short where there are many."""
    named = [show_key(one) for one in islice(known, MAX_NAMED)]
    return any_of([*named, f"{len(known) - MAX_NAMED} others"] if len(known) > MAX_NAMED else named)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` for the known word that is nearest, if one is near. Looks at the first hundred only: it is slow."""
    near = get_close_matches(word, [one for one in islice(known, MAX_COMPARED) if show_key(one) == one], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class Reading:
    """Asks a tree of nodes, and keeps what is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems

    def report(self, place: Place, expected: str, found: str) -> None:
        self._problems.append(place.problem(expected, found))

    def table(self, node: Node, expected: str) -> Table | None:
        """A mapping."""
        if isinstance(node, Table):
            return node
        self._report_other(node, expected)
        return None

    def fields(self, node: Node, expected: str, keys: Sequence[str], later: Sequence[str] = ()) -> Table | None:
        """A mapping with no keys but these; `later`: keys that are known but not supported yet."""
        table = self.table(node, expected)
        for key in table.entries if table else ():
            if table and key not in keys:
                self._unknown(table.keys[key], key, keys, later)
        return table

    def _unknown(self, place: Place, key: str, keys: Sequence[str], later: Sequence[str]) -> None:
        allowed = any_of(keys)
        if key in later:
            self.report(place, allowed, f"{key}, which is not supported yet")
        else:
            self.report(place, allowed + suggestion(key, (*keys, *later)), f"the unknown key {show_key(key)}")

    def items(self, node: Node, expected: str) -> tuple[Node, ...] | None:
        """The items of a list; a key without a value is a list without items."""
        if isinstance(node, Listing):
            return node.items
        if is_nothing(node):
            return ()
        self._report_other(node, expected)
        return None

    def one_or_more(self, node: Node, expected: str) -> tuple[Node, ...] | None:
        """The items of a list that is not empty, or the one text that stands alone."""
        if isinstance(node, Text) and not is_nothing(node):
            return (node,)
        items = self.items(node, expected)
        if items == ():
            self.report(node.place, expected, describe(node) if is_nothing(node) else "an empty list")
            return None
        return items

    def text(self, node: Node, expected: str) -> Text | None:
        """A text of any kind."""
        if isinstance(node, Text):
            return node
        self._report_other(node, expected)
        return None

    def scalar(self, node: Node, kind: Kind[T]) -> T | None:
        """A text, as `kind` reads it."""
        text = self.text(node, kind.expected)
        if text is None:
            return None
        try:
            return kind.parse(text.value)
        except ValueError as error:
            # The words of the error may repeat a part of the text, which a value from the environment does not allow.
            expected = kind.expected if text.from_environment else str(error)
            self.report(text.place, expected, describe(text) if is_nothing(text) else text.shown)
            return None

    def required(self, table: Table, key: str, kind: Kind[T]) -> T | None:
        node = self.required_node(table, key, kind.expected)
        return None if node is None else self.scalar(node, kind)

    def required_node(self, table: Table, key: str, expected: str) -> Node | None:
        if key not in table.entries:
            self.report(table.place.key(key), expected, "nothing")
        return table.entries.get(key)

    def optional(self, table: Table, key: str, kind: Kind[T], default: T) -> T | None:
        return self.scalar(table.entries[key], kind) if key in table.entries else default

    def unique(self, place: Place, name: str, seen: dict[str, int]) -> None:
        """Names are there once. `seen`: name -> line of its first use."""
        if name in seen:
            self.report(place, f"another name than the one on line {seen[name]}", "the same again")
        seen.setdefault(name, place.line)

    def _report_other(self, node: Node, expected: str) -> None:
        if not isinstance(node, Broken):
            self.report(node.place, expected, describe(node))


def whole(values: Iterable[T | None]) -> tuple[T, ...] | None:
    """All values as a tuple, or None if one of them is missing because of a problem."""
    read = tuple(values)
    present = tuple(one for one in read if one is not None)
    return present if len(present) == len(read) else None
