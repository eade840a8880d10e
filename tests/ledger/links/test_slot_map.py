"""What a node says of who has which slots."""

from __future__ import annotations

import pytest

from proxy.ledger.links.addresses import Endpoint
from proxy.ledger.links.slot_map import SLOTS, read_slots

FIRST, SECOND = Endpoint("10.0.0.1", 7000), Endpoint("10.0.0.2", 7001)


def test_all_slots_and_their_masters_are_read_and_replicas_are_not() -> None:
    found = read_slots(
        [[0, 5460, [b"10.0.0.1", 7000, b"id"]], [5461, 16383, [b"10.0.0.2", 7001, b"id"], [b"10.0.0.3", 7002, b"id"]]], "seed"
    )
    assert found.shares == ((range(5461), FIRST), (range(5461, SLOTS), SECOND))
    assert found.is_whole
    assert found.masters == {FIRST, SECOND}


@pytest.mark.parametrize("host", [b"", None])
def test_a_node_without_an_address_is_where_we_asked(host: bytes | None) -> None:
    assert read_slots([[0, 9, [host, 7001, b"id"]]], "seed").masters == {Endpoint("seed", 7001)}


@pytest.mark.parametrize(
    ("shares", "covered"),
    [([], 0), ([(0, 0)], 1), ([(0, 99), (50, 149)], 150), ([(0, 16382)], SLOTS - 1), ([(0, 8000), (8002, 16383)], SLOTS - 1)],
)
def test_slots_without_a_master_are_missed_and_none_counts_twice(shares: list[tuple[int, int]], covered: int) -> None:
    found = read_slots([[first, last, [b"h", 1, b"id"]] for first, last in shares], "seed")
    assert found.covered == covered
    assert not found.is_whole


@pytest.mark.parametrize("reply", [b"OK", [[0, 16384, [b"h", 1, b"id"]]], [[5, 4, [b"h", 1, b"id"]]], [[-1, 4, [b"h", 1, b"id"]]]])
def test_what_are_no_slots_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match=r"slots|SLOTS"):
        read_slots(reply, "seed")
