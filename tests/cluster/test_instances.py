"""What befalls one of three gates: killed, frozen, cut off from the store, stopped. The others go on, and its seats come free or back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cluster.gates import GateProcess, gates, seats_in, total_in
from tests.cluster.guests import Guest, Party, game, party, statuses
from tests.support.cuttable import Cuttable, cuttable
from tests.support.raw import upgrade_head
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually

TTL = 5.0  # seconds, of a holder
HEAL = 5.0  # seconds from the return of whatever was away until all is right again
OWN = 10  # guests of each gate
CAP = 3 * OWN
GONE = 4  # guests of a frozen gate who hang up meanwhile
LEFT = 5  # guests who leave of those to whom its seats were given
TRIES = 5  # of a refusal, on a machine that does other things too
KINDS = ["connections", pytest.param("members", marks=pytest.mark.long)]  # the second kind of seat takes the same way
YAML = f"""
refuse_with: http
holder_ttl: {TTL:.0f}s
routes:
  - {{name: connections, path: "/connections/{{room}}", upstream: game}}
  - {{name: members, path: "/members/{{room}}", upstream: game}}
rules:
  - {{name: connections, per: room, connections: {CAP}, when: {{route: connections}}}}
  - {{name: members, per: room, members: {CAP}, when: {{route: members}}}}
"""


@dataclass
class House:
    """A full room: ten guests of each of three gates. The first gate comes to the store by `link`."""

    store: RedisServer
    link: Cuttable
    gates: list[GateProcess]
    people: Party
    kind: str
    _users: int = 0

    async def knock(self, gate: GateProcess, count: int = 1) -> dict[int, int]:
        """So many new users; how many got each answer."""
        return statuses(await self.people.knock(*((gate.port, head) for head in self._heads(count))))

    def _heads(self, count: int) -> list[bytes]:
        """Upgrades of so many new users."""
        self._users += count
        return [upgrade_head(f"/{self.kind}/room?token=user-{self._users - number}") for number in range(count)]

    async def park(self, gate: GateProcess, count: int) -> list[Guest]:
        """So many new users at a gate that is frozen: they wait for what it says."""
        return await self.people.park(*((gate.port, head) for head in self._heads(count)))

    async def refuses(self, gate: GateProcess) -> None:
        """One new user is refused. If the store took longer than it has, the gate decided alone: who came in so leaves, and it is asked again."""
        for _ in range(TRIES):
            before = await gate.decided_alone()
            answers = await self.knock(gate)
            if answers == {429: 1}:
                return
            assert await gate.decided_alone() > before, answers
            await self.people.leave(self.people.inside[-1:])
            await self.heals()
        raise AssertionError("the machine is too slow to show anything")

    async def admitted_within(self, gate: GateProcess, count: int, seconds: float) -> None:
        """Knock until so many have been let in. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while count:
                admitted = (await self.knock(gate, count)).get(101, 0)
                count -= admitted
                if not admitted:
                    await asyncio.sleep(0.3)  # a refusal is repeated for 250 ms without asking

    async def told(self) -> int:
        """Seats that the store's copy has."""
        return await total_in([self.store], self.kind)

    async def is_right(self) -> bool:
        """The store's copy is the truth."""
        return await self.told() == len(self.people.inside)

    async def heals(self, seconds: float = HEAL) -> None:
        await eventually(self.is_right, seconds)

    async def over_limit(self) -> float:
        """Seats beyond the cap, as the gate says that knows of most."""
        return max([(await gate.scrape())[f'wsgate_seats_over_limit{{rule="{self.kind}"}}'] for gate in self.gates])

    def guests_of(self, gate: GateProcess) -> range:
        first = self.gates.index(gate) * OWN
        return range(first, first + OWN)


@asynccontextmanager
async def full_house(folder: Path, kind: str, on_store_down: str = "local") -> AsyncIterator[House]:
    async with game() as url, redis_server() as store, cuttable(store.port) as link:
        stores = [store.url_via(link.port), store.url, store.url]
        async with gates(folder, f"{YAML}on_store_down: {on_store_down}\n", url, stores) as three, party() as people:
            house = House(store, link, three, people, kind)
            for gate in three:
                await eventually(lambda gate=gate: _is_shared(gate))
                assert await house.knock(gate, OWN) == {101: OWN}
            await house.refuses(three[2])
            assert await house.told() == CAP
            await _all_know_each_other(store)
            yield house


async def _all_know_each_other(store: RedisServer) -> None:
    """Until each has sent a heartbeat since all were listed: the answers are the whole listing. Who knows nobody takes his being buried for
    a flush, and decides alone until the others would have told theirs (docs/store.md)."""
    first = {who: int(beats) for who, beats in (await store.ask("HGETALL", "wsgate:h")).items()}

    async def have_heard() -> bool:
        now = await store.ask("HGETALL", "wsgate:h")
        return all(int(now[who]) > beats for who, beats in first.items())

    await eventually(have_heard)


def lost(house: House) -> list[int]:
    """Which guests lost their connections, by the order in which they came."""
    return [number for number, guest in enumerate(house.people.guests) if guest.is_lost]


@pytest.mark.parametrize("kind", KINDS)
async def test_seats_of_a_killed_gate_are_free_within_the_ttl_and_5_s(kind: str, tmp_path: Path) -> None:
    async with full_house(tmp_path, kind) as house:
        first, second, third = house.gates
        first.kill()
        started = time.monotonic()
        await house.refuses(second)
        await house.admitted_within(second, OWN, TTL + 5)
        assert time.monotonic() - started > TTL / 2
        await house.refuses(third)
        assert lost(house) == list(house.guests_of(first))
        await house.heals()
        assert await house.told() == CAP


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gate_that_stops_gives_its_seats_back_at_once(kind: str, tmp_path: Path) -> None:
    async with full_house(tmp_path, kind) as house:
        assert await house.gates[0].stop() == 0
        await eventually(lambda: _holders_are(house, 2))
        await house.admitted_within(house.gates[1], OWN, 2)
        await house.refuses(house.gates[2])


async def _has_told(house: House, seats: int) -> bool:
    return await house.told() == seats


async def _is_over(house: House, seats: int) -> bool:
    return await house.over_limit() == seats


async def _holders_are(house: House, count: int) -> bool:
    """So many instances have seats."""
    found = await seats_in([house.store])
    return {len(counts) for counts in found.values()} == {count}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_frozen_gate_is_taken_for_dead_and_comes_back_with_its_guests(kind: str, tmp_path: Path) -> None:
    """New ones have knocked at it meanwhile, and some of its own have hung up; and of those who have their seats, some leave."""
    async with full_house(tmp_path, kind) as house:
        first, second, third = house.gates
        own = [house.people.guests[number] for number in house.guests_of(first)]
        first.freeze()
        await house.admitted_within(second, OWN, TTL + 5)
        await house.refuses(third)
        await house.people.leave(house.people.inside[-LEFT:])
        await house.people.leave(own[:GONE])
        await eventually(lambda: _has_told(house, CAP - LEFT))  # there is room, as the store has it now
        parked = await house.park(first, OWN)
        first.thaw()
        await house.people.answered(parked)
        assert statuses(parked).keys() <= {101, 429}
        assert len(house.people.inside) <= CAP + OWN - LEFT
        await house.heals()
        await eventually(lambda: _is_shared(first), HEAL)  # it asks again only when all is told, two round trips later
        over = len(house.people.inside) - CAP
        assert over > 0
        for gate in house.gates:
            await house.refuses(gate)
        assert not lost(house)
        await eventually(lambda: _is_over(house, over), HEAL)  # a look with the next heartbeat
        await house.people.leave([*own, *parked])
        await house.heals()
        await house.admitted_within(third, LEFT, 2)
        for gate in house.gates:
            await house.refuses(gate)
        await eventually(lambda: _is_over(house, 0), HEAL)
        await house.people.leave(house.people.inside[:1])
        await house.admitted_within(third, 1, 2)
        await house.refuses(second)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gate_that_is_cut_off_keeps_its_guests_and_gives_no_seat_that_others_had(kind: str, tmp_path: Path) -> None:
    async with full_house(tmp_path, kind) as house:
        first, second, _ = house.gates
        await house.refuses(first)  # so that it has seen what the others have
        house.link.hold()
        await eventually(lambda: _is_degraded(first))
        assert await house.knock(first) == {429: 1}
        await house.admitted_within(second, OWN, TTL + 5)
        assert await house.knock(first) == {429: 1}
        await house.link.forward()
        await house.heals()
        assert await house.told() == CAP + OWN
        assert not lost(house)
        events = [event["event"] for event in first.events() if event["event"].startswith("the store")]
        assert all(one != other for one, other in pairwise(events)), events


async def _is_degraded(gate: GateProcess) -> bool:
    return (await gate.scrape())["wsgate_store_degraded"] == 1


async def _is_shared(gate: GateProcess) -> bool:
    return not await _is_degraded(gate)


@pytest.mark.parametrize(("policy", "answer"), [("open", 101), ("closed", 503)])
async def test_without_the_store_open_lets_everybody_in_and_closed_nobody(policy: str, answer: int, tmp_path: Path) -> None:
    async with full_house(tmp_path, "members", policy) as house:
        first = house.gates[0]
        house.link.refuse()
        await eventually(lambda: _is_degraded(first))
        assert await house.knock(first, 3) == {answer: 3}
        assert not lost(house)
        assert await first.ready() == 200
        await house.link.forward()
        await eventually(lambda: _is_shared(first), HEAL)
        await house.heals()
        await house.refuses(first)
