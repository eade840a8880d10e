"""Seats and upgrade tokens through a real server: the contract, then what only a shared store must keep."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.ledger.store import Store, StoreState
from tests.ledger.instances import address_of, instance
from tests.ledger.store_contract import StoreContract
from tests.support.redis_servers import FLAVOURS, Flavour, RedisServer, redis_server


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.value)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    flavour: Flavour = request.param
    async with redis_server(flavour) as one:
        yield one


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    async with instance(address_of(server)) as one:
        assert one.store.state is StoreState.UP
        yield one.store
        assert one.heard.states == [StoreState.UP]  # it was the server that decided


class TestContract(StoreContract):
    pass
