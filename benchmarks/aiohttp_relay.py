"""A WebSocket relay as one would write it with aiohttp: its server, its client session, one message object per message.

It forwards and limits nothing; /refused/... is answered 429. It stands in the benchmark for the proxy that people write themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import uvloop
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType, web

UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", ClientSession)

Socket = web.WebSocketResponse | ClientWebSocketResponse


async def forward(source: Socket, target: Socket) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
        else:
            await target.send_str(message.data)
    await target.close(code=source.close_code or 1000)


async def relay(request: web.Request) -> web.StreamResponse:
    if request.path.startswith("/refused/"):
        return web.Response(status=429)
    if "Upgrade" not in request.headers:
        async with request.app[SESSION].get(request.app[UPSTREAM].replace("ws", "http", 1) + request.path_qs) as answer:
            return web.Response(status=answer.status, body=await answer.read())
    upstream = await request.app[SESSION].ws_connect(request.app[UPSTREAM] + request.path_qs, compress=0, max_msg_size=0)
    downstream = web.WebSocketResponse(compress=False, max_msg_size=0)
    await downstream.prepare(request)
    both = (asyncio.create_task(forward(downstream, upstream)), asyncio.create_task(forward(upstream, downstream)))
    with contextlib.suppress(ConnectionError):
        await asyncio.gather(*both)
    return downstream


async def serve(port: int, upstream: str) -> None:
    app = web.Application()
    app[UPSTREAM] = upstream
    app[SESSION] = ClientSession(connector=TCPConnector(limit=0))
    app.router.add_get("/{path:.*}", relay)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay WebSockets to one upstream.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, metavar="URL", help="such as ws://127.0.0.1:9001")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
