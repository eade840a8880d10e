"""Lines for the operator on standard error, JSON or text. Tokens, queries and room names never come here.

What clients can cause often, the end of a connection or a refusal, is coalesced: of each group (such as one rule's refusals) a few
lines a second are written and the rest is counted, in a line of its own. So a flood of refusals is no flood of lines.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Hashable
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Final, TextIO

LINES_PER_SECOND: Final = 10  # of one group; the rest is counted
MAX_GROUPS: Final = 1000  # groups told apart between two flushes; all others are one

Value = str | float | None


class Level(IntEnum):
    """How grave an event is; names are the YAML words."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class LineFormat(Enum):
    """How a line looks; values are the YAML words."""

    JSON = "json"
    TEXT = "text"


class Log:
    """Writes events of `level` and above. `stream` defaults to the standard error of the moment of writing.

    `flush` is to be called about once a second: it tells what was left out since the last time.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        level: Level = Level.INFO,
        line_format: LineFormat = LineFormat.JSON,
        access: bool = True,
    ) -> None:
        self._stream = stream
        self._level = level
        self._format = line_format
        self._access = access
        self._groups: dict[Hashable, int] = {}

    def info(self, event: str, **fields: Value) -> None:
        self._write(Level.INFO, event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        self._write(Level.WARNING, event, fields)

    def error(self, event: str, **fields: Value) -> None:
        self._write(Level.ERROR, event, fields)

    def access(self, event: str, *, group: tuple[Value, ...], **fields: Value) -> None:
        """What one client did. `group`: what it is coalesced with; bounded by configuration and program, not by clients."""
        if self.is_due(event, group):
            self._write(Level.INFO, event, fields)

    def is_due(self, event: str, group: tuple[Value, ...]) -> bool:
        """Count an event of `access`. Is its line to be written? For whoever finds its fields expensive, and then calls `info`."""
        return self._access and self._level <= Level.INFO and self._count(Level.INFO, event, group)

    def often(self, event: str, *, group: tuple[Value, ...], **fields: Value) -> None:
        """A warning that may come many times a second. `group` as of `access`."""
        if self._level <= Level.WARNING and self._count(Level.WARNING, event, group):
            self._write(Level.WARNING, event, fields)

    def _count(self, level: Level, event: str, group: tuple[Value, ...]) -> bool:
        """Is this one of the few of its group that are written?"""
        key = (level, event, *group)
        if key not in self._groups and len(self._groups) >= MAX_GROUPS:
            key = (level, event)
        count = self._groups.get(key, 0) + 1
        self._groups[key] = count
        return count <= LINES_PER_SECOND

    def flush(self) -> None:
        """Tell how many lines of each group were left out, and begin anew."""
        groups, self._groups = self._groups, {}
        for key, count in groups.items():
            if count > LINES_PER_SECOND and isinstance(key, tuple):
                level, event, *group = key
                self._write(level, event, {"group": " ".join(map(str, group)), "suppressed": count - LINES_PER_SECOND})

    def _write(self, level: Level, event: str, fields: dict[str, Value]) -> None:
        if level < self._level:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._format is LineFormat.JSON:
            line = json.dumps({"time": now, "level": level.name.lower(), "event": event, **fields})
        else:
            told = "".join(f" {name}={json.dumps(value)}" for name, value in fields.items())
            line = f"{now} {level.name:7} {event}{told}"
        with contextlib.suppress(OSError):  # nobody reads any more (a pipe into `head`); that is no reason to stop
            print(line, file=self._stream or sys.stderr, flush=True)
