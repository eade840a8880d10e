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
from proxy.ledger.store import SeatClaim, StoreEvents

MAX_LOOKS: Final = 1_000  # keys that are to be looked at for dead holders


class Undertaker:
    """`do` sends a command, and raises StoreDown or CommandError. `moving`: own ids of before, whose seats are ours until they have moved."""

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

    async def look(self, seconds: float) -> None:
        """At the keys that are to be looked at now, one by one, for about so long. Raises StoreDown, CommandError.

        What is left waits for the next heartbeat, and those that come meanwhile are behind it. A doubt ends it.
        """
        own, until = self._holders.own, time.monotonic() + seconds
        for _ in range(len(self._looks)):
            await self._look(self._looks.pop(next(iter(self._looks))))
            if self._holders.own != own or time.monotonic() >= until:
                return

    async def _look(self, claim: SeatClaim) -> None:
        try:
            holders = read_holders(await self._do(self._keys.holders_of(claim.key)))
        except CommandError as error:
            if not error.wrong_type:
                raise
            self._events.conflict(claim.rule)
        except ValueError:
            self._events.conflict(claim.rule)
        else:
            await self.reap(claim, self.dead_among(holders))

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
