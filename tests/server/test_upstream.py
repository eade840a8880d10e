"""Dialing, and answers that are no 101: relayed as they are, to readers of any speed."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from proxy.policy.upstreams import TcpAddress, Upstream
from proxy.server import upstream as upstream_module
from proxy.server.sockets import Keepalive
from proxy.server.timing_wheel import TimingWheel
from proxy.server.upstream import Dialer, UpstreamError
from tests.server.test_upgrade import GOOD_101, SEATS, asked, nothing_is_held, results
from tests.support.backends import RawConnection, waiting_backend
from tests.support.gate import Running, running
from tests.support.pair import pair
from tests.support.raw import RawClient, raw_client, upgrade_head
from tests.support.waiting import until

FRAME = b"\x82\x7e\x03\xe8" + bytes(1000)
HIGH_WATER = 64 * 1024  # bytes, asyncio's own default
CHUNK = 256 * 1024  # bytes that one read may bring


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_where_no_more_files_can_be_opened_it_is_we_who_are_full_and_not_the_upstream_that_is_down() -> None:
    upstream = Upstream("game", TcpAddress("127.0.0.1", 9))
    dialer = Dialer([upstream], Keepalive(), TimingWheel(asyncio.get_running_loop()))
    with no_more_files(), pytest.raises(UpstreamError) as caught:
        await dialer.dial(upstream, b"")
    assert (caught.value.status, caught.value.detail) == (503, "no more files can be opened")


# --- the way to a 101 -----------------------------------------------------------------------------------------------------------


async def test_other_informational_answers_before_the_101_are_passed_over() -> None:
    async with asked() as (client, backend, _):
        await backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + GOOD_101)
        assert (await client.head()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")


async def test_an_answer_byte_by_byte() -> None:
    async with asked() as (client, backend, _):
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD_101 + FRAME[:5]:
            await backend.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await client.status() == 101
        assert await client.exactly(5) == FRAME[:5]


@pytest.mark.parametrize("count", [1, 1000])
async def test_bytes_behind_the_101_come_behind_ours(count: int) -> None:
    async with pair(behind=FRAME * count) as one:
        assert await one.client.exactly(len(FRAME) * count) == FRAME * count


async def test_bytes_behind_the_101_are_walked_as_all_others() -> None:
    async with pair(behind=FRAME + b"\xff\xff") as one:
        assert await one.client.raw_frame() == FRAME
        assert (await one.client.frame())[1][:2] == (1011).to_bytes(2, "big")
        assert (await one.backend.frame())[1][:2] == (1002).to_bytes(2, "big")


async def test_a_backend_that_says_its_last_behind_its_101() -> None:
    async with asked(SEATS) as (client, backend, run):
        await backend.send(GOOD_101 + b"\x88\x02\x03\xe9")
        backend.end()
        assert await client.status() == 101
        assert await client.raw_frame() == b"\x88\x02\x03\xe9"
        await until(lambda: nothing_is_held(run))


@pytest.mark.parametrize("cut", [1, 3, 4])
async def test_the_head_of_an_answer_has_16_kib_however_it_is_cut(cut: int) -> None:
    padding = upstream_module.MAX_HEAD - len(GOOD_101[:-2] + b"X: \r\n\r\n") + 4
    answer = GOOD_101[:-2] + b"X: " + b"x" * padding + b"\r\n\r\n"
    assert len(answer) == upstream_module.MAX_HEAD + 4
    async with asked() as (client, backend, _):
        await backend.send(answer[:-cut])
        await asyncio.sleep(0.01)  # if it is read in one piece after all, nothing is lost but the point
        await backend.send(answer[-cut:])
        assert await client.status() == 101


async def test_a_unix_socket_upstream(tmp_path: Path) -> None:
    async with (
        waiting_backend(str(tmp_path / "game.sock")) as (url, arrived),
        running("", upstream=url) as run,
        raw_client(run.port) as client,
    ):
        await client.send(upgrade_head("/a?b"))
        backend = await arrived.get()
        assert (backend.target, backend.fields["host"]) == ("/a?b", "gate.test")
        await backend.accept(behind=FRAME)
        assert await client.status() == 101
        assert await client.raw_frame() == FRAME
        client.writer.close()
        backend.writer.close()


async def test_a_unix_socket_that_is_not_there_is_502(tmp_path: Path) -> None:
    async with running("", upstream=f"unix:{tmp_path}/nobody.sock") as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        answer = await client.answer()
        assert answer.status == 502
        assert b"nobody.sock" not in answer.body


async def test_a_dial_that_fails_says_why_without_the_address() -> None:
    nowhere = Upstream("game", TcpAddress("127.0.0.1", 1))
    wheel = TimingWheel(asyncio.get_running_loop())
    with pytest.raises(UpstreamError) as caught:
        await Dialer([nowhere], Keepalive(), wheel).dial(nowhere, b"")
    assert (caught.value.status, caught.value.detail) == (502, "the upstream cannot be reached: Connection refused")


# --- an answer that is no 101 ---------------------------------------------------------------------------------------------------

CHUNKED = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
ANSWERS = {
    "a length": (b"HTTP/1.1 403 Go Away\r\nServer: game\r\nContent-Length: 11\r\n\r\n", b"hello world", b"TRAILING"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED, b"TRAILING"),
    "until the end": (b"HTTP/1.1 404 Not Found\r\n\r\n", b"hello world", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", b"TRAILING"),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", b"", b"TRAILING"),
    "an empty body": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", b"", b"TRAILING"),
    "HTTP/1.0": (b"HTTP/1.0 302 Found\r\nLocation: /login?next=%2F\r\n\r\n", b"hello world", b""),
}


@pytest.mark.parametrize("pieces", ["whole", "byte_by_byte"])
@pytest.mark.parametrize(("head", "body", "behind"), ANSWERS.values(), ids=ANSWERS)
async def test_it_is_relayed_as_it_is_and_ends_both_connections(head: bytes, body: bytes, behind: bytes, pieces: str) -> None:
    async with asked(SEATS) as (client, backend, run):
        if pieces == "whole":
            await backend.send(head + body + behind)
        else:
            for byte in head + body:
                await backend.send(bytes((byte,)))
                await asyncio.sleep(0)
        if not behind:
            backend.end()
        answer = await client.answer()
        line, *lines = head.rstrip().split(b"\r\n")
        assert answer.head.split(b"\r\n")[0] == line.replace(b"HTTP/1.0", b"HTTP/1.1")
        assert sorted(answer.head.split(b"\r\n")[1:]) == sorted([*lines, b"Connection: close"])
        assert answer.body == body
        assert results(run) == {"upstream_rejected": 1}
        assert nothing_is_held(run)
        assert (await run.scrape())['wsgate_upstream_up{route="default"}'] == 1
        await backend.rest()


async def test_hop_by_hop_headers_stay_behind_and_a_length_beside_chunks_too() -> None:
    async with asked() as (client, backend, _):
        head = b"HTTP/1.1 200 OK\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nX-Here: 1\r\n"
        await backend.send(head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        answer = await client.answer()
        assert answer.head.split(b"\r\n")[1:] == [b"X-Here: 1", b"Transfer-Encoding: chunked", b"Connection: close"]


@pytest.mark.parametrize("bad", [b"zz\r\n", b"5\n", b"-1\r\n", b"1" * 5000])
async def test_a_bad_chunk_ends_the_answer_where_it_is(bad: bytes) -> None:
    async with asked() as (client, backend, _):
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert await client.status() == 200
        await backend.send(bad)
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        await backend.rest()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_in_the_middle_cuts_the_backend_off(how: str) -> None:
    async with asked() as (client, backend, run):
        await backend.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert await client.status() == 200
        getattr(client, how)()
        assert await backend.rest() == b""
        await until(lambda: not run.gate.remembered(), 1.0)


async def test_what_the_client_sends_meanwhile_goes_nowhere() -> None:
    async with asked() as (client, backend, _):
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert await client.status() == 200
        await client.send(upgrade_head())
        await backend.send(b"world")
        assert await client.rest() == b"helloworld"
        assert await backend.rest() == b""


async def test_an_answer_that_stands_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "RELAY_IDLE", 0.1)
    async with asked() as (client, backend, run):
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert (await client.answer()).body == b"hello"
        assert await backend.rest() == b""
        assert not run.gate._path.relays


async def test_a_stop_ends_an_answer_on_its_way() -> None:
    async with asked() as (client, backend, run):
        await backend.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert await client.status() == 200
        assert run.gate.remembered() == 1
        client.writer.transport.pause_reading()
        stopping = asyncio.create_task(run.gate.stop())
        assert await backend.rest() == b""
        client.end()
        await stopping
        assert run.gate.remembered() == 0


@pytest.mark.parametrize("at_once", [0, 250_000])
async def test_a_slow_client_slows_the_backend_down_and_gets_every_byte(at_once: int) -> None:
    """`at_once`: so much of the body comes with the head."""
    size = 40_000_000
    async with slow_client() as (client, backend, run):
        backend.writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(at_once))

        async def send_the_rest() -> None:
            await backend.send(bytes(size - at_once))
            backend.end()

        sending = asyncio.create_task(send_the_rest())
        await until(lambda: run.gate._path.relays)
        (relay,) = run.gate._path.relays
        await until(lambda: relay._paused)
        for _ in range(50):
            await asyncio.sleep(0.001)
            assert relay.client.get_write_buffer_size() <= HIGH_WATER + CHUNK
        assert not sending.done()
        client.writer.transport.resume_reading()
        assert len((await client.answer()).body) == size
        await sending


async def test_a_client_may_take_longer_for_the_end_of_an_answer_than_a_connection_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.linger.LINGER", 0.05)
    async with slow_client() as (client, backend, run):
        await backend.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await until(lambda: run.gate._path.relays)
        (relay,) = run.gate._path.relays
        size = 0
        while not relay.client.get_write_buffer_size():  # all kernels in between are full now
            await backend.send(bytes(20_000))
            size += 20_000
            await asyncio.sleep(0)
        backend.end()
        await until(lambda: relay._finished)
        await asyncio.sleep(0.15)
        client.writer.transport.resume_reading()
        assert len((await client.answer()).body) == size
        await until(lambda: not run.gate._path.relays)


@asynccontextmanager
async def slow_client() -> AsyncIterator[tuple[RawClient, RawConnection, Running]]:
    """A client that has asked and does not read, and the backend that has its request."""
    async with (
        waiting_backend() as (url, arrived),
        running("", upstream=url) as run,
        raw_client(run.port, receive_buffer=4096) as client,
    ):
        client.writer.transport.pause_reading()
        await client.send(upgrade_head())
        backend = await arrived.get()
        try:
            yield client, backend, run
        finally:
            client.writer.close()
            backend.writer.close()


@pytest.mark.parametrize("length", [b"Content-Length: 2, 2", b"Content-Length: 2\r\nContent-Length: 2"])
async def test_an_answer_whose_length_is_told_twice_is_502(length: bytes) -> None:
    async with asked() as (client, backend, _):
        await backend.send(b"HTTP/1.1 403 Forbidden\r\n" + length + b"\r\n\r\nno")
        assert (await client.answer()).status == 502
