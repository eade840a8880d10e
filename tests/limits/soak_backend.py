"""A game server for the soak: a program of its own, so that it can be killed and stopped.

    python -m tests.limits.soak_backend PORT

/silent...      no answer ever
/forbidden...   403 instead of an upgrade
else            an upgrade; messages come back, but for these: `close` is answered with Close 1000, `reset` with RST, `end` with FIN.
                What is no upgrade gets 200 and a connection that is kept.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from proxy.server.sockets import reset_at_close
from proxy.wire.frames import Opcode, build_close, build_frame, mask_payload
from proxy.wire.handshake import END_OF_HEAD, accept_value
from tests.support.raw import KEY

SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_value(KEY.encode()) + END_OF_HEAD
)
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine\n"


class Seat(asyncio.Protocol):
    """One connection. `frames`: it has been upgraded."""

    def __init__(self) -> None:
        self.received = b""
        self.frames = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while not self.frames and END_OF_HEAD in self.received:
            head, _, self.received = self.received.partition(END_OF_HEAD)
            self.head_received(head)
        while self.frames and not self.transport.is_closing() and self.frame_received():
            pass

    def head_received(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        if target.startswith(b"/silent"):
            return
        if b"sec-websocket-key" not in head.lower():
            self.transport.write(FINE)
        elif target.startswith(b"/forbidden"):
            self.transport.write(FORBIDDEN)
            self.transport.close()
        else:
            self.frames = True
            self.transport.write(SWITCHING)

    def frame_received(self) -> bool:
        """Take one masked frame from what is there. False: it is not whole yet."""
        received = self.received
        if len(received) < 2:
            return False
        size, start = received[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(received[2:4], "big"), 4
        if len(received) < start + 4 + size:
            return False
        payload = mask_payload(received[start + 4 : start + 4 + size], received[start : start + 4])
        self.received = received[start + 4 + size :]
        self.message_received(Opcode(received[0] & 15), payload)
        return True

    def message_received(self, opcode: Opcode, payload: bytes) -> None:
        if opcode is Opcode.CLOSE or payload == b"close":
            self.transport.write(build_close(1000))
            self.transport.close()
        elif payload == b"reset":
            reset_at_close(self.transport)
            self.transport.abort()
        elif payload == b"end":
            self.transport.write_eof()
        elif opcode is Opcode.PING:
            self.transport.write(build_frame(Opcode.PONG, payload))
        else:
            self.transport.write(build_frame(opcode, payload))

    def eof_received(self) -> bool:
        return False


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Seat, "127.0.0.1", port, backlog=4096, reuse_address=True)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
