"""What clients can make the gate remember is forgotten when they are gone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.limits.crowd import Crowd, crowd
from tests.limits.program import Program, program, wait_until
from tests.support.raw import upgrade_head

STRANGERS = 40_000  # distinct tokens, addresses and rooms in one round
REFUSED = 5_000  # further ones, who come first and quickly: a refusal is remembered for 10 s
BATCH = 100  # upgrades at once
FORGOTTEN_WITHIN = 30.0  # seconds
GROWTH = 1.03

# A stranger leaves a key in every table: seats of users, addresses, rooms and members, buckets of upgrades and of messages. What is
# remembered at one time must not depend on the speed of the machine, or the resident memory would: so few are refused, and the buckets
# are full again after a second.
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
  - {name: ip-upgrades, per: ip, upgrades: 1/s}
  - {name: user-messages, per: user, messages: 10/s}
  - {name: list-messages, per: [ip, room], messages: 10/s}
  - {name: nobody, per: global, connections: 0, when: {route: full}}
"""


def strangers(route: str, first: int, count: int) -> Iterator[list[bytes]]:
    """Upgrades, in batches, of which no two have a token, an address or a room in common."""
    heads = (
        upgrade_head(
            f"/{route}/room-{number}?token=user-{number}", f"X-Forwarded-For: 10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        )
        for number in range(first, first + count)
    )
    while batch := list(islice(heads, BATCH)):
        yield batch


def one_round(people: Crowd, gate: Program, first: int) -> None:
    """All strangers once, and until they are forgotten."""
    for batch in strangers("full", first, REFUSED):
        assert people.knock(gate.port, batch) == [429] * BATCH
    assert gate.remembered() >= BATCH
    for batch in strangers("open", first + REFUSED, STRANGERS):
        assert people.knock(gate.port, batch) == [101] * BATCH
        people.leave()
    assert gate.remembered() >= BATCH
    wait_until(lambda: gate.remembered() == 0, FORGOTTEN_WITHIN)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_forty_thousand_strangers_are_forgotten_and_their_memory_serves_the_next(tmp_path: Path) -> None:
    with crowd() as people, program(tmp_path, YAML, people.url) as gate:
        resident = []
        for first in (0, 100_000, 200_000):
            one_round(people, gate, first)
            resident.append(gate.resident())
        assert resident[2] <= resident[1] * GROWTH
        samples = gate.scrape()
        assert samples['wsgate_upgrades_total{result="admitted",route="open"}'] == 3 * STRANGERS
        assert samples['wsgate_upgrades_total{result="refused",route="full"}'] == 3 * REFUSED
