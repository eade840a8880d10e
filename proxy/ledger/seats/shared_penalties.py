"""Penalties that this instance has imposed: sent to the store as they come, and remembered here, so that they hold while it is away.

A penalty is told in absolute terms, so it may be told twice: what was not heard is told again with the next sweeps, after a doubt all
that last. Nobody waits for it. Bounded as `Penalties` is.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from proxy.ledger.links.link import CommandError, Link
from proxy.ledger.penalties import Penalties
from proxy.ledger.scripts import Keys
from proxy.ledger.store import StoreDown, StoreEvents

TOLD_AT_ONCE: Final = 128  # penalties told in one sweep: some 2 ms


class SharedPenalties:
    """Times are seconds of one clock that does not go backwards, passed in."""

    def __init__(self, link: Link, keys: Keys, events: StoreEvents) -> None:
        self._link = link
        self._keys = keys
        self._events = events
        self._known = Penalties()
        self._untold: dict[bytes, None] = {}  # of those that are known, or were a moment ago

    def __len__(self) -> int:
        return len(self._known)

    def impose(self, key: bytes, seconds: float, now: float) -> None:
        """As the contract says of `penalize`."""
        self._known.impose(key, seconds, now)
        self._tell(key, self._known.left(key, now))

    def left(self, key: bytes, now: float) -> float:
        """Seconds that are left of a penalty that was imposed here; 0 if none is."""
        return self._known.left(key, now)

    def doubt(self) -> None:
        """The store may have forgotten all of them."""
        self._untold = dict.fromkeys(self._known)

    def sweep(self, now: float) -> None:
        """Forget those that are over, and tell some of those that are not told."""
        self._known.sweep(now)
        if len(self._untold) > 2 * len(self._known) + TOLD_AT_ONCE:  # the store is away, and nobody takes any of them out
            self._untold = {key: None for key in self._untold if self._known.left(key, now)}
        for _ in range(min(TOLD_AT_ONCE, len(self._untold))):
            if not self._link.is_usable:
                return
            key = next(iter(self._untold))
            del self._untold[key]
            left = self._known.left(key, now)
            if left:
                self._tell(key, left)

    def _tell(self, key: bytes, seconds: float) -> None:
        try:
            answer = self._link.call(self._keys.penalize(key, seconds))
        except StoreDown:
            self._untold[key] = None
        else:
            answer.add_done_callback(partial(self._heard, key))

    def _heard(self, key: bytes, answer: asyncio.Future[object]) -> None:
        try:
            reply = answer.result()
        except (StoreDown, CommandError, asyncio.CancelledError):
            self._untold[key] = None
        else:
            if reply == b"C":
                self._events.conflict(key.partition(b":")[0].decode(errors="replace"))
