"""Lines for the operator on standard error: one JSON object each. Tokens, queries and room names never come here."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import UTC, datetime
from typing import TextIO


class Log:
    """Writes events. `stream` defaults to the standard error of the moment of writing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def info(self, event: str, **fields: str | float | None) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: str | float | None) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: str | float | None) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, str | float | None]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **fields})
        with contextlib.suppress(OSError):  # nobody reads any more (a pipe into `head`); that is no reason to stop
            print(line, file=self._stream or sys.stderr, flush=True)
