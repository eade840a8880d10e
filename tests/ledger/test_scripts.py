"""What is sent to the scripts, and what their answers mean."""

from __future__ import annotations

import hashlib
from math import inf

import pytest

from proxy.ledger.rates.rent import Knowledge, Rent, RentCommands
from proxy.ledger.scripts import (
    ADMIT,
    MOST_NAMES,
    SCRIPTS,
    Conflict,
    Granted,
    Joined,
    Keys,
    Part,
    Refused,
    Unlisted,
    merge,
    read_admit,
    read_holders,
    read_joined,
    read_listing,
    read_told,
)
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.store import Denial, PenaltyClaim
from tests.ledger.store_contract import member, seat, token

KEYS = Keys("test:", listed=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_tells_its_keys_its_arguments_and_its_answer(script: object) -> None:
    head = script.source.decode().partition("\n\n")[0] + script.source.decode().partition("\nlocal ")[0]  # type: ignore[attr-defined]  # a Script
    assert all(word in head for word in ("KEYS", "ARGV", "Comes back"))
    assert script.digest.decode() == hashlib.sha1(script.source).hexdigest()  # type: ignore[attr-defined]


def test_an_ask_names_its_keys_and_what_is_asked_of_each() -> None:
    command = KEYS.admit(b"me", [seat("a", 3), member("ann", "r", 9, shadow=True), token("t", 0.5, 20)])
    assert command[:3] == (b"EVALSHA", ADMIT.digest, b"5")
    assert command[3:8] == (b"test:h", b"test:n:{a}", b"test:n:{r}", b"test:m:{r}", b"test:u:{t}")
    assert command[8:] == (b"me", b"1", b"86400", b"c", b"0", b"3", b"m", b"1", b"9", b"ann", b"t", b"0", b"0.5", b"20.0", b"-")


def test_an_ask_says_what_is_known_of_buckets_and_penalties() -> None:
    claims = [token("t", 1, 20), token("u", 1, 20), PenaltyClaim("rule", b"p"), PenaltyClaim("rule", b"q", inf)]
    command = KEYS.admit(b"me", claims, {b"u": 2.5})
    assert command[4:8] == (b"test:u:{t}", b"test:u:{u}", b"test:p:{p}", b"test:p:{q}")
    assert command[11:] == (
        *(b"t", b"0", b"1.0", b"20.0", b"-"),
        *(b"t", b"0", b"1.0", b"20.0", b"2.5"),
        *(b"p", b"0", b"0.0"),
        *(b"p", b"0", b"1000000000.0"),
    )


def test_a_penalty_is_told_in_whole_milliseconds() -> None:
    assert KEYS.penalize(b"p", 1.2345)[2:] == (b"1", b"test:p:{p}", b"1235")
    assert KEYS.penalize(b"p", inf)[4] == b"1000000000000"


def test_of_a_cluster_the_listing_is_in_no_other_script() -> None:
    command = Keys("test:", listed=False).admit(b"me", [seat("a", 3)])
    assert command[2:6] == (b"1", b"test:n:{a}", b"me", b"0")


def test_whoever_joins_says_whom_it_knows_or_asks_who_listens() -> None:
    asks = KEYS.join(b"me", ())
    assert asks[2:] == (b"2", b"test:h", b"test:l", b"me", b"86400", b"86400000", b"test:i:*")
    says = KEYS.join(b"me", (b"old", b"ann"))
    assert says[2:] == (*asks[2:8], b"", b"old", b"ann")


def test_a_prefix_with_special_characters_is_a_pattern_of_itself() -> None:
    assert Keys("a*[b]?^-\\:", listed=True).join(b"me", ())[-1] == rb"a\*\[b\]\?\^\-\\:i:*"


def test_the_mark_of_a_loss_is_the_same_for_seats_and_for_rates() -> None:
    rents = RentCommands("test:", b"me", KEYS.listing)
    assert rents.rent(Rent(b"key", 1.0, 1.0), Knowledge())[5] == KEYS.join(b"me", ())[4] == b"test:l"


def test_of_a_cluster_the_mark_is_not_asked_for() -> None:
    assert Keys("test:", listed=False).join(b"me", ())[2:5] == (b"1", b"test:h", b"me")


def test_the_truth_is_told_in_absolute_numbers() -> None:
    own = OwnSeats()
    for claim in (seat("a", 9), seat("a", 9), member("ann", "r")):
        own.take_alone(claim)
    command = KEYS.tell(b"me", [b"old"], own.take_marked(9))
    assert command[2:7] == (b"4", b"test:h", b"test:n:{a}", b"test:n:{r}", b"test:m:{r}")
    assert command[7:] == (b"me", b"1", b"86400", b"1", b"old", b"c", b"2", b"m", b"1", b"ann")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (b"G -", Granted((), ())),
        (b"G 0,2 5 0", Granted((0, 2), (5, 0))),
        (b"G - 5 0 t 1.5 -0.25", Granted((), (5, 0), (1.5, -0.25))),
        (b"G 1 t 7", Granted((1,), (), (7.0,))),
        (b"D 1 - -", Refused(Denial(1, None, ()), ())),
        (b"D 2 0.25 0,1 aa bb", Refused(Denial(2, 0.25, (0, 1)), (b"aa", b"bb"))),
        (b"D 0 inf -", Refused(Denial(0, inf, ()), ())),
        (b"C 3", Conflict(3)),
    ],
)
def test_answers_are_read(reply: bytes, answer: object) -> None:
    assert read_admit(reply) == answer


def test_whoever_is_not_listed_is_told_so() -> None:
    for read in (read_admit, read_told):
        with pytest.raises(Unlisted):
            read(b"U")
    with pytest.raises(Unlisted):
        read_listing([])


@pytest.mark.parametrize("reply", [None, 1, [], b"", b"D", b"G", b"C", b"D 1", b"D x - -", b"G x", b"C x", b"X 1", b"UU"])
def test_what_our_script_does_not_say_is_an_error(reply: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_admit(reply)


def test_a_listing_and_what_is_none() -> None:
    a, b = b"a" * 16, b"0123456789abcdef"
    assert read_listing([a, b"3", b, b"17"]) == {a: 3, b: 17}
    assert read_joined([-1, [a, b"3"]]) == Joined({a: 3}, None)
    assert read_joined([1500, [a, b"3"]]) == Joined({a: 3}, 1.5)
    for listing in (b"OK", [a], [a, b"x"], [a, b"-1"], [a, b"9" * 16], [a, b""], [a[1:], b"1"], [a.upper(), b"1"], [b"visits", b"7"]):
        with pytest.raises(ValueError, match=r"."):
            read_listing(listing)
        with pytest.raises(ValueError, match=r"."):
            read_joined([-1, listing])
    for joined in (b"C", [], [1], [b"1", [a, b"1"]], [None, [a, b"1"]], [1, -1, [a, b"1"]], [1, 2], [a, b"3"]):
        with pytest.raises(ValueError, match=r"."):
            read_joined(joined)


def test_the_holders_of_a_key_and_what_is_none() -> None:
    reply = [text for number in range(MOST_NAMES) for text in (b"%016x" % number, b"7")]
    assert read_holders(reply) == reply[::2]
    one = b"f" * 16
    others = ([b"visits", b"7"], [b"f" * 17, b"7"], [one, b"0"], [one, b"many"], [one, b"1.5"], [one, b"1" * 10])
    for foreign in (None, b"C", [*reply, one, b"7"], *others):
        with pytest.raises(ValueError, match=r"."):
            read_holders(foreign)


def test_what_was_told_and_not_understood_is_named() -> None:
    assert read_told(b"") == ()
    assert read_told(b"0,3") == (0, 3)


class TestMerge:
    ASK = (seat("a"), token("t"), seat("b"), member("ann", "r"))

    def test_one_answer_stands(self) -> None:
        assert merge(self.ASK, [Part((0, 1, 2, 3), Granted((1,), (4, 5, 6)))]) == Granted((1,), (4, 5, 6))

    def test_grants_are_put_together_in_the_order_of_the_ask(self) -> None:
        parts = [Part((1, 3), Granted((0,), (7,), (1.5,))), Part((0, 2), Granted((1,), (5, 6)))]
        assert merge(self.ASK, parts) == Granted((1, 2), (5, 6, 7), (1.5,))

    def test_the_first_broken_claim_counts_and_shadows_before_it(self) -> None:
        parts = [
            Part((1, 3), Refused(Denial(1, None, (0,)), (b"y",))),
            Part((0, 2), Refused(Denial(1, None, (0,)), (b"x",))),
        ]
        assert merge(self.ASK, parts) == Refused(Denial(2, None, (0, 1)), (b"x",))

    def test_a_conflict_is_a_refusal_like_others(self) -> None:
        refused = Part((2, 3), Refused(Denial(0, None, ()), ()))
        assert merge(self.ASK, [refused, Part((0, 1), Conflict(1))]) == Conflict(1)
        assert merge(self.ASK, [Part((0, 1, 2), Granted((), (1, 1), (0.0,))), Part((3,), Conflict(0))]) == Conflict(3)
