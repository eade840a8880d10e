"""How every connection of ours ends: say the last word, shut down the write side, read and throw away until the peer is done.

`transport.close()` with unread data in the socket makes the kernel send RST, and the peer's kernel then throws away what it had not
read yet: the Close frame is lost exactly for the client that floods (DESIGN, "The wire" 2). So whoever got our last word comes here.
Lingering connections are bounded in number (the oldest gives way) and in time, also when the peer does not read.

A peer that floods goes on with it, and may have come back and been closed again in the meantime. So all of them together have one turn
in each turn of the loop (`turns.py`). A Close behind a flood is looked for on a few of them only: what was read is held until it is walked.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.server.timing_wheel import Deadline, TimingWheel
from proxy.server.turns import Turns, Waiting
from proxy.wire.frames import CloseFrame, FrameWalker, Turn

LINGER: Final = 2.0  # seconds
LAST_BYTES: Final = 10.0  # seconds more, for a slow reader to take what was written before our last word
MORE_LOOKS: Final = round(LAST_BYTES / LINGER)  # how often such a reader is given another LINGER
MAX_LINGERING: Final = 1024  # connections
MAX_WALKED: Final = 8  # of these, at a time, of which more than a turn is held: 256 KB of each at most
FULL: Final = 1 << 17  # bytes; behind a chunk of so many more is read in a turn of its own: uvloop would bring up to 32 at once


class Lingering:
    """The connections that are on their way out, oldest first."""

    def __init__(self, wheel: TimingWheel, turns: Turns, most: int = MAX_LINGERING) -> None:
        self.wheel = wheel
        self.turns = turns
        self._most = most
        self._peers: dict[_Leaving, None] = {}
        self._walked: dict[_Leaving, None] = {}  # those of which more than a turn is held

    def adopt(self, transport: asyncio.Transport, walker: FrameWalker | None = None, *, heard: bool = False) -> None:
        """Take over a transport to which all has been written.

        `walker` stands in the peer's direction and finds its Close; without one only the end of the stream ends the wait.
        `heard`: the stream has ended already, and only what was written is still to go out.
        """
        if len(self._peers) >= self._most:
            next(iter(self._peers)).give_up()
        peer = _Leaving(transport, walker, self)
        self._peers[peer] = None
        peer.wait()
        transport.set_protocol(peer)
        if transport.is_closing():
            return
        if heard:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()
        if walker is not None:
            peer.data_received(b"")

    def note_walked(self, peer: _Leaving) -> None:
        """More than a turn of this one is held. If that is one too many, no Close of the oldest of them is looked for any more."""
        self._walked[peer] = None
        if len(self._walked) > MAX_WALKED:
            next(iter(self._walked)).look_no_more()

    def forget_walked(self, peer: _Leaving) -> None:
        """Nothing of this one is held any more."""
        self._walked.pop(peer, None)

    def forget(self, peer: _Leaving) -> None:
        """This one is gone."""
        self._peers.pop(peer, None)
        self._walked.pop(peer, None)

    def __len__(self) -> int:
        return len(self._peers)

    def abort(self) -> None:
        """End them all at once."""
        for peer in list(self._peers):
            peer.give_up()


class _Leaving(asyncio.Protocol):
    """One peer that has had our last word."""

    __slots__ = ("_deadline", "_lingering", "_looks", "_transport", "_turn", "_walker")

    _deadline: Deadline

    def __init__(self, transport: asyncio.Transport, walker: FrameWalker | None, lingering: Lingering) -> None:
        self._transport = transport
        self._walker = walker
        self._lingering = lingering
        self._looks = MORE_LOOKS
        self._turn: Waiting | None = None  # when what is held is walked on, or more is read
        if walker is not None:
            walker.stop_judging()
            walker.resume()

    def data_received(self, data: bytes) -> None:
        walker = self._walker
        if walker is not None:
            walker.receive_data(data, 0.0)
            halt = walker.halt
            if isinstance(halt, CloseFrame):
                self._transport.close()
                return
            if halt is Turn.OVER:
                self._wait_for_a_turn()
                if walker.held:
                    self._lingering.note_walked(self)
                return
            if halt is not None:
                self._walker = None  # no Close can be found behind a bad frame: read on until the end of the stream
        if len(data) >= FULL:
            self._wait_for_a_turn()

    def _wait_for_a_turn(self) -> None:
        """More is read only once all is looked at that was read before, and others had their turn."""
        self._transport.pause_reading()
        self._turn = self._lingering.turns.wait(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if self._transport.is_closing():
            return
        if self._walker is not None and self._walker.halt is Turn.OVER:
            self._walker.resume()
            self.data_received(b"")
        self._read_on()

    def _read_on(self) -> None:
        if self._turn is None and not self._transport.is_closing():
            self._lingering.forget_walked(self)
            self._transport.resume_reading()

    def look_no_more(self) -> None:
        """Read on until the end of the stream."""
        self._walker = None
        self._lingering.forget_walked(self)

    def eof_received(self) -> bool:
        self._transport.close()
        return self._transport.can_write_eof()  # TLS knows no half-open stream, and asyncio complains of who wants one

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def wait(self) -> None:
        """Give up after LINGER; later while something is still to be written, but not after LAST_BYTES more."""
        self._deadline = self._lingering.wheel.call_later(LINGER, self._look_again)

    def _look_again(self) -> None:
        if self._transport.get_write_buffer_size() and self._looks:
            self._looks -= 1
            self.wait()
        else:
            self.give_up()

    def give_up(self) -> None:
        """The time is over, or others need the place."""
        self._transport.abort()
        self._leave()

    def _leave(self) -> None:
        self._deadline.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._lingering.forget(self)
