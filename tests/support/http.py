"""Ordinary HTTP in bytes: a backend that records every request as it stands on the wire, and a client that reads answers one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.raw import PATIENCE, HttpAnswer, RawStream

END = b"\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked"


@dataclass(frozen=True)
class Recorded:
    """A request as the backend got it. `raw_body`: with its chunks' framing; `connection`: the number of its connection, from 0."""

    head: bytes
    raw_body: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.lines[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def lines(self) -> list[str]:
        """The request line and the header lines, as they came."""
        return self.head.decode("latin-1").split("\r\n")[:-2]

    def values(self, name: str) -> list[str]:
        """All values of one header."""
        pairs = (line.partition(": ") for line in self.lines[1:])
        return [value for one, _, value in pairs if one.lower() == name.lower()]

    @property
    def body(self) -> bytes:
        return unchunked(self.raw_body) if CHUNKED in self.head.lower() else self.raw_body


@dataclass
class Recorder:
    """What came to the backend, and what it says to everybody."""

    url: str = ""
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    requests: list[Recorded] = field(default_factory=list)
    connections: int = 0
    received: bytes = b""  # everything, of all connections

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]


@asynccontextmanager
async def recording_backend() -> AsyncIterator[Recorder]:
    """A server that reads requests as strictly as they are framed, and answers each with `answer`."""
    recorder = Recorder()
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        number, recorder.connections = recorder.connections, recorder.connections + 1
        stream = RawStream(reader, writer)
        try:
            while True:
                head = await reader.readuntil(END)
                recorder.received += head
                body = await raw_body(stream, head)
                recorder.received += body
                recorder.requests.append(Recorded(head, body, number))
                await stream.send(recorder.answer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError) as error:
            recorder.received += getattr(error, "partial", b"")
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    recorder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorder
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def raw_body(stream: RawStream, head: bytes) -> bytes:
    """Read the body behind a head: nothing, so many bytes, or chunks."""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    if fields.get(b"transfer-encoding") != b"chunked":
        return await stream.reader.readexactly(int(fields.get(b"content-length", 0)))
    body = b""
    while True:
        line = await stream.reader.readuntil(b"\r\n")
        size = int(line, 16)
        body += line + await stream.reader.readexactly(size + 2)
        if not size:
            return body


def unchunked(raw: bytes) -> bytes:
    """The content of chunks."""
    body = b""
    while raw:
        line, _, raw = raw.partition(b"\r\n")
        size = int(line, 16)
        body += raw[:size]
        raw = raw[size + 2 :]
    return body


async def next_answer(client: RawStream, method: str = "GET") -> HttpAnswer:
    """Read one answer from a connection that may go on. Chunks are put together."""
    async with asyncio.timeout(PATIENCE):
        head = await client.reader.readuntil(END)
        line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        status = int(line.split(" ")[1])
        body = b""
        if method != "HEAD" and status not in (204, 304) and status >= 200:
            if CHUNKED in head.lower() or "content-length" in headers:
                body = await raw_body(client, head)
                body = unchunked(body) if CHUNKED in head.lower() else body
            else:
                body = await client.reader.read()
    return HttpAnswer(status, headers, body, head)
