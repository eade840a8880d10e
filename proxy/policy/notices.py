"""Notices of dropped messages: at most one a second per rule and connection, so that a flood of drops is not answered by a flood."""

from __future__ import annotations

from typing import Final

NOTICE_INTERVAL: Final = 1.0  # seconds


class Notices:
    """What one connection has been told, rule by rule; bounded by the number of rules."""

    __slots__ = ("_next", "_suppressed")

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def note(self, rule: str, count: int, now: float) -> int | None:
        """`count` messages were dropped at `now`. Returns None to keep silent, or how many earlier drops a notice leaves out."""
        suppressed = self._suppressed.get(rule, 0) + count
        if now < self._next.get(rule, now):
            self._suppressed[rule] = suppressed
            return None
        self._next[rule] = now + NOTICE_INTERVAL
        self._suppressed[rule] = 0
        return suppressed - 1

    def unsent(self, rule: str, count: int) -> None:
        """A notice that `note` allowed could not be sent: the drops that it was to tell of count as suppressed."""
        self._suppressed[rule] = self._suppressed.get(rule, 0) + count
