"""Bounds on what nobody has counted yet: how many may be undecided at once, in all and from one address, and that places come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from proxy.server.capacity import Bounds, Capacity
from tests.server.test_http_client import deaf_listener
from tests.server.test_upgrade import deaf
from tests.support.backends import RawConnection, raw_backend, waiting_backend
from tests.support.gate import Running, running, upstreams
from tests.support.raw import RawClient, raw_client, upgrade_head
from tests.support.waiting import until

NOWHERE = "ws://127.0.0.1:1"
GOOD = upgrade_head()
TRUSTED = "identity: {trusted_proxies: [127.0.0.0/8]}\n"

# --- counting -------------------------------------------------------------------------------------------------------------------


def test_one_address_gets_a_part_of_the_places_and_all_get_no_more_than_all() -> None:
    capacity = Capacity(Bounds(connections=9, pending=3, pending_per_ip=2))
    first, second = capacity.enter("a"), capacity.enter("a")
    assert first is not None
    assert second is not None
    assert capacity.enter("a") is None
    third = capacity.enter("b")
    assert third is not None
    assert capacity.enter("b") is None
    assert capacity.enter(None) is None
    first.leave()
    fourth = capacity.enter("a")
    assert fourth is not None
    for place in (second, third, fourth):
        place.leave()
    assert len(capacity) == capacity.pending == 0


def test_a_place_is_given_back_once() -> None:
    capacity = Capacity(Bounds(connections=9, pending=3, pending_per_ip=2))
    place, other = capacity.enter("a"), capacity.enter("a")
    assert place is not None
    assert other is not None
    place.leave()
    place.leave()
    assert capacity.pending == 1
    assert capacity.enter("a") is not None
    assert capacity.enter("a") is None


def test_who_speaks_for_many_is_bounded_only_with_all_others() -> None:
    capacity = Capacity(Bounds(connections=9, pending=3, pending_per_ip=1))
    places = [capacity.enter(None) for _ in range(4)]
    assert [place is not None for place in places] == [True, True, True, False]
    for place in places[:3]:
        assert place is not None
        place.leave()
    assert len(capacity) == 0


# --- over sockets ---------------------------------------------------------------------------------------------------------------


async def turned_away(client: RawClient) -> str:
    """What a client that finds no room reads; the detail of it."""
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
    problem = json.loads(answer.body)
    assert (problem["code"], problem["status"], problem["retry_after_ms"]) == ("unavailable", 503, 1000)
    return str(problem["detail"])


@asynccontextmanager
async def silent(run: Running, count: int, local: str | None = None) -> AsyncIterator[list[RawClient]]:
    """So many clients that say nothing, and stand at the door."""
    async with AsyncExitStack() as stack:
        before = len(run.gate._entrance.doors)
        clients = [await stack.enter_async_context(raw_client(run.port, local=local)) for _ in range(count)]
        await until(lambda: len(run.gate._entrance.doors) == before + count)
        yield clients


async def upgraded(run: Running, expected: int, **keys: str) -> None:
    async with raw_client(run.port, **keys) as client:
        await client.send(GOOD)
        assert await client.status() == expected


async def accept(connection: RawConnection) -> None:
    await connection.accept()
    await connection.rest()


@asynccontextmanager
async def held_up() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A backend that accepts nobody before the event: its URL, and the event."""
    let_in = asyncio.Event()

    async def handler(connection: RawConnection) -> None:
        await let_in.wait()
        await accept(connection)

    async with raw_backend(handler) as url:
        yield url, let_in


async def test_silent_connections_from_one_address_leave_room_for_others() -> None:
    async with running("limits: {max_pending_per_ip: 2}", upstream=NOWHERE) as run:
        async with silent(run, 2), raw_client(run.port) as third:
            assert await turned_away(third) == "too many connections"
            await upgraded(run, 502, local="127.0.0.2")
            assert run.gate.totals.upgrades["", "unavailable"] == 1
        await until(lambda: not run.gate.remembered())
        await upgraded(run, 502)


async def test_silent_connections_from_everywhere_are_bounded_too() -> None:
    async with running("limits: {max_pending: 4, max_pending_per_ip: 2}", upstream=NOWHERE) as run:
        async with silent(run, 2), silent(run, 2, "127.0.0.2"), raw_client(run.port, local="127.0.0.3") as fifth:
            assert await turned_away(fifth) == "too many connections"
        await until(lambda: not run.gate.remembered())
        await upgraded(run, 502, local="127.0.0.3")


async def test_a_trusted_proxy_may_have_more_than_one_address() -> None:
    yaml = TRUSTED + "limits: {max_pending: 5, max_pending_per_ip: 1}"
    async with running(yaml, upstream=NOWHERE) as run, silent(run, 5), raw_client(run.port) as sixth:
        await turned_away(sixth)


async def test_upgrades_under_way_are_bounded() -> None:
    async with held_up() as (url, let_in), running("limits: {max_pending: 2}", upstream=url) as run, AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(raw_client(run.port)) for _ in range(2)]
        for client in (one, two):
            await client.send(GOOD)
        await until(lambda: len(run.gate._path.tasks) == 2)
        async with raw_client(run.port) as third:
            await turned_away(third)
        let_in.set()
        assert await one.status() == await two.status() == 101
        await upgraded(run, 101)  # tunnels are pending no more


async def test_the_place_of_a_head_becomes_that_of_its_upgrade() -> None:
    async with (
        held_up() as (url, let_in),
        running("limits: {max_pending_per_ip: 2}", upstream=url) as run,
        silent(run, 2) as (one, two),
    ):
        await one.send(GOOD)
        await until(lambda: run.gate._path.tasks)
        async with raw_client(run.port) as third:
            await turned_away(third)
        await two.send(GOOD)
        await until(lambda: len(run.gate._path.tasks) == 2)
        assert run.gate._entrance.capacity.pending == 2
        let_in.set()
        assert await one.status() == await two.status() == 101
        assert run.gate._entrance.capacity.pending == 0


async def test_no_more_connections_than_max_connections() -> None:
    async with raw_backend(accept) as url, running("limits: {max_connections: 2}", upstream=url) as run:
        async with raw_client(run.port) as one, raw_client(run.port) as two:
            await one.send(GOOD)
            assert await one.status() == 101
            await until(lambda: run.gate.connections() == 2)
            async with raw_client(run.port) as third:
                assert await turned_away(third) == "too many connections"
            await two.send(GOOD)  # who was there before may go on
            assert await two.status() == 101
        await until(lambda: not run.gate.connections())
        await upgraded(run, 101)


async def test_ordinary_connections_count_among_max_connections() -> None:
    async def answer(connection: RawConnection) -> None:
        while True:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await connection.reader.readuntil(b"\r\n\r\n")

    async with raw_backend(answer) as url, running("limits: {max_connections: 1}", upstream=url) as run, raw_client(run.port) as kept:
        await kept.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await kept.status() == 200
        async with raw_client(run.port) as second:
            assert await turned_away(second) == "too many connections"
        await kept.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await kept.status() == 200


async def test_dials_to_one_upstream_are_bounded_and_that_says_nothing_about_the_upstream() -> None:
    async with held_up() as (url, let_in), running(upstreams(url, max_pending="2")) as run:
        async with raw_client(run.port) as one, raw_client(run.port) as two:
            for client in (one, two):
                await client.send(GOOD)
            await until(lambda: run.gate._path.dialer.dials.pending["game"] == 2)
            async with raw_client(run.port) as third:
                await third.send(GOOD)
                assert await turned_away(third) == "too many connections to the upstream are under way"
            assert run.gate.totals.upgrades["default", "unavailable"] == 1
            assert "default" not in run.gate.totals.upstream_up
            let_in.set()
            assert await one.status() == await two.status() == 101
            await upgraded(run, 101)
        await until(lambda: not run.gate._path.dialer.dials.pending["game"])


async def test_seats_come_back_from_an_upgrade_that_was_not_dialed() -> None:
    yaml = "rules: [{name: seats, per: global, connections: 2}]"
    async with waiting_backend() as (url, arrived), running(upstreams(url, max_pending="1") + yaml) as run, raw_client(run.port) as one:
        await one.send(GOOD)
        await arrived.get()
        for _ in range(5):
            async with raw_client(run.port) as another:
                await another.send(GOOD)
                await turned_away(another)
        assert dict(run.gate._store.seats()) == {"seats": 1}


# --- every way out --------------------------------------------------------------------------------------------------------------


async def forbid(connection: RawConnection) -> None:
    await connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


async def say_nothing(connection: RawConnection) -> None:
    await connection.rest()


async def ordinary(connection: RawConnection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


HURRY = "limits: {head_timeout: 50ms, head_size: 1KiB}\n"
REFUSING = "rules: [{name: none, per: ip, upgrades: 0/s}]\n"
ROUTED = "routes: [{name: game, path: /game, upstream: game}]\n"
WAYS_OUT = {
    "silence": (HURRY, b"", accept, "stay"),
    "half a head": (HURRY, GOOD[:20], accept, "stay"),
    "a head that is too long": (HURRY, b"x" * 2000, accept, "stay"),
    "leaving before the head": ("", b"", accept, "end"),
    "leaving in the head": ("", GOOD[:20], accept, "end"),
    "a reset in the head": ("", GOOD[:20], accept, "reset"),
    "a bad head": ("", upgrade_head("/a;b"), accept, "stay"),
    "admitted": ("", GOOD, accept, "stay"),
    "refused": (REFUSING, GOOD, accept, "stay"),
    "refused as HTTP": (REFUSING + "refuse_with: http\n", GOOD, accept, "stay"),
    "no route": (ROUTED, GOOD, accept, "stay"),
    "rejected by the backend": ("", GOOD, forbid, "stay"),
    "leaving while we wait": ("", GOOD, say_nothing, "end"),
    "a reset while we wait": ("", GOOD, say_nothing, "reset"),
    "a frame while we wait": ("", GOOD, say_nothing, "speak"),
    "an ordinary request": ("", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ordinary, "stay"),
}


@pytest.mark.parametrize(("yaml", "sent", "backend", "then"), WAYS_OUT.values(), ids=WAYS_OUT)
async def test_a_place_is_given_back_by(yaml: str, sent: bytes, backend: Callable[..., object], then: str) -> None:
    async with raw_backend(backend) as url, running(yaml, upstream=url) as run, raw_client(run.port) as client:
        capacity = run.gate._entrance.capacity
        await client.send(sent)
        if then != "stay":
            await until(lambda: run.gate._path.tasks if backend is say_nothing else run.gate._entrance.doors)
            assert capacity.pending == 1
            if then == "speak":
                await client.send(b"\x81\x80abcd")
            else:
                getattr(client, then)()
        await until(lambda: not capacity.pending and not run.gate._entrance.doors and not run.gate._path.tasks)
        assert len(capacity) == 0
        client.writer.close()


@pytest.mark.parametrize("status", [502, 504])
async def test_a_place_is_given_back_when_the_backend_cannot_be_reached(status: int) -> None:
    async with deaf() as slow:
        url = NOWHERE if status == 502 else slow
        async with running(upstreams(url, connect_timeout="50ms")) as run:
            await upgraded(run, status)
            await until(lambda: not run.gate.remembered())
            assert not run.gate._path.dialer.dials.pending["game"]


async def test_thousands_that_say_nothing_are_bounded_while_others_play() -> None:
    """From one address; the long test over 5,000 of them is with the limits."""
    async with raw_backend(accept) as url, running("limits: {max_pending_per_ip: 50}", upstream=url) as run:
        crowd = [await asyncio.open_connection("127.0.0.1", run.port) for _ in range(300)]
        await until(lambda: run.gate.totals.upgrades["", "unavailable"] == 250)
        assert run.gate._entrance.capacity.pending == 50
        for _ in range(5):
            await upgraded(run, 101, local="127.0.0.2")
        for _, writer in crowd:
            writer.close()
        await until(lambda: not run.gate.connections())


async def test_behind_a_trusted_proxy_each_client_has_a_part_of_the_places() -> None:
    yaml = TRUSTED + "limits: {max_pending: 10, max_pending_per_ip: 2}"
    async with held_up() as (url, let_in), running(yaml, upstream=url) as run, AsyncExitStack() as stack:

        async def ask(*headers: str) -> RawClient:
            client = await stack.enter_async_context(raw_client(run.port))
            await client.send(upgrade_head("/", *headers))
            return client

        first = [await ask("X-Forwarded-For: 6.6.6.6, 127.0.0.1") for _ in range(2)]
        await until(lambda: len(run.gate._path.tasks) == 2)
        assert await (await ask("X-Forwarded-For: 9.9.9.9, 6.6.6.6")).status() == 503
        others = [await ask("X-Forwarded-For: 7.7.7.7"), *[await ask() for _ in range(3)]]  # the proxy itself speaks for many
        await until(lambda: len(run.gate._path.tasks) == 6)
        let_in.set()
        for client in [*first, *others]:
            assert await client.status() == 101


async def test_dials_for_websockets_and_for_ordinary_http_have_one_bound() -> None:
    async with deaf_listener() as port, running(upstreams(f"ws://127.0.0.1:{port}", max_pending="2")) as run, AsyncExitStack() as stack:
        plain, socket, third, fourth = [await stack.enter_async_context(raw_client(run.port)) for _ in range(4)]
        get = b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n"
        await plain.send(get)
        await socket.send(upgrade_head())
        await until(lambda: run.gate._path.dialer.dials.pending["game"] == 2)
        await third.send(upgrade_head())
        assert await third.status() == 503
        await fourth.send(get)
        assert await fourth.status() == 503
