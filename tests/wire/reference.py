"""A slow, obviously right reader of frame streams, to hold the walker against.

It has the whole stream in its hands, takes one frame after the other with plain slices, and knows nothing of chunks. It is written
from RFC 6455 §5 and §7.4 and from what a verdict means, not from the walker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KNOWN = {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}


@dataclass(frozen=True)
class Frame:
    """One frame and where it stands: header in `stream[start:body]`, payload in `stream[body:stop]`, perhaps beyond the stream."""

    start: int
    body: int
    stop: int
    first: int
    mask: bytes

    @property
    def fin(self) -> bool:
        return self.first >= 0x80

    @property
    def opcode(self) -> int:
        return self.first % 16

    @property
    def is_control(self) -> bool:
        return self.opcode >= 8

    @property
    def length(self) -> int:
        return self.stop - self.body

    def payload(self, stream: bytes) -> bytes:
        """Unmasked."""
        raw = stream[self.body : self.stop]
        return bytes(byte ^ self.mask[index % 4] for index, byte in enumerate(raw)) if self.mask else raw


@dataclass
class Account:
    """What must have become of a stream once all of it was read."""

    forwarded: bytearray = field(default_factory=bytearray)
    asked: list[tuple[int, int]] = field(default_factory=list)  # (first byte, length) of each question to the judge
    halt: str | tuple[int, str, bytes] | None = None  # "protocol error", "refused", or the Close: code, reason, raw
    messages: int = 0
    payload_bytes: int = 0
    frame_places: set[int] = field(default_factory=lambda: {0})  # offsets in `forwarded` where a control frame of ours may stand
    message_places: set[int] = field(default_factory=lambda: {0})  # ... and where a data frame may


def read_frame(stream: bytes, start: int) -> Frame | None:
    """The frame that begins at `start`; None if its header is not whole."""
    if len(stream) < start + 2:
        return None
    first, second = stream[start], stream[start + 1]
    short = second % 128
    at = start + 2
    extended = {126: 2, 127: 8}.get(short, 0)
    mask_size = 4 if second >= 128 else 0
    if len(stream) < at + extended + mask_size:
        return None
    length = int.from_bytes(stream[at : at + extended], "big") if extended else short
    body = at + extended + mask_size
    return Frame(start, body, body + length, first, stream[body - mask_size : body])


def read_frames(stream: bytes) -> list[Frame]:
    """All frames of a stream that ends with the end of a frame."""
    frames = []
    at = 0
    while at < len(stream):
        frame = read_frame(stream, at)
        assert frame is not None, "the stream ends inside a header"
        assert frame.stop <= len(stream), "the stream ends inside a payload"
        frames.append(frame)
        at = frame.stop
    return frames


def read_messages(stream: bytes) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """(data messages, control frames) of a stream of whole frames, each as (opcode, payload). Fails if fragments do not fit together."""
    messages: list[tuple[int, bytes]] = []
    controls: list[tuple[int, bytes]] = []
    opening: int | None = None
    gathered = b""
    for frame in read_frames(stream):
        if frame.is_control:
            assert frame.fin
            controls.append((frame.opcode, frame.payload(stream)))
            continue
        assert (frame.opcode == CONTINUATION) == (opening is not None), "fragments do not fit together"
        if opening is None:
            opening, gathered = frame.opcode, b""
        gathered += frame.payload(stream)
        if frame.fin:
            messages.append((opening, gathered))
            opening = None
    assert opening is None, "the stream ends inside a message"
    return messages, controls


def is_faulty(stream: bytes, start: int, *, masked: bool, rsv1: bool, lenient: bool, in_message: bool) -> bool:
    """Do the bytes from `start` show, as far as they are there, that RFC 6455 §5 is broken? A Close's payload is not looked at."""
    if len(stream) < start + 2:
        return False
    first, second = stream[start], stream[start + 1]
    fin, opcode, control = first >= 128, first % 16, first % 16 >= 8
    rsv = {bit for bit in (1, 2, 3) if first & (0x80 >> bit)}
    short = second % 128
    allowed = {1, 2, 3} if lenient else {1} if rsv1 and opcode in (TEXT, BINARY) else set()
    return (
        (second >= 128) != masked
        or not rsv <= allowed
        or (opcode not in KNOWN and not lenient)
        or (control and (short > 125 or not fin))
        or (opcode == CONTINUATION and not in_message)
        or (opcode != CONTINUATION and not control and in_message)
        or (short == 127 and len(stream) > start + 2 and stream[start + 2] >= 128)
    )


def read_close(payload: bytes) -> tuple[int, str] | None:
    """(code, reason), 1005 for an empty payload; None if RFC 6455 §5.5.1 or §7.4 is broken."""
    if payload == b"":
        return 1005, ""
    if len(payload) == 1:
        return None
    code = payload[0] * 256 + payload[1]
    if code not in {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}:
        return None
    try:
        return code, str(payload[2:], "utf-8")
    except UnicodeDecodeError:
        return None


def account(stream: bytes, *, masked: bool, rsv1: bool = False, lenient: bool = False, verdicts: Sequence[str] = ()) -> Account:
    """Read the whole stream. `verdicts`: the judge's answers in the order of its questions; what comes after them is "pass".

    "hold" is answered by asking again at once.
    """
    result = Account()
    answers = iter(verdicts)
    message: str | None = None  # or what becomes of the one that is open: "pass", "drop"
    at = 0
    while at <= len(stream):
        if is_faulty(stream, at, masked=masked, rsv1=rsv1, lenient=lenient, in_message=message is not None):
            result.halt = "protocol error"
            break
        frame = read_frame(stream, at)
        if frame is None:
            break
        if frame.opcode == CLOSE:
            result.halt = _halt_of_close(stream, frame)
            break
        verdict = _verdict(frame, message, answers, result)
        if verdict == "close":
            result.halt = "refused"
            break
        if not frame.is_control:
            result.payload_bytes += frame.length
            result.messages += frame.opcode != CONTINUATION
            message = None if frame.fin else message or verdict
        if verdict == "pass":
            result.forwarded += stream[frame.start : frame.stop]
            if frame.stop <= len(stream):
                result.frame_places.add(len(result.forwarded))
                if message != "pass":
                    result.message_places.add(len(result.forwarded))
        at = frame.stop
    return result


def _halt_of_close(stream: bytes, frame: Frame) -> str | tuple[int, str, bytes] | None:
    if frame.stop > len(stream):
        return None
    told = read_close(frame.payload(stream))
    return (*told, stream[frame.start : frame.stop]) if told else "protocol error"


def _verdict(frame: Frame, message: str | None, answers: Iterator[str], result: Account) -> str:
    continues = frame.opcode == CONTINUATION
    if continues and message == "drop":
        return "drop"
    verdict = "hold"
    while verdict == "hold":
        result.asked.append((frame.first, frame.length))
        verdict = next(answers, "pass")
    return "close" if continues and verdict == "drop" else verdict
