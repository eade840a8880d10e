"""What a tunnel's peers owe it: to read, to be there, to have something to say. A vigil looks at one tunnel now and then.

Nothing is done per frame. A look compares the walkers' counters with those of the look before, so that a peer's silence is known to
a quarter of the shortest time that is watched; what is due sooner (a pong, the end of a lifetime) is looked at when it is due. What
must not happen too early is counted from the look that saw the last sign of life, so it can only come later, by one look.

A reader makes progress while it takes bytes, however few, and whatever is added meanwhile: TCP counts them. Elsewhere it is told from
what waits, in our buffer and in the kernel's, and from what has come. One that takes none for `slow_reader` is closed.

Our own ping goes out only when the client has been silent, and not while a ping of the backend waits for its pong: a client need
answer only the latest (RFC 6455 §5.5.3). That ping then asks in the place of ours. What stood before it must be taken first; then
the time to answer begins. Whatever the client sends is life; while we do not read it, it cannot be silent.

Of a side that we do not read the event loop does not tell that it has gone. So the kernel is asked.
"""

from __future__ import annotations

import asyncio
import fcntl
import random
import select
import socket
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.server.timing_wheel import TICK, Deadline, TimingWheel
from proxy.wire.frames import CloseCode, FrameWalker

if TYPE_CHECKING:
    from proxy.server.tunnel import Tunnel

LOOKS: Final = 4  # in the shortest time that is watched
MOST_STEPS: Final = 61  # of a period: so many parts of all tunnels are looked at one after the other
SOON: Final = 0.05  # seconds from a full buffer to the look that counts from it
SLACK: Final = 0.001  # seconds; what is due within it is due
STALL: Final = 1.0  # seconds by which a step must be late to show that the whole process stood still
JITTER: Final = 0.1  # of a lifetime, either way: tunnels that opened together do not end together

ACKED: Final = slice(120, 128)  # of struct tcp_info (linux/tcp.h): tcpi_bytes_acked, 64 bits; Linux 4.1 and later


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a tunnel may go on so; seconds. But for `slow_reader` and `ping_timeout`, 0 is for ever.

    `slow_reader`: that nothing leaves the buffer of a side. `ping_interval`: that a client is silent before it is asked; `ping_timeout`:
    that it does not answer. `idle_timeout`: that neither side sends data; pings and pongs are none. `max_lifetime`: in all, ± 10 %.
    """

    slow_reader: float = 30.0
    ping_interval: float = 30.0
    ping_timeout: float = 20.0
    idle_timeout: float = 0.0
    max_lifetime: float = 0.0

    period: float = field(init=False)  # seconds between two looks

    def __post_init__(self) -> None:
        shortest = min(one for one in (self.slow_reader, self.ping_interval, self.idle_timeout) if one)
        object.__setattr__(self, "period", shortest / LOOKS)


@dataclass(frozen=True, slots=True)
class Overdue:
    """Why a tunnel is ended, and with which close codes."""

    why: str
    to_client: int
    to_upstream: int


SLOW_CLIENT: Final = Overdue("slow_reader", CloseCode.POLICY_VIOLATION, CloseCode.GOING_AWAY)
SLOW_UPSTREAM: Final = Overdue("slow_reader", CloseCode.INTERNAL_ERROR, CloseCode.POLICY_VIOLATION)
SILENT: Final = Overdue("ping_timeout", CloseCode.POLICY_VIOLATION, CloseCode.GOING_AWAY)
IDLE: Final = Overdue("idle_timeout", CloseCode.GOING_AWAY, CloseCode.GOING_AWAY)
OLD: Final = Overdue("max_lifetime", CloseCode.GOING_AWAY, CloseCode.GOING_AWAY)


class _Backlog:
    """Bytes that wait for a reader, in our buffer and in the kernel's, and since when it has taken none (seconds of the loop).

    `acked`: bytes that it has taken in all; None where the kernel does not count them.
    """

    __slots__ = ("acked", "buffer", "kernel", "since")

    def __init__(self, buffer: int, kernel: int, acked: int | None, since: float) -> None:
        self.buffer = buffer
        self.kernel = kernel
        self.acked = acked
        self.since = since

    @property
    def size(self) -> int:
        return self.buffer + self.kernel

    def taken(self, before: _Backlog, came: int) -> int:
        """Bytes that the reader took since `before`; 0 only if it took none. `came`: bytes that were added, at least.

        A Unix socket's kernel counts its queue in bytes of its own memory. So only where both buffers have something in them, and
        neither has less than it would have without a reader, it is told that there is none.
        """
        if self.acked is not None and before.acked is not None:
            return self.acked - before.acked
        if not came:
            return max(0, before.size - self.size)
        if before.buffer and self.buffer >= before.buffer + came and self.kernel >= before.kernel:
            return 0
        return max(1, before.size + came - self.size)


class Rounds:
    """Looks at every tunnel of a gate once in a period, at a few of them at a time: there is no deadline per tunnel."""

    def __init__(self, wheel: TimingWheel, patience: Patience) -> None:
        self.wheel = wheel
        self.patience = patience
        count = (
            max(1, min(MOST_STEPS, int(patience.period / TICK))) - 1 | 1
        )  # odd, as the places of objects in memory are even: see `_step`
        self._steps: list[dict[Vigil, None]] = [{} for _ in range(count)]
        self._next = 0  # the step whose turn comes next
        self._pause = patience.period / count  # seconds between two steps
        self._deadline: Deadline | None = None  # of the next step

    def add(self, vigil: Vigil) -> None:
        """Look at this one too, for the first time within a period."""
        self._step(vigil)[vigil] = None
        if self._deadline is None:
            self._deadline = self.wheel.call_later(self._pause, self._turn)

    def remove(self, vigil: Vigil) -> None:
        """Look at this one no more."""
        self._step(vigil).pop(vigil, None)

    def _step(self, vigil: Vigil) -> dict[Vigil, None]:
        return self._steps[hash(vigil) % len(self._steps)]

    def _turn(self) -> None:
        assert self._deadline is not None
        now, due = self.wheel.time(), self._deadline.due
        late = now - due
        if late > STALL:
            for vigil in self._all():
                vigil.excuse(late)
        step = self._steps[self._next]
        self._next = (self._next + 1) % len(self._steps)
        again = max(now, due + self._pause)  # no tick is lost from step to step
        self._deadline = self.wheel.call_at(again, self._turn) if any(self._steps) else None
        for vigil in list(step):
            vigil.look()

    def _all(self) -> Iterator[Vigil]:
        return chain.from_iterable(self._steps)

    def __len__(self) -> int:
        return sum(map(len, self._steps))


class Vigil:
    """The looks at one tunnel, from `begin` to `end`."""

    __slots__ = (
        "_asked",
        "_before_ping",
        "_client_backlog",
        "_client_life",
        "_client_size",
        "_data",
        "_deadline",
        "_heard",
        "_last_data",
        "_latest",
        "_rounds",
        "_tunnel",
        "_upstream_backlog",
        "_upstream_life",
        "_upstream_size",
    )

    def __init__(self, tunnel: Tunnel, rounds: Rounds) -> None:
        self._tunnel = tunnel
        self._rounds = rounds
        self._deadline: Deadline | None = None  # a look between those of the rounds
        now = rounds.wheel.time()
        lifetime = rounds.patience.max_lifetime
        self._latest = now + lifetime * random.uniform(1 - JITTER, 1 + JITTER) if lifetime else inf  # when the lifetime is over
        self._heard = now  # when the client was last known to be there
        self._asked = inf  # when it was asked whether it is; inf: not since it was heard
        self._before_ping = 0  # bytes that it has to take before it can know that it is asked
        # When data last came, of either side; inf: nobody wants to know.
        self._last_data = now if rounds.patience.idle_timeout else inf
        # The walkers' counters, as the last look saw them.
        self._client_life = self._upstream_life = self._data = self._client_size = self._upstream_size = 0
        self._client_backlog: _Backlog | None = None
        self._upstream_backlog: _Backlog | None = None

    def begin(self) -> None:
        """Look from now on."""
        self._rounds.add(self)
        self._look_also_at(self._latest, self._rounds.wheel.time())

    def end(self) -> None:
        """Look no more."""
        self._rounds.remove(self)
        self._forget()

    def buffer_full(self) -> None:
        """Somebody reads less than the other side sends: time counts from about now, not from the next look."""
        soon = self._rounds.wheel.time() + SOON
        if self._deadline is None or self._deadline.due > soon:
            self._forget()
            self._deadline = self._rounds.wheel.call_at(soon, self.look)

    def excuse(self, seconds: float) -> None:
        """We slept so long, and could hear nobody: what came meanwhile is still to be read."""
        self._heard += seconds
        self._asked += seconds
        self._last_data += seconds
        for backlog in (self._client_backlog, self._upstream_backlog):
            if backlog is not None:
                backlog.since += seconds

    def look(self) -> None:
        """End the tunnel if something is overdue, ask the client if it is silent, and look again when the next thing can be due."""
        self._forget()
        for half in (self._tunnel.client, self._tunnel.upstream):
            if half.paused and _has_left(half.transport, for_good=half is self._tunnel.upstream or not half.is_held):
                self._tunnel.gone(half)
                return
        now = self._rounds.wheel.time()
        self._compare(now)
        due, overdue = min(self._dues(), key=_first)
        if due <= now + SLACK:
            self._tunnel.dismiss(overdue.to_client, overdue.why, overdue.to_upstream)
            return
        if self._asked == inf and self._is_silent(now) and self._tunnel.ask():
            self._asked = now
            self._before_ping = self._client_backlog.size if self._client_backlog is not None else 0
            due = min(due, now + self._rounds.patience.ping_timeout)
        self._look_also_at(due, now)

    def _look_also_at(self, due: float, now: float) -> None:
        """Look when something is due, if no round comes before that."""
        if due < now + self._rounds.patience.period:
            self._deadline = self._rounds.wheel.call_at(due, self.look)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _compare(self, now: float) -> None:
        """What has changed since the last look?"""
        client, upstream = self._tunnel.client, self._tunnel.upstream
        client_data, upstream_data = _data(client.walker), _data(upstream.walker)
        client_life, upstream_life = client_data + client.walker.controls, upstream_data + upstream.walker.controls
        client_size, upstream_size = client.walker.least_size, upstream.walker.least_size
        before = self._client_backlog
        self._client_backlog = _backlog(client.transport, before, now, upstream_size - self._upstream_size)
        self._upstream_backlog = _backlog(upstream.transport, self._upstream_backlog, now, client_size - self._client_size)
        if self._before_ping:
            taken = _taken(self._client_backlog, before, upstream_size - self._upstream_size)
            self._before_ping = max(0, self._before_ping - taken)
            self._asked = now
        self._client_size, self._upstream_size = client_size, upstream_size
        if client.paused or client_life != self._client_life:
            self._heard, self._asked, self._before_ping = now, inf, 0
        if self._last_data != inf and (client.paused or upstream.paused or client_data + upstream_data != self._data):
            self._last_data = now
        self._client_life, self._upstream_life, self._data = client_life, upstream_life, client_data + upstream_data

    def _dues(self) -> Iterator[tuple[float, Overdue]]:
        """What can become overdue, and when."""
        patience = self._rounds.patience
        yield self._latest, OLD
        yield self._asked + patience.ping_timeout, SILENT
        yield self._last_data + patience.idle_timeout, IDLE
        if self._client_backlog is not None:
            yield self._client_backlog.since + patience.slow_reader, SLOW_CLIENT
        if self._upstream_backlog is not None:
            yield self._upstream_backlog.since + patience.slow_reader, SLOW_UPSTREAM

    def _is_silent(self, now: float) -> bool:
        """Has the client said nothing for long? Looks are whole periods apart but for a tick."""
        interval = self._rounds.patience.ping_interval
        return bool(interval) and self._heard + interval <= now + TICK


def _first(one: tuple[float, Overdue]) -> float:
    return one[0]


def _data(walker: FrameWalker) -> int:
    """Changes whenever data has come."""
    return walker.messages + walker.received_bytes


def _backlog(transport: asyncio.Transport, before: _Backlog | None, now: float, came: int) -> _Backlog | None:
    """What waits for a reader. `came`: bytes that were added since `before`, at least."""
    buffer, kernel = transport.get_write_buffer_size(), _with_kernel(transport)
    if not buffer + kernel:
        return None
    found = _Backlog(buffer, kernel, _acked(transport), now)
    if before is not None and not found.taken(before, came):
        found.since = before.since
    return found


def _taken(backlog: _Backlog | None, before: _Backlog | None, came: int) -> int:
    """Bytes that a reader took, of which all if none are left; at least."""
    if before is None:
        return 0
    return before.size if backlog is None else backlog.taken(before, came)


def _socket(transport: asyncio.Transport) -> socket.socket | None:
    return None if transport.is_closing() else transport.get_extra_info("socket")


def _with_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds because the peer has not taken them: tcp(7), SIOCOUTQ; unix(7). 0 where it does not tell."""
    sock = _socket(transport)
    if sock is None:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _acked(transport: asyncio.Transport) -> int | None:
    """Bytes that the peer's kernel has taken so far: tcp(7), TCP_INFO. None where ours does not tell, as of a Unix socket."""
    sock = _socket(transport)
    if sock is None:
        return None
    try:
        acked = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.stop)[ACKED]
    except OSError:
        return None
    return int.from_bytes(acked, sys.byteorder) if len(acked) == ACKED.stop - ACKED.start else None


def _has_left(transport: asyncio.Transport, *, for_good: bool) -> bool:
    """Is the connection lost, or else, unless it must be lost `for_good`, will the peer send nothing more? poll(2).

    Of a Unix socket both look alike: what the peer sent before it closed may still be unread, so nobody knows that it is lost for good.
    """
    sock = _socket(transport)
    if sock is None or sock.fileno() < 0 or (for_good and sock.family == socket.AF_UNIX):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), 0 if for_good else select.POLLRDHUP)
    return bool(poll.poll(0))
