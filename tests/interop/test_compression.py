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
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.extensions import ClientExtensionFactory, Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import ExtensionParameter

from tests.interop.node import run_script
from tests.interop.servers import SERVERS, ServerOf, ws_server
from tests.support.backends import waiting_backend
from tests.support.gate import running
from tests.support.pair import pair
from tests.support.raw import raw_client, upgrade_head
from tests.support.waiting import PATIENCE

SMALL = 1024  # bytes on the wire that pass
SEED = 7


@dataclass(frozen=True)
class Heard:
    """All texts that came, and the extensions that the client's 101 settled."""

    texts: Sequence[str]
    extensions: str


Talker = Callable[..., Awaitable[Heard]]
"""(URL, messages, pause in s before the last one, `deflate`: whether to offer it); until the last one came back.

The pause begins with the pong of a ping that was sent behind the others, which the gate has judged by then: a busy machine may take
longer over them than the pause is, and the last one would be dropped as part of the flood. The ping is empty and costs no bytes.
"""


async def websockets_talks(url: str, messages: Sequence[str], pause: float = 0, *, deflate: bool = True) -> Heard:
    return await websockets_offers(url, messages, pause, compression="deflate" if deflate else None)


async def websockets_offers(url: str, messages: Sequence[str], pause: float = 0, **options: Any) -> Heard:
    texts: list[str] = []
    async with connect(url, max_size=None, max_queue=None, **options) as socket:
        for message in messages[:-1]:
            await socket.send(message)
        if pause:
            await asyncio.wait_for(await socket.ping(b""), PATIENCE)
            await asyncio.sleep(pause)
        await socket.send(messages[-1])
        while not texts or texts[-1] != messages[-1]:
            texts.append(str(await asyncio.wait_for(socket.recv(), PATIENCE)))
        assert socket.response is not None
        return Heard(texts, socket.response.headers.get("Sec-WebSocket-Extensions", ""))


async def aiohttp_talks(url: str, messages: Sequence[str], pause: float = 0, *, deflate: bool = True) -> Heard:
    texts: list[str] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15 if deflate else 0, autoping=False) as socket:
        for message in messages[:-1]:
            await socket.send_str(message)
        if pause:
            await socket.ping()
            while (heard := await socket.receive(PATIENCE)).type is not aiohttp.WSMsgType.PONG:
                texts.append(heard.data)
            await asyncio.sleep(pause)
        await socket.send_str(messages[-1])
        while not texts or texts[-1] != messages[-1]:
            texts.append(await socket.receive_str(timeout=PATIENCE))
        settled = "permessage-deflate" if socket.compress else ""
        return Heard(texts, settled + ("; client_no_context_takeover" if socket.client_notakeover else ""))


async def ws_talks(url: str, messages: Sequence[str], pause: float = 0, *, deflate: bool = True) -> Heard:
    heard = await run_script("ws_talk.js", url=url, messages=list(messages), pause=pause * 1000, deflate=deflate)
    assert heard["error"] is None
    assert heard["code"] == 1000
    return Heard(heard["texts"], heard["extensions"] or "")


TALKERS: list[Talker] = [websockets_talks, aiohttp_talks, ws_talks]


def move(number: int) -> str:
    """Much like all others, so that a compressor refers back to them."""
    return json.dumps({"move": number, "from": "the square in the corner", "to": "the square in the middle", "piece": "white knight"})


DROPS = f"rules: [{{name: size, per: connection, message_size: {SMALL}, on_excess: drop}}]\n"
OFF = 'routes: [{name: all, path: "/{rest*}", upstream: game, compression: off}]\n'


def game() -> tuple[list[str], list[str]]:
    """Messages of which every third is too large, and not compressible; and those that pass."""
    noise = random.Random(SEED)
    moves = [move(number) for number in range(40)]
    messages = []
    for number, one in enumerate(moves):
        messages.append(one)
        if number % 2:
            messages.append(base64.b64encode(noise.randbytes(3 * SMALL)).decode())
    return [*messages, "last"], [*moves, "last"]


def assert_readable(heard: Heard, small: Sequence[str]) -> None:
    assert [text for text in heard.texts if "error" not in text] == small
    assert any("payload_too_large" in text for text in heard.texts)


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_messages_between_dropped_ones_stay_readable(talker: Talker, server_of: ServerOf) -> None:
    messages, small = game()
    async with server_of() as server, running(DROPS, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages)
        assert_readable(heard, small)
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


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_what_the_server_says_between_dropped_messages_stays_readable(talker: Talker, server_of: ServerOf) -> None:
    messages, small = game()
    rule = f"rules: [{{name: out, per: user, bytes: 1MiB/s, burst: {2 * SMALL}, direction: out, on_excess: drop}}]\n"
    async with server_of() as server, running(rule, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages, 0.1)
        texts = [text for text in heard.texts if "error" not in text]
        # Those that are too large for the bucket, and such as came when it was empty: the more are missing, the better.
        places = [small.index(text) for text in texts]
        assert places == sorted(set(places))
        assert len(texts) >= 5
        assert any("byte_rate_limit_exceeded" in text for text in heard.texts)
        assert heard.extensions.startswith("permessage-deflate")
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="out"}'] == len(messages) - len(texts)
        assert samples['wsgate_bytes_total{direction="out"}'] < 0.9 * sum(map(len, messages))


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


# --- compression off, and clients that ask for something else --------------------------------------------------------------------


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_with_compression_off_the_same_clients_and_servers_talk_plainly(talker: Talker, server_of: ServerOf) -> None:
    messages, small = game()
    async with server_of() as server, running(OFF + DROPS, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages)
        assert_readable(heard, small)
        assert heard.extensions == ""
        assert (await gate.scrape())['wsgate_bytes_total{direction="in"}'] == sum(map(len, messages))


@pytest.mark.parametrize("yaml", [DROPS, ""], ids=["metered", "not_metered"])
@pytest.mark.parametrize("server_of", SERVERS)
async def test_with_compression_off_the_backend_is_offered_nothing(server_of: ServerOf, yaml: str) -> None:
    async with server_of() as server, running(OFF + yaml, upstream=server.url) as gate, connect(gate.ws("/request")) as socket:
        await socket.send("?")
        fields = json.loads(await socket.recv())["fields"]
        assert "sec-websocket-extensions" not in dict(fields)


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("talker", TALKERS)
async def test_a_client_that_declines_gets_no_extension(talker: Talker, server_of: ServerOf) -> None:
    messages, small = game()
    async with server_of() as server, running(DROPS, upstream=server.url) as gate:
        heard = await talker(gate.ws("/echo"), messages, deflate=False)
        assert_readable(heard, small)
        assert heard.extensions == ""


class Unknown(ClientExtensionFactory):
    """An extension that no server knows."""

    name = "x-unknown"

    def get_request_params(self) -> list[ExtensionParameter]:
        return [("level", "9")]

    def process_response_params(self, params: Sequence[ExtensionParameter], accepted: Sequence[Extension]) -> Extension:
        raise AssertionError(params, accepted)


OFFERS: dict[str, list[ClientExtensionFactory]] = {
    "twice": [ClientPerMessageDeflateFactory(server_max_window_bits=10), ClientPerMessageDeflateFactory()],
    "beside an unknown one": [Unknown(), ClientPerMessageDeflateFactory()],
    "without its own context": [ClientPerMessageDeflateFactory(client_no_context_takeover=True)],
    "without the server's context": [ClientPerMessageDeflateFactory(server_no_context_takeover=True)],
    "in a small window": [ClientPerMessageDeflateFactory(client_max_window_bits=9)],
}


@pytest.mark.parametrize("server_of", SERVERS)
@pytest.mark.parametrize("offers", OFFERS.values(), ids=OFFERS)
async def test_however_compression_is_offered_what_passes_stays_readable(offers: list[ClientExtensionFactory], server_of: ServerOf) -> None:
    messages, small = game()
    async with server_of() as server, running(DROPS, upstream=server.url) as gate:
        heard = await websockets_offers(gate.ws("/echo"), messages, compression=None, extensions=offers)
        assert_readable(heard, small)
        assert_compressed(heard)
        assert heard.extensions.count("client_no_context_takeover") == 1


@pytest.mark.parametrize("server_of", SERVERS)
async def test_an_unknown_extension_alone_is_no_extension(server_of: ServerOf) -> None:
    messages, small = game()
    async with server_of() as server, running(DROPS, upstream=server.url) as gate:
        heard = await websockets_offers(gate.ws("/echo"), messages, compression=None, extensions=[Unknown()])
        assert_readable(heard, small)
        assert heard.extensions == ""


async def test_a_client_that_forbids_the_parameter_fails_where_messages_may_be_dropped_and_nowhere_else() -> None:
    """`ws` alone can be told to: its offer is the same, so nobody can know before. RFC 7692 §7.1.1.2 leaves it no right to."""
    forbids = {"clientNoContextTakeover": False}
    closes = "rules: [{name: rate, per: user, messages: 1000/s, on_excess: close}]\n"
    async with ws_server() as server:
        for yaml, error in [(DROPS, "Invalid Sec-WebSocket-Extensions header"), (closes, None), (OFF + DROPS, None)]:
            async with running(yaml, upstream=server.url) as gate:
                heard = await run_script("ws_talk.js", url=gate.ws("/echo"), messages=["first", "last"], pause=0, deflate=forbids)
                if error is None:
                    assert (heard["error"], heard["texts"]) == (None, ["first", "last"])
                else:
                    assert error in heard["error"]


@pytest.mark.parametrize("offer", ["permessage-deflate", "x-unknown"])
async def test_with_compression_off_a_compressed_message_is_1002(offer: str) -> None:
    async with pair(OFF, offers=(f"Sec-WebSocket-Extensions: {offer}",)) as one:
        assert b"sec-websocket-extensions" not in one.answer.lower()
        await one.client.send(b"\xc1\x81\0\0\0\0x")
        assert (await one.client.frame())[1][:2] == (1002).to_bytes(2, "big")
        assert (await one.backend.frame())[1][:2] == (1002).to_bytes(2, "big")


async def test_with_compression_off_an_extension_that_the_backend_takes_all_the_same_is_502() -> None:
    async with (
        waiting_backend() as (url, arrived),
        running(OFF + "", upstream=url) as gate,
        raw_client(gate.port) as client,
    ):
        await client.send(upgrade_head("/", "Sec-WebSocket-Extensions: permessage-deflate"))
        await (await arrived.get()).accept("Sec-WebSocket-Extensions: permessage-deflate")
        assert await client.status() == 502
