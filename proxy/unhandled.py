"""What went wrong in nobody's hands, as lines of our log: what the event loop found, and what libraries have to say.

Such texts quote what they were about, and that may be a client's: bytes of a frame, a URL with its token. So of a text only the words
before the first quotation are told, of an exception its type and the place in the program, which is what finding a bug takes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final

from proxy.log import Log

EVENT: Final = "unhandled"
EXPECTED: Final = ("Fatal error on SSL protocol",)  # uvloop's answer to a write behind a peer's reset; that end is told as any other
PLACES: Final = 4  # frames of a traceback that are told
_WORDS: Final = re.compile(r"[A-Za-z ,.'-]*")


def report_to(log: Log, loop: asyncio.AbstractEventLoop) -> None:
    """Write all of it to `log`, from now on: what this loop finds, what Python cannot raise, warnings and errors of libraries."""

    def from_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if message not in EXPECTED:
            _report(log, message, context.get("exception"))

    def from_python(unraisable: sys.UnraisableHookArgs) -> None:
        _report(log, "an exception that could not be raised", unraisable.exc_value)

    loop.set_exception_handler(from_loop)
    sys.unraisablehook = from_python
    root = logging.getLogger()
    root.handlers = [_ToLog(log)]
    root.setLevel(logging.WARNING)


class _ToLog(logging.Handler):
    """The end of all loggers of Python's own kind."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        _report(self._log, str(record.msg), error, source=record.name)  # without its arguments


def _report(log: Log, text: str, error: BaseException | None, source: str = "asyncio") -> None:
    words = _WORDS.match(text)
    what = "" if words is None else words[0].strip()
    where = "" if error is None else _place(error.__traceback__)
    kind = "" if error is None else type(error).__name__
    log.often(EVENT, group=(source, what, kind, where), source=source, what=what, error=kind, where=where)


def _place(traceback: TracebackType | None) -> str:
    """The last few places on the way to where it was raised: files and lines."""
    frames = [f"{PurePath(frame.f_code.co_filename).name}:{line}" for frame, line in walk_tb(traceback)]
    return " ".join(frames[-PLACES:])
