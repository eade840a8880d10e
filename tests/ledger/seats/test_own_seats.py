"""The table of what is held here, and what the store has to be told of it."""

from __future__ import annotations

import pytest

from proxy.ledger.seats.own_seats import MAX_OTHERS, OwnSeats
from proxy.ledger.store import SeatClaim
from tests.ledger.store_contract import member, seat

ALL = 1_000_000


@pytest.fixture
def own() -> OwnSeats:
    return OwnSeats()


def sit(own: OwnSeats, claim: SeatClaim) -> None:
    """Asked and granted."""
    own.reserve(claim)
    own.asked(claim)
    own.confirm(claim)


def to_tell(own: OwnSeats) -> list[tuple[bytes, bytes | None, int]]:
    """What is told now, and heard."""
    seats = own.take_marked(ALL)
    found = [(one.key, one.member, one.held) for one in seats]
    own.told(seats)
    return sorted(found, key=repr)


def test_a_grant_is_known_to_the_store_already(own: OwnSeats) -> None:
    sit(own, seat())
    assert own.untold == 0
    assert dict(own.by_rule()) == {"rule-seats": 1}


def test_a_refusal_leaves_nothing(own: OwnSeats) -> None:
    ticket = own.reserve(seat())
    own.asked(seat())
    own.cancel(seat(), ticket)
    assert (len(own), own.untold) == (0, 0)


def test_a_release_is_told_with_what_is_left(own: OwnSeats) -> None:
    sit(own, seat())
    sit(own, seat())
    own.leave(seat())
    assert to_tell(own) == [(b"seats", None, 1)]
    own.leave(seat())
    assert to_tell(own) == [(b"seats", None, 0)]
    assert len(own) == 0


def test_a_second_tab_is_nothing_that_the_store_has_to_know(own: OwnSeats) -> None:
    sit(own, member("ann"))
    sit(own, member("ann"))
    own.leave(member("ann"))
    assert own.untold == 0
    assert dict(own.by_rule()) == {"rule-room": 1}
    own.leave(member("ann"))
    assert to_tell(own) == [(b"room", b"ann", 0)]
    assert dict(own.by_rule()) == {"rule-room": 0}


def test_pending_ones_are_told_as_held_and_those_who_are_refused_then_are_told_again(own: OwnSeats) -> None:
    sit(own, seat())
    ticket = own.reserve(seat())
    own.asked(seat())
    own.leave(seat())
    assert to_tell(own) == [(b"seats", None, 1)]  # it may be granted already
    own.cancel(seat(), ticket)
    assert to_tell(own) == [(b"seats", None, 0)]


def test_a_member_whose_last_tab_closes_while_another_one_is_refused_is_told_gone(own: OwnSeats) -> None:
    sit(own, member("ann"))
    ticket = own.reserve(member("ann"))
    own.asked(member("ann"))
    own.leave(member("ann"))
    to_tell(own)
    own.cancel(member("ann"), ticket)
    assert to_tell(own) == [(b"room", b"ann", 0)]
    assert len(own) == 0


def test_what_became_of_an_abandoned_question_is_put_right(own: OwnSeats) -> None:
    for claim in (seat(), member("ann")):
        own.reserve(claim)
        own.asked(claim)
        own.abandon(claim)
    assert to_tell(own) == [(b"room", b"ann", 0), (b"seats", None, 0)]
    assert len(own) == 0


def test_a_question_that_was_never_sent_leaves_nothing(own: OwnSeats) -> None:
    own.reserve(seat())
    own.abandon(seat())
    assert (len(own), own.untold) == (0, 0)


def test_seats_taken_alone_are_told_unless_they_are_gone_before(own: OwnSeats) -> None:
    own.take_alone(seat("a"))
    own.take_alone(seat("b"))
    own.leave(seat("b"))
    assert to_tell(own) == [(b"a", None, 1)]
    assert len(own) == 1


def test_after_a_doubt_everything_is_told(own: OwnSeats) -> None:
    sit(own, seat())
    sit(own, member("ann"))
    own.mark_all()
    assert to_tell(own) == [(b"room", b"ann", 1), (b"seats", None, 1)]


def test_what_was_not_heard_is_told_again_as_it_is_then(own: OwnSeats) -> None:
    sit(own, seat())
    sit(own, seat())
    own.leave(seat())
    lost = own.take_marked(ALL)
    own.leave(seat())
    own.take_marked(ALL)
    own.untell(lost)
    assert to_tell(own) == [(b"seats", None, 0)]


def test_what_was_heard_does_not_hide_that_a_later_word_was_not(own: OwnSeats) -> None:
    sit(own, seat())
    sit(own, seat())
    own.leave(seat())
    first = own.take_marked(ALL)
    own.leave(seat())
    second = own.take_marked(ALL)
    own.told(first)  # nobody holds it any more: it is forgotten
    assert len(own) == 0
    own.untell(second)
    assert to_tell(own) == [(b"seats", None, 0)]
    assert len(own) == 0


def test_what_was_not_heard_of_a_forgotten_seat_is_told_of_the_one_in_its_place(own: OwnSeats) -> None:
    sit(own, seat())
    own.leave(seat())
    lost = own.take_marked(ALL)
    own.told(lost)
    own.reserve(seat())
    own.untell(lost)
    assert to_tell(own) == [(b"seats", None, 1)]
    assert len(own) == 1


def test_whoever_comes_back_before_it_was_told_is_told_as_held(own: OwnSeats) -> None:
    sit(own, member("ann"))
    own.leave(member("ann"))
    sit(own, member("ann"))
    assert to_tell(own) == [(b"room", b"ann", 1)]


def test_a_question_depends_on_what_was_not_told_of_its_keys(own: OwnSeats) -> None:
    sit(own, member("ann"))
    own.leave(member("ann"))
    assert own.is_untold([seat("other"), member("bob")])
    assert not own.is_untold([seat("other")])
    own.take_marked(ALL)
    assert not own.is_untold([member("bob")])


def test_free_seats_are_told_first_and_not_more_than_wanted(own: OwnSeats) -> None:
    for name in "abc":
        sit(own, seat(name))
    own.mark_all()
    own.leave(seat("c"))
    assert [one.key for one in own.take_marked(2)] == [b"c", b"a"]
    assert own.untold == 1


def test_departed_seats_are_bounded_and_then_only_a_new_id_helps() -> None:
    own = OwnSeats(max_departed=10)
    for i in range(25):
        sit(own, seat(f"k{i}"))
        own.leave(seat(f"k{i}"))
    assert (len(own), own.untold, own.overflowed) == (10, 10, True)
    own.mark_all()  # the slow sweep does that too
    assert own.overflowed


class TestDecidingAlone:
    def test_the_limit_less_what_others_were_last_seen_to_hold(self, own: OwnSeats) -> None:
        own.note_others(b"seats", 3)
        assert own.has_room(seat(limit=5))
        own.take_alone(seat(limit=5))
        own.take_alone(seat(limit=5))
        assert not own.has_room(seat(limit=5))
        own.note_others(b"seats", 0)
        assert own.has_room(seat(limit=5))

    def test_members_who_are_here_may_come_again(self, own: OwnSeats) -> None:
        own.take_alone(member("ann"))
        assert own.has_room(member("ann"))
        assert not own.has_room(member("bob"))
        own.leave(member("ann"))
        assert own.has_room(member("bob"))

    def test_who_only_knocks_twice_is_nobody_who_is_here(self, own: OwnSeats) -> None:
        own.note_others(b"room", 1)
        own.reserve(member("ann"))
        assert not own.has_room(member("ann"))
        assert own.has_room(member("ann", limit=2))  # and counts once

    def test_what_is_remembered_of_others_is_bounded(self, own: OwnSeats) -> None:
        for i in range(MAX_OTHERS + 10):
            own.note_others(b"k%d" % i, 1)
        assert len(own._others) == MAX_OTHERS
        assert own.has_room(seat("k0"))
        assert not own.has_room(seat(f"k{MAX_OTHERS}"))


@pytest.mark.parametrize("claims", [(seat(), seat()), (member("ann"), member("bob"))])
def test_who_only_knocks_is_held_and_not_granted(own: OwnSeats, claims: tuple[SeatClaim, SeatClaim]) -> None:
    first, second = claims
    for _ in range(2):
        sit(own, first)
        own.reserve(second)
        assert (own.granted(first), own.count(first)) == (1, 2)
        own.cancel(second, 0)
        own.leave(first)
        assert (own.granted(first), own.count(first)) == (0, 0)
