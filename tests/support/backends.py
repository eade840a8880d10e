"""Backends: WebSocket servers that are not ours, and one that records every byte it gets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from proxy.wire.handshake import accept_value
from tests.support.raw import RawStream


@asynccontextmanager
async def echo_backend(**options: object) -> AsyncIterator[str]:
    """The `websockets` library's server, which echoes; yields its URL."""

    async def echo(socket: ServerConnection) -> None:
        try:
            async for message in socket:
                await socket.send(message)
        except ConnectionClosed:
            pass

    async with serve(echo, "127.0.0.1", 0, max_size=None, **options) as server:  # type: ignore[arg-type]
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class RawConnection(RawStream):
    """One connection to a raw backend, with the head that came on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        super().__init__(reader, writer)
        self.head = head

    @property
    def fields(self) -> dict[str, str]:
        """Lower-case header names to values; of repeated ones the last."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def target(self) -> str:
        return self.head.decode("latin-1").split(" ")[1]

    async def accept(self, *headers: str, behind: bytes = b"") -> None:
        """Answer 101, with further header lines, and bytes right behind the head."""
        key = self.fields["sec-websocket-key"].encode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(key).decode()}",
            *headers,
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + behind)
        await self.writer.drain()


Handler = Callable[[RawConnection], Awaitable[None]]


@asynccontextmanager
async def raw_backend(handler: Handler, path: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that reads one head and hands the connection to `handler`; yields its URL. Connections end with the handler.

    `path`: of a Unix socket to listen on.
    """
    tasks = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(RawConnection(reader, writer, head))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    if path is None:
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=tls)
        url = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(serve_one, path)
        url = f"unix:{path}"
    try:
        yield url
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def waiting_backend(
    path: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, asyncio.Queue[RawConnection]]]:
    """A raw backend whose connections the test itself takes from a queue; they stay open until it ends. `path`: as above."""
    arrived: asyncio.Queue[RawConnection] = asyncio.Queue()

    async def handler(connection: RawConnection) -> None:
        arrived.put_nowait(connection)
        await asyncio.Event().wait()

    async with raw_backend(handler, path, tls) as url:
        yield url, arrived
