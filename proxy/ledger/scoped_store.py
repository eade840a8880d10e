"""What is shared and what is not: claims of rules with `scope: instance` are decided here, all others by the shared store.

Still all claims of an ask or none. Our own are decided first; if the shared store then says no, or is not there to say anything, they are
given back to the last token. If one of our own is broken, the shared store is asked for the claims before it and for one that is broken
for sure, so that it says which is the first and takes nothing. With none before it nobody is asked.

What an ask has of our own while the shared store decides may come back. Whoever is refused for want of it waits for that a little, and
is decided again: as if one came after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Final

from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.store import Ask, Claim, Denial, Grant, PenaltyClaim, Store, StoreDown, TokenClaim
from proxy.ledger.token_bucket import TokenBucket

PATIENCE: Final = 0.05  # seconds that a refusal of our own waits for what others may give back: a hundred round trips


class ScopedStore:
    """A Store. `own_rules`: names of the rules that count on this instance alone."""

    def __init__(self, own: MemoryStore, shared: Store, own_rules: Collection[str]) -> None:
        self._own = own
        self._shared = shared
        self._own_rules = frozenset(own_rules)
        self._undecided: dict[bytes, set[asyncio.Future[None]]] = {}  # own key -> asks that have some of it, and may give it back

    def _is_own(self, claim: Claim) -> bool:
        return claim.rule in self._own_rules

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        if not any(self._is_own(claim) for ask in asks for claim in ask):
            return await self._shared.admit(asks, now)
        decided: list[Grant | Denial] = []
        try:
            for ask in asks:
                decided.append(await self._decide(ask, now))  # noqa: PERF401 -- those before an error must be known
        except BaseException:
            for answer in decided:
                if isinstance(answer, Grant):
                    self.release(answer)
            raise
        return decided

    async def _decide(self, ask: Ask, now: float) -> Grant | Denial:
        here = [index for index, claim in enumerate(ask) if self._is_own(claim)]
        there = [index for index, claim in enumerate(ask) if not self._is_own(claim)]
        ours = await self._decide_own([ask[index] for index in here], now)
        if isinstance(ours, Denial):
            return await self._first_broken(ask, _renumbered(ours, here), now)
        over = [here[index] for index in ours.over]
        if not there:
            return Grant(ours.seats, tuple(over))
        taken = [claim for index, claim in enumerate(ask) if index in here and index not in over]
        with self._until_decided(taken):
            try:
                (theirs,) = await self._shared.admit([[ask[index] for index in there]], now)
            except BaseException:
                self._give_back(ours, taken, now)
                raise
            if isinstance(theirs, Denial):
                self._give_back(ours, taken, now)
        if isinstance(theirs, Denial):
            broken = there[theirs.broken]
            before = [index for index in (*over, *(there[index] for index in theirs.over)) if index < broken]
            return Denial(broken, theirs.retry_after, tuple(sorted(before)))
        over += (there[index] for index in theirs.over)
        return Grant(ours.seats + theirs.seats, tuple(sorted(over)))

    async def _decide_own(self, ask: Ask, now: float) -> Grant | Denial:
        """Our own claims; where one is broken because of asks that are not decided yet, once more when they are.

        Whoever asks may have no task yet (server/eager.py), so there is no `asyncio.timeout` here.
        """
        (answer,) = await self._own.admit([ask], now)
        until = time.monotonic() + PATIENCE
        while isinstance(answer, Denial) and (undecided := self._undecided.get(ask[answer.broken].key)):
            left = until - time.monotonic()
            if left <= 0:
                break
            await asyncio.wait(undecided, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            (answer,) = await self._own.admit([ask], now)
        return answer

    @contextmanager
    def _until_decided(self, taken: Sequence[Claim]) -> Iterator[None]:
        """What an ask has taken of our own may come back meanwhile."""
        over = asyncio.get_running_loop().create_future()
        for claim in taken:
            self._undecided.setdefault(claim.key, set()).add(over)
        try:
            yield
        finally:
            over.set_result(None)
            for claim in taken:
                undecided = self._undecided[claim.key]
                undecided.discard(over)
                if not undecided:
                    del self._undecided[claim.key]

    async def _first_broken(self, ask: Ask, ours: Denial, now: float) -> Denial:
        """One of our own claims is broken: is one of the others before it broken too?"""
        there = [index for index, claim in enumerate(ask[: ours.broken]) if not self._is_own(claim)]
        if not there:
            return ours
        stop = ask[ours.broken]
        try:
            (theirs,) = await self._shared.admit([[*(ask[index] for index in there), PenaltyClaim(stop.rule, stop.key, inf)]], now)
        except StoreDown:
            return ours  # nobody can say, and whoever asked is refused anyway
        assert isinstance(theirs, Denial), "a claim that is broken for sure was granted"
        there.append(ours.broken)
        theirs = _renumbered(theirs, there)
        over = tuple(sorted(index for index in (*ours.over, *theirs.over) if index < theirs.broken))
        return Denial(theirs.broken, ours.retry_after if theirs.broken == ours.broken else theirs.retry_after, over)

    def _give_back(self, grant: Grant, taken: Sequence[Claim], now: float) -> None:
        """As if it had never been asked for."""
        self._own.release(grant)
        for claim in taken:
            if isinstance(claim, TokenClaim):
                bucket = self._own.open_bucket(claim.key, claim.rate, claim.burst, now)
                bucket.level = min(bucket.burst, bucket.level + 1.0)
                self._own.close_bucket(claim.key, bucket)

    def release(self, grant: Grant) -> None:
        seats, grant.seats = grant.seats, ()
        self._own.release(Grant(tuple(claim for claim in seats if self._is_own(claim)), ()))
        self._shared.release(Grant(tuple(claim for claim in seats if not self._is_own(claim)), ()))

    def _of_key(self, key: bytes) -> Store:
        """Keys begin with the name of their rule and a colon."""
        return self._own if key.partition(b":")[0].decode() in self._own_rules else self._shared

    def open_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        return self._of_key(key).open_bucket(key, rate, burst, now)

    def open_own_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        return self._of_key(key).open_own_bucket(key, rate, burst, now)

    def close_bucket(self, key: bytes, bucket: TokenBucket) -> None:
        self._of_key(key).close_bucket(key, bucket)

    def penalize(self, key: bytes, seconds: float, now: float) -> None:
        self._of_key(key).penalize(key, seconds, now)

    def seats(self) -> Mapping[str, int]:
        return {**self._shared.seats(), **self._own.seats()}

    def sweep(self, now: float) -> None:
        self._own.sweep(now)
        self._shared.sweep(now)


def _renumbered(denial: Denial, indexes: Sequence[int]) -> Denial:
    """The indexes of a part of an ask, as those of the whole."""
    return Denial(indexes[denial.broken], denial.retry_after, tuple(indexes[index] for index in denial.over))
