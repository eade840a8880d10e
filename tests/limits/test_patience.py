"""Slow readers, silent clients, idle and old tunnels over real sockets, with times that are short."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.server.timing_wheel import TICK
from tests.support.backends import waiting_backend
from tests.support.gate import running, upstreams
from tests.support.pair import Pair, pair
from tests.support.raw import RawStream, raw_client, upgrade_head
from tests.support.tls import LISTENING, TRUSTING, backend_tls, client_tls
from tests.support.waiting import until
from tests.wire.streams import encode

MASK = b"\x11\x22\x33\x44"
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

SEAT = "rules: [{name: seat, per: ip, connections: 1}]\n"
SHORT = "tunnel: {ping_interval: 200ms, ping_timeout: 300ms}\n"
ASKING = "tunnel: {ping_interval: 100ms, ping_timeout: 20s}\n"
SLOW = "tunnel: {slow_reader: 500ms, ping_interval: off}\n"
BIG = encode(BINARY, bytes(50_000), None)
BIG_MASKED = encode(BINARY, bytes(50_000), MASK)


def ours(first: int, payload: bytes = b"") -> bytes:
    """A frame as a client sends it."""
    return encode(first, payload, MASK)


async def close_of(stream: RawStream) -> tuple[int, bytes]:
    """(code, reason) of the Close that comes next."""
    first, payload = await stream.frame()
    assert first == CLOSE, (first, payload)
    return int.from_bytes(payload[:2], "big"), payload[2:]


async def ping(stream: RawStream) -> bytes:
    """The payload of the ping that comes next: ours, so 8 bytes."""
    first, payload = await stream.frame()
    assert (first, len(payload)) == (PING, 8)
    return payload


async def ended(one: Pair, code: int, why: str) -> None:
    """Wait until the gate has ended the connection so, and given its seat back."""
    closes = one.run.gate.totals.closes
    await until(lambda: bool(closes))
    assert dict(closes) == {(str(code), "gate"): 1}
    samples = await one.run.scrape()
    assert samples['wsgate_seats{rule="seat"}'] == 0
    assert samples["wsgate_connections"] == 0
    lines = [json.loads(line) for line in one.run.log.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "connection ended"]
    assert (line["code"], line["initiator"], line["why"]) == (code, "gate", why)


@asynccontextmanager
async def flooding(stream: RawStream, data: bytes, pause: float = 0.0) -> AsyncIterator[asyncio.Task[None]]:
    """Send `data` again and again, `pause` seconds apart, whatever becomes of it."""

    async def flood() -> None:
        while True:
            await stream.send(data)
            await asyncio.sleep(pause)

    task = asyncio.create_task(flood())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- silent clients -------------------------------------------------------------------------------------------------------------


async def test_a_client_that_vanished_without_a_word_gives_its_seat_back() -> None:
    began = time.monotonic()
    async with pair(SEAT + SHORT) as one:
        await ping(one.client)
        assert await close_of(one.client) == (1008, b"ping_timeout")
        assert time.monotonic() - began >= 0.5 - TICK  # so much too early may a client be asked
        assert await close_of(one.backend) == (1001, b"")
        await ended(one, 1008, "ping_timeout")


async def test_a_pong_that_comes_byte_by_byte_is_life_and_goes_nowhere() -> None:
    async with pair(ASKING) as one:
        walker = next(iter(one.run.gate.live.held)).client.walker
        for count in range(1, 4):
            pong = ours(PONG, await ping(one.client))
            for position in range(len(pong)):
                await one.client.send(pong[position : position + 1])
                await until(lambda: walker.held == (position + 1) % len(pong))  # noqa: B023 -- it is over before the next turn
            await until(lambda: walker.controls == count)  # noqa: B023
        await one.client.send(ours(TEXT, b"hi"))
        assert await one.backend.raw_frame() == ours(TEXT, b"hi")


async def test_pongs_that_are_not_ours_pass_as_they_are_also_in_a_flood() -> None:
    async with pair(ASKING) as one:
        payload = await ping(one.client)
        wrong = bytes([payload[0] ^ 1]) + payload[1:]
        others = b"".join(ours(PONG, other) for other in (b"", wrong, payload[:7], payload + b"\0", bytes(125)))
        sent = (others + ours(PONG, payload)) * 500
        sending = asyncio.create_task(one.client.send(sent))
        assert await one.backend.exactly(len(others) * 500) == others * 500
        await sending
        await one.client.send(ours(TEXT, b"hi"))
        assert await one.backend.raw_frame() == ours(TEXT, b"hi")


async def test_a_rule_of_no_messages_does_not_keep_our_pongs_from_being_life() -> None:
    async with pair("rules: [{name: none, per: connection, messages: 0/s, notify: false}]\n" + SHORT) as one:
        for _ in range(5):
            await one.client.send(ours(PONG, await ping(one.client)))
        assert not one.run.gate.totals.closes


async def test_a_client_that_sends_a_byte_now_and_then_and_no_pong_is_closed() -> None:
    async with pair(SEAT + SHORT) as one:
        head = ours(BINARY, bytes(1000))[:8]
        await one.client.send(head)
        assert await one.backend.exactly(8) == head
        await ping(one.client)
        await one.client.send(b"\0")  # in time: it is asked once more
        await ping(one.client)
        assert await close_of(one.client) == (1008, b"ping_timeout")
        await ended(one, 1008, "ping_timeout")
        one.client.end()
        assert await one.backend.rest() == b"\0"  # cut inside a frame: no Close can follow


async def test_a_client_whose_bytes_wait_for_a_backend_is_not_silent() -> None:
    async with pair("tunnel: {slow_reader: 10s, ping_interval: 100ms, ping_timeout: 100ms}\n") as one:
        half = next(iter(one.run.gate.live.held)).client
        one.backend.writer.transport.pause_reading()
        async with flooding(one.client, BIG_MASKED):
            await until(lambda: half.paused > 0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.client.reader.readexactly(11), 1.0)  # a ping at most, and no Close
            assert not one.run.gate.totals.closes


# --- slow readers ---------------------------------------------------------------------------------------------------------------


async def test_a_client_that_sends_pongs_but_never_reads_is_closed() -> None:
    async with pair(SEAT + SLOW, receive_buffer=4096) as one:
        half = next(iter(one.run.gate.live.held)).client
        one.client.writer.transport.pause_reading()
        async with flooding(one.backend, BIG), flooding(one.client, ours(PONG), 0.02):
            await until(lambda: not half.writable)
            assert half.transport.get_write_buffer_size() < 2 << 20
            await ended(one, 1008, "slow_reader")
        one.client.reset()


async def test_a_client_that_reads_slowly_lives_and_gets_every_byte() -> None:
    """The kernel takes from our buffer in steps of about a megabyte: between two of them only its own count tells of progress."""
    async with pair(SLOW, receive_buffer=4096) as one:
        half = next(iter(one.run.gate.live.held)).client
        async with flooding(one.backend, BIG):
            await until(lambda: not half.writable)
            size, got = half.transport.get_write_buffer_size(), b""
            unchanged = 0
            while unchanged < 60 or half.transport.get_write_buffer_size() == size:
                unchanged += 1
                got += await one.client.exactly(8000)
                await asyncio.sleep(0.02)
            assert not one.run.gate.totals.closes
            assert (BIG * (len(got) // len(BIG) + 1)).startswith(got)


async def test_a_backend_that_stalls_frees_the_seat_of_its_client_whose_fin_is_behind_the_back_pressure() -> None:
    async with pair(SEAT + SLOW) as one:
        half = next(iter(one.run.gate.live.held)).client
        one.backend.writer.transport.pause_reading()
        async with flooding(one.client, BIG_MASKED) as flood:
            await until(lambda: half.paused > 0)
            flood.cancel()
        one.client.writer.close()
        await ended(one, 1011, "slow_reader")


async def test_the_client_of_a_backend_that_stalls_reads_why() -> None:
    async with pair(SLOW) as one:
        one.backend.writer.transport.pause_reading()
        async with flooding(one.client, BIG_MASKED):
            assert await close_of(one.client) == (1011, b"slow_reader")


async def test_whether_we_or_the_kernel_give_up_first_the_log_tells() -> None:
    """A client that takes nothing while little is sent: the kernel's time begins sooner, but it looks at its clock less often."""
    async with pair("tunnel: {slow_reader: 1s, user_timeout: 1s, ping_interval: off}\n", receive_buffer=4096) as one:
        one.client.writer.transport.pause_reading()
        await one.backend.send(BIG * 20)
        async with flooding(one.backend, encode(TEXT, b"hi", None), 0.05):
            await until(lambda: bool(one.run.gate.totals.closes))
        ((code, initiator),) = one.run.gate.totals.closes
        line = json.loads(one.run.log.getvalue().splitlines()[-1])
        assert line["event"] == "connection ended"
        assert (code, initiator, line["why"]) in {("1006", "client", "user_timeout"), ("1008", "gate", "slow_reader")}


@asynccontextmanager
async def pair_over_tls(yaml: str, receive_buffer: int | None = None) -> AsyncIterator[Pair]:
    """As `pair`, with TLS on both sides."""
    async with (
        waiting_backend(tls=backend_tls()) as (url, arrived),
        running(upstreams(url, tls=TRUSTING) + LISTENING + yaml) as run,
        raw_client(run.port, tls=client_tls(), receive_buffer=receive_buffer) as client,
    ):
        await client.send(upgrade_head("/"))
        backend = await asyncio.wait_for(arrived.get(), 5)
        await backend.accept()
        yield Pair(client, backend, run, await client.head())
        client.reset()
        backend.writer.close()


async def test_over_tls_a_client_that_answers_lives_and_one_that_does_not_is_closed() -> None:
    async with pair_over_tls(SEAT + SHORT) as one:
        for _ in range(3):
            await one.client.send(ours(PONG, await ping(one.client)))
        await ping(one.client)
        assert await close_of(one.client) == (1008, b"ping_timeout")
        assert await close_of(one.backend) == (1001, b"")
        await ended(one, 1008, "ping_timeout")


async def test_over_tls_a_client_that_never_reads_is_closed() -> None:
    async with pair_over_tls(SEAT + SLOW, receive_buffer=4096) as one:
        one.client.writer.transport.pause_reading()
        async with flooding(one.backend, BIG):
            await ended(one, 1008, "slow_reader")


# --- idle and old tunnels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["idle_timeout", "max_lifetime"])
async def test_idle_and_old_tunnels_are_1001_for_both(key: str) -> None:
    async with pair(SEAT + f"tunnel: {{{key}: 200ms}}\n") as one:
        assert await close_of(one.client) == (1001, key.encode())
        assert await close_of(one.backend) == (1001, b"")
        await ended(one, 1001, key)
