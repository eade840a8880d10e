"""A client that writes what it likes, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3


def upgrade_head(target: str = "/", *headers: str, host: str = "gate.test") -> bytes:
    """A good upgrade, with further header lines."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawClient:
    """One TCP connection. Reading methods raise TimeoutError after 5 s."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """Read one head, its empty line included."""
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def status(self) -> int:
        return int((await self.head()).split(b" ")[1])

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readexactly(size)

    async def frame(self) -> tuple[int, bytes]:
        """Read one unmasked frame: (first byte, payload)."""
        first, second = await self.exactly(2)
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        return first, await self.exactly(size)

    async def rest(self, seconds: float = 5) -> bytes:
        """Everything until the end of the stream; a reset counts as its end."""
        received = b""
        try:
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(65536):
                    received += data
        except ConnectionResetError:
            pass
        return received


@asynccontextmanager
async def raw_client(port: int, local: str | None = None) -> AsyncIterator[RawClient]:
    """Connect to a port of the loopback; `local`: the address to come from."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=None if local is None else (local, 0))
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
