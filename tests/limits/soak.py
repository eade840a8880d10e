"""Lives of clients, good and bad, each from its connect to its end, and what became of each.

A life returns in a word how it ended. Backends die and hang meanwhile, so a life that meant one end may find another.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from proxy.wire.frames import Opcode, build_close, build_frame
from tests.support.raw import RawClient, raw_client, upgrade_head

CLOSE = 0x80 | Opcode.CLOSE
STAY = 6.0  # seconds that a life takes at most between two of its steps
USERS = 500
ROOMS = 40

YAML = """
identity: {trusted_proxies: [127.0.0.1]}
limits: {max_connections: 8000, head_timeout: 1s}
routes:
  - {name: full, path: "/full/{room}", upstream: game}
  - {name: strict, path: "/strict/{room}", upstream: game}
  - {name: rapid, path: "/rapid/{room}", upstream: game}
  - {name: play, path: "/{place}/{room}", upstream: game}
rules:
  - {name: nobody, per: global, connections: 0, when: {route: full}}
  - {name: user-connections, per: user, connections: 100}
  - {name: ip-connections, per: ip, connections: 100}
  - {name: room-members, per: room, members: 1000}
  - {name: ip-upgrades, per: ip, upgrades: 1000/s}
  - {name: strict-messages, per: connection, messages: 5/s, on_excess: close, when: {route: strict}}
  - {name: user-messages, per: user, messages: 20/s, burst: 40, when: {route: rapid}}
  - {name: size, per: connection, message_size: 8KiB}
"""
SEAT_RULES = ("nobody", "user-connections", "ip-connections", "room-members")


@dataclass
class Crowd:
    """Clients of one gate; `ends` counts how their lives ended, and `unanswered` names the kinds that waited in vain."""

    port: int
    chance: random.Random
    ends: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    wrong_echoes: int = 0

    def head(self, place: str, users: int = USERS) -> bytes:
        """An upgrade of one of many users, addresses and rooms."""
        number = self.chance.randrange(users)
        target = f"/{place}/{self.chance.randrange(ROOMS)}?token=user-{number}"
        return upgrade_head(target, f"X-Forwarded-For: 10.0.{number >> 8}.{number & 255}")

    async def live(self, until: float) -> None:
        """One life after another, of kinds by chance, until this time of the loop."""
        kinds = [kind for kind, share in LIVES.items() for _ in range(share)]
        now = asyncio.get_running_loop().time
        while now() < until:
            kind = self.chance.choice(kinds)
            try:
                async with raw_client(self.port) as client:
                    self.ends[await kind(self, client)] += 1
            except TimeoutError:
                self.ends["nobody answered"] += 1
                self.unanswered.append(kind.__name__)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.ends["cut off"] += 1

    async def stay(self) -> None:
        await asyncio.sleep(self.chance.random() * STAY)

    async def enter(self, client: RawClient, place: str = "play") -> str | None:
        """Get in, and talk for a while; None, or how it ended before."""
        await client.send(self.head(place))
        status = await client.status()
        if status != 101:
            return f"answered {status}"
        await self.stay()
        return await self.talk(client)

    async def talk(self, client: RawClient) -> str | None:
        """A few messages, each echoed before the next; None, or how it ended."""
        for _ in range(self.chance.randrange(1, 4)):
            said = os.urandom(self.chance.choice((0, 20, 500, 4000)))
            await client.send(build_frame(Opcode.BINARY, said, os.urandom(4)))
            first, heard = await client.frame()
            if first == CLOSE:
                return f"close {int.from_bytes(heard[:2], 'big')}"
            if heard.startswith(b'{"type":"error"'):  # its user floods on another connection, so this message was dropped
                return await self.ended_by_close(client, "drops")
            self.wrong_echoes += heard != said
        return None

    async def ended_by_close(self, client: RawClient, end: str) -> str:
        await client.send(build_close(1000, mask=os.urandom(4)))
        return end if await heard_close(client) == 1000 else "cut off"


async def heard_close(client: RawClient) -> int | None:
    """The code of the Close that comes, behind whatever else; None: the stream ended without one."""
    try:
        while True:
            first, payload = await client.frame()
            if first == CLOSE:
                return int.from_bytes(payload[:2], "big")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def say(client: RawClient, text: bytes) -> None:
    await client.send(build_frame(Opcode.TEXT, text, os.urandom(4)))


# --- how a client lives ---------------------------------------------------------------------------------------------------------------


async def closes(crowd: Crowd, client: RawClient) -> str:
    return await crowd.enter(client) or await crowd.ended_by_close(client, "client closes")


async def resets(crowd: Crowd, client: RawClient) -> str:
    """Between two messages, or in the middle of a header or of a payload."""
    end = await crowd.enter(client)
    if end is None:
        await client.send(crowd.chance.choice((b"", b"\x82", b"\x82\xfe\x10\x00\1\2\3\4some")))
        client.reset()
    return end or "client resets"


async def resets_while_the_gate_asks(crowd: Crowd, client: RawClient) -> str:
    await client.send(crowd.head("play"))
    await asyncio.sleep(crowd.chance.random() * 0.01)
    client.reset()
    return "client resets before the answer"


async def half_closes(crowd: Crowd, client: RawClient) -> str:
    end = await crowd.enter(client)
    if end is None:
        client.end()
        await client.rest()
    return end or "client half-closes"


async def floods(crowd: Crowd, client: RawClient) -> str:
    """More than its user may send at once."""
    end = await crowd.enter(client, "rapid")
    if end is None:
        for _ in range(60):
            await say(client, b"x" * 100)
        while True:
            first, payload = await client.frame()
            if first == CLOSE:
                return f"close {int.from_bytes(payload[:2], 'big')}"
            if payload.startswith(b'{"type":"error"'):
                return await crowd.ended_by_close(client, "drops")
    return end


async def is_too_fast(crowd: Crowd, client: RawClient) -> str:
    end = await crowd.enter(client, "strict")
    if end is None:
        for _ in range(20):
            await say(client, b"x")
        end = f"close {await heard_close(client)}"
    return end


async def is_too_large(crowd: Crowd, client: RawClient) -> str:
    end = await crowd.enter(client)
    if end is None:
        await say(client, b"x" * 9000)
        end = f"close {await heard_close(client)}"
    return end


async def is_no_websocket(crowd: Crowd, client: RawClient) -> str:
    end = await crowd.enter(client)
    if end is None:
        await client.send(b"\x81\x01x")  # not masked
        end = f"close {await heard_close(client)}"
    return end


async def is_refused(crowd: Crowd, client: RawClient) -> str:
    """Of so few users that some ask too often."""
    await client.send(crowd.head("full", 20))
    status = await client.status()
    return f"refused, close {await heard_close(client)}" if status == 101 else f"refused, {status}"


async def is_forbidden(crowd: Crowd, client: RawClient) -> str:
    await client.send(crowd.head("forbidden"))
    return f"answered {await client.status()}"


async def is_not_answered(crowd: Crowd, client: RawClient) -> str:
    await client.send(crowd.head("silent"))
    return f"answered {await client.status()}"


async def says_half_a_head(crowd: Crowd, client: RawClient) -> str:
    await client.send(crowd.head("play")[:-4])
    return f"answered {await client.status()}"


async def is_silent(crowd: Crowd, client: RawClient) -> str:
    return "cut off" if await client.rest() else "silent, closed"


async def lets_its_backend(crowd: Crowd, client: RawClient, word: bytes) -> str:
    end = await crowd.enter(client)
    if end is None:
        await say(client, word)
        end = f"backend {word.decode()}s: {await heard_close(client)}"
    return end


async def lets_its_backend_close(crowd: Crowd, client: RawClient) -> str:
    return await lets_its_backend(crowd, client, b"close")


async def lets_its_backend_reset(crowd: Crowd, client: RawClient) -> str:
    return await lets_its_backend(crowd, client, b"reset")


async def lets_its_backend_half_close(crowd: Crowd, client: RawClient) -> str:
    return await lets_its_backend(crowd, client, b"end")


async def asks_and_upgrades(crowd: Crowd, client: RawClient) -> str:
    """On one connection: ordinary requests, and an upgrade."""
    for _ in range(2):
        await client.send(b"GET /plain/1 HTTP/1.1\r\nHost: gate.test\r\n\r\n")
        status = await client.status()
        if status != 200:
            return f"plain, {status}"
        await client.exactly(5)
    end = await crowd.enter(client)
    return end or await crowd.ended_by_close(client, "plain requests, then an upgrade")


async def reads_nothing(crowd: Crowd, client: RawClient) -> str:
    """Sends for a while what comes back, reads none of it, and vanishes."""
    await client.send(crowd.head("play"))
    status = await client.status()
    if status != 101:
        return f"answered {status}"
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed: of a stream's writer any transport
    for _ in range(10):
        await say(client, b"x" * 4000)
    await crowd.stay()
    client.reset()
    return "reads nothing, and resets"


LIVES: dict[Callable[[Crowd, RawClient], Awaitable[str]], int] = {
    closes: 8,
    resets: 4,
    resets_while_the_gate_asks: 1,
    half_closes: 4,
    floods: 2,
    is_too_fast: 2,
    is_too_large: 2,
    is_no_websocket: 1,
    is_refused: 1,
    is_forbidden: 1,
    is_not_answered: 1,
    says_half_a_head: 1,
    is_silent: 1,
    lets_its_backend_close: 2,
    lets_its_backend_reset: 2,
    lets_its_backend_half_close: 2,
    asks_and_upgrades: 2,
    reads_nothing: 1,
}  # how often, of all


# What must have happened, so that a run in which it did not proves nothing. The numbers in words are codes and statuses.
WANTED = (
    "client closes",
    "client resets",
    "client resets before the answer",
    "client half-closes",
    "drops",
    "close 4008",
    "close 4009",
    "close 1002",
    "close 1011",  # the backend was killed
    "refused, close 4008",
    "refused, 429",
    "answered 403",
    "answered 408",
    "answered 502",
    "answered 504",
    "silent, closed",
    "backend closes: 1000",
    "backend resets: 1011",
    "backend ends: 1011",
    "plain requests, then an upgrade",
    "reads nothing, and resets",
)


def table(ends: Counter[str]) -> Iterator[str]:
    for end, count in ends.most_common():
        yield f"{count:7,}  {end}"
