"""Players: raw clients that differ in what rules count by (token, address, room, route), and what the gate tells them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from proxy.wire.frames import Opcode, build_close, build_frame
from tests.support.gate import Running
from tests.support.raw import RawClient, raw_client, upgrade_head

IDENTITY = "identity: {trusted_proxies: [127.0.0.1/32]}\n"
ROUTES = """
routes:
  - {name: arena, path: "/arena/{room}", upstream: game}
  - {name: stage, path: "/stage/{room}", upstream: game}
  - {name: lobby, path: "/lobby", upstream: game}
"""
TEXT = 0x80 | Opcode.TEXT
PONG = 0x80 | Opcode.PONG
CLOSE = 0x80 | Opcode.CLOSE


class Way(Enum):
    """How a player's address comes to the gate."""

    DIRECT = "direct"  # it is the peer's
    FORWARDED = "forwarded"  # a trusted proxy vouches for it, behind one that the client made up


@dataclass(frozen=True)
class Who:
    """One principal. `user`: the token; None: anonymous. `number`: of the address."""

    user: str | None = "ann"
    number: int = 11
    route: str = "arena"
    room: str | None = "red"

    @property
    def target(self) -> str:
        room = "" if self.room is None else f"/{self.room}"
        token = "" if self.user is None else f"?token={self.user}"
        return f"/{self.route}{room}{token}"

    def other(self, *parts: str) -> Who:
        """Somebody who differs in exactly these parts: user, ip, room, route."""
        others = {"user": {"user": "bob"}, "ip": {"number": self.number + 1}, "room": {"room": "blue"}, "route": {"route": "stage"}}
        who = self
        for part in parts:
            who = replace(who, **others[part])  # type: ignore[arg-type]  # of each field its own type
        return who


@dataclass
class Player:
    """One connection whose upgrade was answered."""

    client: RawClient
    head: str

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    def header(self, name: str) -> str | None:
        found = re.search(rf"(?mi)^{re.escape(name)}: *(.*?)\r$", self.head)
        return None if found is None else found[1]

    async def say(self, payload: bytes, opcode: Opcode = Opcode.TEXT) -> None:
        await self.client.send(build_frame(opcode, payload, os.urandom(4)))

    async def is_echoed(self, payload: bytes) -> bool:
        """The message comes back, and nothing before it."""
        await self.say(payload)
        return await self.client.frame() == (TEXT, payload)

    async def is_alive(self) -> bool:
        """A ping comes back from the backend, and nothing before it."""
        beat = os.urandom(8)
        await self.say(beat, Opcode.PING)
        return await self.client.frame() == (PONG, beat)

    async def notice(self) -> dict[str, Any]:
        first, payload = await self.client.frame()
        assert first == TEXT
        return dict(json.loads(payload))

    async def close(self) -> tuple[int, str]:
        """(code, reason) of a Close, behind which there is nothing."""
        first, payload = await self.client.frame()
        assert first == CLOSE
        assert len(payload) <= 125
        assert await self.client.rest() == b""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def problem(self) -> dict[str, Any]:
        """The JSON body of an HTTP answer, behind which there is nothing."""
        assert self.header("Content-Type") == "application/problem+json"
        assert self.header("Connection") == "close"
        body = await self.client.rest()
        assert self.header("Content-Length") == str(len(body))
        return dict(json.loads(body))

    async def leave(self) -> None:
        """Say Close, and wait for the answer."""
        await self.client.send(build_close(1000, mask=os.urandom(4)))
        await self.client.rest()


@dataclass(frozen=True)
class Words:
    """What DESIGN wants a client to be told of one rule. `retry`: least and most milliseconds; None: waiting does not help."""

    code: str
    close_code: int
    rule: str = "limit"
    retry: tuple[int, int] | None = None

    def fit(self, told: dict[str, Any], suppressed: int | None = 0) -> None:
        """The fields that each form has. `suppressed`: None where there is no such field."""
        assert told["code"] == self.code
        assert told["rule"] == self.rule
        assert re.fullmatch(r"[0-9a-f]{16}", told["id"])
        assert self.retry is None or self.retry[0] <= told["retry_after_ms"] <= self.retry[1]
        assert self.retry is not None or told["retry_after_ms"] is None
        if suppressed is not None:
            assert told["suppressed"] == suppressed

    def fit_error(self, error: dict[str, Any], suppressed: int = 0) -> None:
        assert set(error) == {"type", "code", "message", "retry_after_ms", "rule", "suppressed", "id"}
        assert error["type"] == "error"
        assert error["message"]
        self.fit(error, suppressed)

    def fit_close(self, error: dict[str, Any], close: tuple[int, str]) -> None:
        code, reason = close
        assert code == self.close_code
        retry = "never" if error["retry_after_ms"] is None else error["retry_after_ms"]
        assert reason == f"rule={self.rule} retry_after_ms={retry} id={error['id']}"

    async def refuse(self, player: Player) -> None:
        """Both forms of a refused upgrade."""
        if player.status == 101:
            error = await player.notice()
            self.fit_error(error)
            self.fit_close(error, await player.close())
        else:
            assert player.status == 429
            problem = await player.problem()
            self.fit(problem, suppressed=None)
            assert problem["title"] == "Too Many Requests"
            assert problem["status"] == 429
            retry = problem["retry_after_ms"]
            assert player.header("Retry-After") == (None if retry is None else str(max(1, -(-retry // 1000))))

    async def end(self, player: Player) -> None:
        """A connection that is closed: the error, the Close, the end."""
        error = await player.notice()
        self.fit_error(error)
        self.fit_close(error, await player.close())


class Lobby:
    """Opens players' connections to one gate."""

    def __init__(self, gate: Running, way: Way, stack: AsyncExitStack) -> None:
        self._gate = gate
        self._way = way
        self._stack = stack

    async def knock(self, who: Who, *headers: str) -> Player:
        """Ask for an upgrade, and read the head of the answer. `headers`: further lines."""
        local = f"127.0.0.{who.number}"
        if self._way is Way.FORWARDED:
            headers, local = (*headers, f"X-Forwarded-For: 192.0.2.{os.urandom(1)[0]}, 203.0.113.{who.number}"), "127.0.0.1"
        client = await self._stack.enter_async_context(raw_client(self._gate.port, local))
        await client.send(upgrade_head(who.target, *headers))
        return Player(client, (await client.head()).decode("latin-1"))

    async def enter(self, who: Who) -> Player:
        """Be let in."""
        player = await self.knock(who)
        assert player.status == 101
        assert await player.is_alive()
        return player


@asynccontextmanager
async def lobby(gate: Running, way: Way = Way.DIRECT) -> AsyncIterator[Lobby]:
    """All its connections are closed at the end."""
    async with AsyncExitStack() as stack:
        yield Lobby(gate, way, stack)
