"""Seats: exactly as many as the limit, however many ask at once, and free again as soon as their connection ends."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.wire.frames import Opcode, build_close, build_frame
from tests.limits.crowd import crowd
from tests.limits.program import program, wait_until
from tests.support.backends import RawConnection, raw_backend
from tests.support.gate import Running, running
from tests.support.raw import RawClient, raw_client, upgrade_head
from tests.support.waiting import until

FREE_WITHIN = 0.3  # seconds after the end of its connection
ROUNDS = 1000
RACERS = 50
KINDS = ("user", "ip", "room", "members")
RACES = """
identity: {trusted_proxies: [127.0.0.1]}
refuse_with: http
routes:
  - {name: user, path: "/user/{room}", upstream: game}
  - {name: ip, path: "/ip/{room}", upstream: game}
  - {name: room, path: "/room/{room}", upstream: game}
  - {name: members, path: "/members/{room}", upstream: game}
rules:
  - {name: user, per: user, connections: 3, when: {route: user}}
  - {name: ip, per: ip, connections: 3, when: {route: ip}}
  - {name: room, per: room, connections: 3, when: {route: room}}
  - {name: members, per: room, members: 3, when: {route: members}}
"""


def racer(kind: str, key: int, number: int) -> bytes:
    """One upgrade that asks for a seat under `key`, and shares nothing else with the others."""
    unique = key * 100 + number
    user = key if kind == "user" else unique
    ip = key if kind == "ip" else unique
    room = key if kind in ("room", "members") else unique
    address = f"10.{ip >> 16}.{ip >> 8 & 255}.{ip & 255}"
    return upgrade_head(f"/{kind}/{room}?token={user}", f"X-Forwarded-For: {address}")


@pytest.mark.timeout(180)
def test_fifty_upgrades_at_once_for_the_last_seat_admit_exactly_one(tmp_path: Path) -> None:
    """A thousand times, of each kind of seat in turn."""
    with crowd() as people, program(tmp_path, RACES, people.url) as gate:
        for key in range(ROUNDS):
            kind = KINDS[key % len(KINDS)]
            assert people.knock(gate.port, [racer(kind, key, 98), racer(kind, key, 99)]) == [101, 101]
            statuses = people.knock(gate.port, [racer(kind, key, number) for number in range(RACERS)])
            assert (statuses.count(101), statuses.count(429)) == (1, RACERS - 1)
            people.leave()
        wait_until(lambda: gate.scrape()["wsgate_connections"] == 0, 5)
        samples = gate.scrape()
        for kind in KINDS:
            assert samples[f'wsgate_upgrades_total{{result="admitted",route="{kind}"}}'] == 3 * ROUNDS / len(KINDS)
            assert samples[f'wsgate_upgrades_total{{result="refused",route="{kind}"}}'] == (RACERS - 1) * ROUNDS / len(KINDS)
            assert samples[f'wsgate_seats{{rule="{kind}"}}'] == 0


# --- a gate, a backend that does as it is told, and clients of one user ------------------------------------------------------------


class Hall:
    """A gate before a raw backend. What a path asks for, its backend does: /forbidden, /silent, /wrong; else it lets in."""

    def __init__(self, gate: Running, served: asyncio.Queue[RawConnection]) -> None:
        self.gate = gate
        self._served = served

    async def served(self) -> RawConnection:
        """The backend's end of the first connection that was not asked for yet."""
        return await asyncio.wait_for(self._served.get(), 5)

    def forget_served(self) -> None:
        """Of the connections so far nobody will ask."""
        while not self._served.empty():
            self._served.get_nowait()

    async def seats(self) -> float:
        return (await self.gate.scrape())['wsgate_seats{rule="seat"}']

    async def free_within(self, free: int, target: str = "/room/red?token=ann") -> None:
        """One seat is there within FREE_WITHIN, and then so many in all, and not one more."""
        now = asyncio.get_running_loop().time
        deadline = now() + FREE_WITHIN
        async with raw_client(self.gate.port) as first:
            while not await enters(first, target):
                assert now() < deadline, "the seat is still taken"
                await asyncio.sleep(0.005)
                first.writer.close()
                first.reader, first.writer = await asyncio.open_connection("127.0.0.1", self.gate.port)
            await self._exactly(free - 1, target)

    async def _exactly(self, free: int, target: str) -> None:
        async with raw_client(self.gate.port) as client:
            assert await enters(client, target) is (free > 0)
            if free:
                await self._exactly(free - 1, target)


async def enters(client: RawClient, target: str) -> bool:
    await client.send(upgrade_head(target))
    status = await client.status()
    assert status in (101, 429)
    return status == 101


@asynccontextmanager
async def hall(rules: str) -> AsyncIterator[Hall]:
    served: asyncio.Queue[RawConnection] = asyncio.Queue()
    over = asyncio.Event()

    async def serve(connection: RawConnection) -> None:
        served.put_nowait(connection)
        if connection.target.startswith("/forbidden"):
            connection.writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n")
        elif connection.target.startswith("/wrong"):
            await connection.accept("Sec-WebSocket-Protocol: never-offered")
        elif not connection.target.startswith("/silent"):
            await connection.accept()
        await over.wait()

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        async with raw_backend(serve) as url:
            dead = f"ws://127.0.0.1:{nobody.getsockname()[1]}"
            upstreams = f"upstreams: {{game: {{url: '{url}'}}, dead: {{url: '{dead}'}}}}\n"
            async with running(upstreams + HALL + rules) as gate:
                yield Hall(gate, served)
                over.set()  # so that nobody keeps the gate waiting when it stops


HALL = """
refuse_with: http
routes:
  - {name: dead, path: "/dead/{room}", upstream: dead}
  - {name: rest, path: "/{place}/{room}", upstream: game}
"""
ONE_SEAT = """
rules:
  - {name: seat, per: user, connections: 1}
  - {name: size, per: connection, message_size: 16}
"""
TWO_SEATS = "rules: [{name: seat, per: user, connections: 2}]\n"


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# --- how a connection ends ---------------------------------------------------------------------------------------------------------


async def client_closes_and_is_answered(client: RawClient, served: RawConnection) -> None:
    await client.send(build_close(1000, mask=os.urandom(4)))
    await served.reader.readexactly(8)
    served.writer.write(build_close(1000))


async def client_closes_and_is_not_answered(client: RawClient, served: RawConnection) -> None:
    await client.send(build_close(1000, mask=os.urandom(4)))


async def client_ends_its_stream(client: RawClient, served: RawConnection) -> None:
    client.writer.write_eof()


async def client_ends_its_stream_inside_a_frame(client: RawClient, served: RawConnection) -> None:
    await client.send(b"\x81\x8a\x00\x00\x00\x00half")
    client.writer.write_eof()


async def client_resets(client: RawClient, served: RawConnection) -> None:
    reset(client.writer)


async def client_resets_inside_a_header(client: RawClient, served: RawConnection) -> None:
    await client.send(b"\x81")
    reset(client.writer)


async def client_that_reads_nothing_resets(client: RawClient, served: RawConnection) -> None:
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport can
    served.writer.write(build_frame(Opcode.BINARY, bytes(16 << 20)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(served.writer.drain(), 0.3)
    reset(client.writer)


async def client_breaks_the_protocol(client: RawClient, served: RawConnection) -> None:
    await client.send(b"\x81\x04bare")


async def client_is_closed_by_a_rule(client: RawClient, served: RawConnection) -> None:
    await client.send(build_frame(Opcode.TEXT, b"*" * 17, os.urandom(4)))


async def backend_closes(client: RawClient, served: RawConnection) -> None:
    served.writer.write(build_close(1000))


async def backend_ends_its_stream(client: RawClient, served: RawConnection) -> None:
    served.writer.write_eof()


async def backend_resets(client: RawClient, served: RawConnection) -> None:
    reset(served.writer)


async def backend_breaks_the_protocol(client: RawClient, served: RawConnection) -> None:
    served.writer.write(b"\x81\x84\x00\x00\x00\x00mask")


async def both_close_at_once(client: RawClient, served: RawConnection) -> None:
    served.writer.write(build_close(1000))
    await client.send(build_close(1000, mask=os.urandom(4)))


async def both_reset_at_once(client: RawClient, served: RawConnection) -> None:
    reset(served.writer)
    reset(client.writer)


Ending = Callable[[RawClient, RawConnection], Awaitable[None]]
ENDINGS: list[Ending] = [
    client_closes_and_is_answered,
    client_closes_and_is_not_answered,
    client_ends_its_stream,
    client_ends_its_stream_inside_a_frame,
    client_resets,
    client_resets_inside_a_header,
    client_that_reads_nothing_resets,
    client_breaks_the_protocol,
    client_is_closed_by_a_rule,
    backend_closes,
    backend_ends_its_stream,
    backend_resets,
    backend_breaks_the_protocol,
    both_close_at_once,
    both_reset_at_once,
]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_seat_is_free_soon_after_its_connection_ends_and_no_second_one_with_it(ending: Ending) -> None:
    async with hall(ONE_SEAT) as place, raw_client(place.gate.port) as client:
        assert await enters(client, "/room/red?token=ann")
        served = await place.served()
        async with raw_client(place.gate.port) as second:
            assert not await enters(second, "/room/red?token=ann")
        await ending(client, served)
        await place.free_within(1)


# --- two tabs ----------------------------------------------------------------------------------------------------------------------


async def test_the_seat_of_a_member_is_free_when_his_last_tab_closes_and_not_before() -> None:
    async with hall("rules: [{name: seat, per: room, members: 1}]\n") as place, raw_client(place.gate.port) as first:
        assert await enters(first, "/room/red?token=ann")
        async with raw_client(place.gate.port) as second:
            assert await enters(second, "/room/red?token=ann")
            assert await place.seats() == 1
            first.writer.close()
            await until(lambda: place.gate.gate.totals.connections == 1)
            async with raw_client(place.gate.port) as other:
                assert not await enters(other, "/room/red?token=bob")
            assert await place.seats() == 1
        await place.free_within(1, "/room/red")  # without a token each is a member of its own


# --- upgrades that came to nothing -------------------------------------------------------------------------------------------------


async def is_answered(place: Hall, target: str, status: int) -> None:
    async with raw_client(place.gate.port) as client:
        await client.send(upgrade_head(target))
        assert await client.status() == status


async def it_is_refused(place: Hall) -> None:
    async with raw_client(place.gate.port) as second:
        assert await enters(second, "/room/red?token=ann")
        await is_answered(place, "/room/red?token=ann", 429)


async def nobody_answers_the_dial(place: Hall) -> None:
    await is_answered(place, "/dead/red?token=ann", 502)


async def the_backend_forbids(place: Hall) -> None:
    await is_answered(place, "/forbidden/red?token=ann", 403)


async def the_backend_takes_what_was_not_offered(place: Hall) -> None:
    await is_answered(place, "/wrong/red?token=ann", 502)


async def the_head_is_bad(place: Hall) -> None:
    await is_answered(place, "/room/a%2Fb?token=ann", 400)


async def the_client_leaves_while_we_dial(place: Hall) -> None:
    async with raw_client(place.gate.port) as client:
        served = await knock_silence(place, client)
        client.writer.write_eof()
        assert await client.rest() == b""
        await is_hung_up(served)


async def the_client_resets_while_we_dial(place: Hall) -> None:
    async with raw_client(place.gate.port) as client:
        served = await knock_silence(place, client)
        reset(client.writer)
        await is_hung_up(served)


async def the_client_speaks_while_we_dial(place: Hall) -> None:
    async with raw_client(place.gate.port) as client:
        served = await knock_silence(place, client)
        await client.send(build_frame(Opcode.TEXT, b"early", os.urandom(4)))
        assert await client.status() == 400
        await is_hung_up(served)


async def the_backend_leaves_while_we_dial(place: Hall) -> None:
    async with raw_client(place.gate.port) as client:
        (await knock_silence(place, client)).writer.close()
        assert await client.status() == 502


async def is_hung_up(served: RawConnection) -> None:
    """The backend hears of it: its connection does not stay open for nothing."""
    assert await asyncio.wait_for(served.reader.read(), 5) == b""


async def knock_silence(place: Hall, client: RawClient) -> RawConnection:
    """Ask for an upgrade that the backend got and does not answer."""
    place.forget_served()
    await client.send(upgrade_head("/silent/red?token=ann"))
    served = await place.served()
    assert served.target.startswith("/silent")
    assert await place.seats() == 2
    return served


Mishap = Callable[[Hall], Awaitable[None]]
MISHAPS: list[Mishap] = [
    it_is_refused,
    nobody_answers_the_dial,
    the_backend_forbids,
    the_backend_takes_what_was_not_offered,
    the_head_is_bad,
    the_client_leaves_while_we_dial,
    the_client_resets_while_we_dial,
    the_client_speaks_while_we_dial,
    the_backend_leaves_while_we_dial,
]


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_an_upgrade_that_came_to_nothing_gives_back_its_own_seat_and_no_other(mishap: Mishap) -> None:
    """Of two seats one is held throughout: a seat given back twice would let two more in, one not given back none."""
    async with hall(TWO_SEATS) as place, raw_client(place.gate.port) as holder:
        assert await enters(holder, "/room/red?token=ann")
        for _ in range(3):
            await mishap(place)
            await place.free_within(1)
            await until(lambda: place.gate.gate.totals.connections == 1)
