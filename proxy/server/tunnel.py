"""HOT PATH: two protocols that forward the very same bytes, and what they agree on.

A chunk is three calls: walk the headers in it (which charges the meter), and write the same object to the other side. All else,
a drop, a Close, a wish of ours to say something, sets the walker's `attention` and goes the slow way through `Tunnel.attend`.

How a tunnel ends is told by two facts per side. `said`: our last word to it is written, ours or the other side's Close, and nothing
may follow it. `heard`: nothing more of it will be forwarded. A side to which all is said, and from which nothing is to be forwarded
any more, leaves: it lingers until its peer is done. Seats go back at the first sign of the end, before any of this.

A frame of ours may enter a direction only between frames, a text message of ours only between messages. Where that place is, is known
to the walker of the *other* side's direction, since that is whose bytes are being written.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import ceil
from typing import Final, Protocol

from proxy.policy.admission import Excess
from proxy.policy.meter import Meter, Meters
from proxy.policy.notices import Notices
from proxy.policy.rules import Quantity
from proxy.server.linger import Lingering
from proxy.server.sockets import hand_over
from proxy.server.timing_wheel import Deadline, TimingWheel
from proxy.server.turns import Turns, Waiting
from proxy.server.vigil import Rounds, Vigil
from proxy.wire.frames import (
    MASK_SIZE,
    CloseCode,
    CloseFrame,
    FrameWalker,
    Halt,
    Opcode,
    ProtocolError,
    Turn,
    Verdict,
    build_close,
    build_frame,
)

CLOSE_ANSWER: Final = 10.0  # seconds that a side has to answer the other side's Close
FRAME_END: Final = 2.0  # seconds that a Close of ours waits for the end of a frame
MESSAGE_END: Final = 0.5  # seconds that a notice waits for the end of a message
PING_SIZE: Final = 8  # random bytes in the payload of our pings


class Initiator(Enum):
    """Who ended a connection; the values are metric labels."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    GATE = "gate"


class Phase(Enum):
    """ENDING begins with the first sign of the end; OVER when both sides have left."""

    OPEN = 0
    ENDING = 1
    OVER = 2


@dataclass(frozen=True, slots=True)
class PendingNotice:
    """A notice that waits for the end of a message. `drops`: what it tells of."""

    frame: bytes
    rule: str
    drops: int


class Ends(Protocol):
    """Who wants to know of the end of a tunnel."""

    def ended(self, tunnel: Tunnel, code: int, initiator: Initiator) -> None:
        """The first sign of the end. Its seats are free from now on; its frames are still forwarded, and charged."""

    def over(self, tunnel: Tunnel) -> None:
        """Nothing more will be forwarded, so its meters are free too."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all tunnels of a gate have in common."""

    lingering: Lingering
    ends: Ends
    wheel: TimingWheel
    rounds: Rounds
    turns: Turns


class Half(asyncio.Protocol):
    """One side of a tunnel: reads from its own transport, writes to its peer's."""

    __slots__ = ("farewell", "forward", "heard", "hold", "left", "paused", "peer", "said", "transport", "tunnel", "walker", "writable")

    peer: Half

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, walker: FrameWalker) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.walker = walker
        self.forward: Callable[[bytes], None]  # writes to the peer's transport, or nowhere once all is said to it
        self.farewell: bytes | None = None  # our Close to this side, waiting for the end of a frame
        self.said = False
        self.heard = False
        self.left = False
        self.hold: asyncio.Handle | Waiting | None = None  # when the frame at which the walker halted is asked about again
        self.paused = 0  # how many reasons there are not to read from this side
        self.writable = True

    def data_received(self, data: bytes, _now: Callable[[], float] = time.monotonic) -> None:
        walker = self.walker
        onward = walker.receive_data(data, _now())
        if walker.attention:
            self.tunnel.attend(self, onward)
        elif onward:
            self.forward(onward)

    @property
    def is_held(self) -> bool:
        """Does a frame from this side wait for its tokens?"""
        return self.walker.halt is Verdict.HOLD

    def eof_received(self) -> bool:
        self.tunnel.gone(self)
        return self.transport.can_write_eof()  # not on TLS, which knows no half-open stream

    def connection_lost(self, exc: Exception | None) -> None:
        if self.left:  # told before, or somebody else's by now: over TLS a loss is told late
            return
        self.left = True
        if isinstance(exc, TimeoutError):  # by TCP_USER_TIMEOUT or keepalive
            self.tunnel.why = "user_timeout"
        self.tunnel.gone(self)

    def pause_writing(self) -> None:
        self.writable = False
        self.peer.pause()
        if self.tunnel.phase is Phase.OPEN:
            self.tunnel.vigil.buffer_full()

    def resume_writing(self) -> None:
        self.writable = True
        self.peer.resume()

    def pause(self) -> None:
        """One more reason not to read from this side: its peer's buffer is full, or a frame is held."""
        self.paused += 1
        if self.paused == 1 and not self.left and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self.paused -= 1
        if not self.paused and not self.left and not self.transport.is_closing():
            self.transport.resume_reading()


class Tunnel:
    """One relayed connection. `surroundings.ends` hears once of each phase that it enters.

    How much may wait for a slow reader is set on the transports already.
    """

    __slots__ = (
        "_around",
        "_loop",
        "_notice",
        "_notices",
        "_timer",
        "client",
        "connection",
        "meters",
        "phase",
        "upstream",
        "vigil",
        "why",
    )

    def __init__(
        self,
        client: tuple[asyncio.Transport, FrameWalker],
        upstream: tuple[asyncio.Transport, FrameWalker],
        *,
        connection: str,
        meters: Meters | None,
        surroundings: Surroundings,
    ) -> None:
        self.connection = connection
        self.meters = meters
        self._around = surroundings
        self._loop = asyncio.get_running_loop()
        self._timer: Deadline | None = None
        self._notices: Notices | None = None
        self._notice: PendingNotice | None = None
        self.phase = Phase.OPEN
        self.why = ""  # of an end that lies in no frame: the key, or the words, that tell the operator
        self.vigil = Vigil(self, surroundings.rounds)
        self.client = Half(self, *client)
        self.upstream = Half(self, *upstream)
        self.client.peer, self.upstream.peer = self.upstream, self.client
        for half in (self.client, self.upstream):
            half.forward = half.peer.transport.write
            hand_over(half.transport, half)

    def begin(self, first: bytes, rest: bytes) -> None:
        """Write our 101, and then what the upstream sent behind its own."""
        self.client.transport.write(first)
        if rest:
            self.upstream.data_received(rest)
        if not self.upstream.left and not self.upstream.paused:
            self.upstream.transport.resume_reading()
        if self.phase is Phase.OPEN:
            self.vigil.begin()

    def drain(self, code: int, reason: str) -> None:
        """Close both sides in an orderly way. Where one of them has closed already, the other's answer is waited for no more."""
        if self.phase is Phase.OPEN:
            self.dismiss(code, reason, CloseCode.GOING_AWAY)
        elif self.phase is Phase.ENDING and self.client.farewell is None and self.upstream.farewell is None:
            self._give_up()

    def dismiss(self, code: int, why: str, upstream_code: int) -> None:
        """Close both sides of an open tunnel, for a reason that lies in no frame."""
        self.why = why
        self._close(code, build_close(code, why), upstream_code)

    def ask(self) -> bool:
        """Ask the client whether it is there, unless a ping of the upstream asks already. False where a frame would be cut by it."""
        client, upstream = self.client.walker, self.upstream.walker
        if upstream.ping_or_pong_at > client.ping_or_pong_at:
            return True
        if upstream.in_frame:
            return False
        if client.own_pong is None:
            client.own_pong = os.urandom(PING_SIZE)
        client.own_pings += 1
        self.client.transport.write(build_frame(Opcode.PING, client.own_pong))
        return True

    def attend(self, half: Half, onward: bytes) -> None:
        """The slow way for one chunk of `half`: `onward` goes on, with what we have to say in the place where it may stand."""
        walker, peer = half.walker, half.peer
        if peer.said:
            pass
        elif peer.farewell is not None and walker.frame_end >= 0:
            self._say(peer, onward[: walker.frame_end] + peer.farewell)
        elif half is self.upstream and self._notice is not None and walker.message_end >= 0:
            notice, self._notice = self._notice.frame, None
            half.forward(onward[: walker.message_end] + notice + onward[walker.message_end :])
        elif onward:
            half.forward(onward)
        if (meter := self._meter(half)) is not None and meter.drops:
            self._notify(meter)
        self._halt(half, walker.halt)
        if peer.farewell is None and (half is self.client or self._notice is None):
            walker.unwatch()
        self._settle()

    def _halt(self, half: Half, halt: Halt | None) -> None:
        if halt is None or half.heard:
            return
        if isinstance(halt, CloseFrame):
            self._close_received(half, halt)
        elif isinstance(halt, ProtocolError):
            self._broken(half, halt)
        elif halt is Turn.OVER:
            self._let_others_go_first(half)
        elif halt is Verdict.HOLD:
            self._hold(half)
        else:
            self._breach(half)

    def _close_received(self, half: Half, frame: CloseFrame) -> None:
        half.heard = True
        self._end(frame.code, Initiator.CLIENT if half is self.client else Initiator.UPSTREAM)
        if not half.peer.said:
            self._say(half.peer, half.peer.farewell or frame.raw)
        if not half.said:
            self._arm(CLOSE_ANSWER)

    def _broken(self, half: Half, error: ProtocolError) -> None:
        half.heard = True
        ours = build_close(error.close_code, str(error))
        if half is self.client:
            self._close(error.close_code, ours, error.close_code)
        else:
            self._close(CloseCode.INTERNAL_ERROR, build_close(CloseCode.INTERNAL_ERROR, "bad frame from the server"), error.close_code)

    def _meter(self, half: Half) -> Meter | None:
        """What the frames from this side are charged to."""
        if self.meters is None:
            return None
        return self.meters.inward if half is self.client else self.meters.outward

    def _breach(self, half: Half) -> None:
        """The meter said CLOSE, and why."""
        meter = self._meter(half)
        assert meter is not None and meter.closing is not None
        excess = meter.closing
        rule = excess.rule
        error = build_frame(Opcode.TEXT, excess.error_message(self.connection))
        close = build_close(rule.close_code, excess.close_reason(self.connection))
        size = rule.quantity is Quantity.MESSAGE_SIZE
        self._close(rule.close_code, close, CloseCode.MESSAGE_TOO_BIG if size else CloseCode.POLICY_VIOLATION, error)

    def _hold(self, half: Half) -> None:
        """The frame waits, and all behind it, until the meter can tell more."""
        meter = self._meter(half)
        assert meter is not None
        half.pause()
        # Whole milliseconds, rounded up: an event loop's timers know no others, and one that fires early asks for nothing.
        wait = ceil(max(0.0, meter.hold_until - time.monotonic()) * 1000) / 1000
        half.hold = timer = self._loop.call_later(wait, self._ask_again, half)
        meter.call_when_known(partial(self._wake, half, timer))

    def _wake(self, half: Half, timer: asyncio.TimerHandle) -> None:
        """There may be more to tell already."""
        if half.hold is timer:
            timer.cancel()
            half.hold = self._loop.call_soon(self._ask_again, half)

    def _let_others_go_first(self, half: Half) -> None:
        """Too much for one turn of the loop: the rest comes in a later one, and nothing more is read until then."""
        half.pause()
        half.hold = self._around.turns.wait(partial(self._ask_again, half))

    def _ask_again(self, half: Half) -> None:
        half.hold = None
        if half.left or half.heard:
            return
        half.walker.resume()
        half.data_received(b"")
        half.resume()  # only now: where the next frame is held at once, the transport has never begun to read

    def _let_go(self, half: Half) -> None:
        """Nobody waits for a frame any more that is held: it, and what comes, goes nowhere."""
        if half.hold is not None:
            half.hold.cancel()
            half.hold = None
            half.resume()
            if (meter := self._meter(half)) is not None:
                meter.give_up(time.monotonic())

    def _close(self, code: int, to_client: bytes, upstream_code: int, error: bytes = b"") -> None:
        """A close of ours. `error` goes before it where a message may stand; what the sides still send goes nowhere."""
        self._end(code, Initiator.GATE)
        in_message = self.upstream.walker.in_message
        self._bid_farewell(self.client, to_client if in_message else error + to_client)
        self._bid_farewell(self.upstream, build_close(upstream_code, mask=os.urandom(MASK_SIZE)))
        self._settle()

    def _bid_farewell(self, half: Half, close: bytes) -> None:
        """Write our Close as soon as no frame is cut by it, within FRAME_END."""
        if half.said:
            return
        if half.peer.walker.in_frame and not half.peer.heard:
            half.farewell = close
            half.peer.walker.watch()
            self._arm(FRAME_END)
        elif half.peer.walker.in_frame:
            self._say(half, b"")  # cut for good: FIN is all that can be written
        else:
            self._say(half, close)

    def _say(self, half: Half, last: bytes) -> None:
        """Write the last bytes that this side gets."""
        if last:
            half.peer.forward(last)
        half.said = True
        half.farewell = None
        half.peer.forward = _nowhere

    def gone(self, half: Half) -> None:
        """The end of the stream, or of the connection (`half.left`)."""
        if half is self.client:
            self._end(CloseCode.ABNORMAL_CLOSURE, Initiator.CLIENT)
            last = self._closing_answer(half.peer) or build_close(CloseCode.GOING_AWAY, mask=os.urandom(MASK_SIZE))
        else:
            self._end(CloseCode.ABNORMAL_CLOSURE, Initiator.UPSTREAM)
            last = self._closing_answer(half.peer) or build_close(CloseCode.INTERNAL_ERROR, "the server is gone")
        half.heard = half.said = True
        half.farewell = None
        half.peer.forward = _nowhere
        if not half.left:
            half.left = True
            self._around.lingering.adopt(half.transport, heard=True)
        self._bid_farewell(half.peer, half.peer.farewell or last)
        self._settle()

    def _settle(self) -> None:
        """Let those sides leave that have nothing to hear and nothing to tell any more."""
        if self.phase is not Phase.ENDING:
            return
        for half in (self.client, self.upstream):
            if half.said and (half.heard or half.peer.said):
                if not half.left:
                    half.left = True
                    self._around.lingering.adopt(half.transport, half.walker)
                self._let_go(half)
            elif half.peer.said and isinstance(half.walker.halt, Verdict):
                # Its Close or its end is still awaited: walk on behind the frame that was refused, so that nothing piles up.
                walker = half.walker
                walker.stop_judging()
                walker.resume()
                walker.receive_data(b"", 0.0)
                self._let_go(half)
                if walker.halt is Turn.OVER:
                    self._let_others_go_first(half)
        if self.client.left and self.upstream.left:
            self.phase = Phase.OVER
            if self._timer is not None:
                self._timer.cancel()
            self._around.ends.over(self)

    def _end(self, code: int, initiator: Initiator) -> None:
        if self.phase is not Phase.OPEN:
            return
        self.phase = Phase.ENDING
        self.vigil.end()
        self._notice = None
        self._around.ends.ended(self, code, initiator)

    def _arm(self, seconds: float) -> None:
        """Give up after `seconds`, or when it was to be already: whoever can send a Close must not win time by it."""
        when = self._around.wheel.time() + seconds
        if self._timer is not None:
            if self._timer.due <= when:
                return
            self._timer.cancel()
        self._timer = self._around.wheel.call_at(when, self._give_up)

    def _closing_answer(self, half: Half) -> bytes | None:
        """What a side that has sent its Close gets when the other side has no answer to it: its own code back, RFC 6455 §5.5.1."""
        halt = half.walker.halt
        if not isinstance(halt, CloseFrame):
            return None
        return build_close(halt.code, mask=os.urandom(MASK_SIZE) if half is self.upstream else None)

    def _give_up(self) -> None:
        """A frame did not end, or a Close was not answered in time: what may still be said is said, and both sides leave."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for half in (self.client, self.upstream):
            if not half.said:
                mask = os.urandom(MASK_SIZE) if half is self.upstream else None
                last = self._closing_answer(half) or build_close(CloseCode.GOING_AWAY, mask=mask)
                self._say(half, b"" if half.peer.walker.in_frame else last)
        self._settle()

    def _notify(self, meter: Meter) -> None:
        """Tell the client what was dropped: seldom, only between messages, and only if it reads."""
        now = time.monotonic()
        if self._notices is None:
            self._notices = Notices()
        for drops in meter.take_drops():
            excess = drops.excess(now)
            if not excess.rule.notify:
                continue
            suppressed = self._notices.note(excess.rule.name, drops.count, now)
            if suppressed is not None and not self._tell(excess, suppressed):
                self._notices.unsent(excess.rule.name, suppressed + 1)  # it is counted in the next one

    def _tell(self, excess: Excess, suppressed: int) -> bool:
        if self.client.said or self.client.farewell is not None or not self.client.writable or self._notice is not None:
            return False
        notice = build_frame(Opcode.TEXT, excess.error_message(self.connection, suppressed))
        if not self.upstream.walker.in_message:
            self.client.transport.write(notice)
            return True
        self._notice = PendingNotice(notice, excess.rule.name, suppressed + 1)
        self.upstream.walker.watch()
        self._around.wheel.call_later(MESSAGE_END, partial(self._drop_notice, self._notice))
        return True

    def _drop_notice(self, notice: PendingNotice) -> None:
        """The message did not end in time."""
        if self._notice is notice and self._notices is not None:
            self._notice = None
            self._notices.unsent(notice.rule, notice.drops)


def _nowhere(data: bytes) -> None:
    """Where bytes go behind the last word."""
