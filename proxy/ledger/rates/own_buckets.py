"""Shared buckets that are this instance's own, and how the store is told of them.

What is ours is given back when another instance wants it, when nobody here uses it any more, and at the end. Whenever the store may have
forgotten it, all of it is told again, and a little of it all the time, so that no key expires under an owner. Whoever gives a bucket back
has none of it from that moment on: it is ours again only if the store has certainly not heard that it was given back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

from proxy.ledger.links.link import CommandError
from proxy.ledger.rates.bucket_table import BucketTable
from proxy.ledger.rates.leased_bucket import LeasedBucket, Mode
from proxy.ledger.rates.rent import Owned, Rent, Said, Verb, read_rent
from proxy.ledger.rates.rent_link import RentLink
from proxy.ledger.store import StoreDown

AT_ONCE: Final = 500  # buckets told at once when all are told again
IN_USE: Final = 2.0  # seconds: who has used a bucket so lately goes on to share it
REFRESH: Final = 3600.0  # seconds in which every owned bucket is told once, or given back if it is full
FAREWELL: Final = 1.0  # seconds to give everything back
DEAF: Final = 4.0  # seconds: who hears nothing for longer owns nothing, if the store is there


class OwnBuckets:
    """Those of the table that are owned. It is made inside a running loop."""

    def __init__(self, buckets: BucketTable, rents: RentLink) -> None:
        self._buckets = buckets
        self._rents = rents
        self.deaf_since = inf  # whoever wants a bucket of ours cannot tell us
        self._untold: set[LeasedBucket] = set()  # owned, and whether the store knows that is not known
        self._to_refresh: list[LeasedBucket] = []
        self._refresh_rate = 0.0  # buckets a second
        self._refresh_due = 0.0  # buckets
        self._swept_at = time.monotonic()
        self._telling: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    # --- given back

    def rest(self, bucket: LeasedBucket) -> None:
        """Nobody may be using it: give it back. What cannot be given back is kept for whoever returns."""
        if bucket.users:
            return
        if bucket.mode is Mode.OWNED and self._rents.is_usable:
            self._leave(bucket)
        elif bucket.is_done(time.monotonic()):
            self._let_go(bucket)
        elif not bucket.is_asking:
            self._buckets.keep(bucket)

    def _let_go(self, bucket: LeasedBucket) -> None:
        """It may be ours without our knowing: then it is given back first, or kept until that is heard."""
        if not bucket.is_unheard:
            self._buckets.forget(bucket)
            return
        try:
            answer = self._rents.call(self._rents.word(bucket, Verb.LEAVE), time.monotonic())
        except StoreDown:
            self._buckets.keep(bucket)
        else:
            self._buckets.forget(bucket)
            answer.add_done_callback(partial(self._gone, bucket))

    def _gone(self, bucket: LeasedBucket, answer: asyncio.Future[object]) -> None:
        if not answer.cancelled() and answer.exception() is not None and self._buckets.get(bucket.key) is None:
            if bucket.mode is Mode.ALONE:
                bucket.rejoin(time.monotonic())  # the landlord has forgotten it: whoever comes back asks
            self._buckets.keep(bucket)

    def give_back(self, bucket: LeasedBucket, verb: Verb) -> None:
        """`verb`: YIELD if somebody else wants it, and LEAVE if nobody does. Whoever uses it here asks for it again."""
        now = time.monotonic()
        word = self._rents.word(bucket, verb)
        if verb is Verb.YIELD:
            bucket.used_by(max(bucket.sharers, 2), now)
        if bucket.mode is Mode.OWNED:
            in_use = verb is Verb.YIELD and bucket.users > 0 and now - bucket.stamp < IN_USE
            word = replace(word, want=float(in_use), level=bucket.share(now))
        self._rents.tell(word, now)

    def _give_up(self, bucket: LeasedBucket) -> None:
        """Whoever uses it here asks for it again."""
        if bucket.users:
            self.give_back(bucket, Verb.LEAVE)
        else:
            self._leave(bucket)

    def _leave(self, bucket: LeasedBucket, *, is_repeated: bool = False) -> None:
        """Nobody here uses it any more. It stays ours if the store was certainly not told so."""
        now = time.monotonic()
        word = replace(self._rents.word(bucket, Verb.LEAVE), level=bucket.share(now))
        self._buckets.forget(bucket)
        try:
            answer = self._rents.call(word, now)
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
        if self._buckets.get(bucket.key) is None:  # nobody has come back
            bucket.own(word.level, word.epoch, time.monotonic())
            self._buckets.keep(bucket)

    # --- told again

    def tell_again(self) -> None:
        """All of it, from the beginning."""
        if self._telling is not None:
            self._telling.cancel()
        self._telling = self._loop.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        """Some at a time. What fails is told when the store is back."""
        owned = self._buckets.owned()
        with suppress(StoreDown):
            for start in range(0, len(owned), AT_ONCE):
                answers = self._confirm(owned[start : start + AT_ONCE])
                if answers:
                    await asyncio.wait(answers)

    def _confirm(self, buckets: Sequence[LeasedBucket]) -> list[asyncio.Future[object]]:
        """Are they still ours? Raises StoreDown. Where the store has forgotten that, they are ours anew by this question."""
        now = time.monotonic()
        answers = []
        for bucket in buckets:
            if bucket.mode is Mode.OWNED:
                bucket.would_pass(0.0, now)
                word = self._rents.word(bucket, level=bucket.pending)
                bucket.heard = word.number
                holder = self._rents.holder()
                answer = self._rents.call(word, now, holder)
                answer.add_done_callback(partial(self._confirmed, bucket, word, holder))
                answers.append(answer)
        return answers

    def _confirmed(self, bucket: LeasedBucket, word: Rent, holder: bytes, answer: asyncio.Future[object]) -> None:
        if answer.cancelled() or bucket.mode is not Mode.OWNED or bucket.epoch != word.epoch:
            return
        try:
            said = read_rent(answer.result())
        except (StoreDown, CommandError, ValueError):
            self._untold.add(bucket)
            return
        if isinstance(said, Owned):
            bucket.epoch = said.epoch
        elif said is Said.UNLISTED:
            self._rents.not_listed(holder)  # it is told again when the store knows us
        elif said is Said.CONFLICT:
            self._rents.conflict(bucket)
        else:
            bucket.share(time.monotonic())
        self.rest(bucket)

    # --- its life

    def refresh(self, now: float) -> None:
        """The slow sweep: a share of what we own is told again, which keeps its key from expiring; what is full is given back. Before
        that, what was told in vain; and what nobody uses any more is forgotten. Who is deaf gives back all, some at a time."""
        for bucket in self._buckets.done(now):
            self._let_go(bucket)
        if now - self.deaf_since > DEAF and self._rents.is_usable:
            for bucket in self._buckets.owned()[:AT_ONCE]:
                self._give_up(bucket)
        if not self._to_refresh:
            self._to_refresh = self._buckets.owned()
            self._refresh_rate = len(self._to_refresh) / REFRESH
        self._refresh_due = min(self._refresh_due + self._refresh_rate * (now - self._swept_at), len(self._to_refresh))
        self._swept_at = now
        with suppress(StoreDown):
            for _ in range(min(len(self._untold), AT_ONCE)):
                self._confirm([self._untold.pop()])
            while self._refresh_due >= 1 and self._to_refresh:
                self._refresh_due -= 1
                bucket = self._to_refresh.pop()
                if bucket.mode is not Mode.OWNED or bucket.full_at() > now or not self._rents.is_usable:
                    self._confirm([bucket])
                else:
                    self._give_up(bucket)

    async def stop(self) -> None:
        """Give back all of it, within FAREWELL seconds."""
        if self._telling is not None:
            self._telling.cancel()
        now = time.monotonic()
        answers = []
        with suppress(StoreDown):
            for bucket in self._buckets.owned():
                word = self._rents.word(bucket, Verb.LEAVE)
                word = replace(word, level=bucket.share(now))
                answers.append(self._rents.call(word, now))
        if answers:
            await asyncio.wait(answers, timeout=FAREWELL)
