"""An upgrade from its head to a tunnel or an answer: what the backend sees, what a refused client reads, and that seats come back."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.policy.forwarding import Peer
from proxy.wire.handshake import accept_value, parse_request_head
from tests.support.backends import RawConnection, waiting_backend
from tests.support.gate import Running, running, upstreams
from tests.support.pair import pair
from tests.support.raw import KEY, RawClient, raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

HAS_IPV6 = os.path.exists("/proc/net/if_inet6")
NOWHERE = "ws://127.0.0.1:1"
SEATS = """
rules:
  - {name: user-connections, per: user, connections: 1}
  - {name: up, per: global, upgrades: 1000/s}
  - {name: slow, per: user, messages: 10/s}
"""


def results(run: Running) -> dict[str, int]:
    """Upgrades by result, over all routes."""
    counts: dict[str, int] = {}
    for (_, result), count in run.gate.totals.upgrades.items():
        if count:
            counts[result] = counts.get(result, 0) + count
    return counts


def nothing_is_held(run: Running) -> bool:
    """No seat is taken, and no meter's bucket is open."""
    store = run.gate._store
    return not any(store.seats().values()) and not any(bucket.users for bucket in store._buckets.values())


@asynccontextmanager
async def asked(yaml: str = "", head: bytes | None = None, **keys: str) -> AsyncIterator[tuple[RawClient, RawConnection, Running]]:
    """A client whose upgrade the backend has, and has not answered. `keys`: of the upstream, beside its URL."""
    async with waiting_backend() as (url, arrived), running(upstreams(url, **keys) + yaml) as run, raw_client(run.port) as client:
        await client.send(head or upgrade_head())
        backend = await asyncio.wait_for(arrived.get(), 5)
        try:
            yield client, backend, run
        finally:
            client.writer.close()
            backend.writer.close()


# --- what the backend sees ------------------------------------------------------------------------------------------------------


async def test_the_backend_gets_the_clients_own_head_and_who_it_is() -> None:
    target = "/a/%7Eb/c%41?x=%2F..//&y=z%20&&"
    head = upgrade_head(
        target,
        "ORIGIN: https://example.org",
        "x-Custom:   spelled So  ",
        "Cookie: a=b; session=secret",
        "Sec-WebSocket-Protocol: chat, v2",
        "Sec-WebSocket-Protocol: v3",
        "X-Custom: again",
        "Content-Length: 0",
        host="Game.Example:8080",
    )
    async with asked("", head) as (_, backend, _):
        assert backend.head.decode() == "\r\n".join(
            [
                f"GET {target} HTTP/1.1",
                "Host: Game.Example:8080",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {KEY}",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: chat, v2, v3",
                "ORIGIN: https://example.org",
                "x-Custom: spelled So",
                "Cookie: a=b; session=secret",
                "X-Custom: again",
                "X-Forwarded-For: 127.0.0.1",
                "X-Forwarded-Host: Game.Example:8080",
                "X-Forwarded-Proto: http",
                'Forwarded: for=127.0.0.1;host="Game.Example:8080";proto=http',
                "",
                "",
            ]
        )


async def test_an_ipv4_client_of_an_ipv6_port_is_known_by_its_ipv4_address() -> None:
    for listen in ["[::]:0"] if HAS_IPV6 else []:  # a machine may have no IPv6
        async with waiting_backend() as (url, arrived), running("", upstream=url, listen=listen) as run, raw_client(run.port) as client:
            await client.send(upgrade_head())
            async with asyncio.timeout(5):
                backend = await arrived.get()
            assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in backend.head
            backend.end()


async def test_a_client_cannot_write_what_is_ours_nor_name_it_away() -> None:
    head = upgrade_head(
        "/",
        "X-Forwarded-For: 203.0.113.9",
        "X_Forwarded_For: 203.0.113.9",
        "Forwarded: for=203.0.113.9",
        "X-Forwarded_Proto: https",
        "Sec_WebSocket_Extensions: permessage-deflate",
        "Transfer_Encoding: chunked",
        "Keep-Alive: timeout=5",
        "X-Gone: away",
        "Cookie: session=secret",
        "Connection: X-Gone, X-Forwarded-For, Cookie, Sec-WebSocket-Key, Host",
    )
    async with asked("", head) as (_, backend, _):
        names = [line.split(":")[0].lower() for line in backend.head.decode().split("\r\n")[1:] if line]
        assert names == [
            *("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "cookie"),
            *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded"),
        ]
        assert backend.fields["x-forwarded-for"] == "127.0.0.1"
        assert backend.fields["connection"] == "Upgrade"


async def test_under_frame_rules_only_compression_is_offered_upstream_and_drops_turn_its_context_off() -> None:
    offers = "Sec-WebSocket-Extensions: x-other, permessage-deflate; client_max_window_bits"
    async with asked(SEATS, upgrade_head("/", offers)) as (client, backend, _):
        assert backend.fields["sec-websocket-extensions"] == "permessage-deflate; client_max_window_bits"
        await backend.accept("Sec-WebSocket-Extensions: permessage-deflate")
        assert b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n" in await client.head()


async def test_the_client_gets_the_backends_101_with_its_own_headers() -> None:
    headers = ("Sec-WebSocket-Protocol: v2", "Set-Cookie: a=b", "Keep-Alive: 5", "Server: game")
    async with pair("", *headers, offers=("Sec-WebSocket-Protocol: v1, v2",)) as one:
        assert one.answer.decode().split("\r\n")[:-2] == [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(KEY.encode()).decode()}",
            "Sec-WebSocket-Protocol: v2",
            "Set-Cookie: a=b",
            "Server: game",
        ]


# --- refusals -------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def full(yaml: str) -> AsyncIterator[Running]:
    """A gate on which ann has her only seat."""
    async with waiting_backend() as (url, arrived), running(yaml, upstream=url) as run, raw_client(run.port) as ann:
        await ann.send(upgrade_head("/?token=ann"))
        backend = await arrived.get()
        await backend.accept()
        await ann.head()
        try:
            yield run
        finally:
            ann.writer.close()
            backend.writer.close()


async def ask_again(run: Running, *headers: str, token: str = "ann") -> tuple[bytes, dict[str, Any], bytes]:
    """(head, error, payload of the Close); of a plain answer (head, problem, nothing)."""
    async with raw_client(run.port) as client:
        await client.send(upgrade_head(f"/?token={token}", *headers))
        head = await client.head()
        if not head.startswith(b"HTTP/1.1 101 "):
            return head, json.loads(await client.reader.read()), b""
        first, error = await client.frame()
        assert first == 0x81
        first, close = await client.frame()
        assert first == 0x88
        await client.send(encode(0x88, close[:2], b"abcd"))
        assert await client.reader.read() == b""
        return head, json.loads(error), close


async def test_a_refusal_that_a_browser_can_read() -> None:
    async with full(SEATS) as run:
        head, error, close = await ask_again(run)
        assert head.decode().split("\r\n")[:-2] == [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(KEY.encode()).decode()}",
        ]
        connection = error.pop("id")
        assert error == {
            "type": "error",
            "code": "connection_limit_exceeded",
            "message": "too many connections are open",
            "retry_after_ms": 1000,
            "rule": "user-connections",
            "suppressed": 0,
        }
        assert close == b"\x0f\xa8" + f"rule=user-connections retry_after_ms=1000 id={connection}".encode()
        assert len(close) <= 125
        assert run.gate.totals.refusals["user-connections", "enforce"] == 1
        assert results(run) == {"admitted": 1, "refused": 1}


async def test_a_refusal_in_plain_http() -> None:
    async with full(SEATS + "refuse_with: http") as run:
        head, problem, _ = await ask_again(run)
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 429 Too Many Requests"
        assert {"Retry-After: 1", "Content-Type: application/problem+json", "Connection: close"} <= set(lines)
        assert (problem["code"], problem["rule"], problem["retry_after_ms"]) == ("connection_limit_exceeded", "user-connections", 1000)


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        (("bearer.secret, chat, v2",), b"chat"),
        (("bearer.secret", "v2"), b"v2"),
        (("bearer.secret",), b"bearer.secret"),
    ],
)
async def test_a_refusal_echoes_a_subprotocol_that_carries_no_token(offered: tuple[str, ...], echoed: bytes) -> None:
    async with full(SEATS) as run:
        protocols = [f"Sec-WebSocket-Protocol: {one}" for one in offered]
        head, _, close = await ask_again(run, "Sec-WebSocket-Extensions: permessage-deflate", *protocols)
        assert close
        assert b"Sec-WebSocket-Protocol: " + echoed + b"\r\n" in head
        assert b"Extensions" not in head


async def test_who_was_refused_too_often_gets_plain_http_and_nobody_else() -> None:
    rules = "rules: [{name: none, per: global, connections: 0}]"
    async with running(rules, upstream=NOWHERE) as run:
        for _ in range(11):
            head, error, close = await ask_again(run)
            assert close[:2] == b"\x0f\xa8"
            assert error["retry_after_ms"] is None  # a limit of 0 is never
        head, problem, close = await ask_again(run)
        assert head.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After" not in head
        assert (problem["rule"], close) == ("none", b"")
        _, _, close = await ask_again(run, token="bob")
        assert close


async def test_a_rule_in_shadow_counts_and_lets_in() -> None:
    async with full(SEATS + "mode: shadow") as run, raw_client(run.port) as client:
        await client.send(upgrade_head("/?token=ann"))
        await until(lambda: len(run.gate._path.tasks) == 1)
        assert run.gate.totals.refusals["user-connections", "shadow"] == 1
        client.end()


async def test_a_refused_client_that_leaves_at_once_is_no_trouble() -> None:
    async with full(SEATS) as run:
        for _ in range(20):
            async with raw_client(run.port) as client:
                await client.send(upgrade_head("/?token=ann"))
                client.reset()
        await until(lambda: not run.gate._path.tasks and not run.gate.lingering_connections and not run.gate._entrance.doors)
        assert run.gate.live.totals.connections == 1


# --- no tunnel ------------------------------------------------------------------------------------------------------------------


async def test_a_path_without_a_route_is_404() -> None:
    yaml = f"upstreams: {{game: {{url: '{NOWHERE}'}}}}\nroutes: [{{name: game, path: /game, upstream: game}}]"
    async with running(yaml) as run, raw_client(run.port) as client:
        await client.send(upgrade_head("/other"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert results(run) == {"no_route": 1}


async def test_a_backend_that_refuses_is_502_and_its_address_is_nobodys_business() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    async with running(SEATS, upstream=f"ws://127.0.0.1:{port}") as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (502, "close")
        assert b"refused" in answer.body
        assert str(port).encode() not in answer.body
        assert results(run) == {"upstream_error": 1}
        assert nothing_is_held(run)
        assert (await run.scrape())['wsgate_upstream_up{route="default"}'] == 0


async def test_a_backend_whose_name_does_not_resolve_is_502() -> None:
    async with running(SEATS, upstream="ws://nobody.invalid") as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        assert (await client.answer()).status == 502
        assert nothing_is_held(run)


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """An address that never completes a connection: its queue is full. Yields its URL."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        try:
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(server.getsockname())
                waiting.append(one)
            yield f"ws://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


async def test_a_backend_that_does_not_accept_is_504() -> None:
    async with deaf() as url, running(upstreams(url, connect_timeout="100ms") + SEATS) as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        assert (await client.answer()).status == 504
        assert results(run) == {"upstream_timeout": 1}
        assert nothing_is_held(run)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 101 Switching"])
async def test_a_backend_that_does_not_answer_is_504(part: bytes) -> None:
    async with asked(SEATS, handshake_timeout="100ms") as (client, backend, run):
        await backend.send(part)
        assert (await client.answer()).status == 504
        assert await backend.rest() == b""
        assert results(run) == {"upstream_timeout": 1}
        assert nothing_is_held(run)


GOOD_101 = "\r\n".join(
    ["HTTP/1.1 101 S", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_value(KEY.encode()).decode()}", "", ""]
).encode()
BAD_ANSWERS = {
    "rubbish": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "a bare LF": GOOD_101.replace(b"S\r\n", b"S\n"),
    "a broken header": GOOD_101.replace(b"Upgrade: websocket", b"Upgrade"),
    "too long": b"HTTP/1.1 101 S\r\n" + b"X: " + b"x" * 16384,
    "too long and whole": GOOD_101[:-2] + b"X: " + b"x" * 16384 + b"\r\n\r\n",
    "too much before it": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500 + GOOD_101,
    "no Upgrade": GOOD_101.replace(b"Upgrade: websocket\r\n", b""),
    "another Upgrade": GOOD_101.replace(b"websocket", b"h2c"),
    "no Connection": GOOD_101.replace(b"Connection: Upgrade\r\n", b""),
    "no accept": GOOD_101.replace(b"Sec-WebSocket-Accept", b"X"),
    "wrong accept": GOOD_101.replace(b"Accept: ", b"Accept: x"),
    "a subprotocol nobody asked for": GOOD_101[:-2] + b"Sec-WebSocket-Protocol: v9\r\n\r\n",
    "two subprotocols": GOOD_101[:-2] + b"Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: v1\r\n\r\n",
    "an extension nobody asked for": GOOD_101[:-2] + b"Sec-WebSocket-Extensions: x-other\r\n\r\n",
    "two extensions": GOOD_101[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate\r\n\r\n",
    "an unreadable extension": GOOD_101[:-2] + b"Sec-WebSocket-Extensions: ;\r\n\r\n",
    "an ambiguous length": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_that_cannot_be_trusted_is_502_and_cuts_the_backend_off(answer: bytes) -> None:
    offers = upgrade_head("/", "Sec-WebSocket-Protocol: v1", "Sec-WebSocket-Extensions: permessage-deflate")
    async with asked(SEATS, offers) as (client, backend, run):
        await backend.send(answer)
        told = await client.answer()
        assert (told.status, told.headers["connection"]) == (502, "close")
        assert await backend.rest() == b""
        assert results(run) == {"upstream_error": 1}
        assert nothing_is_held(run)


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("part", [b"", GOOD_101[:-1]])
async def test_a_backend_that_leaves_instead_of_answering_is_502(part: bytes, how: str) -> None:
    async with asked(SEATS) as (client, backend, run):
        await backend.send(part)
        getattr(backend, how)()
        assert (await client.answer()).status == 502
        assert results(run) == {"upstream_error": 1}
        assert nothing_is_held(run)


# --- a client that cannot wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_while_we_wait_for_the_backend_frees_its_seats(how: str) -> None:
    async with asked(SEATS) as (client, backend, run):
        assert not nothing_is_held(run)
        getattr(client, how)()
        assert await backend.rest() == b""
        await until(lambda: not run.gate._path.tasks)
        assert nothing_is_held(run)
        assert results(run) == {"abandoned": 1}
        await client.rest()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_while_we_connect_frees_its_seats(how: str) -> None:
    async with deaf() as url, running(SEATS, upstream=url) as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        await until(lambda: not nothing_is_held(run))
        getattr(client, how)()
        await until(lambda: not run.gate._path.tasks)
        assert nothing_is_held(run)
        assert results(run) == {"abandoned": 1}


async def test_bytes_before_our_101_are_400_and_cut_the_backend_off() -> None:
    async with asked(SEATS) as (client, backend, run):
        await client.send(b"\x81\x82abcd\x09\x0b")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await backend.rest() == b""
        assert nothing_is_held(run)
        assert results(run) == {"bad_request": 1}


async def test_bytes_before_our_101_can_be_many_and_the_answer_is_still_read() -> None:
    async with asked(SEATS) as (client, _, _):
        client.writer.transport.pause_reading()
        for _ in range(100):
            await client.send(bytes(50_000))
        client.end()
        client.writer.transport.resume_reading()
        assert (await client.answer()).status == 400


async def test_a_client_and_a_backend_that_speak_at_the_same_time() -> None:
    """Whichever is read first, no seat is lost and nobody hangs."""
    for _ in range(20):
        async with asked(SEATS) as (client, backend, run):
            backend.writer.write(GOOD_101)
            client.writer.write(encode(0x88, b"", b"abcd"))
            assert (await client.head()).split(b" ")[1] in (b"101", b"400")
            client.end()
            await client.rest()
            backend.end()
            await until(lambda: nothing_is_held(run))


async def test_a_stop_while_we_wait_for_the_backend_lets_both_go() -> None:
    async with asked(SEATS) as (client, backend, run):
        await run.gate.stop()
        assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        assert await backend.rest() == b""
        assert nothing_is_held(run)


async def test_an_upgrade_that_is_stopped_before_its_first_step_lets_the_client_go() -> None:
    async with running(SEATS, upstream=NOWHERE) as run:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = RawClient(*await asyncio.open_connection(*server.getsockname()))
            near, _ = server.accept()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
        run.gate._path.begin(transport, parse_request_head(upgrade_head()[:-4]), Peer(None, trusted=True))
        await run.gate.stop()
        assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        assert nothing_is_held(run)
        client.writer.close()


@pytest.mark.parametrize(
    ("target", "status", "route"), [("/../a?token=secret", 400, ""), ("/x?token=secret", 404, ""), ("/a?token=secret", 502, "api")]
)
async def test_every_refusal_leaves_one_line_without_query_and_token(target: str, status: int, route: str) -> None:
    yaml = "routes: [{name: api, path: '/a', upstream: game}]"
    async with running(yaml, upstream="ws://127.0.0.1:1") as run, raw_client(run.port) as client:
        await client.send(upgrade_head(target))
        assert (await client.answer()).status == status
        (line,) = map(json.loads, run.log.getvalue().splitlines())
        assert (line["event"], line["status"], line["route"]) == ("refused", status, route)
        assert "secret" not in run.log.getvalue()
