"""Turns of the event loop for those who have more to do than one may hold: in each turn, one of them goes on.

A chunk of 40,000 frames is walked in hundreds of parts (`wire.frames.TURN`). Were each connection to ask the loop itself for the next
turn, a turn would hold a part of every flood, and be the longer for everybody the more of them there are: a client that is closed and
comes back at once has a dozen of them on their way out. Here they stand in one line. However many floods there are, a turn of the loop
holds one part, and each of them has its own in its time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Waiting:
    """One that waits for its turn."""

    __slots__ = ("go_on",)

    def __init__(self, go_on: Callable[[], None]) -> None:
        self.go_on: Callable[[], None] | None = go_on

    def cancel(self) -> None:
        """It has nothing more to do. Its place is given up when it comes to be the first."""
        self.go_on = None


class Turns:
    """The line of those who wait for a turn of `loop`. Whoever goes on may stand in it again, behind all the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[Waiting] = deque()

    def wait(self, go_on: Callable[[], None]) -> Waiting:
        """Call `go_on` once, in the next turn of the loop in which nobody else stands before it."""
        if not self._line:
            self._loop.call_soon(self._next)
        one = Waiting(go_on)
        self._line.append(one)
        return one

    def _next(self) -> None:
        line = self._line
        go_on = None
        while line and go_on is None:
            go_on = line.popleft().go_on
        if line:
            self._loop.call_soon(self._next)
        if go_on is not None:
            go_on()
