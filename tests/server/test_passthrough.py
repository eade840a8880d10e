"""Ordinary HTTP through the gate, in bytes: what the backend gets, what the client gets back, and what never arrives."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.server import http_client, linger, passthrough
from tests.support.backends import RawConnection, raw_backend, waiting_backend
from tests.support.gate import Running, running
from tests.support.http import Recorded, Recorder, next_answer, recording_backend
from tests.support.raw import KEY, PATIENCE, HttpAnswer, RawClient, raw_client, upgrade_head
from tests.support.tls import LISTENING, TRUSTING, backend_tls, client_tls
from tests.support.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TRUSTED = "identity: {trusted_proxies: [127.0.0.0/8]}"


def request(line: str, *headers: str, body: bytes = b"", host: str | None = "gate.test") -> bytes:
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([f"{line} HTTP/1.1", *hosts, *headers, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def recorded(yaml: str = "", answer: bytes = OK) -> AsyncIterator[tuple[Running, Recorder, RawClient]]:
    async with recording_backend() as backend, running(yaml, upstream=backend.url) as run, raw_client(run.port) as client:
        backend.answer = answer
        yield run, backend, client


@asynccontextmanager
async def waiting(yaml: str = "") -> AsyncIterator[tuple[Running, asyncio.Queue[RawConnection], RawClient]]:
    async with waiting_backend() as (url, arrived), running(yaml, upstream=url) as run, raw_client(run.port) as client:
        yield run, arrived, client


async def next_of(arrived: asyncio.Queue[RawConnection]) -> RawConnection:
    async with asyncio.timeout(PATIENCE):
        return await arrived.get()


async def exchange(data: bytes, yaml: str = "", answer: bytes = OK) -> tuple[Recorded, HttpAnswer]:
    """One request, as the backend gets it, and its answer, as the client does."""
    async with recorded(yaml, answer) as (_, backend, client):
        await client.send(data)
        found = await next_answer(client, data.split(b" ")[0].decode())
        (only,) = backend.requests
        return only, found


async def answer_of(answer: bytes, line: str = "GET /") -> HttpAnswer:
    """What the client gets when the backend writes these bytes and closes."""

    async def write(connection: RawConnection) -> None:
        await connection.send(answer)

    async with raw_backend(write) as url, running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(request(line))
        found = await next_answer(client, line.partition(" ")[0])
        client.end()
        await run.quiet()
        return found


# --- the request line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "TRACE",
        "PROPFIND",
        "M-SEARCH",
        "SOURCE",
        "PRI",
        "BREW",
        "get",
        "Post",
        "X-1!#$%&'*+.^_`|~",
    ],
)
@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_any_method_comes_through(method: str, body: bytes) -> None:
    got, answer = await exchange(request(f"{method} /a", *([f"Content-Length: {len(body)}"] if body else []), body=body))
    assert got.line == f"{method} /a HTTP/1.1"
    assert got.body == body
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/?",
        "/a?",
        "/a??b=?",
        "/room/z/../a",
        "/room/./a",
        "/..",
        "/%2e%2E/x",
        "/%61",
        "/a%2Fb",
        "/a%2fb%00%",
        "/%zz",
        "//",
        "//other.test/a",
        "//user:pass@other.test:99/a",
        "/a//b///",
        "/:8080",
        "/a@b",
        "/a;b;c=d",
        "/a\\b",
        '/a|b^c`d{e}"f<g>',
        "/?a=b&a=b&;=&&",
        "/?q=/../%2e%2e//",
        "/?u=http://x/?y",
        "/a+b?c+d=%20%2B",
        "/?q=\xe9",
        "/?q=\xc3\xa9&\xff",
        "/" + "x" * 8000,
    ],
)
async def test_a_target_goes_upstream_byte_for_byte(target: str) -> None:
    got, _ = await exchange(request(f"GET {target}"))
    assert got.target == target


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://gate.test/", 400),
        ("GET gate.test:80", 400),
        ("GET *", 400),
        ("GET /a#b", 400),
        ("GET /\xe4", 400),
        ("GET ?a", 400),
        ("CONNECT gate.test:443", 501),
        ("CONNECT /", 501),
        ("Connect /", 501),
        ("head /", 501),
        ("GET /nowhere", 404),
    ],
)
async def test_what_cannot_be_carried_as_it_is_gets_an_answer_of_ours(line: str, status: int) -> None:
    yaml = "routes: [{name: api, path: '/', upstream: game}]"
    async with recorded(yaml) as (_, backend, client):
        await client.send(request(line))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert json.loads(answer.body)["status"] == status
        assert not backend.requests


async def test_what_is_asked_of_the_server_as_a_whole_goes_to_the_route_of_its_root() -> None:
    got, answer = await exchange(request("OPTIONS *"))
    assert (got.line, answer.status) == ("OPTIONS * HTTP/1.1", 200)


@pytest.mark.parametrize("body", [b"", b"h\xe9llo"])
@pytest.mark.parametrize("value", ["Ren\xe9", "Ren\xc3\xa9", "\x80\xff a \xf0\x9f"])
async def test_header_values_go_upstream_byte_for_byte(value: str, body: bytes) -> None:
    length = [f"Content-Length: {len(body)}"] if body else []
    async with recorded() as (_, backend, client):
        for _ in range(2):  # also on a connection that was used
            await client.send(request("POST /?\xe9", f"X-Name: {value}", *length, body=body))
            assert (await next_answer(client)).status == 200
        assert {tuple(got.values("X-Name")) for got in backend.requests} == {(value,)}
        assert {got.body for got in backend.requests} == {body}
        assert backend.connections == 1


async def test_a_body_in_chunks_behind_a_head_that_is_not_ascii() -> None:
    data = request("POST /", "X-Name: \xe9", "Transfer-Encoding: chunked", body=b"3\r\n\xe9\r\n\r\n0\r\n\r\n")
    got, _ = await exchange(data)
    assert (got.values("X-Name"), got.body) == (["\xe9"], b"\xe9\r\n")


UNTRUSTED = [
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Ssl: on",
    "x_forwarded_server: e",
    "X_Forwarded-For: 6.6.6.6",
]


@pytest.mark.parametrize(("yaml", "kept"), [("", 0), (TRUSTED, 4)])
async def test_other_forwarding_headers_are_the_trusted_proxys_to_say(yaml: str, kept: int) -> None:
    plain, _ = await exchange(request("GET /", *UNTRUSTED), yaml)
    async with waiting(yaml) as (_, arrived, client):
        await client.send(upgrade_head("/", *UNTRUSTED))
        upgrade = (await next_of(arrived)).head.decode().split("\r\n")
    for lines in (plain.lines, upgrade):
        assert len([line for line in lines if line in UNTRUSTED]) == kept


async def test_an_answer_of_ours_to_head_has_no_body() -> None:
    async with recorded("routes: [{name: api, path: '/api', upstream: game}]") as (_, _, client):
        await client.send(request("HEAD /"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (404, b"")
        assert int(answer.headers["content-length"]) > 0


async def test_the_route_says_which_upstream_is_asked() -> None:
    async with recording_backend() as one, recording_backend() as other:
        upstreams = f"upstreams: {{one: {{url: '{one.url}'}}, other: {{url: '{other.url}'}}}}\n"
        routes = "routes: [{name: one, path: '/one/{rest*}', upstream: one}, {name: rest, path: '/{rest*}', upstream: other}]"
        async with running(upstreams + routes) as run, raw_client(run.port) as client:
            for target in ("/one/a", "/b", "/one"):
                await client.send(request(f"GET {target}"))
                await next_answer(client)
            assert (one.targets, other.targets) == (["/one/a", "/one"], ["/b"])


async def test_a_backend_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "backend.sock")
    async with waiting_backend(path) as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(request("GET /a"))
        backend = await next_of(arrived)
        assert backend.target == "/a"
        assert backend.fields["host"] == "gate.test"
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"


# --- headers of the request -----------------------------------------------------------------------------------------------------

OURS = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Host: gate.test",
    "X-Forwarded-Proto: http",
    'Forwarded: for=127.0.0.1;host="gate.test";proto=http',
]


async def test_headers_go_upstream_as_they_came() -> None:
    sent = [
        "accept: */*",
        "X-First:   white space around \t",
        "Cookie: a=1; b=2",
        "Authorization: Basic dTpw",
        "X-Empty:",
        "X-Twice: 1",
        "X-Twice: 2",
        "User-Agent: curl/8.5.0",
        "Accept-Encoding: br;q=1.0, gzip;q=0.8",
        "Range: bytes=0-1",
        'If-None-Match: "x"',
        "Origin: https://other.test",
        "Via: 1.0 fred",
        "X-Unicode: h\u00c3\u00a9",
        "Sec-Fetch-Mode: cors",
        "content-LENGTH: 0",
        "x_under_score: 1",
    ]
    got, _ = await exchange(request("GET /", *sent))
    assert got.lines == [
        "GET / HTTP/1.1",
        "Host: gate.test",
        *[line.replace(":   ", ": ").rstrip("\t ") + " " * line.endswith(":") for line in sent],
        *OURS,
    ]


async def test_no_line_of_a_name_is_lost_when_it_is_spelled_in_two_ways() -> None:
    got, _ = await exchange(request("GET /", "Cookie: a=1", "X: 1", "COOKIE: b=2", "x: 2", "cookie: c=3"))
    assert got.values("Cookie") == ["a=1", "b=2", "c=3"]
    assert got.values("X") == ["1", "2"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PURGE"])
async def test_nothing_is_added_but_what_tells_of_the_client(method: str) -> None:
    got, _ = await exchange(request(f"{method} /"))
    assert got.lines == [f"{method} / HTTP/1.1", "Host: gate.test", *OURS]


@pytest.mark.parametrize("host", ["gate.test:8080", "GATE.test", "[::1]:80", "127.0.0.1"])
async def test_the_host_is_kept(host: str) -> None:
    got, _ = await exchange(request("GET /", host=host))
    assert got.values("Host") == [host]
    assert got.values("X-Forwarded-Host") == [host]


@pytest.mark.parametrize(
    "hosts", [[], ["Host: a", "Host: b"], ["Host: a", "Host: a"], ["Host: a, b"], ["Host:"], ["Host: a/b"], ["Host: u@a"], ["Host: \xe4"]]
)
async def test_a_host_that_is_none_is_400(hosts: list[str]) -> None:
    async with recorded() as (_, backend, client):
        await client.send(request("GET /", *hosts, host=None))
        assert (await client.answer()).status == 400
        assert not backend.requests


async def test_what_belongs_to_one_connection_ends_here() -> None:
    got, answer = await exchange(
        request(
            "GET /",
            "Connection: keep-alive, X-Mine, x-other, cookie, X-Forwarded-For, Host",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eA==",
            "TE: trailers",
            "Trailer: X-Check",
            "X-Mine: 1",
            "X-Other: 2",
            "Cookie: a=1",
            "X-Kept: 3",
        )
    )
    assert got.lines == ["GET / HTTP/1.1", "Host: gate.test", "Cookie: a=1", "X-Kept: 3", *OURS]
    assert "connection" not in answer.headers


async def test_what_belongs_to_an_upgrade_ends_here() -> None:
    got, _ = await exchange(
        request(
            "GET /",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
            "Sec-WebSocket-Protocol: chat",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "sec_websocket_key: " + KEY,
            "Sec_WebSocket-Version: 13",
        )
    )
    assert got.lines == ["GET / HTTP/1.1", "Host: gate.test", *OURS]


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "x-forwarded_proto",
        "X_FORWARDED-HOST",
        "Content_Length",
        "Transfer_Encoding",
        "Connection_",
        "Te_",
        "Upgrade_",
        "Http2_Settings",
    ],
)
async def test_a_name_that_others_take_for_ours_is_dropped(name: str) -> None:
    got, _ = await exchange(request("GET /", f"{name}: 5"))
    owned = not name.endswith("_")
    assert got.lines == ["GET / HTTP/1.1", "Host: gate.test", *([] if owned else [f"{name}: 5"]), *OURS]


async def test_a_stranger_is_not_believed_about_whom_it_speaks_for() -> None:
    told = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Proto: https",
        "Forwarded: for=203.0.113.9;proto=https",
    ]
    got, _ = await exchange(request("GET /", *told))
    assert got.lines == ["GET / HTTP/1.1", "Host: gate.test", *OURS]


async def test_what_a_trusted_proxy_told_is_carried_on() -> None:
    told = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: game.test", "X-Forwarded-Proto: https"]
    got, _ = await exchange(request("GET /", *told), TRUSTED)
    assert got.values("X-Forwarded-For") == ["203.0.113.9, 127.0.0.1"]
    assert got.values("X-Forwarded-Host") == ["game.test"]
    assert got.values("X-Forwarded-Proto") == ["https"]
    assert got.values("Forwarded") == ['for=203.0.113.9, for=127.0.0.1;host="game.test";proto=https']
    assert got.values("Host") == ["gate.test"]


# --- bodies of requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("size", [0, 1, 70_000])
async def test_a_body_of_known_length_keeps_it(method: str, size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    got, _ = await exchange(request(f"{method} /", f"content-length: {size}", body=body))
    assert got.raw_body == body
    assert got.values("Content-Length") == [str(size)]
    assert got.values("Transfer-Encoding") == []


async def test_a_chunked_body_stays_chunked() -> None:
    chunks = b'5;ext=1;q="a;b"\r\nhello\r\n1\r\n \r\nA\r\nworld\r\n\r\n!\r\n000\r\nX-Trailer: 1\r\nContent-Length: 3\r\n\r\n'
    got, _ = await exchange(request("POST /", "Transfer-Encoding: Chunked", body=chunks))
    assert got.body == b"hello world\r\n\r\n!"
    assert got.values("Transfer-Encoding") == ["chunked"]
    assert got.values("Content-Length") == got.values("X-Trailer") == []
    assert b"ext" not in got.raw_body


async def test_a_compressed_body_is_not_unpacked() -> None:
    packed = gzip.compress(b"hello " * 1000)
    for coding in ("gzip", "deflate", "br", "zstd", "GZIP"):
        got, _ = await exchange(request("POST /", f"Content-Encoding: {coding}", f"Content-Length: {len(packed)}", body=packed))
        assert got.raw_body == packed
        assert got.values("Content-Encoding") == [coding]


async def test_a_body_is_passed_on_as_it_comes() -> None:
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", "Content-Length: 6"))
        backend = await next_of(arrived)
        for part in (b"one", b"two"):
            await client.send(part)
            assert await backend.exactly(3) == part
        await backend.send(OK)
        assert (await next_answer(client)).status == 200


async def test_who_leaves_in_the_middle_of_an_upload_leaves_the_backend_with_a_part() -> None:
    """What was cut off must not look whole: no last chunk, and the connection ends."""
    async with waiting() as (run, arrived, client):
        await client.send(request("POST /", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
        backend = await next_of(arrived)
        assert await backend.exactly(10) == b"5\r\nhello\r\n"
        client.reset()
        assert await backend.rest() == b""
        await run.quiet()


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\rhello\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhelloXX",
        b"5\r\nhello\n0\r\n\r\n",
        b"5;\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;a=\x00\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"0000000000000000000000005\r\nhello\r\n",
        b"\r\n",
        b"5;" + b"x" * 5000 + b"\r\nhello\r\n",
    ],
)
@pytest.mark.parametrize("first", [b"", b"3\r\nabc\r\n"])
async def test_chunks_that_cannot_be_read_are_400_and_cut_the_upload_off(chunks: bytes, first: bytes) -> None:
    async with waiting() as (run, arrived, client):
        await client.send(request("POST /", "Transfer-Encoding: chunked", body=first + chunks))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        client.end()
        await run.quiet()
        if not arrived.empty():
            assert b"0\r\n\r\n" not in await arrived.get_nowait().rest()


async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "BODY_TIMEOUT", 0.05)
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", "Content-Length: 6", body=b"one"))
        backend = await next_of(arrived)
        assert (await client.answer()).status == 408
        assert await backend.rest() == b"one"


async def test_a_body_of_a_byte_now_and_then_is_408_and_the_backend_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "BODY_TIMEOUT", 0.2)
    async with waiting() as (run, arrived, client):
        await client.send(request("POST /", "Content-Length: 999999"))
        backend = await next_of(arrived)
        answer = asyncio.ensure_future(client.answer())
        async with asyncio.timeout(PATIENCE):
            while not answer.done():
                await client.send(b"x")
                await asyncio.sleep(0.01)
        assert answer.result().status == 408
        await backend.rest()
        await until(lambda: not len(run.gate._passthrough))


async def test_a_body_that_brings_enough_may_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "BODY_TIMEOUT", 0.4)
    monkeypatch.setattr(passthrough, "BODY_PART", 4)
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", "Content-Length: 64"))
        backend = await next_of(arrived)
        for _ in range(32):
            await client.send(b"xx")
            assert await backend.exactly(2) == b"xx"
            await asyncio.sleep(0.02)
        await backend.send(OK)
        assert (await next_answer(client)).status == 200


async def test_what_the_backend_takes_its_time_for_is_not_the_bodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "BODY_TIMEOUT", 0.1)
    size = 16 * 1024 * 1024
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", f"Content-Length: {size}"))
        backend = await next_of(arrived)
        backend.writer.transport.pause_reading()
        sending = asyncio.ensure_future(client.send(b"x" * size))
        await asyncio.sleep(0.3)
        backend.writer.transport.resume_reading()
        assert len(await backend.exactly(size)) == size
        await sending
        await backend.send(OK)
        assert (await next_answer(client)).status == 200


# --- Expect: 100-continue -------------------------------------------------------------------------------------------------------

EXPECTING = request("POST /", "Expect: 100-Continue", "Content-Length: 5")


async def test_the_client_is_told_to_go_on_when_the_backend_says_so() -> None:
    async with waiting() as (_, arrived, client):
        await client.send(EXPECTING)
        backend = await next_of(arrived)
        assert backend.fields["expect"] == "100-continue"
        await asyncio.sleep(0.05)
        assert not client.reader._buffer  # type: ignore[attr-defined]  # nothing came yet
        await backend.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert await backend.exactly(5) == b"hello"
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"
        await client.send(request("GET /next"))
        assert b"GET /next" in await backend.reader.readuntil(b"\r\n\r\n")


async def test_a_backend_that_never_says_so_gets_the_body_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "CONTINUE_TIMEOUT", 0.05)
    async with waiting() as (_, arrived, client):
        await client.send(EXPECTING)
        backend = await next_of(arrived)
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert await backend.exactly(5) == b"hello"
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"


async def test_a_backend_that_refuses_is_heard_and_the_body_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "CONTINUE_TIMEOUT", 0.05)
    async with waiting() as (run, arrived, client):
        await client.send(EXPECTING)
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n")
        assert b"413 Too Large\r\nConnection: close\r\n" in (await client.head()).replace(b"Transfer-Encoding: chunked\r\n", b"")
        await asyncio.sleep(0.1)  # meanwhile the wait for the 100 is over
        await backend.send(b"0\r\n\r\n")
        client.end()
        assert await client.rest() == b"2\r\nno\r\n0\r\n\r\n"
        assert await backend.rest() == b""
        await run.quiet()


async def test_http_1_0_does_not_know_expectations() -> None:
    data = EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello"
    got, answer = await exchange(data)
    assert (got.body, got.values("Expect")) == (b"hello", [])
    assert (answer.status, answer.headers["connection"]) == (200, "close")


# --- answers --------------------------------------------------------------------------------------------------------------------


async def test_an_answer_comes_back_as_it_was_sent() -> None:
    sent = [
        "Date: Sun, 22 Nov 2026 00:00:00 GMT",
        "server: theirs",
        "Set-Cookie: a=1; Path=/; HttpOnly",
        'SET-COOKIE: b="2"; SameSite=None',
        "Location: //other.test/../x?",
        'ETag: W/"x"',
        "Content-Type: text/plain",
        "Vary: Origin",
        "Vary: Accept",
        "X-Latin: caf\xe9",
        "X-Empty: ",
        "Access-Control-Allow-Origin: *",
    ]
    head = "\r\n".join(["HTTP/1.1 307 Go \xfcber There", *sent])
    _, answer = await exchange(request("GET /"), answer=(head + "\r\nContent-Length: 3\r\n\r\nabc").encode("latin-1"))
    assert answer.head.decode("latin-1") == head + "\r\nContent-Length: 3\r\n\r\n"
    assert answer.body == b"abc"


@pytest.mark.parametrize(
    "status", [200, 201, 204, 206, 299, 301, 302, 303, 304, 307, 308, 400, 401, 404, 407, 416, 418, 426, 429, 500, 503, 599, 999]
)
async def test_every_status_comes_back(status: int) -> None:
    body = b"" if status in (204, 304) else b"ok"
    length = b"" if status in (204, 304) else b"Content-Length: 2\r\n"
    _, answer = await exchange(request("GET /"), answer=b"HTTP/1.1 %d Said So\r\n%bLocation: /x\r\n\r\n%b" % (status, length, body))
    assert answer.head.startswith(b"HTTP/1.1 %d Said So\r\n" % status)
    assert answer.body == body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("framing", "body", "sent"),
    [
        (b"Content-Length: 5\r\n", b"hello", b"Content-Length: 5"),
        (b"content-LENGTH: 00\r\n", b"", b"content-LENGTH: 00"),
        (b"Transfer-Encoding: chunked\r\n", b"5;x\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", b"Transfer-Encoding: chunked"),
        (b"", b"hello", b"Transfer-Encoding: chunked"),
    ],
)
async def test_where_a_body_ends_is_told_anew(method: str, framing: bytes, body: bytes, sent: bytes) -> None:
    has_body = method == "GET" and body
    answer = await answer_of(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + (body if method == "GET" else b""), f"{method} /")
    assert answer.body == (b"hello" if has_body else b"")
    told = sent if method == "GET" or not sent.startswith(b"Transfer") else None
    assert answer.head == b"HTTP/1.1 200 OK\r\n" + (told + b"\r\n" if told else b"") + b"\r\n"


async def test_an_answer_without_a_body_leaves_the_connection_in_step() -> None:
    async with recorded() as (_, backend, client):
        for status, method in ((204, "GET"), (304, "GET"), (200, "HEAD")):
            length = b"Content-Length: 7\r\n" if method == "HEAD" or status == 304 else b""
            backend.answer = b"HTTP/1.1 %d x\r\n%b\r\n" % (status, length)
            await client.send(request(f"{method} /"))
            answer = await next_answer(client, method)
            assert answer.status == status
            assert answer.headers.get("content-length") == ("7" if length else None)
            backend.answer = OK
            await client.send(request("GET /"))
            assert (await next_answer(client)).body == b"ok"


async def test_a_length_stays_where_it_was_and_cannot_be_named_away() -> None:
    answer = await answer_of(b"HTTP/1.1 200 OK\r\nA: 1\r\ncontent-length: 2\r\nB: 2\r\n\r\nok")
    assert answer.head == b"HTTP/1.1 200 OK\r\nA: 1\r\ncontent-length: 2\r\nB: 2\r\n\r\n"
    answer = await answer_of(b"HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\nB: 2\r\n\r\nok")
    assert answer.head == b"HTTP/1.1 200 OK\r\nB: 2\r\nContent-Length: 2\r\n\r\n"
    assert answer.body == b"ok"


async def test_204_has_no_length() -> None:
    answer = await answer_of(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX: 1\r\n\r\n")
    assert answer.head == b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"


async def test_what_belongs_to_the_backends_connection_ends_here() -> None:
    lines = "Connection: close, X-Mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nProxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nX-Kept: 1\r\n"
    answer = await answer_of(f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok".encode())
    assert answer.head == b"HTTP/1.1 200 OK\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\n"


async def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(b"hello " * 1000)
    _, answer = await exchange(
        request("GET /"), answer=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    )
    assert (answer.body, answer.headers["content-encoding"]) == (packed, "gzip")


async def test_an_event_stream_arrives_event_by_event() -> None:
    async with waiting() as (_, arrived, client):
        await client.send(request("GET /events", "Accept: text/event-stream"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b"text/event-stream" in await client.head()  # before there is an event
        for number in range(3):
            event = b"data: %d\n\n" % number
            await backend.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert await client.exactly(len(event) + 5) == b"%x\r\n%b\r\n" % (len(event), event)
        client.reset()
        assert await backend.rest() == b""


async def test_interim_answers_are_passed_over() -> None:
    answer = await answer_of(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
    assert (answer.status, answer.body) == (200, b"ok")


async def test_an_answer_before_the_body_was_sent_is_relayed() -> None:
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", "Content-Length: 10", body=b"hello"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        answer = await next_answer(client)
        assert (answer.status, answer.body) == (401, b"no")
        assert (await backend.rest()).startswith(b"hello")
        await client.send(b"world" + request("GET /next"))
        again = await next_of(arrived)  # never on the connection that was promised five bytes more
        assert again.target == "/next"
        await again.send(OK)
        assert (await next_answer(client)).body == b"ok"


# --- old clients ----------------------------------------------------------------------------------------------------------------


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with recorded(answer=chunked) as (_, _, client):
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert answer.head == b"HTTP/1.1 200 OK\r\nConnection: close"
        assert answer.body == b"hello"


async def test_http_1_0_may_be_kept_alive_and_need_not_name_a_host() -> None:
    async with recorded() as (_, backend, client):
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            assert (await next_answer(client)).headers["connection"] == "keep-alive"
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "close"
        assert backend.requests[0].values("Host") == [backend.url.removeprefix("http://")]


@pytest.mark.parametrize("option", ["close", "CLOSE", "keep-alive, close"])
async def test_who_wants_no_more_is_let_go(option: str) -> None:
    async with recorded() as (run, _, client):
        await client.send(request("GET /", f"Connection: {option}"))
        answer = await client.answer()
        assert (answer.headers["connection"], answer.body) == ("close", b"ok")
        client.end()
        await run.quiet()


async def test_a_slow_reader_gets_the_end_of_a_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER", 0.02)
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port, receive_buffer=4096) as client:
        client.writer.transport.pause_reading()
        await client.send(request("GET /", "Connection: close"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        (session,) = run.gate._passthrough._sessions.open.values()
        chunks = 0
        while session._transport.get_write_buffer_size() < 10_000:  # until the kernel takes no more
            await backend.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            await asyncio.sleep(0)
            chunks += 1
        await backend.send(b"0\r\n\r\n")
        await asyncio.sleep(0.1)  # longer than it would linger
        client.writer.transport.resume_reading()
        body = (await client.answer()).body
        assert body.count(b"x") == chunks * 1000
        assert body.endswith(b"0\r\n\r\n")


# --- backends that fail ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_passed_on_is_502(answer: bytes) -> None:
    found = await answer_of(answer)
    assert (found.status, found.headers["connection"]) == (502, "close")
    assert json.loads(found.body)["status"] == 502


async def test_both_ways_to_tell_an_end_are_never_both_passed_on() -> None:
    found = await answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert found.status == 502 or (found.body == b"hello" and "content-length" not in found.headers)


async def test_a_backend_that_is_down_is_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with running("", upstream=f"http://127.0.0.1:{port}") as run, raw_client(run.port) as client:
        await client.send(request("POST /", "Content-Length: 5000000", body=b"x" * 100_000))
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["detail"]) == (502, "the upstream cannot be reached")
        assert str(port) not in answer.body.decode()
        client.end()
        await run.quiet()


async def test_a_backend_that_says_nothing_is_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.05)
    async with waiting() as (_, arrived, client):
        await client.send(request("GET /"))
        assert (await client.answer()).status == 504
        assert await (await next_of(arrived)).rest() == b""


@pytest.mark.parametrize("interim", [b"103 Early Hints\r\nLink: </x>", b"102 Processing", b"100 Continue"])
@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_a_backend_that_says_nothing_after_an_interim_answer_is_504(
    monkeypatch: pytest.MonkeyPatch, interim: bytes, body: bytes
) -> None:
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.1)
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", f"Content-Length: {len(body)}", body=body))
        backend = await next_of(arrived)
        assert await backend.exactly(len(body)) == body
        await backend.send(b"HTTP/1.1 " + interim + b"\r\n\r\n")
        assert (await client.answer()).status == 504
        assert await backend.rest() == b""


async def test_an_upload_may_last_after_an_interim_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.5)
    async with waiting() as (_, arrived, client):
        await client.send(request("POST /", "Content-Length: 5", "Expect: 100-continue"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.status() == 100
        await asyncio.sleep(0.7)  # longer than a silence of the backend may be
        await client.send(b"hello")
        assert await backend.exactly(5) == b"hello"
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"


@pytest.mark.parametrize(
    "part",
    [
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_half_an_answer_never_looks_whole(part: bytes, how: str) -> None:
    async with waiting() as (run, arrived, client):
        await client.send(request("GET /"))
        backend = await next_of(arrived)
        head, _, body = part.partition(b"\r\n\r\n")
        await backend.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        assert await client.status() == 200
        await backend.send(body)
        if how == "close":
            backend.writer.close()
        else:
            backend.reset()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        await run.quiet()


async def test_an_answer_to_http_1_0_that_breaks_off_is_a_reset() -> None:
    """Nothing but the end of the connection tells the end of the body, so only a reset tells that it is not the end."""
    async with waiting() as (_, arrived, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await client.head()
        assert await client.exactly(5) == b"hello"
        backend.reset()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_silence_in_the_middle_of_an_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.1)
    async with waiting() as (run, arrived, client):
        await client.send(request("GET /"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert await client.status() == 200
        assert await client.rest() == b"hello"
        await run.quiet()


# --- clients that leave ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_cancels_its_request(how: str) -> None:
    async with waiting() as (run, arrived, client):
        await client.send(request("GET /poll"))
        backend = await next_of(arrived)
        getattr(client, how)()
        assert await backend.rest() == b""
        await run.quiet()
        assert not run.gate.connections()


async def test_a_client_that_leaves_in_the_middle_of_a_download_ends_it() -> None:
    async with waiting() as (run, arrived, client):
        await client.send(request("GET /big"))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        assert await client.status() == 200
        client.reset()

        async def go_on() -> None:
            while True:
                await backend.send(b"x" * 100_000)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(go_on(), PATIENCE)
        await run.quiet()


# --- peers that take their time ---------------------------------------------------------------------------------------------------

HURRIED = "tunnel: {slow_reader: 1s, user_timeout: 1s}"
LONGER = 3.5  # seconds: the kernel would end such a connection at its next probe, after 1.4 or 3 s
BIG = 8 << 20  # bytes: more than the kernels take


def user_timeout(transport: asyncio.BaseTransport) -> int:
    """Milliseconds."""
    found: int = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return found


async def download(arrived: asyncio.Queue[RawConnection], client: RawClient, pause: float) -> bytes:
    """What the client gets of a body of BIG bytes, if it takes nothing for a while."""
    await client.send(request("GET /"))
    backend = await next_of(arrived)
    sending = asyncio.create_task(backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG + b"x" * BIG))
    await client.head()
    client.writer.transport.pause_reading()
    await asyncio.sleep(pause)
    client.writer.transport.resume_reading()
    try:
        async with asyncio.timeout(30):
            return await client.reader.readexactly(BIG)
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def upload(arrived: asyncio.Queue[RawConnection], client: RawClient, pause: float) -> tuple[int, bytes]:
    """The answer to a body of BIG bytes, if the backend takes nothing for a while, and what it got."""
    sending = asyncio.create_task(client.send(request("POST /", f"Content-Length: {BIG}", body=b"x" * BIG)))
    backend = await next_of(arrived)
    backend.writer.transport.pause_reading()
    await asyncio.sleep(pause)
    backend.writer.transport.resume_reading()
    try:
        async with asyncio.timeout(30):
            got = await backend.reader.readexactly(BIG)
        await backend.send(OK)
    except (ConnectionError, asyncio.IncompleteReadError):
        got = b""
    client.patience = 30
    status = await client.status()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return status, got


async def test_who_takes_nothing_for_a_while_gets_the_whole_body() -> None:
    async with waiting(HURRIED) as (_, arrived, client):
        assert await download(arrived, client, LONGER) == b"x" * BIG
    async with waiting(HURRIED) as (_, arrived, client):
        assert await upload(arrived, client, LONGER) == (200, b"x" * BIG)


async def test_who_takes_nothing_for_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "TAKE_TIMEOUT", 1.0)
    async with waiting(HURRIED) as (_, arrived, client):
        assert await download(arrived, client, LONGER) == b""
    async with waiting(HURRIED) as (_, arrived, client):
        assert await upload(arrived, client, LONGER) == (502, b"")


@pytest.mark.parametrize(("asked", "found"), [("1s", 300_000), ("20m", 1_200_000)])
async def test_a_peer_has_its_time_while_a_body_goes_out_to_it_and_a_tunnel_its_own(asked: str, found: int) -> None:
    async with waiting(f"tunnel: {{slow_reader: 1s, user_timeout: {asked}}}") as (run, arrived, client):
        await client.send(request("POST /", "Content-Length: 5", body=b"hello"))
        backend = await next_of(arrived)
        (session,) = run.gate._passthrough._sessions.open.values()
        (pooled,) = run.gate._passthrough._clients["game"]._session.connector._acquired  # type: ignore[union-attr]
        assert pooled.transport is not None
        assert user_timeout(pooled.transport) == found
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"
        assert user_timeout(session._transport) == found
        await client.send(upgrade_head("/"))
        backend = await next_of(arrived)
        await backend.accept()
        assert await client.status() == 101
        (tunnel,) = run.gate.live.held
        own = run.config.tunnel.user_timeout * 1000
        assert [user_timeout(half.transport) for half in (tunnel.client, tunnel.upstream)] == [own, own]


# --- TLS ------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def secured() -> AsyncIterator[tuple[Running, asyncio.Queue[RawConnection], RawClient]]:
    """TLS on both sides."""
    async with waiting_backend(tls=backend_tls()) as (url, arrived):
        address = url.partition("://")[2]
        yaml = f"upstreams: {{game: {{url: 'https://{address}', tls: {TRUSTING}}}}}\n{LISTENING}"
        async with running(yaml) as run, raw_client(run.port, tls=client_tls()) as client:
            yield run, arrived, client


async def test_requests_and_then_an_upgrade_over_tls_on_both_sides() -> None:
    async with secured() as (run, arrived, client):
        await client.send(request("POST /a", "Content-Length: 5", body=b"hello"))
        backend = await next_of(arrived)
        assert backend.fields["x-forwarded-proto"] == "https"
        assert await backend.exactly(5) == b"hello"
        await backend.send(OK)
        assert (await next_answer(client)).body == b"ok"
        await client.send(request("GET /b"))
        await backend.reader.readuntil(b"\r\n\r\n")
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        assert (await next_answer(client)).body == b"ok"
        await client.send(upgrade_head("/"))
        tunnel = await next_of(arrived)
        await tunnel.accept()
        assert await client.status() == 101
        assert not run.gate._passthrough
        await tunnel.send(b"\x81\x02ho")
        assert await client.raw_frame() == b"\x81\x02ho"
        client.writer.close()
        tunnel.writer.close()


async def test_a_refusal_over_tls_can_be_read() -> None:
    async with secured() as (run, _, client):
        await client.send(request("CONNECT a:1") + request("GET /"))
        assert (await client.answer()).status == 501
        await run.quiet()


async def test_a_client_that_leaves_over_tls_cancels_its_request() -> None:
    async with secured() as (run, arrived, client):
        await client.send(request("GET /poll"))
        backend = await next_of(arrived)
        client.writer.close()
        assert await backend.rest() == b""
        await run.quiet()


async def test_a_slow_reader_gets_the_end_of_a_last_answer_over_tls() -> None:
    size = 6_000_000

    def read_slowly(port: int) -> int:
        """As the libraries of others do: blocking, and strict about how the stream ends."""
        with socket.socket() as plain, client_tls().wrap_socket(plain, server_hostname="game.test", suppress_ragged_eofs=False) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            time.sleep(2.2)  # longer than it would linger
            received = b""
            while data := sock.recv(65536):
                received += data
            return len(received.partition(b"\r\n\r\n")[2])

    async with secured() as (run, arrived, _):
        reading = asyncio.create_task(asyncio.to_thread(read_slowly, run.port))
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
        assert await reading == size


async def test_an_answer_to_http_1_0_ends_in_order_and_at_once_over_tls() -> None:
    async with secured() as (run, arrived, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        async with asyncio.timeout(1):
            assert (await client.answer()).body == b"hello"
        client.writer.close()
        await until(lambda: not run.gate._passthrough)
        assert not run.gate.lingering_connections


async def test_an_answer_to_http_1_0_that_breaks_off_over_tls_is_no_orderly_end() -> None:
    async with secured() as (_, arrived, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        backend = await next_of(arrived)
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await client.head()
        assert await client.exactly(5) == b"hello"
        backend.writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


# --- one request must not become two ----------------------------------------------------------------------------------------------

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: gate.test\r\n\r\n"
CHUNKED_HIDDEN = b"0\r\n\r\n" + HIDDEN


def smuggler(*headers: str, body: bytes, line: str = "POST /open HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: gate.test", *headers, "", ""]).encode("latin-1") + body


BOTH = f"Content-Length: {len(CHUNKED_HIDDEN)}"
SMUGGLERS: dict[str, bytes] = {
    "CL.TE": smuggler(BOTH, "Transfer-Encoding: chunked", body=CHUNKED_HIDDEN),
    "TE.CL": smuggler("Transfer-Encoding: chunked", "Content-Length: 4", body=b"1c\r\n" + HIDDEN[:0x1C] + b"\r\n0\r\n\r\n"),
    "CL of nothing, TE": smuggler("Content-Length: 0", "Transfer-Encoding: chunked", body=CHUNKED_HIDDEN),
    **{
        f"TE as {value!r}": smuggler(BOTH, value, body=CHUNKED_HIDDEN)
        for value in (
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked\x00",
            "Transfer-Encoding: 'chunked'",
            'Transfer-Encoding: "chunked"',
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding:",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked,",
            "transfer-encoding: CHUNKED",
            "Transfer_Encoding: chunked",
            "X: x\nTransfer-Encoding: chunked",
            "X: x\rTransfer-Encoding: chunked",
            " Transfer-Encoding: chunked",
            "Transfer\x00-Encoding: chunked",
            "\x00Transfer-Encoding: chunked",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
            "Connection: Content-Length",
        )
    },
    **{
        f"TE alone as {value!r}": smuggler(f"Transfer-Encoding: {value}", body=CHUNKED_HIDDEN)
        for value in ("xchunked", "identity", "chunked, identity", "gzip, chunked", "chunked, chunked", "", "\xa0chunked", "chunKed\x0b")
    },
    **{
        f"CL as {value!r}": smuggler(f"Content-Length: {value}", body=HIDDEN)
        for value in ("+0", "-0", "0x0", "0,0", "0, 44", "", "0 0", "0_0", "\xb2", "0;", "0\x00", "0\t4", "\u0660".encode().decode("latin-1"), "1e1", "9" * 30)
    },
    "two CL": smuggler("Content-Length: 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "two CL, the other way": smuggler(f"Content-Length: {len(HIDDEN)}", "Content-Length: 0", body=HIDDEN),
    "the same CL twice": smuggler("Content-Length: 0", "Content-Length: 0", body=HIDDEN),
    "a folded CL": smuggler("Content-Length:\r\n 0", body=HIDDEN),
    "a CL before a space": smuggler("Content-Length : 0", body=HIDDEN),
    "a CL of another spelling": smuggler(f"Content_Length: {len(HIDDEN)}", "Content-Length: 0", body=b""),
    "TE in HTTP/1.0": smuggler("Transfer-Encoding: chunked", body=CHUNKED_HIDDEN, line="POST /open HTTP/1.0"),
    "TE and CL in HTTP/1.0": smuggler(BOTH, "Transfer-Encoding: chunked", body=CHUNKED_HIDDEN, line="POST /open HTTP/1.0"),
    "a bare LF ends the head": b"POST /open HTTP/1.1\nHost: gate.test\nContent-Length: 0\n\n" + HIDDEN,
    "a bare LF before the empty line": b"POST /open HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 0\n\r\n" + HIDDEN,
    "a bare CR before the empty line": b"POST /open HTTP/1.1\r\nHost: gate.test\r\nX: y\r\r\n" + HIDDEN,
    "a request in a header": b"GET /open HTTP/1.1\r\nHost: gate.test\r\nX: y\n\n" + HIDDEN,
    "absolute form": b"POST http://other.test/open HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "another Host": b"POST /open HTTP/1.1\r\nHost: gate.test\r\nHost: other.test\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "HTTP/0.9": b"GET /open\r\n" + HIDDEN,
    "HTTP/1.2": b"GET /open HTTP/1.2\r\nHost: gate.test\r\n\r\n" + HIDDEN,
    "CONNECT": b"CONNECT /open HTTP/1.1\r\nHost: gate.test\r\n\r\n" + HIDDEN,
    "CONNECT with a body": smuggler(f"Content-Length: {len(HIDDEN)}", body=HIDDEN, line="CONNECT /open HTTP/1.1"),
    **{
        f"chunks of {chunks!r}": smuggler("Transfer-Encoding: chunked", body=chunks + HIDDEN)
        for chunks in (
            b"0\n\n",
            b"0\r\n\n",
            b"0\n\r\n",
            b"0 \r\n\r\n",
            b"\t0\r\n\r\n",
            b"0x0\r\n\r\n",
            b"00000000000000000000000\r\n\r\n",
            b"10000000000000000\r\n\r\n",
            b"ffffffffffffffff\r\n\r\n",
            b"-0\r\n\r\n",
            b"\r\n0\r\n\r\n",
            b"0;\n\r\n",
            b"0;a\n\r\n",
            b"0;a=\"\n\"\r\n\r\n",
            b"0;\x00\r\n\r\n",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"4\r\nabc\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\n\n",
            b"0\r\n X\r\n\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
        )
    },
    "an upgrade with a body": upgrade_head("/open", f"Content-Length: {len(HIDDEN)}") + HIDDEN,
    "an upgrade with chunks": upgrade_head("/open", "Transfer-Encoding: chunked") + CHUNKED_HIDDEN,
    "a request behind an upgrade": upgrade_head("/open") + HIDDEN,
    "a request behind a bad upgrade": upgrade_head("/open").replace(b"Version: 13", b"Version: 12") + HIDDEN,
    "a request behind an upgrade by POST": upgrade_head("/open").replace(b"GET", b"POST") + HIDDEN,
    "a request behind a list in Upgrade": upgrade_head("/open").replace(b": websocket", b": h2c, websocket") + HIDDEN,
    "a request behind an upgrade without Connection": upgrade_head("/open").replace(b"Connection: Upgrade\r\n", b"") + HIDDEN,
    "a body that holds a request": smuggler(f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "chunks that hold a request": smuggler("Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
    "a chunk extension that holds a request": smuggler("Transfer-Encoding: chunked", body=b"0;" + HIDDEN.replace(b"\r\n", b" ") + b"\r\n\r\n"),
    "a trailer that holds a request": smuggler("Transfer-Encoding: chunked", body=b"0\r\nX: " + HIDDEN.replace(b"\r\n", b" ") + b"\r\n\r\n"),
    "a trailer that holds a length": smuggler("Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n"),
    "h2c with a body": smuggler("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a body behind GET": smuggler(f"Content-Length: {len(HIDDEN)}", body=HIDDEN, line="GET /open HTTP/1.1"),
    "a body behind HEAD": smuggler(f"Content-Length: {len(HIDDEN)}", body=HIDDEN, line="HEAD /open HTTP/1.1"),
    "an expectation": smuggler("Expect: 100-continue", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "an expectation of something else": smuggler("Expect: x", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
}  # fmt: skip


QUIET = 1.5  # seconds without a byte: nothing more comes, also where the machine is busy


@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
@pytest.mark.parametrize("reused", [False, True], ids=["first", "reused"])
@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 100 Continue\r\n\r\n" + OK], ids=["plain", "with a 100"])
async def test_no_request_comes_out_of_another(cut: str, reused: bool, answer: bytes) -> None:
    """Whatever the gate makes of it: the backend never sees the hidden request, and the open one once at most."""
    async with recording_backend() as backend, running("limits: {max_pending_per_ip: 1000}", upstream=backend.url) as run:
        backend.answer = answer

        async def attack(number: int, data: bytes) -> bytes:
            data = data.replace(b"/open", b"/o%03d" % number).replace(b"/hidden", b"/h%05d" % number)
            async with raw_client(run.port) as client:
                if reused:
                    await client.send(request("GET /before"))
                    while (await next_answer(client)).status == 100:
                        pass
                for piece in [data] if cut == "whole" else [data[at : at + 1] for at in range(len(data))]:
                    client.writer.write(piece)
                    await asyncio.sleep(0)
                received = b""
                try:
                    while piece := await asyncio.wait_for(client.reader.read(65536), QUIET):
                        received += piece
                except TimeoutError:
                    pass
                return received

        answers = await asyncio.gather(*(attack(number, data) for number, data in enumerate(SMUGGLERS.values())))
        came = Counter(backend.targets)
        for number, (name, received) in enumerate(zip(SMUGGLERS, answers, strict=True)):
            assert f"/h{number:05}" not in came, name
            assert came[f"/o{number:03}"] <= 1, name
            refused = b" 400 " in received or b" 501 " in received or b" 505 " in received or b" 426 " in received
            waits_for_more = not received
            assert refused or waits_for_more or came[f"/o{number:03}"] == 1, name
        assert sum(not received for received in answers) < len(SMUGGLERS) / 10


async def test_two_requests_that_are_two_are_two() -> None:
    """What the table above hides does arrive when it is sent plainly: the test would notice."""
    async with recorded() as (_, backend, client):
        await client.send(smuggler("Content-Length: 0", body=HIDDEN))
        await next_answer(client)
        await next_answer(client)
        assert backend.targets == ["/open", "/hidden"]


async def test_a_connection_to_the_backend_is_never_left_out_of_step() -> None:
    """A client that leaves in the middle of its body: the next client's request does not become the rest of it."""
    async with recording_backend() as backend, running("", upstream=backend.url) as run:
        for _ in range(20):
            async with raw_client(run.port) as leaving, raw_client(run.port) as staying:
                await leaving.send(request("POST /part", "Content-Length: 100", body=b"x" * 10))
                await staying.send(request("GET /whole"))
                assert (await next_answer(staying)).status == 200
                leaving.reset()
                await staying.send(request("GET /whole"))
                assert (await next_answer(staying)).status == 200
        assert set(backend.targets) == {"/whole"}


# --- what the operator hears --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "route"),
    [("GET /nowhere?token=secret", 404, ""), ("CONNECT /?token=secret", 501, ""), ("GET /?token=secret", 502, "api")],
)
async def test_every_refusal_leaves_one_line_without_query_and_token(line: str, status: int, route: str) -> None:
    yaml = "routes: [{name: api, path: '/', upstream: game}]"
    async with running(yaml, upstream="ws://127.0.0.1:1") as run, raw_client(run.port) as client:
        await client.send(request(line, "Cookie: session=secret"))
        assert (await client.answer()).status == status
        (told,) = map(json.loads, run.log.getvalue().splitlines())
        assert (told["event"], told["status"], told["route"]) == ("refused", status, route)
        assert "secret" not in run.log.getvalue()


async def test_a_flood_of_refusals_is_no_flood_of_lines() -> None:
    async with running("", upstream="ws://127.0.0.1:1") as run:
        for _ in range(30):
            async with raw_client(run.port) as client:
                await client.send(request("GET /"))
                assert (await client.answer()).status == 502
        assert run.log.getvalue().count('"refused"') <= 20


async def test_ordinary_requests_tell_whether_an_upstream_is_up() -> None:
    async with running("", upstream="ws://127.0.0.1:1") as run, raw_client(run.port) as client:
        await client.send(request("GET /"))
        assert (await client.answer()).status == 502
        assert run.gate.totals.upstream_up == {"default": False}
    async with recorded() as (run, _, client):
        await client.send(request("GET /"))
        await next_answer(client)
        assert run.gate.totals.upstream_up == {"default": True}


async def test_an_unlisted_proxy_is_warned_of_by_ordinary_requests_too() -> None:
    async with recorded() as (run, _, client):
        for _ in range(2):
            await client.send(request("GET /", "X-Forwarded-For: 9.9.9.9"))
            await next_answer(client)
        assert run.log.getvalue().count("is not in identity.trusted_proxies") == 1
