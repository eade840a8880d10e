"""How connections leave: the last word arrives, and nobody stays for ever."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from proxy.server import linger as linger_module
from proxy.server.linger import FULL, MAX_WALKED, Lingering
from proxy.server.timing_wheel import TimingWheel
from proxy.server.turns import Turns
from proxy.wire.frames import TURN, FrameWalker, build_close
from tests.support.raw import RawStream
from tests.support.waiting import until
from tests.wire.streams import encode

OURS = build_close(4008, "too fast")
THEIRS = encode(0x88, b"\x0f\xa8", b"abcd")
PING = encode(0x89, b"", b"abcd")
MESSAGE = encode(0x82, bytes(10_000), b"abcd")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.Transport, RawStream]]:
    """A transport of ours, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = RawStream(*await asyncio.open_connection(*server.getsockname()))
        near, _ = server.accept()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
    try:
        yield transport, peer
    finally:
        peer.writer.close()


@pytest.fixture
async def lingering() -> AsyncIterator[Lingering]:
    loop = asyncio.get_running_loop()
    one = Lingering(TimingWheel(loop), Turns(loop), most=2)
    yield one
    await until(lambda: not len(one))


async def test_the_last_word_is_followed_by_the_end_while_the_peer_still_sends(lingering: Lingering) -> None:
    async with connected() as (transport, peer):
        transport.write(OURS)
        lingering.adopt(transport, FrameWalker(masked=True))
        for _ in range(100):
            await peer.send(MESSAGE)
        assert await peer.reader.read() == OURS
        assert len(lingering) == 1


@pytest.mark.parametrize("last", ["close", "fin", "reset"])
async def test_it_ends_with_what_the_peer_says_last(lingering: Lingering, last: str) -> None:
    async with connected() as (transport, peer):
        transport.write(OURS)
        lingering.adopt(transport, FrameWalker(masked=True))
        await peer.send(MESSAGE + (THEIRS if last == "close" else b""))
        if last == "fin":
            peer.end()
        elif last == "reset":
            peer.reset()
        await until(lambda: not len(lingering), 1.0)


@pytest.mark.parametrize("before", [0, 20 * TURN], ids=["nothing", "many"])
async def test_a_close_behind_very_many_frames_ends_it(lingering: Lingering, before: int) -> None:
    """`before`: frames that the walker still holds."""
    walker = FrameWalker(masked=True)
    walker.receive_data(PING * before, 0.0)
    async with connected() as (transport, peer):
        transport.write(OURS)
        lingering.adopt(transport, walker)
        await peer.send(PING * 20_000 + THEIRS)
        assert await peer.reader.read() == OURS
        await until(lambda: not len(lingering), 1.5)


async def test_more_is_not_read_before_all_is_looked_at(lingering: Lingering) -> None:
    walker = FrameWalker(masked=True)
    async with connected() as (transport, peer):
        walker.receive_data(PING * 20 * TURN, 0.0)
        lingering.adopt(transport, walker)
        assert not transport.is_reading()
        await until(transport.is_reading)
        assert walker.held == 0
        peer.end()


async def test_of_many_floods_one_is_walked_on_in_each_turn_and_behind_a_few_of_them_a_close_is_looked_for() -> None:
    loop = asyncio.get_running_loop()
    lingering = Lingering(TimingWheel(loop), Turns(loop))
    walkers = [FrameWalker(masked=True) for _ in range(2 * MAX_WALKED)]
    async with AsyncExitStack() as stack:
        peers = []
        for walker in walkers:
            transport, peer = await stack.enter_async_context(connected())
            walker.receive_data(PING * 20 * TURN, 0.0)
            lingering.adopt(transport, walker)
            peers.append(peer)
        before = sum(walker.controls for walker in walkers)
        await asyncio.sleep(0)
        assert sum(walker.controls for walker in walkers) - before <= TURN
        await until(lambda: all(not walker.held for walker in walkers[MAX_WALKED:]))
        assert all(walker.held for walker in walkers[:MAX_WALKED])  # and nobody holds these walkers but we
        for peer in peers:
            await peer.send(THEIRS)
        await until(lambda: len(lingering) == MAX_WALKED, 1.0)
        for peer in peers:
            peer.end()
        await until(lambda: not len(lingering), 1.0)


async def test_what_a_deaf_peer_sends_is_read_in_turns_of_its_own(lingering: Lingering) -> None:
    """A transport that goes on reading brings 8 MB in one turn of the loop."""
    async with connected() as (transport, peer):
        lingering.adopt(transport)
        protocol = transport.get_protocol()
        protocol.data_received(bytes(FULL - 1))
        assert transport.is_reading()
        protocol.data_received(bytes(FULL))
        assert not transport.is_reading()
        await until(transport.is_reading, 1.0)
        peer.end()


async def test_one_that_waits_for_a_turn_may_be_given_up(lingering: Lingering) -> None:
    async with connected() as (transport, peer):
        walker = FrameWalker(masked=True)
        walker.receive_data(PING * 20 * TURN, 0.0)
        lingering.adopt(transport, walker)
        lingering.abort()
        walked = walker.controls
        await peer.rest()
        assert walker.controls == walked


async def test_a_close_that_came_before_ends_it_at_once(lingering: Lingering) -> None:
    walker = FrameWalker(masked=True)
    walker.receive_data(THEIRS, 0.0)
    async with connected() as (transport, peer):
        transport.write(OURS)
        lingering.adopt(transport, walker)
        assert transport.is_closing()
        assert await peer.reader.read() == OURS


@pytest.mark.parametrize("bad", [b"\xff\xff", MESSAGE + b"\x81\x00", THEIRS[:1] + b"\x00"], ids=["rubbish", "unmasked", "bad Close"])
async def test_behind_a_bad_frame_it_reads_on(lingering: Lingering, bad: bytes) -> None:
    async with connected() as (transport, peer):
        transport.write(OURS)
        lingering.adopt(transport, FrameWalker(masked=True))
        await peer.send(bad)
        for _ in range(100):
            await peer.send(MESSAGE)
            await asyncio.sleep(0)
        assert await peer.reader.read() == OURS
        assert not transport.is_closing()


async def test_without_frames_only_the_end_of_the_stream_ends_it(lingering: Lingering) -> None:
    async with connected() as (transport, peer):
        transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        lingering.adopt(transport)
        await peer.send(THEIRS)
        assert await peer.reader.read()
        assert not transport.is_closing()
        peer.end()
        await until(lambda: not len(lingering), 1.0)


async def test_a_stream_that_has_ended_gets_what_was_written_and_no_more_time(lingering: Lingering) -> None:
    async with connected() as (transport, peer):
        transport.write(MESSAGE * 100)
        lingering.adopt(transport, heard=True)
        assert transport.is_closing()
        assert await peer.reader.read() == MESSAGE * 100
        await until(lambda: not len(lingering), 1.0)


@pytest.mark.parametrize("reads", [True, False])
async def test_it_is_bounded_in_time(reads: bool, lingering: Lingering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger_module, "LINGER", 0.1)
    monkeypatch.setattr(linger_module, "LAST_BYTES", 0.3)
    async with connected() as (transport, peer):
        began = time.monotonic()
        if not reads:
            peer.writer.transport.pause_reading()
            transport.write(bytes(40_000_000))
        transport.write(OURS)
        lingering.adopt(transport, FrameWalker(masked=True))
        await until(lambda: not len(lingering), 1.0)
        assert time.monotonic() - began > (0.09 if reads else 0.35)
        assert transport.is_closing()


async def test_a_slow_reader_gets_what_was_written_before_our_last_word(lingering: Lingering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger_module, "LINGER", 0.1)
    async with connected() as (transport, peer):
        peer.writer.transport.pause_reading()
        transport.write(bytes(10_000_000))
        transport.write(OURS)
        lingering.adopt(transport, FrameWalker(masked=True))
        await asyncio.sleep(0.3)  # it stalls for three times as long as others may linger
        peer.writer.transport.resume_reading()
        assert (await peer.reader.read(-1)).endswith(OURS)


async def test_it_is_bounded_in_number_and_the_oldest_gives_way(lingering: Lingering) -> None:
    async with connected() as (first, one), connected() as (second, two), connected() as (third, three):
        for transport in (first, second, third):
            transport.write(OURS)
            lingering.adopt(transport)
        assert len(lingering) == 2
        assert first.is_closing()
        assert not second.is_closing()
        assert await two.reader.read() == await three.reader.read() == OURS
        assert not third.is_closing()
        await one.rest()


async def test_a_transport_that_was_not_reading_reads(lingering: Lingering) -> None:
    async with connected() as (transport, peer):
        transport.pause_reading()
        lingering.adopt(transport)
        peer.end()
        await until(lambda: not len(lingering), 1.0)


async def test_a_transport_that_is_lost_already_is_soon_forgotten(lingering: Lingering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger_module, "LINGER", 0.1)
    async with connected() as (transport, _):
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        lingering.adopt(transport, FrameWalker(masked=True))
        await until(lambda: not len(lingering), 1.0)


async def test_abort_ends_them_all(lingering: Lingering) -> None:
    async with connected() as (first, one), connected() as (second, two):
        lingering.adopt(first)
        lingering.adopt(second)
        lingering.abort()
        assert not len(lingering)
        assert await one.rest() == await two.rest() == b""
