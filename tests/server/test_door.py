"""The door, in bytes: which head gets which answer, however it is cut, and who may come in at all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from pathlib import Path

import pytest

from proxy.server.door import HEAD_SIZE
from tests.support.backends import RawConnection, raw_backend, waiting_backend
from tests.support.gate import running
from tests.support.raw import KEY, RawClient, raw_client, upgrade_head
from tests.support.waiting import until

NOWHERE = "ws://127.0.0.1:1"
GOOD = upgrade_head()
HURRY = "limits: {head_timeout: 50ms}"


def without(name: str) -> bytes:
    """The good head without the line of one name."""
    return b"\r\n".join(line for line in GOOD.split(b"\r\n") if not line.lower().startswith(name.lower().encode() + b":"))


def replaced(old: str, new: str) -> bytes:
    assert GOOD.count(old.encode()) == 1
    return GOOD.replace(old.encode(), new.encode("latin-1"))


BAD_HEADS: dict[str, tuple[bytes, int]] = {
    "an empty head": (b"\r\n\r\n", 400),
    "two empty lines": (b"\r\n\r\n" + GOOD, 400),
    "an empty line of LF alone": (b"\n" + GOOD, 400),
    "an empty line of CR alone": (b"\r" + GOOD, 400),
    "an empty line with a space": (b" \r\n" + GOOD, 400),
    "a bad head behind an empty line": (b"\r\n" + upgrade_head("/a;b"), 400),
    "bytes behind the head that an empty line begins": (b"\r\n" + GOOD + b"x", 400),
    "no request line": (b"hello\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "two spaces": (replaced("GET / ", "GET  / "), 400),
    "a bare LF": (replaced("HTTP/1.1\r\n", "HTTP/1.1\n"), 400),
    "a NUL": (upgrade_head("/", "X: a\0b"), 400),
    "obs-fold": (upgrade_head("/", "X: a", " b"), 400),
    "a space before the colon": (upgrade_head("/", "X : a"), 400),
    "a line without a colon": (upgrade_head("/", "rubbish"), 400),
    "another method": (replaced("GET", "POST"), 400),
    "HTTP/1.0": (replaced("HTTP/1.1", "HTTP/1.0"), 426),
    "HTTP/2.0": (replaced("HTTP/1.1", "HTTP/2.0"), 426),
    "HTTP/3 without an upgrade": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "absolute form": (replaced("GET /", "GET http://gate.test/"), 400),
    "asterisk form": (replaced("GET /", "GET *"), 400),
    "no Host": (without("Host"), 400),
    "two Hosts": (upgrade_head("/", "Host: other"), 400),
    "a list of Hosts": (replaced("gate.test", "gate.test, other"), 400),
    "no Upgrade": (without("Upgrade"), 426),
    "two Upgrades": (upgrade_head("/", "Upgrade: websocket"), 400),
    "a list in Upgrade": (replaced("Upgrade: websocket", "Upgrade: h2c, websocket"), 400),
    "no Connection": (without("Connection"), 426),
    "another Connection": (replaced("Connection: Upgrade", "Connection: keep-alive"), 426),
    "no version": (without("Sec-WebSocket-Version"), 426),
    "another version": (replaced("Version: 13", "Version: 8"), 426),
    "two versions": (upgrade_head("/", "Sec-WebSocket-Version: 13"), 426),
    "no key": (without("Sec-WebSocket-Key"), 400),
    "two keys": (upgrade_head("/", f"Sec-WebSocket-Key: {KEY}"), 400),
    "a short key": (replaced(KEY, "c2hvcnQ="), 400),
    "a body": (upgrade_head("/", "Content-Length: 5"), 400),
    "a chunked body": (upgrade_head("/", "Transfer-Encoding: chunked"), 400),
    "an empty segment": (upgrade_head("//a"), 400),
    "a dot segment": (upgrade_head("/a/../b"), 400),
    "an encoded dot segment": (upgrade_head("/a/%2e%2E/b"), 400),
    "an encoded slash": (upgrade_head("/a%2Fb"), 400),
    "an encoded backslash": (upgrade_head("/a%5Cb"), 400),
    "an encoded NUL": (upgrade_head("/a%00b"), 400),
    "a semicolon": (upgrade_head("/a;b"), 400),
    "a backslash": (upgrade_head("/a\\b"), 400),
    "a fragment": (upgrade_head("/a#b"), 400),
    "a byte that is not ASCII": (upgrade_head("/\xe4"), 400),
    "a broken escape": (upgrade_head("/%zz"), 400),
    "two tokens": (upgrade_head("/?token=a&token=b"), 400),
    "offers that cannot be read": (upgrade_head("/", "Sec-WebSocket-Extensions: ;;="), 400),
    "bytes behind the head": (GOOD + b"x", 400),
    "a frame behind the head": (GOOD + b"\x81\x80abcd", 400),
}


@pytest.mark.parametrize(("head", "status"), BAD_HEADS.values(), ids=BAD_HEADS)
async def test_every_bad_head_gets_its_answer_and_ends_its_connection(head: bytes, status: int) -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(head)
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert json.loads(answer.body)["status"] == status
        if status == 426:
            assert (answer.headers["upgrade"], answer.headers["sec-websocket-version"]) == ("websocket", "13")


@pytest.mark.parametrize(
    "head",
    [GOOD, upgrade_head("/a;b"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n" + GOOD, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["good", "400", "another", "good behind an empty line", "another behind an empty line"],
)
async def test_a_head_that_is_cut_anywhere_is_the_same_head(head: bytes) -> None:
    async def cut_at(place: int, port: int) -> int:
        async with raw_client(port) as client:
            await client.send(head[:place])
            if place:
                await until(lambda: any(door._received == head[:place] for door in run.gate._entrance.doors))
            await client.send(head[place:])
            return await client.status()

    async def accept(connection: RawConnection) -> None:
        if "upgrade" in connection.fields:
            await connection.accept()
            await connection.rest()
        else:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with raw_backend(accept) as url, running("", upstream=url) as run:
        expected = await cut_at(0, run.port)
        for place in range(1, len(head)):
            assert await cut_at(place, run.port) == expected


async def test_a_head_byte_by_byte() -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GOOD:
            await client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await client.status() == 502


def padded(size: int) -> bytes:
    """A good head of so many bytes, its empty line not counted."""
    bare = len(upgrade_head("/", "X: ")) - 4
    return upgrade_head("/", "X: " + "x" * (size - bare))


@pytest.mark.parametrize(("size", "status"), [(HEAD_SIZE, 502), (HEAD_SIZE + 1, 431)])
async def test_a_head_of_16_kib_is_read_however_it_is_cut(size: int, status: int) -> None:
    head = padded(size)
    assert len(head) == size + 4
    async with running("", upstream=NOWHERE) as run:
        for cut in (len(head), len(head) - 1, len(head) - 3, len(head) - 4, 100):
            async with raw_client(run.port) as client:
                await client.send(head[:cut])
                await until(lambda: not run.gate._entrance.doors or any(len(one._received) == cut for one in run.gate._entrance.doors))  # noqa: B023 -- it is over before the next turn
                await client.send(head[cut:])
                assert await client.status() == status
                client.end()
                await run.quiet()


@pytest.mark.parametrize(("size", "status"), [(HEAD_SIZE, 502), (HEAD_SIZE + 1, 431)])
async def test_an_empty_line_before_a_head_is_no_part_of_it(size: int, status: int) -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(b"\r\n" + padded(size)[:-1])
        await client.send(padded(size)[-1:])
        assert await client.status() == status


@pytest.mark.parametrize("sent", [b"\r", b"\r\n"])
async def test_who_sends_an_empty_line_and_nothing_more_is_left_without_a_word(sent: bytes) -> None:
    async with running(HURRY, upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(sent)
        assert await client.rest() == b""
        assert run.gate.remembered() == 0


async def test_a_head_without_an_end_is_not_gathered() -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        client.writer.transport.pause_reading()
        for _ in range(100):
            await client.send(b"x" * 50_000)
        client.end()
        client.writer.transport.resume_reading()
        assert (await client.answer()).status == 431
        assert not run.gate._entrance.doors


async def test_who_says_nothing_is_left_without_a_word() -> None:
    async with running(HURRY, upstream=NOWHERE) as run, raw_client(run.port) as client:
        assert await client.rest() == b""
        assert run.gate.remembered() == 0


async def test_half_a_head_at_its_deadline_is_408() -> None:
    async with running(HURRY, upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(GOOD[:-1])
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")


@pytest.mark.parametrize("part", [b"", b"GET"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_who_leaves_before_the_head_is_whole_is_forgotten(part: bytes, how: str) -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(part)
        await until(lambda: run.gate._entrance.doors)
        getattr(client, how)()
        await until(lambda: not run.gate._entrance.doors)
        assert await client.rest() == b""


@pytest.mark.parametrize("head", [upgrade_head("/a;b"), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", GOOD + b"x"])
async def test_who_still_sends_can_read_the_answer(head: bytes) -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client:
        client.writer.transport.pause_reading()
        await client.send(head)
        for _ in range(100):  # a reset would end this
            await client.send(b"x" * 50_000)
        client.end()
        client.writer.transport.resume_reading()
        answer = await client.answer()
        assert answer.status in (400, 502)
        assert answer.headers["connection"] == "close"


async def test_a_stop_closes_those_who_have_not_asked_yet() -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.port) as client, raw_client(run.port) as another:
        await another.send(GOOD[:50])
        await until(lambda: len(run.gate._entrance.doors) == 2)
        await run.gate.stop()
        assert await client.rest() == await another.rest() == b""


# --- who is there ---------------------------------------------------------------------------------------------------------------

SPOOFED = upgrade_head("/", "X-Forwarded-For: 203.0.113.9")
ONE_EACH = "rules: [{name: one, per: ip, upgrades: 1/min, burst: 1}]"


async def refused(port: int, head: bytes) -> bool:
    async with raw_client(port) as client:
        await client.send(head)
        return await client.status() == 101  # a refusal that a browser can read; who is let in finds no backend


async def test_a_client_that_is_gone_when_we_look_cannot_say_who_it_is() -> None:
    """Between its SYN and our accept a client can send a head and reset: the head can be read, the address is gone."""
    async with running(ONE_EACH, upstream=NOWHERE) as run:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", run.port)) as early:  # the gate's loop does not run meanwhile
                early.sendall(SPOOFED)
                early.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with raw_client(run.port) as later:  # behind them in the queue
            await later.send(upgrade_head("/a;b"))
            assert await later.status() == 400
        assert +run.gate.totals.upgrades == {("", "bad_request"): 1}


async def test_a_peer_on_tcp_is_not_believed_about_who_it_speaks_for() -> None:
    async with running(ONE_EACH, upstream=NOWHERE) as run:
        assert not await refused(run.port, SPOOFED)
        assert await refused(run.port, upgrade_head("/", "X-Forwarded-For: 203.0.113.10"))


async def test_a_trusted_peer_is_believed() -> None:
    async with running(ONE_EACH + "\nidentity: {trusted_proxies: [127.0.0.0/8]}", upstream=NOWHERE) as run:
        assert not await refused(run.port, SPOOFED)
        assert not await refused(run.port, upgrade_head("/", "X-Forwarded-For: 203.0.113.10"))
        assert await refused(run.port, SPOOFED)


async def test_a_peer_on_a_unix_socket_is_a_trusted_proxy(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    async with waiting_backend() as (url, arrived), running("", upstream=url, listen=f"unix:{path}"):
        client = RawClient(*await asyncio.open_unix_connection(str(path)))
        await client.send(SPOOFED)
        backend = await arrived.get()
        assert backend.fields["x-forwarded-for"] == "203.0.113.9"
        await backend.accept()
        assert await client.status() == 101
        client.writer.close()
        backend.writer.close()


async def test_an_upgrade_that_is_refused_at_the_door_is_counted() -> None:
    async with running("", upstream="ws://127.0.0.1:9") as run:
        async with raw_client(run.port) as client:
            await client.send(upgrade_head() + b"early")
            assert await client.status() == 400
        assert (await run.scrape())['wsgate_upgrades_total{result="bad_request",route=""}'] == 1
