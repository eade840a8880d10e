"""What this instance holds itself: the truth, of which a shared store has a copy.

Whatever we write to the store but for asking is the whole truth about a seat, not a change of it. So giving back, healing after a
lost answer and coming back after an outage are one thing: the seat is marked, and told when somebody listens. A seat here is one
key of connections with a count, or one member of one key.

Pending connections count as held, since the store may have granted them already. Each seat counts how often it was told: who asked
before that and was refused must have it told again, for he was counted in.

Pure, and bounded by the connections of this instance and `max_departed`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from proxy.ledger.store import Ask, SeatClaim

MAX_DEPARTED: Final = 100_000  # seats that nobody holds any more and that the store has not been told of
MAX_OTHERS: Final = 100_000  # keys of which it is remembered how much other instances had

_SeatKey = tuple[bytes, bytes | None]


class Seat:
    """One key of connections, or one member of a key. Held connections of this instance: `taken` and `pending`."""

    __slots__ = ("key", "member", "pending", "rule", "taken", "tells", "told")

    def __init__(self, claim: SeatClaim) -> None:
        self.rule = claim.rule
        self.key = claim.key
        self.member = claim.member
        self.taken = 0
        self.pending = 0
        self.told = False  # the store may have something of ours here
        self.tells = 0  # how often we wrote the truth there, in this seat's life

    @property
    def held(self) -> int:
        return self.taken + self.pending


def _one_less(counts: dict[bytes, int], key: bytes) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class OwnSeats:
    """The table. `seats()` by rule counts what is granted: connections, or distinct members."""

    def __init__(self, max_departed: int = MAX_DEPARTED) -> None:
        self._seats: dict[_SeatKey, Seat] = {}
        self._distinct: dict[bytes, int] = {}  # key -> members held
        self._members: dict[bytes, int] = {}  # key -> members taken
        self._marked: dict[Seat, None] = {}  # to be told
        self._departed: OrderedDict[Seat, None] = OrderedDict()  # to be told, and nobody holds them
        self._touched: set[bytes] = set()  # keys of those, and perhaps of more
        self._others: OrderedDict[bytes, int] = OrderedDict()
        self._by_rule: dict[str, int] = {}
        self._max_departed = max_departed
        self.overflowed = False  # departed seats were forgotten: only a new id can make the store forget them. Who gets one clears it

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    @property
    def untold(self) -> int:
        """Seats that the store has to be told of."""
        return len(self._marked) + len(self._departed)

    def by_rule(self) -> Mapping[str, int]:
        return self._by_rule

    # --- the life of a claim

    def reserve(self, claim: SeatClaim) -> int:
        """Somebody asks for a seat. Returns what `cancel` needs."""
        where = (claim.key, claim.member)
        seat = self._seats.get(where)
        if seat is None:
            seat = self._seats[where] = Seat(claim)
        if not seat.taken and not seat.pending:
            self._hold(seat)
        seat.pending += 1
        return seat.tells

    def _hold(self, seat: Seat) -> None:
        if seat.member is not None:
            self._distinct[seat.key] = self._distinct.get(seat.key, 0) + 1
        if seat in self._departed:
            del self._departed[seat]
            self._marked[seat] = None

    def asked(self, claim: SeatClaim) -> None:
        """The question is on its way: the store may have the seat from now on."""
        self._seats[claim.key, claim.member].told = True

    def confirm(self, claim: SeatClaim) -> None:
        """It is granted."""
        seat = self._seats[claim.key, claim.member]
        seat.pending -= 1
        seat.taken += 1
        if seat.member is None or seat.taken == 1:
            self._by_rule[seat.rule] = self._by_rule.get(seat.rule, 0) + 1
            if seat.member is not None:
                self._members[seat.key] = self._members.get(seat.key, 0) + 1

    def cancel(self, claim: SeatClaim, tells: int) -> None:
        """It is refused, and the store has said so: it has the seat only if we told it of it meanwhile."""
        seat = self._seats[claim.key, claim.member]
        seat.pending -= 1
        self._let_go(seat, doubtful=seat.tells != tells)

    def abandon(self, claim: SeatClaim) -> None:
        """It is not wanted any more, and what became of it in the store is not known."""
        seat = self._seats[claim.key, claim.member]
        seat.pending -= 1
        self._let_go(seat, doubtful=True)

    def leave(self, claim: SeatClaim) -> None:
        """A connection is over."""
        seat = self._seats[claim.key, claim.member]
        seat.taken -= 1
        if seat.member is None or not seat.taken:
            self._by_rule[seat.rule] -= 1
            if seat.member is not None:
                _one_less(self._members, seat.key)
        self._let_go(seat, doubtful=seat.member is None or not seat.taken)

    def _let_go(self, seat: Seat, *, doubtful: bool) -> None:
        if not seat.held and seat.member is not None:
            _one_less(self._distinct, seat.key)
        if seat.told and (doubtful or seat in self._marked):
            self.mark(seat)
        elif not seat.held and seat not in self._departed:
            self._forget(seat)

    def take_alone(self, claim: SeatClaim) -> None:
        """A seat that is granted without the store, which has to be told."""
        self.reserve(claim)
        self.confirm(claim)
        self.mark(self._seats[claim.key, claim.member])

    # --- what is to be told

    def is_untold(self, ask: Ask) -> bool:
        """Is there perhaps something to be told that this ask depends on?"""
        return any(claim.key in self._touched for claim in ask)

    def mark(self, seat: Seat) -> None:
        """The store is to be told how it is with this seat."""
        self._touched.add(seat.key)
        if seat.held:
            self._marked[seat] = None
            return
        self._marked.pop(seat, None)
        self._departed[seat] = None
        while len(self._departed) > self._max_departed:
            forgotten, _ = self._departed.popitem(last=False)
            self._forget(forgotten)
            self.overflowed = True

    def mark_all(self) -> None:
        """The store may have forgotten everything, or have it under an id that counts no more."""
        for seat in self._seats.values():
            if seat.held:
                self._marked[seat] = None
                self._touched.add(seat.key)

    def take_marked(self, most: int) -> list[Seat]:
        """Up to `most` seats to be told now, those that became free first. They are marked no more."""
        taken: list[Seat] = []
        while self._departed and len(taken) < most:
            taken.append(self._departed.popitem(last=False)[0])
        while self._marked and len(taken) < most:
            seat = next(iter(self._marked))
            del self._marked[seat]
            taken.append(seat)
        if not self._departed and not self._marked:
            self._touched.clear()
        for seat in taken:
            seat.told = True
            seat.tells += 1
        return taken

    def told(self, seats: Iterable[Seat]) -> None:
        """The store knows. A seat that nobody holds and that waits for nothing is forgotten."""
        for seat in seats:
            if not seat.held and seat not in self._departed:
                self._forget(seat)

    def untell(self, seats: Iterable[Seat]) -> None:
        """The store may not have heard it, whatever became of the seat meanwhile: what was told of it before may still stand there."""
        for seat in seats:
            there = self._seats.setdefault((seat.key, seat.member), seat)
            there.told = True
            self.mark(there)

    def _forget(self, seat: Seat) -> None:
        self._marked.pop(seat, None)
        if self._seats.get((seat.key, seat.member)) is seat:
            del self._seats[seat.key, seat.member]

    # --- deciding alone

    def note_others(self, key: bytes, count: int) -> None:
        """What other instances have of a key, as the store said."""
        others = self._others
        if not count:
            if others:
                others.pop(key, None)
            return
        others[key] = count
        others.move_to_end(key)
        if len(others) > MAX_OTHERS:
            others.popitem(last=False)

    def others(self, key: bytes) -> int:
        """What was noted last."""
        return self._others.get(key, 0)

    def has_room(self, claim: SeatClaim) -> bool:
        """Is the claim, not reserved, within its limit less what others were last seen to hold?"""
        seat = self._seats.get((claim.key, claim.member))
        if claim.member is None or seat is None or not seat.held:
            return self.count(claim) + self.others(claim.key) < claim.limit
        # A member who is here comes again. One who only knocks, twice at once, is counted, but nobody has let him in yet.
        return bool(seat.taken) or self.count(claim) + self.others(claim.key) <= claim.limit

    def count(self, claim: SeatClaim) -> int:
        """What is held here of the claim's key: connections, or distinct members."""
        if claim.member is not None:
            return self._distinct.get(claim.key, 0)
        seat = self._seats.get((claim.key, None))
        return seat.held if seat is not None else 0

    def granted(self, claim: SeatClaim) -> int:
        """The same of those who are in: who only knocks is not among them."""
        if claim.member is not None:
            return self._members.get(claim.key, 0)
        seat = self._seats.get((claim.key, None))
        return seat.taken if seat is not None else 0
