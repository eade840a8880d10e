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

from bisect import insort
from collections.abc import Callable
from enum import Enum
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from proxy.ledger.token_bucket import TokenBucket

LATE: Final = 0.25  # seconds: what a lease may live, and a shared bucket fills beyond its burst, together
SPARE: Final = 0.05  # seconds for which a shared bucket of a small burst fills beyond it, or polls would find nothing (lua/rent.lua)
SLACK: Final = 0.02  # seconds: of two questions the second may be so much longer on its way
PAUSE: Final = 1.0  # seconds: who has waited in vain is refused, and only after so long waits again
NEWS: Final = 2.0  # seconds for which it counts how many use a bucket, as in lua/rent.lua
LOOK_AGAIN: Final = 0.02  # seconds: what waits in a line looks so often whether there is an answer, should nobody wake it
GRACE: Final = 1.0  # token that a bucket has alone at least, if its burst has one for each instance: for the frame that waited in vain


class Absence(NamedTuple):
    """The store was away: moments, in seconds of the monotonic clock. Whoever was alone then has had what came in."""

    began: float
    ended: float


class Mode(Enum):
    """Where a bucket's tokens are: with the store and all who ask it, here, or nobody can say."""

    SHARED = "shared"
    OWNED = "owned"
    ALONE = "alone"


class Landlord(Protocol):
    """Who speaks with the store for a bucket. `instances`: how many there are. `away_since`: when the store was lost; infinite while it
    is there."""

    @property
    def instances(self) -> int: ...

    @property
    def away_since(self) -> float: ...

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        """Ask for `bucket.need` and `bucket.want`. Calls `bucket.asked`, or `bucket.go_alone` where that is hopeless."""

    def late(self, bucket: LeasedBucket, now: float) -> None:
        """No answer came in time. Calls `bucket.unanswered`, or `bucket.go_alone` where another question is hopeless."""


class _Lease:
    __slots__ = ("expires", "tokens")

    def __init__(self, tokens: float, expires: float) -> None:
        self.tokens = tokens
        self.expires = expires


class LeasedBucket(TokenBucket):
    """`rate` in tokens per second, more than 0; `burst` in tokens. Born shared, with nothing."""

    __slots__ = (
        "_advance_from",
        "_ask_at",
        "_debt",
        "_expires",
        "_grows_from",
        "_landlord",
        "_leased",
        "_leases",
        "_left",
        "_most",
        "_most_at",
        "_owes_until",
        "_patience",
        "_share_of_burst",
        "_sharers_at",
        "_spare",
        "_spent",
        "_waiting",
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
        "sharers",
        "want",
    )

    def __init__(self, key: bytes, rate: float, burst: float, landlord: Landlord) -> None:
        super().__init__(rate, burst, 0.0)
        self.key = key
        self.full_rate = rate
        self.full_burst = self.burst
        self._landlord = landlord
        self._leases: list[_Lease] = []  # seldom more than two
        self._leased = 0.0  # tokens that were there after the last lease came
        self._expires = 0.0  # when the last lease ends
        self._spent = 0.0  # tokens, since the last question
        self._ask_at = 0.0  # no question before, unless it is -inf or past
        self._left: float | None = None  # tokens to begin with alone, besides those of leases; None: a share
        self._grows_from = inf  # when that began to grow: since then the store has given nothing
        self._advance_from = inf  # from then on the answer is later than answers are
        self._debt = 0.0  # tokens that passed in advance, to be paid back
        self._owes_until = 0.0  # then the bucket would be full, debt or not
        self._waiting: list[Callable[[], None]] = []
        self._spare = 0.0 if burst >= rate * LATE else SPARE  # as lua/rent.lua has it
        self._most, self._most_at = inf, 0.0  # tokens that the bucket had at most, and when
        self._patience = inf  # until then frames wait for answers
        self.deadline = inf  # of the answer that is awaited
        self.question = 0  # that was asked last
        self.is_unheard = False  # a question was asked, and what became of it nobody knows
        self.epoch = b""
        self.heard = 0  # the question that made it ours last; of a new bucket: the last one that there was about any
        self.owner = b""  # as the store named him: he was told to give it back, and has lost it when this one asks again
        self.need = 0.0
        self.want = 0.0
        self.sharers, self._sharers_at = 0, -inf  # instances that use it, as the store said last, and when
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
        if self._share_of_burst < self.full_burst and cost <= self.full_burst:
            self._save_up(cost, now)
        return super().would_pass(cost, now)

    def _save_up(self, cost: float, now: float) -> None:
        """Alone it may save up for one frame that is more than its share, from now on; and for no more than its share after that."""
        burst = max(cost, self._share_of_burst)
        if burst != self.burst:
            super().would_pass(0.0, now)
            self.level, self.stamp, self.burst = min(self.pending, burst), now, burst

    def spend(self, cost: float, now: float) -> None:
        if self.mode is Mode.SHARED:
            self._spend_leases(cost, now)
        else:
            super().spend(cost, now)

    def wait(self, cost: float, now: float) -> float:
        if self.mode is not Mode.SHARED:
            return super().wait(cost, now)
        if cost > self.burst:
            return inf
        missing = cost + self.owed - self._available(now)
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

    def _available(self, now: float) -> float:
        leases = self._leases
        while leases and leases[0].expires <= now:
            del leases[0]
        return sum(lease.tokens for lease in leases)

    def _is_leased(self, cost: float, ahead: float, now: float) -> bool:
        """Is `cost` there besides what is there for others? If not, it is asked for, unless it would be in vain."""
        if self._available(now) - ahead >= cost:
            return True
        if self.deadline <= now:
            self._landlord.late(self, now)
            if self.mode is not Mode.SHARED:
                return False
        if not self.is_asking and now >= self._ask_at:
            self._ask(cost, cost + ahead, now)
        return now >= self._advance_from and self._is_advanced(cost + ahead, now)

    def _advance_at(self, cost: float, now: float) -> float:
        """When `cost` passes in advance, if no answer comes; infinite if that never happens."""
        missing = cost + self.owed - self._available(now) - self._in_advance(self._advance_from)
        return self._advance_from + max(0.0, missing) * self._shares(now) / self.full_rate

    def _is_advanced(self, least: float, now: float) -> bool:
        """No answer yet: what it may have in advance is a lease as well, and a debt."""
        missing = least - self._available(now)
        if missing > self._in_advance(now):
            return False
        self._debt += missing
        self._owes_until = now + self.full_burst / self.full_rate
        self._hold(missing, now + self.lease_time)
        return True

    def _hold(self, tokens: float, expires: float) -> None:
        """Another lease; those that end first are the first."""
        insort(self._leases, _Lease(tokens, expires), key=attrgetter("expires"))

    def _ask(self, need: float, least: float, now: float) -> None:
        """Want twice as much as was used if that was gone too soon, and else as much."""
        was_scarce = now < self._expires or self._ask_at > 0
        used = self._spent * 2 if was_scarce else self._spent
        self.need = min(self.burst, need + self._debt) if need else 0.0
        self.want = min(self.burst + self.full_rate * self._spare, max(least + self._debt, used))
        self._spent = 0.0
        self._landlord.ask(self, now)

    def _spend_leases(self, cost: float, now: float) -> None:
        """Take from the lease that ends first. Where more than half is gone, more is asked for ahead of need."""
        self._spent += cost
        leases = self._leases
        missing = cost
        while missing > 0 and leases:
            lease = leases[0]
            taken = min(missing, lease.tokens)
            lease.tokens -= taken
            missing -= taken
            if lease.tokens <= 0:
                del leases[0]
        left = sum(lease.tokens for lease in leases)
        if cost <= left < self._leased / 2 and not self.is_asking and now >= self._ask_at:
            self._ask(0.0, cost, now)

    # --- what the landlord tells

    def asked(self, deadline: float, latest: float, now: float, usual: float = inf) -> None:
        """An answer is awaited until `deadline`; frames wait for it, and for those of questions that follow it in vain, until `latest`.

        `usual`: seconds in which answers come; infinite if nobody knows.
        """
        self._grows_from = min(self._grows_from, now)
        self._advance_from = min(self._advance_from, now + usual)
        if self._patience == inf or now > self._patience + PAUSE:
            self._patience = latest
        self.deadline = deadline
        self.question += 1
        self.is_unheard = True

    def put_off(self, owner: bytes, deadline: float, now: float) -> None:
        """The answer is that it will be asked anew before `deadline`: somebody else, `owner`, is giving it back."""
        self.owner = owner
        self._grows_from = now
        self.deadline = deadline
        self.is_unheard = False

    def unanswered(self) -> None:
        """No answer comes, but the store is there: whoever waits asks again."""
        self.deadline = inf
        if not self._waiting:
            self._patience = inf  # nobody has lost any of it
        self._wake()

    def lease(self, tokens: float, retry: float, asked_at: float, now: float, left: float = inf) -> None:
        """More tokens, perhaps 0; no question for `retry` seconds, 0 if there is enough. `left` in the bucket. Only while shared."""
        self._left, self._grows_from, self.absence = None, inf, None
        self._most, self._most_at = left, asked_at
        self.owner = b""
        self.deadline = self._patience = self._advance_from = inf
        self.is_unheard = False
        tokens = self._pay(tokens)
        if tokens > 0:
            self._expires = asked_at + self.lease_time
            self._hold(tokens, self._expires)
            self._leased = self._available(now)
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
        self._left, self._grows_from, self.absence = None, inf, None
        self._settle()

    def share(self, now: float) -> float:
        """Not ours any more. Returns the level that it had."""
        super().would_pass(0.0, now)
        level = self.pending
        self._enter(Mode.SHARED)
        self.epoch = b""
        self._most, self._most_at = level, now
        self._settle()
        return level

    def go_alone(self, now: float) -> None:
        """The store is away: begin with a share of what is left, and fill at a share of the rate up to a share of the burst."""
        self._grows_from = min(self._grows_from, self._landlord.away_since, now)
        rate, burst = self.full_rate / self._shares(now), max(min(GRACE, self.full_burst), self.full_burst / self._shares(now))
        level = min(burst, self._available(now) + self._alone_with(now, self._share_of_what_was_left(now)))
        self._enter(Mode.ALONE)
        self.rate, self.burst, self.level, self.stamp = rate, burst, level, now
        self._share_of_burst = burst
        self.absence = self._absence_until(now)
        self._debt = 0.0
        self._settle()

    def _absence_until(self, now: float) -> Absence:
        """The store's, and one that ended a moment before it began."""
        began = min(self._landlord.away_since, now)
        if self.absence is not None and self.absence.ended > began - NEWS:
            began = min(began, self.absence.began)
        return Absence(began, now)

    def used_by(self, sharers: int, now: float) -> None:
        """So many instances use it, this one among them."""
        self.sharers, self._sharers_at = sharers, now

    def _shares(self, now: float) -> int:
        """How many have one each: those who use it, if that is no old news, or all who may."""
        may_use_it = 1 if now - self._sharers_at < NEWS else self._landlord.instances
        return max(self.sharers, may_use_it)

    def _in_advance(self, now: float) -> float:
        """Tokens that may pass before the answer: what it would have if it were alone, but of what nobody knows only GRACE."""
        return self._alone_with(now, self._grace if self._most == inf else self._share_of_what_was_left(now))

    def _alone_with(self, now: float, share_left: float) -> float:
        """Tokens that it would have if it were alone, besides those of leases."""
        left = share_left if self._left is None else self._left
        share = max(min(GRACE, self.full_burst), self.full_burst / self._shares(now))
        return min(share, left + max(0.0, now - self._grows_from) * self.full_rate / self._shares(now)) - self._debt

    def _share_of_what_was_left(self, now: float) -> float:
        """Of the bucket as the store said last, or as if it had been full and there were one more to share it."""
        if self._most == inf:
            return max(self._grace, self.full_burst / (self._shares(now) + 1))
        return max(self._grace, min(self.full_burst, self.most(min(now, self._grows_from))) / self._shares(now))

    @property
    def _grace(self) -> float:
        """Tokens that it has at least: GRACE if the burst has so many for each instance, else a share of it or of the burst."""
        instances = max(1, self.sharers, self._landlord.instances)
        return GRACE if self.full_burst >= GRACE * instances else min(GRACE, self.full_burst) / instances

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
        left, absence = self.pending, self.absence
        self._enter(Mode.SHARED)
        self._left, self._grows_from = left, now
        self.absence = Absence(absence.began if absence is not None else now, now)
        self._settle()

    def most(self, now: float) -> float:
        """Tokens that the bucket has at most, whatever became of the store's data and clock; infinite if nobody has told."""
        return self._most + (now - self._most_at + SLACK) * self.full_rate

    def _settle(self) -> None:
        self.deadline = self._patience = self._advance_from = inf
        self._ask_at = 0.0
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
