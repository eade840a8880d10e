"""The shared store as the gate uses it: while it decides, it decides; while it does not, this instance does as it was told to.

`local`: a limit less what others were last seen to hold, and never less than what lives here. `open`: everybody comes in. `closed`:
nobody does. What is held is never touched. Rates of frames go on by themselves (`redis_rates`). Of an upgrade rate this instance takes
its share while the store is away, one of so many as were last listed. Penalties that were imposed here hold whatever is configured.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import cycle
from typing import Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.links.cluster_link import ClusterLink
from proxy.ledger.links.link import Link, Locate
from proxy.ledger.links.redis_link import RedisLink
from proxy.ledger.links.sentinels import Sentinels
from proxy.ledger.links.subscription import Subscription
from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.rates.leased_bucket import LeasedBucket
from proxy.ledger.rates.redis_rates import RedisRates
from proxy.ledger.rates.rent import RentCommands
from proxy.ledger.rates.rent_link import RentLink
from proxy.ledger.scripts import Keys
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.seats.redis_store import Asked, RedisStore
from proxy.ledger.store import Ask, Denial, Grant, PenaltyClaim, SeatClaim, StoreDown, StoreEvents, StoreState, TokenClaim
from proxy.ledger.token_bucket import TokenBucket

START_PATIENCE: Final = 2.0  # seconds until the gate opens without the store


class OnStoreDown(Enum):
    """What becomes of upgrades while the shared store does not decide."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What an operator says about a shared store. `timeout` and `holder_ttl` in seconds."""

    address: StoreAddress
    prefix: str = "wsgate:"
    timeout: float = 0.2
    holder_ttl: float = 15.0
    on_store_down: OnStoreDown = OnStoreDown.LOCAL


def open_store(options: StoreOptions, events: StoreEvents) -> FallbackStore:
    """A store to be started. Nothing is connected yet."""
    own = OwnSeats()
    address = options.address
    link = _open_link(options, events)
    keys = Keys(options.prefix, listed=address.topology is not Topology.CLUSTER, database=address.database)
    shared = RedisStore(link, keys, own, options.holder_ttl, events)
    commands = RentCommands(options.prefix, secrets.token_hex(8).encode(), keys.listing, keys.channels)
    rents = RentLink(link, commands, events)
    rates = RedisRates(rents, options.timeout, lambda: 1 + len(shared.keeper.holders.listed()))
    subscription = Subscription(address, _locator(address), commands.channel, rates.hear, rates.listening, events.deaf)

    def healed(lost_data: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        rates.healed(lost_data)
        subscription.start()  # never before we are listed: see lua/join.lua

    def down(why: str) -> None:
        rates.lost()
        shared.keeper.fault(why)

    link.down = down
    shared.keeper.doubted, shared.keeper.healed = rates.doubted, healed
    rents.holder, rents.not_listed = lambda: shared.keeper.holders.own or b"", shared.keeper.not_listed
    return FallbackStore(shared, own, options.on_store_down, rates, subscription)


def _open_link(options: StoreOptions, events: StoreEvents) -> Link:
    address = options.address
    if address.topology is Topology.CLUSTER:
        return ClusterLink(address, options.timeout, events)
    return RedisLink(address, _locator(address), options.timeout, events)


def _locator(address: StoreAddress) -> Locate:
    """Where one connection goes: to the master; of a Cluster to one node after the other, since any of them carries all messages."""
    if address.topology is Topology.SENTINEL:
        return Sentinels(address).locate
    return partial(_next, cycle(address.endpoints))


async def _next(endpoints: Iterator[Endpoint]) -> Endpoint:
    return next(endpoints)


class FallbackStore:
    """A SharedStore. `own` is the same table as the shared store's."""

    def __init__(
        self,
        shared: RedisStore,
        own: OwnSeats,
        on_store_down: OnStoreDown,
        rates: RedisRates,
        subscription: Subscription,
    ) -> None:
        self._shared = shared
        self._own = own
        self._on_store_down = on_store_down
        self._shared_rates = rates
        self._subscription = subscription
        self._rates = MemoryStore()

    @property
    def state(self) -> StoreState:
        return self._shared.state

    async def start(self) -> str | None:
        return await self._shared.keeper.start(START_PATIENCE)

    async def stop(self) -> None:
        await self._subscription.stop()
        await self._shared_rates.stop()
        await self._shared.keeper.stop()

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        """As the contract says; raises StoreDown only if nobody is to be admitted without the shared store."""
        if len(self._shared.penalties):
            asks = [self._with_penalties(ask, now) for ask in asks]
        until = time.monotonic() + self._shared.timeout
        begun = [self._begin(ask, now) for ask in asks]
        decided: list[Grant | Denial] = []
        try:
            for ask, asked in zip(asks, begun, strict=True):
                decided.append(await self._finish(ask, asked, now, until))
        except BaseException:
            self._undo(decided, begun[len(decided) + 1 :])
            raise
        return decided

    def _with_penalties(self, ask: Ask, now: float) -> Ask:
        """What this instance knows of penalties goes with the question, and counts also while nobody can be asked."""
        left = self._shared.penalties.left
        return [replace(claim, left=max(claim.left, left(claim.key, now))) if isinstance(claim, PenaltyClaim) else claim for claim in ask]

    def _begin(self, ask: Ask, now: float) -> Asked | Denial | None:
        try:
            return self._shared.begin(ask, now)
        except StoreDown:
            return None

    async def _finish(self, ask: Ask, asked: Asked | Denial | None, now: float, until: float) -> Grant | Denial:
        if asked is not None:
            try:
                return await self._shared.finish(asked)
            except StoreDown:
                pass
        answer = await self._ask_when_healed(ask, now, until)
        if answer is not None:
            return answer
        if self._on_store_down is OnStoreDown.CLOSED:
            raise StoreDown("the store is away", outcome_known=True)
        return self._decide_alone(ask, now)

    async def _ask_when_healed(self, ask: Ask, now: float, until: float) -> Grant | Denial | None:
        """After a doubt the store is told what is held here and decides again, mostly within a round trip or two: so it is asked then.

        What is decided alone meanwhile would know nothing of the others: a process that was frozen finds all who knocked meanwhile.
        """
        if not await self._shared.keeper.heals_by(until):
            return None
        asked = self._begin(ask, now)
        if asked is None:
            return None
        try:
            async with asyncio.timeout(until - time.monotonic()):
                return await self._shared.finish(asked)
        except (StoreDown, TimeoutError):
            return None

    def _undo(self, decided: list[Grant | Denial], begun: list[Asked | Denial | None]) -> None:
        for answer in decided:
            if isinstance(answer, Grant):
                self.release(answer)
        for asked in begun:
            if isinstance(asked, Asked):
                self._shared.abandon(asked)

    def _decide_alone(self, ask: Ask, now: float) -> Grant | Denial:
        over: list[int] = []
        for index, claim in enumerate(ask):
            if isinstance(claim, PenaltyClaim):
                if claim.left > 0:
                    return Denial(index, claim.left, tuple(over))
            elif self._on_store_down is OnStoreDown.LOCAL:
                fits, retry_after = self._fits(claim, now)
                if not fits:
                    if not claim.shadow:
                        return Denial(index, retry_after, tuple(over))
                    over.append(index)
        seats = tuple(claim for claim in ask if isinstance(claim, SeatClaim))
        for claim in seats:
            self._own.take_alone(claim)
        for claim in ask:
            if isinstance(claim, TokenClaim):
                self._shared.levels.take_alone(claim, self._sharers(), now)
        self._shared.changed()
        return Grant(seats, tuple(over))

    def _fits(self, claim: SeatClaim | TokenClaim, now: float) -> tuple[bool, float | None]:
        if isinstance(claim, SeatClaim):
            return self._own.has_room(claim), None
        wait = self._shared.levels.wait_alone(claim, self._sharers(), now)
        return wait == 0, wait

    def _sharers(self) -> int:
        """Instances that were last listed, this one among them."""
        return 1 + len(self._shared.keeper.holders.listed())

    def release(self, grant: Grant) -> None:
        self._shared.release(grant)

    def open_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        if rate > 0:
            return self._shared_rates.open_bucket(key, rate, burst)
        return self.open_own_bucket(key, rate, burst, now)  # nothing is the same on all instances

    def open_own_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        return self._rates.open_bucket(key, rate, burst, now)

    def close_bucket(self, key: bytes, bucket: TokenBucket) -> None:
        if isinstance(bucket, LeasedBucket):
            self._shared_rates.close_bucket(bucket)
        else:
            self._rates.close_bucket(key, bucket)

    def penalize(self, key: bytes, seconds: float, now: float) -> None:
        self._shared.penalties.impose(key, seconds, now)

    def seats(self) -> Mapping[str, int]:
        return self._own.by_rule()

    def others(self, key: bytes) -> int:
        """Seats of a key that other instances were last seen to hold; what is not remembered counts as none."""
        return self._own.others(key)

    def sweep(self, now: float) -> None:
        self._rates.sweep(now)
        self._shared_rates.sweep(now)
        self._shared.sweep(now)

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._own) + len(self._rates) + len(self._shared_rates) + len(self._shared.levels) + len(self._shared.penalties)
