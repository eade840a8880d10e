"""Frame streams for hypothesis, and the ways in which a stream can come in."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

MASKS = (b"\x00\x00\x00\x00", b"\x37\xfa\x21\x3d", b"\xff\x80\x81\x88")
CLOSE_PAYLOADS = (b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0f\xa8" + b"r" * 123, b"\x03\xe8\xc3\xa9")

sizes = st.one_of(st.integers(0, 8), st.sampled_from((0, 1, 124, 125, 126, 127, 300, 65535, 65536)))


def encode(first: int, payload: bytes, mask: bytes | None) -> bytes:
    """A frame, its length in the fewest bytes. RFC 6455 §5.2."""
    size, bit = len(payload), 0 if mask is None else 0x80
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return bytes([first]) + length + payload
    pad = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
    return bytes([first]) + length + mask + masked


def one_by_one(stream: bytes) -> list[bytes]:
    """Each byte a chunk."""
    return [stream[at : at + 1] for at in range(len(stream))]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The chunks between `places`, of which there may be too many, or some outside the stream."""
    inside = sorted({place for place in places if 0 < place < len(stream)})
    return [stream[a:b] for a, b in zip([0, *inside], [*inside, len(stream)], strict=True)]


@st.composite
def messages(draw: st.DrawFn, rsv1: bool = False) -> Iterator[tuple[int, bytes]]:
    """One message as frames (first byte, payload), pings and pongs between its fragments."""
    opcode = draw(st.sampled_from((0x1, 0x2)))
    if rsv1 and draw(st.booleans()):
        opcode |= 0x40
    fragments = draw(st.integers(1, 4))
    frames = []
    for index in range(fragments):
        frames += draw(controls)
        first = (opcode if index == 0 else 0) | (0x80 if index == fragments - 1 else 0)
        frames.append((first, bytes([65 + index]) * draw(sizes)))
    return frames


controls = st.lists(st.tuples(st.sampled_from((0x89, 0x8A)), st.sampled_from((b"", b"p", b"q" * 125))), max_size=1)


@st.composite
def streams(draw: st.DrawFn, *, masked: bool, rsv1: bool = False, close: bool = True) -> bytes:
    """A valid stream of whole messages, perhaps with a Close at its end."""
    frames = [frame for message in draw(st.lists(messages(rsv1), max_size=5)) for frame in message]
    if close and draw(st.booleans()):
        frames.append((0x88, draw(st.sampled_from(CLOSE_PAYLOADS))))
    return b"".join(encode(first, payload, draw(st.sampled_from(MASKS)) if masked else None) for first, payload in frames)
