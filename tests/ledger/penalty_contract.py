"""The contract of `proxy.ledger.store` about penalties. A store's test module inherits the classes and brings a fixture `store`.

`PenaltyContract` asks nothing of the clock; `PenaltyClockContract` is for stores whose clock is the argument `now`.
"""

from __future__ import annotations

from math import inf

import pytest

from proxy.ledger.store import Denial, PenaltyClaim, Store, TokenClaim
from tests.ledger.store_contract import NOW, ask, denied, granted, held, seat, token

ANN = b"rule:ann"


def penalty(key: str = "ann", left: float = 0.0) -> PenaltyClaim:
    return PenaltyClaim("rule", b"rule:" + key.encode(), left)


class PenaltyContract:
    async def test_a_claim_is_granted_where_there_is_none_and_takes_nothing(self, store: Store) -> None:
        for _ in range(3):
            grant = await granted(store, penalty())
            assert held(store) == {}
            store.release(grant)

    async def test_a_penalty_keeps_its_key_out_and_no_other(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        answer = await denied(store, penalty())
        assert answer == Denial(0, pytest.approx(30.0, abs=5.0), ())
        await granted(store, penalty("bob"))

    async def test_a_shorter_one_does_not_end_a_longer_one_and_a_longer_one_counts(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        store.penalize(ANN, 1.0, NOW)
        assert (await denied(store, penalty())).retry_after == pytest.approx(30.0, abs=5.0)
        store.penalize(ANN, 60.0, NOW)
        assert (await denied(store, penalty())).retry_after == pytest.approx(60.0, abs=5.0)

    async def test_a_denial_takes_neither_seat_nor_token(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        answer = await denied(store, seat(), token(), penalty())
        assert (answer.broken, answer.over) == (2, ())
        assert held(store) == {}
        await granted(store, seat(), token())

    async def test_the_first_broken_claim_is_named(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        assert await denied(store, seat(limit=0), penalty()) == Denial(0, None, ())
        answer = await denied(store, seat("shadow", 0, shadow=True), penalty(), seat(limit=0))
        assert (answer.broken, answer.over) == (1, (0,))

    async def test_what_whoever_asks_knows_counts_as_well(self, store: Store) -> None:
        assert (await denied(store, seat(), penalty(left=5.0))).retry_after == pytest.approx(5.0)
        assert (await denied(store, seat(), penalty(left=inf))).broken == 1
        store.penalize(ANN, 30.0, NOW)
        assert (await denied(store, penalty(left=5.0))).retry_after == pytest.approx(30.0, abs=5.0)
        assert held(store) == {}
        await granted(store, seat(), penalty("bob"))

    @pytest.mark.parametrize("opens", [True, False])
    async def test_it_is_no_bucket_though_its_key_may_be_that_of_one(self, store: Store, opens: bool) -> None:
        if opens:
            store.open_bucket(ANN, 1.0, 1.0, NOW)
        store.penalize(ANN, 30.0, NOW)
        claim = TokenClaim("rule", ANN, 0.001, 1.0)
        await granted(store, claim)
        await denied(store, claim)
        await denied(store, penalty())


class PenaltyClockContract:
    async def test_it_lasts_until_it_is_over(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        assert await denied(store, penalty(), now=NOW) == Denial(0, 30.0, ())
        assert await denied(store, penalty(), now=NOW + 29.5) == Denial(0, 0.5, ())
        await granted(store, penalty(), now=NOW + 30)

    async def test_a_later_and_shorter_one_does_not_end_a_longer_one(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        store.penalize(ANN, 1.0, NOW + 1)
        assert await denied(store, penalty(), now=NOW + 2) == Denial(0, 28.0, ())

    async def test_a_sweep_forgets_what_is_over_and_nothing_else(self, store: Store) -> None:
        store.penalize(ANN, 30.0, NOW)
        store.sweep(NOW + 29)
        assert isinstance(await ask(store, penalty(), now=NOW + 29), Denial)
        store.sweep(NOW + 30)
        await granted(store, penalty(), now=NOW + 30)
