"""A bucket that instances share, as one of them has it: its own, or leased by a few tokens, or on its own while the store is away.

Owned, it is a token bucket like any other and costs no more, since nobody else has any of it. Shared, its level is 0 and its rate is 0,
so that whoever looks at its numbers finds nothing and calls its methods; those take from leases, which end some time after they were
asked for. What is not there is asked for; until the answer comes nobody knows (`known_at`), and where none comes it is asked for again.
Nothing passes that was not leased, but for an advance: where an answer is later than answers are, what the bucket would have if it
were alone passes meanwhile, and is paid back from the answer. Alone, it is a token bucket again, with one of so many shares as there
are instances that use it (or may): of what was left of the bucket, of its rate, and of its burst. So all together have one bucket.

Pure: the landlord asks the store, and tells what it said.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import ceil, inf
from typing import Final, NamedTuple, Protocol

from proxy.ledger.rates.leases import Leases
from proxy.ledger.rates.prospect import NEWS, Cohabitants, Prospect
from proxy.ledger.token_bucket import TokenBucket

LATE: Final = 0.25  # seconds: what a lease may live, and a shared bucket fills beyond its burst, together
SPARE: Final = 0.05  # seconds for which a shared bucket of a small burst fills beyond it, or polls would find nothing (lua/rent.lua)
TOO_SOON: Final = 0.25  # of the time of a lease, from one question to the next
PAUSE: Final = 1.0  # seconds: who has waited in vain is refused, and only after so long waits again
LOOK_AGAIN: Final = 0.02  # seconds: what waits in a line looks so often whether there is an answer, should nobody wake it


class Absence(NamedTuple):
    """The store was away: moments, in seconds of the monotonic clock. Whoever was alone then has had what came in."""

    began: float
    ended: float


class Mode(Enum):
    """Where a bucket's tokens are: with the store and all who ask it, here, or nobody can say."""

    SHARED = "shared"
    OWNED = "owned"
    ALONE = "alone"


class Landlord(Cohabitants, Protocol):
    """Who speaks with the store for a bucket. `away_since`: when the store was lost; infinite while it is there."""

    @property
    def away_since(self) -> float: ...

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        """Ask for `bucket.need` and `bucket.want`. Calls `bucket.asked`, or `bucket.go_alone` where that is hopeless."""

    def late(self, bucket: LeasedBucket, now: float) -> None:
        """No answer came in time. Calls `bucket.unanswered`, or `bucket.go_alone` where another question is hopeless."""


class LeasedBucket(TokenBucket):
    """`rate` in tokens per second, more than 0; `burst` in tokens. Born shared, with nothing."""

    __slots__ = (
        "_advance_from",
        "_ask_at",
        "_asked_at",
        "_debt",
        "_ended",
        "_expires",
        "_landlord",
        "_leased",
        "_leases",
        "_owes_until",
        "_patience",
        "_prospect",
        "_share_of_burst",
        "_spare",
        "_spent",
        "_waiting",
        "_was_dry",
        "absence",
        "deadline",
        "epoch",
        "full_burst",
        "full_rate",
        "heard",
        "is_unheard",
        "key",
        "mode",
        "need",
        "owner",
        "question",
        "want",
    )

    def __init__(self, key: bytes, rate: float, burst: float, landlord: Landlord) -> None:
        super().__init__(rate, burst, 0.0)
        self.key = key
        self.full_rate = rate
        self.full_burst = self.burst
        self._landlord = landlord
        self._prospect = Prospect(rate, self.burst, landlord)
        self._leases = Leases()
        self._leased = 0.0  # tokens that were there after the last lease came
        self._expires = 0.0  # when the last lease ends
        self._asked_at = -inf  # the last question was sent; since then ...
        self._spent = 0.0  # ... so many tokens were spent
        self._was_dry = False  # ... and a frame came for which there were none
        self._ask_at = 0.0  # no question before, unless it is -inf or past
        self._advance_from = inf  # from then on the answer is later than answers are
        self._debt = 0.0  # tokens that passed in advance, to be paid back
        self._owes_until = 0.0  # then the bucket would be full, debt or not
        self._waiting: list[Callable[[], None]] = []
        self._spare = 0.0 if burst >= rate * LATE else SPARE  # as lua/rent.lua has it
        self._patience = inf  # until then frames wait for answers
        self._ended = inf  # when the last question was given up: whoever waits asks again at once
        self.deadline = inf  # of the answer that is awaited
        self.question = 0  # that was asked last
        self.is_unheard = False  # a question was asked, and what became of it nobody knows
        self.epoch = b""
        self.heard = 0  # the question that made it ours last; of a new bucket: the last one that there was about any
        self.owner = b""  # as the store named him: he was told to give it back, and has lost it when this one asks again
        self.need = 0.0
        self.want = 0.0
        self.absence: Absence | None = None  # when this bucket was alone, if the store has not answered since
        self._enter(Mode.SHARED)

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self.owner = b""
        self._leases.clear()
        self.level = self.rate = 0.0
        self.burst = self._share_of_burst = self.full_burst

    @property
    def lease_time(self) -> float:
        """Seconds from a question to the end of its lease."""
        return LATE - self._spare

    @property
    def is_asking(self) -> bool:
        return self.deadline < inf

    @property
    def owes(self) -> float:
        """Tokens that passed in advance and are not paid back."""
        return self._debt

    # --- what a meter asks

    def would_pass(self, cost: float, now: float) -> bool:
        if self.mode is Mode.SHARED:
            if cost > self.burst:
                return False
            if self._is_leased(cost, self.owed, now):
                return True
            if self.mode is Mode.SHARED:
                return False
        if self.burst < cost <= self.full_burst:
            super().would_pass(0.0, now)
            self.level, self.stamp = self.pending, now
            self.burst = cost  # alone: from now on it saves up for one frame that is more than its share
        return super().would_pass(cost, now)

    def spend(self, cost: float, now: float) -> None:
        if self.mode is Mode.SHARED:
            self._spend_leases(cost, now)
            return
        if self.burst > self._share_of_burst:
            self._end_saving(cost)
        super().spend(cost, now)

    def _end_saving(self, cost: float) -> None:
        """What was saved up beyond the share is for one large frame, and lost if another one passes."""
        self.burst = self._share_of_burst
        self.pending = min(self.pending, self.burst + (cost if cost > self.burst else 0.0))

    def wait(self, cost: float, now: float) -> float:
        if self.mode is not Mode.SHARED:
            return super().wait(cost, now)
        if cost > self.burst:
            return inf
        missing = cost + self.owed - self._leases.available(now)
        return max(self._ask_at - now, missing / self.full_rate) if missing > 0 else 0.0

    def due(self, cost: float, now: float, ticket: int | None = None) -> float:
        if self.mode is Mode.SHARED:
            if cost > self.burst:
                return inf
            if self._is_leased(cost, self.owed if ticket is None else self._ahead(ticket), now):
                return now
            if self.mode is Mode.SHARED:
                return min(self.deadline, now + LOOK_AGAIN) if self.is_asking else self._ask_at
        self.would_pass(cost, now)
        return super().due(cost, now, ticket)

    def spend_due(self, cost: float, when: float) -> None:
        if self.mode is Mode.SHARED:
            self._spend_leases(cost, when)
        else:
            super().spend_due(cost, when)

    def known_at(self, cost: float, now: float) -> float:
        if self.mode is not Mode.SHARED or not self.is_asking or cost > self.burst:
            return now
        until = min(self.deadline, self._patience)
        covered_at = self._advance_at(cost, now)
        return max(now, min(until, covered_at) if covered_at > now else until)

    def call_when_known(self, wake: Callable[[], None]) -> None:
        self._waiting.append(wake)

    # --- leases

    def _is_leased(self, cost: float, ahead: float, now: float) -> bool:
        """Is `cost` there besides what is there for others? If not, it is asked for, unless it would be in vain."""
        if self._leases.available(now) - ahead >= cost:
            return True
        if self.deadline <= now:
            self._landlord.late(self, now)
            if self.mode is not Mode.SHARED:
                return False
        if self.is_asking or now < self._ask_at:
            self._was_dry = True
        else:
            self._ask(self.line[0][1] if ahead > 0 and self.line else cost, cost + ahead, now)
        return now >= self._advance_from and self._is_advanced(cost + ahead, now)

    def _advance_at(self, cost: float, now: float) -> float:
        """When `cost` passes in advance, if no answer comes; infinite if that never happens."""
        missing = cost + self.owed + self._debt - self._leases.available(now) - self._prospect.in_advance(self._advance_from)
        return self._advance_from + max(0.0, missing) / self._prospect.rate(now)

    def _is_advanced(self, least: float, now: float) -> bool:
        """No answer yet: what it may have in advance is a lease as well, and a debt."""
        missing = least - self._leases.available(now)
        if missing > self._prospect.in_advance(now) - self._debt:
            return False
        self._debt += missing
        self._owes_until = now + self.full_burst / self.full_rate
        self._leases.add(missing, now + self.lease_time)
        return True

    def _ask(self, need: float, least: float, now: float) -> None:
        """For `need`, which is 0 ahead of need, and in all for `least` or what will be used.

        Whole tokens: no others are leased, and who does not get all that he wants has to wait.
        """
        self.need = min(self.burst, need + self._debt) if need else 0.0
        self.want = min(self.burst + self.full_rate * self._spare, ceil(max(least + self._debt, self._demand(now))))
        self._asked_at, self._spent, self._was_dry = now, 0.0, False
        self._landlord.ask(self, now)

    def _demand(self, now: float) -> float:
        """Tokens that were used since the last question, twice as many if they were too few, else in half the time of a lease at most.

        There is as much again, which is spent first. What is not spent when its lease ends is lost to all: who took more here than he
        uses would empty the bucket of a user who is within his limit.
        """
        elapsed = now - self._asked_at
        was_dry = self._was_dry or (self.need > 0 and now < self._expires)
        if was_dry or elapsed < self.lease_time * TOO_SOON:
            return 2 * self._spent
        if self._ask_at > 0:
            return self._spent  # it had to wait before it asked
        return self._spent * min(1.0, self.lease_time / 2 / elapsed)

    def _spend_leases(self, cost: float, now: float) -> None:
        """Where more than half is gone, more is asked for ahead of need."""
        self._spent += cost
        left = self._leases.take(cost)
        if cost <= left < self._leased / 2 and not self.is_asking and now >= self._ask_at:
            self._ask(0.0, cost, now)

    # --- what the landlord tells

    def asked(self, deadline: float, latest: float, now: float, usual: float = inf) -> None:
        """An answer is awaited until `deadline`; frames wait for it, and for those of questions that follow it in vain, until `latest`.

        `usual`: seconds in which answers come; infinite if nobody knows.
        """
        self._prospect.asked(now)
        self._advance_from = min(self._advance_from, now + usual)
        nobody_waited = self._ended + LOOK_AGAIN < now and self._ended < self._patience
        if self._patience == inf or nobody_waited or now > self._patience + PAUSE:
            self._patience = latest
        self._ended = inf
        self.deadline = deadline
        self.question += 1
        self.is_unheard = True

    def put_off(self, owner: bytes, deadline: float, now: float) -> None:
        """The answer is that it will be asked anew before `deadline`: somebody else, `owner`, is giving it back."""
        self.owner = owner
        self._prospect.put_off(now)
        self.deadline = deadline
        self.is_unheard = False

    def unanswered(self) -> None:
        """No answer comes, but the store is there: whoever waits asks again."""
        self._ended, self.deadline = self.deadline, inf
        self._wake()

    def lease(self, tokens: float, retry: float, asked_at: float, now: float, left: float = inf) -> None:
        """More tokens, perhaps 0; no question for `retry` seconds, 0 if there is enough. `left` in the bucket. Only while shared."""
        self._prospect.told(left, asked_at)
        self.absence = None
        self.owner = b""
        self.deadline = self._patience = self._advance_from = inf
        self.is_unheard = False
        tokens = self._pay(tokens)
        if tokens > 0:
            self._expires = asked_at + self.lease_time
            self._leases.add(tokens, self._expires)
            self._leased = self._leases.available(now)
        self._ask_at = now + retry if retry > 0 else 0.0
        self._wake()

    def _pay(self, tokens: float) -> float:
        """What is left of them when the debt is paid, or as much of it as they can."""
        paid = min(tokens, self._debt)
        self._debt -= paid
        return tokens - paid

    def own(self, level: float, epoch: bytes, now: float) -> None:
        """All of it is ours. Of a bucket that went alone meanwhile, no more than it has."""
        if self.mode is Mode.ALONE:
            super().would_pass(0.0, now)
            level = min(level, self.pending)
        self._enter(Mode.OWNED)
        self.rate, self.level, self.stamp = self.full_rate, self._pay(level), now
        self.epoch, self.heard = epoch, int(epoch)
        self.is_unheard = False
        self.used_by(1, now)
        self._prospect.answered()
        self.absence = None
        self._settle()

    def share(self, now: float) -> float:
        """Not ours any more. Returns the level that it had."""
        super().would_pass(0.0, now)
        level = self.pending
        self._enter(Mode.SHARED)
        self.epoch = b""
        self._prospect.told(level, now)
        self._settle()
        return level

    def go_alone(self, now: float) -> None:
        """The store is away: begin with a share of what is left, and fill at a share of the rate up to a share of the burst."""
        self._prospect.asked(min(self._landlord.away_since, now))
        rate, burst, saved = self._prospect.rate(now), self._prospect.burst(now), self._prospect.saved
        level = min(max(burst, saved), self._leases.available(now) + self._prospect.alone(now) - self._debt)
        self._enter(Mode.ALONE)
        self.rate, self.level, self.stamp = rate, level, now
        self._share_of_burst = burst
        self.burst = max(burst, level)  # it was saving up for a large frame, and goes on
        self.absence = self._absence_until(now)
        self._debt = 0.0
        self._settle()

    def _absence_until(self, now: float) -> Absence:
        """The store's, and as much longer as it was away before that: what came in between is no loss."""
        began = min(self._landlord.away_since, now)
        before = self.absence
        if before is not None:
            began = min(began, before.began) if before.ended > began - NEWS else began - (before.ended - before.began)
        return Absence(began, now)

    def used_by(self, sharers: int, now: float) -> None:
        """So many instances use it, this one among them."""
        self._prospect.used_by(sharers, now)

    @property
    def sharers(self) -> int:
        """Instances that use it, as the store said last."""
        return self._prospect.sharers

    def is_done(self, now: float) -> bool:
        """May it be forgotten, if nobody uses it? Its tokens are with the store, or it is full."""
        match self.mode:
            case Mode.OWNED:
                return False
            case Mode.ALONE:
                return self.full_at() <= now
            case Mode.SHARED:
                return not self.is_asking and (self._debt <= 0 or self._owes_until <= now)

    def rejoin(self, now: float) -> None:
        """The store is back, or may be."""
        super().would_pass(0.0, now)
        left, absence, is_saving = self.pending, self.absence, self.burst > self._share_of_burst
        self._enter(Mode.SHARED)
        self._prospect.begin(left, now, is_saving=is_saving)
        self.absence = Absence(absence.began if absence is not None else now, now)
        self._settle()

    def most(self, now: float) -> float:
        """Tokens that the bucket has at most, whatever became of the store's data and clock; infinite if nobody has told."""
        return self._prospect.most(now)

    def _settle(self) -> None:
        self.deadline = self._patience = self._advance_from = inf
        self._ask_at = 0.0
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
