"""The channel on which the store tells an instance things: heard, lost, and found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.ledger.links import subscription
from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.subscription import Subscription
from tests.ledger.instances import address_of
from tests.support.cuttable import cuttable
from tests.support.redis_servers import HOST, RedisServer, redis_server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("any_parser")

CHANNEL = b"test:i:me"


class Ears:
    """What was heard, and whether anything is heard."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.hears = False
        self.times = 0  # that it began to hear
        self.denials: list[str] = []

    def listen(self, hears: bool) -> None:
        self.hears = hears
        self.times += hears


@asynccontextmanager
async def listening(server: RedisServer, port: int | None = None) -> AsyncIterator[Ears]:
    async def locate() -> Endpoint:
        return Endpoint(HOST, port or server.port)

    ears = Ears()
    one = Subscription(address_of(server), locate, CHANNEL, ears.messages.append, ears.listen, ears.denials.append)
    one.start()
    try:
        await until(lambda: ears.hears, PATIENCE)
        yield ears
    finally:
        await one.stop()
    assert not ears.hears


async def test_hears_its_own_channel_and_no_other() -> None:
    async with redis_server() as server, listening(server) as ears:
        await server.ask("PUBLISH", "test:i:other", "not for us")
        await server.ask("PUBLISH", CHANNEL, b"\x00\xff")
        await until(lambda: ears.messages, PATIENCE)
        assert ears.messages == [b"\x00\xff"]


@pytest.mark.parametrize("cut", [lambda server: server.ask("CLIENT", "KILL", "TYPE", "pubsub"), lambda server: server.restart()])
async def test_knows_that_it_hears_nothing_and_hears_again(cut: Callable[[RedisServer], Awaitable[object]]) -> None:
    async with redis_server(password="secret") as server, listening(server) as ears:
        await cut(server)
        await until(lambda: not ears.hears or ears.times > 1, PATIENCE)
        await until(lambda: ears.hears, PATIENCE)
        await server.ask("PUBLISH", CHANNEL, "again")
        await until(lambda: ears.messages == [b"again"], PATIENCE)


async def test_whom_the_server_does_not_let_listen_is_told_why_and_hears_when_it_does() -> None:
    async with redis_server() as server, listening(server) as ears:
        await server.ask("ACL", "SETUSER", "default", "resetchannels")  # which ends the connection
        await until(lambda: ears.denials, PATIENCE)
        assert "channel" in ears.denials[0].lower()
        assert not ears.hears
        await server.ask("ACL", "SETUSER", "default", "allchannels")
        await until(lambda: ears.hears, PATIENCE)


async def test_a_path_that_died_without_a_word_is_noticed_and_a_quiet_one_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "INTERVAL", 0.2)
    async with redis_server() as server, cuttable(server.port) as link, listening(server, link.port) as ears:
        await until(lambda: link.to_client > 100, PATIENCE)  # some pings were answered
        assert link.connections == 1
        link.hold()
        await until(lambda: not ears.hears, PATIENCE)
        await link.forward()
        await until(lambda: ears.hears, PATIENCE)


@asynccontextmanager
async def speaking(*words: bytes) -> AsyncIterator[tuple[Ears, list[asyncio.Task[None] | None]]]:
    """Something that takes the subscription, and says each of these words when it is asked for one. What was heard of it, and its
    conversations."""
    talks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(CHANNEL + b"\r\n")
            writer.write(b"*3\r\n$9\r\nsubscribe\r\n$9\r\ntest:i:me\r\n:1\r\n")
            for word in words:
                writer.write(word)
                await reader.readuntil(b"PING\r\n")
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(talk, HOST, 0)
    port = server.sockets[0].getsockname()[1]

    async def locate() -> Endpoint:
        return Endpoint(HOST, port)

    ears = Ears()
    one = Subscription(StoreAddress(()), locate, CHANNEL, ears.messages.append, ears.listen, ears.denials.append)
    one.start()
    try:
        yield ears, talks
    finally:
        await one.stop()
        server.close()
        await asyncio.gather(*filter(None, talks))


async def test_a_message_that_comes_in_pieces_is_heard_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "INTERVAL", 0.1)  # between them it is asked for a word
    pong = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
    async with speaking(b"*3\r\n$7\r\nmessage\r\n$9\r\ntest:i", b":me\r\n$4\r\ny\r\nx\r\n" + pong, pong) as (ears, talks):
        await until(lambda: ears.messages, PATIENCE)
        assert ears.messages == [b"y\r\nx"]
        assert len(talks) == 1


@pytest.mark.parametrize(
    "words",
    [b"HTTP/1.1 400\r\n", b"*zz\r\n", b"*1\r\n" * 5000 + b":1\r\n", b">1\r\n+x\r\n" * 5000, b"%1\r\n*0\r\n:1\r\n", b"-NOAUTH x\r\n"],
    ids=["http", "length", "nested", "pushed", "map", "error"],
)
async def test_whoever_says_what_no_redis_says_is_tried_again_and_again(words: bytes) -> None:
    async with speaking(words) as (ears, talks):
        await until(lambda: len(talks) >= 3, PATIENCE)
        assert ears.messages == []
