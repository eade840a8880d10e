"""Keys that may have more seats than their limit allows: after a partition, or when an instance comes back that was taken for dead.

A refusal says that a key is full, and not how full. So a key that was refused is looked at with the next heartbeat, and with each one
after that, until it is within its limit or nobody holds any of it here: the operator hears of what is beyond it, and that it is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from proxy.ledger.links.link import CommandError
from proxy.ledger.scripts import Command, Keys, read_total
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.store import SeatClaim

MAX_CROWDS: Final = 1_000  # keys that are looked at with a heartbeat

Ask = Callable[[Command], Awaitable[object]]


class Crowds:
    """What the others have of such keys is noted in `own`."""

    def __init__(self, keys: Keys, own: OwnSeats) -> None:
        self._keys = keys
        self._own = own
        self._claims: dict[bytes, SeatClaim] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def refused(self, claim: SeatClaim) -> None:
        """Its key has as many seats as it may have, or more."""
        if self._own.count(claim) and len(self._claims) < MAX_CROWDS:
            self._claims[claim.key] = claim

    async def look(self, ask: Ask) -> None:
        """Raises what `ask` raises, but for CommandError: a key that is not ours is looked at no more."""
        for claim in tuple(self._claims.values()):
            await self._look_at(claim, ask)

    async def _look_at(self, claim: SeatClaim, ask: Ask) -> None:
        try:
            total = read_total(await ask(self._keys.total(claim)))
        except (CommandError, ValueError):
            self._claims.pop(claim.key, None)
            return
        here = self._own.count(claim)
        self._own.note_others(claim.key, max(0, total - here))
        if not here or total <= claim.limit:
            self._claims.pop(claim.key, None)
