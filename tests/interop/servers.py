"""The servers of three libraries, which all do what the path asks for, so that one test can be about each of them.

    /echo...              every message comes back
    /close/CODE/REASON    the first message is answered with that Close
    /ping                 the first message is answered with a ping, and its pong with the text `pong`
    /request              the first message is answered with a JSON text: the target and the header fields, names in lower case

The subprotocol is `chat.v2` where that was offered, and none otherwise. Compression is as the library has it by default.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.interop.node import node_server

CHOSEN = Subprotocol("chat.v2")


@dataclass
class Server:
    """`closes`: (code, reason) with which each connection ended, as the library tells it."""

    url: str
    closes: asyncio.Queue[tuple[int | None, str | None]]


ServerOf = Callable[[], AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def websockets_server() -> AsyncIterator[Server]:
    """Python's websockets."""
    closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def talk(socket: ServerConnection) -> None:
        assert socket.request is not None
        kind, *words = socket.request.path.partition("?")[0].split("/")[1:]
        try:
            async for message in socket:
                if kind == "close":
                    await socket.close(int(words[0]), words[1])
                elif kind == "ping":
                    await (await socket.ping(b"are you there?"))
                    await socket.send("pong")
                elif kind == "request":
                    fields = [(name.lower(), value) for name, value in socket.request.headers.raw_items()]
                    await socket.send(json.dumps({"target": socket.request.path, "fields": fields}))
                else:
                    await socket.send(message)
        except ConnectionClosed:
            pass
        await socket.wait_closed()
        closes.put_nowait((socket.close_code, socket.close_reason))

    def select(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return CHOSEN if CHOSEN in offered else None

    async with serve(talk, "127.0.0.1", 0, max_size=None, select_subprotocol=select) as server:
        yield Server(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", closes)


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[Server]:
    """aiohttp's server. Further paths answer without an upgrade: /answer/STATUS, /redirect, /stream."""
    closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def talk(request: web.Request) -> web.WebSocketResponse:
        kind, *words = request.path.split("/")[1:]
        socket = web.WebSocketResponse(protocols=[CHOSEN], max_msg_size=0, autoping=kind != "ping")
        await socket.prepare(request)
        while (message := await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                await socket.send_str("pong")
            elif kind == "close":
                await socket.close(code=int(words[0]), message=words[1].encode())
            elif kind == "ping":
                await socket.ping(b"are you there?")
            elif kind == "request":
                fields = [(name.decode().lower(), value.decode()) for name, value in request.raw_headers]
                await socket.send_str(json.dumps({"target": request.raw_path, "fields": fields}))
            elif message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        closes.put_nowait((socket.close_code, message.extra))
        return socket

    async def answer(request: web.Request) -> web.Response:
        response = web.Response(status=int(request.match_info["status"]), text=f"said the backend: {request.query_string}")
        response.headers["WWW-Authenticate"] = 'Bearer realm="game"'
        response.headers.add("Set-Cookie", "a=1; Path=/")
        response.headers.add("Set-Cookie", "b=2; Path=/")
        return response

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"/echo?{request.query_string}"})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503, headers={"Retry-After": "7"})
        await response.prepare(request)  # of unknown length, so chunked
        for _ in range(16):
            await response.write(b"*" * 65536)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get("/answer/{status}", answer)
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/stream", stream)
    app.router.add_get("/{rest:.*}", talk)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Server(f"ws://127.0.0.1:{runner.addresses[0][1]}", closes)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def ws_server() -> AsyncIterator[Server]:
    """npm's ws."""
    async with node_server() as (url, lines):
        closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

        async def read() -> None:
            async for line in lines:
                closes.put_nowait(tuple(json.loads(line)))

        reading = asyncio.create_task(read())
        try:
            yield Server(url, closes)
        finally:
            reading.cancel()


SERVERS: list[ServerOf] = [websockets_server, aiohttp_server, ws_server]
