"""One timer of the event loop for all deadlines: a hashed timing wheel.

An event loop's own timer costs microseconds to arm and to cancel, and an object of its own; a connection has many deadlines, of which
nearly none is ever reached. Here arming is a dict entry and cancelling its removal. Deadlines are rounded up to whole ticks: nothing
fires early, and at most one tick and one turn of the loop late. (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil
from typing import Final

TICK: Final = 0.05  # seconds


class Deadline:
    """One call that is due. `due`: seconds of the loop's clock, as asked for."""

    __slots__ = ("_callback", "_slot", "due")

    def __init__(self, due: float, callback: Callable[[], None], slot: dict[Deadline, None]) -> None:
        self.due = due
        self._callback = callback
        self._slot: dict[Deadline, None] | None = slot

    def cancel(self) -> None:
        """Forget the call, and with it whatever it would have been made on. Does nothing when it was made or cancelled before."""
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
            self._callback = _nothing

    def fire(self) -> None:
        """Make the call, unless it was cancelled meanwhile."""
        if self._slot is not None:
            self._slot = None
            callback, self._callback = self._callback, _nothing
            callback()


def _nothing() -> None:
    """What a deadline calls that is over."""


class TimingWheel:
    """Calls functions at deadlines. Memory is bounded by the calls that are neither made nor cancelled, and the ticks they fall on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float = TICK) -> None:
        self._loop = loop
        self._tick = tick
        self._slots: dict[int, dict[Deadline, None]] = {}
        self._numbers: list[int] = []  # a heap of the keys of `_slots`
        self._timer: asyncio.TimerHandle | None = None

    def time(self) -> float:
        """Seconds of the loop's clock, by which all is due."""
        return self._loop.time()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call `callback` once, `seconds` from now or up to one tick later."""
        return self.call_at(self._loop.time() + seconds, callback)

    def call_at(self, due: float, callback: Callable[[], None]) -> Deadline:
        """Call `callback` once when the loop's clock is at `due` seconds or up to one tick past it."""
        number = ceil(due / self._tick)
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heappush(self._numbers, number)
            if self._numbers[0] == number:
                self._arm()
        deadline = Deadline(due, callback, slot)
        slot[deadline] = None
        return deadline

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._numbers[0] * self._tick, self._turn) if self._numbers else None

    def _turn(self) -> None:
        """Make the calls of all ticks that are past, each by the loop, which looks after one that raises."""
        now = self._loop.time()
        while self._numbers and self._numbers[0] * self._tick <= now:
            for deadline in self._slots.pop(heappop(self._numbers)):
                self._loop.call_soon(deadline.fire)
        self._arm()

    def __len__(self) -> int:
        """Calls that are still to be made."""
        return sum(map(len, self._slots.values()))

    def stop(self) -> None:
        """Make no more calls."""
        self._slots.clear()
        self._numbers.clear()
        self._arm()
