"""A backend as they are: REST calls, files, events, long polls, and Socket.IO's transport, on aiohttp's server.

/echo/...             what came, as JSON: method, target, header fields, and the body's size and SHA-256
/bytes/N              N bytes of known length; /chunks/N: of unknown length
/redirect, /cookies   302 with a cookie; the cookies that came
/events/N             N server-sent events, as they are told with POST /tell
/poll                 answered with the next thing that is told
/socket.io/           Engine.IO 4: polling, then an upgrade to a WebSocket; every message comes back
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

BLOCK = bytes(range(256)) * 256  # 64 KiB


@dataclass
class EngineSession:
    """One client of Engine.IO. `waiting`: packets for it, None once they go over the WebSocket."""

    waiting: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    upgraded: bool = False


@dataclass
class Rest:
    told: set[asyncio.Queue[str]] = field(default_factory=set)
    engine: dict[str, EngineSession] = field(default_factory=dict)

    async def echo(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            size += len(chunk)
        fields = [(name.decode().lower(), value.decode("latin-1")) for name, value in request.raw_headers]
        found = {"method": request.method, "target": request.raw_path, "fields": fields, "size": size, "sha256": digest.hexdigest()}
        return web.json_response(found)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        size = int(request.match_info["size"])
        response = web.StreamResponse()
        if request.path.startswith("/bytes"):
            response.content_length = size
        await response.prepare(request)
        while size:
            await response.write(BLOCK[:size])
            size -= min(size, len(BLOCK))
        return response

    async def redirect(self, _: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/cookies?"})
        response.set_cookie("session", "abc", path="/", httponly=True)
        return response

    async def cookies(self, request: web.Request) -> web.Response:
        return web.json_response(dict(request.cookies))

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        queue: asyncio.Queue[str] = asyncio.Queue()
        self.told.add(queue)
        try:
            for _ in range(int(request.match_info["count"])):
                await response.write(f"data: {await queue.get()}\n\n".encode())
        finally:
            self.told.discard(queue)
        return response

    async def poll(self, _: web.Request) -> web.Response:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self.told.add(queue)
        try:
            return web.Response(text=await queue.get())
        finally:
            self.told.discard(queue)

    async def tell(self, request: web.Request) -> web.Response:
        text = await request.text()
        for queue in self.told:
            queue.put_nowait(text)
        return web.Response(status=204)

    # --- Engine.IO 4: a packet is a digit and a text; 0 open, 2 ping, 3 pong, 4 message, 5 upgrade, 6 noop -----------------------

    async def engine_io(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("EIO") != "4":
            return web.json_response({"code": 5, "message": "Unsupported protocol version"}, status=400)
        if "sid" not in query:
            sid = f"session-{len(self.engine)}"
            self.engine[sid] = EngineSession()
            opened = {"sid": sid, "upgrades": ["websocket"], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1000000}
            return web.Response(text="0" + json.dumps(opened))
        session = self.engine.get(query["sid"])
        if session is None:
            return web.json_response({"code": 1, "message": "Session ID unknown"}, status=400)
        if query["transport"] == "websocket":
            return await self._engine_socket(request, session)
        if request.method == "POST":
            for packet in (await request.text()).split("\x1e"):
                session.waiting.put_nowait(packet)  # messages come back
            return web.Response(text="ok")
        packets = [await session.waiting.get()]
        while not session.waiting.empty():
            packets.append(session.waiting.get_nowait())
        return web.Response(text="\x1e".join(packets))

    async def _engine_socket(self, request: web.Request, session: EngineSession) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            assert message.type is WSMsgType.TEXT
            if message.data == "2probe":
                await socket.send_str("3probe")
                session.waiting.put_nowait("6")  # lets go of the poll
            elif message.data == "5":
                session.upgraded = True
            else:
                await socket.send_str(message.data)
        return socket


@asynccontextmanager
async def rest_backend() -> AsyncIterator[str]:
    rest = Rest()
    app = web.Application(client_max_size=1 << 40)
    app.router.add_route("*", "/echo{rest:.*}", rest.echo)
    app.router.add_get("/bytes/{size}", rest.stream)
    app.router.add_get("/chunks/{size}", rest.stream)
    app.router.add_get("/redirect", rest.redirect)
    app.router.add_get("/cookies", rest.cookies)
    app.router.add_get("/events/{count}", rest.events)
    app.router.add_get("/poll", rest.poll)
    app.router.add_post("/tell", rest.tell)
    app.router.add_route("*", "/socket.io/", rest.engine_io)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True, auto_decompress=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
