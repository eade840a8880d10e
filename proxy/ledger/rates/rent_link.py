"""What an instance says to the store about buckets that are shared: the words of lua/rent.lua, over the link.

Every question has a number, higher than that of any question before it about whatever bucket: it is the epoch of what becomes ours by
it, and with the last one that a bucket has heard of the store can tell an ownership that nobody ever used. With every word goes for how
long the store was away, and when, and since when its data is known to be lost: nothing that it has forgotten counts as full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

from proxy.ledger.links.link import CommandError, Link
from proxy.ledger.rates.leased_bucket import Absence, LeasedBucket
from proxy.ledger.rates.rent import Knowledge, Rent, RentCommands, Verb
from proxy.ledger.store import StoreDown, StoreEvents

UNUSED: Final = 15.0  # seconds for which the store keeps a bucket that is full (lua/rent.lua)
MOST_ABSENCES: Final = 8  # that are remembered
FIRST_MESSAGE: Final = 1.0  # tokens of a bucket that the store has lost, at least, unless it is known here that there were fewer


class RentLink:
    """`holder` (the id under which the store knows us, empty if there is none that counts) and `not_listed` (it does not know that id)
    are set by whoever keeps the listing; without them nothing is checked. `may_own`: does the store reach us? If not, we own nothing
    more. Times are seconds of the monotonic clock."""

    def __init__(self, link: Link, commands: RentCommands, events: StoreEvents) -> None:
        self._link = link
        self._commands = commands
        self._events = events
        self._absences: list[Absence] = []  # of the store, the last ones
        self._lost_at: float | None = None  # it lost its data
        self.number = 0  # of the last question
        self.may_own = False
        self.holder: Callable[[], bytes] = lambda: b""
        self.not_listed: Callable[[bytes], None] = lambda _: None

    @property
    def is_usable(self) -> bool:
        """Is it worth asking?"""
        return self._link.is_usable

    # --- words

    def question(self, bucket: LeasedBucket, now: float, instances: int) -> Rent:
        """For `bucket.need` and `bucket.want` tokens, with what is known of it. If the store has lost it, it begins with a share, as in an
        outage a bucket does of which nothing is known."""
        level = max(FIRST_MESSAGE, bucket.full_burst / (instances + 1))
        word = self.word(bucket, level=level)
        return replace(word, need=bucket.need, want=bucket.want, most=bucket.most(now), waited_for=bucket.owner)

    def word(self, bucket: LeasedBucket, verb: Verb = Verb.ASK, level: float = 0.0) -> Rent:
        """`level` in tokens, as in Rent. Anything but ASK has no number of its own."""
        if verb is Verb.ASK:
            self.number += 1
        return Rent(
            bucket.key,
            bucket.full_rate,
            bucket.full_burst,
            verb,
            bucket.epoch,
            level,
            may_own=self.may_own,
            number=self.number,
            heard=bucket.heard,
        )

    # --- said

    def call(self, word: Rent, now: float, holder: bytes = b"", absence: Absence | None = None) -> asyncio.Future[object]:
        """The answer, for `read_rent`; it may raise StoreDown or CommandError. Raises StoreDown at once if there is nobody to ask.

        `holder`: the id that must be listed, if any. `absence`: the store's, for this bucket, if it has not answered since.
        """
        return self._link.call(self._commands.rent(word, self._knowledge(word, absence, now), holder))

    def tell(self, word: Rent, now: float, *, is_repeated: bool = False) -> None:
        """Say something to which there is no answer that matters; a second time if the script was missing."""
        with suppress(StoreDown):
            self.call(word, now).add_done_callback(partial(self._told, word, now, is_repeated))

    def _told(self, word: Rent, now: float, is_repeated: bool, answer: asyncio.Future[object]) -> None:  # noqa: FBT001 -- a callback
        if answer.cancelled():
            return
        error = answer.exception()
        if isinstance(error, CommandError) and error.missing_script and not is_repeated:
            self.tell(word, now, is_repeated=True)

    def disown(self, key: bytes, now: float) -> None:
        """Somebody wants a bucket from us of which we know nothing. Whatever was said of it, we may have heard it."""
        self.tell(Rent(key, 0.0, 0.0, Verb.YIELD, number=self.number, heard=self.number), now)

    def _knowledge(self, word: Rent, absence: Absence | None, now: float) -> Knowledge:
        kept = None if self._lost_at is None else now - self._lost_at
        away, ended = self._away(word.burst / word.rate if word.rate else 0.0)
        if absence is not None:
            length = absence.ended - absence.began
            away = away + length if absence.began >= ended else max(away, length)
            ended = max(ended, absence.ended)
        return Knowledge(kept=kept) if ended == -inf else Knowledge(now - ended, kept, away)

    def _away(self, refill: float) -> tuple[float, float]:
        """For how long the store was away, and when that ended: the last absence and those before it, as far back as a bucket that needs
        `refill` seconds to be full can tell."""
        away, began, ended = 0.0, inf, -inf
        for one in reversed(self._absences):
            if began < inf and began - one.ended > refill + UNUSED:
                break
            away, began, ended = away + one.ended - one.began, one.began, max(ended, one.ended)
        return away, ended

    # --- heard

    def read_message(self, message: bytes) -> tuple[bytes, bytes] | None:
        """(YIELD or FREED, key), or None for what is not ours."""
        return self._commands.read_message(message)

    def conflict(self, bucket: LeasedBucket) -> None:
        """Its key holds what is not ours: the operator hears which rule's it is."""
        self._events.conflict(bucket.key.partition(b":")[0].decode(errors="replace"))

    def healed(self, now: float, away_since: float, *, lost_data: bool) -> None:
        """The store is there: again (it was lost at `away_since`; infinite if it was not), or without its data (lua/join.lua leaves a mark
        of that for others)."""
        if away_since <= now:
            self._absences = [*self._absences[1 - MOST_ABSENCES :], Absence(away_since, now)]
        if lost_data:
            self._lost_at = now
