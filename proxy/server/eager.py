"""A coroutine's first step at once, without a task: what never waits costs a call, and what does goes on as a task.

Python 3.12 has `eager_start` for this; 3.11 has not. Until its first suspension the coroutine has no current task: one that needs it
(for `asyncio.timeout`, say) awaits `in_task` first. From then on nothing differs: a cancellation, also one that comes before the
task's own first step, is raised where the coroutine waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, Final

_PROMOTION: Final = object()  # what `in_task` waits for
_NOTHING: Final = object()


def start(loop: asyncio.AbstractEventLoop, begun: Coroutine[Any, None, None]) -> asyncio.Task[None] | None:
    """Run a coroutine until it waits. None when it is done; what it raises is told to the loop, as of a task that nobody awaits."""
    try:
        awaited = begun.send(None)
    except StopIteration:
        return None
    except Exception as error:  # noqa: BLE001 -- as a task does with whatever its coroutine raises
        loop.call_exception_handler({"message": "a coroutine failed before it waited", "exception": error})
        return None
    return loop.create_task(_Rest(begun, awaited))


@coroutine
def in_task() -> Generator[object, None, None]:
    """Go on in a task: at once in one that `start` has made already, else in the next turn of the loop. Only for what `start` runs."""
    yield _PROMOTION


class _Rest(Coroutine[Any, None, None]):
    """A coroutine that has begun, in the shape of one that has not: it waits for `awaited` already, if for anything."""

    __slots__ = ("_awaited", "_begun")

    def __init__(self, begun: Coroutine[Any, None, None], awaited: object) -> None:
        self._begun = begun
        self._awaited = awaited

    def send(self, value: None) -> object:
        awaited, self._awaited = self._awaited, _NOTHING
        while awaited is _NOTHING or awaited is _PROMOTION:
            awaited = self._begun.send(None)
        return awaited

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> object:
        """As of a generator, in its older form with three arguments too."""
        self._awaited = _NOTHING
        error = kind if isinstance(kind, BaseException) else value if isinstance(value, BaseException) else kind()
        awaited = self._begun.throw(error if traceback is None else error.with_traceback(traceback))
        return self.send(None) if awaited is _PROMOTION else awaited

    def close(self) -> None:
        self._begun.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("this is for a task, not to be awaited")
