"""Who may not come back yet: keys, each until a time.

A heap ordered by that time finds what is over without scanning. A key stands in it once: a penalty that was made longer since is lined
up again when its turn comes. Beyond `most` keys the one whose turn is next goes first, whether it is over or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import Final

MAX_PENALTIES: Final = 100_000
SWEEP_BATCH: Final = 10_000  # keys looked at in one sweep


class Penalties:
    """A bounded table of penalties. Times are seconds of one clock that does not go backwards, passed in."""

    def __init__(self, most: int = MAX_PENALTIES) -> None:
        self._ends: dict[bytes, float] = {}
        self._line: list[tuple[float, bytes]] = []
        self._most = most

    def impose(self, key: bytes, seconds: float, now: float) -> None:
        """Keep this key out for so long; never shorter than it is kept out already."""
        end = now + seconds
        known = self._ends.get(key)
        self._ends[key] = end if known is None else max(known, end)
        if known is not None:
            return
        heappush(self._line, (end, key))
        if len(self._line) > self._most:
            self._forget_first()

    def left(self, key: bytes, now: float) -> float:
        """Seconds until this key may come back; 0 if it may."""
        end = self._ends.get(key)
        return 0.0 if end is None else max(0.0, end - now)

    def sweep(self, now: float, most: int = SWEEP_BATCH) -> None:
        """Forget what is over; bounded work."""
        line = self._line
        while line and most and line[0][0] <= now:
            most -= 1
            _, key = line[0]
            end = self._ends[key]
            if end > now:
                heapreplace(line, (end, key))
            else:
                self._forget_first()

    def _forget_first(self) -> None:
        _, key = heappop(self._line)
        del self._ends[key]

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._ends)
