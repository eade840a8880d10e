"""Keeps this instance listed in the store, and the store in step with it: one task.

After every doubt (a new connection, a flush, an own standstill) it joins under a new id, has everything told, and only then lets the
store decide. The old id stays listed until all is told, so that nobody reaps what is about to move. After a flush, or where the data
is of the past, the other instances get the time of a heartbeat to tell theirs. Who has just started has seen no flush: he asks for
the mark of one, and who listens without being listed: there may be one that nobody has noticed. Then one heartbeat follows the other;
with each goes a little of the slow sweep, and of looking for the dead. Whatever takes long is done beside them.

What gives back, lists and tells works on a server without memory; only then, and before the store may decide, is it tried whether it
takes writes.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final, TypeVar

from proxy.ledger.links.link import CommandError, Link
from proxy.ledger.scripts import Command, Joined, Keys, Unlisted, read_joined, read_listing
from proxy.ledger.seats.crowds import Crowds
from proxy.ledger.seats.holders import Holders, has_settled
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.seats.slow_sweep import SlowSweep
from proxy.ledger.seats.teller import MAX_FORMER, Teller
from proxy.ledger.seats.undertaker import Undertaker
from proxy.ledger.store import StoreDown, StoreEvents, StoreState

HEARTBEAT: Final = 2.0  # seconds between heartbeats, or a fifth of the ttl if that is less
JITTER: Final = 0.1  # of the interval, either way, so that instances do not beat together
FAREWELL: Final = 1.0  # seconds to say good-bye

Read = TypeVar("Read")


class Keeper:
    """`ttl`: seconds after which a silent holder is dead."""

    def __init__(self, link: Link, keys: Keys, own: OwnSeats, ttl: float, events: StoreEvents) -> None:
        self._link = link
        self._keys = keys
        self._own = own
        self._events = events
        self._interval = min(HEARTBEAT, ttl / 5)
        self._telling_time = self._interval * (1 + 2 * JITTER)
        self._next_beat = 0.0
        self._sweep = SlowSweep(own, self._interval, time.monotonic())
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._first = asyncio.Event()
        self._doubted_at = -inf
        self._progress: asyncio.Future[None] | None = None  # of healing, for whoever waits for it
        self.holders = Holders(ttl, self._interval)
        self.crowds = Crowds(keys, own)
        self.teller = Teller(link, keys, own, events)
        self.teller.unlisted = self.not_listed
        self.undertaker = Undertaker(self.do, keys, self.holders, lambda: self.teller.former, events)
        self.doubted: Callable[[], None] = lambda: None  # what it has may be anything, until `healed`
        self.healed: Callable[[bool], None] = lambda _: None  # it is there again; argument: and has forgotten everything
        self.state = StoreState.DOWN
        self.reason = "not connected yet"
        self._is_refused = False  # it answered, and did not do what it was asked
        self._is_flushed = False  # and has not decided since
        self._patience = 0.0  # seconds that others have to tell what they hold, before it decides ...
        self._loss = ""  # ... and why, for a sentence that begins with "it"
        link.up = self._link_up
        link.down = self.fault

    async def start(self, patience: float) -> str | None:
        """Returns None as soon as the store decides; or after `patience` seconds, or the first failure, why it does not.

        If others are telling it what they hold, that is waited for too: what is decided here alone meanwhile would know nothing of them.
        """
        self._link.start()
        self._task = asyncio.get_running_loop().create_task(self._keep())
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._first.wait()
        if self.state is StoreState.HEALING:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._telling_time):
                    await self._first.wait()
        if self.state is StoreState.UP:
            return None
        return self.reason if self._first.is_set() else self._link.reason  # which looks at one node after the other, and knows more by now

    async def stop(self) -> None:
        """Give back what is held, and be listed no more."""
        await self.halt()
        with suppress(StoreDown, CommandError, TimeoutError, Unlisted, ValueError):
            async with asyncio.timeout(FAREWELL):
                own = self.holders.own
                if own is not None and self._link.is_usable:
                    await self.teller.everything(own)
                    await self.do(self._keys.unlist([own, *self.teller.former]))
        await self._link.stop()

    async def halt(self) -> None:
        """Fall silent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    # --- doubt

    def _link_up(self, anew: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        if anew:
            self.doubt()
        self._changed.set()

    def fault(self, why: str) -> None:
        """It does not answer, or not as it should. The keeper finds out when it does again."""
        self.reason = why
        self.teller.close()
        self._enter(StoreState.DOWN, why)
        self._first.set()
        self._changed.set()

    def refused(self, why: str) -> None:
        """It answered, and did not do it. Until it was tried whether it takes writes, it is not said to be back."""
        self._is_refused = True
        self.fault(why)

    def not_listed(self, holder: bytes) -> None:
        """The store does not know this id. If we have another one by now, that is no news."""
        if holder == self.holders.own:
            self.doubt()

    def doubt(self) -> None:
        """What the store has of us may be anything: nothing is asked until it was told anew."""
        self.doubted()
        own = self.holders.own
        if own is not None:
            self.teller.retire(own)
            self.holders.doubted()
        self.teller.close()
        self._doubted_at = time.monotonic()
        if self.state is StoreState.UP:
            self._enter(StoreState.HEALING, "telling it what is held here")
        self._changed.set()

    def _enter(self, state: StoreState, why: str = "") -> None:
        if state is not self.state:
            self.state = state
            self._tell_progress()
            self._events.state_changed(state, why)

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress.set_result(None)
            self._progress = None

    def _is_healing(self) -> bool:
        return self.state is StoreState.HEALING

    async def heals_by(self, until: float) -> bool:
        """Does it decide again before then (seconds of the monotonic clock), and soon after the doubt? Returns False at once where that is
        not to be expected. Whoever asks may have no task yet (server/eager.py)."""
        if not self._is_healing():
            return False
        until = min(until, self._doubted_at + self._link.timeout)
        while self._is_healing() and not self._patience and (left := until - time.monotonic()) > 0:
            if self._progress is None:
                self._progress = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._progress], timeout=left)
        return self.state is StoreState.UP

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
            except (StoreDown, CommandError, ValueError) as error:  # ValueError: an answer that is none of our scripts'
                if self._link.is_usable:
                    self.fault(str(error))
            if self.state is StoreState.DOWN:
                await asyncio.sleep(self._interval / 2)  # in case it answers, but not as it should

    async def do(self, command: Command) -> object:
        """Send a command, a second time if its script was missing. Raises StoreDown, CommandError."""
        try:
            return await self._link.call(command)
        except CommandError as error:
            if not error.missing_script:
                raise
            return await self._link.call(command)

    # --- healing

    async def _heal(self) -> None:
        """Be listed, tell everything, let it decide from then on. Raises StoreDown, CommandError, Unlisted."""
        own = self.holders.own
        if own is None or self._own.overflowed or self.holders.is_overdue(time.monotonic()):
            self.doubt()
            self._own.overflowed = False  # the new id makes up for it; whatever is forgotten meanwhile sets it again
            own = await self._join()
            self._own.mark_all()
        else:
            await self._beat(own)
            self._sweep.rest(time.monotonic())
        if not self._is_refused:
            self.healed(self._is_flushed)
            if self._own.untold:
                self._enter(StoreState.HEALING, "telling it what is held here")
        await self._beside_heartbeats(own, self._tell_everything(own), lambda: self.holders.own == own)

    async def _tell_everything(self, own: bytes) -> None:
        await self.teller.everything(own)
        if self.holders.own != own:
            return  # a doubt meanwhile: what was told under this id must still move
        await self._forget_former()
        await self._probe()
        if self.holders.own != own:
            return
        self.teller.open(own)
        if self._patience:
            await self._settle(self._patience)
        if self.teller.is_open and self._link.is_usable:
            self._is_flushed = False
            self._patience = 0.0
            self._enter(StoreState.UP)
            self._first.set()

    async def _join(self) -> bytes:
        """Get a new id. Notes whether the store has forgotten all whom we knew, and how long others are to be waited for."""
        own = secrets.token_hex(8).encode()
        known = {*self.teller.former, *self.holders.listed()}
        asked_at = self._beat_sent()
        joined = self._judged(read_joined, await self.do(self._keys.join(own, known)))
        self._note_loss(joined, known)
        former = self.teller.former = [*self._returned(joined), *self.teller.former][-MAX_FORMER:]  # what is told moves from there too
        self.holders.joined(own, {name: count for name, count in joined.counters.items() if name not in former}, asked_at)
        return own

    def _note_loss(self, joined: Joined, known: Collection[bytes]) -> None:
        """`known`: holders of before, ourselves among them."""
        if not known:
            self._loss = "may have forgotten everything"
            self._patience = self._still_telling(joined)
        elif joined.counters.keys().isdisjoint(known):
            self._is_flushed = True
            self._loss = "has forgotten everything"
            if self.holders.listed() or self._returned(joined) or not has_settled(joined.counters):
                self._patience = self._telling_time  # else nobody is missed: it is we who were taken for dead
        elif self.holders.is_of_the_past(joined.counters):
            self._loss = "has come back with data of the past"
            self._patience = self._telling_time

    def _returned(self, joined: Joined) -> list[bytes]:
        """Own ids that were taken off the listing long ago, and are there again: with data of the past."""
        return [old for old in self.holders.former if old in joined.counters and old not in self.teller.former]

    def _still_telling(self, joined: Joined) -> float:
        """Seconds that others may need to tell what they hold, for all that is known to one who knew nobody.

        A loss that was noticed has a mark. One that was not has left instances that listen and are not listed; but so does a machine that
        lost its power, and then nothing is lost. So this one claims nothing: whoever was forgotten says so himself, a heartbeat later.
        """
        if joined.lost_for is not None:
            return max(0.0, self._telling_time - joined.lost_for)
        are_missed = 0 in joined.counters.values()  # whoever comes first finds more listeners than holders: lua/join.lua
        return self._telling_time if are_missed and not has_settled(joined.counters) else 0.0

    async def _probe(self) -> None:
        """Does it take writes? Raises StoreDown, CommandError."""
        try:
            await self.do(self._keys.probe())
        except CommandError:
            self._is_refused = True
            raise
        if self._is_refused:
            self._is_refused = False
            self.healed(self._is_flushed)

    async def _forget_former(self) -> None:
        former = list(self.teller.former)
        if former:
            await self.do(self._keys.unlist(former))
            self.teller.former = [one for one in self.teller.former if one not in former]

    async def _settle(self, seconds: float) -> None:
        """After a loss of data, or what may be one: the others tell theirs meanwhile."""
        self._enter(StoreState.HEALING, f"it {self._loss}; the others are telling it what they hold")
        self._tell_progress()  # it takes longer than anybody waits
        until = time.monotonic() + seconds
        while self.teller.is_open and (left := until - time.monotonic()) > 0:
            await self._sleep(left)

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until something has changed."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    # --- the heartbeat

    async def _live(self) -> None:
        """One heartbeat after the other, while all is well. Raises StoreDown, CommandError, Unlisted."""
        while self.state is StoreState.UP and not self._own.overflowed:
            await self._sleep(self._until_beat())
            own = self.holders.own
            if not self.teller.is_open or own is None or self.holders.is_overdue(time.monotonic()):
                return
            for claim in self._sweep.sweep(time.monotonic()):
                self.undertaker.look_at(claim)
            await self._tick(own)
            if self.undertaker.has_looks or self.crowds:
                await self._beside_heartbeats(own, self._look(), lambda: self.teller.is_open)

    async def _look(self) -> None:
        """At keys that may hold what is dead, or too much."""
        with self._lateness():
            await self.undertaker.look(self._interval / 4)
        until = time.monotonic() + self._interval / 4
        with self._lateness():
            await self.crowds.look(self.do, lambda: time.monotonic() < until)

    async def _beside_heartbeats(self, own: bytes, work: Coroutine[object, None, None], is_wanted: Callable[[], bool]) -> None:
        """Go on being heard while this is done, however long it takes. As soon as it is not wanted any more it ends.

        Raises what it raises, and StoreDown, CommandError, Unlisted.
        """
        working = asyncio.get_running_loop().create_task(work)
        working.add_done_callback(lambda _: self._changed.set())
        try:
            while is_wanted():
                if working.done():
                    return working.result()
                if (left := self._until_beat()) > 0:
                    await self._sleep(left)
                elif self.holders.is_overdue(time.monotonic()):
                    self.doubt()
                else:
                    await self._tick(own)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _tick(self, own: bytes) -> None:
        """Tell what was not heard, and be heard. Raises StoreDown, CommandError, Unlisted."""
        with self._lateness():
            self.teller.now()
        with self._lateness():
            await self._beat(own)  # also where nothing could be told: who is not heard for long is dead

    @contextmanager
    def _lateness(self) -> Iterator[None]:
        """One answer that is late is no outage; there are several heartbeats to a ttl."""
        try:
            yield
        except StoreDown:
            if not self._link.is_usable:
                raise

    async def _beat(self, own: bytes) -> None:
        asked_at = self._beat_sent()
        counters = self._judged(read_listing, await self.do(self._keys.beat(own)))
        await self.undertaker.bury(self.holders.heard(counters, asked_at, self.teller.former))
        for former in list(self.teller.former):  # whose seats still move: others would free them
            await self.do(self._keys.beat(former))

    def _beat_sent(self) -> float:
        """Returns the time."""
        now = time.monotonic()
        self._next_beat = now + self._interval * random.uniform(1 - JITTER, 1 + JITTER)
        return now

    def _until_beat(self) -> float:
        return max(0.0, self._next_beat - time.monotonic())

    def _judged(self, read: Callable[[object], Read], reply: object) -> Read:
        try:
            return read(reply)
        except ValueError as error:
            self._events.conflict("")
            raise CommandError("its listing of holders is not ours") from error
