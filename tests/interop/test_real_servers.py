"""Servers that are not ours behind the gate, and clients that are not ours before it: nobody notices that it is there.

The rules here never bite, so that all frames are metered all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.interop.node import run_script
from tests.interop.servers import SERVERS, Server, ServerOf, aiohttp_server
from tests.support.gate import Running, running
from tests.support.raw import raw_client, upgrade_head

RULES = """
rules:
  - {name: connections, per: user, connections: 1000}
  - {name: upgrades, per: ip, upgrades: 1000/s}
  - {name: messages, per: user, messages: 1000000/s}
  - {name: size, per: connection, message_size: 1GiB, on_excess: drop}
"""
HUGE = 16 << 20  # bytes


@asynccontextmanager
async def through(server_of: ServerOf) -> AsyncIterator[tuple[Running, Server]]:
    async with server_of() as server, running(RULES, upstream=server.url) as gate:
        yield gate, server


@asynccontextmanager
async def client(gate: Running, path: str, *subprotocols: str, compression: str | None = "deflate") -> AsyncIterator[ClientConnection]:
    offered = [Subprotocol(one) for one in subprotocols] or None
    async with connect(gate.ws(path), max_size=None, subprotocols=offered, compression=compression, ping_interval=None) as socket:
        yield socket


# --- messages ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_of", SERVERS)
async def test_messages_come_back_as_they_were_sent(server_of: ServerOf) -> None:
    messages: list[str | bytes | list[str]] = [
        "",
        "text",
        "žluťoučký kůň 🐎",
        b"",
        b"\x00\xff",
        "x" * 125,
        "x" * 126,
        b"y" * 65535,
        b"z" * 65536,
        ["in", "fragments"],
    ]
    async with through(server_of) as (gate, _), client(gate, "/echo") as socket:
        for message in messages:
            await socket.send(message)
        for message in messages:
            assert await socket.recv() == ("".join(message) if isinstance(message, list) else message)


@pytest.mark.parametrize("server_of", SERVERS)
async def test_sixteen_mebibytes_come_back_as_they_were_sent(server_of: ServerOf) -> None:
    message = os.urandom(HUGE)
    async with through(server_of) as (gate, _), client(gate, "/echo", compression=None) as socket:
        await socket.send(message)
        assert await socket.recv() == message
        await socket.send("and it goes on")
        assert await socket.recv() == "and it goes on"


@pytest.mark.parametrize("server_of", SERVERS)
async def test_the_client_of_aiohttp_talks_to_them(server_of: ServerOf) -> None:
    async with through(server_of) as (gate, server), aiohttp.ClientSession() as session:
        socket = await session.ws_connect(gate.ws("/echo"), max_msg_size=0, compress=15)
        await socket.send_str("text " * 1000)
        assert await socket.receive_str(timeout=5) == "text " * 1000
        await socket.send_bytes(bytes(HUGE))
        assert await socket.receive_bytes(timeout=20) == bytes(HUGE)
        await socket.close(code=4000, message=b"enough")
        assert (await asyncio.wait_for(server.closes.get(), 5))[0] == 4000


@pytest.mark.parametrize("server_of", SERVERS)
async def test_the_client_of_ws_talks_to_them(server_of: ServerOf) -> None:
    messages = [f"message {number}" * number for number in range(50)]
    async with through(server_of) as (gate, _):
        heard = await run_script("ws_talk.js", url=gate.ws("/echo"), messages=[*messages, "last"], pause=0, deflate=True)
        assert heard["texts"] == [*messages, "last"]
        assert heard["error"] is None
        assert heard["code"] == 1000


# --- pings -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_of", SERVERS)
async def test_pings_and_pongs_go_both_ways(server_of: ServerOf) -> None:
    async with through(server_of) as (gate, _), client(gate, "/ping") as socket:
        await asyncio.wait_for(await socket.ping(b"from the client"), 5)
        await socket.send("ping me")
        assert await asyncio.wait_for(socket.recv(), 5) == "pong"


# --- closes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 4321])
@pytest.mark.parametrize("server_of", SERVERS)
async def test_a_close_of_the_server_reaches_the_client(server_of: ServerOf, code: int) -> None:
    async with through(server_of) as (gate, _), client(gate, f"/close/{code}/bye") as socket:
        await socket.send("close me")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (code, "bye")
        label = code if code < 2000 else "other"
        assert (await gate.scrape())[f'wsgate_closes_total{{code="{label}",initiator="upstream"}}'] == 1


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 4321])
@pytest.mark.parametrize("server_of", SERVERS)
async def test_a_close_of_the_client_reaches_the_server(server_of: ServerOf, code: int) -> None:
    async with through(server_of) as (gate, server):
        async with client(gate, "/echo") as socket:
            await socket.close(code, "bye")
        assert (await asyncio.wait_for(server.closes.get(), 5))[0] == code
        await gate.quiet()


@pytest.mark.parametrize("server_of", SERVERS)
async def test_a_client_that_vanishes_is_1001_to_the_server(server_of: ServerOf) -> None:
    async with through(server_of) as (gate, server):
        async with client(gate, "/echo") as socket:
            await socket.send("here I am")
            await socket.recv()
            socket.transport.abort()
        assert (await asyncio.wait_for(server.closes.get(), 5))[0] == 1001
        await gate.quiet()


# --- handshakes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_of", SERVERS)
async def test_the_server_selects_the_subprotocol(server_of: ServerOf) -> None:
    async with through(server_of) as (gate, _):
        async with client(gate, "/echo", "chat.v1", "chat.v2", "chat.v3") as socket:
            assert socket.subprotocol == "chat.v2"
        async with client(gate, "/echo") as socket:
            assert socket.subprotocol is None


@pytest.mark.parametrize("server_of", SERVERS)
async def test_the_server_sees_the_request_as_the_client_sent_it(server_of: ServerOf) -> None:
    target = "/request/R%C3%BCbe/%7Eann/a+b?token=se%63ret&x=1&x=2&empty=&&utf8=%E2%9C%93&path=/../a//b"
    headers = [
        "Cookie: session=abc; theme=dark",
        "X-Custom: one",
        "X-Custom: two",
        "Authorization: Bearer abc.def",
        "Origin: https://game.test",
    ]
    async with through(server_of) as (gate, _), raw_client(gate.port) as socket:
        await socket.send(upgrade_head(target, *headers, "Sec-WebSocket-Protocol: chat.v1, chat.v2", host="game.example:8443"))
        assert await socket.status() == 101
        await socket.send(b"\x81\x85\x00\x00\x00\x00hello")
        first, payload = await socket.frame()
        assert first == 0x81
        seen = json.loads(payload)
        assert seen["target"] == target
        fields = [tuple(field) for field in seen["fields"]]
        for line in headers:
            name, _, value = line.partition(": ")
            assert (name.lower(), value) in fields
        one = dict(fields)
        assert one["host"] == "game.example:8443"
        assert one["sec-websocket-protocol"] == "chat.v1, chat.v2"
        assert one["x-forwarded-for"] == "127.0.0.1"
        assert one["x-forwarded-host"] == "game.example:8443"
        assert one["x-forwarded-proto"] == "http"
        assert one["forwarded"] == 'for=127.0.0.1;host="game.example:8443";proto=http'


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_an_answer_that_is_no_upgrade_is_relayed_as_it_is(status: int) -> None:
    async with through(aiohttp_server) as (gate, _):
        with pytest.raises(InvalidStatus) as raised:
            await connect(gate.ws(f"/answer/{status}?why=not"))
        response = raised.value.response
        assert response.status_code == status
        assert response.body == b"said the backend: why=not"
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="game"'
        assert response.headers.get_all("Set-Cookie") == ["a=1; Path=/", "b=2; Path=/"]
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert (await gate.scrape())['wsgate_upgrades_total{result="upstream_rejected",route="default"}'] == 1
        await gate.quiet()


async def test_a_streamed_answer_is_relayed_to_its_end() -> None:
    async with through(aiohttp_server) as (gate, _), aiohttp.ClientSession() as session:
        headers = dict(line.split(": ") for line in upgrade_head().decode().split("\r\n")[1:] if line)
        async with session.get(gate.http("/stream"), headers=headers) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "7"
            assert await response.read() == b"*" * (1 << 20)


async def test_a_redirect_is_relayed_and_can_be_followed() -> None:
    async with through(aiohttp_server) as (gate, _):
        async with raw_client(gate.port) as socket:
            await socket.send(upgrade_head("/redirect?token=ann"))
            head = await socket.head()
            assert head.startswith(b"HTTP/1.1 302 Found\r\n")
            assert b"\r\nLocation: /echo?token=ann\r\n" in head
            assert await socket.rest() == b""
        async with client(gate, "/redirect?token=ann") as followed:
            await followed.send("arrived")
            assert await followed.recv() == "arrived"
