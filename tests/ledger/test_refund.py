"""The script that gives a token back, on a real server: what another slot of a Cluster refused was not spent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.ledger.scripts import REFUND, Keys
from tests.ledger.store_contract import token
from tests.support.redis_servers import FLAVOURS, Flavour, RedisServer, redis_server

NAME = "test:u:{tokens}"
HOUR = 3600  # seconds


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.value)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    flavour: Flavour = request.param
    async with redis_server(flavour) as one:
        yield one


async def refund(server: RedisServer, burst: float = 4.0) -> object:
    async with server.client(decode_responses=False) as client:
        await client.script_load(REFUND.source)
        return await client.execute_command(*Keys("test:", listed=False).refund(token(burst=burst)))


async def test_a_token_comes_back_and_nothing_else_changes(server: RedisServer) -> None:
    await server.ask("SET", NAME, "1.25 1700000000.5", "EX", HOUR)
    assert await refund(server) == 1
    assert await server.ask("GET", NAME) == "2.25 1700000000.5"
    assert HOUR - 60 < await server.ask("TTL", NAME) <= HOUR


async def test_a_bucket_never_has_more_than_its_burst(server: RedisServer) -> None:
    await server.ask("SET", NAME, "3.5 1700000000.5", "EX", HOUR)
    for _ in range(2):
        assert await refund(server) == 1
        assert await server.ask("GET", NAME) == "4 1700000000.5"


async def test_a_bucket_that_is_not_there_is_full_and_stays_so(server: RedisServer) -> None:
    assert await refund(server) == 1
    assert await server.ask("KEYS", "*") == []


@pytest.mark.parametrize("text", ["nonsense", "0x10 5", "1 5 9", "1.2.3 5", ""])
async def test_a_text_that_is_not_ours_stays_as_it_is(server: RedisServer, text: str) -> None:
    await server.ask("SET", NAME, text)
    assert await refund(server) == 1
    assert await server.ask("GET", NAME) == text


async def test_a_key_of_another_type_stays_as_it_is(server: RedisServer) -> None:
    await server.ask("RPUSH", NAME, "mine")
    assert await refund(server) == 1
    assert await server.ask("LRANGE", NAME, 0, -1) == ["mine"]
