"""Keys that have more seats than they may have, with a store that answers what the test wants."""

from __future__ import annotations

import pytest

from proxy.ledger.links.link import CommandError
from proxy.ledger.scripts import Command, Keys
from proxy.ledger.seats.crowds import MAX_CROWDS, Crowds
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.store import SeatClaim, StoreDown
from tests.ledger.store_contract import member, seat


def always() -> bool:
    return True


def never() -> bool:
    return False


class Store:
    """Says how many seats there are. `asked`: commands."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[Command] = []

    async def ask(self, command: Command) -> object:
        self.asked.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def crowded(claim: SeatClaim, held: int = 2) -> tuple[Crowds, OwnSeats]:
    own = OwnSeats()
    for _ in range(held):
        own.reserve(claim)
        own.confirm(claim)
    crowds = Crowds(Keys("test:", listed=True), own)
    crowds.refused(claim)
    return crowds, own


async def test_a_key_that_was_refused_is_looked_at_until_it_is_within_its_limit() -> None:
    claim = seat(limit=5)
    crowds, own = crowded(claim)
    store = Store([b"me", b"2", b"he", b"3", b"she", b"4"])
    for _ in range(2):
        await crowds.look(store.ask, always)
        assert own.others(claim.key) == 7
    store.answer = [b"me", b"2", b"he", b"3"]
    await crowds.look(store.ask, always)
    assert own.others(claim.key) == 3
    await crowds.look(store.ask, always)
    assert store.asked == [(b"HGETALL", b"test:n:{%s}" % claim.key)] * 3


async def test_of_members_those_who_are_different_count() -> None:
    claim = member("ann", limit=5)
    crowds, own = crowded(claim)
    store = Store(9)
    await crowds.look(store.ask, always)
    assert own.others(claim.key) == 8
    assert store.asked == [(b"HLEN", b"test:m:{%s}" % claim.key)]


async def test_who_holds_nothing_of_it_does_not_look() -> None:
    crowds, own = crowded(seat(limit=5), held=0)
    assert len(crowds) == 0
    claim = seat(limit=5)
    crowds, own = crowded(claim, held=1)
    own.leave(claim)
    await crowds.look(Store([b"he", b"9"]).ask, always)
    assert len(crowds) == 0


@pytest.mark.parametrize("answer", [CommandError("WRONGTYPE"), [b"me", b"many"], [b"me"], b"OK", None])
async def test_what_is_not_ours_is_looked_at_no_more(answer: object) -> None:
    crowds, _ = crowded(seat(limit=5))
    await crowds.look(Store(answer).ask, always)
    assert len(crowds) == 0


async def test_while_the_store_is_away_it_is_remembered() -> None:
    crowds, _ = crowded(seat(limit=5))
    with pytest.raises(StoreDown):
        await crowds.look(Store(StoreDown("away", outcome_known=True)).ask, always)
    assert len(crowds) == 1


def test_no_more_are_remembered_than_are_looked_at_with_a_heartbeat() -> None:
    crowds, own = crowded(seat(limit=5))
    for number in range(MAX_CROWDS + 1):
        claim = seat(limit=5, key=f"key-{number}")
        own.reserve(claim)
        crowds.refused(claim)
    assert len(crowds) == MAX_CROWDS


async def test_a_refusal_does_not_hide_what_was_seen_beyond_the_limit() -> None:
    claim = seat(limit=5)
    crowds, own = crowded(claim)
    assert own.others(claim.key) == 3
    store = Store([b"me", b"2", b"he", b"7"])
    await crowds.look(store.ask, always)
    crowds.refused(claim)
    assert own.others(claim.key) == 7
    store.answer = [b"me", b"2", b"he", b"1"]
    await crowds.look(store.ask, always)
    own.note_others(claim.key, 7)  # long ago
    crowds.refused(claim)
    assert own.others(claim.key) == 3


@pytest.mark.parametrize(("claim", "other"), [(seat(limit=5), seat(limit=5)), (member("ann", limit=5), member("bob", limit=5))])
async def test_who_only_knocks_has_no_seat_that_others_could_lack(claim: SeatClaim, other: SeatClaim) -> None:
    crowds, own = crowded(claim, held=1)
    own.note_others(claim.key, 0)
    own.reserve(other)
    crowds.refused(other)
    assert own.others(claim.key) == 4
    await crowds.look(Store([b"me", b"1", b"he", b"8"] if claim.member is None else 9).ask, always)
    assert own.others(claim.key) == 8


def three() -> Crowds:
    crowds, own = crowded(seat("k0"))
    for name in ("k1", "k2"):
        own.take_alone(seat(name))
        crowds.refused(seat(name))
    return crowds


FULL = [b"he", b"9"]


async def test_they_are_looked_at_in_turn_while_there_is_time() -> None:
    crowds, store = three(), Store(FULL)
    for _ in range(4):
        await crowds.look(store.ask, never)
    assert store.asked == [(b"HGETALL", b"test:n:{k%d}" % number) for number in (0, 1, 2, 0)]


async def test_one_that_is_not_answered_keeps_no_other_waiting() -> None:
    crowds, store = three(), Store(StoreDown("a slot is being moved", outcome_known=True))
    with pytest.raises(StoreDown):
        await crowds.look(store.ask, always)
    store.answer = FULL
    await crowds.look(store.ask, always)
    assert store.asked == [(b"HGETALL", b"test:n:{k%d}" % number) for number in (0, 1, 2, 0)]
