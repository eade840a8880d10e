"""Compressed streams out of which the gate drops messages stay readable.

Who compresses with context takeover refers back to messages that the other side must have got. A dropped one is missing there, and
every later message is garbage, unless the client was told to compress each on its own (DESIGN, "The wire" 4).
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.interop.node import run_script
from tests.interop.servers import SERVERS, ServerOf
from tests.support.gate import running

SMALL = 1024  # bytes on the wire that pass
SEED = 7


@dataclass(frozen=True)
class Heard:
    """All texts that came, and the extensions that the client's 101 settled."""

    texts: Sequence[str]
    extensions: str


Talker = Callable[[str, Sequence[str], float], Awaitable[Heard]]
"""(URL, messages, pause in s before the last one); until the last one came back."""


async def websockets_talks(url: str, messages: Sequence[str], pause: float) -> Heard:
    texts: list[str] = []
    async with connect(url, max_size=None) as socket:
        for message in messages[:-1]:
            await socket.send(message)
        await asyncio.sleep(pause)
        await socket.send(messages[-1])
        while not texts or texts[-1] != messages[-1]:
            texts.append(str(await asyncio.wait_for(socket.recv(), 5)))
        assert socket.response is not None
        return Heard(texts, socket.response.headers["Sec-WebSocket-Extensions"])


async def aiohttp_talks(url: str, messages: Sequence[str], pause: float) -> Heard:
    texts: list[str] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as socket:
        for message in messages[:-1]:
            await socket.send_str(message)
        await asyncio.sleep(pause)
        await socket.send_str(messages[-1])
        while not texts or texts[-1] != messages[-1]:
            texts.append(await socket.receive_str(timeout=5))
        settled = "permessage-deflate" if socket.compress else ""
        return Heard(texts, settled + ("; client_no_context_takeover" if socket.client_notakeover else ""))


async def ws_talks(url: str, messages: Sequence[str], pause: float) -> Heard:
    heard = await run_script("ws_talk.js", url=url, messages=list(messages), pause=pause * 1000, deflate=True)
    assert heard["error"] is None
    assert heard["code"] == 1000
    return Heard(heard["texts"], heard["extensions"])


TALKERS: list[Talker] = [websockets_talks, aiohttp_talks, ws_talks]


def move(number: int) -> str:
    """Much like all others, so that a compressor refers back to them."""
    return json.dumps({"move": number, "from": "the square in the corner", "to": "the square in the middle", "piece": "white knight"})


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_messages_between_dropped_ones_stay_readable(talker: Talker, server_of: ServerOf) -> None:
    """Every third message is too large, and not compressible."""
    noise = random.Random(SEED)
    moves = [move(number) for number in range(40)]
    messages = []
    for number, one in enumerate(moves):
        messages.append(one)
        if number % 2:
            messages.append(base64.b64encode(noise.randbytes(3 * SMALL)).decode())
    messages.append("last")
    rules = f"rules: [{{name: size, per: connection, message_size: {SMALL}, on_excess: drop}}]\n"
    async with server_of() as server, running(rules, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages, 0)
        assert [text for text in heard.texts if "error" not in text] == [*moves, "last"]
        assert any("payload_too_large" in text for text in heard.texts)
        assert_compressed(heard)
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="size"}'] == 20
        assert samples['wsgate_bytes_total{direction="in"}'] < 0.9 * sum(map(len, messages))


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_messages_after_a_flood_stay_readable(talker: Talker, server_of: ServerOf) -> None:
    messages = [move(number) for number in range(200)] + ["last"]
    async with server_of() as server, running("rules: [{name: rate, per: user, messages: 50/s, burst: 5}]\n", upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages, 0.1)
        texts = [text for text in heard.texts if "error" not in text]
        assert texts[:5] == messages[:5]
        assert texts[-1] == "last"
        assert len(texts) < len(messages)
        places = [messages.index(text) for text in texts]
        assert places == sorted(set(places))
        assert_compressed(heard)


def assert_compressed(heard: Heard) -> None:
    assert heard.extensions.startswith("permessage-deflate")
    assert "client_no_context_takeover" in heard.extensions


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_where_nothing_can_be_dropped_the_context_is_taken_over(talker: Talker, server_of: ServerOf) -> None:
    messages = [*(move(number) for number in range(40)), "last"]
    rules = "rules: [{name: rate, per: user, messages: 1000/s, on_excess: close}]\n"
    async with server_of() as server, running(rules, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages, 0)
        assert heard.texts == messages
        assert heard.extensions.startswith("permessage-deflate")
        assert "client_no_context_takeover" not in heard.extensions
        assert (await gate.scrape())['wsgate_bytes_total{direction="in"}'] < 0.4 * sum(map(len, messages))
