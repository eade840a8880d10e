"""Keys that may have more seats than their limit allows: after a partition, or when an instance comes back that was taken for dead.

A refusal says that a key is full, and not how full. So a key that was refused is looked at with the next heartbeat, and with each one
after that, until it is within its limit or nobody holds any of it here: the operator hears of what is beyond it, and that it is over.
They are looked at in turn: where time is short each waits as long as the others, and one that cannot be asked keeps none of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.ledger.links.link import CommandError
from proxy.ledger.scripts import Command, Keys, read_total
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.store import SeatClaim

MAX_CROWDS: Final = 1_000  # keys that are followed

Ask = Callable[[Command], Awaitable[object]]


class Crowds:
    """What the others have of such keys is noted in `own`."""

    def __init__(self, keys: Keys, own: OwnSeats) -> None:
        self._keys = keys
        self._own = own
        self._claims: OrderedDict[bytes, SeatClaim] = OrderedDict()  # those that wait longest come first

    def __len__(self) -> int:
        return len(self._claims)

    def refused(self, claim: SeatClaim) -> None:
        """Its key has as many seats as it may have, or more: if it is followed, what was seen of it last counts, unless it is less."""
        seen = self._own.others(claim.key) if claim.key in self._claims else 0
        self._own.note_others(claim.key, max(claim.limit - self._own.granted(claim), seen, 0))
        if self._own.count(claim) and len(self._claims) < MAX_CROWDS:
            self._claims[claim.key] = claim

    async def look(self, ask: Ask, has_time: Callable[[], bool]) -> None:
        """At one in any case, and at the others while there is time. Raises what `ask` raises, but for CommandError: a key that is not ours
        is looked at no more."""
        for claim in tuple(self._claims.values()):
            self._claims.move_to_end(claim.key)
            await self._look_at(claim, ask)
            if not has_time():
                return

    async def _look_at(self, claim: SeatClaim, ask: Ask) -> None:
        try:
            total = read_total(await ask(self._keys.total(claim)))
        except (CommandError, ValueError):
            self._claims.pop(claim.key, None)
            return
        self._own.note_others(claim.key, max(0, total - self._own.granted(claim)))
        if not self._own.count(claim) or total <= claim.limit:
            self._claims.pop(claim.key, None)
