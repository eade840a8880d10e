"""One connection: order, deadlines, and everything that can become of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.link import CommandError
from proxy.ledger.links.redis_link import MAX_QUEUED, RedisLink, pack
from proxy.ledger.store import StoreDown
from tests.ledger.instances import PATIENCE, Heard, address_of
from tests.support.cuttable import cuttable
from tests.support.redis_servers import HOST, redis_server
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("any_parser")


@asynccontextmanager
async def linked(address: StoreAddress, deadline: float = 2.0) -> AsyncIterator[RedisLink]:
    async def locate() -> Endpoint:
        return address.endpoints[0]

    link = RedisLink(address, locate, deadline, Heard())
    link.start()
    try:
        yield link
    finally:
        await link.stop()


async def connected(link: RedisLink) -> None:
    await until(lambda: link.is_usable, PATIENCE)


async def test_commands_are_run_in_order_and_each_gets_its_answer() -> None:
    async with redis_server() as server, linked(address_of(server)) as link:
        await connected(link)
        answers = [link.call((b"RPUSH", b"list", b"%d" % i)) for i in range(300)]
        assert await asyncio.gather(*answers) == list(range(1, 301))
        assert await link.call((b"LRANGE", b"list", b"0", b"2")) == [b"0", b"1", b"2"]
        assert await link.call((b"GET", b"nothing")) is None


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pings in each write of a stream, from now on."""
    counts: list[int] = []
    write = asyncio.StreamWriter.writelines

    def counted(self: asyncio.StreamWriter, data: Iterable[bytes]) -> None:
        pieces = list(data)
        counts.append(b"".join(pieces).count(b"PING"))
        write(self, pieces)

    monkeypatch.setattr(asyncio.StreamWriter, "writelines", counted)
    return counts


async def test_all_of_one_turn_goes_out_in_one_write_and_at_most_128_of_it(writes: list[int]) -> None:
    async with redis_server() as server, linked(address_of(server)) as link:
        await connected(link)
        for calls, wanted in ((1, [1]), (128, [128]), (300, [128, 128, 44])):
            writes.clear()
            answers = [link.call((b"PING",)) for _ in range(calls)]
            assert set(await asyncio.gather(*answers)) == {b"PONG"}
            assert writes == wanted


async def test_many_who_ask_in_one_turn_share_a_write(writes: list[int]) -> None:
    async with redis_server() as server, linked(address_of(server)) as link:
        await connected(link)

        async def ask() -> object:
            return await link.call((b"PING",))

        writes.clear()
        before = link.commands
        for turn in range(1, 4):
            await asyncio.gather(*(ask() for _ in range(100)))
            assert writes == [100] * turn
        assert link.commands - before == 300


async def test_an_error_of_one_command_is_its_own() -> None:
    async with redis_server() as server, linked(address_of(server)) as link:
        await connected(link)
        wrong, right = link.call((b"HGET", b"k")), link.call((b"SET", b"k", b"v"))
        with pytest.raises(CommandError, match="wrong number"):
            await wrong
        assert await right == b"OK"
        assert link.is_usable


async def test_whoever_asks_while_nobody_is_there_hears_it_at_once() -> None:
    async with linked(StoreAddress((Endpoint(HOST, 1),))) as link:
        with pytest.raises(StoreDown) as caught:
            link.call((b"PING",))
        assert caught.value.outcome_known


async def test_no_answer_in_time_is_an_unknown_outcome_and_a_late_one_is_nobodys() -> None:
    async with redis_server() as server, linked(address_of(server), deadline=0.2) as link:
        await connected(link)
        server.freeze()
        began = time.monotonic()
        with pytest.raises(StoreDown) as caught:
            await link.call((b"INCR", b"k"))
        assert not caught.value.outcome_known
        assert time.monotonic() - began < 2.0
        server.thaw()
        await connected(link)
        assert await link.call((b"GET", b"k")) == b"1"  # it was run, once


async def test_answers_that_came_while_the_loop_stood_still_are_in_time() -> None:
    async with redis_server() as server, linked(address_of(server), deadline=0.1) as link:
        await connected(link)
        asked = [link.call((b"INCR", b"k")) for _ in range(3)]
        await asyncio.sleep(0.01)
        time.sleep(0.5)  # noqa: ASYNC251 -- the loop stands still
        assert await asyncio.gather(*asked) == [1, 2, 3]
        assert link.is_usable


async def test_after_some_silence_nobody_waits_until_a_probe_came_through() -> None:
    async with redis_server() as server, linked(address_of(server), deadline=0.1) as link:
        await connected(link)
        ups: list[bool] = []
        link.up = ups.append
        server.freeze()
        for _ in range(3):
            with pytest.raises(StoreDown):
                await link.call((b"PING",))
        assert not link.is_usable
        with pytest.raises(StoreDown):
            link.call((b"PING",))
        server.thaw()
        await connected(link)
        assert len(ups) == 1


async def test_a_dead_path_is_given_up_for_a_new_connection() -> None:
    async with redis_server() as server, cuttable(server.port) as cut, linked(address_of(server, cut.port), deadline=0.2) as link:
        await connected(link)
        lost: list[str] = []
        link.down = lost.append
        cut.half_open()
        with suppress(StoreDown):
            await link.call((b"PING",))
        await until(lambda: lost and link.is_usable, PATIENCE)
        assert await link.call((b"PING",)) == b"PONG"


async def test_a_lost_connection_fails_what_was_asked_at_once() -> None:
    async with redis_server() as server, linked(address_of(server), deadline=30.0) as link:
        await connected(link)
        server.freeze()
        asked = link.call((b"PING",))
        await asyncio.sleep(0.05)
        server.kill()
        with pytest.raises(StoreDown) as caught:
            await asyncio.wait_for(asked, PATIENCE)
        assert not caught.value.outcome_known


async def test_a_server_that_takes_no_more_connections_is_said_and_tried_again() -> None:
    async with redis_server() as server, server.client() as only:
        await only.config_set("maxclients", 1)
        async with linked(address_of(server)) as link:
            await until(lambda: "max number of clients" in link.reason, PATIENCE)
            assert not link.is_usable
            await only.config_set("maxclients", 10)
            await connected(link)


async def test_what_waits_is_bounded() -> None:
    async with redis_server() as server, linked(address_of(server)) as link:
        await connected(link)
        answers = [link.call((b"PING",)) for _ in range(MAX_QUEUED)]
        with pytest.raises(StoreDown):
            link.call((b"PING",))
        assert set(await asyncio.gather(*answers)) == {b"PONG"}


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def impostor(talk: Talk) -> AsyncIterator[StoreAddress]:
    """Something that listens and is no Redis."""
    server = await asyncio.start_server(talk, HOST, 0)
    try:
        yield StoreAddress((Endpoint(HOST, server.sockets[0].getsockname()[1]),))
    finally:
        server.close()


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*zz\r\n",
        b"$-7\r\n",
        b"+OK\r\n" * 1000,
        b"\x00" * 100,
        b":1e400\r\n",
        b"*1\r\n" * 5000,
        b"*-9\r\n+OK\r\n",
    ],
)
async def test_whoever_speaks_something_else_is_never_believed(words: bytes) -> None:
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(100)
        writer.write(words)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    async with impostor(talk) as address, linked(address) as link:
        believed: list[bool] = []
        link.up = believed.append
        await until(lambda: asked >= 2, PATIENCE)
        assert not believed
        assert not link.is_usable
        assert "\n" not in link.reason


def test_commands_are_packed_as_redis_reads_them() -> None:
    assert pack([(b"GET", b"k\r\n"), (b"PING",)]) == b"*2\r\n$3\r\nGET\r\n$3\r\nk\r\n\r\n*1\r\n$4\r\nPING\r\n"
