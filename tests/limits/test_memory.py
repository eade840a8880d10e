"""What clients can make the gate remember is forgotten when they are gone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.limits.crowd import Crowd, crowd
from tests.limits.program import Program, program, wait_until
from tests.support.raw import upgrade_head

STRANGERS = 100_000  # distinct tokens, addresses and rooms in one round
BATCH = 100  # upgrades at once
FORGOTTEN_WITHIN = 30.0  # seconds: a refusal is remembered for 10, and so long these buckets take to be full again
GROWTH = 1.03

# Each stranger leaves a key in every table: seats of users, addresses, rooms and members, buckets of upgrades and of messages; every
# second one is refused instead, which is remembered too.
YAML = """
identity: {trusted_proxies: [127.0.0.1]}
refuse_with: http
routes:
  - {name: full, path: "/full/{room}", upstream: game}
  - {name: open, path: "/open/{room}", upstream: game}
rules:
  - {name: user-connections, per: user, connections: 3}
  - {name: ip-connections, per: ip, connections: 10}
  - {name: room-connections, per: room, connections: 10}
  - {name: room-members, per: room, members: 10}
  - {name: ip-upgrades, per: ip, upgrades: 6/min}
  - {name: user-messages, per: user, messages: 10/s}
  - {name: list-messages, per: [ip, room], messages: 10/s}
  - {name: nobody, per: global, connections: 0, when: {route: full}}
"""


def strangers(first: int) -> Iterator[bytes]:
    """Upgrades of which no two have a token, an address or a room in common."""
    for number in range(first, first + STRANGERS):
        route = "full" if number % 2 else "open"
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        yield upgrade_head(f"/{route}/room-{number}?token=user-{number}", f"X-Forwarded-For: {address}")


def one_round(people: Crowd, gate: Program, first: int) -> None:
    """All strangers once, and until they are forgotten."""
    heads = strangers(first)
    while batch := list(islice(heads, BATCH)):
        assert people.knock(gate.port, batch) == [101, 429] * (BATCH // 2)
        assert gate.remembered() >= BATCH
        people.leave()
    wait_until(lambda: gate.remembered() == 0, FORGOTTEN_WITHIN)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hundred_thousand_strangers_are_forgotten_and_their_memory_serves_the_next(tmp_path: Path) -> None:
    with crowd() as people, program(tmp_path, YAML, people.url) as gate:
        resident = []
        for first in (0, STRANGERS, 2 * STRANGERS):
            one_round(people, gate, first)
            resident.append(gate.resident())
        assert resident[2] <= resident[1] * GROWTH
        samples = gate.scrape()
        assert samples['wsgate_upgrades_total{result="admitted",route="open"}'] == 3 * STRANGERS / 2
        assert samples['wsgate_upgrades_total{result="refused",route="full"}'] == 3 * STRANGERS / 2
