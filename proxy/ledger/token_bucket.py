"""A token bucket: `burst` tokens at most, `rate` new ones a second, kept as a level and the time of that level.

Time is an argument, in seconds of any clock that does not go backwards; if it does all the same (a failover to another clock), the
stamp moves to the new time and nothing is given or taken for the gap. Whole tokens taken at one instant are exact, and a refused
charge changes nothing, so no error adds up however often somebody asks.
"""

from __future__ import annotations

from math import inf


class TokenBucket:
    """`rate` in tokens per second (0: never), `burst` in tokens. Born full.

    `users` counts who holds the bucket open; whoever owns the table of buckets may forget one that nobody holds and that is full.
    """

    __slots__ = ("burst", "level", "pending", "queued", "rate", "stamp", "users")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst if rate > 0 else 0.0
        self.level = self.burst
        self.stamp = now
        self.pending = 0.0  # the level that `would_pass` found; `spend` takes from it
        self.users = 0
        self.queued = False

    def would_pass(self, cost: float, now: float) -> bool:
        """Is `cost` there at `now`? Nothing is taken. True must be followed by `spend`, or by nothing at all."""
        elapsed = now - self.stamp
        level = self.level + elapsed * self.rate
        if elapsed < 0:
            self.stamp = now
            level = self.level
        elif level > self.burst:
            level = self.burst
        self.pending = level
        return level >= cost

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
        return (cost - self.pending) / self.rate

    def full_at(self) -> float:
        """When the bucket is full again if nobody takes from it; it may be forgotten from then on."""
        if self.level >= self.burst:
            return self.stamp
        return self.stamp + (self.burst - self.level) / self.rate
