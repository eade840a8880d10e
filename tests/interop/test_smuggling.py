"""One strange byte in one place of what frames a request, for every such byte and place: the backend never sees a second request.

The lists of others (defparam's smuggler, PortSwigger's, narfindustries' HTTP garden) are mutations of this kind; here they are made
anew. The backend reads strictly and keeps every byte. Nobody can know how leniently another one reads, so nothing may reach it that two
readers could frame in two ways: that is looked for in each head that came.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.support.gate import running
from tests.support.http import Recorded, next_answer, recording_backend
from tests.support.raw import raw_client

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: gate.test\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
BEHIND_A_CHUNK = b"0\r\n\r\n" + HIDDEN
STRANGE = [bytes((byte,)) for byte in (*range(0x21), 0x7F, 0x80, 0x85, 0xA0, 0xAD, 0xFF)]
STRANGE += [b"\r\n ", b"\r\n\t", b"\r\r", b"\n\n", b"\xc2\xa0", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"%0d%0a", b"\\r\\n"]
AT_ONCE = 64
QUIET = 0.25  # seconds without a byte: nothing more comes
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def head(*lines: bytes, line: bytes = b"POST /open HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: gate.test", *lines, b"", b""))


LENGTH = b"Content-Length: %d" % len(HIDDEN)
LENGTH_BEHIND = b"Content-Length: %d" % len(BEHIND_A_CHUNK)


def mutated_encodings(strange: bytes) -> Iterator[bytes]:
    """Beside a length, so that who takes the line for an encoding and who does not see two different ends."""
    for line in (
        strange + b"Transfer-Encoding: chunked",
        b"Transfer" + strange + b"Encoding: chunked",
        b"Transfer-" + strange + b"Encoding: chunked",
        b"Transfer-Encoding" + strange + b": chunked",
        b"Transfer-Encoding:" + strange + b"chunked",
        b"Transfer-Encoding: " + strange + b"chunked",
        b"Transfer-Encoding: chun" + strange + b"ked",
        b"Transfer-Encoding: chunked" + strange,
        b"Transfer-Encoding: x" + strange + b",chunked",
        b"Transfer-Encoding: chunked," + strange,
        b"X: y" + strange + b"\nTransfer-Encoding: chunked",
        b"X: y" + strange + b"Transfer-Encoding: chunked",
    ):
        yield head(LENGTH_BEHIND, line) + BEHIND_A_CHUNK
        yield head(line, LENGTH_BEHIND) + BEHIND_A_CHUNK


def mutated_lengths(strange: bytes) -> Iterator[bytes]:
    """A length that covers the hidden request: who overlooks it finds that request behind the head. A line that may well be another
    header stands beside an encoding."""
    size = b"%d" % len(HIDDEN)
    for line in (
        b"Content-Length:" + strange + size,
        b"Content-Length: " + size[:1] + strange + size[1:],
        LENGTH + strange,
        LENGTH + b"," + strange + size,
        LENGTH + b"\r\nContent-Length: " + strange + b"0",
        b"Content-Length: " + strange + b"0\r\n" + LENGTH,
    ):
        yield head(line) + HIDDEN
    for line in (
        strange + b"Content-Length: 0",
        b"Content" + strange + b"Length: 0",
        b"Content-Length" + strange + b": 0",
        b"X: y" + strange + b"Content-Length: 0",
    ):
        yield head(line, b"Transfer-Encoding: chunked") + CHUNKED
        yield head(b"Transfer-Encoding: chunked", line) + CHUNKED


def mutated_chunks(strange: bytes) -> Iterator[bytes]:
    """The hidden request is the content of a chunk."""
    size = b"%x" % len(HIDDEN)
    for chunks in (
        strange + CHUNKED,
        size + strange + b"\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
        size + strange + b"\n" + HIDDEN + b"\r\n0\r\n\r\n",
        size + strange + HIDDEN + b"\r\n0\r\n\r\n",
        size + b";" + strange + b"\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
        size + b";a=" + strange + b"b\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
        size + b';a="' + strange + b'"\r\n' + HIDDEN + b"\r\n0\r\n\r\n",
        size + b"\r\n" + HIDDEN + strange + b"0\r\n\r\n",
        size + b"\r\n" + HIDDEN + strange + b"\r\n0\r\n\r\n",
        b"5;" + strange + b"\nAAAAA\r\n" + CHUNKED,
        size + b"\r\n" + HIDDEN + b"\r\n0\r\nX: y" + strange + b"Z\r\n\r\n",
        size + b"\r\n" + HIDDEN + b"\r\n0\r\n" + strange + b"X: y\r\n\r\n",
    ):
        yield head(b"Transfer-Encoding: chunked") + chunks


def mutated_lines(strange: bytes) -> Iterator[bytes]:
    """The request line, and the line that ends the head. The hidden request is the body."""
    for line in (
        strange + b"POST /open HTTP/1.1",
        b"PO" + strange + b"ST /open HTTP/1.1",
        b"POST" + strange + b"/open HTTP/1.1",
        b"POST " + strange + b"/open HTTP/1.1",
        b"POST /op" + strange + b"en HTTP/1.1",
        b"POST /open" + strange + b"HTTP/1.1",
        b"POST /open " + strange + b"HTTP/1.1",
        b"POST /open HTTP" + strange + b"/1.1",
        b"POST /open HTTP/1." + strange + b"1",
        b"POST /open HTTP/1.1" + strange,
    ):
        yield head(LENGTH, line=line) + HIDDEN
    yield head(LENGTH)[:-2] + strange + b"\r\n" + HIDDEN
    yield head(LENGTH)[:-4] + strange + b"\r\n\r\n" + HIDDEN
    yield head(LENGTH)[:-2] + strange + b"\n" + HIDDEN


def oddities() -> Iterator[bytes]:
    """Sizes that overflow, names that look like others, methods without a body, upgrades."""
    for size in (2**31, 2**32, 2**63, 2**64, 2**64 + len(HIDDEN), 2**128):
        yield head(b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (size, HIDDEN)
        yield head(b"Transfer-Encoding: chunked") + b"%x\r\n" % (size + len(HIDDEN)) + HIDDEN + b"\r\n0\r\n\r\n"
        yield head(b"Content-Length: %d" % size) + HIDDEN
        yield head(b"Content-Length: %d" % (size + len(HIDDEN))) + HIDDEN
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"X"):
        for framing, body in ((LENGTH, HIDDEN), (b"Transfer-Encoding: chunked", CHUNKED)):
            yield head(framing, line=method + b" /open HTTP/1.1") + body
            yield head(framing, line=method + b" /open HTTP/1.0") + body
            yield head(framing, b"Expect: 100-continue", line=method + b" /open HTTP/1.1") + body
            yield head(framing, b"Connection: Upgrade", b"Upgrade: websocket", line=method + b" /open HTTP/1.1") + body
            yield (
                head(framing, b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", line=method + b" /open HTTP/1.1") + body
            )
            yield head(framing, b"Connection: close, Content-Length, Transfer-Encoding", line=method + b" /open HTTP/1.1") + body
            yield head(framing, b"X-HTTP-Method-Override: GET", line=method + b" /open HTTP/1.1") + body


MUTATIONS = {
    "encodings": [one for strange in STRANGE for one in mutated_encodings(strange)],
    "lengths": [one for strange in STRANGE for one in mutated_lengths(strange)],
    "chunks": [one for strange in STRANGE for one in mutated_chunks(strange)],
    "lines": [one for strange in STRANGE for one in mutated_lines(strange)],
    "oddities": list(oddities()),
}


def assert_one_reading(request: Recorded) -> None:
    """Nobody could frame this request in another way."""
    lines = request.head[:-4].split(b"\r\n")
    assert re.fullmatch(rb"[^\x00-\x20\x7f]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.1", lines[0]), lines
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        assert colon, line
        assert TOKEN.fullmatch(name), line
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value), line
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    alike = {re.sub(rb"[^a-z]", b"", name): name for name in fields}
    assert alike.get(b"contentlength", b"content-length") == b"content-length"
    assert alike.get(b"transferencoding", b"transfer-encoding") == b"transfer-encoding"
    framing = fields.get(b"content-length", []) + fields.get(b"transfer-encoding", [])
    assert len(framing) <= 1, lines
    assert all(re.fullmatch(rb"[0-9]{1,19}", value) for value in fields.get(b"content-length", [])), lines
    assert fields.get(b"transfer-encoding", [b"chunked"]) == [b"chunked"], lines


@pytest.mark.timeout(120)
@pytest.mark.parametrize("reused", [False, True], ids=["first", "reused"])
@pytest.mark.parametrize("kind", MUTATIONS)
async def test_no_strange_byte_makes_two_requests_of_one(kind: str, reused: bool) -> None:
    places = asyncio.Semaphore(AT_ONCE)
    async with recording_backend() as backend, running("limits: {max_pending_per_ip: 1000}", upstream=backend.url) as run:

        async def attack(number: int, data: bytes) -> None:
            data = data.replace(b"/open", b"/o%03x" % number).replace(b"/hidden", b"/h%05x" % number)
            async with places, raw_client(run.port) as client:
                if reused:
                    await client.send(b"GET /before HTTP/1.1\r\nHost: gate.test\r\n\r\n")
                    await next_answer(client)
                await client.send(data)
                try:
                    while await asyncio.wait_for(client.reader.read(65536), QUIET):
                        pass
                except (TimeoutError, ConnectionResetError):
                    pass

        await asyncio.gather(*(attack(number, data) for number, data in enumerate(MUTATIONS[kind])))
        for request in backend.requests:
            assert_one_reading(request)
        hidden = [target for target in backend.targets if "/h" in target]
        assert not hidden, [MUTATIONS[kind][int(target.partition("/h")[2], 16)] for target in hidden]
        assert len(backend.requests) > (len(MUTATIONS[kind]) if reused else 0)  # some were harmless, and came through
