"""Frees what the dead have left: declares deaths, and gives the seats of dead holders back.

Mostly they are freed when they are in the way, by whoever was refused for them. What is in nobody's way, or takes longer than anybody
waits, is looked at after a heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from proxy.ledger.links.link import CommandError
from proxy.ledger.scripts import Command, Keys, read_holders
from proxy.ledger.seats.holders import Death, Holders
from proxy.ledger.store import SeatClaim, StoreDown, StoreEvents

MAX_LOOKS: Final = 1_000  # keys that are to be looked at for dead holders
REAPED_AT_ONCE: Final = 64  # dead holders of one key: as many scripts, some 2 ms of the loop


class Undertaker:
    """`do` sends a command, and raises StoreDown or CommandError. `moving`: own ids of before, whose seats are still ours."""

    def __init__(
        self,
        do: Callable[[Command], Awaitable[object]],
        keys: Keys,
        holders: Holders,
        moving: Callable[[], Collection[bytes]],
        events: StoreEvents,
    ) -> None:
        self._do = do
        self._keys = keys
        self._holders = holders
        self._moving = moving
        self._events = events
        self._looks: dict[bytes, SeatClaim] = {}
        self._told: set[bytes] = set()  # keys of those of which it was told that they hold what is not ours
        self._reaping: dict[tuple[bytes, bytes], asyncio.Lock] = {}

    async def bury(self, deaths: Iterable[Death]) -> None:
        """Declare them, of those who have not moved since. Raises StoreDown, CommandError."""
        for death in deaths:
            if await self._do(self._keys.bury(death.holder, death.counter)) == 1:
                self._holders.buried(death.holder)

    def dead_among(self, holders: Iterable[bytes]) -> list[bytes]:
        """Those of the holders of a key whose seats are nobody's. An id that was ours a moment ago is none of them."""
        moving = self._moving()
        return [holder for holder in self._holders.dead_among(holders, time.monotonic()) if holder not in moving]

    @property
    def has_looks(self) -> bool:
        return bool(self._looks)

    def look_at(self, claim: SeatClaim) -> None:
        """With the next heartbeat, free what dead holders have of this key."""
        if len(self._looks) < MAX_LOOKS:
            self._looks[claim.key] = claim

    def look_beyond(self, claim: SeatClaim) -> None:
        """The same for a key that was refused as not ours, which was told: those of it may be ours who died, and too many to be counted."""
        self.look_at(claim)
        if claim.key in self._looks:
            self._told.add(claim.key)

    async def look(self, seconds: float) -> None:
        """At the keys that are to be looked at now, one by one, for about so long. Raises StoreDown, CommandError.

        What is left waits for the next heartbeat, and those that come meanwhile are behind it. One that is not answered waits behind all.
        A doubt ends it.
        """
        own, until = self._holders.own, time.monotonic() + seconds
        for _ in range(len(self._looks)):
            claim = self._looks.pop(next(iter(self._looks)))
            is_told = claim.key in self._told
            self._told.discard(claim.key)
            try:
                await self._look(claim, is_told=is_told)
            except (StoreDown, asyncio.CancelledError):
                (self.look_beyond if is_told else self.look_at)(claim)
                raise
            if self._holders.own != own or time.monotonic() >= until:
                return

    async def _look(self, claim: SeatClaim, *, is_told: bool) -> None:
        try:
            holders = read_holders(await self._do(self._keys.holders_of(claim.key)))
        except (CommandError, ValueError) as error:
            if isinstance(error, CommandError) and not error.wrong_type:
                raise
            if not is_told:
                self._events.conflict(claim.rule)
            return
        dead = self.dead_among(holders)
        for start in range(0, len(dead), REAPED_AT_ONCE):
            await self.reap(claim, dead[start : start + REAPED_AT_ONCE])

    async def reap(self, claim: SeatClaim, dead: list[bytes]) -> None:
        """Free the seats of dead holders under one key, some at a time. Raises StoreDown, CommandError.

        If that is under way already, it is waited for: a crowd that was thrown out by a crash comes back all at once.
        """
        await asyncio.gather(*(self._reap_once(claim, holder) for holder in dead))

    async def _reap_once(self, claim: SeatClaim, holder: bytes) -> None:
        lock = self._reaping.setdefault((claim.key, holder), asyncio.Lock())
        first = not lock.locked()
        try:
            async with lock:
                if first:
                    await self._reap(claim, holder)
        finally:
            if first:
                self._reaping.pop((claim.key, holder), None)

    async def _reap(self, claim: SeatClaim, holder: bytes) -> None:
        cursor = b"0"
        while True:
            reply = await self._do(self._keys.reap(claim, holder, cursor))
            if reply == b"C":
                self._events.conflict(claim.rule)
            if not isinstance(reply, bytes) or reply in (b"0", b"C"):
                return
            cursor = reply
