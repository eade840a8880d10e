"""What this instance does while the shared store does not decide."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf

import pytest

from proxy.ledger.addresses import Endpoint, StoreAddress
from proxy.ledger.fallback_store import FallbackStore, OnStoreDown
from proxy.ledger.store import Store, StoreDown, StoreState
from tests.ledger.instances import Heard, address_of, instance, the_server_has
from tests.ledger.store_contract import NOW, ClockContract, StoreContract, ask, denied, granted, held, member, seat, token
from tests.support.redis_servers import HOST, free_port, redis_server


def nowhere() -> StoreAddress:
    return StoreAddress((Endpoint(HOST, free_port()),))


class TestContractAlone(StoreContract):
    """Without any server it is a store of one instance."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            assert one.store.state is StoreState.DOWN
            yield one.store


class TestClockAlone(ClockContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            yield one.store


async def test_the_start_says_why_it_does_not_decide() -> None:
    async with instance(nowhere()) as one:
        assert one.reason is not None
        assert "Connect call failed" in one.reason
        assert isinstance(one.heard, Heard)


async def test_open_admits_everybody() -> None:
    async with instance(nowhere(), on_store_down=OnStoreDown.OPEN) as one:
        for _ in range(3):
            assert (await granted(one.store, seat(), member("ann"), token(rate=0))).over == ()
        assert held(one.store) == {"rule-seats": 3, "rule-room": 1}


async def test_closed_admits_nobody_and_touches_nobody() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2, on_store_down=OnStoreDown.CLOSED) as one:
        grant = await granted(one.store, seat())
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreDown):
                await ask(one.store, seat("other"))
        assert held(one.store) == {"rule-seats": 1}
        one.store.release(grant)
        await server.start()
        await one.up()
        await the_server_has(server, {})
        await granted(one.store, seat())


async def test_a_batch_that_cannot_be_finished_holds_nothing() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2, on_store_down=OnStoreDown.CLOSED) as one:
        server.freeze()
        with pytest.raises(StoreDown):
            await one.store.admit([[seat("a")], [seat("b")], [seat("c")]], NOW)
        server.thaw()
        assert held(one.store) == {}
        await one.up()
        await the_server_has(server, {})


async def test_upgrades_are_shared_by_as_many_as_were_last_listed() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one, instance(address_of(server)) as other:
        await one.store._shared.keeper._beat(one.holder or b"")
        server.kill()
        await other.crash()
        for _ in range(5):
            await granted(one.store, token(rate=0.002, burst=10))
        assert (await denied(one.store, token(rate=0.002, burst=10))).retry_after == pytest.approx(1000, rel=0.01)
        assert (await denied(one.store, token("never", rate=0))).retry_after == inf


async def test_buckets_of_frames_are_this_instances_own() -> None:
    async with instance(nowhere()) as one:
        store: FallbackStore = one.store
        bucket = store.open_bucket(b"k", 1.0, 2.0, NOW)
        assert bucket.take(2.0, NOW)
        store.close_bucket(b"k", bucket)
        assert len(store) == 1
        store.sweep(NOW + 10)
        assert len(store) == 0
