"""How every connection of ours ends: say the last word, shut down the write side, read and throw away until the peer is done.

`transport.close()` with unread data in the socket makes the kernel send RST, and the peer's kernel then throws away what it had not
read yet: the Close frame is lost exactly for the client that floods (DESIGN, "The wire" 2). So whoever got our last word comes here.
Lingering connections are bounded in number (the oldest gives way) and in time, also when the peer does not read.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.server.timing_wheel import Deadline, TimingWheel
from proxy.wire.frames import CloseFrame, FrameWalker, Turn

LINGER: Final = 2.0  # seconds
LAST_BYTES: Final = 10.0  # seconds more, for a slow reader to take what was written before our last word
MORE_LOOKS: Final = round(LAST_BYTES / LINGER)  # how often such a reader is given another LINGER
MAX_LINGERING: Final = 1024  # connections


class Lingering:
    """The connections that are on their way out, oldest first."""

    def __init__(self, wheel: TimingWheel, most: int = MAX_LINGERING) -> None:
        self._wheel = wheel
        self._most = most
        self._peers: dict[_Leaving, None] = {}

    def adopt(self, transport: asyncio.Transport, walker: FrameWalker | None = None, *, heard: bool = False) -> None:
        """Take over a transport to which all has been written.

        `walker` stands in the peer's direction and finds its Close; without one only the end of the stream ends the wait.
        `heard`: the stream has ended already, and only what was written is still to go out.
        """
        if len(self._peers) >= self._most:
            next(iter(self._peers)).give_up()
        peer = _Leaving(transport, walker, self._peers)
        self._peers[peer] = None
        peer.wait(self._wheel)
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

    def __len__(self) -> int:
        return len(self._peers)

    def abort(self) -> None:
        """End them all at once."""
        for peer in list(self._peers):
            peer.give_up()


class _Leaving(asyncio.Protocol):
    """One peer that has had our last word."""

    __slots__ = ("_deadline", "_looks", "_others", "_transport", "_walker", "_wheel")

    _wheel: TimingWheel
    _deadline: Deadline

    def __init__(self, transport: asyncio.Transport, walker: FrameWalker | None, others: dict[_Leaving, None]) -> None:
        self._transport = transport
        self._walker = walker
        self._others = others
        self._looks = MORE_LOOKS
        if walker is not None:
            walker.stop_judging()
            walker.resume()

    def data_received(self, data: bytes) -> None:
        walker = self._walker
        if walker is not None:
            walker.receive_data(data, 0.0)
            if isinstance(walker.halt, CloseFrame):
                self._transport.close()
            elif walker.halt is Turn.OVER:
                self._transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._read_on, walker)
            elif walker.halt is not None:
                self._walker = None  # no Close can be found behind a bad frame: read on until the end of the stream

    def _read_on(self, walker: FrameWalker) -> None:
        """The next turn. More is read only once all is looked at that was read before."""
        if self._transport.is_closing():
            return
        walker.resume()
        self.data_received(b"")
        if walker.halt is not Turn.OVER and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self._transport.close()
        return self._transport.can_write_eof()  # TLS knows no half-open stream, and asyncio complains of who wants one

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def wait(self, wheel: TimingWheel) -> None:
        """Give up after LINGER; later while something is still to be written, but not after LAST_BYTES more."""
        self._wheel = wheel
        self._deadline = wheel.call_later(LINGER, self._look_again)

    def _look_again(self) -> None:
        if self._transport.get_write_buffer_size() and self._looks:
            self._looks -= 1
            self.wait(self._wheel)
        else:
            self.give_up()

    def give_up(self) -> None:
        """The time is over, or others need the place."""
        self._transport.abort()
        self._leave()

    def _leave(self) -> None:
        self._deadline.cancel()
        self._others.pop(self, None)
