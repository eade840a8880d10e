"""The contract of a store: seats and tokens under keys, granted all at once or not at all.

A key is opaque bytes: the name of a rule, a colon, and a digest of whom it is about. A store knows neither rules nor principals.
Times are seconds of the instance's monotonic clock, passed in as `now`. A missing key holds no seats and has a full bucket.

- Claims of one ask are granted together or not at all, and a denial changes nothing. The first broken claim in order is named.
- A claim with `shadow` set takes its seat or token beyond the limit where it must, and never denies; it is reported in `over`.
- A penalty under a key lasts for the seconds that it was given; until then every `PenaltyClaim` of that key is denied. It is not a
  seat: a claim of it takes nothing.
- Seats last until `release`, which is idempotent, never fails and never waits. Tokens stay spent.
- N asks at `limit - 1` at once: exactly one is granted, over all instances that share the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxy.ledger.token_bucket import TokenBucket


@dataclass(frozen=True, slots=True)
class SeatClaim:
    """One of at most `limit` seats under `key`. With `member`, all claims of one member share one seat."""

    rule: str
    key: bytes
    limit: int
    shadow: bool = False
    member: bytes | None = None


@dataclass(frozen=True, slots=True)
class TokenClaim:
    """One token from the bucket under `key`. `rate` in tokens per second (0: never), `burst` in tokens."""

    rule: str
    key: bytes
    rate: float
    burst: float
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class PenaltyClaim:
    """That no penalty lasts under `key`. Penalties have keys of their own: a bucket under the same bytes is another thing.

    `left`: seconds that whoever asks knows to be left of one; the store may know of a longer one. So a claim can be broken for sure.
    """

    rule: str
    key: bytes
    left: float = 0.0


Claim = SeatClaim | TokenClaim | PenaltyClaim
Ask = Sequence[Claim]
"""All claims of one upgrade, in the order of the rules; no two of one kind under one key."""


class Grant:
    """The seats of one granted ask. Only the store that gave it looks inside."""

    __slots__ = ("over", "seats")

    def __init__(self, seats: tuple[SeatClaim, ...], over: tuple[int, ...]) -> None:
        self.seats = seats
        self.over = over  # indexes of shadow claims that were beyond their limit


@dataclass(frozen=True, slots=True)
class Denial:
    """Nothing was taken. `broken`: index of the first claim that could not be granted. `retry_after`: seconds, infinite for
    never, None where it cannot be known (a seat). `over`: indexes of shadow claims before it that were beyond their limit."""

    broken: int
    retry_after: float | None
    over: tuple[int, ...]


class Store(Protocol):
    """What admission and meters need of shared state."""

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        """Decide each ask, in order, as if they came one after the other."""

    def release(self, grant: Grant) -> None:
        """Give the seats back. A second call does nothing."""

    def open_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        """The bucket of a key, shared by all who open it; whoever comes back finds it as it was left."""

    def open_own_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        """The same, shared only by those on this instance. A key has either a bucket of all or one of each."""

    def close_bucket(self, key: bytes, bucket: TokenBucket) -> None:
        """Undo one `open_bucket` or `open_own_bucket`."""

    def penalize(self, key: bytes, seconds: float, now: float) -> None:
        """Deny every `PenaltyClaim` of this key for so long; never shorter than what an earlier penalty has left.

        Like `release` it never fails and never waits. Penalties are bounded in number: those that end first are forgotten first.
        """

    def seats(self) -> Mapping[str, int]:
        """Seats held by this instance now, by rule."""

    def sweep(self, now: float) -> None:
        """Forget what holds nothing any more. Called about once a second; bounded work."""


class StoreDown(Exception):  # noqa: N818 -- a state of the store, and a normal one
    """The store did not answer. `outcome_known`: it has certainly not done what it was asked for.

    Out of `admit` of a store that the gate uses, it means that nobody is to be admitted while the store is away.
    """

    def __init__(self, why: str, *, outcome_known: bool) -> None:
        super().__init__(why)
        self.outcome_known = outcome_known


class StoreState(Enum):
    """How far a shared store is being shared."""

    UP = "up"  # it decides
    HEALING = "healing"  # it is there, and is told what it has missed; this instance decides alone
    DOWN = "down"  # this instance decides alone, or admits everybody or nobody: as configured


class StoreEvents(Protocol):
    """What a shared store tells its owner. Called in the event loop's thread; must not raise, and cost little."""

    def state_changed(self, state: StoreState, why: str) -> None:
        """`why`: one line without secrets; empty where there is nothing to say."""

    def answered(self, seconds: float) -> None:
        """A question was answered, or given up; how long that took."""

    def conflict(self, rule: str) -> None:
        """A key of this rule holds what is not ours: whom it is about was refused. An empty rule: the listing of holders."""

    def memory_policy(self, server: str, policy: str) -> None:
        """What a server does when its memory is full. Anything but `noeviction` throws keys away. `server`: which one, where there are
        several."""

    def deaf(self, why: str) -> None:
        """The server does not let us listen, so no bucket of frames is ever owned. `why`: one line."""


class SharedStore(Store, Protocol):
    """A store beyond this process."""

    @property
    def state(self) -> StoreState:
        """What it is like now."""

    async def start(self) -> str | None:
        """Returns when it answers, or when it is clear that it does not, with the reason. It goes on trying. Called once."""

    async def stop(self) -> None:
        """Say good-bye, within a second. Called once."""
