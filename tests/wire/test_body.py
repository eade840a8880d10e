"""Where the body of a message ends, in bytes: whole, byte by byte, and with trailing bytes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.wire.body import (
    BYTES_PER_STEP,
    MAX_CHUNK_LINE,
    MAX_STEPS,
    MAX_TRAILERS,
    BodyFraming,
    BodyWalker,
    RequestBody,
    framing_of,
    framing_of_request,
)
from proxy.wire.handshake import HandshakeError, parse_request_head, parse_response_head
from tests.wire.streams import cut, one_by_one

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of ours


def framing(*lines: bytes, status: int = 404) -> BodyFraming:
    return framing_of(parse_response_head(b"\r\n".join((b"HTTP/1.1 %d x" % status, *lines))))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], BodyFraming()),
        ([b"Content-Length: 0"], BodyFraming(length=0)),
        ([b"content-length: 12"], BodyFraming(length=12)),
        ([b"Transfer-Encoding: Chunked"], BodyFraming(chunked=True)),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], BodyFraming(chunked=True)),
    ],
)
def test_how_a_body_is_delimited(lines: list[bytes], found: BodyFraming) -> None:
    assert framing(*lines) == found


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_never_has_a_body(status: int) -> None:
    assert framing(b"Content-Length: 5", b"Transfer-Encoding: chunked", status=status) == BodyFraming(length=0)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Content-Length: 1, 2",
        b"Content-Length: 2, 2",
        b"Content-Length: 2\r\nContent-Length: 2",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 1_0",
        b"Content-Length: 0x1",
        b"Content-Length: \xb2",
        b"Content-Length: " + b"9" * 19,
        b"Content-Length: " + b"9" * 5000,
    ],
)
def test_an_ambiguous_length_is_502(line: bytes) -> None:
    with pytest.raises(HandshakeError, match="upstream") as caught:
        framing(line)
    assert caught.value.status == 502


def read(found: BodyFraming, chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    walker = BodyWalker(found)
    return b"".join(walker.receive_data(chunk) for chunk in chunks), walker.complete


CHUNKED = BodyFraming(chunked=True)
BODIES = [
    (BodyFraming(length=0), b""),
    (BodyFraming(length=1), b"x"),
    (BodyFraming(length=300), b"y" * 300),
    (CHUNKED, b"0\r\n\r\n"),
    (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"),
    (CHUNKED, b"00A; name=value\r\n0123456789\r\n1\r\n\n\r\n0;x\r\nTrailer: 1\r\nTwo: 2\r\n\r\n"),
    (CHUNKED, b"ff\r\n" + b"\r\n" * 127 + b"z\r\n" + b"000\r\n\r\n"),
]


@pytest.mark.parametrize(("found", "body"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("trailing", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
class TestBody:
    def test_whole(self, found: BodyFraming, body: bytes, trailing: bytes) -> None:
        assert read(found, [body + trailing]) == (body, True)

    def test_byte_by_byte(self, found: BodyFraming, body: bytes, trailing: bytes) -> None:
        assert read(found, one_by_one(body + trailing)) == (body, True)

    def test_is_not_complete_before_its_last_byte(self, found: BodyFraming, body: bytes, trailing: bytes) -> None:
        assert read(found, [body[:-1]]) == (body[:-1], not body)


@given(st.sampled_from(BODIES), st.lists(st.integers(0, 320), max_size=8))
@settings(UNHURRIED, max_examples=100)
def test_any_split_gives_the_same(case: tuple[BodyFraming, bytes], places: list[int]) -> None:
    found, body = case
    assert read(found, cut(body + b"rest", places)) == (body, True)


def test_a_body_that_ends_with_its_connection_is_never_complete() -> None:
    assert read(BodyFraming(), [b"abc", b"", b"0\r\n\r\n"]) == (b"abc0\r\n\r\n", False)


@pytest.mark.parametrize(
    "body",
    [b"\r\n", b"x\r\n", b"-1\r\n", b"0x5\r\n", b"5 5\r\n", b";x\r\n", b"5\nhello", b"1" * 16 + b"\r\n", b"0\r\nTrailer\n\r\n", b"1_0\r\n"],
)
def test_a_malformed_chunk_is_502(body: bytes) -> None:
    for chunks in ([body], one_by_one(body)):
        with pytest.raises(HandshakeError, match="upstream") as caught:
            read(CHUNKED, chunks)
        assert caught.value.status == 502


def test_a_chunk_line_is_bounded() -> None:
    line = b"1;" + b"x" * (MAX_CHUNK_LINE - 4) + b"\r\n"
    assert read(CHUNKED, [line]) == (line, False)
    with pytest.raises(HandshakeError, match="too long"):
        read(CHUNKED, [b"1;" + b"x" * MAX_CHUNK_LINE])


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
@settings(UNHURRIED, max_examples=200)
def test_any_bytes_give_a_part_of_themselves_or_a_refusal(data: bytes, places: list[int]) -> None:
    try:
        passed, _ = read(CHUNKED, cut(data, places))
    except HandshakeError:
        return
    assert data.startswith(passed)


# --- requests -------------------------------------------------------------------------------------------------------------------


def framing_of_post(*lines: bytes, version: bytes = b"HTTP/1.1") -> BodyFraming:
    return framing_of_request(parse_request_head(b"\r\n".join((b"POST / " + version, *lines))))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], BodyFraming(length=0)),
        ([b"Content-Length: 0"], BodyFraming(length=0)),
        ([b"content-length: 012"], BodyFraming(length=12)),
        ([b"Content-Length: " + b"9" * 18], BodyFraming(length=10**18 - 1)),
        ([b"Transfer-Encoding: Chunked"], BodyFraming(chunked=True)),
    ],
)
def test_how_the_body_of_a_request_is_delimited(lines: list[bytes], found: BodyFraming) -> None:
    assert framing_of_post(*lines) == found


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400),
        ([b"Content-Length: 0", b"Transfer-Encoding: chunked"], 400),
        ([b"Content-Length: 5", b"Content-Length: 5"], 400),
        ([b"Content-Length: 5, 5"], 400),
        ([b"Content-Length: +5"], 400),
        ([b"Content-Length: -5"], 400),
        ([b"Content-Length: 0x5"], 400),
        ([b"Content-Length: 5_0"], 400),
        ([b"Content-Length: \xb2"], 400),
        ([b"Content-Length: 5 5"], 400),
        ([b"Content-Length:"], 400),
        ([b"Content-Length: " + b"9" * 19], 400),
        ([b"Transfer-Encoding: gzip"], 501),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: chunked, chunked"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 501),
        ([b"Transfer-Encoding: chunked,"], 501),
        ([b"Transfer-Encoding: identity"], 501),
        ([b"Transfer-Encoding: xchunked"], 501),
        ([b"Transfer-Encoding:"], 501),
    ],
)
def test_a_request_that_could_end_in_two_places_is_refused(lines: list[bytes], status: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        framing_of_post(*lines)
    assert caught.value.status == status


def test_http_1_0_has_no_chunks() -> None:
    with pytest.raises(HandshakeError) as caught:
        framing_of_post(b"Transfer-Encoding: chunked", version=b"HTTP/1.0")
    assert caught.value.status == 400


def take(found: BodyFraming, chunks: Iterable[bytes]) -> tuple[bytes, bytes, bool]:
    """(content, what is behind the body, complete)."""
    body = RequestBody(found)
    content = rest = b""
    for chunk in chunks:
        if body.complete:
            rest += chunk
        else:
            piece, behind = body.receive_data(chunk)
            content += piece
            rest += behind
    return content, rest, body.complete


CONTENTS = [
    (BodyFraming(length=1), b"x", b"x"),
    (BodyFraming(length=300), b"y" * 300, b"y" * 300),
    (CHUNKED, b"0\r\n\r\n", b""),
    (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (CHUNKED, b'00A; name=value;q="a;b"\r\n0123456789\r\n1\r\n\n\r\n0;x\r\nTrailer: 1\r\nTwo: 2\r\n\r\n', b"0123456789\n"),
    (CHUNKED, b"Ff\r\n" + b"\r\n" * 127 + b"z\r\n" + b"000\r\n\r\n", b"\r\n" * 127 + b"z"),
]


@pytest.mark.parametrize(("found", "body", "content"), CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("trailing", [b"", b"GET / HTTP/1.1\r\n\r\n"])
class TestRequestBody:
    def test_whole(self, found: BodyFraming, body: bytes, content: bytes, trailing: bytes) -> None:
        assert take(found, [body + trailing]) == (content, trailing, True)

    def test_byte_by_byte(self, found: BodyFraming, body: bytes, content: bytes, trailing: bytes) -> None:
        assert take(found, one_by_one(body + trailing)) == (content, trailing, True)

    def test_is_not_complete_before_its_last_byte(self, found: BodyFraming, body: bytes, content: bytes, trailing: bytes) -> None:
        assert not take(found, [body[:-1]])[2]


def test_a_request_without_a_body_is_complete_from_the_start() -> None:
    assert RequestBody(BodyFraming(length=0)).complete


@given(st.sampled_from(CONTENTS), st.lists(st.integers(0, 320), max_size=8))
@settings(UNHURRIED, max_examples=100)
def test_any_split_of_a_request_gives_the_same(case: tuple[BodyFraming, bytes, bytes], places: list[int]) -> None:
    found, body, content = case
    assert take(found, cut(body + b"rest", places)) == (content, b"rest", True)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x5\r\n",
        b"1_0\r\n",
        b"5 5\r\n",
        b"5 \r\n",
        b"5\t\r\n",
        b" 5\r\n",
        b"5 ;x\r\n",
        b";x\r\n",
        b"5\n",
        b"5\r\r\n",
        b"5;a\n",
        b"5;a\rb\r\n",
        b"5;\x00\r\n",
        b"0" * 16 + b"\r\n",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na0\r\n",
        b"1\r\na\rx",
        b"0\r\n\n",
        b"0\r\nTrailer\r\n",
        b"0\r\nTrailer\n",
        b"0\r\n folded: x\r\n",
        b"0\r\nTrailer : x\r\n",
        b"0\r\nTrailer: \x01\r\n",
    ],
)
def test_a_malformed_chunk_of_a_request_is_400(body: bytes) -> None:
    for chunks in ([body], one_by_one(body)):
        with pytest.raises(HandshakeError) as caught:
            take(CHUNKED, chunks)
        assert caught.value.status == 400


def test_lines_and_trailers_of_a_request_are_bounded() -> None:
    line = b"1;" + b"x" * (MAX_CHUNK_LINE - 4) + b"\r\n"
    assert take(CHUNKED, [line]) == (b"", b"", False)
    with pytest.raises(HandshakeError, match="too long"):
        take(CHUNKED, [b"1;" + b"x" * MAX_CHUNK_LINE])
    trailer = b"X: " + b"x" * 1021 + b"\r\n"
    assert not take(CHUNKED, [b"0\r\n", *([trailer] * (MAX_TRAILERS // 1024))])[2]
    with pytest.raises(HandshakeError, match="too long"):
        take(CHUNKED, [b"0\r\n", *([trailer] * (MAX_TRAILERS // 1024 + 1))])


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
@settings(UNHURRIED, max_examples=300)
def test_any_bytes_of_a_request_are_cut_where_they_are_cut_whole(data: bytes, places: list[int]) -> None:
    def outcome(chunks: list[bytes]) -> tuple[bytes, bytes, bool] | int:
        try:
            return take(CHUNKED, chunks)
        except HandshakeError as error:
            return error.status

    assert outcome(cut(data, places)) == outcome([data])


@given(
    st.lists(st.sampled_from([b"0", b"1", b"a", b"A", b";", b"x=y", b"\r\n", b"\r", b"\n", b" ", b"X: y", b"\r\n\r\n", b"ab"]), max_size=12)
)
@settings(UNHURRIED, max_examples=500)
def test_a_request_ends_where_the_walker_of_answers_sees_the_end(pieces: list[bytes]) -> None:
    """An independent reader: what the strict one takes as whole, the other one does, and at the same place."""
    data = b"".join(pieces)
    try:
        _, rest, complete = take(CHUNKED, [data])
    except HandshakeError:
        return
    assert read(CHUNKED, [data]) == (data[: len(data) - len(rest)], complete)


@pytest.mark.parametrize(
    "lines",
    [b"1\r\nx\r\n" * 2000, b"1;a=b\r\nx\r\n" * 2000, b"0\r\n" + b"a: b\r\n" * 2000, (b"1;" + b"a" * 3000 + b"\r\nx\r\n") * 100],
    ids=["chunks", "extensions", "trailers", "long extensions"],
)
def test_one_call_does_a_bounded_part_of_the_work_and_gives_back_the_rest(lines: bytes) -> None:
    body = RequestBody(BodyFraming(chunked=True))
    content, rest = body.receive_data(lines)
    assert rest
    assert not body.complete
    assert len(content) <= MAX_STEPS
    assert len(lines) - len(rest) <= MAX_STEPS * (BYTES_PER_STEP + 10)


def test_what_was_given_back_goes_on_where_it_stopped() -> None:
    body = RequestBody(BodyFraming(chunked=True))
    found, rest = b"", b"".join(b"1\r\n%c\r\n" % (97 + number % 26) for number in range(2000)) + b"0\r\n\r\nbehind"
    while not body.complete:
        content, rest = body.receive_data(rest)
        found += content
    assert (found, rest) == (bytes(97 + number % 26 for number in range(2000)), b"behind")
