"""Buckets of frames, shared by all instances through the store: the traffic. What is decided is decided in LeasedBucket and lua/rent.lua.

A bucket is asked for when the first frame is charged to it, never before: who says nothing costs nothing. From then on it is here,
until another instance wants it; that one's question makes the store tell us (`hear`), and we give it back at once. Where we own, no
message is a question. Whenever the store may have forgotten what we own, all of it is told again.

A question that is not answered in time is asked again: as long as the store is there, nothing passes that it did not give, but for a
little in advance (LeasedBucket). While it is away buckets go on alone, each at its share; once a second it is looked whether that is
over. While it is there and is being told anew what we hold (it may have lost its data), whoever asks waits for that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final

from proxy.ledger.answer_times import AnswerTimes
from proxy.ledger.leased_bucket import LeasedBucket, Mode
from proxy.ledger.link import CommandError, Link
from proxy.ledger.rent import YIELD, Elsewhere, Knowledge, Leased, Owned, Rent, RentAnswer, RentCommands, Said, Verb, read_rent
from proxy.ledger.scripts import Command
from proxy.ledger.store import StoreDown, StoreEvents

AT_ONCE: Final = 500  # buckets told at once when all are told again
IN_USE: Final = 2.0  # seconds: who has used a bucket so lately goes on to share it
MAX_IDLE: Final = 100_000  # buckets that nobody uses, and that the store does not know to be given back
REFRESH: Final = 3600.0  # seconds in which every owned bucket is told once, or given back if it is full
FAREWELL: Final = 1.0  # seconds to give everything back
BACKSTOP: Final = 0.05  # seconds that the link may take to say that there is no answer
QUESTIONS: Final = 3  # that a frame waits for; where none is answered the link gives up as well
OWNER: Final = 0.15  # seconds that a frame waits for an owner besides (lua/rent.lua)
FIRST_MESSAGE: Final = 1.0  # tokens of a bucket that the store has lost, unless it is known here that there were fewer


@dataclass(frozen=True, slots=True)
class _Sent:
    """A question that is on its way: since when, which of the bucket's, under which id."""

    at: float
    question: int
    holder: bytes
    is_repeated: bool


class RedisRates:
    """`timeout`: seconds for an answer. `instances`: how many there are, us included, as far as is known."""

    def __init__(
        self,
        link: Link,
        commands: RentCommands,
        timeout: float,
        events: StoreEvents,
        instances: Callable[[], int],
    ) -> None:
        self._link = link
        self._commands = commands
        self._timeout = timeout
        self._events = events
        self._instances = instances
        self._number = 0  # of the last question
        self._answer_times = AnswerTimes()
        self._away_since = inf
        self._buckets: dict[bytes, LeasedBucket] = {}
        self._idle: OrderedDict[bytes, LeasedBucket] = OrderedDict()
        self._alone: set[LeasedBucket] = set()
        self._waits: dict[LeasedBucket, asyncio.TimerHandle] = {}  # until an owner that is silent is asked about again
        self._healing: dict[LeasedBucket, asyncio.TimerHandle] = {}  # until the store knows us again; then they ask, or are alone
        self._unwanted: set[LeasedBucket] = set()  # somebody else wants it already, and whether we have it is on its way to us
        self._hears = False
        self._is_there = False  # and what it has is what it should have
        self._was_there = False
        self._doubted_at = -inf
        self._since: float | None = None  # the store is known to have been there
        self._lost_at: float | None = None  # it lost its data
        self._to_refresh: list[LeasedBucket] = []
        self._refresh_rate = 0.0  # buckets a second
        self._refresh_due = 0.0  # buckets
        self._swept_at = time.monotonic()
        self._telling: asyncio.Task[None] | None = None
        self.holder: Callable[[], bytes | None] = lambda: None  # the id under which the store knows us, if it checks that
        self.not_listed: Callable[[bytes], None] = lambda _: None  # it does not
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._buckets)

    # --- what meters want

    def open_bucket(self, key: bytes, rate: float, burst: float) -> LeasedBucket:
        """`rate` is more than 0: a bucket of nothing has nothing to share."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = LeasedBucket(key, rate, burst, self)
            bucket.heard = self._number
        bucket.users += 1
        self._idle.pop(key, None)
        return bucket

    def close_bucket(self, bucket: LeasedBucket) -> None:
        bucket.users -= 1
        self._rest(bucket)

    def _rest(self, bucket: LeasedBucket) -> None:
        """Nobody may be using it: give it back. What cannot be given back is kept for whoever returns."""
        if bucket.users:
            return
        if bucket.mode is Mode.OWNED and self._link.is_usable:
            self._leave(bucket)
        elif bucket.mode is not Mode.SHARED:
            self._keep(bucket)
        elif not bucket.is_asking:
            self._forget(bucket)

    def _keep(self, bucket: LeasedBucket) -> None:
        self._buckets[bucket.key] = self._idle[bucket.key] = bucket
        if len(self._idle) > MAX_IDLE:
            self._forget(self._idle.popitem(last=False)[1])

    def _forget(self, bucket: LeasedBucket) -> None:
        self._buckets.pop(bucket.key, None)
        self._idle.pop(bucket.key, None)
        self._alone.discard(bucket)
        self._unwanted.discard(bucket)
        self._stop_waiting(bucket)

    # --- what buckets want

    @property
    def instances(self) -> int:
        return self._instances()

    @property
    def away_since(self) -> float:
        return self._away_since

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        self._send(bucket, self._question(bucket, now), now)

    def late(self, bucket: LeasedBucket, now: float) -> None:
        self._stop_waiting(bucket)
        if self._link.is_usable:
            bucket.unanswered()
        else:
            self._give_up(bucket, now)

    def _give_up(self, bucket: LeasedBucket, now: float) -> None:
        self._stop_waiting(bucket)
        self._look_for_store(now)
        bucket.go_alone(now)
        self._alone.add(bucket)

    def _look_for_store(self, now: float) -> None:
        self._away_since = inf if self._link.is_usable else min(self._away_since, now)

    def _question(self, bucket: LeasedBucket, now: float) -> Rent:
        return replace(self._word(bucket, level=FIRST_MESSAGE), need=bucket.need, want=bucket.want, most=bucket.most(now))

    def _word(self, bucket: LeasedBucket, verb: Verb = Verb.ASK, level: float = 0.0) -> Rent:
        if verb is Verb.ASK:
            self._number += 1
        return Rent(
            bucket.key,
            bucket.full_rate,
            bucket.burst,
            verb,
            bucket.epoch,
            level,
            may_own=self._hears,
            number=self._number,
            heard=bucket.heard,
        )

    def _send(self, bucket: LeasedBucket, word: Rent, now: float, *, is_repeated: bool = False) -> None:
        holder = self.holder() or b""
        if not self._is_there:
            self._wait_for_healing(bucket, now)
            return
        try:
            answer = self._link.call(self._commands.rent(word, self._knowledge(bucket.since, now), holder))
        except StoreDown:
            self._give_up(bucket, now)
            return
        usual = self._answer_times.usual()
        bucket.asked(now + self._timeout + BACKSTOP, now + QUESTIONS * self._timeout + OWNER, now, usual)
        answer.add_done_callback(partial(self._answered, bucket, word, _Sent(now, bucket.question, holder, is_repeated)))

    def _wait_for_healing(self, bucket: LeasedBucket, now: float) -> None:
        """It takes a round trip or two, or is an outage."""
        left = self._doubted_at + self._timeout - now
        if left <= 0 or not self._link.is_usable:
            self._give_up(bucket, now)
            return
        self._stop_waiting(bucket)
        bucket.asked(now + left + BACKSTOP, now + left, now, self._answer_times.usual())
        self._healing[bucket] = self._loop.call_later(left, self._not_healed, bucket)

    def _not_healed(self, bucket: LeasedBucket) -> None:
        self._stop_waiting(bucket)
        if bucket.mode is Mode.SHARED:
            self._give_up(bucket, time.monotonic())
        self._rest(bucket)

    def _knowledge(self, since: float | None, now: float) -> Knowledge:
        moments = [one for one in (since, self._since) if one is not None]
        return Knowledge(now - max(moments) if moments else None, None if self._lost_at is None else now - self._lost_at)

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
        except ValueError:
            if is_awaited:
                self._give_up(bucket, now)
        except StoreDown:
            if is_awaited:
                self.late(bucket, now)
        self._rest(bucket)

    def _take(self, bucket: LeasedBucket, sent: _Sent, said: RentAnswer, now: float) -> None:
        was_alone = bucket.mode is Mode.ALONE
        match said:
            case Owned(level, epoch):
                self._alone.discard(bucket)
                bucket.own(level, epoch, now)
            case Leased(tokens, retry, sharers, left) if not was_alone:
                bucket.sharers = sharers
                bucket.lease(tokens, retry, sent.at, now, left)
            case Elsewhere(retry, sharers) if not was_alone:
                bucket.sharers = sharers
                self._wait_for_owner(bucket, retry, now)
                return  # whether somebody wants it from us is not known yet
            case Said.UNLISTED if not was_alone:
                self._unlisted(bucket, sent.holder, now)
            case Said.CONFLICT:
                self._events.conflict(bucket.key.partition(b":")[0].decode(errors="replace"))
                if not was_alone:
                    self._give_up(bucket, now)
        self._stop_waiting(bucket)
        if bucket in self._unwanted:
            self._unwanted.discard(bucket)
            self._give_back(bucket, Verb.YIELD)

    def _wait_for_owner(self, bucket: LeasedBucket, retry: float, now: float) -> None:
        self._stop_waiting(bucket)
        bucket.put_off(now + retry + self._timeout, now)
        self._waits[bucket] = self._loop.call_later(retry, self._ask_anew, bucket)

    def _unlisted(self, bucket: LeasedBucket, holder: bytes, now: float) -> None:
        """Whoever waits asks again, once the store knows us."""
        self.not_listed(holder)
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

    # --- what the store tells

    def hear(self, message: bytes) -> None:
        """Somebody wants a bucket that we have, or one that we want was given back."""
        found = self._commands.read_message(message)
        if found is None:
            return
        kind, key = found
        bucket = self._buckets.get(key)
        if kind != YIELD:
            if bucket is not None and bucket in self._waits:
                self._ask_anew(bucket)
        elif bucket is None:
            known = self._number  # whatever was said of it, we may have heard it
            self._tell(Rent(key, 0.0, 0.0, Verb.YIELD, number=known, heard=known))
        elif bucket.mode is Mode.SHARED and bucket.is_asking:
            self._unwanted.add(bucket)
        else:
            self._give_back(bucket, Verb.YIELD)

    def _give_back(self, bucket: LeasedBucket, verb: Verb) -> None:
        now = time.monotonic()
        word = self._word(bucket, verb)
        if verb is Verb.YIELD:
            bucket.sharers = max(bucket.sharers, 2)
        if bucket.mode is Mode.OWNED:
            in_use = verb is Verb.YIELD and bucket.users > 0 and now - bucket.stamp < IN_USE
            word = replace(word, want=float(in_use), level=bucket.share(now))
        self._tell(word)

    def _leave(self, bucket: LeasedBucket, *, is_repeated: bool = False) -> None:
        """Nobody here uses it any more. It stays ours if the store was certainly not told so."""
        now = time.monotonic()
        word = replace(self._word(bucket, Verb.LEAVE), level=bucket.share(now))
        self._forget(bucket)
        try:
            answer = self._link.call(self._commands.rent(word, self._knowledge(None, now)))
        except StoreDown:
            self._stay(bucket, word)
        else:
            answer.add_done_callback(partial(self._left, bucket, word, is_repeated))

    def _left(self, bucket: LeasedBucket, word: Rent, is_repeated: bool, answer: asyncio.Future[object]) -> None:  # noqa: FBT001 -- a callback
        if answer.cancelled():
            return
        error = answer.exception()
        if isinstance(error, CommandError) or (isinstance(error, StoreDown) and error.outcome_known):
            self._stay(bucket, word)
            if isinstance(error, CommandError) and error.missing_script and not is_repeated and bucket.mode is Mode.OWNED:
                self._leave(bucket, is_repeated=True)

    def _stay(self, bucket: LeasedBucket, word: Rent) -> None:
        if bucket.key not in self._buckets:  # nobody has come back
            bucket.own(word.level, word.epoch, time.monotonic())
            self._keep(bucket)

    def _tell(self, word: Rent) -> None:
        """Say something to which there is no answer that matters."""
        self._call_away(self._commands.rent(word, self._knowledge(None, time.monotonic())))

    def _call_away(self, command: Command) -> None:
        with suppress(StoreDown):
            self._link.call(command).add_done_callback(_look_away)

    # --- doubts

    def listening(self, hears: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        """Does the store reach us? Where it does not, we own nothing more, and where it does again, all that we own is told."""
        self._hears = hears
        if hears:
            self._tell_again()

    def doubted(self) -> None:
        """What the store has may be anything: nothing is asked until it is `healed`."""
        if self._is_there:
            self._doubted_at = time.monotonic()
        self._is_there = False

    def healed(self, lost_data: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        """The store is there: for the first time, or after it was away, or has forgotten everything."""
        now = time.monotonic()
        if self._was_there:
            self._since = now
        self._is_there = self._was_there = True
        self._away_since = inf
        if lost_data:
            self._lost_at = now
            self._call_away(self._commands.lost())
        for bucket in list(self._healing):
            self.late(bucket, now)
            self._rest(bucket)
        self._rejoin(now)
        self._tell_again()

    def _tell_again(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling = self._loop.create_task(self._tell_owned())

    async def _tell_owned(self) -> None:
        """Tell all that we own, some at a time. What fails is told when the store is back."""
        owned = [bucket for bucket in self._buckets.values() if bucket.mode is Mode.OWNED]
        with suppress(StoreDown):
            for start in range(0, len(owned), AT_ONCE):
                answers = self._confirm(owned[start : start + AT_ONCE])
                if answers:
                    await asyncio.wait(answers)

    def _confirm(self, buckets: Sequence[LeasedBucket]) -> list[asyncio.Future[object]]:
        """Are they still ours? Raises StoreDown."""
        now = time.monotonic()
        answers = []
        for bucket in buckets:
            if bucket.mode is Mode.OWNED:
                bucket.would_pass(0.0, now)
                word = self._word(bucket, level=bucket.pending)
                holder = self.holder() or b""
                answer = self._link.call(self._commands.rent(word, self._knowledge(None, now), holder))
                answer.add_done_callback(partial(self._confirmed, bucket, word, holder))
                answers.append(answer)
        return answers

    def _confirmed(self, bucket: LeasedBucket, word: Rent, holder: bytes, answer: asyncio.Future[object]) -> None:
        if answer.cancelled() or bucket.mode is not Mode.OWNED or bucket.epoch != word.epoch:
            return
        try:
            said = read_rent(answer.result())
        except (StoreDown, CommandError, ValueError):
            return
        if isinstance(said, Owned):
            bucket.epoch, bucket.heard = said.epoch, int(said.epoch)
        elif said is Said.UNLISTED:
            self.not_listed(holder)  # it is told again when the store knows us
        elif said is Said.CONFLICT:
            self._events.conflict(bucket.key.partition(b":")[0].decode(errors="replace"))
        else:
            bucket.share(time.monotonic())
        self._rest(bucket)

    # --- its life

    def sweep(self, now: float) -> None:
        """Called about once a second; bounded work."""
        self._look_for_store(now)
        self._rejoin(now)
        self._forget_full(now)
        self._refresh(now)

    def _forget_full(self, now: float) -> None:
        """Those who are alone, and whom nobody uses."""
        for _ in range(min(len(self._idle), AT_ONCE)):
            key, bucket = self._idle.popitem(last=False)
            self._idle[key] = bucket
            if bucket.mode is Mode.ALONE and bucket.full_at() <= now:
                self._forget(bucket)

    def _rejoin(self, now: float) -> None:
        """Those who are alone try the store again."""
        if not self._is_there or not self._link.is_usable:
            return
        alone, self._alone = self._alone, set()
        for bucket in alone:
            bucket.rejoin(now)
            self._rest(bucket)

    def _refresh(self, now: float) -> None:
        """The slow sweep: a share of what we own is told again, which keeps its key from expiring; what is full is given back."""
        if not self._to_refresh:
            self._to_refresh = [bucket for bucket in self._buckets.values() if bucket.mode is Mode.OWNED]
            self._refresh_rate = len(self._to_refresh) / REFRESH
        self._refresh_due = min(self._refresh_due + self._refresh_rate * (now - self._swept_at), len(self._to_refresh))
        self._swept_at = now
        with suppress(StoreDown):
            while self._refresh_due >= 1 and self._to_refresh:
                self._refresh_due -= 1
                bucket = self._to_refresh.pop()
                if bucket.mode is not Mode.OWNED or bucket.full_at() > now or not self._link.is_usable:
                    self._confirm([bucket])
                elif bucket.users:
                    self._give_back(bucket, Verb.LEAVE)
                else:
                    self._leave(bucket)

    async def stop(self) -> None:
        """Give back what is ours, within FAREWELL seconds."""
        if self._telling is not None:
            self._telling.cancel()
        for bucket in (*self._waits, *self._healing):
            self._stop_waiting(bucket)
        now = time.monotonic()
        answers = []
        with suppress(StoreDown):
            for bucket in self._buckets.values():
                if bucket.mode is Mode.OWNED:
                    word = self._word(bucket, Verb.LEAVE)
                    word = replace(word, level=bucket.share(now))
                    answers.append(self._link.call(self._commands.rent(word, self._knowledge(None, now))))
        if answers:
            await asyncio.wait(answers, timeout=FAREWELL)


def _look_away(answer: asyncio.Future[object]) -> None:
    """Nobody waits for this one."""
    if not answer.cancelled():
        answer.exception()
