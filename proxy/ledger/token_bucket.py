"""A token bucket: `burst` tokens at most, `rate` new ones a second, kept as a level and the time of that level.

Time is an argument, in seconds of any clock that does not go backwards; if it does all the same (a failover to another clock), the
stamp moves to the new time and nothing is given or taken for the gap. Whole tokens taken at one instant are exact, and a refused
charge changes nothing, so no error adds up however often somebody asks.

Who would rather wait than be refused stands in the bucket's line. What those in line are owed is not there for others, so nobody is
overtaken by a flood; what is left beyond it is. A line is served in the order of its tickets, which are the caller's: numbers that grow
over all lines, so that two who wait in two lines cannot wait for each other. Who comes to be the first is told when its tokens are
there, since it may have been told a later time: when somebody before it might still have taken his.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import islice
from math import inf

Hear = Callable[[float], None]
"""Told when the tokens are there, in seconds. It must do nothing but to schedule."""


class TokenBucket:
    """`rate` in tokens per second (0: never), `burst` in tokens. Born full.

    `users` counts who holds the bucket open; whoever owns the table of buckets may forget one that nobody holds and that is full.
    """

    __slots__ = ("burst", "level", "line", "owed", "pending", "queued", "rate", "stamp", "users")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst if rate > 0 else 0.0
        self.level = self.burst
        self.stamp = now
        self.pending = 0.0  # the level that `would_pass` found; `spend` takes from it
        self.owed = 0.0  # tokens that those in line wait for
        self.line: list[tuple[int, float, Hear | None]] | None = None  # (ticket, cost, whom to tell), in the order of tickets
        self.users = 0
        self.queued = False

    def would_pass(self, cost: float, now: float) -> bool:
        """Is `cost` there at `now`, beyond what is owed? Nothing is taken. True must be followed by `spend`, or by nothing at all."""
        elapsed = now - self.stamp
        level = self.level + elapsed * self.rate
        if elapsed < 0:
            self.stamp = now
            level = self.level
        elif level > self.burst:
            level = self.burst
        self.pending = level
        return level - self.owed >= cost

    def spend(self, cost: float, now: float) -> None:
        """Take what `would_pass` has just found to be there, at the same `now`."""
        self.level = self.pending - cost
        self.stamp = now

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` tokens, or none and return False."""
        if not self.would_pass(cost, now):
            return False
        self.spend(cost, now)
        return True

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` tokens are there: 0 if they are, infinite if they never will be."""
        if self.would_pass(cost, now):
            return 0.0
        if cost > self.burst or self.rate <= 0:
            return inf
        return (cost + self.owed - self.pending) / self.rate

    def due(self, cost: float, now: float, ticket: int | None = None) -> float:
        """When `cost` is there for this place in the line (None: behind everybody); infinite if never.

        That may have been before `now`: the moment when it came to be there, if nobody took from the bucket since.
        """
        if cost > self.burst or self.rate <= 0:
            return inf
        need = cost + (self.owed if ticket is None else self._ahead(ticket))
        self.would_pass(cost, now)
        if self.pending < need:
            return now + (need - self.pending) / self.rate
        return min(now, self.stamp + max(0.0, need - self.level) / self.rate)

    def due_since(self, cost: float, now: float, since: float) -> float:
        """As `due` for a newcomer who would have come at `since`, had nobody been late: since then nothing was lost to a full bucket.

        `since` itself if it was there already. Not beyond what is owed to others: the bucket cannot keep theirs as well.
        """
        if self.owed + cost > self.burst or self.rate <= 0:
            return self.due(cost, now)
        self.would_pass(cost, now)
        start = max(since, self.stamp)
        missing = cost + self.owed - min(self.burst, self.level + (start - self.stamp) * self.rate)
        return start + missing / self.rate if missing > 0 else since

    def earliest(self, cost: float, ticket: int | None = None) -> float:
        """When `cost` is there for this place at best: if all before it take theirs as soon as they can, however late they are now."""
        if cost > self.burst or self.rate <= 0:
            return inf
        return self.stamp + (cost + (self.owed if ticket is None else self._ahead(ticket)) - self.level) / self.rate

    def _ahead(self, ticket: int) -> float:
        """Tokens owed to those with smaller tickets. Most who ask are first, or nearly."""
        line = self.line
        return sum(one[1] for one in islice(line, bisect_left(line, (ticket,)))) if line else 0.0

    def join(self, ticket: int, cost: float, hear: Hear | None = None) -> None:
        """Stand in line. Must be followed by `leave` one day, or the bucket is blocked for ever."""
        if self.line is None:
            self.line = []
        insort(self.line, (ticket, cost, hear))
        self.owed += cost

    def leave(self, ticket: int, cost: float) -> None:
        """Go out of the line, served or not."""
        line = self.line
        assert line is not None
        del line[bisect_left(line, (ticket,))]
        self.owed = self.owed - cost if line else 0.0
        if not line:
            self.line = None

    def tell_first(self, now: float) -> None:
        """Somebody has left the line, or was served: tell who is first now when its tokens are there."""
        if self.line is not None:
            ticket, cost, hear = self.line[0]
            if hear is not None:
                hear(self.due(cost, now, ticket))

    def spend_due(self, cost: float, when: float) -> None:
        """Take what `due` said to be there, as of `when`: not before it was there, and not after now. Others may have taken since."""
        when = max(when, self.stamp)
        self.would_pass(cost, when)
        self.spend(cost, when)

    @property
    def is_asking(self) -> bool:
        """Is an answer awaited?"""
        return False

    def known_at(self, cost: float, now: float) -> float:  # noqa: ARG002 -- others must ask somebody
        """When it is known at the latest whether `cost` is there, if it was not found: here at once, so at `now`."""
        return now

    def call_when_known(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, when an answer has come that is awaited. It must do nothing but to schedule."""

    def full_at(self) -> float:
        """When the bucket is full again if nobody takes from it; it may be forgotten from then on."""
        if self.level >= self.burst:
            return self.stamp
        return self.stamp + (self.burst - self.level) / self.rate
