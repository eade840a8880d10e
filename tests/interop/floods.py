"""Clients of three libraries that send as fast as they can, and what each of them reads before it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.interop.node import run_script


@dataclass(frozen=True)
class Heard:
    """What a client read: our texts, and how it ended. `error`: what the library holds for a failure."""

    texts: tuple[str, ...]
    code: int | None
    reason: str | None
    protocol: str | None
    error: str | None = None


@dataclass(frozen=True)
class Flood:
    """`url` and `protocols` hold %USER% where the client's token stands. `size`: bytes of each message."""

    url: str
    size: int
    protocols: Sequence[str] = ()

    def url_of(self, number: int) -> str:
        return self.url.replace("%USER%", f"user-{number}")

    def protocols_of(self, number: int) -> list[str]:
        return [protocol.replace("%USER%", f"user-{number}") for protocol in self.protocols]

    def headers_of(self, number: int) -> dict[str, str]:
        """An address of its own."""
        return {"X-Forwarded-For": f"198.51.100.{number}"}


def ours(texts: Sequence[str | bytes]) -> tuple[str, ...]:
    """Without the echoes of the flood."""
    return tuple(str(text) for text in texts if text[:1] != "x")


Flooder = Callable[[Flood, int], Awaitable[list[Heard]]]
"""(flood, clients) -> what each heard"""


async def with_websockets(flood: Flood, clients: int) -> list[Heard]:
    """Python's websockets."""

    async def one(number: int) -> Heard:
        texts = []
        async with connect(
            flood.url_of(number),
            additional_headers=flood.headers_of(number),
            subprotocols=[Subprotocol(protocol) for protocol in flood.protocols_of(number)] or None,
            compression=None,
        ) as socket:
            sending = asyncio.create_task(_send_all(socket, "x" * flood.size))
            try:
                async for message in socket:
                    texts.append(message)  # noqa: PERF401 -- those before the end are wanted too
            except ConnectionClosed:
                pass
            await sending
            return Heard(ours(texts), socket.close_code, socket.close_reason, socket.subprotocol)

    return await asyncio.gather(*(one(number + 1) for number in range(clients)))


async def _send_all(socket: ClientConnection, message: str) -> None:
    try:
        while True:
            await socket.send(message)
            await asyncio.sleep(0)
    except ConnectionClosed:
        pass


async def with_aiohttp(flood: Flood, clients: int) -> list[Heard]:
    """aiohttp's client."""

    async def one(session: aiohttp.ClientSession, number: int) -> Heard:
        texts = []
        async with session.ws_connect(
            flood.url_of(number), headers=flood.headers_of(number), protocols=flood.protocols_of(number), compress=0
        ) as socket:
            sending = asyncio.create_task(_send_str_all(socket, "x" * flood.size))
            code, reason = None, None
            while (message := await socket.receive(10)).type is aiohttp.WSMsgType.TEXT:
                texts.append(message.data)
            if message.type is aiohttp.WSMsgType.CLOSE:
                code, reason = message.data, message.extra
            await sending
            return Heard(ours(texts), code, reason, socket.protocol, None if code else repr(message))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(one(session, number + 1) for number in range(clients)))


async def _send_str_all(socket: aiohttp.ClientWebSocketResponse, message: str) -> None:
    try:
        while not socket.closed:
            await socket.send_str(message)
            await asyncio.sleep(0)
    except ConnectionError:
        pass


async def with_ws(flood: Flood, clients: int) -> list[Heard]:
    """npm's ws."""
    heard = await run_script("ws_flood.js", url=flood.url, clients=clients, size=flood.size, protocols=list(flood.protocols))
    return [Heard(**{**one, "texts": ours(one["texts"])}) for one in heard]


FLOODERS: list[Flooder] = [with_websockets, with_aiohttp, with_ws]
