"""Who lives, judged by an own clock: the ttl is 15 s here, a heartbeat 2 s."""

from __future__ import annotations

import pytest

from proxy.ledger.seats.holders import MAX_FORMER, MAX_SUSPECTS, SETTLED, Death, Holders, has_settled

ME, ANN, BOB = b"me", b"ann", b"bob"


@pytest.fixture
def holders() -> Holders:
    one = Holders(ttl=15.0, interval=2.0)
    one.joined(ME, {ME: 1, ANN: 7}, 100.0)
    return one


def beat(holders: Holders, start: float, stop: float, **counters: int) -> list[Death]:
    """Heartbeats every 2 s, all with the same counters of others; the deaths of the last one."""
    deaths: list[Death] = []
    at = start
    while at <= stop:
        deaths = holders.heard({ME: int(at)} | {name.encode(): count for name, count in counters.items()}, at)
        at += 2.0
    return deaths


def test_whoever_stands_still_for_a_ttl_is_dead_and_not_before(holders: Holders) -> None:
    assert beat(holders, 102.0, 114.0, ann=7) == []
    assert beat(holders, 116.0, 116.0, ann=7) == [Death(ANN, 7)]


def test_nobody_watches_an_own_id_that_still_moves(holders: Holders) -> None:
    holders.doubted()
    holders.joined(b"new", {b"new": 1, ANN: 7}, 101.0)
    for at in range(102, 130, 2):
        assert holders.heard({b"new": at, ME: 1, ANN: at}, float(at), [ME]) == []
    assert holders.listed() == {ANN}


def test_whoever_moves_lives(holders: Holders) -> None:
    for i in range(50):
        assert beat(holders, 102.0 + 2 * i, 102.0 + 2 * i, ann=8 + i // 7) == []


def test_a_newcomer_has_watched_nobody(holders: Holders) -> None:
    assert beat(holders, 102.0, 114.0, ann=7) == []
    holders.joined(b"again", {b"again": 1, ANN: 7}, 115.0)
    assert beat(holders, 116.0, 128.0, ann=7) == []
    assert beat(holders, 130.0, 130.0, ann=7) == [Death(ANN, 7)]


def test_a_gap_in_what_we_heard_proves_nothing(holders: Holders) -> None:
    beat(holders, 102.0, 112.0, ann=7)
    assert beat(holders, 160.0, 160.0, ann=7) == []  # the store was away, for ann as well
    assert beat(holders, 162.0, 174.0, ann=7) == []
    assert beat(holders, 176.0, 176.0, ann=7) == [Death(ANN, 7)]


def test_a_death_is_known_once_it_was_declared(holders: Holders) -> None:
    beat(holders, 102.0, 116.0, ann=7)
    assert holders.dead_among([ANN], 116.0) == []
    holders.buried(ANN)
    assert holders.dead_among([ME, ANN], 116.0) == [ANN]
    assert holders.listed() == frozenset()


def test_whoever_is_listed_no_more_is_dead_at_once(holders: Holders) -> None:
    beat(holders, 102.0, 102.0)
    assert holders.dead_among([ANN], 102.0) == [ANN]


def test_ids_of_our_own_past_are_dead_at_once(holders: Holders) -> None:
    holders.joined(b"new", {b"new": 1, ANN: 7}, 105.0)
    assert holders.dead_among([ME, ANN], 105.0) == [ME]
    holders.doubted()
    assert holders.own is None
    assert holders.dead_among([b"new"], 105.0) == [b"new"]
    assert holders.former == (ME, b"new")


def test_an_unlisted_id_is_dead_if_a_later_heartbeat_does_not_list_it_either(holders: Holders) -> None:
    beat(holders, 102.0, 116.0, ann=1)
    assert holders.dead_among([BOB], 116.5) == []
    beat(holders, 118.0, 118.0, ann=2)
    assert holders.dead_among([BOB], 118.5) == [BOB]


def test_a_heartbeat_that_was_on_its_way_proves_nothing_about_an_id(holders: Holders) -> None:
    beat(holders, 102.0, 116.0, ann=1)
    assert holders.dead_among([BOB], 118.0) == []
    beat(holders, 118.0, 118.0, ann=2)  # bob may have joined after this one was run
    assert holders.dead_among([BOB], 118.5) == []


def test_an_id_that_has_just_joined_is_no_suspect_any_more(holders: Holders) -> None:
    beat(holders, 102.0, 116.0, ann=1)
    assert holders.dead_among([BOB], 116.5) == []
    beat(holders, 118.0, 124.0, ann=2, bob=1)
    assert holders.dead_among([BOB], 124.0) == []


def test_after_a_flush_others_have_a_ttl_to_come_back(holders: Holders) -> None:
    beat(holders, 102.0, 112.0)
    assert holders.dead_among([BOB], 112.0) == []
    beat(holders, 114.0, 114.0)
    assert holders.dead_among([BOB], 114.0) == []


def test_silence_for_half_a_ttl_puts_the_own_id_in_doubt(holders: Holders) -> None:
    assert not holders.is_overdue(107.5)
    assert holders.is_overdue(107.6)
    beat(holders, 107.0, 107.0)
    assert not holders.is_overdue(114.5)
    assert holders.heard_at == 107.0


def test_what_is_remembered_is_bounded(holders: Holders) -> None:
    for i in range(200):
        holders.joined(b"id %d" % i, {}, 200.0 + i)
    assert len(holders.former) == MAX_FORMER
    holders.dead_among((b"x %d" % i for i in range(5000)), 10_000.0)
    assert len(holders._suspects) == MAX_SUSPECTS
    holders.heard({}, 10_001.0)
    assert not holders._suspects
    for i in range(5000):
        holders.buried(b"y %d" % i)
    assert len(holders._dead) == MAX_SUSPECTS


def test_one_who_was_there_for_long_shows_that_nobody_is_to_be_waited_for() -> None:
    assert not has_settled({})
    assert not has_settled({ME: 1, ANN: SETTLED - 1})
    assert has_settled({ME: 1, ANN: SETTLED, BOB: 1})


def test_a_listing_in_which_our_counter_is_lower_than_we_heard_is_of_the_past(holders: Holders) -> None:
    beat(holders, 102.0, 104.0, ann=7)
    holders.doubted()
    assert holders.is_of_the_past({ME: 103, ANN: 7})
    assert not holders.is_of_the_past({ME: 104, ANN: 7})
    assert not holders.is_of_the_past({ME: 105})  # the answer was lost


def test_an_answer_that_comes_in_doubt_is_heard_too(holders: Holders) -> None:
    holders.doubted()
    beat(holders, 104.0, 104.0, ann=7)
    assert holders.is_of_the_past({ME: 103, ANN: 7})


def test_who_is_not_listed_beside_those_who_stand_still_came_after_this_listing(holders: Holders) -> None:
    beat(holders, 102.0, 104.0, ann=7, bob=3)
    holders.doubted()
    assert holders.is_of_the_past({ANN: 7})
    assert holders.is_of_the_past({ANN: 6, BOB: 3, b"new": 9})


def test_who_is_not_listed_beside_one_who_has_gone_on_was_taken_for_dead(holders: Holders) -> None:
    beat(holders, 102.0, 104.0, ann=7, bob=3)
    holders.doubted()
    assert not holders.is_of_the_past({ANN: 15, BOB: 3})


def test_of_several_ids_the_latest_tells(holders: Holders) -> None:
    """The one before may be taken off the listing at any time."""
    beat(holders, 102.0, 104.0, ann=7)
    holders.doubted()
    holders.joined(b"again", {b"again": 1, ANN: 7}, 105.0)
    holders.doubted()
    assert not holders.is_of_the_past({b"again": 1, ANN: 7})
    assert holders.is_of_the_past({ME: 104, ANN: 7})
