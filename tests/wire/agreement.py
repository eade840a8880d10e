"""The walker held against the reference, over any stream, cut anyhow, under any verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.wire.frames import TURN, CloseFrame, FrameWalker, ProtocolError, Turn, Verdict
from tests.wire import reference

VERDICTS = {"pass": Verdict.PASS, "drop": Verdict.DROP, "close": Verdict.CLOSE, "hold": Verdict.HOLD}


class Script:
    """A judge that answers from a list, then PASS; it writes down what it was asked."""

    def __init__(self, *verdicts: Verdict) -> None:
        self._verdicts = list(verdicts)
        self.asked: list[tuple[int, int]] = []
        self.times: list[float] = []

    def __call__(self, first: int, length: int, now: float) -> Verdict:
        self.asked.append((first, length))
        self.times.append(now)
        return self._verdicts.pop(0) if self._verdicts else Verdict.PASS


def check_against_the_reference(stream: bytes, chunks: Sequence[bytes], verdicts: Sequence[str], *, watched: bool, **how: bool) -> None:
    """The walker, fed with the chunks, does what the reference says of the stream, and tells after each where it stands."""
    expected = reference.account(stream, verdicts=verdicts, **how)
    judge = Script(*(VERDICTS[verdict] for verdict in verdicts))
    walker = FrameWalker(judge=judge, **how)
    if watched:
        walker.watch()
    sent = b""
    for chunk in chunks:
        before = len(judge.asked)
        onward = walker.receive_data(chunk, 0.0)
        assert len(judge.asked) <= before + TURN
        check_places(walker, expected, len(sent), len(sent) + len(onward))
        sent += onward
        while walker.halt is Verdict.HOLD or walker.halt is Turn.OVER:
            walker.resume()
            onward = walker.receive_data(b"", 0.0)
            check_places(walker, expected, len(sent), len(sent) + len(onward))
            sent += onward
        if walker.halt is None:
            assert walker.held <= 131
    assert sent == expected.forwarded
    assert judge.asked == expected.asked
    assert (walker.messages, walker.payload_bytes) == (expected.messages, expected.payload_bytes)
    assert told(walker) == expected.halt
    assert walker.attention or not (watched or expected.halt)


def check_places(walker: FrameWalker, expected: reference.Account, start: int, end: int) -> None:
    assert walker.in_frame == (end not in expected.frame_places)
    assert walker.in_message == (end not in expected.message_places)
    if walker.attention:
        assert walker.frame_end == last_place(expected.frame_places, start, end)
        assert walker.message_end == last_place(expected.message_places, start, end)


def last_place(all_places: set[int], start: int, end: int) -> int:
    return max((place - start for place in all_places if start <= place <= end), default=-1)


def told(walker: FrameWalker) -> str | tuple[int, str, bytes] | None:
    match walker.halt:
        case CloseFrame(code, reason, raw):
            return code, reason, raw
        case ProtocolError():
            return "protocol error"
        case Verdict.CLOSE:
            return "refused"
    assert walker.halt is None
    return None
