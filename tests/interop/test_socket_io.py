"""Socket.IO's own server and its own clients, with a gate between them: sessions open by polling and go over to WebSockets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.interop.node import node_server, run_script
from tests.support.gate import Running, running
from tests.support.waiting import until

CLIENTS, ROOMS = 24, 4
RULES = """
rules:
  - {name: tabs, per: user, connections: 1}
  - {name: messages, per: user, messages: 1000/s}
"""


def assert_nobody_was_mixed_up(lives: list[dict[str, Any]], transports: list[str]) -> None:
    assert len(lives) == CLIENTS
    for number, life in enumerate(lives):
        assert life["transports"] == transports
        assert life["echoes"] == [f"before {life['name']}", f"after {life['name']}", f"00ff{number:02x}"]
        mates = {f"client-{mate}" for mate in range(number % ROOMS, CLIENTS, ROOMS)}
        assert {told["name"] for told in life["heard"]} == mates
        assert {told["room"] for told in life["heard"]} == {life["room"]}
        assert life["reason"] == "io client disconnect"


async def talk(gate: Running, **options: object) -> list[dict[str, Any]]:
    lives: list[dict[str, Any]] = await run_script("socket_io_client.js", url=gate.http(), clients=CLIENTS, rooms=ROOMS, options=options)
    return lives


async def test_clients_open_by_polling_and_go_over_to_web_sockets() -> None:
    async with node_server("socket_io_server.js") as (url, lines), running(RULES, upstream=url) as gate:
        assert_nobody_was_mixed_up(await talk(gate), ["polling", "websocket"])
        upgraded = Counter([(await lines.readline()).decode() for _ in range(CLIENTS)])
        assert upgraded == Counter(f"client-{number} websocket\n" for number in range(CLIENTS))
        assert gate.gate.totals.upgrades["default", "admitted"] == CLIENTS
        await until(lambda: not gate.gate.totals.connections)
        assert (await gate.scrape())['wsgate_seats{rule="tabs"}'] == 0


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_clients_that_know_one_transport_only(transport: str) -> None:
    async with node_server("socket_io_server.js") as (url, _), running(RULES, upstream=url) as gate:
        lives = await talk(gate, transports=[transport], upgrade=False)
        assert gate.gate.totals.upgrades["default", "admitted"] == (CLIENTS if transport == "websocket" else 0)
        assert_nobody_was_mixed_up(lives, [transport, transport])
