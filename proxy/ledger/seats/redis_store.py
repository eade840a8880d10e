"""Seats and upgrade tokens shared through one Redis, Valkey, or whatever speaks like them.

The table of own seats is the truth about this instance; the store has a copy. An ask is one script, all claims or none (of a Cluster,
one for each slot). Everything else that is written is the absolute truth about a seat, so giving back and healing are the same
write. The connection keeps the order: what is told is sent before the next question about it, and run before it.

While the keeper is in doubt nothing is asked: `begin` raises StoreDown, and so it goes for whatever goes wrong with the store.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.ledger.links.link import CommandError, Link
from proxy.ledger.scripts import Conflict, Granted, Keys, Part, Refused, Unlisted, merge, read_admit
from proxy.ledger.seats.keeper import Keeper
from proxy.ledger.seats.levels import NOTHING, Bounds, Levels
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.seats.shared_penalties import SharedPenalties
from proxy.ledger.store import Ask, Claim, Denial, Grant, SeatClaim, StoreDown, StoreEvents, StoreState, TokenClaim

FULL_FOR: Final = 0.25  # seconds that a refusal is repeated without asking again
REPEATS: Final = 4  # of one question: a script was missing, dead holders were in the way of one claim and then of another
MAX_FULL: Final = 10_000  # refusals that are remembered, and keys of which seats were given back

_takes_no_writes: Final = re.compile(r"maxmemory|[Oo]ut of memory|\b(?:OOM|MISCONF|NOREPLICAS|READONLY)\b").search
"""Of an error: is it that of a server which answers, and writes nothing? The library cuts the first word off some of them."""

_Pending = tuple[tuple[int, ...], "asyncio.Future[object]"]
"""(indexes of the claims that one server was asked for, its answer)"""


def _is_missing_script(error: BaseException | None) -> bool:
    return isinstance(error, CommandError) and error.missing_script


class Asked:
    """A question that is on its way. `holder`: under whose name. `began`: seconds; whoever asked waits from then on. `repeats`: how often
    it may be asked again."""

    __slots__ = ("ask", "asked_at", "began", "holder", "known", "pending", "repeats", "tickets")

    def __init__(self, ask: Ask, holder: bytes, began: float, asked_at: float) -> None:
        self.ask = ask
        self.holder = holder
        self.began = began
        self.asked_at = asked_at  # as the caller's clock says
        self.known: Bounds = NOTHING  # tokens of buckets of which the store may believe too much
        self.pending: list[_Pending] = []
        self.tickets: list[tuple[SeatClaim, int]] = []
        self.repeats = REPEATS


class RedisStore:
    """`own` may be shared with whoever decides while this store does not."""

    def __init__(self, link: Link, keys: Keys, own: OwnSeats, ttl: float, events: StoreEvents) -> None:
        self._link = link
        self._keys = keys
        self._own = own
        self._events = events
        self._full: OrderedDict[bytes, tuple[float, tuple[Claim, ...], Denial]] = OrderedDict()
        self._given_back: dict[bytes, float] = {}  # key -> when last, since ...
        self._given_back_since = 0.0
        self.keeper = Keeper(link, keys, own, ttl, events)
        self.levels = Levels()
        self.penalties = SharedPenalties(link, keys, events)
        self._teller = self.keeper.teller
        self._swept_as: bytes | None = None

    @property
    def timeout(self) -> float:
        """Seconds for an answer."""
        return self._link.timeout

    @property
    def state(self) -> StoreState:
        return self.keeper.state

    # --- asking

    def begin(self, ask: Ask, asked_at: float) -> Asked | Denial:
        """Send a question, or repeat what was just said. `asked_at`: the contract's `now`. Raises StoreDown."""
        own = self.keeper.holders.own
        now = time.monotonic()
        if self.state is not StoreState.UP or own is None:
            raise StoreDown(self.keeper.reason, outcome_known=True)
        if self.keeper.holders.is_overdue(now):
            self.keeper.doubt()  # we have stood still: who knows for how long
            raise StoreDown("this instance stood still", outcome_known=True)
        repeated = self._repeated(ask, now)
        if repeated is not None:
            return repeated
        if self._own.is_untold(ask):
            self._teller.now()
        asked = Asked(ask, own, now, asked_at)
        asked.known = self.levels.doubtful(ask, own, asked_at)
        asked.tickets = [(claim, self._own.reserve(claim)) for claim in ask if isinstance(claim, SeatClaim)]
        try:
            self._send(asked)
        except StoreDown:
            self.abandon(asked)
            raise
        return asked

    def _repeated(self, ask: Ask, now: float) -> Denial | None:
        """What was said less than a quarter of a second ago to the same claims, up to the one that was broken."""
        if self._full:
            for claim in ask:
                said = self._full.get(claim.key)
                if said is not None and said[0] > now and tuple(ask[: len(said[1])]) == said[1]:
                    return said[2]
        return None

    def _send(self, asked: Asked) -> None:
        """One script for each slot that has keys of the ask: mostly one. Raises StoreDown."""
        ask = asked.ask
        for seat, _ in asked.tickets:
            self._own.asked(seat)
        if self._keys.listing:
            asked.pending.append((tuple(range(len(ask))), self._link.call(self._keys.admit(asked.holder, ask, asked.known))))
            return
        slots: dict[int, list[int]] = {}
        for index, claim in enumerate(ask):
            slots.setdefault(self._link.slot(self._keys.counts(claim.key)), []).append(index)
        for indexes in slots.values():
            part = [ask[index] for index in indexes]
            asked.pending.append((tuple(indexes), self._link.call(self._keys.admit(asked.holder, part, asked.known))))

    async def finish(self, asked: Asked | Denial) -> Grant | Denial:
        """Wait for the answer. Raises StoreDown; then, and when it is cancelled, nothing is held."""
        if isinstance(asked, Denial):
            return asked
        try:
            if len(asked.pending) == 1:
                parts = []
                answer = read_admit(await asked.pending[0][1])
            else:
                parts = await self._hear_all(asked)
                answer = merge(asked.ask, parts)
        except CommandError as error:
            self._cancel(asked)
            if error.missing_script and asked.repeats:
                return await self._ask_anew(asked)
            (self.keeper.refused if _takes_no_writes(str(error)) else self.keeper.fault)(str(error))
            raise StoreDown(str(error), outcome_known=True) from error
        except Unlisted as error:
            self._cancel(asked)
            self.keeper.not_listed(asked.holder)
            raise StoreDown(str(error), outcome_known=True) from error
        except ValueError as error:
            self.abandon(asked)
            raise StoreDown("an answer that makes no sense", outcome_known=False) from error
        except StoreDown as error:
            if error.outcome_known:
                self._cancel(asked)
            else:
                self.abandon(asked)
                self._events.answered(time.monotonic() - asked.began)
            raise
        except BaseException:
            self.abandon(asked)
            raise
        self._events.answered(time.monotonic() - asked.began)
        if isinstance(answer, Granted):
            return self._grant(asked, answer)
        return await self._deny(asked, answer, parts)

    async def _hear_all(self, asked: Asked) -> list[Part]:
        """What each of several servers said. If one did not decide, tokens that others took come back, and it raises why.

        All are waited for: whoever was not heard yet may have taken one.
        """
        parts: list[Part] = []
        errors: list[Exception] = []
        for indexes, one in asked.pending:
            try:
                parts.append(Part(indexes, read_admit(await one)))
            except (CommandError, StoreDown, Unlisted, ValueError) as error:
                errors.append(error)
        if errors:
            self._refund(asked.ask, parts)  # now, so that it is run before the same is asked anew
            raise next((error for error in errors if not _is_missing_script(error)), errors[0])  # of which a missing script is the least
        return parts

    async def _deny(self, asked: Asked, answer: Refused | Conflict, parts: Sequence[Part]) -> Grant | Denial:
        self._refund(asked.ask, parts)
        self._cancel(asked)
        if isinstance(answer, Refused):
            return await self._refuse(asked, answer)
        claim = asked.ask[answer.index]
        self._events.conflict(claim.rule)
        if isinstance(claim, SeatClaim):
            self.keeper.undertaker.look_beyond(claim)
        return Denial(answer.index, None, ())

    def _grant(self, asked: Asked, answer: Granted) -> Grant:
        for (seat, _), others in zip(asked.tickets, answer.others, strict=True):
            self._own.confirm(seat)
            self._own.note_others(seat.key, others)
        if self._full:
            for seat, _ in asked.tickets:
                self._full.pop(seat.key, None)
        if answer.levels:
            tokens = (claim for claim in asked.ask if isinstance(claim, TokenClaim))
            for token, level in zip(tokens, answer.levels, strict=True):
                self.levels.told(token, level, asked.asked_at, asked.holder)
        for index in answer.over:
            shadow = asked.ask[index]
            if isinstance(shadow, SeatClaim):
                self.keeper.undertaker.look_at(shadow)
        return Grant(tuple(claim for claim, _ in asked.tickets), answer.over)

    async def _refuse(self, asked: Asked, answer: Refused) -> Grant | Denial:
        """If a holder of the full key is known to be dead, free what it has under all keys of the ask, and ask once more."""
        denial = answer.denial
        claim = asked.ask[denial.broken]
        if not isinstance(claim, SeatClaim):
            if isinstance(claim, TokenClaim) and denial.retry_after is not None and claim.key not in asked.known:
                self.levels.told(claim, 1.0 - denial.retry_after * claim.rate, asked.asked_at, asked.holder)
            return denial
        dead = self.keeper.undertaker.dead_among(answer.holders)
        if dead and asked.repeats:
            seats = [one for one in asked.ask if isinstance(one, SeatClaim)]
            with suppress(TimeoutError):
                async with asyncio.timeout(self._left(asked)):
                    return await self._ask_without(seats, dead, asked)
            for one in seats:
                self.keeper.undertaker.look_at(one)  # it takes longer than anybody waits
            return denial
        self.keeper.crowds.refused(claim)
        if asked.began <= max(self._given_back.get(claim.key, 0.0), self._given_back_since):
            return denial  # there is room by now
        self._full[claim.key] = (time.monotonic() + FULL_FOR, tuple(asked.ask[: denial.broken + 1]), denial)
        if len(self._full) > MAX_FULL:
            self._full.popitem(last=False)
        return denial

    async def _ask_without(self, seats: Sequence[SeatClaim], dead: list[bytes], asked: Asked) -> Grant | Denial:
        try:
            await asyncio.gather(*(self.keeper.undertaker.reap(seat, dead) for seat in seats))
        except CommandError as error:
            raise StoreDown(str(error), outcome_known=True) from error
        return await self._once_more(asked)

    async def _ask_anew(self, asked: Asked) -> Grant | Denial:
        """The script was missing, and is there by now. Raises StoreDown."""
        try:
            async with asyncio.timeout(self._left(asked)):
                return await self._once_more(asked)
        except TimeoutError as error:
            self._events.answered(time.monotonic() - asked.began)
            raise StoreDown("no answer in time", outcome_known=False) from error

    async def _once_more(self, asked: Asked) -> Grant | Denial:
        again = self.begin(asked.ask, asked.asked_at)
        if isinstance(again, Asked):
            again.began = asked.began
            again.repeats = asked.repeats - 1
        return await self.finish(again)

    def _left(self, asked: Asked) -> float:
        """Seconds that whoever asked still waits."""
        return asked.began + self._link.timeout - time.monotonic()

    # --- giving back

    def release(self, grant: Grant) -> None:
        """As the contract says."""
        seats, grant.seats = grant.seats, ()
        for claim in seats:
            self._own.leave(claim)
        self._make_room(seats)
        self._teller.soon()

    def _make_room(self, seats: Iterable[SeatClaim]) -> None:
        """These were given back: a refusal that counted them is not repeated, whether it has come or is on its way."""
        now = time.monotonic()
        for claim in seats:
            self._full.pop(claim.key, None)
            self._given_back[claim.key] = now
        if len(self._given_back) > MAX_FULL:
            self._given_back.clear()
            self._given_back_since = now

    def sweep(self, now: float) -> None:
        """Tell again what was not heard; forget penalties that are over. Bounded work."""
        own = self.keeper.holders.own
        if own is not None and own != self._swept_as:
            self._swept_as = own
            self.penalties.doubt()
        self.penalties.sweep(now)

    def changed(self) -> None:
        """Somebody else has changed the table of own seats."""
        self._teller.soon()

    def _cancel(self, asked: Asked) -> None:
        """Nothing was granted; but where several servers were asked, some of them may have."""
        if len(asked.pending) > 1:
            self._give_up(asked)
            return
        for claim, tells in asked.tickets:
            self._own.cancel(claim, tells)
        self._teller.soon()

    def abandon(self, asked: Asked) -> None:
        """Nobody wants the answer any more; what it was is put right."""
        self._give_up(asked)
        self._make_room(claim for claim, _ in asked.tickets)  # others may have been refused for them

    def _give_up(self, asked: Asked) -> None:
        for claim, _ in asked.tickets:
            self._own.abandon(claim)
        for _, answer in asked.pending:
            answer.cancel()
        self._teller.soon()

    def _refund(self, ask: Ask, parts: Sequence[Part]) -> None:
        """What is not granted spends nothing: tokens that one server took come back if another one refused, or did not decide."""
        for part in parts:
            if not isinstance(part.answer, Granted):
                continue
            for place, index in enumerate(part.indexes):
                claim = ask[index]
                if isinstance(claim, TokenClaim) and place not in part.answer.over:
                    self._give_back(claim)

    def _give_back(self, claim: TokenClaim, *, is_repeated: bool = False) -> None:
        """A token; a second time if the script was missing: scripts are flushed on one node after the other."""
        with suppress(StoreDown):
            self._link.call(self._keys.refund(claim)).add_done_callback(partial(self._refunded, claim, is_repeated))

    def _refunded(self, claim: TokenClaim, is_repeated: bool, answer: asyncio.Future[object]) -> None:  # noqa: FBT001 -- a callback
        if not answer.cancelled() and _is_missing_script(answer.exception()) and not is_repeated:
            self._give_back(claim, is_repeated=True)
