"""Joins a room of the demo through the gate, sends too much at once, and prints what the gate answers.

Every message that the game echoes was let through; the rest was dropped at the gate.
"""

import argparse
import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

WELCOME = 5.0  # s to wait for the game's first message
QUIET = 1.5  # s without an answer, after which no more is expected; the gate spaces its notices by 1 s


@dataclass
class Connection:
    """One connection, and what came back on it. `player` is None until the game has welcomed us."""

    name: str
    websocket: aiohttp.ClientWebSocketResponse
    player: int | None = None
    sent: int = 0
    echoed: int = 0
    answers: list[str] = field(default_factory=list)

    def receive(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "error"}:
                self.answers.append(json.dumps(message, ensure_ascii=False))
            case {"type": "welcome", "id": player}:
                self.player = player
            case {"type": "chat", "id": player} if player == self.player:
                self.echoed += 1

    async def read_one(self, patience: float) -> bool:
        """False if nothing came within `patience` seconds, or nothing will any more."""
        if self.websocket.closed:
            return False
        try:
            message = await self.websocket.receive(patience)
        except TimeoutError:
            return False
        if message.type is aiohttp.WSMsgType.TEXT:
            self.receive(json.loads(message.data))
        elif message.type is aiohttp.WSMsgType.CLOSE:
            self.answers.append(f"closed with {message.data} {message.extra or ''}")
        else:
            self.answers.append("cut without a close frame")
            return False
        return True

    async def join(self) -> None:
        """Until the game's welcome, or the gate's refusal."""
        while self.player is None and await self.read_one(WELCOME):
            pass

    async def read(self) -> None:
        while await self.read_one(QUIET):
            pass

    async def send(self, count: int) -> None:
        with contextlib.suppress(ConnectionError):  # what closed it is read later
            for n in range(count):
                await self.websocket.send_json({"type": "chat", "text": f"message {n + 1} of {count}", "n": n})
                self.sent += 1

    def report(self) -> None:
        state = "refused" if self.player is None else f"sent {self.sent}, let through {self.echoed}, dropped {self.sent - self.echoed}"
        print(f"{self.name}: {state}")
        for answer in self.answers:
            print(f"    the gate: {answer}")


async def connect(session: aiohttp.ClientSession, name: str, url: str) -> Connection | None:
    """None, with a line for the reader, if the gate refused in plain HTTP."""
    try:
        connection = Connection(name, await session.ws_connect(url))
    except aiohttp.WSServerHandshakeError as error:
        print(f"{name}: refused with HTTP status {error.status}")
        return None
    await connection.join()
    return connection


async def flood(gate: str, room: str, token: str, connections: int, messages: int) -> None:
    url = f"{gate.rstrip('/')}/ws/tournament/{quote(room, safe='')}?{urlencode({'token': token})}"
    print(f"{connections} connection(s) to {url}")
    async with aiohttp.ClientSession() as session:
        tried = [await connect(session, f"connection {number + 1}", url) for number in range(connections)]
        opened = [connection for connection in tried if connection is not None]
        playing = [connection for connection in opened if connection.player is not None]
        for index, connection in enumerate(playing):
            await connection.send(messages // len(playing) + (index < messages % len(playing)))
        await asyncio.gather(*(connection.read() for connection in playing))
        for connection in opened:
            connection.report()
            await connection.websocket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default="ws://127.0.0.1:8080", help="default %(default)s")
    parser.add_argument("--room", default="lobby", help="default %(default)s")
    parser.add_argument("--token", default="flood", help="who we are; default %(default)s")
    parser.add_argument("--connections", type=int, default=1, help="open at once; default %(default)s")
    parser.add_argument("--messages", type=int, default=30, help="sent at once, dealt out over the connections; default %(default)s")
    asked = parser.parse_args()
    try:
        asyncio.run(flood(asked.gate, asked.room, asked.token, asked.connections, asked.messages))
    except aiohttp.ClientConnectionError as error:
        raise SystemExit(f"no gate at {asked.gate} ({error}): start it with python3 deploy/dev.py run") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
