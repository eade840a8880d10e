"""Rates, delays and what follows a breach, to the message, over real sockets and in real time.

Bounds are told by the bucket, counted from before the first message to after the last: what came through can neither be more, nor
(where somebody sends without a pause) more than one message less.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.wire.frames import Opcode, build_frame
from tests.limits.players import CLOSE, IDENTITY, PONG, ROUTES, TEXT, Lobby, Player, Who, Words, lobby
from tests.support.backends import RawConnection, echo_backend, waiting_backend
from tests.support.gate import Running, running
from tests.support.waiting import until

ANN = Who()
BOB = ANN.other("user", "ip")
PATIENCE = 15.0  # seconds, for a machine that is busy


def masked(payload: bytes, first: int = TEXT) -> bytes:
    return bytes((first,)) + build_frame(Opcode.TEXT, payload, os.urandom(4))[1:]


class Arena:
    """A gate, its players, and the raw ends of their connections at the backend."""

    def __init__(self, gate: Running, players: Lobby, arrived: asyncio.Queue[RawConnection]) -> None:
        self.gate = gate
        self.players = players
        self.arrived = arrived
        self._backends: list[RawConnection] = []

    async def enter(self, who: Who = ANN, *, offer: str = "", answer: str = "") -> tuple[Player, RawConnection]:
        """A player, and the backend's end of its connection. `offer` and `answer`: of extensions."""
        knocking = asyncio.create_task(self.players.knock(who, *([f"Sec-WebSocket-Extensions: {offer}"] if offer else [])))
        backend = await self.backend()
        await backend.accept(*([f"Sec-WebSocket-Extensions: {answer}"] if answer else []))
        player = await knocking
        assert player.status == 101
        return player, backend

    async def backend(self) -> RawConnection:
        """The backend's end of the next connection."""
        backend = await asyncio.wait_for(self.arrived.get(), PATIENCE)
        self._backends.append(backend)
        return backend

    def arrived_at(self, place: int) -> RawConnection:
        """The backend's end of the connection that came so many after the first."""
        return self._backends[place]

    def end(self) -> None:
        """Nobody answers a Close here, so nobody waits for one."""
        for backend in self._backends:
            backend.reset()


@asynccontextmanager
async def arena(*rules: str) -> AsyncIterator[Arena]:
    """`rules`: without their names, which are `limit`, `limit1`, ..."""
    named = "".join(f"  - {{name: limit{number or ''}, {one}}}\n" for number, one in enumerate(rules))
    async with (
        waiting_backend() as (url, arrived),
        running(f"{IDENTITY}{ROUTES}rules:\n{named}", upstream=url) as gate,
        lobby(gate) as players,
    ):
        one = Arena(gate, players, arrived)
        yield one
        one.end()


async def count_until(backend: RawConnection, last: bytes) -> int:
    """Messages that come to the backend before the one that says `last`."""
    count = 0
    async with asyncio.timeout(60):
        while (await backend.frame())[1] != last:
            count += 1
    return count


# --- exactly what the bucket allows ------------------------------------------------------------------------------------------------


async def flood(player: Player, seconds: float, times: int = 1) -> None:
    """Send messages as fast as they are taken, in chunks of one and of several frames; read and forget what comes back."""
    end = time.monotonic() + seconds
    chunks = [masked(b"x") * count for count in (1, 1, 1, 7)] * times
    reading = asyncio.create_task(player.client.rest(seconds + PATIENCE))
    while time.monotonic() < end:
        for chunk in chunks:
            await player.client.send(chunk)
        await asyncio.sleep(0)  # the gate and the backend live in this loop too
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def passed_of_a_flood(seconds: float, connections: int, returns: int) -> tuple[int, float, float]:
    """(messages that came through, the least and the most time that they had). The flood is spread over connections that share a key,
    each of which comes back `returns` times."""
    async with arena("per: user, messages: 10/s, burst: 20") as one:
        started = time.monotonic()
        first = None
        ended = started
        got = 0

        async def play() -> None:
            nonlocal got, first, ended
            for _ in range(returns + 1):
                player, backend = await one.enter()
                counting = asyncio.create_task(count_all(backend))
                first = first or time.monotonic()
                await flood(player, seconds / (returns + 1))
                ended = time.monotonic()
                player.client.end()
                count = await counting
                got += count

        async def count_all(backend: RawConnection) -> int:
            count = 0
            backend.patience = seconds + PATIENCE  # among so many one may get no token for long
            while (await backend.frame())[0] == TEXT:
                count += 1
            return count

        await asyncio.gather(*(play() for _ in range(connections)))
        assert first is not None
        samples = await one.gate.scrape()
        assert (
            samples['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}']
            == samples['wsgate_messages_total{direction="in"}'] - got
        )
        return got, ended - first, time.monotonic() - started


@pytest.mark.parametrize(("connections", "returns"), [(1, 0), (3, 2)])
async def test_a_flood_gets_what_the_bucket_allows(connections: int, returns: int) -> None:
    got, least, most = await passed_of_a_flood(1.0, connections, returns)
    assert 20 + int(least * 10) - 1 <= got <= 20 + int(most * 10) + 1


@pytest.mark.long
@pytest.mark.parametrize("returns", [0, 4])
@pytest.mark.parametrize("connections", [1, 2, 10])
async def test_in_ten_seconds_a_flood_gets_what_the_bucket_allows(connections: int, returns: int) -> None:
    got, least, most = await passed_of_a_flood(10.0, connections, returns)
    assert 20 + int(least * 10) - 1 <= got <= 20 + int(most * 10) + 1


# --- delay -------------------------------------------------------------------------------------------------------------------------


async def delayed(count: int, rate: int, *more: str) -> float:
    """Seconds that `count` messages take under a delay, sent all at once; meanwhile another connection feels nothing.

    `more`: rules. The other connection has a user of its own, and keeps to its rate.
    """
    async with arena(f"per: user, messages: {rate}/s, burst: 1, on_excess: delay", *more) as one:
        ann, backend = await one.enter()
        bob, beside = await one.enter(BOB)
        slowest = 0.0

        async def feel() -> None:
            """A round trip of Bob's, every now and then, within his own rate."""
            nonlocal slowest
            while True:
                started = time.monotonic()
                await bob.say(b"beside", Opcode.PING)
                await bob.say(b"beside")
                assert [await beside.frame() for _ in range(2)] == [(0x89, b"beside"), (TEXT, b"beside")]
                slowest = max(slowest, time.monotonic() - started)
                await asyncio.sleep(2 / rate)

        feeling = asyncio.create_task(feel())
        started = time.monotonic()
        await ann.client.send(b"".join(masked(b"%d" % number) for number in range(count)))
        for number in range(count):
            assert await backend.frame() == (TEXT, b"%d" % number)
        took = time.monotonic() - started
        feeling.cancel()
        await asyncio.gather(feeling, return_exceptions=True)
        assert slowest < 0.5
        samples = await one.gate.scrape()
        # Where the machine was late by more than a message, the next ones pass at once.
        assert 1 <= samples['wsgate_breaches_total{action="delay",mode="enforce",rule="limit"}'] < count
        return took


async def test_delayed_messages_come_all_and_in_order_at_the_rate() -> None:
    took = await delayed(101, 100)
    assert 1.0 - 0.001 <= took <= 1.3


async def test_delayed_messages_come_at_the_rate_though_it_is_faster_than_the_clock_of_the_loop() -> None:
    assert 2.0 - 0.001 <= await delayed(4001, 2000) <= 2.0 * 1.05 + 0.2  # the last for a machine that is busy


async def test_who_is_delayed_by_a_limit_of_its_own_delays_nobody_under_one_that_all_share() -> None:
    async with arena(
        "per: global, messages: 100/s, burst: 1, on_excess: delay", "per: user, messages: 1/s, burst: 1, on_excess: delay"
    ) as one:
        ann, backend = await one.enter()
        bob, beside = await one.enter(BOB)
        started = time.monotonic()
        await ann.client.send(masked(b"1") + masked(b"2"))
        assert (await backend.frame())[1] == b"1"
        await asyncio.sleep(0.1)
        asked = time.monotonic()
        await bob.say(b"hi")
        assert (await beside.frame())[1] == b"hi"
        assert time.monotonic() - asked < 0.5
        assert (await backend.frame())[1] == b"2"
        assert time.monotonic() - started >= 1.0 - 0.001


async def test_whoever_waits_behind_one_that_leaves_is_before_those_who_come_later() -> None:
    async with arena("per: user, bytes: 1000/s, burst: 4000, max_delay: 1m") as one:
        (first, gone), (leaves, _), (waits, behind), (comes, last) = [await one.enter() for _ in range(4)]
        await first.client.send(masked(b"x" * 4000))
        await gone.frame()
        await leaves.client.send(masked(b"x" * 4000))
        await until(lambda: sum(tunnel.client.is_held for tunnel in one.gate.gate.live.held) == 1)
        await waits.client.send(masked(b"waits"))
        await until(lambda: sum(tunnel.client.is_held for tunnel in one.gate.gate.live.held) == 2)
        started = time.monotonic()
        one.arrived_at(1).reset()
        await comes.client.send(masked(b"comes"))
        assert (await behind.frame())[1] == b"waits"
        assert (await last.frame())[1] == b"comes"
        assert time.monotonic() - started < 2.0  # and not after the 4 s of the one that has left


@pytest.mark.long
async def test_a_thousand_delayed_messages_come_in_ten_seconds() -> None:
    assert 9.5 <= await delayed(1000, 100) <= 10.5


async def test_connections_that_share_a_key_share_a_delay_exactly_and_fairly() -> None:
    async with arena("per: user, messages: 100/s, burst: 1, on_excess: delay") as one:
        both = [await one.enter() for _ in range(10)]
        started = time.monotonic()
        got = [0] * len(both)

        async def count(number: int, backend: RawConnection) -> None:
            while True:
                await backend.frame()
                got[number] += 1

        counting = [asyncio.create_task(count(number, backend)) for number, (_, backend) in enumerate(both)]
        for player, _ in both:
            await player.client.send(masked(b"x") * 100)
        await until(lambda: sum(got) >= 150, PATIENCE)
        took = time.monotonic() - started
        for task in counting:
            task.cancel()
        await asyncio.gather(*counting, return_exceptions=True)
        assert sum(got) <= 1 + took * 100 + 1
        assert took < 2.0
        assert max(got) - min(got) <= 2


async def test_bytes_are_delayed_to_their_rate_whatever_the_frames() -> None:
    async with arena("per: ip, bytes: 64KiB/s, burst: 8KiB") as one:
        player, backend = await one.enter()
        sizes = [8192, 1, 0, 125, 126, 4096, 8192, 8192, 8192, 8192, 7000]
        sent = [masked(b"x" * size, TEXT) for size in sizes]
        started = time.monotonic()
        await player.client.send(b"".join(sent))
        for size, raw in zip(sizes, sent, strict=True):
            assert await backend.raw_frame() == raw, size
        took = time.monotonic() - started
        due = (sum(sizes) - 8192) / 65536
        assert due - 0.001 <= took <= due + 0.3


async def test_the_fragments_of_a_message_wait_like_any_frame_and_pongs_with_them() -> None:
    async with arena("per: user, bytes: 1KiB/s, burst: 128") as one:
        player, backend = await one.enter()
        sent = [masked(b"x" * 128, first) for first in (0x01, 0x00, 0x80)] + [masked(b"p", 0x8A)]
        started = time.monotonic()
        await player.client.send(b"".join(sent))
        for raw in sent:
            assert await backend.raw_frame() == raw
        assert 0.25 <= time.monotonic() - started < 1.0


async def test_a_frame_that_would_wait_too_long_closes() -> None:
    async with arena("per: user, messages: 1/s, burst: 1, on_excess: delay, max_delay: 200ms") as one:
        player, backend = await one.enter()
        await player.client.send(masked(b"1") + masked(b"2"))
        assert (await backend.frame())[1] == b"1"
        first, payload = await backend.frame()
        assert (first, payload[:2]) == (CLOSE, (1008).to_bytes(2, "big"))
        await Words("message_rate_limit_exceeded", 4008, retry=(900, 1000)).end(player)


async def test_what_the_client_does_not_read_of_it_is_held_back_in_its_kernel_not_in_our_memory() -> None:
    async with arena("per: user, messages: 20/s, burst: 1, on_excess: delay") as one:
        player, backend = await one.enter()
        sending = asyncio.create_task(player.client.send(masked(b"x" * 60_000) * 400))  # 24 MB
        for _ in range(5):
            await backend.frame()
        [tunnel] = one.gate.gate.live.held
        assert tunnel.client.walker.held <= 1 << 20
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        player.client.reset()


# --- towards the client ------------------------------------------------------------------------------------------------------------


async def test_messages_of_the_server_are_dropped_beyond_a_rate_and_the_client_is_told() -> None:
    async with arena("per: user, messages: 1/min, burst: 2, direction: out") as one:
        player, backend = await one.enter()
        for number in range(5):
            await backend.send(build_frame(Opcode.TEXT, b"%d" % number))
        assert [await player.client.frame() for _ in range(2)] == [(TEXT, b"0"), (TEXT, b"1")]
        error = await player.notice()
        Words("message_rate_limit_exceeded", 4008, retry=(59_000, 60_000)).fit_error(error, suppressed=2)
        assert error["message"] == "messages of the server come too fast"
        for _ in range(5):  # the other way has no limit
            await player.say(b"up")
            assert await backend.frame() == (TEXT, b"up")
        samples = await one.gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 3


async def test_a_server_that_sends_too_much_is_read_no_faster_than_may_pass() -> None:
    async with arena("per: connection, bytes: 256KiB/s, burst: 16KiB, direction: out") as one:
        player, backend = await one.enter()
        sent = [build_frame(Opcode.BINARY, bytes([number]) * 16384) for number in range(9)]
        started = time.monotonic()
        await backend.send(b"".join(sent))
        for raw in sent:
            assert await player.client.raw_frame() == raw
        assert 0.5 - 0.001 <= time.monotonic() - started < 1.0


async def test_what_stands_behind_the_101_of_the_server_waits_too() -> None:
    async with arena("per: connection, messages: 10/s, burst: 1, direction: out, on_excess: delay") as one:
        knocking = asyncio.create_task(one.players.knock(ANN))
        backend = await one.backend()
        sent = [build_frame(Opcode.TEXT, b"%d" % number) for number in range(4)]
        started = time.monotonic()
        await backend.accept(behind=b"".join(sent))
        player = await knocking
        for raw in sent:
            assert await player.client.raw_frame() == raw
        assert 0.3 - 0.001 <= time.monotonic() - started < 1.0


async def test_a_limit_towards_the_client_may_close() -> None:
    async with arena("per: connection, messages: 0/s, direction: out, on_excess: close") as one:
        player, backend = await one.enter()
        await backend.send(build_frame(Opcode.TEXT, b"too much"))
        await Words("message_rate_limit_exceeded", 4008).end(player)
        first, payload = await backend.frame()
        assert (first, payload[:2]) == (CLOSE, (1008).to_bytes(2, "big"))


@pytest.mark.parametrize("answer", ["", "permessage-deflate", "permessage-deflate; server_no_context_takeover"])
async def test_where_a_missing_message_would_garble_the_next_a_drop_towards_the_client_closes(answer: str) -> None:
    async with arena("per: user, messages: 1/min, burst: 1, direction: out") as one:
        player, backend = await one.enter(offer="permessage-deflate; client_max_window_bits", answer=answer)
        assert backend.fields["sec-websocket-extensions"] == "permessage-deflate; client_max_window_bits; server_no_context_takeover"
        assert player.header("Sec-WebSocket-Extensions") == (answer or None)
        first = TEXT | (0x40 if answer else 0)
        message = bytes((first,)) + build_frame(Opcode.TEXT, b"deflated")[1:]
        await backend.send(message + message)
        assert await player.client.frame() == (first, b"deflated")
        words = Words("message_rate_limit_exceeded", 4008, retry=(59_000, 60_000))
        if answer == "permessage-deflate":
            await words.end(player)
        else:
            words.fit_error(await player.notice())
            await backend.send(build_frame(Opcode.PING, b"alive"))
            assert (await player.client.frame())[1] == b"alive"


async def test_without_a_rule_that_drops_towards_the_client_offers_go_as_they_are() -> None:
    async with arena("per: user, messages: 1/s, burst: 1", "per: user, bytes: 1/s, direction: out") as one:
        _, backend = await one.enter(offer="permessage-deflate")
        assert backend.fields["sec-websocket-extensions"] == "permessage-deflate"


# --- floods of frames that are no messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
async def test_a_flood_of_control_frames_closes(opcode: Opcode) -> None:
    async with arena("per: connection, control_frames: 1/min, burst: 10") as one:
        player, backend = await one.enter()
        await player.client.send(masked(b"beat", 0x80 | opcode) * 11)
        for _ in range(10):
            assert await backend.frame() == (0x80 | opcode, b"beat")
        first, payload = await backend.frame()
        assert (first, payload[:2]) == (CLOSE, (1008).to_bytes(2, "big"))
        await Words("control_rate_limit_exceeded", 4008, retry=(59_000, 60_000)).end(player)


async def test_pings_of_the_server_are_not_the_clients() -> None:
    async with arena("per: connection, control_frames: 0/s") as one:
        player, backend = await one.enter()
        for _ in range(20):
            await backend.send(build_frame(Opcode.PING, b"beat"))
            assert (await player.client.frame())[1] == b"beat"


@pytest.mark.parametrize("size", [0, 1])
async def test_a_flood_of_continuations_closes(size: int) -> None:
    async with arena("per: connection, fragments: 64") as one:
        player, backend = await one.enter()
        await player.client.send(masked(b"", 0x01) + masked(b"x" * size, 0x00) * 64)
        for _ in range(64):
            assert (await backend.frame())[0] in (0x01, 0x00)
        await Words("too_many_fragments", 4009).end(player)
        first, payload = await backend.frame()
        assert (first, payload[:2]) == (CLOSE, (1008).to_bytes(2, "big"))


# --- from drop to close, and staying out -------------------------------------------------------------------------------------------


async def test_who_breaks_a_rule_again_and_again_is_closed() -> None:
    async with arena("per: user, messages: 1/min, burst: 1, close_after: {breaches: 4, within: 10s}") as one:
        player, backend = await one.enter()
        for _ in range(5):
            await player.say(b"flood")
        await until_told(player)
        assert await player.client.rest() == b""
        assert (await backend.frame())[1] == b"flood"
        assert (await backend.frame())[0] == CLOSE
        samples = await one.gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 3
        assert samples['wsgate_breaches_total{action="close",mode="enforce",rule="limit"}'] == 1


async def until_told(player: Player) -> None:
    """Read on until the Close of a limit."""
    while True:
        first, payload = await player.client.frame()
        if first == CLOSE:
            assert int.from_bytes(payload[:2], "big") == 4008
            return


@pytest.mark.parametrize("refuse_with", ["close", "http"])
async def test_a_penalty_keeps_a_client_out_for_its_time_and_nobody_else(refuse_with: str) -> None:
    rules = "rules: [{name: limit, per: connection, messages: 1/s, burst: 1, on_excess: close, close_code: 4321, penalty: 2s}]\n"
    config = f"{IDENTITY}{ROUTES}{rules}refuse_with: {refuse_with}\n"
    async with echo_backend() as url, running(config, upstream=url) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        assert await ann.is_echoed(b"one")
        await ann.say(b"two")
        closed = time.monotonic()
        await Words("message_rate_limit_exceeded", 4321, retry=(2000, 2000)).end(ann)
        again = await players.knock(ANN.other("ip", "room"))  # the same user, from elsewhere
        await Words("penalized", 4008, retry=(1, 2000)).refuse(again)
        assert await (await players.enter(ANN.other("user"))).is_echoed(b"another user")
        assert await (await players.enter(Who(user=None))).is_echoed(b"somebody unknown")
        samples = await gate.scrape()
        assert samples['wsgate_refusals_total{mode="enforce",rule="limit"}'] == 1
        while (player := await players.knock(ANN)).status != 101 or not await welcomed(player):
            assert time.monotonic() < closed + PATIENCE
            await asyncio.sleep(0.1)
        assert time.monotonic() - closed >= 2.0 - 0.01


async def welcomed(player: Player) -> bool:
    """Does the backend answer, or is it a refusal in the clothes of a 101?"""
    await player.say(b"?", Opcode.PING)
    return (await player.client.frame())[0] == PONG


async def test_an_unknown_client_stays_out_by_its_address() -> None:
    rules = "rules: [{name: limit, per: connection, message_size: 5, penalty: 1m}]\n"
    unknown = Who(user=None)
    async with echo_backend() as url, running(IDENTITY + ROUTES + rules, upstream=url) as gate, lobby(gate) as players:
        player = await players.enter(unknown)
        await player.say(b"too long")
        await Words("payload_too_large", 4009, retry=(60_000, 60_000)).end(player)
        await Words("penalized", 4008, retry=(50_000, 60_000)).refuse(await players.knock(unknown))
        assert await (await players.enter(unknown.other("ip"))).is_echoed(b"hello")
        assert await (await players.enter(ANN)).is_echoed(b"hello")
