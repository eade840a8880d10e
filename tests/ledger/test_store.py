"""The values of the store's contract. What they mean is told by store_contract.py over each implementation."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import inf

import pytest

from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.store import Denial, Grant, SeatClaim, Store, TokenClaim


def test_claims_enforce_and_count_connections_unless_told_otherwise() -> None:
    seat = SeatClaim("rule", b"key", 3)
    assert not seat.shadow
    assert seat.member is None
    assert not TokenClaim("rule", b"key", 1.0, 2.0).shadow


def test_claims_and_denials_cannot_be_changed() -> None:
    denial = Denial(0, inf, ())
    with pytest.raises(FrozenInstanceError):
        denial.broken = 1  # type: ignore[misc]  # that it cannot be assigned is the test
    assert denial == Denial(0, inf, ())


def test_a_grant_is_itself_alone_so_that_a_release_can_be_told_from_another() -> None:
    assert Grant((), ()) != Grant((), ())


def test_the_memory_store_is_a_store() -> None:
    store: Store = MemoryStore()
    assert store.seats() == {}
