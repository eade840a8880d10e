"""Servers and clients that are not ours speak ordinary HTTP through the gate, beside their sockets, and nobody notices that it is there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.server.http_session import HttpSession
from proxy.wire.handshake import RequestHead
from tests.interop.fronts import nginx_before
from tests.interop.rest import BLOCK, rest_backend
from tests.interop.servers import websockets_server
from tests.limits.program import Program, program
from tests.support.gate import Running, running
from tests.support.provided import provided
from tests.support.threads import threaded

FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded")
RULES = """
rules:
  - {name: connections, per: user, connections: 100000}
  - {name: messages, per: user, messages: 1000000/s}
"""
GROWTH = 12 << 20  # bytes that the gate may need more while it carries a body of any size


@asynccontextmanager
async def through() -> AsyncIterator[tuple[Running, str]]:
    """A gate before the REST backend, and the backend's own address."""
    async with rest_backend() as url, running(RULES, upstream=url) as gate:
        yield gate, url


# --- big bodies ---------------------------------------------------------------------------------------------------------------------


def peak(gate: Program) -> int:
    """Bytes of memory that the gate had in use at most. proc(5)."""
    lines = Path(f"/proc/{gate.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def blocks(size: int) -> Iterator[bytes]:
    while size:
        yield BLOCK[:size]
        size -= min(size, len(BLOCK))


def digest(size: int) -> str:
    found = hashlib.sha256()
    for block in blocks(size):
        found.update(block)
    return found.hexdigest()


def exchange(port: int, head: str, body: Iterator[bytes], *, chunked: bool) -> Iterator[bytes]:
    """Send a request over a plain socket; yields the bytes of the answer as they come."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(f"{head}\r\nHost: gate.test\r\nConnection: close\r\n\r\n".encode())
        for block in body:
            sock.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        while data := sock.recv(1 << 18):
            yield data


def upload(port: int, size: int, *, chunked: bool) -> dict[str, Any]:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    answer = b"".join(exchange(port, f"PUT /echo/big HTTP/1.1\r\n{framing}", blocks(size), chunked=chunked))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    found: dict[str, Any] = json.loads(body)
    return found


def download(port: int, size: int) -> str:
    """The SHA-256 of what came behind the head."""
    found, head = hashlib.sha256(), b""
    for data in exchange(port, f"GET /bytes/{size} HTTP/1.1", iter(()), chunked=False):
        if b"\r\n\r\n" in head:
            found.update(data)
        else:
            head += data
            found.update(head.partition(b"\r\n\r\n")[2])
    return found.hexdigest()


def carry(folder: Path, size: int) -> None:
    with threaded(rest_backend) as url, program(folder, "", url) as gate:
        for small in (upload(gate.port, 1 << 20, chunked=True), upload(gate.port, 1 << 20, chunked=False)):
            assert small["sha256"] == digest(1 << 20)
        download(gate.port, 1 << 20)
        before = peak(gate)
        for chunked in (False, True):
            found = upload(gate.port, size, chunked=chunked)
            assert (found["size"], found["sha256"]) == (size, digest(size))
        assert download(gate.port, size) == digest(size)
        assert peak(gate) - before < GROWTH


def test_64_mebibytes_go_up_and_down_at_flat_memory(tmp_path: Path) -> None:
    carry(tmp_path, 64 << 20)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_gibibyte_goes_up_and_down_at_flat_memory(tmp_path: Path) -> None:
    carry(tmp_path, 1 << 30)


def test_who_reads_slowly_or_takes_slowly_costs_no_memory(tmp_path: Path) -> None:
    """Downloads that nobody reads, and uploads that the backend does not take: the gate holds its sender back."""

    def fill(sock: socket.socket) -> None:
        while True:
            sock.sendall(BLOCK)

    with threaded(rest_backend) as url, program(tmp_path, "drain: 100ms", url) as gate:
        download(gate.port, 1 << 20)
        before = peak(gate)
        idle = []
        for _ in range(10):
            sock = socket.create_connection(("127.0.0.1", gate.port))
            sock.sendall(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: gate.test\r\n\r\n")
            idle.append(sock)
        for _ in range(10):  # /poll never reads its body
            sock = socket.create_connection(("127.0.0.1", gate.port))
            sock.sendall(b"GET /poll HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 1000000000\r\n\r\n")
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                fill(sock)
            idle.append(sock)
        assert download(gate.port, 1 << 20) == digest(1 << 20)
        assert peak(gate) - before < 20 * (1 << 19) + GROWTH  # two buffers each, at most
        for sock in idle:
            sock.close()
        list(exchange(gate.port, "POST /tell HTTP/1.1\r\nContent-Length: 4", iter((b"over",)), chunked=False))  # ends the polls


# --- the client of aiohttp ---------------------------------------------------------------------------------------------------------


async def test_calls_redirects_and_cookies_are_as_without_it() -> None:
    async with through() as (gate, url):
        found = []
        for address in (url, gate.http("").rstrip("/")):
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
                async with session.get(f"{address}/redirect", allow_redirects=False) as answer:
                    assert (answer.status, answer.headers["Location"]) == (302, "/cookies?")
                async with session.get(f"{address}/redirect") as answer:
                    cookies = await answer.json()
                async with session.post(f"{address}/echo/a?b=%61", data=b"x" * 100_000, headers={"X-Mine": "1"}) as answer:
                    echoed = await answer.json()
                async with session.get(f"{address}/nowhere") as answer:
                    assert answer.status == 404
                    missing = await answer.text()
            echoed["fields"] = [(name, value) for name, value in echoed["fields"] if name not in (*FORWARDED, "host")]
            found.append((cookies, echoed, missing))
        direct, ours = found
        assert direct[0] == {"session": "abc"}
        assert sorted(ours[1].pop("fields")) == sorted(direct[1].pop("fields"))
        assert ours == direct


async def test_many_clients_at_once_are_not_mixed_up() -> None:
    async with through() as (gate, _), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:

        async def call(number: int) -> None:
            body = os.urandom(number % 3000)
            async with session.put(gate.http(f"/echo/{number}"), data=body) as answer:
                found = await answer.json()
            assert (found["target"], found["sha256"]) == (f"/echo/{number}", hashlib.sha256(body).hexdigest())

        await asyncio.gather(*(call(number) for number in range(500)))


async def test_events_come_as_they_are_told_to_everybody() -> None:
    async with through() as (gate, _), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        listening = [await session.get(gate.http("/events/3")) for _ in range(20)]
        for number in range(3):
            async with session.post(gate.http("/tell"), data=f"event {number}") as answer:
                assert answer.status == 204
            for events in listening:
                line = await asyncio.wait_for(events.content.readuntil(b"\n\n"), 5)
                assert line == f"data: event {number}\n\n".encode()
        for events in listening:
            assert await asyncio.wait_for(events.read(), 5) == b""


async def test_long_polls_wait_and_end_with_their_clients() -> None:
    async with through() as (gate, _), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def poll() -> str:
            async with session.get(gate.http("/poll")) as answer:
                return await answer.text()

        polls = [asyncio.create_task(poll()) for _ in range(30)]
        while len(gate.gate._passthrough) < 30:  # noqa: ASYNC110 -- no event tells it
            await asyncio.sleep(0.005)
        for leaving in polls[:10]:
            leaving.cancel()
        await asyncio.gather(*polls[:10], return_exceptions=True)
        while len(gate.gate._passthrough) > 20:  # noqa: ASYNC110 -- no event tells it
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # the last of them is with the backend
        async with session.post(gate.http("/tell"), data="news") as answer:
            assert answer.status == 204
        assert await asyncio.wait_for(asyncio.gather(*polls[10:]), 5) == ["news"] * 20


# --- Socket.IO ---------------------------------------------------------------------------------------------------------------------


async def test_socket_io_polls_and_then_upgrades() -> None:
    """As its client does: open and talk by polling, probe a WebSocket with the same session, go over to it."""
    async with through() as (gate, _), aiohttp.ClientSession() as session:
        url = gate.http("/socket.io/?EIO=4&transport=")
        for _ in range(5):
            async with session.get(f"{url}polling") as answer:
                opened = json.loads((await answer.text())[1:])
            assert opened["upgrades"] == ["websocket"]
            polling, upgrade = f"{url}polling&sid={opened['sid']}", f"{url}websocket&sid={opened['sid']}"
            async with session.post(polling, data="4hello\x1e4world") as answer:
                assert await answer.text() == "ok"
            async with session.get(polling) as answer:
                assert await answer.text() == "4hello\x1e4world"
            waiting = asyncio.create_task(session.get(polling))  # as the client leaves it open
            socket = await session.ws_connect(upgrade)
            await socket.send_str("2probe")
            assert await socket.receive_str(timeout=5) == "3probe"
            async with await asyncio.wait_for(waiting, 5) as answer:
                assert await answer.text() == "6"
            await socket.send_str("5")
            await socket.send_str("4over the socket")
            assert await socket.receive_str(timeout=5) == "4over the socket"
            await socket.close()
        await gate.quiet()
        assert gate.gate.totals.upgrades["default", "admitted"] == 5


# --- curl ---------------------------------------------------------------------------------------------------------------------------

ODD: list[list[str]] = [
    [],
    ["-I"],
    ["-X", "DELETE"],
    ["-X", "PURGE"],
    ["--http1.0"],
    ["-d", "a=b"],
    ["-T", "{file}"],
    ["-T", "{file}", "-H", "Transfer-Encoding: chunked"],
    ["-T", "{file}", "-H", "Expect: 100-continue"],
    ["-T", "{file}", "-H", "Expect:"],
    ["-F", "field=@{file}"],
    ["-H", "Host: other.test:99"],
    ["-H", "X-Empty;"],
    ["-H", "Accept:"],
    ["-H", "User-Agent:"],
    ["-H", "Connection: close"],
    ["-H", "Connection: keep-alive, X-Mine", "-H", "X-Kept: 1"],
    ["-H", "Accept-Encoding: gzip, br;q=0.5"],
    ["-H", "Cookie: a=1; b=\"2 3\""],
    ["-u", "user:pass word"],
    ["-r", "0-10"],
    ["-z", "2020-01-01"],
    ["-X", "OPTIONS"],
    ["-X", "M-SEARCH"],
    ["-X", "GET", "-d", "a body"],
    ["-H", "X-Twice: 1", "-H", "X-Twice: 2", "-H", "x-twice: 3"],
    ["-H", "X-Spaces:   a   b   "],
    ["-H", "Connection: Upgrade, HTTP2-Settings", "-H", "Upgrade: h2c", "-H", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    ["--http2"],
    ["-H", "TE: trailers", "-H", "Connection: TE"],
    ["-T", "{file}", "-H", "Transfer-Encoding: chunked", "-H", "Trailer: X-Sum"],
    ["--compressed"],
    ["--max-time", "5", "--limit-rate", "1M", "-T", "{file}"],
    ["-H", "X-Long: " + "x" * 8000],
    ["-H", "X-Unicode: žluťoučký"],
    *[["-H", f"X-{number}: {number}"] * 1 for number in range(3)],
    [part for number in range(100) for part in ("-H", f"X-{number}: {number}")],
]  # fmt: skip


async def run_curl(url: str, *options: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        provided("curl"), "-sS", "--path-as-is", "--max-time", "10", *options, url, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode("latin-1")


@pytest.mark.parametrize("options", ODD, ids=lambda options: " ".join(options)[:40])
async def test_curl_sees_the_same_as_without_it(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(200_000))
    options = [option.format(file=tmp_path / "file") for option in options]
    async with through() as (gate, url):
        direct, ours = [await run_curl(f"{address}/echo/a/../b?c=%2F&&d", *options) for address in (url, gate.http("").rstrip("/"))]
    assert direct[0] == ours[0] == 0
    if "-I" in options:  # of what it would say only the length differs
        names = [[line.partition(": ")[0] for line in output.splitlines()] for _, output in (direct, ours)]
        assert names[0] == names[1]
        return
    found, expected = json.loads(ours[1]), json.loads(direct[1])
    hop_by_hop = (
        "connection",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "host",
        "expect",
        "content-type",
        *FORWARDED,
    )  # of a form it has a random boundary
    fields = [(name, value) for name, value in found.pop("fields") if name not in hop_by_hop]
    were = [(name, value) for name, value in expected.pop("fields") if name not in hop_by_hop]
    assert sorted(fields) == sorted(were)
    if "-F" in options:
        assert found.pop("sha256") != expected.pop("sha256")
    assert found == expected


async def test_curl_uses_one_connection_for_many_urls() -> None:
    async with through() as (gate, _):
        urls = [gate.http(f"/echo/{number}") for number in range(10)]
        code, output = await run_curl(urls[0], "-w", "%{num_connects}\n", *urls[1:])
        assert code == 0
        assert sum(int(part[0]) for part in output.split("}")[1:]) == 1


# --- nginx before the gate -----------------------------------------------------------------------------------------------------------


async def talk(port: int, upgrades: int, at_once: int) -> None:
    """Upgrades and plain requests over the same pooled connections: each gets the answer to what it asked."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            async with session.get(f"http://127.0.0.1:{port}/plain/{number}") as answer:
                assert answer.status == 426, answer.status  # the backend speaks nothing but WebSocket
            target = f"/request/room-{number}?token=user-{number}"
            async with session.ws_connect(f"http://127.0.0.1:{port}{target}") as socket:
                for _ in range(2):
                    await socket.send_str("who am I?")
                    assert json.loads(await socket.receive_str(timeout=10))["target"] == target

        numbers = iter(range(upgrades))

        async def work() -> None:
            for number in numbers:
                await one(number)

        await asyncio.gather(*(work() for _ in range(at_once)))


async def reused_upgrades(talking: Coroutine[None, None, None]) -> int:
    """How many upgrades come on a connection to the gate that carried other requests before, while somebody talks to it."""
    take_over = HttpSession._take_over
    count = 0

    def counted(session: HttpSession, head: RequestHead, behind: bytes) -> None:
        nonlocal count
        count += 1
        take_over(session, head, behind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpSession, "_take_over", counted)
        await talking
    return count


async def through_nginx(folder: Path, upgrades: int) -> None:
    yaml = "identity: {trusted_proxies: [127.0.0.1]}\n" + RULES
    async with websockets_server() as server, running(yaml, upstream=server.url) as gate, nginx_before(gate.port, folder) as port:
        taken_over = await reused_upgrades(talk(port, upgrades, 50))
        assert taken_over >= upgrades // 2
        assert gate.gate.totals.upgrades["default", "admitted"] == upgrades
        assert sum(gate.gate.totals.upgrades.values()) == upgrades
        await gate.quiet()


async def test_nginx_upgrades_over_pooled_connections(tmp_path: Path) -> None:
    await through_nginx(tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_of_ten_thousand_upgrades_through_nginx_none_is_refused_or_mixed_up(tmp_path: Path) -> None:
    await through_nginx(tmp_path, 10_000)
