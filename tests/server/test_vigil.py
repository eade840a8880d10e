"""What a tunnel's peers owe it, by a clock that is moved by hand and transports that record; then over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.server.linger import Lingering
from proxy.server.timing_wheel import TICK, TimingWheel
from proxy.server.tunnel import Initiator, Phase, Surroundings, Tunnel
from proxy.server.turns import Turns
from proxy.server.vigil import JITTER, LOOKS, Patience, Rounds, Vigil
from proxy.wire.frames import FrameWalker, build_close
from tests.server.test_timing_wheel import Clock
from tests.support.backends import waiting_backend
from tests.support.gate import Running, running
from tests.support.pair import pair
from tests.support.raw import PATIENCE, RawStream, raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

MASK = b"\x11\x22\x33\x44"
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
BEGIN, MORE = 0x01, 0x00

SLOW, INTERVAL, TIMEOUT = 30.0, 30.0, 20.0  # seconds, the defaults
LOOK = INTERVAL / LOOKS
LATE = LOOK + 2 * TICK  # seconds by which something may come after it is due

GOING_AWAY, POLICY, INTERNAL = 1001, 1008, 1011


class Wire(asyncio.Transport):
    """One side's transport: what is written to it goes into `written`, or waits in `backlog` bytes that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.backlog = 0
        self.reading = True
        self.closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


class Scene:
    """A tunnel between two wires, and what its owner hears. Times are seconds from its beginning."""

    def __init__(self, patience: Patience, phase: float = 0.0) -> None:
        self.clock = Clock()
        self.clock.now += phase
        self.wheel = TimingWheel(self.clock)
        self.rounds = Rounds(self.wheel, patience)
        self.turns = Turns(self.clock)
        self.lingering = Lingering(self.wheel, self.turns)
        self.client, self.upstream = Wire(), Wire()
        self.ends: list[tuple[float, int, Initiator]] = []
        self.tunnel = Tunnel(
            (self.client, FrameWalker(masked=True)),
            (self.upstream, FrameWalker(masked=False)),
            connection="test",
            meters=None,
            surroundings=Surroundings(self.lingering, self, self.wheel, self.rounds, self.turns),
        )
        self.began = self.clock.now
        self.tunnel.begin(b"", b"")
        self.client.written.clear()

    def ended(self, tunnel: Tunnel, code: int, initiator: Initiator) -> None:
        self.ends.append((self.now, code, initiator))

    def over(self, tunnel: Tunnel) -> None:
        pass

    @property
    def now(self) -> float:
        return self.clock.now - self.began

    @property
    def open(self) -> bool:
        return self.tunnel.phase is Phase.OPEN

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def client_says(self, first: int, payload: bytes = b"", size: int | None = None) -> None:
        """`size`: only so many bytes of the frame."""
        self.tunnel.client.data_received(encode(first, payload, MASK)[:size], lambda: self.clock.now)

    def upstream_says(self, first: int, payload: bytes = b"", size: int | None = None) -> None:
        self.tunnel.upstream.data_received(encode(first, payload, None)[:size], lambda: self.clock.now)

    def pings(self) -> list[bytes]:
        """Payloads of the pings that the client got, in the order of their coming."""
        return [one[2:] for one in self.client.written if one[0] == PING]

    def until_asked(self) -> float:
        """Move on until one more ping is there, for at most ten minutes; when that is."""
        before, latest = len(self.pings()), self.now + 600
        while len(self.pings()) == before and self.open and self.now < latest:
            self.advance(TICK)
        assert len(self.pings()) == before + 1, self.ends
        return self.now

    def until_ended(self) -> tuple[float, int]:
        """Move on until the tunnel ends, for at most ten minutes; when that is, and the code for metrics."""
        latest = self.now + 600
        while self.open and self.now < latest:
            self.advance(TICK)
        ((when, code, initiator),) = self.ends
        assert initiator is Initiator.GATE
        return when, code

    def farewells(self) -> tuple[tuple[int, bytes], int]:
        """(code, reason) of the client's Close, and the code of the upstream's."""
        last = self.client.written[-1]
        assert last[0] == CLOSE
        masked = self.upstream.written[-1]
        assert masked[0] == CLOSE
        code = bytes(a ^ b for a, b in zip(masked[6:8], masked[2:4], strict=True))
        return (int.from_bytes(last[2:4], "big"), last[4:]), int.from_bytes(code, "big")


@asynccontextmanager
async def watched(patience: Patience, phase: float = 0.0) -> AsyncIterator[Scene]:
    """`phase`: seconds of the clock, between its ticks."""
    scene = Scene(patience, phase)
    yield scene
    scene.tunnel.vigil.end()
    scene.lingering.abort()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """With the defaults of the configuration."""
    async with watched(Patience()) as one:
        yield one


# --- silent clients -------------------------------------------------------------------------------------------------------------


async def test_a_client_that_was_silent_for_the_interval_is_asked_and_not_sooner(scene: Scene) -> None:
    asked = scene.until_asked()
    assert INTERVAL - TICK <= asked <= INTERVAL + LATE
    (ping,) = scene.client.written
    assert ping[:2] == b"\x89\x08"  # not masked
    assert not scene.upstream.written


@pytest.mark.parametrize("phase", range(40))
async def test_at_any_phase_of_the_looks_a_silence_is_noticed_within_one_look(phase: int) -> None:
    async with watched(Patience(), phase * 0.0123) as scene:
        for _ in range(phase):
            scene.advance(1.0)
            scene.client_says(TEXT)
        last = scene.now
        assert last + INTERVAL - TICK <= scene.until_asked() <= last + INTERVAL + LATE


SIGNS = {
    "text": (TEXT, b"hi", None),
    "an empty message": (BINARY, b"", None),
    "a ping": (PING, b"", None),
    "a pong": (PONG, b"unasked", None),
    "a pong of eight bytes": (PONG, b"8 bytes!", None),
    "a part of a frame": (BINARY, bytes(70_000), 1000),
}


@pytest.mark.parametrize("sign", SIGNS.values(), ids=SIGNS)
async def test_whatever_comes_is_life(sign: tuple[int, bytes, int | None], scene: Scene) -> None:
    scene.advance(25.0)
    scene.client_says(*sign)
    assert 25.0 + INTERVAL - TICK <= scene.until_asked() <= 25.0 + INTERVAL + LATE


@pytest.mark.parametrize("sign", SIGNS.values(), ids=SIGNS)
async def test_whatever_comes_answers_a_ping(sign: tuple[int, bytes, int | None], scene: Scene) -> None:
    asked = scene.until_asked()
    scene.advance(TIMEOUT - 1.0)
    scene.client_says(*sign)
    again = scene.until_asked()
    assert asked + TIMEOUT - 1.0 + INTERVAL - TICK <= again


async def test_every_byte_of_a_long_frame_is_life(scene: Scene) -> None:
    scene.client_says(BINARY, bytes(1000), 8)
    for _ in range(20):
        scene.advance(20.0)
        scene.tunnel.client.data_received(b"1")
    assert not scene.pings()


async def test_what_the_backend_says_is_no_life_of_the_client(scene: Scene) -> None:
    for _ in range(10):
        scene.advance(5.0)
        scene.upstream_says(TEXT, b"hi")
    assert len(scene.pings()) == 1
    assert scene.until_ended()[0] <= INTERVAL + TIMEOUT + LATE


async def test_a_client_that_does_not_answer_in_time_is_1008_and_1001_for_the_backend(scene: Scene) -> None:
    asked = scene.until_asked()
    ended, code = scene.until_ended()
    assert asked + TIMEOUT - TICK <= ended <= asked + TIMEOUT + 2 * TICK
    assert code == POLICY
    assert scene.farewells() == ((POLICY, b"ping_timeout"), GOING_AWAY)
    assert scene.tunnel.why == "ping_timeout"


async def test_a_client_that_answers_lives_and_its_pongs_go_nowhere(scene: Scene) -> None:
    for count in range(1, 20):
        scene.until_asked()
        assert len(scene.pings()) == count
        scene.advance(TIMEOUT - 1.0)
        scene.client_says(PONG, scene.pings()[-1])
    assert scene.open
    assert not scene.upstream.written
    assert scene.tunnel.client.walker.messages == 0


async def test_pings_of_two_tunnels_differ(scene: Scene) -> None:
    async with watched(Patience()) as other:
        scene.until_asked()
        other.until_asked()
        assert scene.pings() != other.pings()


async def test_a_ping_of_the_backend_asks_in_the_place_of_ours(scene: Scene) -> None:
    scene.advance(20.0)
    scene.upstream_says(PING, b"theirs")
    ended, code = scene.until_ended()
    assert code == POLICY
    assert INTERVAL + TIMEOUT - TICK <= ended <= INTERVAL + TIMEOUT + LATE
    assert scene.pings() == [b"theirs"]


async def test_once_the_backends_ping_is_answered_ours_may_go(scene: Scene) -> None:
    scene.advance(20.0)
    scene.upstream_says(PING, b"theirs")
    scene.advance(12.0)
    scene.client_says(PONG, b"theirs")
    assert scene.upstream.written == [encode(PONG, b"theirs", MASK)]
    assert 32.0 + INTERVAL - TICK <= scene.until_asked() <= 32.0 + INTERVAL + LATE


async def test_a_pong_of_the_backend_is_no_ping(scene: Scene) -> None:
    scene.client_says(PING, b"mine")
    scene.advance(1.0)
    scene.upstream_says(PONG, b"mine")
    assert scene.until_asked() <= INTERVAL + LATE


async def test_a_client_may_answer_only_the_latest_ping(scene: Scene) -> None:
    """RFC 6455 §5.5.3: the backend's came after ours."""
    scene.until_asked()
    scene.upstream_says(PING, b"theirs")
    scene.advance(TIMEOUT - 1.0)
    scene.client_says(PONG, b"theirs")
    scene.advance(INTERVAL - 1.0)
    assert scene.open
    assert scene.upstream.written == [encode(PONG, b"theirs", MASK)]


async def test_a_late_pong_goes_nowhere_even_behind_newer_pings(scene: Scene) -> None:
    scene.until_asked()
    ours = scene.pings()[-1]
    scene.client_says(TEXT, b"busy")
    scene.until_asked()
    scene.upstream_says(PING, b"theirs")
    for payload in (b"theirs", ours, ours):
        scene.client_says(PONG, payload)
    assert scene.upstream.written == [encode(TEXT, b"busy", MASK), encode(PONG, b"theirs", MASK)]


async def test_no_ping_cuts_a_frame_and_it_comes_when_the_frame_is_over(scene: Scene) -> None:
    scene.upstream_says(BINARY, bytes(1000), 500)
    scene.advance(100.0)
    assert len(scene.client.written) == 1
    scene.tunnel.upstream.data_received(encode(BINARY, bytes(1000), None)[500:])
    assert scene.until_asked() <= 100.0 + LATE


async def test_a_ping_may_stand_between_two_fragments(scene: Scene) -> None:
    scene.upstream_says(BEGIN, b"half")
    assert scene.until_asked() <= INTERVAL + LATE


async def test_a_client_that_still_takes_what_stood_before_a_ping_has_not_failed_to_answer_it(scene: Scene) -> None:
    for size in range(100, 0, -1):
        scene.client.backlog = size
        scene.advance(2.0)
    assert len(scene.pings()) == 1
    assert scene.open
    scene.client.backlog = 0
    ended, _ = scene.until_ended()
    assert 200.0 + TIMEOUT - TICK <= ended <= 200.0 + TIMEOUT + 2 * LATE
    assert scene.tunnel.why == "ping_timeout"


async def test_a_backlog_that_never_ends_does_not_hide_a_client_that_does_not_answer(scene: Scene) -> None:
    scene.client.backlog = 1000
    while scene.open and scene.now < 600.0:
        scene.upstream_says(BINARY, bytes(100))
        scene.advance(2.0)
    ended, code = scene.until_ended()
    assert ended <= INTERVAL + TIMEOUT + 4 * LATE
    assert (code, scene.tunnel.why) == (POLICY, "ping_timeout")


async def test_while_we_do_not_read_a_client_it_cannot_be_silent(scene: Scene) -> None:
    scene.until_asked()
    scene.tunnel.client.pause()
    scene.advance(300.0)
    assert scene.open
    scene.tunnel.client.resume()
    assert scene.until_asked() >= 330.0
    ended, _ = scene.until_ended()
    assert ended >= 300.0 + INTERVAL + TIMEOUT


async def test_with_pings_off_nobody_is_asked() -> None:
    async with watched(Patience(ping_interval=0.0)) as scene:
        scene.advance(3600.0)
        assert scene.open
        assert not scene.client.written


# --- slow readers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "farewells"),
    [("client", ((POLICY, b"slow_reader"), GOING_AWAY)), ("upstream", ((INTERNAL, b"slow_reader"), POLICY))],
)
async def test_a_side_that_takes_nothing_is_closed(slow: str, farewells: object, scene: Scene) -> None:
    scene.advance(1000 * TICK)
    scene.client_says(TEXT)
    getattr(scene, slow).backlog = 5
    began = scene.now
    ended, _ = scene.until_ended()
    assert began + SLOW - TICK <= ended <= began + SLOW + LATE
    assert scene.farewells() == farewells
    assert scene.tunnel.why == "slow_reader"


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_a_slow_reader_that_takes_a_byte_now_and_then_lives(slow: str, scene: Scene) -> None:
    side = getattr(scene, slow)
    side.backlog = 1000
    getattr(scene.tunnel, slow).pause_writing()
    for _ in range(100):
        scene.advance(SLOW - 1.0)
        side.backlog -= 1
        scene.client_says(PING)
    assert scene.open
    scene.until_ended()


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_a_full_buffer_counts_from_when_it_filled(slow: str, scene: Scene) -> None:
    """The kernel's own TCP_USER_TIMEOUT, which begins at the same time, must not be first."""
    for _ in range(20):
        scene.advance(5.123)
        scene.client_says(TEXT)
    side = getattr(scene, slow)
    side.backlog = 300_000
    getattr(scene.tunnel, slow).pause_writing()
    began = scene.now
    side.backlog -= 10_000  # what the kernel still takes, at once
    while scene.open:
        scene.advance(TICK)
        if slow == "client":
            scene.client_says(PING)
    ended = scene.ends[0][0]
    assert began + SLOW <= ended <= began + SLOW + 0.2


async def test_a_buffer_that_grows_while_frames_come_is_not_judged_before_they_end(scene: Scene) -> None:
    for size in range(100):
        scene.client.backlog = 100 + size // 50
        scene.upstream_says(TEXT, b"hi")
        scene.advance(5.0)
        scene.client_says(PING)
    assert scene.open
    ended, _ = scene.until_ended()
    assert ended >= 500.0 + SLOW - LATE


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_a_side_that_takes_nothing_is_closed_though_more_is_added_all_the_time(slow: str, scene: Scene) -> None:
    says = scene.upstream_says if slow == "client" else scene.client_says
    header = 2 if slow == "client" else 6
    getattr(scene, slow).backlog = 1000
    while scene.open and scene.now < 600.0:
        says(TEXT, b"tick")
        getattr(scene, slow).backlog += header + 4
        scene.advance(1.0)
        if slow == "client":
            scene.client_says(PING)
    ended, _ = scene.until_ended()
    assert SLOW - TICK <= ended <= SLOW + 2 * LATE
    assert scene.tunnel.why == "slow_reader"


async def test_a_reader_that_takes_a_little_less_than_what_is_added_lives(scene: Scene) -> None:
    scene.client.backlog = 1000
    for _ in range(300):
        scene.upstream_says(TEXT, b"tick")
        scene.client.backlog += 5  # of 6
        scene.client_says(PING)
        scene.advance(1.0)
    assert scene.open


async def test_a_buffer_that_is_empty_at_times_is_no_backlog(scene: Scene) -> None:
    for _ in range(100):
        scene.client.backlog = 100
        scene.advance(LOOK)
        scene.client.backlog = 0
        scene.advance(LOOK)
        scene.client_says(PING)
    assert scene.open


async def test_a_buffer_that_fills_again_and_again_asks_for_one_look_at_a_time(scene: Scene) -> None:
    before = len(scene.wheel)
    for _ in range(1000):
        scene.tunnel.client.pause_writing()
        scene.tunnel.client.resume_writing()
    assert len(scene.wheel) == before + 1


# --- idle and old tunnels -------------------------------------------------------------------------------------------------------


async def test_a_tunnel_without_data_is_1001_for_both() -> None:
    async with watched(Patience(idle_timeout=60.0)) as scene:
        for _ in range(4):
            scene.advance(12.0)
            scene.client_says(PING)
            scene.upstream_says(PING)
            scene.client_says(PONG)
            scene.upstream_says(PONG)
        ended, code = scene.until_ended()
        assert 60.0 - TICK <= ended <= 60.0 + LATE
        assert code == GOING_AWAY
        assert scene.farewells() == ((GOING_AWAY, b"idle_timeout"), GOING_AWAY)


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_data_of_either_side_keeps_a_tunnel_from_being_idle(who: str) -> None:
    async with watched(Patience(idle_timeout=20.0, ping_interval=0.0)) as scene:
        says = scene.client_says if who == "client" else scene.upstream_says
        for _ in range(10):
            scene.advance(19.0)
            says(TEXT)
        says(BINARY, bytes(1000), 500)
        for _ in range(10):
            scene.advance(19.0)
            half = getattr(scene.tunnel, who)
            half.data_received(b"1")
        assert scene.open
        ended, _ = scene.until_ended()
        assert ended >= scene.now - 1.0


async def test_a_side_that_we_do_not_read_is_not_idle() -> None:
    async with watched(Patience(idle_timeout=20.0)) as scene:
        scene.tunnel.client.pause()
        scene.advance(100.0)
        assert scene.open
        scene.tunnel.client.resume()
        assert scene.until_ended()[0] >= 120.0 - LATE


async def test_no_tunnel_is_older_than_its_lifetime_and_they_do_not_end_together() -> None:
    ends = []
    for _ in range(40):
        async with watched(Patience(max_lifetime=100.0)) as scene:
            while scene.open:
                scene.advance(TICK)
                if scene.now % 7 < TICK:
                    scene.client_says(TEXT)
            (when, code, _), *_ = scene.ends
            assert code == GOING_AWAY
            assert scene.farewells() == ((GOING_AWAY, b"max_lifetime"), GOING_AWAY)
            assert 100 * (1 - JITTER) - TICK <= when <= 100 * (1 + JITTER) + 2 * TICK
            ends.append(when)
    assert max(ends) - min(ends) > 10.0


async def test_a_lifetime_below_the_time_between_two_looks_is_kept() -> None:
    async with watched(Patience(max_lifetime=1.0)) as scene:
        assert scene.until_ended()[0] <= 1.1 + 2 * TICK


# --- the looks themselves -------------------------------------------------------------------------------------------------------


async def test_a_tunnel_has_no_deadline_of_its_own_and_is_not_looked_at_behind_its_end(scene: Scene) -> None:
    for _ in range(100):
        scene.advance(1.0)
        scene.client_says(TEXT)
        assert len(scene.wheel) == len(scene.rounds) == 1
    scene.client_says(CLOSE, build_close(1000)[2:])
    assert not scene.open
    assert len(scene.rounds) == 0
    before = len(scene.wheel)
    scene.tunnel.upstream.pause_writing()
    scene.tunnel.upstream.resume_writing()
    assert len(scene.wheel) == before
    scene.upstream_says(CLOSE, build_close(1000)[2:])
    scene.advance(LOOK)
    assert len(scene.wheel) == 0


async def test_the_rounds_begin_again_with_the_next_tunnel() -> None:
    async with watched(Patience()) as scene:
        scene.tunnel.vigil.end()
        scene.advance(100.0)
        assert len(scene.wheel) == 0
        scene.tunnel.vigil.begin()
        assert scene.until_asked() <= 100.0 + LATE


async def test_a_tunnel_that_is_used_is_looked_at_no_oftener_than_an_idle_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(Vigil, "_compare", lambda _, now: looks.append(now))
    for _ in range(1000):
        scene.client_says(TEXT, b"hi")
        scene.upstream_says(TEXT, b"hi")
        scene.advance(0.03)
    assert len(looks) <= 30 / LOOK + 1


async def test_many_tunnels_are_looked_at_a_few_at_a_time_and_each_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[float, Vigil]] = []
    async with watched(Patience()) as scene:
        monkeypatch.setattr(Vigil, "look", lambda self: looks.append((scene.now, self)))
        scene.tunnel.vigil.end()
        vigils = [Vigil(scene.tunnel, scene.rounds) for _ in range(1000)]
        for one in vigils:
            one.begin()
        scene.advance(LOOK + 2 * TICK)
        assert {one for _, one in looks} == set(vigils)
        assert max(Counter(when for when, _ in looks).values()) < 100
        for one in vigils:
            times = [when for when, who in looks if who is one]
            assert all(later - sooner >= LOOK - TICK for sooner, later in pairwise(times))
            one.end()
        assert len(scene.rounds) == 0


@pytest.mark.parametrize("asleep", [25.0, 500.0])
async def test_while_we_sleep_nobody_is_silent_slow_or_idle(asleep: float) -> None:
    """A virtual machine that was moved, a process that was stopped: what the clients sent is unread when the clock jumps."""
    async with watched(Patience(idle_timeout=120.0)) as scene:
        scene.until_asked()
        scene.upstream.backlog = 5
        scene.advance(10.0)
        scene.clock.now += asleep
        scene.advance(1.0)
        assert scene.open
        scene.client_says(PONG, scene.pings()[-1])
        scene.upstream.backlog = 0
        scene.advance(10.0)
        assert scene.open
        scene.until_asked()
        assert scene.until_ended()[1] == POLICY


async def test_a_look_that_fails_is_no_end_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(Patience()) as scene:

        def fail(_: object) -> None:
            raise RuntimeError

        with monkeypatch.context() as patched:
            patched.setattr(Vigil, "look", fail)
            with pytest.raises(RuntimeError):
                scene.advance(LOOK + LATE)
        assert scene.until_asked() <= INTERVAL + 2 * LATE


async def test_a_tunnel_that_ends_while_it_begins_is_not_looked_at(scene: Scene) -> None:
    scene.tunnel.vigil.end()
    tunnel = Tunnel(
        (Wire(), FrameWalker(masked=True)),
        (Wire(), FrameWalker(masked=False)),
        connection="test",
        meters=None,
        surroundings=Surroundings(scene.lingering, scene, scene.wheel, scene.rounds, scene.turns),
    )
    tunnel.begin(b"", encode(CLOSE, b"", None))
    assert len(scene.rounds) == 0
    tunnel.drain(GOING_AWAY, "")


# --- over real sockets: what only the kernel knows ------------------------------------------------------------------------------

IMPATIENT = "tunnel: {slow_reader: 600ms, user_timeout: 1h, ping_interval: 600ms, ping_timeout: 60s}\n"
DELAYED = "rules: [{name: slow, per: user, messages: 1/s, burst: 1, on_excess: delay, max_delay: 1h}]\n"


def why(run: Running) -> list[tuple[int, str]]:
    ends = [json.loads(line) for line in run.log.getvalue().splitlines()]
    return [(one["code"], one.get("why", "")) for one in ends if one["event"] == "connection ended"]


async def trickle(stream: RawStream, frame: bytes, ended: Callable[[], bool]) -> None:
    """A small message every now and then, until the tunnel has ended."""
    async with asyncio.timeout(PATIENCE):
        while not ended():
            stream.writer.write(frame)
            await asyncio.sleep(0.05)


async def test_a_client_that_takes_nothing_is_closed_though_messages_trickle_in() -> None:
    async with pair(IMPATIENT, receive_buffer=4096) as one:
        one.client.writer.transport.pause_reading()
        await one.backend.send(encode(BINARY, bytes(200_000), None))
        await trickle(one.backend, encode(TEXT, b"tick", None), lambda: not one.run.gate.totals.connections)
        assert why(one.run) == [(POLICY, "slow_reader")]
        one.backend.reset()


async def test_a_backend_on_a_unix_socket_that_takes_nothing_is_closed_though_messages_trickle_in(tmp_path: Path) -> None:
    async with (
        waiting_backend(str(tmp_path / "backend")) as (url, arrived),
        running(IMPATIENT, upstream=url) as run,
        raw_client(run.port) as client,
    ):
        await client.send(upgrade_head("/"))
        backend = await arrived.get()
        await backend.accept()
        await client.head()
        backend.writer.transport.pause_reading()
        await client.send(encode(BINARY, bytes(300_000), MASK))
        await trickle(client, encode(TEXT, b"tick", MASK), lambda: not run.gate.totals.connections)
        assert why(run) == [(INTERNAL, "slow_reader")]
        backend.reset()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_leaves_while_its_frame_waits_gives_its_seat_back(how: str) -> None:
    async with pair(IMPATIENT + DELAYED) as one:
        await one.client.send(encode(TEXT, b"hi", MASK) * 100)
        assert (await one.backend.frame())[1] == b"hi"
        getattr(one.client, how)()
        async with asyncio.timeout(PATIENCE):
            while (frame := await one.backend.frame())[0] == TEXT:
                pass
        assert frame == (CLOSE, GOING_AWAY.to_bytes(2, "big"))
        assert why(one.run) == [(1006, "")]
        assert one.run.gate.live.traffic().messages_in < 20


async def test_a_client_that_waits_with_its_frame_stays() -> None:
    async with pair(IMPATIENT + DELAYED) as one:
        await one.client.send(encode(TEXT, b"hi", MASK) * 4)
        for _ in range(4):
            assert (await one.backend.frame())[1] == b"hi"
        assert one.run.gate.totals.connections == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_a_backend_sent_before_it_ended_comes_to_a_slow_client(kind: str, tmp_path: Path) -> None:
    async with (
        waiting_backend(str(tmp_path / "backend") if kind == "unix" else None) as (url, arrived),
        running("tunnel: {ping_interval: off, idle_timeout: 2s, buffer: 4KiB}\n", upstream=url) as run,
        raw_client(run.port, receive_buffer=4096) as client,
    ):
        await client.send(upgrade_head("/"))
        backend = await arrived.get()
        await backend.accept()
        await client.head()
        client.writer.transport.pause_reading()
        sent = b""
        while not any(tunnel.upstream.paused for tunnel in run.gate.live.held):
            sent += encode(BINARY, bytes(60_000), None)
            await backend.send(encode(BINARY, bytes(60_000), None))
            await asyncio.sleep(0.01)
        sent += encode(BINARY, bytes(50_000), None)  # stays in the kernel
        await backend.send(encode(BINARY, bytes(50_000), None))
        await until(lambda: not backend.writer.transport.get_write_buffer_size())
        backend.writer.close()
        await asyncio.sleep(1.2)  # two looks
        client.writer.transport.resume_reading()
        async with asyncio.timeout(60):  # through so small a window TCP stands still at times
            assert await client.reader.readexactly(len(sent)) == sent


# --- any story ------------------------------------------------------------------------------------------------------------------

ACTIONS = ("nothing", "client text", "client ping", "client part", "upstream text", "upstream ping", "upstream part")


@given(
    story=st.lists(st.tuples(st.floats(0.0, 60.0), st.sampled_from(ACTIONS)), max_size=40),
    delay=st.floats(0.0, TIMEOUT - 3.0),
    only_the_latest=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_a_client_that_answers_pings_in_time_is_never_closed_and_the_backend_gets_its_own_pongs_only(
    story: list[tuple[float, str]], delay: float, only_the_latest: bool
) -> None:
    async def tell() -> None:
        async with watched(Patience()) as scene:
            await play(scene, story, delay, only_the_latest=only_the_latest)

    asyncio.run(tell())


async def play(scene: Scene, story: list[tuple[float, str]], delay: float, *, only_the_latest: bool) -> None:
    """The client answers what it was asked `delay` seconds after the first of the pings that wait, all of them or the latest."""
    asked: list[bytes] = []
    answer_at = inf
    theirs: list[bytes] = []
    for number, (seconds, action) in enumerate(story):
        end = scene.now + seconds
        while scene.now < end:
            if asked and scene.now >= answer_at:
                for payload in asked[-1:] if only_the_latest else asked:
                    scene.client_says(PONG, payload)
                asked, answer_at = [], inf
            scene.advance(1.0)
            for one in scene.client.written:
                if one[0] == PING:
                    asked.append(one[2:])
                    answer_at = min(answer_at, scene.now + delay)
            scene.client.written.clear()
        who, _, what = action.partition(" ")
        says = scene.client_says if who == "client" else scene.upstream_says
        if what == "ping":
            theirs.append(b"theirs %d" % number)
            says(PING, theirs[-1])
        elif what == "part":
            says(BINARY, bytes(300), 100)
            half = scene.tunnel.client if who == "client" else scene.tunnel.upstream
            half.data_received(encode(BINARY, bytes(300), MASK if who == "client" else None)[100:])
        elif what:
            says(TEXT, b"hi")
    assert scene.open, scene.ends
    for one in scene.upstream.written:
        if one[0] == PONG:
            assert bytes(a ^ b for a, b in zip(one[6:], MASK * 30, strict=False)) in theirs
