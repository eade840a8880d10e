"""A client that floods still reads why it is refused or closed: the error message, the close code, the reason; every time.

DESIGN, "The wire" 2 and 3: an RST would take both away from exactly those who send too much, and without a subprotocol in our 101
browsers and `ws` fail before they read on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.interop.floods import FLOODERS, Flood, Flooder
from tests.support.backends import echo_backend
from tests.support.gate import running
from tests.support.raw import raw_client, upgrade_head
from tests.support.threads import threaded

CLIENTS = 50
YAML = """
identity: {trusted_proxies: [127.0.0.1]}
routes: [{name: game, path: "/{room}", upstream: game}]
rules:
  - {name: user-connections, per: user, connections: 1, when: {room: seats}}
  - {name: ip-connections,   per: ip,   connections: 0, when: {room: addresses}}
  - {name: room-members,     per: room, members: 1, when: {room: full}}
  - {name: user-messages,    per: user, messages: 1/min, burst: 3, on_excess: close, when: {room: rate}}
  - {name: payload,          per: connection, message_size: 16KiB, when: {room: size}}
"""


@dataclass(frozen=True)
class Case:
    room: str
    size: int  # bytes of the messages that the clients send
    code: str
    close_code: int
    rule: str
    holders: Sequence[str] = ()  # tokens of those who hold the seats


CASES = [
    Case("seats", 4096, "connection_limit_exceeded", 4008, "user-connections", [f"user-{number + 1}" for number in range(CLIENTS)]),
    Case("addresses", 4096, "ip_connection_limit_exceeded", 4008, "ip-connections"),
    Case("full", 4096, "room_full", 4010, "room-members", ["somebody"]),
    Case("rate", 512, "message_rate_limit_exceeded", 4008, "user-messages"),
    Case("size", 64 << 10, "payload_too_large", 4009, "payload"),
]


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with threaded(lambda: echo_backend(select_subprotocol=lambda _, offered: "chat.v1" if "chat.v1" in offered else None)) as url:
        yield url


@pytest.mark.parametrize("token", ["query", "subprotocol"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.room)
@pytest.mark.parametrize("flooder", FLOODERS)
async def test_every_flooding_client_reads_the_error_and_the_close_code(backend: str, flooder: Flooder, case: Case, token: str) -> None:
    query, protocols = ("?token=%USER%", ()) if token == "query" else ("", ("bearer.%USER%", "chat.v1"))
    async with running(YAML, upstream=backend) as gate, AsyncExitStack() as holders:
        for holder in case.holders:
            client = await holders.enter_async_context(raw_client(gate.port))
            await client.send(upgrade_head(f"/{case.room}?token={holder}"))
            assert await client.status() == 101
        heard = await flooder(Flood(gate.ws(f"/{case.room}{query}"), case.size, protocols), CLIENTS)
        assert len(heard) == CLIENTS
        for one in heard:
            assert one.error is None
            assert one.code == case.close_code
            (text,) = one.texts
            error = json.loads(text)
            assert error["type"] == "error"
            assert (error["code"], error["rule"]) == (case.code, case.rule)
            assert one.reason is not None
            assert one.reason.startswith(f"rule={case.rule} ")
            assert one.reason.endswith(f" id={error['id']}")
            assert (one.protocol or None) == ("chat.v1" if protocols else None)
