"""Seats and tokens of one instance, in its memory.

Nothing here awaits between looking and taking, so the event loop's turn is the lock. Memory is bounded: a seat table entry goes
with its last seat; a bucket goes when nobody holds it open and it is full again, which a heap ordered by that time finds without
scanning. Buckets that nobody holds are bounded in number as well: beyond `max_idle_buckets` those nearest to being full go first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush, heapreplace
from typing import Final

from proxy.ledger.penalties import Penalties
from proxy.ledger.store import Ask, Denial, Grant, PenaltyClaim, SeatClaim, TokenClaim
from proxy.ledger.token_bucket import TokenBucket

MAX_IDLE_BUCKETS: Final = 1_000_000
SWEEP_BATCH: Final = 10_000  # buckets looked at in one sweep: some 5 ms
EVICT_LOOKS: Final = 100  # buckets looked at to find the one nearest to being full
AMORTISED: Final = 4  # buckets looked at at every admission and whenever one is opened

_Idle = tuple[float, bytes]
"""(when the bucket is full again, its key)"""


class MemoryStore:
    """The Store contract within one process. `max_idle_buckets` bounds what clients that left can make it remember."""

    def __init__(self, max_idle_buckets: int = MAX_IDLE_BUCKETS) -> None:
        self._counts: dict[bytes, int] = {}
        self._members: dict[bytes, dict[bytes, int]] = {}  # key -> member -> connections
        self._seats: dict[str, int] = {}
        self._buckets: dict[bytes, TokenBucket] = {}
        self._idle: list[_Idle] = []
        self._max_idle = max_idle_buckets
        self._penalties = Penalties()

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        self._forget_full(now)
        return [self._decide(ask, now) for ask in asks]

    def _decide(self, ask: Ask, now: float) -> Grant | Denial:
        over: list[int] = []
        for index, claim in enumerate(ask):
            if isinstance(claim, SeatClaim):
                broken = not self._has_room(claim)
                retry_after = None
            elif isinstance(claim, PenaltyClaim):
                retry_after = max(claim.left, self._penalties.left(claim.key, now))
                if retry_after:
                    return Denial(index, retry_after, tuple(over))
                continue
            else:
                wait = self._bucket(claim.key, claim.rate, claim.burst, now).wait(1.0, now)
                broken = wait > 0
                retry_after = wait
            if broken:
                if not claim.shadow:
                    return Denial(index, retry_after, tuple(over))
                over.append(index)
        seats = []
        for claim in ask:
            if isinstance(claim, SeatClaim):
                self._sit(claim)
                seats.append(claim)
            elif isinstance(claim, TokenClaim):
                self._spend(claim, now)
        return Grant(tuple(seats), tuple(over))

    def _has_room(self, claim: SeatClaim) -> bool:
        if claim.member is None:
            return self._counts.get(claim.key, 0) < claim.limit
        members = self._members.get(claim.key, {})
        return claim.member in members or len(members) < claim.limit

    def _sit(self, claim: SeatClaim) -> None:
        if claim.member is None:
            self._counts[claim.key] = self._counts.get(claim.key, 0) + 1
        else:
            members = self._members.setdefault(claim.key, {})
            members[claim.member] = members.get(claim.member, 0) + 1
            if members[claim.member] > 1:
                return
        self._seats[claim.rule] = self._seats.get(claim.rule, 0) + 1

    def release(self, grant: Grant) -> None:
        seats, grant.seats = grant.seats, ()
        for claim in seats:
            if claim.member is None:
                left = self._counts[claim.key] - 1
                if left:
                    self._counts[claim.key] = left
                else:
                    del self._counts[claim.key]
            elif not self._leave(claim.key, claim.member):
                continue
            self._seats[claim.rule] -= 1

    def _leave(self, key: bytes, member: bytes) -> bool:
        """One connection of a member goes; True if it was the last and the seat is free."""
        members = self._members[key]
        members[member] -= 1
        if members[member]:
            return False
        del members[member]
        if not members:
            del self._members[key]
        return True

    def _spend(self, claim: TokenClaim, now: float) -> None:
        """Take a token if there is one (a shadow claim may find none), and remember the bucket until it is full again."""
        bucket = self._bucket(claim.key, claim.rate, claim.burst, now)
        bucket.take(1.0, now)
        self._rest(claim.key, bucket)

    def _bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        """The bucket of a key; a new one is not in the table before it is spent from or held open."""
        return self._buckets.get(key) or TokenBucket(rate, burst, now)

    def open_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        self._forget_full(now)
        bucket = self._buckets[key] = self._bucket(key, rate, burst, now)
        bucket.users += 1
        return bucket

    def open_own_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        return self.open_bucket(key, rate, burst, now)

    def close_bucket(self, key: bytes, bucket: TokenBucket) -> None:
        bucket.users -= 1
        self._rest(key, bucket)

    def _rest(self, key: bytes, bucket: TokenBucket) -> None:
        """Nobody may be using this bucket: line it up for being forgotten, once."""
        self._buckets[key] = bucket
        if bucket.users or bucket.queued:
            return
        bucket.queued = True
        heappush(self._idle, (bucket.full_at(), key))
        if len(self._idle) > self._max_idle:
            self._evict()

    def _evict(self) -> None:
        """Too many: the one nearest to being full goes, and with it the least of what was remembered.

        A bucket that was spent from since it was lined up goes back into the line, unless that would take too long.
        """
        idle = self._idle
        for _ in range(EVICT_LOOKS):
            lined_up, key = idle[0]
            bucket = self._buckets[key]
            full_at = bucket.full_at()
            if bucket.users or full_at <= lined_up:
                break
            heapreplace(idle, (full_at, key))
        self._forget_first()

    def _forget_full(self, now: float, most: int = AMORTISED) -> None:
        idle = self._idle
        while idle and most and idle[0][0] <= now:
            most -= 1
            _, key = idle[0]
            bucket = self._buckets[key]
            full_at = bucket.full_at()
            if not bucket.users and full_at > now:
                heapreplace(idle, (full_at, key))  # it was spent from since it was lined up
                continue
            self._forget_first()

    def _forget_first(self) -> None:
        """The first in line is in line no more, and forgotten unless somebody holds it open."""
        _, key = heappop(self._idle)
        bucket = self._buckets[key]
        bucket.queued = False
        if not bucket.users:
            del self._buckets[key]

    def penalize(self, key: bytes, seconds: float, now: float) -> None:
        self._penalties.impose(key, seconds, now)

    def seats(self) -> Mapping[str, int]:
        return self._seats

    def sweep(self, now: float) -> None:
        self._forget_full(now, SWEEP_BATCH)
        self._penalties.sweep(now)

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._counts) + len(self._members) + len(self._buckets) + len(self._penalties)
