"""The demo's game: rooms with a board and a chat, a server of the kind that wsgate stands in front of.

It knows nothing of limits. What a player sends comes back to the whole room with the number `n` that the player gave it, so
that a client can tell which of its messages the gate let through. All messages are JSON objects with a `type`:

    from a player   chat {text, n}   move {x, y, n}
    to a player     welcome {id, width, height, players}   join {player}   leave {id}   chat {id, text, n}   move {id, x, y, n}

`deploy/dev.py run` starts it with a listening socket and, as standard input, a pipe that ends when the gate ends.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

PAGE = Path(__file__).with_name("index.html")
ADMIN = "http://127.0.0.1:9901"
WIDTH, HEIGHT = 12, 8  # cells
MAX_NAME = 24  # characters
MAX_TEXT = 500  # characters
MAX_BACKLOG = 512  # messages that a slow player may be behind, before it is cut off
MAX_MESSAGE = 1 << 20  # bytes; far above the gate's limit, so that it is the gate that refuses
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self' ws: wss:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass
class Player:
    id: int
    name: str
    x: int
    y: int


@dataclass
class Seat:
    """A player's connection, and what it has still to be sent."""

    player: Player
    websocket: web.WebSocketResponse
    transport: asyncio.Transport
    backlog: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_BACKLOG))

    async def write(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self.websocket.send_str(await self.backlog.get())


class Room:
    """Who is in it. The dictionary of rooms forgets one that is empty."""

    def __init__(self) -> None:
        self.seats: dict[int, Seat] = {}

    def tell(self, message: Mapping[str, Any]) -> None:
        """To all, without waiting for anybody."""
        text = json.dumps(message)
        for seat in self.seats.values():
            try:
                seat.backlog.put_nowait(text)
            except asyncio.QueueFull:
                seat.transport.abort()

    def hear(self, player: Player, text: str) -> None:
        """One message of a player. What is not understood is left unanswered."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        match message:
            case {"type": "chat", "text": str(said), "n": int(n)}:
                self.tell({"type": "chat", "id": player.id, "text": said[:MAX_TEXT], "n": n})
            case {"type": "move", "x": int(x), "y": int(y), "n": int(n)}:
                player.x, player.y = min(max(x, 0), WIDTH - 1), min(max(y, 0), HEIGHT - 1)
                self.tell({"type": "move", "id": player.id, "x": player.x, "y": player.y, "n": n})


class Game:
    """The rooms, the page, and a window to the gate's metrics (a page may not read another port's answers itself)."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.rooms: dict[str, Room] = {}
        self.players_so_far = 0

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/", self.page)
        application.router.add_get("/metrics-of-the-gate", self.metrics)
        application.router.add_get("/ws/tournament/{room}", self.play)
        return application

    async def page(self, _request: web.Request) -> web.StreamResponse:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html", headers=headers)

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        try:
            async with self.client.get(f"{ADMIN}/metrics") as answer:
                return web.Response(status=answer.status, text=await answer.text())
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502, text="the gate's admin port does not answer")

    def new_player(self, name: str) -> Player:
        self.players_so_far += 1
        return Player(self.players_so_far, name[:MAX_NAME] or "somebody", random.randrange(WIDTH), random.randrange(HEIGHT))

    async def play(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
        await websocket.prepare(request)
        if not isinstance(request.transport, asyncio.Transport):  # gone already
            return websocket
        name = request.match_info["room"]
        room = self.rooms.setdefault(name, Room())
        player = self.new_player(request.query.get("token", ""))
        room.tell({"type": "join", "player": asdict(player)})
        seat = room.seats[player.id] = Seat(player, websocket, request.transport)
        players = [asdict(other.player) for other in room.seats.values()]
        seat.backlog.put_nowait(json.dumps({"type": "welcome", "id": player.id, "width": WIDTH, "height": HEIGHT, "players": players}))
        writer = asyncio.create_task(seat.write())
        try:
            async for message in websocket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    room.hear(player, message.data)
        finally:
            writer.cancel()
            del room.seats[player.id]
            if not room.seats:
                del self.rooms[name]
            room.tell({"type": "leave", "id": player.id})
        return websocket


async def serve(listener: socket.socket) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
        runner = web.AppRunner(Game(client).application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()


def end_with_standard_input() -> None:
    """At once: the gate is gone, and with it everybody who played."""
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(0)


async def main() -> None:
    parser = argparse.ArgumentParser(description="The demo's game server, on 127.0.0.1:9000 or a socket that it is given.")
    parser.add_argument("--listen-fd", type=int, help="a listening socket; ends when standard input ends")
    listen_fd = parser.parse_args().listen_fd
    if listen_fd is None:
        await serve(socket.create_server(("127.0.0.1", 9000)))
    else:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), end_with_standard_input)
        await serve(socket.socket(fileno=listen_fd))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback
    asyncio.run(main())
