"""Strict YAML: text -> a tree of texts, lists and tables, each with its place. What a text means is the schema's business.

PyYAML gives us the node graph with its marks and never an object. All that may surprise is a problem: tags, repeated keys, several
documents, aliases that hold themselves. Aliases are expanded and counted, so that a small file cannot become a large tree. `${VAR}`
is replaced here, once, after the YAML is read: what a variable holds is never read as YAML, nor shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml
from yaml.error import Mark, MarkedYAMLError, YAMLError
from yaml.nodes import ScalarNode, SequenceNode
from yaml.reader import ReaderError

from proxy.config.problems import Place, Problem, show, show_key

MAX_FILE: Final = 1 << 20  # bytes, or characters of what is already text
MAX_DEPTH: Final = 16  # levels; the schema has five
MAX_NODES: Final = 20_000  # with every alias expanded

NODES_WORDS: Final = f"at most {MAX_NODES} values in all, aliases expanded"
FILE_WORDS: Final = f"a file of at most {MAX_FILE >> 10} KiB"

_PLAIN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?")
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1 §4.1.4, as PyYAML counts them
_QUOTED_NAME: Final = re.compile(r" ('(?!<)[^']{2,}'|\"[^\"]{2,}\")")
_BAD_SCALAR: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar. `shown`: how a problem repeats it. `plain`: without quotes, so that an empty one is nothing at all.

    `from_environment`: a part of it is the value of a variable.
    """

    place: Place
    value: str
    shown: str
    plain: bool = False
    from_environment: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """A sequence."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping; `keys` holds where each key stands."""

    place: Place
    entries: Mapping[str, Node] = field(default_factory=dict)
    keys: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """Something whose problem is already told: it is to be passed over in silence."""

    place: Place


Node = Text | Listing | Table | Broken


def describe(node: Node) -> str:
    """What was found, where another kind of node was expected. The text itself is not told: it may be a secret out of place."""
    if isinstance(node, Text):
        return "nothing" if is_nothing(node) else "text"
    return "a list" if isinstance(node, Listing) else "a mapping"


def is_nothing(node: Node) -> bool:
    """Is it a key without a value, as in `rules:`?"""
    return isinstance(node, Text) and node.plain and not node.value


def read(text: str, file: str, environ: Mapping[str, str], problems: list[Problem]) -> Node:
    """The tree of a file of one document. Adds to `problems`; Broken if there is no tree. Never raises."""
    start = Place(file, 1, 1, "")
    if len(text) > MAX_FILE:
        problems.append(Place(file, 0, 0, "").problem(FILE_WORDS, "a larger one"))
        return Broken(start)
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            problems.append(start.problem("a mapping with at least upstreams", "an empty file"))
            return Broken(start)
        return _Tree(file, environ, problems).node(root, "")
    except MarkedYAMLError as error:
        problems.append(_syntax_problem(file, error))
    except ReaderError as error:
        problems.append(_located(file, text, error.position).problem("text", f"the control character U+{ord(text[error.position]):04X}"))
    except (YAMLError, ValueError, OverflowError):  # of chr() and int(), on "\UFFFFFFFF" and %YAML with endless digits
        mark = loader.get_mark() if loader else None
        problems.append(_at(file, mark).problem("valid YAML", "a number that YAML cannot mean here"))
    except _LimitError as error:
        problems.append(_at(file, error.mark).problem(error.expected, "more"))
    return Broken(start)


class _LimitError(Exception):
    """The tree grows too large at `mark`."""

    def __init__(self, mark: Mark | None, expected: str) -> None:
        super().__init__(expected)
        self.mark = mark
        self.expected = expected


class _Loader(yaml.BaseLoader):
    """Composes nodes and nothing else; bounded in depth, since composing is recursive, and in number, since it is slow."""

    _depth = 0
    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        place = parent.start_mark if parent else None
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH:
            raise _LimitError(place, f"at most {MAX_DEPTH} levels of lists and mappings")
        if self._count > MAX_NODES:
            raise _LimitError(place, NODES_WORDS)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Tree:
    """Turns PyYAML's graph into our tree."""

    def __init__(self, file: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._file = file
        self._environ = environ
        self._problems = problems
        self._count = 0
        self._open: set[int] = set()  # ids of the nodes that we are inside of

    def node(self, node: yaml.Node, path: str) -> Node:
        place = _at(self._file, node.start_mark, path)
        self._count += 1
        if self._count > MAX_NODES:
            raise _LimitError(node.start_mark, NODES_WORDS)
        if id(node) in self._open:
            return self._broken(place, "a value that does not hold itself", "an alias of what it stands in")
        if node.tag not in _PLAIN_TAGS:
            return self._broken(place, "a value without a tag (!)", "one with a tag")
        self._open.add(id(node))
        try:
            if isinstance(node, ScalarNode):
                return self._scalar(node, place)
            if isinstance(node, SequenceNode):
                return Listing(place, tuple(self.node(one, place.item(index).path) for index, one in enumerate(node.value)))
            return self._table(node, place)
        finally:
            self._open.remove(id(node))

    def _table(self, node: yaml.Node, place: Place) -> Table:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key_place = _at(self._file, key_node.start_mark, place.path)
            if not isinstance(key_node, ScalarNode) or key_node.tag not in _PLAIN_TAGS or _BAD_SCALAR.search(key_node.value):
                self._broken(key_place, "a key of plain text", "something else")
                continue
            key = key_node.value
            value = self.node(value_node, place.key(key).path)
            key_place = key_place.key(key)
            if key in entries:
                self._broken(key_place, "each key once", f"{show_key(key)} again (first on line {keys[key].line})")
            else:
                entries[key], keys[key] = value, key_place
        return Table(place, entries, keys)

    def _scalar(self, node: ScalarNode, place: Place) -> Text | Broken:
        raw: str = node.value
        if _BAD_SCALAR.search(raw):
            return self._broken(place, "text", "an escape that is only half a character")
        mistakes = [mistake for match in _VARIABLE.finditer(raw) if (mistake := self._mistake(match))]
        for expected, found in mistakes:
            self._broken(place, expected, found)
        if mistakes:
            return Broken(place)
        value = _VARIABLE.sub(lambda match: self._environ[match[1]] if match[1] else "${", raw)
        from_environment = any(match[1] for match in _VARIABLE.finditer(raw))
        shown = f"{show(raw)} (a value from the environment, not shown)" if from_environment else show(value)
        return Text(place, value, shown, plain=not node.style, from_environment=from_environment)

    def _mistake(self, match: re.Match[str]) -> tuple[str, str] | None:
        """(expected, found) for a variable that cannot be replaced."""
        name = match[1]
        if match[0] == "$${":
            return None
        if name is None:
            return "${NAME}, or $${ for a plain ${", "${ without a name and }"
        if name not in self._environ:
            return f"the environment variable {name}", "it unset"
        if _BAD_SCALAR.search(self._environ[name]):
            return f"UTF-8 in the environment variable {name}", "other bytes"
        return None

    def _broken(self, place: Place, expected: str, found: str) -> Broken:
        self._problems.append(place.problem(expected, found))
        return Broken(place)


def _at(file: str, mark: Mark | None, path: str = "") -> Place:
    return Place(file, mark.line + 1, mark.column + 1, path) if mark else Place(file, 1, 1, path)


def _located(file: str, text: str, position: int) -> Place:
    """The place of a character, for an error without a mark."""
    line, start = 1, 0
    for line_break in _breaks(text, position):
        line, start = line + 1, line_break.end()
    return Place(file, line, position - start + 1, "")


def _breaks(text: str, end: int) -> Iterator[re.Match[str]]:
    return _LINE_BREAK.finditer(text, 0, end)


def _syntax_problem(file: str, error: MarkedYAMLError) -> Problem:
    """PyYAML's own words, without the names that it repeats: an unquoted password may begin with * or &."""
    said = error.problem or error.context or "a syntax error"
    place = _at(file, error.problem_mark or error.context_mark)
    if "found character '\\t'" in said:
        return place.problem("spaces between the words and before them", "a tab")
    if "another document" in said:
        return place.problem("one document", "a second one")
    context = f" ({error.context})" if error.context and error.problem else ""
    return place.problem("valid YAML", "a mistake: " + _QUOTED_NAME.sub(" ...", said + context))
