"""RFC 6455 §5: frames, read without touching their payloads.

A `FrameWalker` stands in one direction of a connection. It reads the headers in each chunk of bytes, asks a judge about every
frame but Close, and returns what goes on: in the common case the very same bytes object. It never unmasks, inflates or gathers a
data payload; only a header that is cut by the end of a chunk (at most 13 bytes), a Close frame (at most 131) and what may be the pong
to a ping of ours (14) are held until they are whole, so memory per connection does not depend on what a peer sends. Nor does the time
that one call takes: of a chunk with more frames than TURN the rest is held until the caller comes back for it. Behind one of TURN_SIZE
it is to come back too, before it reads more.

Invariant: the concatenation of all that `receive_data` returned is a valid prefix of a frame stream, in which no message is
forwarded in part unless the connection is about to be closed. How the stream was cut into chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

MAX_CONTROL_PAYLOAD: Final = 125  # RFC 6455 §5.5
MAX_CLOSE_REASON: Final = MAX_CONTROL_PAYLOAD - 2  # RFC 6455 §5.5.1: the code takes two bytes

FIN: Final = 0x80
RSV1: Final = 0x40
RSV_BITS: Final = 0x70
OPCODE_BITS: Final = 0x0F
MASK_BIT: Final = 0x80
LENGTH_BITS: Final = 0x7F
TOP_BIT: Final = 0x80  # of a 64-bit length: must be 0
MASK_SIZE: Final = 4

TURN: Final = 128  # frames that one call reads at most. A read of 256 KB may hold 40,000, of which each costs 1 to 10 µs
TURN_SIZE: Final = 1 << 17  # bytes that are a turn, whatever is in them: while reads are so large, uvloop makes 32 of them in one turn


class Opcode(IntEnum):
    """RFC 6455 §5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """RFC 6455 §7.4.1, the IANA registry, and wsgate's own (private use, §7.4.2)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS_RECEIVED = 1005  # never on the wire
    ABNORMAL_CLOSURE = 1006  # never on the wire
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    LIMIT_EXCEEDED = 4008
    PAYLOAD_TOO_LARGE = 4009
    ROOM_FULL = 4010


class Verdict(IntEnum):
    """What a judge says of a frame. Everything but PASS makes the walker ask for attention."""

    PASS = 0
    DROP = 1  # the whole message (or control frame) vanishes; of a continuation it means CLOSE: its message is half forwarded
    CLOSE = 2  # the connection ends before this frame
    HOLD = 3  # ask again later; nothing behind this frame is read until then


class Turn(Enum):
    """OVER: enough was read for one call. `resume` and call again, once others had theirs, before more is read."""

    OVER = "over"


class Message(IntEnum):
    """Where a direction stands between the first and the last frame of a fragmented message."""

    NONE = 0
    PASSING = 1
    DROPPING = 2


# Names of this module, since looking up an enum's member costs more than comparing with it.
_NONE: Final = Message.NONE
_PASSING: Final = Message.PASSING
_DROPPING: Final = Message.DROPPING
_CONTINUATION: Final = int(Opcode.CONTINUATION)
_BINARY: Final = int(Opcode.BINARY)
_CLOSE: Final = int(Opcode.CLOSE)
_PONG: Final = int(Opcode.PONG)
_PASS = Verdict.PASS
_DROP = Verdict.DROP
_HOLD = Verdict.HOLD
_OVER: Final = Turn.OVER
_UNFINISHED: Final = (Verdict.HOLD, Verdict.CLOSE, Turn.OVER)  # what `resume` undoes

Judge = Callable[[int, int, float], Verdict]
"""(first byte of the frame, payload length in bytes, now in seconds) -> Verdict. Asked once a frame, but again after HOLD."""


class ProtocolError(Exception):
    """A peer broke RFC 6455 §5. `close_code` is what the peer that did it gets."""

    close_code = CloseCode.PROTOCOL_ERROR


@dataclass(frozen=True, slots=True)
class CloseFrame:
    """A whole, valid Close. `code` is 1005 when the payload is empty; `raw` is the frame as it came."""

    code: int
    reason: str
    raw: bytes


Halt = CloseFrame | ProtocolError | Verdict | Turn
"""Why a walker reads no further: a Close came, the peer broke the protocol, the judge said CLOSE or HOLD, or it is others' turn."""


class FrameWalker:
    """One direction of one connection.

    `masked`: this is the client's direction (RFC 6455 §5.3: its frames must be masked, a server's must not be).
    `rsv1`: permessage-deflate was agreed, so RSV1 may be set on the first frame of a data message (RFC 7692 §6).
    `lenient`: an extension that we do not know was agreed, so any reserved bit or opcode may mean something.
    `judge`: asked about every frame but Close; None lets all pass.
    """

    __slots__ = (
        "_busy",
        "_data",
        "_high",
        "_judge",
        "_lenient",
        "_low",
        "_mask_bit",
        "_mask_size",
        "_medium_overhead",
        "_medium_second",
        "_message",
        "_overhead",
        "_remaining",
        "_reserved",
        "_short_delta",
        "_short_first",
        "_skipping",
        "_tail",
        "_tail_start",
        "_watched",
        "attention",
        "controls",
        "frame_end",
        "halt",
        "message_end",
        "messages",
        "own_pings",
        "own_pong",
        "payload_bytes",
        "ping_or_pong_at",
    )

    def __init__(self, *, masked: bool, rsv1: bool = False, lenient: bool = False, judge: Judge | None = None) -> None:
        self._mask_bit = MASK_BIT if masked else 0
        self._mask_size = MASK_SIZE if masked else 0
        self._overhead = overhead = 2 + self._mask_size
        # A chunk that is one small whole frame has its own length, less the header, in its second byte. That one comparison
        # also proves the mask bit, as long as the chunk's length lies between these bounds.
        self._low = overhead - 1
        self._high = overhead + MAX_CONTROL_PAYLOAD + 1
        self._short_delta = self._mask_bit - overhead
        # The same for a length of 16 bits: one that is the chunk's, less the header. At this size all four bytes of it are there.
        self._medium_second = self._mask_bit | 126
        self._medium_overhead = overhead + 2
        self._short_first = b"\x81\x82\xc1\xc2" if rsv1 and not lenient else b"\x81\x82"
        self._reserved = 0 if lenient else RSV_BITS & ~RSV1 if rsv1 else RSV_BITS
        self._lenient = lenient
        self._judge = judge
        self._busy = False  # anything but "between messages, nothing held, nothing to watch"
        self._remaining = 0  # payload bytes of the current frame that are still to come
        self._skipping = False  # the current frame is not forwarded
        self._message = _NONE
        self._watched = False
        self._tail = b""
        self._tail_start = 0  # what stands before it was read before a HOLD; to cut it off at each would copy a chunk once a frame
        self.halt: Halt | None = None
        self.attention = False  # somebody must look at this walker before the next chunk
        # While `attention` is set: the last place in what was returned last, its ends included, where a control frame of ours may
        # stand, and where a data frame may; -1 if there is none.
        self.frame_end = 0
        self.message_end = 0
        self.messages = 0  # messages begun, whatever became of them
        self.payload_bytes = 0  # payload bytes that the headers of data frames announced
        self._data = False  # the current frame is one of data
        self.controls = 0  # control frames that came, but Close, whatever became of them
        self.ping_or_pong_at = 0.0  # seconds: when the last ping of a server, or the last pong of a client, came; 0: never
        self.own_pong: bytes | None = None  # payload of the pongs that answer pings of ours: they are not forwarded
        self.own_pings = 0  # pings of ours that are not answered: so many of these pongs are not judged either

    @property
    def received_bytes(self) -> int:
        """Payload bytes of data frames that have come, whatever became of them. What a header only announces does not count."""
        return self.payload_bytes - self._remaining if self._data else self.payload_bytes

    @property
    def least_size(self) -> int:
        """Bytes that have come, at least: headers of continuations, long ones, and the payloads of control frames are not counted."""
        return self.received_bytes + self._overhead * (self.messages + self.controls)

    @property
    def in_frame(self) -> bool:
        """What was forwarded so far ends inside a frame: nothing of ours may follow it."""
        return self._remaining > 0 and not self._skipping

    @property
    def in_message(self) -> bool:
        """What was forwarded so far ends inside a message: only a control frame of ours may follow it."""
        return self.in_frame or self._message is _PASSING

    @property
    def _over(self) -> bool:
        """Nothing that this peer sends is read any more."""
        return isinstance(self.halt, (CloseFrame, ProtocolError))

    @property
    def held(self) -> int:
        """Bytes held until they are whole, or until `resume`."""
        return len(self._tail) - self._tail_start

    def watch(self) -> None:
        """Keep `attention` set and tell `frame_end` and `message_end` of every chunk from now on, until `unwatch`."""
        self._watched = self._busy = self.attention = True

    def unwatch(self) -> None:
        """Undo `watch`, and forget a drop that was attended to."""
        self._watched = False
        self.attention = self.halt is not None

    def resume(self) -> None:
        """Read on in the next turn, or after a HOLD or CLOSE verdict: `receive_data` will ask about the same frame again."""
        if self.halt in _UNFINISHED:
            self.halt = None
            self.attention = self._watched

    def stop_judging(self) -> None:
        """Let everything pass from now on; the caller throws it away, and waits for a Close."""
        self._judge = None

    def receive_data(self, data: bytes, now: float) -> bytes:
        """Return the bytes that go on. Afterwards, if `attention` is set, look at `halt`."""
        size = len(data)
        if not self._busy and self._low < size:
            if size < self._high:
                if data[1] == size + self._short_delta and (first := data[0]) in self._short_first:
                    length = size - self._overhead
                    judge = self._judge
                    if judge is None or not (verdict := judge(first, length, now)):
                        self.messages += 1
                        self.payload_bytes += length
                        return data
                    return self._stop(data, length, verdict)
            elif (
                data[1] == self._medium_second
                and data[2] << 8 | data[3] == size - self._medium_overhead
                and (first := data[0]) in self._short_first
            ):
                length = size - self._medium_overhead
                judge = self._judge
                if judge is None or not (verdict := judge(first, length, now)):
                    self.messages += 1
                    self.payload_bytes += length
                    return data
                return self._stop(data, length, verdict)
        return self._walk(data, now)

    def _stop(self, data: bytes, length: int, verdict: Verdict) -> bytes:
        """A chunk that is one whole message does not pass."""
        self._busy = self.attention = True
        self.frame_end = self.message_end = 0
        if verdict is _DROP:
            self.messages += 1
            self.payload_bytes += length
        else:
            self.halt = verdict
            self._tail = data
        return b""

    def _walk(self, data: bytes, now: float) -> bytes:
        """The general case. One loop over the frames of the chunk; positions index into `data`, nothing is copied on the way."""
        if self.halt is not None:
            if self.halt in _UNFINISHED:
                self._tail += data
            self.frame_end = 0  # a walker halts between frames only
            self.message_end = -1 if self._message is _PASSING else 0
            return b""
        start = 0
        if self._tail:
            if data:
                data = self._tail[self._tail_start :] + data
            else:
                data = self._tail
                start = self._tail_start
            self._tail = b""
            self._tail_start = 0
        size = len(data)
        position = start
        frames = TURN  # that may still be read
        run = start  # where the bytes begin that pass and are not in `pieces` yet
        skipped = start  # bytes of `data` before `position` that do not go on
        pieces: list[bytes] = []
        remaining = self._remaining
        skipping = self._skipping
        message = self._message
        judge = self._judge
        overhead = self._overhead
        mask_bit = self._mask_bit
        short_first = self._short_first
        frame_end = -1 if remaining and not skipping else 0
        message_end = -1 if message is _PASSING else frame_end
        while True:
            if remaining > size - position:
                remaining -= size - position
                position = size
                if skipping:
                    run = size
                break
            if remaining or skipping:
                position += remaining
                remaining = 0
                if skipping:
                    skipped += position - run
                    run = position
                    skipping = False
                frame_end = position - skipped
                if message is not _PASSING:
                    message_end = frame_end
            if position == size:
                break
            if not frames:
                self.halt = _OVER
                self.attention = True
                break
            frames -= 1
            first = data[position]
            header_size = overhead
            # A small whole message needs no more than this to be proved good; anything else goes the long way.
            if (
                message
                or size - position < overhead
                or first not in short_first
                or not 0 <= (length := data[position + 1] - mask_bit) <= MAX_CONTROL_PAYLOAD
            ):
                header = self._header(data, position, size, message)
                if header is None:
                    break
                first, header_size, length = header
            opcode = first & OPCODE_BITS
            if opcode >= _CLOSE:
                if opcode == _CLOSE:
                    self._close(data, position, header_size, length, size)
                    break
                if opcode == _PONG and self.own_pong is not None and length == len(self.own_pong):
                    end = position + header_size + length
                    if size < end:
                        break
                    if self._payload(data, end, length) == self.own_pong:
                        if self.own_pings:
                            self.own_pings -= 1
                        elif judge is not None and (verdict := judge(first, length, now)):
                            self.attention = True
                            if verdict is not _DROP:
                                self.halt = verdict
                                break
                        self._note_control(opcode, now)
                        if position > run:
                            pieces.append(data[run:position])
                        skipped += end - position
                        run = position = end
                        continue
            if message is _DROPPING and opcode == _CONTINUATION:
                skipping = True
            elif judge is not None and (verdict := judge(first, length, now)):
                self.attention = True
                if verdict is not _DROP or opcode == _CONTINUATION:
                    self.halt = _HOLD if verdict is _HOLD else Verdict.CLOSE
                    break
                skipping = True
            self._data = opcode < _CLOSE
            if self._data:
                self.payload_bytes += length
                if opcode:
                    self.messages += 1
                if first & FIN:
                    message = _NONE
                elif opcode:
                    message = _DROPPING if skipping else _PASSING
            elif skipping and not mask_bit:
                self.controls += 1  # a ping that the client never gets asks it nothing
            else:
                self._note_control(opcode, now)
            if skipping:
                if position > run:
                    pieces.append(data[run:position])
                run = position
            position += header_size
            remaining = length
            if not remaining and not skipping:
                frame_end = position - skipped
                if message is not _PASSING:
                    message_end = frame_end
        self._remaining = remaining
        self._skipping = skipping
        self._message = message
        self.frame_end = frame_end
        self.message_end = message_end
        if position == size:
            if size - start >= TURN_SIZE:
                self.halt = _OVER
                self.attention = True
        elif self.halt is _HOLD or self.halt is _OVER:
            self._tail = data
            self._tail_start = position
        else:
            self._tail = b"" if self._over else data[position:]
        self._busy = bool(remaining or skipping or message or self._tail or self.attention)
        if run == 0 and position == size:
            return data
        if position > run:
            pieces.append(data[run:position])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _header(self, data: bytes, position: int, size: int, message: Message) -> tuple[int, int, int] | None:
        """(first byte, header size, payload length), or None when it is cut or wrong; what is wrong is in `halt` then."""
        if size - position < 2:
            return None
        first = data[position]
        second = data[position + 1]
        length = second & LENGTH_BITS
        fault = self._fault(first, second, length, message)
        if fault:
            self._fail(fault)
            return None
        header_size = self._overhead
        if length > MAX_CONTROL_PAYLOAD:
            extended = 2 if length == 126 else 8
            header_size += extended
            # The top bit of a 64-bit length can be judged before the rest is there.
            if extended == 8 and size - position > 2 and data[position + 2] & TOP_BIT:
                self._fail("payload length with the top bit set")
                return None
            length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
        return (first, header_size, length) if header_size <= size - position else None

    def _fault(self, first: int, second: int, length: int, message: Message) -> str | None:
        """What RFC 6455 §5.2, §5.4 and §5.5 forbid and the first two bytes show."""
        opcode = first & OPCODE_BITS
        if second & MASK_BIT != self._mask_bit:
            return "frame is not masked" if self._mask_bit else "frame of a server is masked"
        if first & self._reserved:
            return "reserved bit set without an extension"
        if opcode >= _CLOSE:
            if opcode > _PONG and not self._lenient:
                return "reserved opcode"
            if length > MAX_CONTROL_PAYLOAD:
                return "control frame longer than 125 bytes"
            if not first & FIN:
                return "fragmented control frame"
            if first & RSV1 and not self._lenient:
                return "compressed control frame"
        elif opcode == _CONTINUATION:
            if message is _NONE:
                return "continuation without a start"
            if first & RSV1 and not self._lenient:
                return "reserved bit set on a continuation"
        elif opcode > _BINARY and not self._lenient:
            return "reserved opcode"
        elif message is not _NONE:
            return "new message inside a fragmented one"
        return None

    def _fail(self, reason: str) -> None:
        self.halt = ProtocolError(reason)
        self.attention = True

    def _close(self, data: bytes, position: int, header_size: int, length: int, size: int) -> None:
        """Read a Close frame as soon as it is whole."""
        end = position + header_size + length
        if size < end:
            return
        try:
            code, reason = parse_close(self._payload(data, end, length))
        except ProtocolError as error:
            self.halt = error.with_traceback(None)  # which would lead back to this walker, and keep it in memory
        else:
            self.halt = CloseFrame(code, reason, data[position:end])
        self.attention = True

    def _payload(self, data: bytes, end: int, length: int) -> bytes:
        """The payload, unmasked, of a whole control frame that ends at `end`."""
        payload = data[end - length : end]
        return mask_payload(payload, data[end - length - MASK_SIZE : end - length]) if self._mask_bit else payload

    def _note_control(self, opcode: int, now: float) -> None:
        self.controls += 1
        if opcode == (Opcode.PONG if self._mask_bit else Opcode.PING):
            self.ping_or_pong_at = now


def is_sendable(code: int) -> bool:
    """May this code stand in a Close frame? RFC 6455 §7.4.1, §7.4.2."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """(code, reason) of a Close payload, unmasked; (1005, "") when it is empty. RFC 6455 §5.5.1.

    Raises ProtocolError for a payload of one byte, a code that may not be sent, or a reason that is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS_RECEIVED, ""
    if len(payload) == 1:
        raise ProtocolError("Close payload of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise ProtocolError(f"close code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError("close reason is not UTF-8") from None


def mask_payload(payload: bytes, mask: bytes) -> bytes:
    """XOR with the four bytes of the mask; its own inverse. RFC 6455 §5.3. For short payloads."""
    size = len(payload)
    stream = (mask * (size // MASK_SIZE + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def build_frame(opcode: Opcode, payload: bytes, mask: bytes | None = None) -> bytes:
    """One whole frame of ours. `mask`: four unpredictable bytes for a frame towards the upstream, None towards a client."""
    size = len(payload)
    mask_bit = 0 if mask is None else MASK_BIT
    if size <= MAX_CONTROL_PAYLOAD:
        head = bytes((FIN | opcode, mask_bit | size))
    elif size < 1 << 16:
        head = bytes((FIN | opcode, mask_bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, mask_bit | 127)) + size.to_bytes(8, "big")
    return head + payload if mask is None else head + mask + mask_payload(payload, mask)


def build_close(code: int, reason: str = "", mask: bytes | None = None) -> bytes:
    """A Close frame; the reason is cut, between characters, to 123 bytes. Code 1005 gives an empty payload."""
    if code == CloseCode.NO_STATUS_RECEIVED:
        return build_frame(Opcode.CLOSE, b"", mask)
    text = reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore").encode()
    return build_frame(Opcode.CLOSE, code.to_bytes(2, "big") + text, mask)
