"""`asyncio.timeout` on the timing wheel: a block that takes too long is cancelled, and its cancellation becomes a TimeoutError.

For whoever waits so often, and so seldom in vain, that a timer of the loop for each wait costs too much.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from proxy.server.timing_wheel import TimingWheel


class Expiry:
    """A context manager for the current task. Raises TimeoutError `seconds` after its start, or up to one tick of the wheel later."""

    __slots__ = ("_cancelled_before", "_deadline", "_expired", "_task")

    def __init__(self, wheel: TimingWheel, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an expiry needs a task to cancel")
        self._task = task
        self._cancelled_before = task.cancelling()
        self._expired = False
        self._deadline = wheel.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._deadline.cancel()
        if self._expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error
