"""Very many upgrades, cheaply: plain sockets without an event loop, on the client's side and on the backend's.

All heads of a batch are written before any answer is read, so that the gate has them all at once. Connections end with RST: that
leaves nothing behind in the kernel, so that hundreds of thousands of them can follow one another.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from select import POLLIN, poll

from proxy.wire.handshake import END_OF_HEAD, accept_value
from tests.support.raw import KEY

PATIENCE = 5.0  # seconds
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_value(KEY.encode()) + END_OF_HEAD
)


@dataclass
class Crowd:
    """`listener`: the backend's. `inside`: the clients that were let in, and `served` the backend's ends of their connections."""

    listener: socket.socket
    inside: list[socket.socket] = field(default_factory=list)
    served: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener.getsockname()[1]}"

    def knock(self, port: int, heads: Sequence[bytes]) -> list[int]:
        """Ask for these upgrades at once; the status of each, 0 for no answer at all. Those that are let in stay until `leave`."""
        clients = [_connect(port) for _ in heads]
        for client, head in zip(clients, heads, strict=True):
            client.sendall(head)
        waiting = {client.fileno(): index for index, client in enumerate(clients)}
        watch = poll()
        watch.register(self.listener, POLLIN)
        for fd in waiting:
            watch.register(fd, POLLIN)
        statuses = [0] * len(heads)
        while waiting:
            ready = watch.poll(PATIENCE * 1000)
            if not ready:
                raise TimeoutError(f"{len(waiting)} of {len(heads)} upgrades without an answer")
            for fd, _ in ready:
                if fd == self.listener.fileno():
                    self._serve_one()
                    continue
                index = waiting.pop(fd)
                watch.unregister(fd)
                statuses[index] = self._judge(clients[index])
        return statuses

    def _judge(self, client: socket.socket) -> int:
        try:
            status = int(_read_head(client)[9:12] or 0)
        except ConnectionResetError:
            status = 0
        if status == 101:
            self.inside.append(client)
        else:
            client.close()
        return status

    def _serve_one(self) -> None:
        server = self.listener.accept()[0]
        _prepare(server)
        self.served.append(server)
        _read_head(server)
        server.sendall(SWITCHING)

    def leave(self) -> None:
        """All who are inside go, without a word."""
        for one in (*self.inside, *self.served):
            one.close()
        self.inside.clear()
        self.served.clear()


def _connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    _prepare(client)
    return client


def _prepare(one: socket.socket) -> None:
    one.settimeout(PATIENCE)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _read_head(one: socket.socket) -> bytes:
    head = one.recv(4096)
    while head and END_OF_HEAD not in head:
        head += one.recv(4096)
    return head


@contextmanager
def crowd() -> Iterator[Crowd]:
    """A crowd, and the backend that it wants to get to."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.settimeout(PATIENCE)
        people = Crowd(listener)
        try:
            yield people
        finally:
            people.leave()
