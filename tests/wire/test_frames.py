"""The walker, told in bytes: what passes, what ends a connection, and where a frame of ours may stand."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import CLIENT, SERVER, Protocol

from proxy.wire.frames import (
    MAX_CLOSE_REASON,
    TURN,
    TURN_SIZE,
    CloseCode,
    CloseFrame,
    FrameWalker,
    Opcode,
    ProtocolError,
    Turn,
    Verdict,
    build_close,
    build_frame,
    is_sendable,
    mask_payload,
    parse_close,
)
from tests.wire import reference
from tests.wire.agreement import VERDICTS, Script, check_against_the_reference
from tests.wire.streams import MASKS, cut, encode, messages, one_by_one, streams

NO_MASK = b"\x00\x00\x00\x00"

CLIENT_TEXT = b"\x81\x82\x00\x00\x00\x00hi"
SERVER_TEXT = b"\x81\x02hi"
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of ours
DIRECTIONS = pytest.mark.parametrize("masked", [True, False], ids=["from_client", "from_server"])


def text(masked: bool, payload: bytes = b"hi", first: int = 0x81) -> bytes:
    return encode(first, payload, MASKS[1] if masked else None)


def feed(walker: FrameWalker, chunks: Iterable[bytes]) -> bytes:
    """All that goes on; a held frame is asked about again at once."""
    onward = b""
    for chunk in chunks:
        onward += walker.receive_data(chunk, 0.0)
        while walker.halt is Verdict.HOLD:
            walker.resume()
            onward += walker.receive_data(b"", 0.0)
    return onward


WAYS: dict[str, Callable[[bytes], Sequence[bytes]]] = {
    "whole": lambda stream: [stream],
    "byte_by_byte": one_by_one,
    "in_pairs": lambda stream: cut(stream, list(range(0, len(stream), 2))),
    "behind_its_first_byte": lambda stream: cut(stream, [1]),
}
DELIVERED = pytest.mark.parametrize("deliver", WAYS.values(), ids=WAYS.keys())


# --- what the peer broke (DESIGN, "The wire" 6) ---------------------------------------------------------------------------------

FAULTS = [
    # (name, why, what came before, from the client, from the server); the bytes are the shortest that show the fault
    ("wrong_mask_bit", "masked", b"", b"\x81\x02", b"\x81\x82"),
    ("wrong_mask_bit_empty", "masked", b"", b"\x82\x00", b"\x82\x80"),
    ("wrong_mask_bit_long", "masked", b"", b"\x82\x7e", b"\x82\xfe"),
    ("wrong_mask_bit_on_ping", "masked", b"", b"\x89\x00", b"\x89\x80"),
    ("rsv1", "reserved bit", b"", b"\xc1\x82", b"\xc1\x02"),
    ("rsv2", "reserved bit", b"", b"\xa1\x82", b"\xa1\x02"),
    ("rsv3", "reserved bit", b"", b"\x91\x82", b"\x91\x02"),
    ("rsv1_on_ping", "reserved bit", b"", b"\xc9\x80", b"\xc9\x00"),
    ("rsv1_on_close", "reserved bit", b"", b"\xc8\x80", b"\xc8\x00"),
    *(
        (f"reserved_opcode_{code:x}", "reserved opcode", b"", bytes([0x80 | code, 0x80]), bytes([0x80 | code, 0]))
        for code in (3, 4, 5, 6, 7)
    ),
    *(
        (f"reserved_opcode_{code:x}", "reserved opcode", b"", bytes([0x80 | code, 0x80]), bytes([0x80 | code, 0]))
        for code in (11, 12, 13, 14, 15)
    ),
    ("fragmented_ping", "fragmented control", b"", b"\x09\x80", b"\x09\x00"),
    ("fragmented_pong", "fragmented control", b"", b"\x0a\x80", b"\x0a\x00"),
    ("fragmented_close", "fragmented control", b"", b"\x08\x80", b"\x08\x00"),
    ("ping_of_126", "longer than 125", b"", b"\x89\xfe", b"\x89\x7e"),
    ("pong_of_65536", "longer than 125", b"", b"\x8a\xff", b"\x8a\x7f"),
    ("close_of_126", "longer than 125", b"", b"\x88\xfe", b"\x88\x7e"),
    ("length_with_top_bit", "top bit", b"", b"\x82\xff\x80", b"\x82\x7f\x80"),
    ("length_with_all_bits", "top bit", b"", b"\x82\xff" + b"\xff" * 8, b"\x82\x7f" + b"\xff" * 8),
    ("continuation_without_start", "continuation without a start", b"", b"\x80\x80", b"\x80\x00"),
    ("continuation_after_whole_message", "continuation without a start", b"\x81", b"\x00\x80", b"\x00\x00"),
    ("text_inside_text", "inside a fragmented", b"\x01", b"\x81\x80", b"\x81\x00"),
    ("binary_inside_text", "inside a fragmented", b"\x01", b"\x02\x80", b"\x02\x00"),
    ("text_inside_continued_binary", "inside a fragmented", b"\x02\x00", b"\x01\x80", b"\x01\x00"),
    ("continuation_after_last", "continuation without a start", b"\x01\x80", b"\x80\x80", b"\x80\x00"),
    ("rsv1_on_continuation", "reserved bit", b"\x01", b"\xc0\x80", b"\xc0\x00"),
    ("close_of_one_byte", "one byte", b"", b"\x88\x81" + NO_MASK + b"\x03", b"\x88\x01\x03"),
    ("close_reason_not_utf8", "UTF-8", b"", b"\x88\x84" + NO_MASK + b"\x03\xe8\xc3\x28", b"\x88\x04\x03\xe8\xc3\x28"),
    ("close_reason_cut_utf8", "UTF-8", b"", b"\x88\x83" + NO_MASK + b"\x03\xe8\xc3", b"\x88\x03\x03\xe8\xc3"),
    ("close_reason_surrogate", "UTF-8", b"", b"\x88\x85" + NO_MASK + b"\x03\xe8\xed\xa0\x80", b"\x88\x05\x03\xe8\xed\xa0\x80"),
    ("close_reason_overlong", "UTF-8", b"", b"\x88\x84" + NO_MASK + b"\x03\xe8\xc0\xaf", b"\x88\x04\x03\xe8\xc0\xaf"),
    ("close_code_1005", "1005", b"", b"\x88\x82" + NO_MASK + b"\x03\xed", b"\x88\x02\x03\xed"),
    ("close_code_really_masked", "1006", b"", b"\x88\x82\xff\x00\xff\x00\xfc\xee", b"\x88\x02\x03\xee"),
]


def before(firsts: bytes, masked: bool) -> bytes:
    """Good frames with these first bytes."""
    return b"".join(text(masked, first=first) for first in firsts)


@DELIVERED
@DIRECTIONS
@pytest.mark.parametrize(("why", "firsts", "client", "server"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
class TestFaults:
    def test_ends_the_reading_before_the_frame(
        self, why: str, firsts: bytes, client: bytes, server: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        good, bad = before(firsts, masked), client if masked else server
        walker = FrameWalker(masked=masked)
        onward = feed(walker, deliver(good + bad))
        assert onward == good
        assert isinstance(walker.halt, ProtocolError)
        assert why in str(walker.halt)
        assert walker.halt.close_code == 1002
        assert walker.attention
        assert not walker.in_frame

    def test_is_not_seen_one_byte_earlier(
        self, why: str, firsts: bytes, client: bytes, server: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        stream = before(firsts, masked) + (client if masked else server)
        if stream.endswith(b"\xff" * 8):
            stream = stream[:-7]  # its third byte shows it
        walker = FrameWalker(masked=masked)
        feed(walker, deliver(stream[:-1]))
        assert walker.halt is None

    def test_lets_nothing_pass_that_follows(
        self, why: str, firsts: bytes, client: bytes, server: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        good, bad = before(firsts, masked), client if masked else server
        walker = FrameWalker(masked=masked)
        assert feed(walker, deliver(good + bad + text(masked) * 3)) == good
        assert walker.receive_data(text(masked), 0.0) == b""
        assert walker.receive_data(b"", 0.0) == b""
        assert walker.held == 0
        assert isinstance(walker.halt, ProtocolError)

    def test_is_never_forgiven(
        self, why: str, firsts: bytes, client: bytes, server: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        walker = FrameWalker(masked=masked)
        feed(walker, deliver(before(firsts, masked) + (client if masked else server)))
        walker.resume()
        walker.unwatch()
        walker.stop_judging()
        assert isinstance(walker.halt, ProtocolError)
        assert walker.attention


@DIRECTIONS
def test_a_good_frame_in_the_same_chunk_passes_before_a_bad_one(masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    assert walker.receive_data(text(masked) + b"\x83" + (b"\x80" if masked else b"\x00"), 0.0) == text(masked)
    assert isinstance(walker.halt, ProtocolError)


def test_the_judge_is_not_asked_about_a_bad_frame() -> None:
    judge = Script()
    FrameWalker(masked=True, judge=judge).receive_data(b"\x83\x80" + NO_MASK, 0.0)
    assert judge.asked == []


@DIRECTIONS
@pytest.mark.parametrize("first", [0x81, 0xC1, 0x01, 0x89])
@pytest.mark.parametrize("rsv1", [False, True])
def test_no_chunk_slips_through_the_one_comparison_of_the_common_path(first: int, masked: bool, rsv1: bool) -> None:
    # That comparison proves mask and length together: try every second byte before payloads that are too short, right and too long.
    for second in range(256):
        for size in (0, 1, 2, 3, 4, 5, 130):
            chunk = bytes([first, second]) + b"\x01" * size
            check_against_the_reference(chunk, [chunk], [], watched=False, masked=masked, rsv1=rsv1)
    # And for lengths of 16 bits: every second byte, and lengths around the right one.
    for size in (126, 128, 132, 300):
        for second in range(256) if size == 128 else (0x7E, 0x7F, 0xFE, 0xFF):
            for told in range(size - 9, size + 2):
                chunk = bytes([first, second]) + told.to_bytes(2, "big") + b"\x01" * (size - 2)
                check_against_the_reference(chunk, [chunk], [], watched=False, masked=masked, rsv1=rsv1)


@DIRECTIONS
@pytest.mark.parametrize("size", [126, 255, 256, 1000, 65535])
def test_a_message_of_a_16_bit_length_is_told_to_the_judge(size: int, masked: bool) -> None:
    chunk = text(masked, b"x" * size)
    judge = Script(Verdict.PASS, Verdict.DROP)
    walker = FrameWalker(masked=masked, judge=judge)
    assert walker.receive_data(chunk, 0.0) is chunk
    assert walker.receive_data(chunk, 0.0) == b""
    assert walker.halt is None
    walker.unwatch()
    assert walker.receive_data(chunk, 0.0) is chunk
    assert judge.asked == [(0x81, size)] * 3
    for verdict in (Verdict.HOLD, Verdict.CLOSE):
        walker = FrameWalker(masked=masked, judge=Script(verdict))
        assert walker.receive_data(chunk, 0.0) == b""
        assert (walker.halt, walker.held, walker.messages) == (verdict, len(chunk), 0)
        walker.resume()
        assert walker.receive_data(b"", 0.0) == chunk


def test_whole_frames_with_a_length_of_16_bits_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they to take the long one nothing would be wrong, but slow."""
    monkeypatch.setattr(FrameWalker, "_walk", None)
    for masked in (True, False):
        for size in (0, 125, 126, 255, 256, 65535):
            chunk = text(masked, b"x" * size)
            assert FrameWalker(masked=masked).receive_data(chunk, 0.0) is chunk


# --- what passes ----------------------------------------------------------------------------------------------------------------

SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 65535, 65536]


@DIRECTIONS
@pytest.mark.parametrize("first", [0x81, 0x82], ids=["text", "binary"])
@pytest.mark.parametrize("size", SIZES)
class TestOneFrame:
    def test_passes_as_the_same_object(self, first: int, size: int, masked: bool) -> None:
        walker = FrameWalker(masked=masked, judge=Script())
        chunk = text(masked, b"x" * size, first)
        for _ in range(3):
            assert walker.receive_data(chunk, 0.0) is chunk
        assert not walker.attention
        assert (walker.messages, walker.payload_bytes) == (3, 3 * size)
        assert not walker.in_frame
        assert not walker.in_message

    def test_passes_byte_by_byte_and_holds_only_its_header(self, first: int, size: int, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        chunk = text(masked, b"x" * size, first)
        header = len(chunk) - size
        onward = b""
        for index, byte in enumerate(one_by_one(chunk[: header + 3]), 1):
            assert walker.held == (index - 1 if index <= header else 0)
            onward += walker.receive_data(byte, 0.0)
            assert onward == (b"" if index < header else chunk[:index])
        onward += walker.receive_data(chunk[header + 3 :], 0.0)
        assert onward == chunk
        assert walker.held == 0
        assert not walker.in_frame

    def test_passes_with_trailing_bytes(self, first: int, size: int, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        chunk = text(masked, b"x" * size, first)
        both = chunk + text(masked)
        assert walker.receive_data(both, 0.0) is both
        assert walker.receive_data(chunk + b"\x81", 0.0) == chunk
        assert walker.held == 1

    def test_is_told_to_the_judge_once(self, first: int, size: int, masked: bool) -> None:
        chunk = text(masked, b"x" * size, first)
        for chunks in ([chunk], [chunk[:1], chunk[1:]], [chunk[:-1], chunk[-1:]]):
            judge = Script()
            walker = FrameWalker(masked=masked, judge=judge)
            for one in chunks:
                walker.receive_data(one, 7.5)
            assert judge.asked == [(first, size)]
            assert judge.times == [7.5]


@DIRECTIONS
@DELIVERED
@pytest.mark.parametrize(
    "firsts",
    [b"\x01\x80", b"\x02\x00\x80", b"\x01\x89\x80", b"\x02\x8a\x00\x89\x89\x80", b"\x01\x00\x00\x00\x80\x82", b"\x89", b"\x8a\x8a\x81"],
    ids=lambda firsts: firsts.hex("_"),
)
@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 125])
def test_fragments_and_control_frames_between_them_pass(
    firsts: bytes, payload: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
) -> None:
    walker = FrameWalker(masked=masked)
    stream = b"".join(text(masked, payload, first) for first in firsts)
    assert feed(walker, deliver(stream)) == stream
    assert walker.halt is None
    assert not walker.in_message
    assert walker.messages == sum(first & 0x0F in (1, 2) for first in firsts)
    assert walker.payload_bytes == sum(first & 0x0F < 8 for first in firsts) * len(payload)


@DIRECTIONS
def test_a_big_payload_is_forwarded_as_it_comes_in(masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    stream = text(masked, b"z" * (16 << 20), 0x82)
    for chunk in cut(stream, list(range(0, len(stream), 1 << 18))):
        assert walker.receive_data(chunk, 0.0) is chunk
        walker.resume()
        assert walker.receive_data(b"", 0.0) == b""
        assert walker.held == 0
    assert not walker.in_frame


@DIRECTIONS
def test_a_length_that_needed_fewer_bytes_passes_as_it_is(masked: bool) -> None:
    mask = NO_MASK if masked else b""
    bit = 0x80 if masked else 0
    short_in_16 = bytes([0x82, bit | 126, 0, 3]) + mask + b"abc"
    short_in_64 = bytes([0x82, bit | 127, 0, 0, 0, 0, 0, 0, 0, 3]) + mask + b"abc"
    assert feed(FrameWalker(masked=masked), [short_in_16 + short_in_64]) == short_in_16 + short_in_64


def test_the_longest_length_is_legal_and_takes_no_memory() -> None:
    walker = FrameWalker(masked=True)
    header = b"\x82\xff\x7f" + b"\xff" * 7 + NO_MASK
    assert feed(walker, one_by_one(header)) == header
    assert walker.in_frame
    assert walker.payload_bytes == (1 << 63) - 1
    chunk = b"z" * 100_000
    assert walker.receive_data(chunk, 0.0) is chunk


@DIRECTIONS
def test_text_is_not_judged_for_utf8(masked: bool) -> None:
    stream = text(masked, b"\xff\xfe\x00")
    assert feed(FrameWalker(masked=masked), [stream]) == stream


@DIRECTIONS
def test_an_empty_chunk_is_nothing(masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    assert walker.receive_data(b"", 0.0) == b""
    assert not walker.attention
    assert walker.receive_data(text(masked)[:3], 0.0) == (b"" if masked else text(masked)[:3])
    assert walker.receive_data(b"", 0.0) == b""
    assert feed(walker, [text(masked)[3:]]) == (text(masked) if masked else text(masked)[3:])


# --- permessage-deflate and extensions that we do not know ----------------------------------------------------------------------


@DIRECTIONS
@DELIVERED
class TestReservedBits:
    def walk(self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]], **how: bool) -> bool:
        """Do frames with these first bytes pass?"""
        walker = FrameWalker(masked=masked, **how)
        stream = before(firsts, masked)
        onward = feed(walker, deliver(stream))
        assert (onward == stream) == (walker.halt is None)
        return walker.halt is None

    @pytest.mark.parametrize("firsts", [b"\xc1", b"\xc2", b"\x41\x80", b"\x42\x89\x00\x80", b"\x81\xc1"])
    def test_rsv1_marks_a_compressed_message(self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        assert self.walk(firsts, masked, deliver, rsv1=True)

    @pytest.mark.parametrize("firsts", [b"\xc1", b"\x41\x80"])
    def test_rsv1_needs_the_extension(self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        assert not self.walk(firsts, masked, deliver)

    @pytest.mark.parametrize(
        "firsts", [b"\x41\xc0", b"\x41\x40\x80", b"\xc9", b"\xca", b"\xc8", b"\xa1", b"\x91", b"\xe1", b"\x01\xa0", b"\x83", b"\xc3"]
    )
    def test_rsv1_stands_nowhere_else(self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        assert not self.walk(firsts, masked, deliver, rsv1=True)

    @pytest.mark.parametrize("firsts", [b"\xf1", b"\xb2", b"\x91\xc1", b"\x41\xc0", b"\xf9", b"\x8b", b"\xff", b"\x87", b"\x03\x80"])
    def test_an_unknown_extension_may_use_any_bit_and_opcode(
        self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        assert self.walk(firsts, masked, deliver, rsv1=True, lenient=True)
        assert self.walk(firsts, masked, deliver, lenient=True)

    @pytest.mark.parametrize("firsts", [b"\x80", b"\xc0", b"\x01\x81", b"\x09", b"\x0b", b"\x03\x81", b"\x01\x84"])
    def test_an_unknown_extension_does_not_suspend_the_rules_of_framing(
        self, firsts: bytes, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        assert not self.walk(firsts, masked, deliver, lenient=True)


def test_an_unknown_extension_does_not_suspend_masks_or_the_length_of_control_frames() -> None:
    for chunk in (b"\x81\x02hi", b"\xf1\x02hi", b"\x8b\xfe\x00\x7e" + NO_MASK):
        walker = FrameWalker(masked=True, lenient=True)
        assert walker.receive_data(chunk, 0.0) == b""
        assert isinstance(walker.halt, ProtocolError)


# --- Close ----------------------------------------------------------------------------------------------------------------------

GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4008, 4009, 4010, 4999]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@DIRECTIONS
@DELIVERED
class TestClose:
    @pytest.mark.parametrize(
        ("payload", "code", "reason"),
        [
            (b"", 1005, ""),
            (b"\x03\xe8", 1000, ""),
            (b"\x03\xe8bye", 1000, "bye"),
            (b"\x0f\xa8" + "é".encode() * 61, 4008, "é" * 61),
            (b"\x0f\xa8" + b"x" * 123, 4008, "x" * 123),
            (b"\x03\xe9\x00", 1001, "\x00"),
        ],
    )
    def test_is_held_until_it_is_whole_and_then_told(
        self, payload: bytes, code: int, reason: str, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        raw = encode(0x88, payload, MASKS[1] if masked else None)
        walker = FrameWalker(masked=masked)
        held = 0
        onward = b""
        for chunk in deliver(text(masked) + raw):
            assert walker.halt is None
            onward += walker.receive_data(chunk, 0.0)
            held = max(held, walker.held)
        assert onward == text(masked)
        assert walker.halt == CloseFrame(code, reason, raw)
        assert walker.attention
        assert held <= 131
        assert walker.held == 0

    def test_takes_nothing_of_what_follows(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        raw = encode(0x88, b"\x03\xe8", MASKS[1] if masked else None)
        walker = FrameWalker(masked=masked)
        assert feed(walker, deliver(raw + raw + text(masked) + b"\xff\xff")) == b""
        assert walker.halt == CloseFrame(1000, "", raw)
        assert walker.held == 0
        walker.resume()
        assert walker.receive_data(text(masked), 0.0) == b""
        assert walker.halt == CloseFrame(1000, "", raw)

    def test_may_come_inside_a_message(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        raw = encode(0x88, b"", MASKS[1] if masked else None)
        walker = FrameWalker(masked=masked)
        start = text(masked, first=0x01)
        assert feed(walker, deliver(start + raw)) == start
        assert walker.halt == CloseFrame(1005, "", raw)
        assert walker.in_message
        assert not walker.in_frame

    def test_is_not_told_to_the_judge(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        judge = Script(Verdict.DROP, Verdict.DROP)
        walker = FrameWalker(masked=masked, judge=judge)
        feed(walker, deliver(encode(0x88, b"", MASKS[1] if masked else None)))
        assert isinstance(walker.halt, CloseFrame)
        assert judge.asked == []

    @pytest.mark.parametrize("code", GOOD_CODES)
    def test_code_that_may_be_sent(self, code: int, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        walker = FrameWalker(masked=masked)
        feed(walker, deliver(encode(0x88, code.to_bytes(2, "big"), MASKS[1] if masked else None)))
        assert isinstance(walker.halt, CloseFrame)
        assert walker.halt.code == code

    @pytest.mark.parametrize("code", BAD_CODES)
    def test_code_that_may_not(self, code: int, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        walker = FrameWalker(masked=masked)
        feed(walker, deliver(encode(0x88, code.to_bytes(2, "big") + b"why", MASKS[1] if masked else None)))
        assert isinstance(walker.halt, ProtocolError)
        assert str(code) in str(walker.halt)


def test_every_code_that_may_be_sent() -> None:
    assert {code for code in range(65536) if is_sendable(code)} == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert all(is_sendable(code) for code in CloseCode if code not in (1005, 1006))


def test_close_payloads_alone() -> None:
    assert parse_close(b"") == (1005, "")
    assert parse_close(b"\x0f\xa8slow down") == (4008, "slow down")
    with pytest.raises(ProtocolError, match="one byte"):
        parse_close(b"\x03")


# --- verdicts -------------------------------------------------------------------------------------------------------------------


def whole(masked: bool, *frames: tuple[int, bytes]) -> bytes:
    return b"".join(encode(first, payload, MASKS[1] if masked else None) for first, payload in frames)


@DIRECTIONS
@DELIVERED
class TestDrop:
    def test_takes_one_message_between_two(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        one, two, three = (text(masked, payload) for payload in (b"one", b"two", b"three"))
        judge = Script(Verdict.PASS, Verdict.DROP)
        walker = FrameWalker(masked=masked, judge=judge)
        assert feed(walker, deliver(one + two + three)) == one + three
        assert judge.asked == [(0x81, 3), (0x81, 3), (0x81, 5)]
        assert walker.attention
        assert walker.halt is None
        assert (walker.messages, walker.payload_bytes) == (3, 11)

    def test_takes_all_fragments_and_lets_control_frames_between_pass(
        self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        frames = [(0x01, b"a" * 200), (0x89, b"ping"), (0x00, b"b"), (0x8A, b""), (0x80, b"c" * 126), (0x82, b"next")]
        judge = Script(Verdict.DROP)
        walker = FrameWalker(masked=masked, judge=judge)
        onward = feed(walker, deliver(whole(masked, *frames)))
        assert onward == whole(masked, frames[1], frames[3], frames[5])
        assert judge.asked == [(0x01, 200), (0x89, 4), (0x8A, 0), (0x82, 4)]
        assert (walker.messages, walker.payload_bytes) == (2, 331)

    def test_of_an_empty_message_forwards_no_empty_message(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP))
        assert feed(walker, deliver(whole(masked, (0x81, b""), (0x82, b"next")))) == whole(masked, (0x82, b"next"))

    def test_of_a_control_frame_leaves_its_message_whole(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        frames = [(0x01, b"a"), (0x89, b"ping"), (0x80, b"b")]
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.DROP))
        assert feed(walker, deliver(whole(masked, *frames))) == whole(masked, frames[0], frames[2])
        assert walker.halt is None

    def test_of_a_continuation_closes_since_its_message_is_half_forwarded(
        self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        frames = [(0x01, b"a"), (0x00, b"b"), (0x80, b"c")]
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.DROP))
        assert feed(walker, deliver(whole(masked, *frames))) == whole(masked, frames[0])
        assert walker.halt is Verdict.CLOSE

    def test_faults_inside_a_dropped_message_still_end_it(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP))
        assert feed(walker, deliver(whole(masked, (0x01, b"a"), (0x81, b"b")))) == b""
        assert isinstance(walker.halt, ProtocolError)

    def test_two_in_a_row(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        frames = [(0x81, b"a"), (0x02, b"b"), (0x80, b"b"), (0x82, b"c" * 300), (0x81, b"d")]
        walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP, Verdict.DROP, Verdict.DROP))
        assert feed(walker, deliver(whole(masked, *frames))) == whole(masked, frames[4])


@DIRECTIONS
def test_attention_to_a_drop_is_over_when_it_was_attended_to(masked: bool) -> None:
    walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP))
    assert walker.receive_data(text(masked), 0.0) == b""
    assert walker.attention
    walker.unwatch()
    assert not walker.attention
    chunk = text(masked)
    assert walker.receive_data(chunk, 0.0) is chunk
    assert walker.receive_data(chunk, 0.0) is chunk
    assert not walker.attention


@DIRECTIONS
@DELIVERED
class TestRefusal:
    def test_stops_before_the_frame(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        frames = [(0x81, b"one"), (0x81, b"two"), (0x81, b"three")]
        judge = Script(Verdict.PASS, Verdict.CLOSE)
        walker = FrameWalker(masked=masked, judge=judge)
        assert feed(walker, deliver(whole(masked, *frames))) == whole(masked, frames[0])
        assert walker.halt is Verdict.CLOSE
        assert walker.attention
        assert len(judge.asked) == 2
        assert (walker.messages, walker.payload_bytes) == (1, 3)
        assert not walker.in_message

    def test_can_be_read_over_to_find_the_close_behind_it(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        close = encode(0x88, b"\x03\xe8", MASKS[1] if masked else None)
        judge = Script(Verdict.CLOSE)
        walker = FrameWalker(masked=masked, judge=judge)
        feed(walker, deliver(whole(masked, (0x01, b"one"), (0x80, b"two")) + close))
        walker.stop_judging()
        walker.resume()
        walker.receive_data(b"", 0.0)
        assert walker.halt == CloseFrame(1000, "", close)
        assert len(judge.asked) == 1

    def test_unwatching_does_not_forget_it(self, masked: bool, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        walker = FrameWalker(masked=masked, judge=Script(Verdict.CLOSE))
        feed(walker, deliver(text(masked)))
        walker.unwatch()
        assert walker.attention
        assert walker.halt is Verdict.CLOSE


@DIRECTIONS
class TestHold:
    def test_keeps_the_frame_and_all_behind_it(self, masked: bool) -> None:
        one, two = text(masked, b"one"), text(masked, b"two" * 50)
        judge = Script(Verdict.HOLD, Verdict.HOLD)
        walker = FrameWalker(masked=masked, judge=judge)
        assert walker.receive_data(one, 1.0) == b""
        assert walker.halt is Verdict.HOLD
        assert walker.receive_data(two, 2.0) == b""
        assert len(judge.asked) == 1
        assert walker.held == len(one + two)
        walker.resume()
        assert walker.halt is None
        assert not walker.attention
        assert walker.receive_data(b"", 3.0) == b""
        assert walker.halt is Verdict.HOLD
        walker.resume()
        assert walker.receive_data(b"", 4.0) == one + two
        assert judge.asked == [(0x81, 3), (0x81, 3), (0x81, 3), (0x81, 150)]
        assert judge.times == [1.0, 3.0, 4.0, 4.0]
        assert (walker.messages, walker.payload_bytes) == (2, 153)
        assert walker.held == 0
        assert not walker.attention
        assert walker.receive_data(one, 5.0) is one

    def test_lets_pass_what_was_before_it(self, masked: bool) -> None:
        one, two = text(masked, b"one"), text(masked, b"two")
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.HOLD))
        assert walker.receive_data(one + two, 0.0) == one
        walker.resume()
        assert walker.receive_data(one, 0.0) == two + one

    def test_again_and_again_in_one_chunk_forgets_what_passed(self, masked: bool) -> None:
        frames = [text(masked, b"%d" % number) for number in range(8)]
        walker = FrameWalker(masked=masked, judge=Script(*[Verdict.PASS, Verdict.HOLD, Verdict.HOLD] * 9))
        assert walker.receive_data(b"".join(frames[:6]), 0.0) == frames[0]
        for number in range(1, 8):
            assert walker.held == sum(map(len, frames[number : 6 if number < 4 else 8]))
            walker.resume()
            assert walker.receive_data(b"", 0.0) == b""
            if number == 3:
                assert walker.receive_data(b"".join(frames[6:]), 0.0) == b""  # comes while it is held
            walker.resume()
            assert walker.receive_data(b"", 0.0) == frames[number]
        assert walker.held == 0

    def test_with_what_comes_right_at_its_end(self, masked: bool) -> None:
        one, two = text(masked, b"one"), text(masked, b"two")
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.HOLD))
        assert walker.receive_data(one + two, 0.0) == one
        walker.resume()
        assert walker.receive_data(one[:1], 0.0) == two
        assert walker.receive_data(one[1:], 0.0) == one

    def test_of_a_continuation_is_no_refusal(self, masked: bool) -> None:
        stream = whole(masked, (0x01, b"a"), (0x80, b"b"))
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.HOLD))
        assert walker.receive_data(stream, 0.0) == stream[: len(stream) // 2]
        assert walker.halt is Verdict.HOLD
        assert walker.in_message
        walker.resume()
        assert walker.receive_data(b"", 0.0) == stream[len(stream) // 2 :]

    def test_can_end_in_a_drop(self, masked: bool) -> None:
        one, two = text(masked, b"one"), text(masked, b"two")
        walker = FrameWalker(masked=masked, judge=Script(Verdict.HOLD, Verdict.DROP))
        walker.receive_data(one, 0.0)
        walker.resume()
        assert walker.receive_data(two, 0.0) == two
        assert walker.attention

    def test_does_not_end_a_watch(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked, judge=Script(Verdict.HOLD))
        walker.watch()
        walker.receive_data(text(masked), 0.0)
        walker.resume()
        assert walker.attention
        walker.receive_data(b"", 0.0)
        assert walker.attention
        walker.unwatch()
        assert not walker.attention


@DIRECTIONS
class TestTurn:
    def test_one_call_reads_so_many_frames_and_the_next_goes_on(self, masked: bool) -> None:
        one = text(masked)
        walker = FrameWalker(masked=masked, judge=(judge := Script()))
        assert walker.receive_data(one * (2 * TURN + 1), 1.0) == one * TURN
        assert walker.halt is Turn.OVER
        assert walker.attention
        assert len(judge.asked) == walker.messages == TURN
        assert (walker.frame_end, walker.message_end) == (len(one) * TURN, len(one) * TURN)
        assert walker.receive_data(one, 2.0) == b""  # who does not ask for its turn gets none
        walker.resume()
        assert not walker.attention
        assert walker.receive_data(b"", 3.0) == one * TURN
        walker.resume()
        assert walker.receive_data(b"", 4.0) == one * 2
        assert walker.halt is None
        assert walker.held == 0
        assert judge.times == [1.0] * TURN + [3.0] * TURN + [4.0] * 2

    def test_is_not_over_where_nothing_follows(self, masked: bool) -> None:
        stream = text(masked) * TURN
        walker = FrameWalker(masked=masked)
        assert walker.receive_data(stream, 0.0) is stream
        assert walker.halt is None
        assert not walker.attention

    def test_frames_that_do_not_go_on_count_too(self, masked: bool) -> None:
        stream = whole(masked, (0x01, b"a"), *[(0x00, b"")] * TURN)
        walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP))
        assert walker.receive_data(stream, 0.0) == b""
        assert walker.halt is Turn.OVER

    def test_pongs_to_our_own_pings_count_too(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        walker.own_pong = b"8 bytes."
        assert walker.receive_data(text(masked, walker.own_pong, 0x8A) * (TURN + 1), 0.0) == b""
        assert walker.halt is Turn.OVER
        assert walker.controls == TURN

    @pytest.mark.parametrize("shape", ["one frame", "inside a frame", "many frames"])
    def test_is_over_too_behind_very_many_bytes(self, masked: bool, shape: str) -> None:
        count = TURN_SIZE // 10_000 + 1
        stream = text(masked, b"x" * 10_000) * count if shape == "many frames" else text(masked, b"x" * TURN_SIZE)
        if shape == "inside a frame":
            stream = stream[:TURN_SIZE]
        walker = FrameWalker(masked=masked, judge=(judge := Script()))
        assert walker.receive_data(stream, 1.0) is stream
        assert walker.halt is Turn.OVER
        assert walker.attention
        assert walker.held == 0
        assert walker.receive_data(stream[:1], 2.0) == b""  # who does not ask for its turn gets none
        assert walker.held == 1
        walker.resume()
        assert not walker.attention
        assert walker.receive_data(b"", 3.0) == (stream[:1] if shape == "inside a frame" else b"")
        assert walker.halt is None
        assert len(judge.asked) == walker.messages == (count if shape == "many frames" else 1)

    def test_is_not_over_behind_fewer_bytes(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        stream = text(masked, b"x" * TURN_SIZE)[: TURN_SIZE - 1]
        assert walker.receive_data(stream, 1.0) is stream
        assert walker.halt is None

    def test_is_over_behind_very_many_bytes_that_do_not_go_on(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked, judge=Script(*[Verdict.DROP] * TURN))
        assert walker.receive_data(text(masked, b"x" * 10_000) * (TURN_SIZE // 10_000 + 1), 1.0) == b""
        assert walker.halt is Turn.OVER

    def test_that_is_over_does_not_end_a_watch(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        walker.watch()
        walker.receive_data(text(masked) * (TURN + 1), 0.0)
        walker.resume()
        assert walker.attention


# --- where a frame of ours may stand --------------------------------------------------------------------------------------------


@DIRECTIONS
class TestPlaces:
    def test_after_a_part_of_a_frame_there_is_none(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        walker.receive_data(text(masked, b"x" * 100)[:20], 0.0)
        walker.watch()
        walker.receive_data(b"x", 0.0)
        assert walker.attention
        assert walker.in_frame
        assert walker.in_message
        assert (walker.frame_end, walker.message_end) == (-1, -1)

    def test_before_the_next_frame(self, masked: bool) -> None:
        frame = text(masked, b"x" * 100)
        walker = FrameWalker(masked=masked)
        walker.receive_data(frame[:20], 0.0)
        walker.watch()
        assert walker.receive_data(frame[20:] + frame[:20], 0.0) == frame[20:] + frame[:20]
        assert (walker.frame_end, walker.message_end) == (len(frame) - 20, len(frame) - 20)
        assert walker.in_frame

    def test_between_fragments_only_a_control_frame(self, masked: bool) -> None:
        walker = FrameWalker(masked=masked)
        walker.watch()
        start = text(masked, first=0x01)
        walker.receive_data(start, 0.0)
        assert (walker.frame_end, walker.message_end) == (len(start), 0)
        assert walker.in_message
        assert not walker.in_frame
        walker.receive_data(text(masked, first=0x89), 0.0)
        assert (walker.frame_end, walker.message_end) == (len(start), -1)
        walker.receive_data(text(masked, first=0x80), 0.0)
        assert (walker.frame_end, walker.message_end) == (len(start), len(start))
        assert not walker.in_message

    def test_where_a_dropped_message_was(self, masked: bool) -> None:
        one, two = text(masked, b"one"), text(masked, b"two")
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.DROP))
        assert walker.receive_data(one + two[:-1], 0.0) == one
        assert (walker.frame_end, walker.message_end) == (len(one), len(one))
        assert not walker.in_frame
        assert walker.receive_data(two[-1:] + one[:-1], 0.0) == one[:-1]
        assert (walker.frame_end, walker.message_end) == (0, 0)
        assert walker.in_frame

    def test_after_a_small_frame_that_was_dropped_or_refused(self, masked: bool) -> None:
        for verdict in (Verdict.DROP, Verdict.CLOSE, Verdict.HOLD):
            walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, verdict))
            walker.watch()
            walker.unwatch()
            walker.receive_data(text(masked), 0.0)  # leaves its own places behind
            assert walker.frame_end > 0
            assert walker.receive_data(text(masked), 0.0) == b""
            assert (walker.frame_end, walker.message_end) == (0, 0)

    def test_while_nothing_is_read_any_more(self, masked: bool) -> None:
        start = text(masked, first=0x01)
        walker = FrameWalker(masked=masked, judge=Script(Verdict.PASS, Verdict.CLOSE))
        walker.receive_data(start + text(masked, first=0x80), 0.0)
        assert (walker.frame_end, walker.message_end) == (len(start), 0)
        walker.receive_data(text(masked), 0.0)
        assert (walker.frame_end, walker.message_end) == (0, -1)


# --- frames of ours -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, MASKS[1]], ids=["plain", "masked"])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_ours_is_read_by_others(size: int, mask: bytes | None) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    frame = build_frame(Opcode.BINARY, payload, mask)
    is_same = frame == encode(0x82, payload, mask)
    assert is_same  # to show where 65,535 bytes differ takes a minute
    peer = Protocol(SERVER if mask else CLIENT, max_size=None)
    peer.receive_data(frame)
    (event,) = peer.events_received()
    is_read = event.data == payload
    assert (event.opcode, is_read, event.fin) == (Opcode.BINARY, True, True)


def test_rfc_6455_5_7_examples() -> None:
    assert build_frame(Opcode.TEXT, b"Hello") == b"\x81\x05\x48\x65\x6c\x6c\x6f"
    assert build_frame(Opcode.TEXT, b"Hello", b"\x37\xfa\x21\x3d") == b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
    assert build_frame(Opcode.PING, b"Hello") == b"\x89\x05\x48\x65\x6c\x6c\x6f"
    assert build_frame(Opcode.BINARY, b"x" * 256)[:4] == b"\x82\x7e\x01\x00"
    assert build_frame(Opcode.BINARY, b"x" * 65536)[:10] == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4))
@settings(UNHURRIED, max_examples=50)
def test_masking_is_its_own_inverse(payload: bytes, mask: bytes) -> None:
    masked = mask_payload(payload, mask)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert mask_payload(masked, mask) == payload


@pytest.mark.parametrize("mask", [None, MASKS[1]], ids=["plain", "masked"])
@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (1000, "", b"\x03\xe8"),
        (1005, "", b""),
        (1005, "never on the wire", b""),
        (4008, "x" * 123, b"\x0f\xa8" + b"x" * 123),
        (4008, "x" * 500, b"\x0f\xa8" + b"x" * 123),
        (4008, "x" * 122 + "é", b"\x0f\xa8" + b"x" * 122),
        (4008, "x" * 121 + "é", b"\x0f\xa8" + b"x" * 121 + "é".encode()),
        (4008, "x" * 120 + "🎲", b"\x0f\xa8" + b"x" * 120),
    ],
)
def test_a_close_of_ours_is_cut_between_characters(code: int, reason: str, payload: bytes, mask: bytes | None) -> None:
    frame = build_close(code, reason, mask)
    assert frame == encode(0x88, payload, mask)
    assert len(payload) <= 2 + MAX_CLOSE_REASON
    walker = FrameWalker(masked=mask is not None)
    walker.receive_data(frame, 0.0)
    assert walker.halt == CloseFrame(code, payload[2:].decode(), frame)


# --- properties -----------------------------------------------------------------------------------------------------------------

some_verdicts = st.lists(st.sampled_from(["pass", "pass", "pass", "drop", "hold", "close"]), max_size=12)
places = st.lists(st.integers(0, 2000), max_size=12)


@given(st.data(), st.booleans(), st.booleans(), st.booleans(), some_verdicts, places)
@settings(UNHURRIED, max_examples=250)
def test_any_split_of_any_valid_stream_is_read_as_the_reference_reads_it(
    data: st.DataObject, masked: bool, rsv1: bool, watched: bool, verdicts: list[str], cuts: list[int]
) -> None:
    stream = data.draw(streams(masked=masked, rsv1=rsv1))
    check_against_the_reference(stream, cut(stream, cuts), verdicts, watched=watched, masked=masked, rsv1=rsv1)


@given(st.data(), st.booleans(), st.booleans(), some_verdicts)
@settings(UNHURRIED, max_examples=60)
def test_any_valid_stream_is_read_byte_by_byte_as_the_reference_reads_it(
    data: st.DataObject, masked: bool, watched: bool, verdicts: list[str]
) -> None:
    stream = data.draw(streams(masked=masked))[:3000]
    check_against_the_reference(stream, one_by_one(stream), verdicts, watched=watched, masked=masked)


@given(
    st.lists(st.sampled_from((0x82, 0x02, 0x00, 0x80, 0x89, 0x8A)), max_size=3 * TURN),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from(["pass", "drop", "hold"]), max_size=2 * TURN),
    st.lists(st.integers(0, 18 * TURN), max_size=3),
)
@settings(UNHURRIED, max_examples=60)
def test_a_stream_of_more_frames_than_a_turn_is_read_as_the_reference_reads_it(
    firsts: list[int], masked: bool, watched: bool, verdicts: list[str], cuts: list[int]
) -> None:
    stream = whole(masked, *((first, b"") for first in [0x82] * TURN + firsts))
    check_against_the_reference(stream, cut(stream, cuts), verdicts, watched=watched, masked=masked)


@given(st.data(), st.booleans(), st.booleans(), st.booleans(), some_verdicts, places)
@settings(UNHURRIED, max_examples=250)
def test_any_corruption_of_a_header_is_judged_as_the_reference_judges_it(
    data: st.DataObject, masked: bool, rsv1: bool, lenient: bool, verdicts: list[str], cuts: list[int]
) -> None:
    stream = bytearray(data.draw(streams(masked=masked, rsv1=rsv1)) or text(masked))
    headers = [at for frame in reference.read_frames(bytes(stream)) for at in range(frame.start, frame.body)]
    for _ in range(data.draw(st.integers(1, 2))):
        stream[data.draw(st.sampled_from(headers))] = data.draw(st.integers(0, 255))
    corrupt = bytes(stream)
    check_against_the_reference(corrupt, cut(corrupt, cuts), verdicts, watched=False, masked=masked, rsv1=rsv1, lenient=lenient)


@given(st.binary(max_size=300), st.booleans(), st.booleans(), st.booleans(), some_verdicts, places)
@example(b"\x82\xff\x80", True, False, False, [], [])
@example(b"\x82\x7f\x7f", False, False, False, [], [2])
@settings(UNHURRIED, max_examples=250)
def test_any_bytes_are_judged_as_the_reference_judges_them(
    stream: bytes, masked: bool, rsv1: bool, lenient: bool, verdicts: list[str], cuts: list[int]
) -> None:
    check_against_the_reference(stream, cut(stream, cuts), verdicts, watched=True, masked=masked, rsv1=rsv1, lenient=lenient)


@given(st.data(), st.booleans(), some_verdicts, places)
@settings(UNHURRIED, max_examples=150)
def test_what_goes_on_with_frames_of_ours_put_in_is_a_valid_stream(
    data: st.DataObject, masked: bool, verdicts: list[str], cuts: list[int]
) -> None:
    verdicts = [verdict for verdict in verdicts if verdict in ("pass", "drop")]
    frames = [frame for message in data.draw(st.lists(messages(), max_size=5)) for frame in message]
    verdicts = [
        verdict if first & 0x0F in (1, 2) else "pass" for verdict, (first, _) in zip(verdicts, asked_about(frames, verdicts), strict=False)
    ]
    stream = whole(masked, *frames)
    walker = FrameWalker(masked=masked, judge=Script(*(VERDICTS[verdict] for verdict in verdicts)))
    walker.watch()
    mask = MASKS[2] if masked else None
    plain, full, pings, notices = b"", b"", 0, 0
    for chunk in cut(stream, cuts):
        onward = walker.receive_data(chunk, 0.0)
        inserts = [
            (walker.frame_end, build_frame(Opcode.PING, b"ours", mask)),
            (walker.message_end, build_frame(Opcode.TEXT, b"ours", mask)),
        ]
        pings += walker.frame_end >= 0
        notices += walker.message_end >= 0
        plain += onward
        for place, ours in sorted((one for one in inserts if one[0] >= 0), reverse=True):
            onward = onward[:place] + ours + onward[place:]
        full += onward
    theirs, controls = reference.read_messages(plain)
    found, found_controls = reference.read_messages(full)
    assert [message for message in found if message[1] != b"ours"] == theirs
    assert len(found) == len(theirs) + notices
    assert len(found_controls) == len(controls) + pings
    assert as_websockets_reads(full, masked) == as_the_reference_reads(full)


def asked_about(frames: Sequence[tuple[int, bytes]], verdicts: Sequence[str]) -> list[tuple[int, bytes]]:
    """The frames that a judge with these verdicts is asked about: all but the rest of a dropped message."""
    asked = []
    answers = iter(verdicts)
    dropping = False
    for first, payload in frames:
        if first & 0x0F == 0 and dropping:
            continue
        asked.append((first, payload))
        verdict = next(answers, "pass")
        if first & 0x0F in (1, 2):
            dropping = verdict == "drop"
    return asked


def as_the_reference_reads(stream: bytes) -> list[tuple[int, bool, bytes]]:
    return [(frame.opcode, frame.fin, frame.payload(stream)) for frame in reference.read_frames(stream)]


def as_websockets_reads(stream: bytes, masked: bool, extensions: Sequence[PerMessageDeflate] = ()) -> list[tuple[int, bool, bytes]]:
    """The frames that the `websockets` library finds, which has to find no fault."""
    peer = Protocol(SERVER if masked else CLIENT, max_size=None)
    peer.extensions = list(extensions)
    peer.receive_data(stream)
    assert peer.parser_exc is None
    return [(int(frame.opcode), frame.fin, bytes(frame.data)) for frame in peer.events_received()]


@given(st.data(), st.booleans(), places)
@settings(UNHURRIED, max_examples=150)
def test_websockets_agrees_on_valid_streams(data: st.DataObject, masked: bool, cuts: list[int]) -> None:
    stream = data.draw(streams(masked=masked))
    walker = FrameWalker(masked=masked)
    onward = feed(walker, cut(stream, cuts))
    if isinstance(walker.halt, CloseFrame):
        onward += walker.halt.raw
    assert onward == stream
    assert as_websockets_reads(onward, masked) == as_the_reference_reads(stream)


@pytest.mark.parametrize(
    ("client", "server"), [case[3:] for case in FAULTS if not case[2]], ids=[case[0] for case in FAULTS if not case[2]]
)
@DIRECTIONS
def test_websockets_agrees_on_faults(client: bytes, server: bytes, masked: bool) -> None:
    peer = Protocol(SERVER if masked else CLIENT, max_size=1 << 62)
    bad = client if masked else server
    length = {126: b"\x00\x80", 127: b"\x00\x00\x00\x00\x00\x00\x00\x80"}.get(bad[1] & 0x7F, b"") if len(bad) == 2 else b""
    peer.receive_data(bad + length + bytes(140))
    assert peer.parser_exc is not None


@DIRECTIONS
def test_compressed_messages_with_dropped_ones_between_stay_readable(masked: bool) -> None:
    # As after `client_no_context_takeover`: each message is compressed on its own.
    def compressed(payload: bytes) -> bytes:
        deflate = zlib.compressobj(wbits=-15)
        return deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]

    stream = b"".join(text(masked, compressed(b"message %d " % number * 9), 0xC1) for number in range(20))
    judge = Script(*(Verdict.DROP if number % 3 else Verdict.PASS for number in range(20)))
    onward = feed(FrameWalker(masked=masked, rsv1=True, judge=judge), cut(stream, list(range(0, len(stream), 7))))
    reader = PerMessageDeflate(
        remote_no_context_takeover=True, local_no_context_takeover=True, remote_max_window_bits=15, local_max_window_bits=15
    )
    found = as_websockets_reads(onward, masked, [reader])
    assert [payload for _, _, payload in found] == [b"message %d " % number * 9 for number in range(0, 20, 3)]


def test_what_a_header_only_announces_does_not_count() -> None:
    walker = FrameWalker(masked=True)
    walker.receive_data(b"\x82\xff" + (2**63 - 1).to_bytes(8, "big") + bytes(4), 0.0)
    assert walker.received_bytes == 0
    walker.receive_data(bytes(100), 0.0)
    assert walker.received_bytes == 100


def test_a_control_frame_on_its_way_is_no_payload_of_messages() -> None:
    walker = FrameWalker(masked=True)
    walker.receive_data(encode(0x82, b"abc", MASKS[0]) + encode(0x89, bytes(100), MASKS[0])[:50], 0.0)
    assert walker.received_bytes == 3


# --- the pong to a ping of ours --------------------------------------------------------------------------------------------------

OUR_PAYLOAD = b"\x00\xffours\x80!"
OUR_PONG = encode(0x8A, OUR_PAYLOAD, MASKS[1])


def expecting(judge: Script | None = None, pings: int = 1000) -> FrameWalker:
    """`pings`: so many of ours are not answered yet."""
    walker = FrameWalker(masked=True, judge=judge)
    walker.own_pong = OUR_PAYLOAD
    walker.own_pings = pings
    return walker


class TestOwnPong:
    @DELIVERED
    def test_is_not_forwarded_and_not_judged(self, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        judge = Script()
        walker = expecting(judge)
        assert feed(walker, deliver(text(True) + OUR_PONG + OUR_PONG + text(True, b"ho"))) == text(True) + text(True, b"ho")
        assert judge.asked == [(0x81, 2), (0x81, 2)]
        assert (walker.messages, walker.controls, walker.held, walker.attention) == (2, 2, 0, False)

    @pytest.mark.parametrize(
        "other",
        [
            encode(0x8A, OUR_PAYLOAD[:-1], MASKS[1]),
            encode(0x8A, OUR_PAYLOAD + b"!", MASKS[1]),
            encode(0x8A, OUR_PAYLOAD[:-1] + b"?", MASKS[1]),
            encode(0x8A, b"", MASKS[1]),
            encode(0x89, OUR_PAYLOAD, MASKS[1]),
            encode(0x82, OUR_PAYLOAD, MASKS[1]),
        ],
        ids=["shorter", "longer", "of_the_same_length", "empty", "ping", "message"],
    )
    @DELIVERED
    def test_anything_else_passes(self, other: bytes, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        assert feed(expecting(), deliver(text(True) + other + OUR_PONG + other)) == text(True) + other + other

    def test_every_mask_is_taken_off(self) -> None:
        for mask in MASKS:
            assert expecting().receive_data(encode(0x8A, OUR_PAYLOAD, mask), 0.0) == b""

    def test_passes_where_none_is_awaited(self) -> None:
        assert FrameWalker(masked=True).receive_data(OUR_PONG, 0.0) == OUR_PONG

    def test_no_more_than_one_cut_pong_is_held(self) -> None:
        walker = expecting()
        for byte in one_by_one(OUR_PONG[:-1]):
            assert walker.receive_data(byte, 0.0) == b""
        assert walker.held == len(OUR_PONG) - 1
        long = encode(0x8A, bytes(125), MASKS[1])
        walker = expecting()
        assert walker.receive_data(long[:-1], 0.0) == long[:-1]
        assert walker.held == 0

    @DELIVERED
    def test_a_dropped_message_around_it_stays_dropped(self, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        judge = Script(Verdict.DROP)
        begin, end = encode(0x01, b"half", MASKS[1]), encode(0x80, b"half", MASKS[1])
        walker = expecting(judge)
        onward = b""
        for chunk in deliver(begin + OUR_PONG + end + text(True)):
            onward += walker.receive_data(chunk, 0.0)
        assert onward == text(True)
        assert judge.asked == [(0x01, 4), (0x81, 2)]

    @DELIVERED
    def test_more_of_them_than_we_asked_for_are_judged_and_not_forwarded(self, deliver: Callable[[bytes], Sequence[bytes]]) -> None:
        judge = Script(Verdict.PASS, Verdict.DROP)
        walker = expecting(judge, pings=2)
        onward = b"".join(walker.receive_data(chunk, 0.0) for chunk in deliver(OUR_PONG * 4 + text(True)))
        assert onward == text(True)
        assert judge.asked == [(0x8A, 8), (0x8A, 8), (0x81, 2)]
        assert walker.own_pings == 0
        assert walker.halt is None

    @pytest.mark.parametrize("verdict", [Verdict.CLOSE, Verdict.HOLD])
    def test_one_too_many_may_close_or_wait(self, verdict: Verdict) -> None:
        judge = Script(Verdict.PASS, verdict)
        walker = expecting(judge, pings=0)
        assert walker.receive_data(text(True) + OUR_PONG + text(True), 0.0) == text(True)
        assert walker.halt is verdict
        assert walker.attention
        walker.resume()
        assert walker.receive_data(b"", 0.0) == text(True)
        assert judge.asked == [(0x81, 2), (0x8A, 8), (0x8A, 8), (0x81, 2)]

    def test_a_frame_of_ours_may_stand_where_it_stood(self) -> None:
        walker = expecting()
        walker.watch()
        assert walker.receive_data(text(True) + OUR_PONG, 0.0) == text(True)
        assert (walker.frame_end, walker.message_end) == (8, 8)
        assert walker.receive_data(OUR_PONG + text(True) + OUR_PONG + text(True)[:-1], 0.0) == text(True) + text(True)[:-1]
        assert (walker.frame_end, walker.message_end) == (8, 8)
        assert walker.in_frame
        walker.receive_data(text(True)[-1:], 0.0)
        assert walker.receive_data(OUR_PONG, 0.0) == b""
        assert (walker.frame_end, walker.message_end, walker.in_frame) == (0, 0, False)

    @given(st.data(), st.lists(st.integers(0, 400), max_size=6))
    @UNHURRIED
    def test_any_split_of_any_stream_with_some_of_them_in_it_is_the_stream_without_them(self, data: st.DataObject, cuts: list[int]) -> None:
        frames = [frame for message in data.draw(st.lists(messages(), max_size=3)) for frame in message]
        plain = [encode(first, payload, data.draw(st.sampled_from(MASKS))) for first, payload in frames]
        mixed = [part for one in plain for part in ([OUR_PONG] * data.draw(st.integers(0, 2)) + [one])] + [OUR_PONG]
        verdicts = data.draw(st.lists(st.sampled_from([Verdict.PASS, Verdict.DROP]), max_size=6))
        without, judge = Script(*verdicts), Script(*verdicts)
        expected = feed(FrameWalker(masked=True, judge=without), [b"".join(plain)])
        walker = expecting(judge)
        assert feed(walker, cut(b"".join(mixed), cuts)) == expected
        assert judge.asked == without.asked


@DIRECTIONS
def test_control_frames_are_counted_and_the_conversation_of_pings_of_a_server_is_dated(masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    mask = MASKS[1] if masked else None
    ping, pong = encode(0x89, b"p", mask), encode(0x8A, b"p", mask)
    walker.receive_data(ping if masked else pong, 5.0)
    assert (walker.controls, walker.ping_or_pong_at) == (1, 0.0)
    walker.receive_data(pong if masked else ping, 6.0)
    assert (walker.controls, walker.ping_or_pong_at) == (2, 6.0)
    walker.receive_data(text(masked), 7.0)
    assert (walker.controls, walker.ping_or_pong_at) == (2, 6.0)


@DIRECTIONS
def test_a_ping_that_was_dropped_has_asked_nobody(masked: bool) -> None:
    mask = MASKS[1] if masked else None
    walker = FrameWalker(masked=masked, judge=Script(Verdict.DROP, Verdict.DROP))
    walker.receive_data(encode(0x89, b"p", mask) + encode(0x8A, b"p", mask), 5.0)
    assert walker.controls == 2
    assert walker.ping_or_pong_at == (5.0 if masked else 0.0)  # but a client that has answered has answered


@DIRECTIONS
def test_what_has_come_at_least_is_never_more_than_what_has_come(masked: bool) -> None:
    mask = MASKS[1] if masked else None
    whole_ones = encode(0x82, bytes(100), mask) + encode(0x89, b"", mask) + encode(0x81, b"", mask)
    walker = FrameWalker(masked=masked)
    walker.receive_data(whole_ones, 0.0)
    assert walker.least_size == len(whole_ones)
    long = encode(0x02, bytes(70_000), mask) + encode(0x8A, b"more", mask) + encode(0x80, b"end", mask)
    sent = len(whole_ones)
    for chunk in cut(long, [5, 1000, 60_000]):
        sent += len(chunk)
        walker.receive_data(chunk, 0.0)
        assert sent - 50 <= walker.least_size <= sent
