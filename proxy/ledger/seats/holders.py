"""Which holders live, judged by one of them.

A holder is one incarnation of an instance: a random id whose counter in the store goes up with every heartbeat. No wall clocks: a
holder is dead if we have ourselves watched its counter stand still for one ttl on our own monotonic clock, with no gap in what we
heard. Whoever has just come, or come back, has watched nobody yet. An id that the store does not list is dead as well, since an
instance is listed before it takes its first seat; but only if we have been listed ourselves for one ttl, since after a flush
the others need time to come back.

Counters only go up, and each answer to a heartbeat has our own one. So a listing in which it is lower than we have heard is of the past:
the server has come back with data that are older than what it knew.

Pure: times are seconds of the monotonic clock, ids come from the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MAX_FORMER: Final = 64  # own ids that are remembered; whatever is left of older ones falls to the rule for unlisted ids
MAX_SUSPECTS: Final = 1024  # unlisted ids under suspicion
MAX_GAP: Final = 2.5  # heartbeats; longer without an answer, and nobody was watched meanwhile
SETTLED: Final = 4  # heartbeats; they are half an interval apart at least, and all who live come back in less than these take


@dataclass(slots=True)
class _Watched:
    counter: int
    since: float  # when we first heard this counter


@dataclass(frozen=True, slots=True)
class Death:
    """To be declared in the store, if the counter is still the one that we saw."""

    holder: bytes
    counter: int


def has_settled(counters: Mapping[bytes, int]) -> bool:
    """Is one of these listed for so long that, had the data been lost before, whoever lives would be back by now?"""
    return any(counter >= SETTLED for counter in counters.values())


class Holders:
    """`ttl` and `interval` (between heartbeats) in seconds. `own` is our id, or None while we have none that counts."""

    def __init__(self, ttl: float, interval: float) -> None:
        self._ttl = ttl
        self._interval = interval
        self._watched: dict[bytes, _Watched] = {}
        self._suspects: dict[bytes, float] = {}
        self._dead: dict[bytes, None] = {}
        self._former: dict[bytes, None] = {}
        self._latest = b""  # our id, or what it was before it was in doubt ...
        self._counter = 0  # ... as heard last
        self._heard_at = 0.0
        self._since = 0.0
        self.own: bytes | None = None

    @property
    def former(self) -> tuple[bytes, ...]:
        """Own ids of before, the latest last."""
        return tuple(self._former)

    @property
    def heard_at(self) -> float:
        """When the heartbeat was sent that was answered last."""
        return self._heard_at

    def listed(self) -> frozenset[bytes]:
        """Holders but us that were listed when we last heard."""
        return frozenset(self._watched)

    def is_overdue(self, now: float) -> bool:
        """Have we heard nothing for so long that others may soon take us for dead? Then our id is in doubt."""
        return now - self._heard_at > self._ttl / 2

    def joined(self, own: bytes, counters: Mapping[bytes, int], asked_at: float) -> None:
        """We are listed under a new id. Everything watched before counts no more."""
        if self.own is not None:
            self._remember_former(self.own)
        self.own = own
        self._latest, self._counter = own, counters.get(own, 0)
        self._since = asked_at
        self._watched.clear()
        self._suspects.clear()
        self._dead.clear()
        self._heard_at = asked_at
        self._watch(counters, asked_at)

    def doubted(self) -> None:
        """Our id counts no more: from now on it is one of the former ones."""
        if self.own is not None:
            self._remember_former(self.own)
            self.own = None

    def _remember_former(self, holder: bytes) -> None:
        self._former[holder] = None
        while len(self._former) > MAX_FORMER:
            del self._former[next(iter(self._former))]

    def is_of_the_past(self, counters: Mapping[bytes, int]) -> bool:
        """Is this listing from before we last heard one? To be asked by one who was listed.

        If it does not list us, it is from before we came, or somebody has taken us for dead: but then he has gone on since.
        """
        if self._latest in counters:
            return counters[self._latest] < self._counter
        return not any(counters.get(holder, 0) > watched.counter for holder, watched in self._watched.items())

    def heard(self, counters: Mapping[bytes, int], asked_at: float, moving: Collection[bytes] = ()) -> list[Death]:
        """The answer to the heartbeat that was sent at `asked_at`. Returns deaths to declare.

        `moving`: own ids of before that are listed until their seats have moved. Nobody watches himself.
        """
        if asked_at - self._heard_at > MAX_GAP * self._interval:
            self._watched.clear()  # whoever stood still may have had the same trouble as we
        self._heard_at = asked_at
        self._counter = counters.get(self._latest, self._counter)
        for holder in self._watched.keys() - counters.keys():
            del self._watched[holder]
            self._bury(holder)  # declared by another one, or gone of its own accord
        self._resolve_suspects(counters, asked_at)
        self._watch({holder: counter for holder, counter in counters.items() if holder not in moving}, asked_at)
        return [Death(holder, watched.counter) for holder, watched in self._watched.items() if asked_at - watched.since >= self._ttl]

    def _watch(self, counters: Mapping[bytes, int], now: float) -> None:
        for holder, counter in counters.items():
            if holder == self.own:
                continue
            watched = self._watched.get(holder)
            if watched is None or watched.counter != counter:
                self._watched[holder] = _Watched(counter, now)

    def _resolve_suspects(self, counters: Mapping[bytes, int], asked_at: float) -> None:
        """Whoever was seen with seats before this heartbeat went out and is not in its answer is not listed."""
        for holder, seen in list(self._suspects.items()):
            if holder in counters:
                del self._suspects[holder]
            elif seen < asked_at:
                del self._suspects[holder]
                self._bury(holder)

    def buried(self, holder: bytes) -> None:
        """A death was declared, by us."""
        self._watched.pop(holder, None)
        self._bury(holder)

    def _bury(self, holder: bytes) -> None:
        self._dead[holder] = None
        while len(self._dead) > MAX_SUSPECTS:
            del self._dead[next(iter(self._dead))]

    def dead_among(self, holders: Iterable[bytes], now: float) -> list[bytes]:
        """Those of the holders of a key that are known to be dead. Ids that are nobody's we know become suspects."""
        dead = []
        for holder in holders:
            if holder in self._former or holder in self._dead:
                dead.append(holder)
            elif holder != self.own and holder not in self._watched and self._may_suspect(now):
                self._suspects.setdefault(holder, now)
        return dead

    def _may_suspect(self, now: float) -> bool:
        return now - self._since >= self._ttl and len(self._suspects) < MAX_SUSPECTS
