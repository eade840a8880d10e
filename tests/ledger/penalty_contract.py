"""The contract of `proxy.ledger.store` about penalties, for each store that keeps them. A store's test module inherits the class and
brings a fixture `store`. The clock is the argument `now`."""

from __future__ import annotations

import pytest

from proxy.ledger.store import Denial, PenaltyClaim, Store
from tests.ledger.store_contract import NOW, ask, denied, granted, held, seat, token


def penalty(key: str = "ann") -> PenaltyClaim:
    return PenaltyClaim("rule", key.encode())


class PenaltyContract:
    async def test_a_claim_is_granted_where_there_is_none_and_takes_nothing(self, store: Store) -> None:
        for _ in range(3):
            grant = await granted(store, penalty())
            assert held(store) == {}
            store.release(grant)

    async def test_it_keeps_its_key_out_until_it_is_over_and_no_other(self, store: Store) -> None:
        store.penalize(b"ann", 30.0, NOW)
        assert await denied(store, penalty(), now=NOW) == Denial(0, 30.0, ())
        assert await denied(store, penalty(), now=NOW + 29.5) == Denial(0, 0.5, ())
        await granted(store, penalty("bob"), now=NOW)
        await granted(store, penalty(), now=NOW + 30)

    async def test_a_shorter_one_does_not_end_a_longer_one(self, store: Store) -> None:
        store.penalize(b"ann", 30.0, NOW)
        store.penalize(b"ann", 1.0, NOW + 1)
        assert await denied(store, penalty(), now=NOW + 2) == Denial(0, 28.0, ())

    async def test_a_denial_takes_neither_seat_nor_token(self, store: Store) -> None:
        store.penalize(b"ann", 30.0, NOW)
        assert await denied(store, seat(), token(), penalty()) == Denial(2, 30.0, ())
        assert held(store) == {}
        await granted(store, seat(), token())

    async def test_the_first_broken_claim_is_named(self, store: Store) -> None:
        store.penalize(b"ann", 30.0, NOW)
        assert await denied(store, seat(limit=0), penalty()) == Denial(0, None, ())
        assert await denied(store, seat("shadow", 0, shadow=True), penalty(), seat(limit=0)) == Denial(1, 30.0, (0,))

    @pytest.mark.parametrize("opens", [True, False])
    async def test_it_is_no_bucket_though_its_key_may_be_that_of_one(self, store: Store, opens: bool) -> None:
        if opens:
            store.open_bucket(b"ann", 1.0, 1.0, NOW)
        store.penalize(b"ann", 30.0, NOW)
        await granted(store, token("ann"))
        await denied(store, token("ann"))
        await denied(store, penalty())

    async def test_a_sweep_forgets_what_is_over_and_nothing_else(self, store: Store) -> None:
        store.penalize(b"ann", 30.0, NOW)
        store.sweep(NOW + 29)
        assert isinstance(await ask(store, penalty(), now=NOW + 29), Denial)
        store.sweep(NOW + 30)
        await granted(store, penalty(), now=NOW + 30)
