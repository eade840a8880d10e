"""One who stands beside an instance and knows what it was told: so it is known what that instance may give alone.

Each number is a bound on the safe side. `seen` is at most what the instance heard of others: seats that the server had for sure, from
before it was asked until it had answered. A `Level` is at least what a bucket can have: what is taken counts from when it was asked for,
and what was taken without an answer does not count. So whoever breaks a bound has broken a promise, however busy the machine was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.ledger.store import Ask, Claim, Denial, Grant, SeatClaim, TokenClaim

REPEATED: Final = 0.3  # seconds for which a refusal may be repeated without being asked for anew
ROUNDING: Final = 0.01  # tokens


@dataclass
class Level:
    """At most so many tokens at `at`, a time of the monotonic clock in seconds. `rate` in tokens per second."""

    rate: float
    burst: float
    at: float
    level: float

    def most(self, now: float) -> float:
        return min(self.burst, self.level + (now - self.at) * self.rate)

    def have(self, tokens: float, now: float) -> None:
        """There are at most so many."""
        self.level, self.at = min(self.burst, tokens), now

    def take(self, tokens: int, asked_at: float, now: float) -> None:
        """They were asked for then, and had by now. Raises AssertionError if they were not there."""
        self.have(self.most(asked_at) - tokens, asked_at)
        assert self.most(now) >= -ROUNDING, f"{tokens} tokens, and there were not so many"


@dataclass
class Answered:
    """What one ask came to. `turn`: the how manyth that the instance decided alone, None if the server did. `seconds` that it took."""

    ask: Ask
    answer: Grant | Denial
    turn: int | None
    seconds: float

    @property
    def is_granted(self) -> bool:
        return isinstance(self.answer, Grant)

    @property
    def is_alone(self) -> bool:
        return self.turn is not None

    @property
    def broken(self) -> Claim | None:
        return self.ask[self.answer.broken] if isinstance(self.answer, Denial) else None

    @property
    def seats(self) -> list[SeatClaim]:
        return [claim for claim in self.ask if isinstance(claim, SeatClaim)]

    @property
    def tokens(self) -> int:
        return sum(isinstance(claim, TokenClaim) for claim in self.ask)


@dataclass(frozen=True)
class Moment:
    """From `asked_at` until `now`. `here`: what the instance had before, by key: members, or connections. `elsewhere`: how much of a key
    the server had of others all that time. `are_dead`: the dead may be in the way of somebody."""

    asked_at: float
    now: float
    here: Mapping[bytes, set[object]]
    elsewhere: Mapping[bytes, int]
    are_dead: bool


@dataclass
class Witness:
    """`seen`: key -> seats of others that the instance knows of at least. `tokens`: what the bucket can have, for all it knows.

    A key that was refused may be looked at with any heartbeat from then on.
    """

    tokens: Level
    seen: dict[bytes, int] = field(default_factory=dict)
    _refused_at: dict[bytes, float] = field(default_factory=dict)

    # --- seats

    def may_look(self, elsewhere: Mapping[bytes, int]) -> None:
        """The server has so much of others."""
        for key in self._refused_at:
            self.seen[key] = min(self.seen.get(key, 0), elsewhere[key])

    def hear(self, answers: Sequence[Answered], moment: Moment) -> None:
        """What was asked at once is answered. Raises AssertionError if the instance gave alone what it knew that others had."""
        before = dict(self.seen)
        for key in moment.elsewhere:
            self._hear_of(key, [one for one in answers if any(claim.key == key for claim in one.seats)], moment)
        known = {key: min(before.get(key, 0), self.seen.get(key, 0)) for key in moment.elsewhere}
        there = {key: set(some) for key, some in moment.here.items()}
        count = {key: len(some) for key, some in moment.here.items()}
        for claim in (claim for one in answers if one.is_granted and not one.is_alone for claim in one.seats):
            there[claim.key].add(claim.member)  # he may come again
        for one in sorted((one for one in answers if one.is_granted and one.is_alone), key=lambda one: one.turn or 0):
            for claim in one.seats:
                if claim.member is None or claim.member not in there[claim.key]:
                    assert count[claim.key] + known[claim.key] < claim.limit, (
                        f"{count} here, {known} elsewhere, and alone one more: {claim}"
                    )
                    count[claim.key] += 1
                    there[claim.key].add(claim.member)

    def _hear_of(self, key: bytes, about: Sequence[Answered], moment: Moment) -> None:
        """A grant tells how many others there are; a refusal that there are as many as are missing here, unless it is repeated."""
        heard = []
        for one in about:
            if one.is_alone:
                continue
            if one.is_granted:
                heard.append(moment.elsewhere[key])
            elif isinstance(one.broken, SeatClaim) and one.broken.key == key:
                missing = max(0, one.broken.limit - len(moment.here[key]) - len(about) + 1)
                is_fresh = not moment.are_dead and self._refused_at.get(key, 0.0) < moment.asked_at - REPEATED
                heard.append(missing if is_fresh else min(missing, self.seen.get(key, 0)))
        if any(one.broken is not None and not one.is_alone for one in about):
            self._refused_at[key] = moment.now
        if heard:
            self.seen[key] = min(heard)

    # --- upgrade tokens

    def count(self, answers: Sequence[Answered], left: float, moment: Moment) -> None:
        """The same about tokens. `left`: what the bucket can have had in that time. Raises AssertionError for tokens that it made up."""
        told = [one for one in answers if one.tokens and not one.is_alone]
        alone = sum(one.tokens for one in answers if one.is_granted and one.is_alone)
        known = self.tokens.most(moment.asked_at)
        if any(isinstance(one.broken, TokenClaim) for one in told):
            known = max(known, min(1.0, left))
        if any(one.is_granted for one in told):
            known = max(known, left - 1) if alone else left - 1
        self.tokens.have(known, moment.asked_at)
        self.tokens.take(alone, moment.asked_at, moment.now)
        if told:
            self.tokens.have(known, moment.asked_at)  # which it may have heard last
