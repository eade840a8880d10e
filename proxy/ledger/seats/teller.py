"""Tells the store what this instance holds: as it changes, and everything after a doubt.

What is told is absolute, so telling twice does no harm, and what was not heard is simply told again. Nothing is told from a doubt on
until `everything` was called under the new id, which goes slowly enough for the loop to do its work beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.ledger.links.link import CommandError, Link
from proxy.ledger.scripts import SEATS_AT_ONCE, Keys, Unlisted, read_told
from proxy.ledger.seats.own_seats import OwnSeats, Seat
from proxy.ledger.store import StoreDown, StoreEvents

SCRIPTS_AT_ONCE: Final = 2  # that are sent before one waits: some 1 ms of the loop
MOST_BREATH: Final = 0.005  # seconds between two of those: as long as they took, so that at most half of the loop's time is spent
MAX_FORMER: Final = 8  # own ids that keys may still carry; what is left of older ones is nobody's, and reaped when it is in the way


class Teller:
    """`unlisted` is called with an id that the store does not know; it must not raise. `former`: own ids that told seats lose."""

    def __init__(self, link: Link, keys: Keys, own: OwnSeats, events: StoreEvents) -> None:
        self._link = link
        self._keys = keys
        self._own = own
        self._events = events
        self._holder: bytes | None = None  # whom it speaks for, once everything was told
        self._scheduled = False
        self._unheard: set[asyncio.Future[object]] = set()  # on their way
        self._loop = asyncio.get_running_loop()
        self.former: list[bytes] = []
        self.unlisted: Callable[[bytes], None] = lambda _: None

    @property
    def is_open(self) -> bool:
        """Was everything told since the last doubt? Then changes are told as they come."""
        return self._holder is not None

    def close(self) -> None:
        """Doubt: whatever is to be told waits for `everything`."""
        self._holder = None

    def retire(self, holder: bytes) -> None:
        """Our id counts no more."""
        self.former.append(holder)
        del self.former[:-MAX_FORMER]

    def soon(self) -> None:
        """Something has changed: tell it at the end of this turn of the loop."""
        if self._own.untold and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._now)

    def _now(self) -> None:
        self._scheduled = False
        with suppress(StoreDown):
            self.now()

    def now(self) -> None:
        """Send what is to be told; it will have been run before whatever is sent next. Raises StoreDown."""
        while self._own.untold and self._holder is not None:
            self._send(self._holder)

    async def everything(self, holder: bytes) -> None:
        """Tell what there is to tell, some at a time, until nothing is left. Raises StoreDown, CommandError, Unlisted."""
        while self._own.untold or self._unheard:
            began = time.monotonic()
            answers: list[asyncio.Future[object]] = []
            while self._own.untold and len(answers) < SCRIPTS_AT_ONCE:
                answers += self._send(holder)
            took = time.monotonic() - began
            for answer in answers:
                read_told(await answer)
            if not self._own.untold and self._unheard:
                await asyncio.wait(self._unheard)  # if one of them was not heard, it is to be told while the old ids are still known
            await asyncio.sleep(min(took, MOST_BREATH))

    def open(self, holder: bytes) -> None:
        """Everything was told under this id."""
        self._holder = holder

    def _send(self, holder: bytes) -> list[asyncio.Future[object]]:
        """Tell of some seats, in one script for each slot. Raises StoreDown."""
        taken = self._own.take_marked(SEATS_AT_ONCE)
        answers = []
        for seats in self._by_slot(taken):
            try:
                answer = self._link.call(self._keys.tell(holder, self.former, seats))
            except StoreDown:
                self._own.untell(taken)
                raise
            self._unheard.add(answer)
            answer.add_done_callback(partial(self._heard, holder, seats))
            answers.append(answer)
        return answers

    def _by_slot(self, seats: list[Seat]) -> Iterable[list[Seat]]:
        if self._keys.listing:
            return (seats,)
        slots: dict[int, list[Seat]] = {}
        for seat in seats:
            slots.setdefault(self._link.slot(self._keys.counts(seat.key)), []).append(seat)
        return slots.values()

    def _heard(self, holder: bytes, seats: Sequence[Seat], answer: asyncio.Future[object]) -> None:
        self._unheard.discard(answer)
        try:
            foreign = read_told(answer.result())
        except Unlisted:
            self._own.untell(seats)
            self.unlisted(holder)
        except (StoreDown, CommandError, ValueError, asyncio.CancelledError):
            self._own.untell(seats)  # the next heartbeat, or the next healing, tells it again
        else:
            for index in foreign:
                self._events.conflict(seats[index].rule)
            self._own.told(seats)
