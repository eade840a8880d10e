"""The landlord of shared buckets: asks the store for what they need, and tells them what it said.

A question that is not answered in time is asked again: as long as the store is there, nothing passes that it did not give, but for a
little in advance (LeasedBucket). While it is away buckets go on alone, each at its share; once a second it is looked whether that is
over. While it is there and is being told anew what we hold (it may have lost its data), whoever asks waits for that; whoever wants what
another instance has waits until that one gives it back. Neither waits without a timer, of which a bucket has one at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

from proxy.ledger.links.link import CommandError, SlotMoved
from proxy.ledger.rates.answer_times import AnswerTimes
from proxy.ledger.rates.leased_bucket import LeasedBucket, Mode
from proxy.ledger.rates.own_buckets import OwnBuckets
from proxy.ledger.rates.rent import Elsewhere, Leased, Owned, Rent, RentAnswer, Said, Verb, read_rent
from proxy.ledger.rates.rent_link import RentLink
from proxy.ledger.store import StoreDown

BACKSTOP: Final = 0.05  # seconds that the link may take to say that there is no answer
QUESTIONS: Final = 3  # that a frame waits for; where none is answered the link gives up as well
OWNER: Final = 0.15  # seconds that a frame waits for an owner besides (lua/rent.lua)
AT_ONCE: Final = 200  # buckets that try the store again in one turn of the loop
RETURN: Final = 10.0  # seconds after a doubt, in which instances that were there before count as if they were back


@dataclass(frozen=True, slots=True)
class _Sent:
    """A question that is on its way: since when, which of the bucket's, under which id."""

    at: float
    question: int
    holder: bytes
    is_repeated: bool


class RedisLandlord:
    """A Landlord. `timeout`: seconds for an answer. `instances`: how many there are, us included, as far as is known."""

    def __init__(self, rents: RentLink, own: OwnBuckets, timeout: float, instances: Callable[[], int]) -> None:
        self._rents = rents
        self._own = own
        self._timeout = timeout
        self._most_patience = QUESTIONS * timeout + OWNER
        self._instances = instances
        self._answer_times = AnswerTimes()
        self._alone: set[LeasedBucket] = set()
        self._rejoining: set[LeasedBucket] = set()  # of these, those that are to try the store again
        self._waits: dict[LeasedBucket, asyncio.TimerHandle] = {}  # until an owner that is silent is asked about again
        self._healing: dict[LeasedBucket, asyncio.TimerHandle] = {}  # until the store knows us again; then they ask, or are alone
        self._unwanted: set[LeasedBucket] = set()  # somebody else wants it already, and whether we have it is on its way to us
        self._is_there = False  # the store, and what it has is what it should have
        self._doubted_at = -inf
        self._known_before = 1  # instances, before the last doubt: not all may be back
        self._away_since = inf
        self._seems_back = False
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Buckets that wait for an owner, or for the store to know us again."""
        return len(self._waits) + len(self._healing)

    # --- what buckets want

    @property
    def instances(self) -> int:
        return self._instances_at(time.monotonic())

    def _instances_at(self, now: float) -> int:
        """Those who are listed; and just after a doubt, those who were listed before, since not all may be back."""
        return max(self._instances(), self._known_before if now < self._doubted_at + RETURN else 1)

    @property
    def away_since(self) -> float:
        return self._away_since

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        self._send(bucket, self._rents.question(bucket, now, self._instances_at(now)), now)

    def late(self, bucket: LeasedBucket, now: float) -> None:
        self._stop_waiting(bucket)
        if self._rents.is_usable:
            bucket.unanswered()
        else:
            self._give_up(bucket, now)

    def _give_up(self, bucket: LeasedBucket, now: float) -> None:
        self._stop_waiting(bucket)
        bucket.go_alone(now)
        self._alone.add(bucket)

    def _send(self, bucket: LeasedBucket, word: Rent, now: float, *, is_repeated: bool = False) -> None:
        holder = self._rents.holder()
        if not self._is_there:
            self._wait_for_healing(bucket, now)
            return
        try:
            answer = self._rents.call(word, now, holder, bucket.absence)
        except StoreDown:
            self._give_up(bucket, now)
            return
        usual = self._answer_times.usual()
        bucket.asked(now + self._timeout + BACKSTOP, now + self._most_patience, now, usual)
        answer.add_done_callback(partial(self._answered, bucket, word, _Sent(now, bucket.question, holder, is_repeated)))

    def _wait_for_healing(self, bucket: LeasedBucket, now: float) -> None:
        """It takes a round trip or two, or is an outage."""
        left = self._doubted_at + self._timeout - now
        if left <= 0 or not self._rents.is_usable:
            self._give_up(bucket, now)
            return
        self._stop_waiting(bucket)
        bucket.asked(now + left + BACKSTOP, now + self._most_patience, now, self._answer_times.usual())
        self._healing[bucket] = self._loop.call_later(left, self._not_healed, bucket)

    def _not_healed(self, bucket: LeasedBucket) -> None:
        self._stop_waiting(bucket)
        if bucket.mode is Mode.SHARED:
            self._give_up(bucket, time.monotonic())
        self._own.rest(bucket)

    # --- what the store answers

    def _answered(self, bucket: LeasedBucket, word: Rent, sent: _Sent, answer: asyncio.Future[object]) -> None:
        if answer.cancelled():
            return
        now = time.monotonic()
        is_awaited = bucket.mode is Mode.SHARED and bucket.question == sent.question
        try:
            said = read_rent(answer.result())
            self._answer_times.heard(now - sent.at, now)
            self._take(bucket, sent, said, now)
        except CommandError as error:
            if is_awaited and error.missing_script and not sent.is_repeated:
                self._send(bucket, word, now, is_repeated=True)
            elif is_awaited:
                self._give_up(bucket, now)
        except (SlotMoved, ValueError):  # to ask at once again would bring the same
            if is_awaited:
                self._give_up(bucket, now)
        except StoreDown:
            if is_awaited:
                self.late(bucket, now)
        self._own.rest(bucket)

    def _take(self, bucket: LeasedBucket, sent: _Sent, said: RentAnswer, now: float) -> None:
        was_alone = bucket.mode is Mode.ALONE
        match said:
            case Owned(level, epoch):
                self._alone.discard(bucket)
                bucket.own(level, epoch, now)
            case Leased(tokens, retry, sharers, left) if not was_alone:
                bucket.used_by(sharers, now)
                bucket.lease(tokens, retry, sent.at, now, left)
            case Elsewhere(retry, sharers, owner) if not was_alone:
                bucket.used_by(sharers, now)
                self._wait_for_owner(bucket, owner, retry, now)
                return  # whether somebody wants it from us is not known yet
            case Said.UNLISTED if not was_alone:
                self._unlisted(bucket, sent.holder, now)
            case Said.CONFLICT:
                self._rents.conflict(bucket)
                if not was_alone:
                    self._give_up(bucket, now)
        self._stop_waiting(bucket)
        if bucket in self._unwanted:
            self._unwanted.discard(bucket)
            self._own.give_back(bucket, Verb.YIELD)

    def _wait_for_owner(self, bucket: LeasedBucket, owner: bytes, retry: float, now: float) -> None:
        self._stop_waiting(bucket)
        bucket.put_off(owner, now + retry + self._timeout, now)
        self._waits[bucket] = self._loop.call_later(retry, self._ask_anew, bucket)

    def _unlisted(self, bucket: LeasedBucket, holder: bytes, now: float) -> None:
        """Whoever waits asks again, once the store knows us."""
        self._rents.not_listed(holder)
        self.late(bucket, now)

    def _stop_waiting(self, bucket: LeasedBucket) -> None:
        for timer in (self._waits.pop(bucket, None), self._healing.pop(bucket, None)):
            if timer is not None:
                timer.cancel()

    def _ask_anew(self, bucket: LeasedBucket) -> None:
        """The owner was told, and has either given it back or is taken for lost."""
        self._stop_waiting(bucket)
        if bucket.mode is Mode.SHARED:
            self.ask(bucket, time.monotonic())

    # --- what others did

    def wanted(self, bucket: LeasedBucket) -> None:
        """Somebody else wants it: it is given back, if need be as soon as it is ours."""
        if bucket.mode is Mode.SHARED and bucket.is_asking:
            self._unwanted.add(bucket)
        else:
            self._own.give_back(bucket, Verb.YIELD)
            self._own.rest(bucket)

    def freed(self, bucket: LeasedBucket) -> None:
        """Its owner has given it back."""
        if bucket in self._waits:
            bucket.owner = b""
            self._ask_anew(bucket)

    def forget(self, bucket: LeasedBucket) -> None:
        self._alone.discard(bucket)
        self._rejoining.discard(bucket)
        self._unwanted.discard(bucket)
        self._stop_waiting(bucket)

    # --- is the store there?

    def doubted(self) -> None:
        """What the store has may be anything: nothing is asked until it is `healed`."""
        if self._is_there:
            self._known_before = self.instances
            self._doubted_at = time.monotonic()
        self._is_there = False

    def lost(self, now: float) -> None:
        """It is away from now on, if it was there."""
        self._away_since = min(self._away_since, now)

    def healed(self, now: float) -> None:
        """It has what it should have: whoever waits for it asks, and so does whoever is alone."""
        self._is_there = True
        self._away_since = inf
        for bucket in list(self._healing):
            self.late(bucket, now)
            self._own.rest(bucket)
        self._rejoin(now)

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        self._look_for_store()
        self._rejoin(now)

    def _look_for_store(self) -> None:
        """It may be lost and back in the midst of healing, and then nobody says that it is back: whoever sees it twice believes it."""
        is_back = self._away_since < inf and self._is_there and self._rents.is_usable
        if is_back and self._seems_back:
            self._away_since = inf
        self._seems_back = is_back

    def _rejoin(self, now: float) -> None:
        """Those who are alone try the store again, some in each turn of the loop."""
        if not self._is_there or not self._rents.is_usable:
            return
        is_under_way = bool(self._rejoining)
        self._rejoining |= self._alone
        self._alone = set()
        if not is_under_way:
            self._rejoin_some(now)

    def _rejoin_some(self, now: float) -> None:
        for _ in range(min(AT_ONCE, len(self._rejoining))):
            bucket = self._rejoining.pop()
            if bucket.mode is Mode.ALONE:
                bucket.rejoin(now)
                self._own.rest(bucket)
        if self._rejoining:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._rejoin_some(time.monotonic())

    def stop(self) -> None:
        for bucket in (*self._waits, *self._healing):
            self._stop_waiting(bucket)
