"""What an instance would have of a bucket that it shares, if it were alone with its share: should the store go away, or be late.

A share is one of so many as instances use the bucket, if the store said so lately, or else as may use it: of what was left when the store
was heard last, of the rate since then, and of the burst, up to which it grows. Of a bucket of which nothing was heard it is as if it had
been full, and there were one more to share it. So all together have one bucket.

Pure: times are seconds of the monotonic clock.
"""

from __future__ import annotations

from math import inf
from typing import Final, Protocol

SLACK: Final = 0.02  # seconds: of two questions the second may be so much longer on its way
NEWS: Final = 2.0  # seconds for which it counts how many use a bucket, as in lua/rent.lua
GRACE: Final = 1.0  # token that there is alone at least, if the burst has one for each instance: for the frame that waited in vain


class Cohabitants(Protocol):
    """`instances`: how many there are that may use the bucket, this one among them."""

    @property
    def instances(self) -> int: ...


class Prospect:
    """Of one bucket, of `rate` tokens per second and a burst of `burst` tokens. Born with nothing known."""

    __slots__ = ("_burst", "_grows_from", "_left", "_most", "_most_at", "_others", "_rate", "_sharers_at", "saved", "sharers")

    def __init__(self, rate: float, burst: float, others: Cohabitants) -> None:
        self._rate = rate
        self._burst = burst
        self._others = others
        self._left: float | None = None  # tokens to begin with; None: a share of what was left
        self.saved = 0.0  # tokens, of these, that were saved up for a large frame when it was alone, share or not
        self._grows_from = inf  # when that began to grow: since then the store has given nothing
        self._most, self._most_at = inf, 0.0  # tokens that the bucket had at most, and when
        self.sharers, self._sharers_at = 0, -inf  # instances that use it, as the store said last, and when

    # --- what is heard

    def used_by(self, sharers: int, now: float) -> None:
        """So many instances use it, this one among them."""
        self.sharers, self._sharers_at = sharers, now

    def asked(self, now: float) -> None:
        """The store gives nothing until it answers."""
        self._grows_from = min(self._grows_from, now)

    def put_off(self, now: float) -> None:
        """It has answered, and gave nothing yet."""
        self._grows_from = now

    def answered(self) -> None:
        """What there is, is known."""
        self._left, self._grows_from, self.saved = None, inf, 0.0

    def told(self, most: float, at: float) -> None:
        """So many tokens were in the bucket then, infinite if that is not known."""
        self.answered()
        self._most, self._most_at = most, at

    def begin(self, left: float, now: float, *, is_saving: bool = False) -> None:
        """It was alone, and had so much left. `is_saving`: that may be more than its share, for a large frame."""
        self._left, self._grows_from = left, now
        self.saved = left if is_saving else 0.0

    # --- what it would have

    def rate(self, now: float) -> float:
        """Tokens per second."""
        return self._rate / self._shares(now)

    def burst(self, now: float) -> float:
        """Tokens at most."""
        return max(min(GRACE, self._burst), self._burst / self._shares(now))

    def alone(self, now: float) -> float:
        """Tokens, besides leases and debts."""
        return max(self.saved, self._with(self._share_of_what_was_left(now), now))

    def in_advance(self, now: float) -> float:
        """Tokens that may pass before an answer: as `alone`, but of what nobody knows a token at most, and what came in since."""
        return self._with(self._grace if self._most == inf else self._share_of_what_was_left(now), now)

    def most(self, now: float) -> float:
        """Tokens that the whole bucket has at most, whatever became of the store's data and clock; infinite if nobody has told."""
        return self._most + (now - self._most_at + SLACK) * self._rate

    def _with(self, share_left: float, now: float) -> float:
        left = share_left if self._left is None else self._left
        return min(self.burst(now), left + max(0.0, now - self._grows_from) * self.rate(now))

    def _shares(self, now: float) -> int:
        """How many have one each: those who use it, if that is no old news, or all who may."""
        may_use_it = 1 if now - self._sharers_at < NEWS else self._others.instances
        return max(self.sharers, may_use_it)

    def _share_of_what_was_left(self, now: float) -> float:
        if self._most == inf:
            return max(self._grace, self._burst / (self._shares(now) + 1))
        return max(self._grace, min(self._burst, self.most(min(now, self._grows_from))) / self._shares(now))

    @property
    def _grace(self) -> float:
        """Tokens that it has at least: GRACE if the burst has so many for each instance, else a share of it or of the burst."""
        instances = max(1, self.sharers, self._others.instances)
        return GRACE if self._burst >= GRACE * instances else min(GRACE, self._burst) / instances
