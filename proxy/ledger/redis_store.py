"""Seats and upgrade tokens shared through one Redis, Valkey, or whatever speaks like them.

The table of own seats is the truth about this instance; the store has a copy. An ask is one script, all claims or none. Everything
else that is written is the absolute truth about a seat (`own_seats`), so giving back and healing are the same write, and a write that
was lost is made again. The connection keeps the order: what is told is sent before the next question, and run before it.

One task, the keeper, lists this instance under a new id after every doubt (a new connection, a flush, an own standstill), tells all its
seats, and keeps the heartbeat. Until all is told the store is not asked: `admit` raises StoreDown, and so it does for whatever
goes wrong with the store. After a flush the others get the time of a heartbeat to tell theirs.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.ledger.holders import Holders
from proxy.ledger.own_seats import OwnSeats, Seat
from proxy.ledger.redis_link import CommandError, Link
from proxy.ledger.scripts import SEATS_AT_ONCE, Command, Granted, Keys, Part, Refused, Unlisted, merge, read_admit, read_listing, read_told
from proxy.ledger.store import Ask, Claim, Denial, Grant, SeatClaim, StoreDown, StoreEvents, StoreState, TokenClaim

HEARTBEAT: Final = 2.0  # seconds between heartbeats, or a fifth of the ttl if that is less
JITTER: Final = 0.1  # of the interval, either way, so that instances do not beat together
FULL_FOR: Final = 0.25  # seconds that a refusal is repeated without asking again
MAX_FULL: Final = 10_000  # refusals that are remembered
MAX_LOOKS: Final = 1_000  # keys that are to be looked at for dead holders
REFRESH: Final = 8 * 3600.0  # seconds in which every own key is told once, whatever happens
HEAL_AT_ONCE: Final = 4  # scripts that are told before one waits: some 2 ms of the loop
FAREWELL: Final = 1.0  # seconds to say good-bye


_Pending = tuple[tuple[int, ...], "asyncio.Future[object]"]
"""(indexes of the claims that one server was asked for, its answer)"""


class Asked:
    """A question that is on its way. `may_repeat`: it was not asked for the second time."""

    __slots__ = ("ask", "began", "may_repeat", "pending", "tickets")

    def __init__(self, ask: Ask, began: float) -> None:
        self.ask = ask
        self.began = began
        self.pending: list[_Pending] = []
        self.tickets: list[tuple[SeatClaim, int]] = []
        self.may_repeat = True


class RedisStore:
    """`ttl`: seconds after which a silent holder is dead. `own` may be shared with whoever decides while this store does not."""

    def __init__(self, link: Link, keys: Keys, own: OwnSeats, ttl: float, events: StoreEvents) -> None:
        self._link = link
        self._keys = keys
        self._own = own
        self._events = events
        self._interval = min(HEARTBEAT, ttl / 5)
        self.holders = Holders(ttl, self._interval)
        self._former: list[bytes] = []  # own ids that keys may still carry, and that are listed until nothing does
        self._full: OrderedDict[bytes, tuple[float, tuple[Claim, ...], Denial]] = OrderedDict()
        self._looks: dict[bytes, SeatClaim] = {}
        self._telling: set[asyncio.Future[object]] = set()  # on their way
        self._tell_scheduled = False
        self._is_told = False  # once after a doubt: from then on changes are told as they come
        self._refreshing: list[Seat] = []
        self._refresh_rate = 0.0  # seats per heartbeat
        self._refresh_due = 0.0  # seats
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._first = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.state = StoreState.DOWN
        link.up = self._link_up
        link.down = self._link_down

    # --- its life

    async def start(self, patience: float) -> str | None:
        """Returns None as soon as it decides; or after `patience` seconds, or the first failure to connect, why it does not."""
        self._link.start()
        self._keeper = self._loop.create_task(self._keep())
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._first.wait()
        return None if self.state is StoreState.UP else self._link.reason

    async def stop(self) -> None:
        """Give back what is held, and be listed no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        with suppress(StoreDown, CommandError, TimeoutError, Unlisted):
            async with asyncio.timeout(FAREWELL):
                await self._bid_farewell()
        await self._link.stop()

    async def _bid_farewell(self) -> None:
        own = self.holders.own
        if own is not None and self._link.is_usable:
            await self._tell_all(own)
            await self._do(self._keys.unlist([own, *self._former]))

    # --- what the link says

    def _link_up(self, anew: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        if anew:
            self.doubt()
        self._changed.set()

    def _link_down(self, why: str) -> None:
        self._is_told = False
        self._enter(StoreState.DOWN, why)
        self._first.set()
        self._changed.set()

    def _fault(self, why: str) -> None:
        """It answers, but not as it should: the keeper finds out when it does again."""
        self._is_told = False
        self._enter(StoreState.DOWN, why)
        self._changed.set()

    def _enter(self, state: StoreState, why: str = "") -> None:
        if state is not self.state:
            self.state = state
            self._events.state_changed(state, why)

    def doubt(self) -> None:
        """What the store has of us may be anything: nothing is asked until it was told anew."""
        own = self.holders.own
        if own is not None:
            self._former.append(own)
            del self._former[:-8]
            self.holders.doubted()
        self._is_told = False
        if self.state is StoreState.UP:
            self._enter(StoreState.HEALING, "telling it what is held here")
        self._changed.set()

    # --- asking

    def begin(self, ask: Ask) -> Asked | Denial:
        """Send a question, or repeat what was just said. Raises StoreDown."""
        own = self.holders.own
        now = time.monotonic()
        if self.state is not StoreState.UP or own is None:
            raise StoreDown(self._link.reason, outcome_known=True)
        if self.holders.is_overdue(now):
            self.doubt()  # we have stood still: who knows for how long
            raise StoreDown("this instance stood still", outcome_known=True)
        repeated = self._repeated(ask, now)
        if repeated is not None:
            return repeated
        if self._own.is_untold(ask):
            self._tell_now(own)
        asked = Asked(ask, now)
        asked.tickets = [(claim, self._own.reserve(claim)) for claim in ask if isinstance(claim, SeatClaim)]
        try:
            self._send_question(own, asked)
        except StoreDown:
            self.abandon(asked)
            raise
        return asked

    def _send_question(self, own: bytes, asked: Asked) -> None:
        """One script for each slot that has keys of the ask: mostly one. Raises StoreDown."""
        ask = asked.ask
        for claim, _ in asked.tickets:
            self._own.asked(claim)
        if self._keys.listing:
            asked.pending.append((tuple(range(len(ask))), self._link.call(self._keys.admit(own, ask))))
        else:
            slots: dict[int, list[int]] = {}
            for index, claim in enumerate(ask):
                slots.setdefault(self._link.slot(self._keys.counts(claim.key)), []).append(index)
            for indexes in slots.values():
                part = [ask[index] for index in indexes]
                asked.pending.append((tuple(indexes), self._link.call(self._keys.admit(own, part))))

    async def finish(self, asked: Asked | Denial) -> Grant | Denial:
        """Wait for the answer. Raises StoreDown; then, and when it is cancelled, nothing is held."""
        if isinstance(asked, Denial):
            return asked
        try:
            parts = [Part(indexes, read_admit(await answer)) for indexes, answer in asked.pending]
        except CommandError as error:
            self._cancel(asked)
            if error.missing_script and asked.may_repeat:
                return await self._once_more(asked)
            self._fault(str(error))
            raise StoreDown(str(error), outcome_known=True) from error
        except Unlisted as error:
            self._cancel(asked)
            self.doubt()
            raise StoreDown(str(error), outcome_known=True) from error
        except ValueError as error:
            self.abandon(asked)
            raise StoreDown("an answer that makes no sense", outcome_known=False) from error
        except StoreDown as error:
            if error.outcome_known:
                self._cancel(asked)
            else:
                self.abandon(asked)
            raise
        except BaseException:
            self.abandon(asked)
            raise
        self._events.answered(time.monotonic() - asked.began)
        return await self._conclude(asked, parts)

    async def _conclude(self, asked: Asked, parts: Sequence[Part]) -> Grant | Denial:
        answer = merge(asked.ask, parts)
        if isinstance(answer, Granted):
            return self._grant(asked, answer)
        self._refund(asked, parts)
        self._cancel(asked)
        if isinstance(answer, Refused):
            return await self._refuse(asked, answer)
        self._events.conflict(asked.ask[answer.index].rule)
        return Denial(answer.index, None, ())

    async def _once_more(self, asked: Asked) -> Grant | Denial:
        again = self.begin(asked.ask)
        if isinstance(again, Asked):
            again.may_repeat = False
        return await self.finish(again)

    def _cancel(self, asked: Asked) -> None:
        """Nothing was granted; but where several servers were asked, some of them may have."""
        if len(asked.pending) > 1:
            self.abandon(asked)
            return
        for claim, tells in asked.tickets:
            self._own.cancel(claim, tells)
        self.tell()

    def abandon(self, asked: Asked) -> None:
        """Nobody wants the answer any more; what it was is put right."""
        for claim, _ in asked.tickets:
            self._own.abandon(claim)
        for _, answer in asked.pending:
            answer.cancel()
        self.tell()

    def _refund(self, asked: Asked, parts: Sequence[Part]) -> None:
        """A refusal spends nothing: tokens that one server took come back if another one refused."""
        for part in parts:
            if isinstance(part.answer, Granted):
                for index in part.indexes:
                    claim = asked.ask[index]
                    if isinstance(claim, TokenClaim) and part.indexes.index(index) not in part.answer.over:
                        with suppress(StoreDown):
                            self._link.call(self._keys.refund(claim))

    def _grant(self, asked: Asked, answer: Granted) -> Grant:
        for (claim, _), others in zip(asked.tickets, answer.others, strict=True):
            self._own.confirm(claim)
            self._own.note_others(claim.key, others)
            self._full.pop(claim.key, None)
        for index in answer.over:
            self._look_at(asked.ask[index])
        return Grant(tuple(claim for claim, _ in asked.tickets), answer.over)

    def _look_at(self, claim: Claim) -> None:
        if isinstance(claim, SeatClaim) and len(self._looks) < MAX_LOOKS:
            self._looks[claim.key] = claim

    async def _refuse(self, asked: Asked, answer: Refused) -> Grant | Denial:
        """If a holder of the full key is known to be dead, free what it has and ask once more."""
        denial = answer.denial
        claim = asked.ask[denial.broken]
        if not isinstance(claim, SeatClaim):
            return denial
        now = time.monotonic()
        dead = self.holders.dead_among(answer.holders, now)
        if dead and asked.may_repeat:
            for holder in dead:
                await self._reap(claim, holder)
            return await self._once_more(asked)
        self._own.note_others(claim.key, max(claim.limit - self._own.count(claim), 0))
        self._full[claim.key] = (now + FULL_FOR, tuple(asked.ask[: denial.broken + 1]), denial)
        if len(self._full) > MAX_FULL:
            self._full.popitem(last=False)
        return denial

    async def _reap(self, claim: SeatClaim, holder: bytes) -> None:
        """Free the seats of a dead holder under one key. Raises StoreDown."""
        cursor = b"0"
        try:
            while True:
                reply = await self._do(self._keys.reap(claim, holder, cursor))
                if not isinstance(reply, bytes) or reply in (b"0", b"C"):
                    return
                cursor = reply
        except CommandError as error:
            raise StoreDown(str(error), outcome_known=True) from error

    def _repeated(self, ask: Ask, now: float) -> Denial | None:
        """What was said less than a quarter of a second ago to the same claims, up to the one that was broken."""
        if self._full:
            for claim in ask:
                said = self._full.get(claim.key)
                if said is not None and said[0] > now and tuple(ask[: len(said[1])]) == said[1]:
                    return said[2]
        return None

    # --- telling

    def release(self, grant: Grant) -> None:
        seats, grant.seats = grant.seats, ()
        for claim in seats:
            self._own.leave(claim)
            self._full.pop(claim.key, None)
        self.tell()

    def tell(self) -> None:
        if self._own.untold and not self._tell_scheduled:
            self._tell_scheduled = True
            self._loop.call_soon(self._tell_soon)

    def _tell_soon(self) -> None:
        self._tell_scheduled = False
        own = self.holders.own
        if self._is_told and own is not None:
            with suppress(StoreDown):
                self._tell_now(own)

    def _tell_now(self, own: bytes) -> None:
        """Send what is to be told; it will have been run before whatever is sent next. Raises StoreDown."""
        while self._own.untold:
            self._send(own)

    def _send(self, own: bytes) -> list[asyncio.Future[object]]:
        """Tell of some seats, in one script for each slot. Raises StoreDown."""
        taken = self._own.take_marked(SEATS_AT_ONCE)
        answers = []
        for seats in self._by_slot(taken):
            try:
                answer = self._link.call(self._keys.tell(own, self._former, seats))
            except StoreDown:
                self._own.untell(taken)  # what was sent is told twice: no harm
                raise
            self._telling.add(answer)
            answer.add_done_callback(partial(self._heard_tell, seats))
            answers.append(answer)
        return answers

    def _by_slot(self, seats: list[Seat]) -> Iterable[list[Seat]]:
        if self._keys.listing:
            return (seats,)
        slots: dict[int, list[Seat]] = {}
        for seat in seats:
            slots.setdefault(self._link.slot(self._keys.counts(seat.key)), []).append(seat)
        return slots.values()

    def _heard_tell(self, seats: list[Seat], answer: asyncio.Future[object]) -> None:
        self._telling.discard(answer)
        try:
            foreign = read_told(answer.result())
        except Unlisted:
            self._own.untell(seats)
            self.doubt()
        except (StoreDown, CommandError, asyncio.CancelledError):
            self._own.untell(seats)  # soon, by the keeper
        else:
            for index in foreign:
                self._events.conflict(seats[index].rule)
            self._own.told(seats)

    async def _tell_all(self, own: bytes) -> None:
        """Tell what there is to tell, some at a time, until nothing is left. Raises StoreDown, CommandError, Unlisted."""
        while self._own.untold:
            answers: list[asyncio.Future[object]] = []
            while self._own.untold and len(answers) < HEAL_AT_ONCE:
                answers += self._send(own)
            for answer in answers:
                read_told(await answer)
        if self._telling:
            await asyncio.wait(self._telling)

    # --- the keeper

    async def _do(self, command: Command) -> object:
        """Send a command, a second time if its script was missing. Raises StoreDown, CommandError."""
        try:
            return await self._link.call(command)
        except CommandError as error:
            if not error.missing_script:
                raise
            return await self._link.call(command)

    async def _keep(self) -> None:
        while True:
            if not self._link.is_usable:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._heal()
                await self._live()
            except Unlisted:
                self.doubt()
            except (StoreDown, CommandError) as error:
                if self._link.is_usable:
                    self._fault(str(error))
            self._first.set()
            if self.state is StoreState.DOWN:
                await asyncio.sleep(self._interval / 2)  # in case it answers, but not as it should

    async def _heal(self) -> None:
        """Be listed, tell everything, decide from then on. Raises StoreDown, CommandError, Unlisted."""
        flushed = False
        own = self.holders.own
        if own is None or self._own.overflowed or self.holders.is_overdue(time.monotonic()):
            self.doubt()
            own, flushed = await self._join()
            self._own.mark_all()
        else:
            await self._beat(own)
        if self._own.untold:
            self._enter(StoreState.HEALING, "telling it what is held here")
        await self._tell_all(own)
        if self._former:
            await self._do(self._keys.unlist(self._former))
            self._former.clear()
        self._is_told = True
        if flushed:
            await self._settle()
        if self._is_told and self._link.is_usable:
            self._enter(StoreState.UP)
            self._first.set()

    async def _join(self) -> tuple[bytes, bool]:
        """Get a new id. True if the store has forgotten those that we knew, ourselves and all others."""
        own = secrets.token_hex(8).encode()
        known = {*self._former, *self.holders.listed()}
        asked_at = time.monotonic()
        counters = self._read_listing(await self._do(self._keys.join(own)))
        self.holders.joined(own, {name: count for name, count in counters.items() if name not in self._former}, asked_at)
        return own, bool(known) and known.isdisjoint(counters)

    async def _settle(self) -> None:
        """After a flush: the others tell theirs meanwhile."""
        self._enter(StoreState.HEALING, "it has forgotten everything; the others are telling it what they hold")
        until = time.monotonic() + self._interval * (1 + 2 * JITTER)
        while self._is_told and (left := until - time.monotonic()) > 0:
            await self._sleep(left)

    async def _live(self) -> None:
        """One heartbeat after the other, while all is well. Raises StoreDown, CommandError, Unlisted."""
        while self.state is StoreState.UP and not self._own.overflowed:
            await self._sleep(self._interval * random.uniform(1 - JITTER, 1 + JITTER))
            own = self.holders.own
            if not self._is_told or own is None or self.holders.is_overdue(time.monotonic()):
                return
            self._mark_to_refresh()
            self._tell_now(own)
            await self._beat(own)
            await self._look()

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until something has changed."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _beat(self, own: bytes) -> None:
        asked_at = time.monotonic()
        counters = self._read_listing(await self._do(self._keys.beat(own)))
        for death in self.holders.heard(counters, asked_at):
            if await self._do(self._keys.bury(death.holder, death.counter)) == 1:
                self.holders.buried(death.holder)

    def _read_listing(self, reply: object) -> Mapping[bytes, int]:
        try:
            return read_listing(reply)
        except ValueError as error:
            self._events.conflict("")
            raise StoreDown("its listing of holders is not ours", outcome_known=True) from error

    async def _look(self) -> None:
        """Free what dead holders have of keys that were noticed."""
        while self._looks:
            _, claim = self._looks.popitem()
            reply = await self._do(self._keys.holders_of(claim.key))
            if isinstance(reply, list):
                for holder in self.holders.dead_among(reply, time.monotonic()):
                    await self._reap(claim, holder)

    def _mark_to_refresh(self) -> None:
        """The slow sweep: a share of the own seats is told again, which keeps their keys from expiring, and looked at."""
        if not self._refreshing:
            self._refreshing = list(self._own)
            self._refresh_rate = len(self._refreshing) * self._interval / REFRESH
        self._refresh_due = min(self._refresh_due + self._refresh_rate, len(self._refreshing))
        while self._refresh_due >= 1:
            self._refresh_due -= 1
            seat = self._refreshing.pop()
            if seat.held:
                self._own.mark(seat)
                self._look_at(SeatClaim(seat.rule, seat.key, 0, member=seat.member))
