"""The link that other tests cut: what passes, what does not, and what comes later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.cuttable import Cuttable, cuttable
from tests.support.raw import PATIENCE, RawStream
from tests.support.waiting import until


class Echo:
    """A server that echoes, and remembers what came."""

    def __init__(self) -> None:
        self.heard = b""
        self.begun = 0
        self.ended = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.begun += 1
        try:
            while data := await reader.read(1024):
                self.heard += data
                writer.write(data)
        except ConnectionError:
            pass
        self.ended += 1
        writer.close()


@asynccontextmanager
async def link() -> AsyncIterator[tuple[Cuttable, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.talk, "127.0.0.1", 0)
    try:
        async with cuttable(server.sockets[0].getsockname()[1]) as line:
            yield line, echo
        await until(lambda: echo.ended == echo.begun)
    finally:
        server.close()


@asynccontextmanager
async def client(line: Cuttable) -> AsyncIterator[RawStream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        yield RawStream(reader, writer)
    finally:
        writer.close()


async def silent(stream: RawStream) -> bool:
    """Nothing comes for a while, and no end."""
    try:
        await asyncio.wait_for(stream.reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


async def says(stream: RawStream, text: bytes) -> None:
    await stream.send(text)
    assert await stream.exactly(len(text)) == text


async def test_a_whole_link_passes_everything_and_counts() -> None:
    async with link() as (line, echo), client(line) as stream:
        await says(stream, b"hello")
        stream.writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            assert await stream.reader.read() == b""
        assert (line.connections, line.to_server, line.to_client) == (1, 5, 5)
    await until(lambda: echo.ended == 1 and not line.open_connections)


async def test_what_is_held_comes_later() -> None:
    async with link() as (line, echo), client(line) as old:
        await says(old, b"a")
        line.hold()
        await old.send(b"b")
        async with client(line) as new:
            await new.send(b"c")
            assert await silent(old)
            assert await silent(new)
            assert echo.heard == b"a"
            await line.forward()
            assert await old.exactly(1) == b"b"
            assert await new.exactly(1) == b"c"


async def test_a_refused_link_resets_and_refuses_and_is_back_on_its_port() -> None:
    async with link() as (line, _), client(line) as old:
        await says(old, b"a")
        port = line.port
        line.refuse()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await old.exactly(1)
        with pytest.raises(ConnectionRefusedError):
            async with client(line):
                pass
        await line.forward()
        assert line.port == port
        async with client(line) as new:
            await says(new, b"b")


async def test_lost_replies_are_done_and_never_told() -> None:
    async with link() as (line, echo), client(line) as old:
        await says(old, b"a")
        line.lose_replies()
        async with client(line) as new:
            await old.send(b"b")
            await new.send(b"c")
            await until(lambda: len(echo.heard) == 3)
            await line.forward()
            assert await silent(old)
            assert await silent(new)
        async with client(line) as later:
            await says(later, b"d")


async def test_a_half_open_connection_is_gone_for_the_server_alone() -> None:
    async with link() as (line, echo), client(line) as old:
        await says(old, b"a")
        line.half_open()
        await until(lambda: echo.ended == 1)
        await old.send(b"b")
        assert await silent(old)
        async with client(line) as new:
            await says(new, b"c")
        assert echo.heard == b"ac"


async def test_a_delay_is_for_each_direction_and_keeps_the_order() -> None:
    async with link() as (line, _), client(line) as stream:
        await says(stream, b"a")
        loop = asyncio.get_running_loop()
        started = loop.time()
        line.delay = 0.1
        await says(stream, b"b")
        assert round(loop.time() - started, 3) >= 0.2  # its clock has milliseconds
        await stream.send(b"c")
        await until(lambda: line.to_server == 3)
        line.delay = 0.0
        await says_all(stream, b"d", b"cd")


async def says_all(stream: RawStream, text: bytes, answer: bytes) -> None:
    await stream.send(text)
    assert await stream.exactly(len(answer)) == answer


async def test_what_was_sent_after_a_delay_stays_behind_what_is_on_its_way() -> None:
    async with link() as (line, _), client(line) as stream:
        line.delay = 0.2
        text = b"0123456789"
        for number, digit in enumerate(text):
            await stream.send(bytes([digit]))
            await until(lambda number=number: line.to_server == number + 1)  # type: ignore[misc]  # a lambda's default
            line.delay = 0.0
        assert await stream.exactly(len(text)) == text


async def test_a_loop_that_stood_still_brings_nothing_forward() -> None:
    """What was on its way is due then, and what was sent later can be read."""
    async with link() as (line, _), client(line) as stream:
        line.delay = 0.05
        await stream.send(b"a")
        await until(lambda: line.to_server == 1)
        line.delay = 0.0
        await stream.send(b"b")
        time.sleep(0.1)  # noqa: ASYNC251 -- the whole loop stands still
        assert await stream.exactly(2) == b"ab"
