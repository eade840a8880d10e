"""Open tunnels, raw on both sides: who closes how, where our own frames may stand, and what a slow or rude peer can do."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from proxy.policy.meter import Meter, Meters
from proxy.server import tunnel as tunnel_module
from proxy.server.linger import Lingering
from proxy.server.timing_wheel import TimingWheel
from proxy.server.tunnel import Initiator, Phase, Surroundings, Tunnel
from proxy.server.turns import Turns
from proxy.server.vigil import Patience, Rounds
from proxy.wire.frames import TURN, TURN_SIZE, FrameWalker, Turn, Verdict
from tests.support.backends import RawConnection, waiting_backend
from tests.support.gate import running
from tests.support.pair import Pair, pair
from tests.support.raw import RawStream, raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

MASK = b"\x11\x22\x33\x44"
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
BEGIN, MORE, END = 0x01, 0x00, 0x80  # the fragments of a text message
BUFFER = 256 * 1024  # bytes per direction, the default of tunnel.buffer
CHUNK = 256 * 1024  # bytes that one read may bring

ONE_MESSAGE = "rules: [{name: slow, per: connection, messages: 1/s, burst: 1, on_excess: %s}]"
SMALL = "rules: [{name: payload, per: connection, message_size: 1KiB}]"
TOO_LARGE = encode(BINARY, bytes(1025), MASK)

NOT_MASKED = encode(TEXT, b"hi", None)
MASKED = encode(TEXT, b"hi", MASK)


def ours(first: int, payload: bytes = b"") -> bytes:
    """A frame as a client sends it."""
    return encode(first, payload, MASK)


def theirs(first: int, payload: bytes = b"") -> bytes:
    """A frame as a backend sends it."""
    return encode(first, payload, None)


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + reason


async def close_code(stream: RawStream) -> int:
    """The code of the Close that comes next."""
    first, payload = await stream.frame()
    assert first == CLOSE, (first, payload)
    return int.from_bytes(payload[:2], "big")


async def at_the_end(stream: RawStream) -> bytes:
    """All until the end of the stream, which must be a FIN: a reset raises."""
    async with asyncio.timeout(5):
        return await stream.reader.read()


def closes(one: Pair) -> dict[tuple[str, str], int]:
    """How connections have ended so far."""
    return dict(one.run.gate.totals.closes)


# --- frames pass as they are ----------------------------------------------------------------------------------------------------


async def test_the_very_same_bytes_come_out() -> None:
    up = ours(TEXT, b"hi") + ours(PING, b"p") + ours(BEGIN, b"a") + ours(PONG) + ours(END, b"b") + ours(BINARY, bytes(70_000))
    down = theirs(TEXT, b"hi") + theirs(PING, b"p") + theirs(BEGIN, b"a") + theirs(PONG) + theirs(END, b"b") + theirs(BINARY, bytes(70_000))
    async with pair() as one:
        await asyncio.gather(one.client.send(up), one.backend.send(down))
        assert await one.backend.exactly(len(up)) == up
        assert await one.client.exactly(len(down)) == down
        traffic = one.run.gate.live.traffic()
        assert (traffic.messages_in, traffic.bytes_in) == (3, 2 + 2 + 70_000)
        assert (traffic.messages_out, traffic.bytes_out) == (3, 2 + 2 + 70_000)


# --- a Close from a side --------------------------------------------------------------------------------------------------------

CODES = [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4008, 4010, 4999]


@pytest.mark.parametrize("initiator", ["client", "upstream"])
async def test_every_close_is_forwarded_as_it_is_and_so_is_its_answer(initiator: str) -> None:
    for code in CODES:
        payload = b"" if code is None else close_payload(code, "tschüß".encode())
        async with pair() as one:
            asker, other = (one.client, one.backend) if initiator == "client" else (one.backend, one.client)
            asked = encode(CLOSE, payload, MASK if asker is one.client else None)
            answer = encode(CLOSE, payload[:2], MASK if other is one.client else None)
            await asker.send(asked)
            assert await other.raw_frame() == asked
            await other.send(answer)
            assert await at_the_end(asker) == answer
            assert await at_the_end(other) == b""
            known = code is None or code <= 1014 or code in (4008, 4010)
            assert closes(one) == {(str(code or 1005) if known else "other", initiator): 1}


async def test_closes_that_cross_are_both_forwarded() -> None:
    async with pair() as one:
        one.client.writer.write(ours(CLOSE, close_payload(1000)))
        one.backend.writer.write(theirs(CLOSE, close_payload(1001)))
        assert await close_code(one.backend) == 1000
        assert await close_code(one.client) == 1001
        assert await at_the_end(one.client) == await at_the_end(one.backend) == b""
        assert sum(closes(one).values()) == 1


async def test_a_seat_is_free_at_the_first_sign_of_the_end() -> None:
    async with pair("rules: [{name: seats, per: ip, connections: 1}]") as one:
        assert (await one.run.scrape())['wsgate_seats{rule="seats"}'] == 1
        await one.client.send(ours(CLOSE, close_payload(1000)))
        await one.backend.raw_frame()  # and no answer yet
        samples = await one.run.scrape()
        assert samples['wsgate_seats{rule="seats"}'] == 0
        assert samples["wsgate_connections"] == 0


async def test_what_the_other_side_still_sends_before_its_answer_arrives() -> None:
    async with pair() as one:
        await one.client.send(ours(CLOSE, close_payload(1000)))
        assert await close_code(one.backend) == 1000
        last = theirs(TEXT, b"last words") + theirs(CLOSE, close_payload(1000))
        await one.backend.send(last)
        assert await at_the_end(one.client) == last


@pytest.mark.parametrize("initiator", ["client", "upstream"])
async def test_a_close_without_an_answer_gets_its_own_code_back_after_a_while(initiator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "CLOSE_ANSWER", 0.1)
    async with pair() as one:
        asker, other = (one.client, one.backend) if initiator == "client" else (one.backend, one.client)
        began = time.monotonic()
        await asker.send(encode(CLOSE, close_payload(4001), MASK if asker is one.client else None))
        assert await close_code(other) == 4001
        assert await close_code(asker) == 4001
        assert time.monotonic() - began >= 0.09  # the loop counts in whole milliseconds
        assert await at_the_end(asker) == b""
        assert await at_the_end(other) == b""


@pytest.mark.parametrize("initiator", ["client", "upstream"])
async def test_a_close_that_is_answered_with_the_end_of_the_stream_gets_its_own_code_back(initiator: str) -> None:
    async with pair() as one:
        asker, other = (one.client, one.backend) if initiator == "client" else (one.backend, one.client)
        await asker.send(encode(CLOSE, close_payload(1000), MASK if asker is one.client else None))
        assert await close_code(other) == 1000
        other.end()
        assert await close_code(asker) == 1000
        assert await at_the_end(asker) == b""
        assert closes(one) == {("1000", initiator): 1}


async def test_a_close_cut_at_every_byte_is_forwarded_whole() -> None:
    frame = ours(CLOSE, close_payload(1000, b"bye"))
    for cut in range(1, len(frame)):
        async with pair() as one:
            await one.client.send(frame[:cut])
            await until(lambda: next(iter(one.run.gate.live.held)).client.walker.held == cut)  # noqa: B023 -- it is over before the next turn
            await one.client.send(frame[cut:])
            assert await one.backend.raw_frame() == frame


# --- a side vanishes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_vanishes_is_1001_for_the_backend(how: str) -> None:
    async with pair() as one:
        await one.client.send(MASKED)
        assert await one.backend.raw_frame() == MASKED
        getattr(one.client, how)()
        frame = await one.backend.raw_frame()
        assert frame[:2] == b"\x88\x82"  # masked, as every frame towards a server
        assert int.from_bytes(bytes(a ^ b for a, b in zip(frame[6:], frame[2:6], strict=False)), "big") == 1001
        assert await at_the_end(one.backend) == b""
        assert closes(one) == {("1006", "client"): 1}


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_backend_that_vanishes_is_1011_for_the_client(how: str) -> None:
    async with pair() as one:
        await one.backend.send(NOT_MASKED)
        assert await one.client.raw_frame() == NOT_MASKED
        getattr(one.backend, how)()
        assert await close_code(one.client) == 1011
        assert await at_the_end(one.client) == b""
        assert closes(one) == {("1006", "upstream"): 1}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_stream_that_is_cut_inside_a_frame_ends_in_fin_and_nothing_of_ours(who: str, how: str) -> None:
    async with pair() as one:
        leaver, other = (one.client, one.backend) if who == "client" else (one.backend, one.client)
        part = encode(BINARY, bytes(1000), MASK if who == "client" else None)[:500]
        await leaver.send(part)
        assert await other.exactly(len(part)) == part
        getattr(leaver, how)()
        assert await at_the_end(other) == b""


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_between_two_fragments_is_1001_for_the_backend(how: str) -> None:
    async with pair() as one:
        part = ours(BEGIN, b"half a message")
        await one.client.send(part)
        assert await one.backend.raw_frame() == part
        getattr(one.client, how)()
        assert await close_code(one.backend) == 1001


async def test_a_backend_that_leaves_between_two_fragments_is_1011_for_the_client() -> None:
    async with pair() as one:
        part = theirs(BEGIN, b"half a message") + theirs(TEXT)[:1]  # and half a header, which nobody has seen
        await one.backend.send(part)
        assert await one.client.raw_frame() == part[:-1]
        one.backend.end()
        assert await close_code(one.client) == 1011


async def test_what_a_side_sent_before_its_end_is_delivered() -> None:
    size = 3 * 1024 * 1024
    async with pair() as one:
        message = theirs(BINARY, bytes(size))
        one.backend.writer.write(message)
        one.backend.end()
        assert await one.client.exactly(len(message)) == message
        assert await close_code(one.client) == 1011
    async with pair() as one:
        message = ours(BINARY, bytes(size))
        one.client.writer.write(message)
        one.client.end()
        assert await one.backend.exactly(len(message)) == message
        assert await close_code(one.backend) == 1001


# --- the gate closes ------------------------------------------------------------------------------------------------------------

BAD_FRAMES = {
    "not masked": NOT_MASKED,
    "reserved bit": ours(0xC1, b"x"),
    "reserved opcode": ours(0x83),
    "reserved control opcode": ours(0x8B),
    "fragmented ping": ours(0x09),
    "long ping": ours(PING, bytes(126)),
    "top bit": b"\x82\xff\x80" + bytes(7) + MASK,
    "continuation of nothing": ours(END),
    "message in a message": ours(BEGIN, b"") + ours(TEXT),
    "Close of one byte": ours(CLOSE, b"\x03"),
    "Close 1005": ours(CLOSE, close_payload(1005)),
    "Close 1006": ours(CLOSE, close_payload(1006)),
    "Close 1015": ours(CLOSE, close_payload(1015)),
    "Close 2999": ours(CLOSE, close_payload(2999)),
    "Close 5000": ours(CLOSE, close_payload(5000)),
    "Close that is not UTF-8": ours(CLOSE, close_payload(1000, b"\xff")),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_bad_frame_of_the_client_is_1002_on_both_sides_and_never_forwarded(frame: bytes) -> None:
    async with pair() as one:
        await one.client.send(frame)
        assert await close_code(one.client) == 1002
        if frame == BAD_FRAMES["message in a message"]:
            assert await one.backend.frame() == (BEGIN, b"")
        assert await close_code(one.backend) == 1002
        assert await at_the_end(one.backend) == b""
        assert closes(one) == {("1002", "gate"): 1}


@pytest.mark.parametrize("frame", [MASKED, theirs(0xC1), theirs(0x83), theirs(CLOSE, b"\x03"), theirs(CLOSE, close_payload(1005))])
async def test_a_bad_frame_of_the_backend_is_1011_for_the_client_and_1002_for_it(frame: bytes) -> None:
    async with pair() as one:
        await one.backend.send(frame)
        assert await close_code(one.client) == 1011
        assert await close_code(one.backend) == 1002
        assert await at_the_end(one.client) == b""
        assert closes(one) == {("1011", "gate"): 1}


async def test_a_rate_that_closes_is_4008_with_the_error_before_it_and_1008_for_the_backend() -> None:
    async with pair(ONE_MESSAGE % "close") as one:
        await one.client.send(MASKED * 2)
        error = json.loads((await one.client.frame())[1])
        assert error.pop("message")
        assert 0 < error.pop("retry_after_ms") <= 1000
        connection = error.pop("id")
        assert error == {"type": "error", "code": "message_rate_limit_exceeded", "rule": "slow", "suppressed": 0}
        first, payload = await one.client.frame()
        assert (first, payload[:2]) == (CLOSE, close_payload(4008))
        assert b"slow" in payload
        assert connection.encode() in payload
        assert await one.backend.raw_frame() == MASKED
        assert await close_code(one.backend) == 1008
        assert closes(one) == {("4008", "gate"): 1}


async def test_a_size_is_4009_with_the_error_before_it_and_1009_for_the_backend() -> None:
    async with pair(SMALL) as one:
        await one.client.send(TOO_LARGE[:14])  # the header is enough
        first, payload = await one.client.frame()
        assert first == TEXT
        assert json.loads(payload)["code"] == "payload_too_large"
        assert json.loads(payload)["retry_after_ms"] is None
        assert await close_code(one.client) == 4009
        assert await close_code(one.backend) == 1009
        assert closes(one) == {("4009", "gate"): 1}


async def test_nothing_follows_our_close() -> None:
    async with pair(SMALL) as one:
        await one.client.send(TOO_LARGE + MASKED)
        assert await close_code(one.backend) == 1009
        await one.backend.send(NOT_MASKED * 100)
        await one.client.send(MASKED * 100)
        assert (await one.client.frame())[0] == TEXT
        assert await close_code(one.client) == 4009
        one.client.end()
        one.backend.end()
        assert await at_the_end(one.client) == b""
        assert await at_the_end(one.backend) == b""


async def test_in_the_middle_of_a_message_the_error_is_left_out() -> None:
    async with pair(SMALL) as one:
        part = theirs(BEGIN, b"half a message")
        await one.backend.send(part)
        assert await one.client.raw_frame() == part
        await one.client.send(TOO_LARGE)
        assert await close_code(one.client) == 4009
        assert await at_the_end(one.client) == b""


async def test_a_close_of_ours_waits_for_the_end_of_a_frame() -> None:
    async with pair(SMALL) as one:
        message = theirs(BINARY, bytes(1000))
        await one.backend.send(message[:500])
        assert await one.client.exactly(500) == message[:500]
        await one.client.send(TOO_LARGE + MASKED)
        assert await close_code(one.backend) == 1009
        await one.client.send(MASKED)
        await until(lambda: one.run.gate.live.traffic().messages_in == 3)
        await one.backend.send(message[500:700])
        assert await one.client.exactly(200) == message[500:700]
        await one.backend.send(message[700:] + NOT_MASKED + message[:500])  # of what comes in one chunk, whole frames pass
        assert await one.client.exactly(len(message) - 700) == message[700:]
        assert await one.client.raw_frame() == NOT_MASKED
        assert await close_code(one.client) == 4009
        assert await at_the_end(one.client) == b""
        assert await at_the_end(one.backend) == b""  # nothing that the client sent behind our Close


@pytest.mark.parametrize("also", [b"", ours(CLOSE, close_payload(1000))], ids=["", "a_close_wins_no_time"])
async def test_a_frame_that_does_not_end_is_cut_by_fin(also: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "FRAME_END", 0.1)
    async with pair(SMALL) as one:
        message = theirs(BINARY, bytes(1000))
        await one.backend.send(message[:500])
        assert await one.client.exactly(500) == message[:500]
        await one.client.send(TOO_LARGE)
        assert await close_code(one.backend) == 1009
        await one.client.send(also)
        await one.backend.send(message[500:600])
        assert await at_the_end(one.client) == message[500:600]


async def test_a_close_towards_the_backend_waits_for_the_end_of_a_frame_of_the_client() -> None:
    async with pair() as one:
        message = ours(BINARY, bytes(1000))
        await one.client.send(message[:500])
        assert await one.backend.exactly(500) == message[:500]
        await one.backend.send(MASKED)
        assert await close_code(one.client) == 1011
        await one.client.send(message[500:] + message[:500])
        assert await one.backend.exactly(len(message) - 500) == message[500:]
        assert await close_code(one.backend) == 1002
        assert await at_the_end(one.backend) == b""


async def test_a_client_whose_frame_does_not_end_is_cut_by_fin_for_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "FRAME_END", 0.1)
    async with pair() as one:
        part = ours(BINARY, bytes(1000))[:500]
        await one.client.send(part)
        assert await one.backend.exactly(500) == part
        await one.backend.send(MASKED)
        assert await at_the_end(one.backend) == b""
        assert await close_code(one.client) == 1011


async def test_a_backend_that_vanishes_while_our_close_waits_for_its_frame_leaves_fin() -> None:
    async with pair(SMALL) as one:
        part = theirs(BINARY, bytes(1000))[:500]
        await one.backend.send(part)
        assert await one.client.exactly(500) == part
        await one.client.send(TOO_LARGE)
        assert await close_code(one.backend) == 1009
        one.backend.reset()
        assert await at_the_end(one.client) == b""


async def test_a_client_that_vanishes_while_our_close_waits_lets_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.linger.LINGER", 0.1)
    async with pair(SMALL) as one:
        await one.backend.send(theirs(BINARY, bytes(1000))[:500])
        await one.client.exactly(500)
        await one.client.send(TOO_LARGE)
        assert await close_code(one.backend) == 1009
        one.client.reset()
        await one.run.quiet()


async def test_a_close_of_the_backend_ends_the_wait_of_ours() -> None:
    async with pair(SMALL) as one:
        message = theirs(BINARY, bytes(1000))
        await one.backend.send(message[:500])
        await one.client.exactly(500)
        await one.client.send(TOO_LARGE)
        assert await close_code(one.backend) == 1009
        await one.backend.send(message[500:] + theirs(CLOSE, close_payload(1009)))
        await one.client.exactly(len(message) - 500)
        assert await close_code(one.client) == 4009
        assert await at_the_end(one.client) == b""


# --- a client that floods -------------------------------------------------------------------------------------------------------

FLOODS = {
    "rate": (ONE_MESSAGE % "close", MASKED * 2, ours(TEXT, bytes(1000)), 4008),
    "size": (SMALL, TOO_LARGE, TOO_LARGE, 4009),
    "bad frame": ("", NOT_MASKED, ours(TEXT, bytes(1000)), 1002),
    "bad frame, then rubbish": ("", NOT_MASKED, b"\xff" * 7, 1002),
    "size, then rubbish": (SMALL, TOO_LARGE, b"\xff" * 7, 4009),
}


@pytest.mark.parametrize(("yaml", "first", "more", "code"), FLOODS.values(), ids=FLOODS)
async def test_a_client_that_floods_reads_our_close_and_then_the_end(yaml: str, first: bytes, more: bytes, code: int) -> None:
    async with pair(yaml) as one:
        one.client.writer.transport.pause_reading()
        await one.client.send(first)
        for _ in range(40):  # it sees nothing but its own sending, which no reset may end
            await one.client.send(more * (50_000 // len(more)))
            await asyncio.sleep(0)
        one.client.end()
        one.client.writer.transport.resume_reading()
        if (frame := await one.client.raw_frame())[0] == TEXT:
            frame = await one.client.raw_frame()
        assert frame[2:4] == close_payload(code)
        assert await at_the_end(one.client) == b""


# --- a peer that does not read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["client", "backend"])
async def test_a_reader_that_stalls_stops_the_writer_and_later_gets_every_byte(slow: str) -> None:
    async with pair(receive_buffer=4096) as one:
        tunnel = next(iter(one.run.gate.live.held))
        reader, writer, half = (one.client, one.backend, tunnel.client) if slow == "client" else (one.backend, one.client, tunnel.upstream)
        reader.writer.transport.pause_reading()
        mask = MASK if slow == "backend" else None
        message = encode(BINARY, bytes(range(256)) * 128, mask)
        count = 1200  # 40 MB: more than all kernels in between will hold
        sending = asyncio.create_task(writer.send(message * count))
        await until(lambda: not half.writable and not half.peer.transport.is_reading())
        assert BUFFER < half.transport.get_write_buffer_size() <= BUFFER + CHUNK
        assert not sending.done()
        other_way = encode(TEXT, b"the other way", None if mask else MASK)
        await reader.send(other_way)
        assert await writer.raw_frame() == other_way
        reader.writer.transport.resume_reading()
        for _ in range(count):
            assert await reader.exactly(len(message)) == message
        await sending
        assert half.transport.get_write_buffer_size() == 0
        assert half.peer.transport.is_reading()


async def test_a_client_that_stalls_and_then_vanishes_lets_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.linger.LINGER", 0.2)
    async with pair(receive_buffer=4096) as one:
        half = next(iter(one.run.gate.live.held)).client
        one.client.writer.transport.pause_reading()
        sending = asyncio.create_task(one.backend.send(theirs(BINARY, bytes(40_000_000))))
        await until(lambda: not half.writable)
        one.client.reset()
        await one.run.quiet()
        one.backend.reset()
        await sending


# --- notices --------------------------------------------------------------------------------------------------------------------


async def notice(stream: RawStream) -> dict[str, Any]:
    first, payload = await stream.frame()
    assert first == TEXT
    return dict(json.loads(payload))


async def dropped(one: Pair, count: int) -> None:
    """The gate has dropped so many messages so far."""
    await until(lambda: sum(rule.drops for rule in one.run.gate._path.meters.frame_rules) == count)


async def test_a_dropped_message_is_told_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.policy.notices.NOTICE_INTERVAL", 0.3)
    async with pair("rules: [{name: slow, per: connection, messages: 1/min, burst: 1}]") as one:
        await one.client.send(MASKED * 5)
        first = await notice(one.client)
        assert first["code"] == "message_rate_limit_exceeded"
        assert first["suppressed"] == 3  # of the same chunk
        assert 0 < first["retry_after_ms"] <= 60_000
        told = time.monotonic()
        await one.client.send(MASKED)
        await dropped(one, 5)
        await one.client.send(MASKED)
        await dropped(one, 6)
        await until(lambda: time.monotonic() > told + 0.31)
        await one.backend.send(NOT_MASKED)
        assert await one.client.raw_frame() == NOT_MASKED  # and no notice before it
        await one.client.send(MASKED)
        second = await notice(one.client)
        assert (second["suppressed"], second["id"]) == (2, first["id"])
        assert await one.backend.raw_frame() == MASKED  # the only one that passed
        await one.client.send(ours(PING))
        assert await one.backend.frame() == (PING, b"")


async def test_rules_are_told_of_apart() -> None:
    yaml = """
rules:
  - {name: first, per: connection, messages: 0/s}
  - {name: second, per: connection, message_size: 1KiB, on_excess: drop}
"""
    async with pair(yaml) as one:
        await one.client.send(MASKED)
        assert (await notice(one.client))["rule"] == "first"
        await one.client.send(TOO_LARGE)  # breaks both; the first in the file is named
        await dropped(one, 2)
        one.client.end()
        assert await close_code(one.backend) == 1001


async def test_with_notify_false_nothing_is_told() -> None:
    async with pair("rules: [{name: slow, per: connection, messages: 0/s, notify: false}]") as one:
        await one.client.send(MASKED * 3)
        await dropped(one, 3)
        await one.backend.send(NOT_MASKED)
        assert await one.client.raw_frame() == NOT_MASKED


async def test_a_notice_waits_for_the_end_of_a_message_and_stands_between_two() -> None:
    async with pair("rules: [{name: slow, per: connection, messages: 0/s}]") as one:
        begin, ping, end = theirs(BEGIN, b"half"), theirs(PING), theirs(END, b" and half")
        await one.backend.send(begin)
        assert await one.client.raw_frame() == begin
        await one.client.send(MASKED)
        await dropped(one, 1)
        await one.backend.send(ping + end[:3])
        assert await one.client.exactly(len(ping) + 3) == ping + end[:3]
        await one.backend.send(end[3:] + begin + ping)
        assert await one.client.exactly(len(end) - 3) == end[3:]
        assert (await notice(one.client))["rule"] == "slow"
        assert await one.client.exactly(len(begin + ping)) == begin + ping


async def test_a_notice_that_waits_too_long_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "MESSAGE_END", 0.05)
    monkeypatch.setattr("proxy.policy.notices.NOTICE_INTERVAL", 0.0)
    async with pair("rules: [{name: slow, per: connection, messages: 0/s}]") as one:
        tunnel = next(iter(one.run.gate.live.held))
        await one.backend.send(theirs(BEGIN, b"half"))
        await one.client.raw_frame()
        await one.client.send(MASKED * 2)
        await dropped(one, 2)
        await until(lambda: tunnel._notice is None)
        end = theirs(END) + NOT_MASKED
        await one.backend.send(end)
        assert await one.client.exactly(len(end)) == end
        await one.client.send(MASKED)
        assert (await notice(one.client))["suppressed"] == 2
        assert not tunnel.upstream.walker.attention


async def test_a_client_that_does_not_read_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.policy.notices.NOTICE_INTERVAL", 0.0)
    async with pair("rules: [{name: slow, per: connection, messages: 0/s}]", receive_buffer=4096) as one:
        half = next(iter(one.run.gate.live.held)).client
        one.client.writer.transport.pause_reading()
        message = theirs(BINARY, bytes(50_000))
        sending = asyncio.create_task(one.backend.send(message * 200))
        await until(lambda: not half.writable)
        before = half.transport.get_write_buffer_size()
        for count in range(1, 4):
            await one.client.send(MASKED)
            await dropped(one, count)
        assert half.transport.get_write_buffer_size() <= before
        one.client.writer.transport.resume_reading()
        for _ in range(200):
            assert await one.client.raw_frame() == message
        await sending
        await one.client.send(MASKED)
        assert (await notice(one.client))["suppressed"] == 3


async def test_a_notice_that_waits_is_forgotten_when_the_connection_ends() -> None:
    async with pair("rules: [{name: slow, per: connection, messages: 0/s}]") as one:
        begin = theirs(BEGIN, b"half")
        await one.backend.send(begin)
        assert await one.client.raw_frame() == begin
        await one.client.send(MASKED)
        await dropped(one, 1)
        await one.client.send(ours(CLOSE))
        assert (await one.backend.frame())[0] == CLOSE
        end = theirs(END) + theirs(CLOSE)
        await one.backend.send(end)
        assert await at_the_end(one.client) == end


async def test_control_frames_between_dropped_fragments_still_pass() -> None:
    async with pair("rules: [{name: slow, per: connection, messages: 0/s, notify: false}]") as one:
        await one.client.send(ours(BEGIN, b"gone") + ours(PING, b"stays") + ours(END, b"gone") + ours(PONG))
        assert await one.backend.frame() == (PING, b"stays")
        assert await one.backend.frame() == (PONG, b"")


# --- a frame that is held -------------------------------------------------------------------------------------------------------


class Patient(Meter):
    """Holds every message until the test lets go: a judge such as a later `delay`."""

    def __init__(self) -> None:
        super().__init__([])
        self.held = True
        self.seconds = 0.02
        self.asked = 0

    def charge(self, first: int, length: int, now: float) -> Verdict:
        self.asked += 1
        self.hold_until = time.monotonic() + self.seconds
        return Verdict.HOLD if self.held else Verdict.PASS


class Witness:
    """Hears of the end."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Initiator]] = []
        self.gone = 0

    def ended(self, tunnel: Tunnel, code: int, initiator: Initiator) -> None:
        self.heard.append((code, initiator))

    def over(self, tunnel: Tunnel) -> None:
        self.gone += 1


async def connected() -> tuple[asyncio.Transport, RawStream]:
    """Both ends of a TCP connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = RawStream(*await asyncio.open_connection(*server.getsockname()))
        near, _ = server.accept()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, near)
    return transport, far


@asynccontextmanager
async def holding(
    meter: Patient | None = None, turns: Turns | None = None
) -> AsyncIterator[tuple[Tunnel, Patient, RawStream, RawStream, Witness]]:
    """A tunnel of its own, whose judge holds."""
    meter, witness = meter or Patient(), Witness()
    wheel, turns = TimingWheel(asyncio.get_running_loop()), turns or Turns(asyncio.get_running_loop())
    lingering = Lingering(wheel, turns)
    near_client, client = await connected()
    near_upstream, backend = await connected()
    tunnel = Tunnel(
        (near_client, FrameWalker(masked=True, judge=meter.charge)),
        (near_upstream, FrameWalker(masked=False)),
        connection="test",
        meters=Meters(meter, None),
        surroundings=Surroundings(lingering, witness, wheel, Rounds(wheel, Patience()), turns),
    )
    tunnel.begin(b"", b"")
    yield tunnel, meter, client, backend, witness
    client.writer.close()
    backend.writer.close()
    await until(lambda: tunnel.phase is Phase.OVER and not len(lingering))
    assert len(witness.heard) == witness.gone == 1
    assert tunnel.client.hold is tunnel.upstream.hold is None  # no timer keeps what is over


async def test_a_held_frame_waits_with_all_behind_it_while_the_other_way_flows() -> None:
    async with holding() as (tunnel, meter, client, backend, _):
        sent = ours(TEXT, b"1") + ours(BEGIN, b"2") + ours(PING) + ours(END, b"3") + ours(BINARY, bytes(70_000))
        for position in range(0, len(sent), 1000):
            await client.send(sent[position : position + 1000])
        await until(lambda: meter.asked >= 3)
        for _ in range(3):
            await backend.send(NOT_MASKED)
            assert await client.raw_frame() == NOT_MASKED
        assert not tunnel.client.transport.is_reading() or tunnel.client.walker.halt is None
        meter.held = False
        assert await backend.exactly(len(sent)) == sent


async def test_a_client_whose_frame_is_held_cannot_fill_our_memory() -> None:
    async with holding() as (tunnel, meter, client, backend, _):
        sent = ours(BINARY, bytes(50_000)) * 200
        sending = asyncio.create_task(client.send(sent))
        await until(lambda: meter.asked >= 10)
        assert not sending.done()
        assert tunnel.client.walker.held <= 10 * CHUNK
        meter.held = False
        assert await backend.exactly(len(sent)) == sent
        await sending


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_while_its_frame_is_held(how: str) -> None:
    async with holding() as (_, meter, client, backend, witness):
        await client.send(MASKED)
        await until(lambda: meter.asked >= 2)
        getattr(client, how)()
        meter.held = False
        assert (await backend.frame())[0] in (TEXT, CLOSE)
        await until(lambda: witness.heard)
        assert witness.heard == [(1006, Initiator.CLIENT)]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_backend_that_leaves_while_a_frame_is_held(how: str) -> None:
    async with holding() as (_, meter, client, backend, witness):
        await client.send(MASKED)
        await until(lambda: meter.asked >= 2)
        getattr(backend, how)()
        assert await close_code(client) == 1011
        assert witness.heard == [(1006, Initiator.UPSTREAM)]


async def test_a_close_of_the_backend_while_a_frame_is_held_is_answered_behind_it() -> None:
    async with holding() as (_, meter, client, backend, _):
        await client.send(MASKED + ours(CLOSE, close_payload(1000)))
        await until(lambda: meter.asked >= 2)
        await backend.send(theirs(CLOSE, close_payload(1001)))
        assert await close_code(client) == 1001
        meter.held = False
        assert await backend.raw_frame() == MASKED
        assert await close_code(backend) == 1000
        assert await at_the_end(backend) == await at_the_end(client) == b""


async def test_a_held_frame_does_not_keep_a_drain_waiting() -> None:
    async with holding() as (tunnel, meter, client, backend, _):
        await client.send(MASKED)
        await until(lambda: meter.asked >= 2)
        tunnel.drain(1001, "going down")
        assert await close_code(client) == 1001
        assert await close_code(backend) == 1001
        await client.send(ours(CLOSE, close_payload(1001)))
        assert await at_the_end(client) == b""


async def test_a_long_hold_keeps_nothing_of_a_tunnel_that_is_over() -> None:
    async with holding() as (tunnel, meter, client, _, _):
        meter.seconds = 3600.0
        await client.send(MASKED)
        await until(lambda: meter.asked)
        assert tunnel.client.hold is not None
        tunnel.drain(1001, "going down")
        assert await close_code(client) == 1001


async def test_a_frame_that_is_held_again_and_again_never_lets_the_transport_read() -> None:
    async with holding() as (tunnel, meter, client, backend, _):
        await client.send(MASKED)
        await until(lambda: meter.asked >= 5)
        assert tunnel.client.paused == 1
        assert not tunnel.client.transport.is_reading()
        meter.held = False
        assert await backend.raw_frame() == MASKED
        assert tunnel.client.transport.is_reading()


class Answered(Patient):
    """Holds every message for very long, and hears when an answer comes."""

    def __init__(self) -> None:
        super().__init__()
        self.wakers: list[Callable[[], None]] = []

    def charge(self, first: int, length: int, now: float) -> Verdict:
        verdict = super().charge(first, length, now)
        self.hold_until = now + 60.0
        return verdict

    def call_when_known(self, wake: Callable[[], None]) -> None:
        self.wakers.append(wake)


async def test_a_held_frame_goes_on_when_the_answer_comes_and_is_not_woken_twice() -> None:
    async with holding(Answered()) as (tunnel, meter, client, backend, _):
        assert isinstance(meter, Answered)
        await client.send(ours(TEXT, b"1"))
        await until(lambda: meter.wakers)
        for _ in range(3):
            meter.wakers[0]()
        await until(lambda: len(meter.wakers) == 2)
        assert meter.asked == 2
        assert tunnel.client.paused == 1
        meter.held = False
        meter.wakers[0]()  # of the first time: means nothing any more
        meter.wakers[1]()
        assert await backend.raw_frame() == ours(TEXT, b"1")
        await until(lambda: not tunnel.client.paused)
        for wake in meter.wakers:
            wake()
        await client.send(ours(TEXT, b"2"))
        assert await backend.raw_frame() == ours(TEXT, b"2")
        assert tunnel.client.paused == 0


async def test_an_answer_that_comes_after_the_end_is_nothing_to_a_tunnel() -> None:
    async with holding(Answered()) as (_, meter, client, backend, witness):
        assert isinstance(meter, Answered)
        await client.send(ours(TEXT, b"1"))
        await until(lambda: meter.wakers)
        backend.writer.transport.abort()
        await until(lambda: witness.heard)
        meter.wakers[0]()


async def test_frames_of_a_tunnel_that_ends_are_charged_to_the_key_all_the_same() -> None:
    rules = "rules: [{name: rate, per: user, messages: 1/min, burst: 10}]\n"
    async with waiting_backend() as (url, arrived), running(rules, upstream=url) as run, AsyncExitStack() as clients:
        ends: list[tuple[RawStream, RawConnection]] = []
        for number in range(5):
            client = await clients.enter_async_context(raw_client(run.port))
            await client.send(upgrade_head("/", "Authorization: Bearer ann"))
            backend = await arrived.get()
            await backend.accept()
            await client.head()
            ends.append((client, backend))
            if number < 4:
                await backend.send(theirs(CLOSE, close_payload(1000)))
                assert await close_code(client) == 1000
        assert run.gate.totals.connections == 1  # seats go at the first sign of the end
        got = 0
        for client, backend in ends:
            await client.send(ours(TEXT, b"x") * 30 + ours(CLOSE, close_payload(1000)))
            while (await backend.frame())[0] == TEXT:
                got += 1
            backend.reset()
        assert got == 10
        await run.quiet()


# --- a flood of pongs ------------------------------------------------------------------------------------------------------------


async def test_copies_of_the_pong_to_our_ping_are_control_frames_like_any() -> None:
    config = "tunnel: {ping_interval: 200ms, ping_timeout: 5s}\nrules: [{name: beat, per: connection, control_frames: 1/min, burst: 3}]\n"
    async with pair(config) as one:
        first, payload = await one.client.frame()
        assert first == PING
        await one.client.send(ours(PONG, payload) * 4 + ours(TEXT, b"hi"))
        assert await one.backend.frame() == (TEXT, b"hi")
        await one.client.send(ours(PONG, payload) * 2)
        assert await close_code(one.backend) == 1008
        samples = await one.run.scrape()
        assert samples['wsgate_breaches_total{action="close",mode="enforce",rule="beat"}'] == 1


async def test_a_ping_that_the_rules_dropped_is_not_held_against_the_client() -> None:
    config = "tunnel: {ping_interval: 300ms, ping_timeout: 300ms}\n"
    rules = "rules: [{name: out, per: connection, bytes: 1/min, burst: 10, direction: out, on_excess: drop}]\n"
    async with pair(config + rules) as one:
        await one.backend.send(theirs(PING, b"more than 10"))
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            first, payload = await one.client.frame()
            if first == PING:
                await one.client.send(ours(PONG, payload))
            else:
                assert first == TEXT  # that it was dropped


# --- more frames than one turn reads ---------------------------------------------------------------------------------------------


def full_of(frame: bytes) -> bytes:
    """As many of these as one read may bring."""
    return frame * (CHUNK // len(frame))


async def test_a_chunk_of_very_many_frames_passes_whole_turn_by_turn() -> None:
    async with pair() as one:
        up, down = full_of(ours(TEXT)), full_of(theirs(TEXT))
        sending = asyncio.gather(one.client.send(up), one.backend.send(down))
        assert await one.backend.exactly(len(up)) == up
        assert await one.client.exactly(len(down)) == down
        await sending


async def test_others_have_their_turn_between_those_of_a_flood() -> None:
    """While a chunk of 40,000 frames is walked, everybody else is served once a turn."""
    async with holding() as (tunnel, meter, client, backend, _):
        meter.held = False
        served: list[int] = []

        def others() -> None:
            served.append(meter.asked)
            if meter.asked < 20 * TURN:
                loop.call_soon(others)

        loop = asyncio.get_running_loop()
        loop.call_soon(others)
        tunnel.client.data_received(MASKED * 20 * TURN)
        assert meter.asked == TURN
        assert await backend.exactly(len(MASKED) * 20 * TURN) == MASKED * 20 * TURN
        assert max(later - before for before, later in pairwise(served)) <= TURN
        assert not tunnel.client.paused
        await client.send(MASKED)
        assert await backend.raw_frame() == MASKED


async def test_two_floods_have_one_turn_between_them() -> None:
    turns = Turns(loop := asyncio.get_running_loop())
    async with holding(turns=turns) as (one, meter, _, backend, _), holding(turns=turns) as (other, second, _, behind, _):
        meter.held = second.held = False
        seen: list[tuple[int, int]] = []

        def look() -> None:
            seen.append((meter.asked, second.asked))
            if sum(seen[-1]) < 20 * TURN:
                loop.call_soon(look)

        one.client.data_received(MASKED * 10 * TURN)
        other.client.data_received(MASKED * 10 * TURN)
        loop.call_soon(look)
        assert await backend.exactly(len(MASKED) * 10 * TURN) == await behind.exactly(len(MASKED) * 10 * TURN)
        assert all(sum(later) - sum(before) <= TURN for before, later in pairwise(seen))
        assert all(abs(first - other) <= TURN for first, other in seen)


async def test_large_messages_come_in_turns_too() -> None:
    """A transport that goes on reading brings 8 MB in one turn of the loop."""
    async with holding() as (tunnel, meter, client, backend, _):
        meter.held = False
        message = ours(BINARY, bytes(TURN_SIZE))
        tunnel.client.data_received(message)
        assert not tunnel.client.transport.is_reading()
        assert await backend.exactly(len(message)) == message
        await until(tunnel.client.transport.is_reading)
        await client.send(MASKED)
        assert await backend.raw_frame() == MASKED


async def test_nothing_is_read_of_a_flood_before_it_was_walked() -> None:
    async with holding() as (tunnel, meter, _, backend, _):
        meter.held = False
        tunnel.client.data_received(MASKED * (TURN + 1))
        seen = (tunnel.client.walker.halt, tunnel.client.transport.is_reading())
        assert await backend.exactly(len(MASKED) * (TURN + 1)) == MASKED * (TURN + 1)
        await until(tunnel.client.transport.is_reading)
    assert seen == (Turn.OVER, False)


@pytest.mark.parametrize("tail", [b"", ours(CLOSE, close_payload(1000))], ids=["end", "Close"])
async def test_what_a_flood_ends_with_comes_behind_all_of_it(tail: bytes) -> None:
    async with pair() as one:
        flood = full_of(ours(PING))
        await one.client.send(flood + tail)
        one.client.end()
        assert await one.backend.exactly(len(flood)) == flood
        assert await close_code(one.backend) == (1000 if tail else 1001)


async def test_a_refused_flood_ends_with_the_clients_close() -> None:
    """40,000 frames are on their way when our Close is written, and the client's own stands behind them."""
    async with pair(ONE_MESSAGE % "close") as one:
        await one.client.send(full_of(MASKED) + ours(CLOSE, close_payload(1008)))
        assert await one.backend.raw_frame() == MASKED
        assert await close_code(one.backend) == 1008
        assert (await one.client.frame())[0] == TEXT
        assert await close_code(one.client) == 4008
        started = time.monotonic()
        assert await at_the_end(one.client) == b""
        assert time.monotonic() - started < 1.5  # not by the end of the linger


async def test_what_stands_behind_a_flood_that_was_dropped_passes() -> None:
    async with pair((ONE_MESSAGE % "drop").replace("1/s", "1/min")) as one:  # a flood may take seconds on a busy machine
        await one.client.send(full_of(MASKED) + ours(PING, b"behind"))
        assert await one.backend.raw_frame() == MASKED
        assert await one.backend.raw_frame() == ours(PING, b"behind")


async def test_a_drain_does_not_wait_for_the_end_of_a_flood() -> None:
    async with holding() as (tunnel, meter, client, backend, _):
        meter.held = False
        tunnel.client.data_received(full_of(MASKED))
        tunnel.drain(1001, "going down")
        assert await close_code(client) == 1001
        assert await backend.exactly(len(MASKED) * TURN) == MASKED * TURN
        assert await close_code(backend) == 1001
        await client.send(ours(CLOSE, close_payload(1001)))
        assert await at_the_end(client) == b""


async def test_a_refused_flood_is_walked_to_its_end_while_our_close_waits() -> None:
    """The backend is inside a frame, so the client cannot hear of it yet; what it sends meanwhile must not pile up."""
    async with pair(ONE_MESSAGE % "close") as one:
        [tunnel] = one.run.gate.live.held
        message = theirs(BINARY, bytes(1000))
        await one.backend.send(message[:500])
        assert await one.client.exactly(500) == message[:500]
        tunnel.client.data_received(MASKED * 20 * TURN)
        assert tunnel.client.walker.held
        await until(lambda: tunnel.client.walker.halt is None)
        assert tunnel.client.walker.held == 0
        assert not tunnel.client.paused
        await one.backend.send(message[500:])
        assert await one.client.exactly(len(message) - 500) == message[500:]
        assert await close_code(one.client) == 4008
