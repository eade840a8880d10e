"""One rate over several gates: what a flood gets through all of them is what it would get through one, and it costs the store little."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import cast

import pytest

from proxy.wire.frames import Opcode, build_frame
from tests.cluster.gates import GateProcess, gates
from tests.cluster.guests import END, TICK, TOCK, Guest, game, listening_game, party, statuses
from tests.support.cuttable import cuttable
from tests.support.raw import upgrade_head
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import until

RATE = 100.0
BURST = 100.0
LOW_RATE = 10.0
LOW_BURST = 10.0
BYTES = 64 * 1024  # a second, and the burst
SIZES = (1, 125, 126, 1_000, 4_000, 16_000)  # bytes of payload: heads of two lengths
MASK = bytes(4)
LATE = 0.25  # seconds: what a lease may add to the bound
BEAT = 1.8  # seconds between heartbeats at the least
ANSWER = len(TOCK) + 8
YAML = f"""
refuse_with: http
rules:
  - {{name: user-messages, per: user, messages: {RATE:.0f}/s, burst: {BURST:.0f}, on_excess: drop, notify: false}}
"""
HEAD = upgrade_head("/?token=ann")


class Flooder(asyncio.Protocol):
    """A client that says something again and again, and counts what the game has heard of it."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._received = 0
        self._is_inside = False
        self._beginning = b""

    @property
    def passed(self) -> int:
        return self._received // ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        if self._is_inside:
            self._received += len(data)
            return
        self._beginning += data
        head, end, rest = self._beginning.partition(END)
        if end:
            assert head[9:12] == b"101", head
            self._is_inside = True
            self._received = len(rest)

    async def entered(self) -> None:
        await until(lambda: self._is_inside, 20.0)

    def say(self, times: int) -> None:
        self.transport.write((TICK + bytes(8)) * times)

    def say_something_of(self, size: int) -> None:
        """One frame with so many bytes of payload, unless the gate has not taken those before it."""
        if not self.transport.get_write_buffer_size():
            self.transport.write(build_frame(Opcode.BINARY, bytes(size), MASK))


@asynccontextmanager
async def flooders(cluster: list[GateProcess], head: bytes = HEAD) -> AsyncIterator[list[Flooder]]:
    """One client at each gate."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Flooder(head), "127.0.0.1", gate.port) for gate in cluster]
    people = [protocol for _, protocol in made]
    try:
        for one in people:
            await one.entered()
        yield people
    finally:
        for one in people:
            one.transport.abort()


async def flood(people: list[Flooder], seconds: float, pause: float = 0.004) -> float:
    """All say much more than they may. Returns how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < seconds:
        for one in people:
            one.say(2)
        await asyncio.sleep(pause)
    return loop.time() - began


async def flood_with_bytes(people: list[Flooder], seconds: float) -> float:
    """All say much more than they may, in frames of many sizes. Returns how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < seconds:
        for one in people:
            one.say_something_of(random.choice(SIZES))
        await asyncio.sleep(0.004)
    return loop.time() - began


async def asked(store: RedisServer) -> int:
    """Scripts that were called so far, heartbeats too."""
    stats = await store.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def quiet(count: Callable[[], int]) -> int:
    """The count when it has stood still for a while."""
    seen = -1
    while count() != seen:
        seen = count()
        await asyncio.sleep(0.3)
    return seen


async def through_four_gates(seconds: float, folder: Path) -> tuple[int, float, float]:
    """(messages that passed, seconds, questions a second without heartbeats)."""
    async with game() as url, redis_server() as store, gates(folder, YAML, url, [store.url] * 4) as cluster, flooders(cluster) as people:
        before = await asked(store)
        lasted = await flood(people, seconds)
        questions = await asked(store) - before
        passed = await quiet(lambda: sum(one.passed for one in people))
        assert all(one.passed for one in people)
        return passed, lasted, questions / lasted - len(cluster) / BEAT


async def test_a_flood_through_four_gates_gets_one_bucket(tmp_path: Path) -> None:
    passed, lasted, questions = await through_four_gates(5.0, tmp_path)
    assert 0.9 * (BURST + RATE * lasted) <= passed <= BURST + RATE * (lasted + LATE)
    assert questions < 60  # those who come and get to know each other ask more often


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_flood_of_30_seconds_through_four_gates_gets_97_percent_of_one_bucket_for_30_questions_a_second(tmp_path: Path) -> None:
    passed, lasted, questions = await through_four_gates(30.0, tmp_path)
    assert 0.97 * (BURST + RATE * lasted) <= passed <= BURST + RATE * (lasted + LATE)
    assert questions < 30


async def test_who_uses_80_percent_of_his_limit_at_two_gates_is_not_closed(tmp_path: Path) -> None:
    """All the time, and nine others too: what gates have for him and do not use is lost to him, and that is to be little."""
    yaml = f"rules: [{{name: chat, per: user, messages: {RATE:.0f}/s, burst: {BURST:.0f}, on_excess: close}}]\n"
    pace = 2 / (0.8 * RATE)  # seconds between two messages of one guest
    loop = asyncio.get_running_loop()
    async with game() as url, redis_server() as store, gates(tmp_path, yaml, url, [store.url] * 2) as cluster, party() as people:
        heads = [upgrade_head(f"/?token=user-{number}") for number in range(10)]
        guests = await people.knock(*((gate.port, head) for gate in cluster for head in heads))
        began = loop.time()

        async def talk(guest: Guest, at: float) -> None:
            while at < began + 5 and not people.lost:
                await asyncio.sleep(at - loop.time())
                if guest.is_inside:
                    guest.say()
                at += pace

        await asyncio.gather(*(talk(guest, began + random.uniform(0, pace)) for guest in guests))
        assert not people.lost


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_flood_of_a_low_rate_through_20_gates_gets_90_percent_of_one_bucket(tmp_path: Path) -> None:
    yaml = YAML.replace(f"{RATE:.0f}/s, burst: {BURST:.0f}", f"{LOW_RATE:.0f}/s, burst: {LOW_BURST:.0f}")
    async with AsyncExitStack() as stack:
        url, store = await stack.enter_async_context(game()), await stack.enter_async_context(redis_server())
        cluster: list[GateProcess] = []
        for some in range(5):  # not all at once: each has its deadline to start
            cluster += await stack.enter_async_context(gates(tmp_path / str(some), yaml, url, [store.url] * 4))
        people = await stack.enter_async_context(flooders(cluster))
        lasted = await flood(people, 10.0, pause=0.1)
        passed = await quiet(lambda: sum(one.passed for one in people))
        assert 0.9 * (LOW_BURST + LOW_RATE * lasted) <= passed <= LOW_BURST + LOW_RATE * (lasted + LATE)
        assert sum(1 for one in people if one.passed) > len(people) / 2


@pytest.mark.parametrize("on_excess", ["delay", pytest.param("drop", marks=pytest.mark.long)])
async def test_bytes_through_two_gates_get_one_bucket(on_excess: str, tmp_path: Path) -> None:
    yaml = f"rules: [{{name: user-bytes, per: user, bytes: 64KiB/s, on_excess: {on_excess}, notify: false}}]\n"
    async with (
        listening_game() as (url, heard),
        redis_server() as store,
        gates(tmp_path, yaml, url, [store.url] * 2) as cluster,
        flooders(cluster) as people,
    ):
        lasted = await flood_with_bytes(people, 4.0)
        passed = [sum(sizes) for sizes in heard]
        assert 0.85 * BYTES * (1 + lasted) <= sum(passed) <= BYTES * (1 + lasted + LATE)
        assert min(passed) >= 0.1 * sum(passed)  # nobody starves; who is how fast is the machine's affair
        assert set(SIZES) == {size for sizes in heard for size in sizes}


async def test_new_connections_through_three_gates_get_one_bucket(tmp_path: Path) -> None:
    """To the connection. The store has 2 s to answer, since who decides alone has a share of his own."""
    yaml = "refuse_with: http\nstore_timeout: 2s\nrules: [{name: user-upgrades, per: user, upgrades: 5/s, burst: 20}]\n"
    loop = asyncio.get_running_loop()
    async with game() as url, redis_server() as store, gates(tmp_path, yaml, url, [store.url] * 3) as cluster, party() as people:
        guests: list[Guest] = await people.knock((cluster[0].port, HEAD))
        began = loop.time()
        guests += await people.knock(*((gate.port, HEAD) for gate in cluster * 20))
        spent = statuses(guests)
        while loop.time() - began < 3:
            guests += await people.knock(*((gate.port, HEAD) for gate in cluster))
            await asyncio.sleep(0.02)
        lasted = loop.time() - began
        assert spent[101] >= 20, spent
        assert 19 + 5 * lasted - 1 <= statuses(guests)[101] <= 20 + 5 * (lasted + 1)


@pytest.mark.parametrize("round_trip", [0.05, 0.1])
async def test_a_flood_through_gates_far_from_the_store_gets_no_more(round_trip: float, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url, store = await stack.enter_async_context(game()), await stack.enter_async_context(redis_server())
        links = [await stack.enter_async_context(cuttable(store.port)) for _ in range(4)]
        for link in links:
            link.delay = round_trip / 2
        cluster = await stack.enter_async_context(gates(tmp_path, YAML, url, [store.url_via(link.port) for link in links]))
        people = await stack.enter_async_context(flooders(cluster))
        lasted = await flood(people, 4.0)
        passed = await quiet(lambda: sum(one.passed for one in people))
        assert 0.7 * (BURST + RATE * lasted) <= passed <= BURST + RATE * (lasted + LATE)


async def test_one_user_on_one_gate_asks_nothing_per_message(tmp_path: Path) -> None:
    async with game() as url, redis_server() as store, gates(tmp_path, YAML, url, [store.url]) as cluster, flooders(cluster) as people:
        people[0].say(1)
        await until(lambda: people[0].passed)
        before = await asked(store)
        lasted = await flood(people, 3.0)
        assert await asked(store) - before <= lasted / BEAT + 1
        passed = await quiet(lambda: people[0].passed)
        assert 0.97 * (BURST + RATE * lasted) <= passed <= BURST + RATE * (lasted + LATE)


async def test_a_user_who_goes_to_another_gate_finds_the_bucket_as_it_was_left(tmp_path: Path) -> None:
    yaml = YAML.replace(f"{RATE:.0f}/s", "6/min")
    async with game() as url, redis_server() as store, gates(tmp_path, yaml, url, [store.url] * 2) as cluster:
        async with flooders(cluster[:1]) as people:
            people[0].say(60)
            await until(lambda: people[0].passed == 60)
        async with flooders(cluster[1:]) as people:
            people[0].say(100)
            assert await quiet(lambda: people[0].passed) in (40, 41)
        async with flooders(cluster) as people:
            for one in people:
                one.say(100)
            assert await quiet(lambda: sum(one.passed for one in people)) <= 1


@pytest.mark.parametrize("end", [GateProcess.kill, GateProcess.freeze])
async def test_what_a_gate_has_that_is_dead_or_frozen_is_lost_and_the_user_goes_on(
    end: Callable[[GateProcess], None], tmp_path: Path
) -> None:
    stores = game(), redis_server()
    async with stores[0] as url, stores[1] as store, gates(tmp_path, YAML, url, [store.url] * 2) as cluster, flooders(cluster) as people:
        first, second = people
        first.say(1)
        await until(lambda: first.passed)
        end(cluster[0])
        lasted = await flood([second], 2.0)
        passed = await quiet(lambda: second.passed)
        assert RATE * (lasted - 0.5) <= passed <= RATE * (lasted + LATE)


async def test_while_the_store_is_frozen_no_frame_waits_long_and_nobody_gets_more(tmp_path: Path) -> None:
    async with game() as url, redis_server() as store, gates(tmp_path, YAML, url, [store.url] * 2) as cluster, party() as people:
        guests = await people.knock(*((gate.port, HEAD) for gate in cluster * 5))
        for guest in guests:
            await guest.tick()
        store.freeze()
        waits = []
        for guest in guests * 4:
            waits.append(await guest.tick())
            await asyncio.sleep(2 / RATE)  # within the share of its gate
        assert median(waits) < 0.05
        assert max(waits) < 2.0
        assert not people.lost
        async with flooders([cluster[0]]) as (flooder,):
            lasted = await flood([flooder], 2.0)
            assert await quiet(lambda: flooder.passed) <= BURST + RATE / 2 * (lasted + LATE)
        store.thaw()


CLOSES = """
refuse_with: http
rules:
  - {name: chat, per: user, messages: 60/min, burst: 60, on_excess: close}
"""


async def killed(store: RedisServer) -> None:
    store.kill()


async def back_empty(store: RedisServer) -> None:
    await store.restart()


async def flushed(store: RedisServer) -> None:
    await store.ask("FLUSHALL")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("trouble", [killed, back_empty, flushed], ids=lambda trouble: trouble.__name__)
async def test_who_is_far_within_his_limit_is_not_closed_because_of_the_store(
    trouble: Callable[[RedisServer], Awaitable[None]], count: int, tmp_path: Path
) -> None:
    """One who was there before and was silent, and one who comes now, speak five times at once."""
    async with (
        redis_server() as store,
        game() as url,
        gates(tmp_path, CLOSES, url, [store.url] * count) as cluster,
        party() as people,
    ):
        before = await people.knock((cluster[0].port, HEAD))
        await trouble(store)
        after = await people.knock((cluster[0].port, upgrade_head("/?token=bob")))
        for guest in (*before, *after):
            async with asyncio.timeout(10):
                await asyncio.gather(*(guest.tick() for _ in range(5)))
        assert not people.lost


async def test_after_a_silence_in_an_outage_all_gates_together_have_one_burst(tmp_path: Path) -> None:
    async with (
        redis_server() as store,
        game() as url,
        gates(tmp_path, YAML, url, [store.url] * 4) as cluster,
        flooders(cluster) as people,
    ):
        for one in people:
            one.say(1)
        await until(lambda: sum(one.passed for one in people) == 4)
        await asyncio.sleep(2 * BEAT)  # all have heard of each other
        store.kill()
        await asyncio.sleep(5)  # each would save up a whole burst
        lasted = await flood(people, 1.0)
        passed = await quiet(lambda: sum(one.passed for one in people)) - 4
        assert 0.5 * (BURST + RATE * lasted) <= passed <= BURST + RATE * (lasted + LATE)
