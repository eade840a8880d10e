"""A client that writes what it likes, byte for byte, and what both ends of a raw connection can do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from proxy.wire.frames import mask_payload

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
PATIENCE = 5.0  # seconds
LEAVING = 0.1  # seconds that the end of a connection may take


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


class RawStream:
    """One end of a connection. Reading methods raise TimeoutError after `patience`, in seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.patience = PATIENCE

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(self.patience):
            return await self.reader.readexactly(size)

    async def raw_frame(self) -> bytes:
        """Read one frame as it stands on the wire."""
        head = await self.exactly(2)
        size = head[1] & 0x7F
        if size > 125:
            extended = await self.exactly(2 if size == 126 else 8)
            head += extended
            size = int.from_bytes(extended, "big")
        return head + await self.exactly(size + (4 if head[1] & 0x80 else 0))

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame, masked or not: (first byte, payload)."""
        raw = await self.raw_frame()
        start = 2 + {126: 2, 127: 8}.get(raw[1] & 0x7F, 0)
        if not raw[1] & 0x80:
            return raw[0], raw[start:]
        return raw[0], mask_payload(raw[start + 4 :], raw[start : start + 4])

    async def rest(self, seconds: float = PATIENCE) -> bytes:
        """Everything until the end of the stream; a reset counts as its end."""
        received = b""
        try:
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(65536):
                    received += data
        except (ConnectionResetError, ssl.SSLError):
            pass
        return received

    def end(self) -> None:
        """FIN: no more is written, but reading goes on."""
        self.writer.write_eof()

    def reset(self) -> None:
        """RST, and nothing is read any more. A connection that is lost already stays as it is."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and not self.writer.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass(frozen=True)
class HttpAnswer:
    """A whole answer; `headers` by lower-case name, of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    head: bytes


class RawClient(RawStream):
    """A client's connection."""

    async def answer(self) -> HttpAnswer:
        """Read an answer that ends its connection, which must not be reset."""
        async with asyncio.timeout(PATIENCE):
            head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        return HttpAnswer(int(line.split(" ")[1]), headers, body, head)

    async def head(self) -> bytes:
        """Read one head, its empty line included."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def status(self) -> int:
        return int((await self.head()).split(b" ")[1])


@asynccontextmanager
async def raw_client(
    port: int, local: str | None = None, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawClient]:
    """Connect to a port of the loopback. `local`: the address to come from. `receive_buffer`: bytes, for a client that is slow."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if local is not None:
        sock.bind((local, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    try:
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=None if tls is None else "game.test")
    except BaseException:
        sock.close()
        raise
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):  # an error that nobody took would be reported whenever the collector finds it
            async with asyncio.timeout(LEAVING):
                await writer.wait_closed()
