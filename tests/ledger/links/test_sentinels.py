"""A master that Sentinels watch: found, lost, and found again where it is now."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.ledger.links import sentinels as sentinels_of_a_link
from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.links.sentinels import Sentinels
from proxy.ledger.store import StoreDown, StoreState
from tests.ledger.instances import PATIENCE, instance, the_server_has
from tests.ledger.store_contract import denied, granted, member, seat
from tests.support.redis_servers import HOST, SERVICE, RedisServer, free_port, redis_server, sentinels
from tests.support.waiting import until


def watched_by(*ports: int, service: str = SERVICE, password: str | None = None) -> StoreAddress:
    endpoints = tuple(Endpoint(HOST, port) for port in ports)
    return StoreAddress(endpoints, Topology.SENTINEL, service, password=password)


@pytest.mark.long
async def test_after_a_failover_everything_is_told_to_the_new_master() -> None:
    async with sentinels(password="secret") as trio:
        address = watched_by(*(one.port for one in trio.watchers), password="secret")
        async with instance(address, deadline=0.2) as one, instance(address, deadline=0.2) as other:
            for i in range(20):
                await granted((one, other)[i % 2].store, seat("all", 20), member(f"user {i}", "room", 20))
            old = await trio.master()
            old.kill()
            await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
            new = await trio.new_master(old)
            found = time.monotonic()
            await one.up()
            await other.up()
            assert time.monotonic() - found < 5.0
            await the_server_has(new, {"all": 20, "room": 20}, 5.0)
            await denied(other.store, seat("all", 20))


async def test_a_sentinel_that_is_away_does_not_matter() -> None:
    async with sentinels() as trio:
        master = await trio.master()
        frozen, *living = trio.watchers
        frozen.freeze()
        search = Sentinels(watched_by(frozen.port, free_port(), *(one.port for one in living)))
        assert await search.locate() == Endpoint(HOST, master.port)
        began = time.monotonic()
        assert await search.locate() == Endpoint(HOST, master.port)  # nobody else's word could change it
        assert time.monotonic() - began < 0.25


async def test_one_that_is_wrong_is_not_believed_while_most_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started anew with its first configuration, and finds nobody there who could tell it better."""
    monkeypatch.setattr(sentinels_of_a_link, "SENTINEL_TIMEOUT", PATIENCE)
    async with sentinels() as trio:
        master = Endpoint(HOST, (await trio.master()).port)
        wrong, *right = trio.watchers
        await mislead(wrong, free_port())
        for one in right:
            one.freeze()
        asking = asyncio.create_task(Sentinels(watched_by(*(one.port for one in trio.watchers))).locate())
        await asyncio.wait({asking}, timeout=0.3)
        assert not asking.done()
        for one in right:
            one.thaw()
        assert await asking == master
        async with instance(watched_by(*(one.port for one in trio.watchers))) as gate:
            await gate.up()


async def test_where_two_disagree_both_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them says that the replica is the master."""
    monkeypatch.setattr(sentinels_of_a_link, "SENTINEL_TIMEOUT", PATIENCE)
    async with sentinels() as trio:
        nodes = [Endpoint(HOST, node.port) for node in trio.nodes]
        first, second, away = trio.watchers
        away.kill()
        await mislead(first, (await trio.replica()).port)
        search = Sentinels(watched_by(first.port, second.port, away.port))
        found = [await search.locate() for _ in range(4)]
        assert sorted(found[:2], key=str) == sorted(nodes, key=str)
        assert found[2:] == found[:2]
        for watchers in ((first, second), (second, first)):
            async with instance(watched_by(*(one.port for one in watchers))) as gate:
                await gate.up()


async def mislead(watcher: RedisServer, port: int) -> None:
    """From now on it says that the master is there."""
    await watcher.ask("SENTINEL", "REMOVE", SERVICE)
    await watcher.ask("SENTINEL", "MONITOR", SERVICE, HOST, port, 2)


async def test_an_unknown_service_is_said() -> None:
    async with sentinels() as trio:
        with pytest.raises(StoreDown, match="knows no master other"):
            await Sentinels(watched_by(trio.watchers[0].port, service="other")).locate()


@pytest.mark.usefixtures("any_parser")
async def test_what_is_no_sentinel_is_said() -> None:
    async with redis_server() as server:
        with pytest.raises(StoreDown, match="unknown command"):
            await Sentinels(watched_by(server.port)).locate()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreDown, match="Connect call failed"):
                await Sentinels(watched_by(free_port())).locate()


@pytest.mark.parametrize(
    "words", [b"*2\r\n:1\r\n:2\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*1\r\n" * 2000 + b"$-1\r\n", b"HTTP/1.1 400\r\n"]
)
@pytest.mark.usefixtures("any_parser")
async def test_a_sentinel_that_talks_nonsense_is_passed_over_and_named(words: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(SERVICE.encode() + b"\r\n")
        writer.write(words)
        writer.close()

    async with await asyncio.start_server(talk, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreDown, match=f"the Sentinel at {HOST}:{port}: .") as caught:
            await Sentinels(watched_by(port)).locate()
        assert "\n" not in str(caught.value)
