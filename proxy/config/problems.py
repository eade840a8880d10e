"""A mistake in a configuration: where it stands, what was expected, what was found.

Problems are collected, never raised one by one, so that one look tells all. Nothing printed here may hold a secret: values that came
from the environment are shown as the file spells them, user and password of a URL never, and `identity.secret` not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

MAX_SHOWN: Final = 60  # characters of a value that are repeated in a problem

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}|<<")


@dataclass(frozen=True, slots=True)
class Problem:
    """`file` is empty for the command line, whose `path` is the flag. `line` and `column` count from 1; 0: the file as a whole."""

    file: str
    line: int
    column: int
    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{path}expected {self.expected}, found {self.found}"


class ConfigError(Exception):
    """Everything that is wrong with a configuration, in the order of the file; flags first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda one: (one.line, one.column)))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands. `path` is dotted, `rules[2].per`, or a flag."""

    file: str
    line: int
    column: int
    path: str

    def key(self, key: str) -> Place:
        """The same place, under one more key."""
        return replace(self, path=f"{self.path}.{show_key(key)}".removeprefix("."))

    def item(self, index: int) -> Place:
        """The same place, as one item of a list."""
        return replace(self, path=f"{self.path}[{index}]")

    def problem(self, expected: str, found: str) -> Problem:
        return Problem(self.file, self.line, self.column, self.path, expected, found)


def show(text: str) -> str:
    """A value as a problem repeats it: on one line, in quotes, of bounded length, without the user and password of a URL."""
    before, slashes, authority = text.partition("//")
    if slashes and "@" in authority:
        text = f"{before}//...@{authority.rpartition('@')[2]}"
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + "..."
    return '"' + "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text) + '"'


def show_key(key: str) -> str:
    """A key as a path names it. One that is no name may be a value in the wrong place: `{secret hunter2}`."""
    return key if _PLAIN_KEY.fullmatch(key) else "?"
