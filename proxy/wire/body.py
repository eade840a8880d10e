"""RFC 9112 §6, §7.1: where the body of a message ends.

Of an answer the bytes are passed on as they came; only their extent is read. Of a request the content is taken out, strictly. Two
readers that find different ends take one message for two (request smuggling), so what is ambiguous is refused, never resolved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from proxy.wire.handshake import HandshakeError, RequestHead, ResponseHead, check_field_line, check_text, list_tokens

MAX_LENGTH_DIGITS: Final = 18  # of a Content-Length
MAX_CHUNK_LINE: Final = 4096  # bytes of a chunk's size line or of a trailer line
MAX_TRAILERS: Final = 16 * 1024  # bytes
MAX_SIZE_DIGITS: Final = 15  # of a chunk
MAX_STEPS: Final = 256  # chunks or lines of a request's body that are read at a time: 0.2 ms of small chunks, 0.6 ms of lines
BYTES_PER_STEP: Final = 64  # of a line: a long one costs more than one step
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_PLAIN_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,%d})\r\n" % MAX_SIZE_DIGITS)


@dataclass(frozen=True, slots=True)
class BodyFraming:
    """How a body is delimited: by chunks, by a length in bytes, or (neither) by the end of the connection."""

    chunked: bool = False
    length: int | None = None


def framing_of(head: ResponseHead) -> BodyFraming:
    """The framing of a response to GET. RFC 9112 §6.3. Raises HandshakeError (502) when it is ambiguous."""
    lengths = head.fields.get(b"content-length", ())
    if len(lengths) > 1 or (lengths and (not lengths[0].isdigit() or len(lengths[0]) > MAX_LENGTH_DIGITS)):
        raise HandshakeError("upstream: Content-Length is not one number", 502)
    if head.status in (204, 304):
        return BodyFraming(length=0)
    codings = [token.lower() for token in list_tokens(head.fields.get(b"transfer-encoding", ()))]
    if codings:
        if codings == [b"chunked"]:
            return BodyFraming(chunked=True)
        raise HandshakeError("upstream: a Transfer-Encoding other than chunked", 502)
    return BodyFraming(length=int(lengths[0]) if lengths else None)


def framing_of_request(head: RequestHead) -> BodyFraming:
    """The framing of a request: chunked, or a length, which is 0 where nothing is said. RFC 9112 §6.3.

    Raises HandshakeError: 501 for a transfer coding other than chunked, else 400 for all that could be read in two ways.
    """
    codings = head.fields.get(b"transfer-encoding", ())
    lengths = head.fields.get(b"content-length", ())
    if codings:
        if lengths:
            raise HandshakeError("Transfer-Encoding and Content-Length do not go together")
        if head.version != b"HTTP/1.1":
            raise HandshakeError("HTTP/1.0 has no Transfer-Encoding")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise HandshakeError("a Transfer-Encoding other than chunked", 501)
        return BodyFraming(chunked=True)
    if not lengths:
        return BodyFraming(length=0)
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > MAX_LENGTH_DIGITS:
        raise HandshakeError("Content-Length is not one number")
    return BodyFraming(length=int(lengths[0]))


class BodyWalker:
    """Follows one body through its bytes. `complete` once its last byte was there; what follows is not part of it."""

    def __init__(self, framing: BodyFraming) -> None:
        self._chunked = framing.chunked
        self._remaining = framing.length if framing.length is not None else 0  # bytes of the body, or of the chunk and its CRLF
        self._endless = not framing.chunked and framing.length is None
        self._line = b""  # a size or trailer line that is not whole yet
        self._trailer = False
        self.complete = framing.length == 0

    def receive_data(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the body, framing included. Raises HandshakeError (502) for a malformed chunk."""
        if self.complete:
            return b""
        if self._endless:
            return data
        if self._chunked:
            return data[: self._walk_chunks(data)]
        piece = data[: self._remaining]
        self._remaining -= len(piece)
        self.complete = not self._remaining
        return piece

    def _walk_chunks(self, data: bytes) -> int:
        position = 0
        while position < len(data) and not self.complete:
            if self._remaining:
                step = min(self._remaining, len(data) - position)
                self._remaining -= step
                position += step
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > MAX_CHUNK_LINE:
                raise HandshakeError("upstream: a chunk line is too long", 502)
            if end >= 0:
                line, self._line = self._line, b""
                self._read_line(line)
        return position

    def _read_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise HandshakeError("upstream: a chunk line does not end in CRLF", 502)
        if self._trailer:
            self.complete = line == b"\r\n"
            return
        digits = line.partition(b";")[0].strip(b" \t\r\n")
        if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
            raise HandshakeError("upstream: a chunk size is not hexadecimal", 502)
        size = int(digits, 16)
        if size:
            self._remaining = size + len(b"\r\n")
        else:
            self._trailer = True


class RequestBody:
    """Takes the content out of one request's body. `complete` once all of it was there.

    Each chunk costs a step, be it of one byte, so that a client could keep us busy: a call takes MAX_STEPS of them at the most.
    Chunk extensions and trailers are read and left out (RFC 9112 §7.1.1, §7.1.2): they belong to one hop.
    """

    def __init__(self, framing: BodyFraming) -> None:
        self.chunked = framing.chunked
        self._remaining = framing.length or 0  # bytes of content, or of the chunk's content
        self._line = b""  # of chunked framing: what is there of the next line
        self._expected = _Line.SIZE
        self._trailers = 0  # bytes
        self.complete = not framing.chunked and not framing.length

    def receive_data(self, data: bytes) -> tuple[bytes, bytes]:
        """(content in it, what is left of it): what is behind the body or, as long as that is not `complete`, was not read yet
        and is to be given again. Raises HandshakeError (400) for a malformed chunk, size or trailer."""
        if not self.chunked:
            content, rest = data[: self._remaining], data[self._remaining :]
            self._remaining -= len(content)
            self.complete = not self._remaining
            return content, rest
        pieces: list[bytes] = []
        position = 0
        steps = MAX_STEPS
        while position < len(data) and not self.complete and steps > 0:
            steps -= 1
            if self._remaining:
                piece = data[position : position + self._remaining]
                self._remaining -= len(piece)
                pieces.append(piece)
                position += len(piece)
            elif end := self._receive_chunk(data, position, pieces):
                position = end
            else:
                end = self._receive_line(data, position)
                steps -= (end - position) // BYTES_PER_STEP
                position = end
        return b"".join(pieces), data[position:]

    def _receive_chunk(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Take a chunk that is whole and plain, which most are, in one step. Returns where it ends; 0 if there is none."""
        if self._line or self._expected is not _Line.SIZE:
            return 0
        match = _PLAIN_SIZE.match(data, position)
        if match is None:
            return 0
        begin = match.end()
        end = begin + int(match[1], 16)
        if end == begin or data[end : end + 2] != b"\r\n":
            return 0
        pieces.append(data[begin:end])
        return end + 2

    def _receive_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > MAX_CHUNK_LINE:
            raise HandshakeError("a chunk line is too long")
        if self._expected is _Line.END_OF_CHUNK and not b"\r\n".startswith(self._line):
            raise HandshakeError("a chunk is longer than its size")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise HandshakeError("a chunk line does not end in CRLF")
            self._read_line(line[:-2])
        return stop

    def _read_line(self, line: bytes) -> None:
        match self._expected:
            case _Line.SIZE:
                self._remaining = _chunk_size(line)
                self._expected = _Line.END_OF_CHUNK if self._remaining else _Line.TRAILER
            case _Line.END_OF_CHUNK:
                self._expected = _Line.SIZE
            case _Line.TRAILER if not line:
                self.complete = True
            case _Line.TRAILER:
                check_field_line(line)
                self._trailers += len(line)
                if self._trailers > MAX_TRAILERS:
                    raise HandshakeError("the trailers are too long")


class _Line(Enum):
    """Which line of chunked framing comes next."""

    SIZE = "size"
    END_OF_CHUNK = "the empty one behind a chunk"
    TRAILER = "trailer, or the empty one that ends the body"


def _chunk_size(line: bytes) -> int:
    digits, semicolon, extension = line.partition(b";")
    if not digits or len(digits) > MAX_SIZE_DIGITS or not _HEX.issuperset(digits):
        raise HandshakeError("a chunk size is not hexadecimal")
    if semicolon:
        check_text(extension)
    return int(digits, 16)
