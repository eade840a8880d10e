"""One client that sends as fast as it can, in a process of its own; who is closed comes back at once.

    python -m tests.limits.flooders KIND PORT [BACKEND]

floods until it gets SIGTERM, and prints then, as a JSON line, how often it was let in and how many bytes it sent. KIND is one of FRAMES
(`deaf` does not care that it was closed) or `slow reader`: that one reads 64 KB now and then of what a backend sends, which listens
on port BACKEND and sends tiny messages without end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proxy.wire.handshake import END_OF_HEAD
from tests.limits.crowd import SWITCHING
from tests.support.raw import upgrade_head
from tests.wire.streams import encode

ADDRESS = "127.0.0.2"
CHUNK = 1 << 18  # bytes that are sent at once
MASK = b"\x11\x22\x33\x44"
PAUSE = 0.05  # seconds between two reads of a slow reader
EMPTY, BEGIN, MORE, PING = 0x82, 0x02, 0x00, 0x89

FRAMES = {
    "drop": (EMPTY, b""),
    "delay": (EMPTY, b""),
    "close": (EMPTY, b""),
    "deaf": (EMPTY, b""),
    "pings": (PING, b""),
    "fragments": (MORE, b""),
    "bytes": (EMPTY, b"x" * 1000),
    "large": (EMPTY, b"x" * 16_000),
}


@dataclass
class Flood:
    """What was done so far."""

    entered: int = 0
    sent: int = 0


def chunk(frame: bytes) -> bytes:
    return frame * (CHUNK // len(frame))


@contextmanager
def tunnel(kind: str, port: int) -> Iterator[socket.socket]:
    """A connection whose upgrade is answered."""
    with socket.create_connection(("127.0.0.1", port), source_address=(ADDRESS, 0)) as sock:
        sock.sendall(upgrade_head(f"/{kind.replace(' ', '-')}?token=flooder"))
        head = b""
        while END_OF_HEAD not in head:
            data = sock.recv(1)
            if not data:
                raise ConnectionResetError
            head += data
        yield sock


def flood(kind: str, port: int, done: Flood) -> None:
    """Until the gate ends the connection."""
    first, payload = FRAMES[kind]
    data = chunk(encode(first, payload, MASK))
    with tunnel(kind, port) as sock:
        done.entered += 1
        threading.Thread(target=read_all, args=(sock, kind), daemon=True).start()
        if kind == "fragments":
            sock.sendall(encode(BEGIN, b"", MASK))
        while True:
            done.sent += sock.send(data)


def read_all(sock: socket.socket, kind: str) -> None:
    """Who floods reads what comes back, or the gate would have reason to stop reading. At the end he leaves, unless he is deaf."""
    try:
        while sock.recv(1 << 16):
            pass
        if kind != "deaf":
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def read_slowly(kind: str, port: int, done: Flood) -> None:
    with tunnel(kind, port) as sock:
        done.entered += 1
        while data := sock.recv(1 << 16):
            done.sent += len(data)
            time.sleep(PAUSE)


def serve_floods(listener: socket.socket) -> None:
    """The flooding backend, for one client after another."""
    data = chunk(encode(EMPTY, b"", None))
    while True:
        sock = listener.accept()[0]
        try:
            sock.recv(1 << 16)
            sock.sendall(SWITCHING)
            while True:
                sock.sendall(data)
        except OSError:
            sock.close()


def leave(done: Flood) -> None:
    sys.stdout.write(json.dumps(vars(done)) + "\n")
    sys.stdout.flush()
    os._exit(0)


def main(kind: str, port: int, backend: int | None) -> None:
    done = Flood()
    signal.signal(signal.SIGTERM, lambda *_: leave(done))
    if backend is not None:
        threading.Thread(target=serve_floods, args=(socket.create_server(("127.0.0.1", backend)),), daemon=True).start()
    attack = flood if backend is None else read_slowly
    while True:
        try:
            attack(kind, port, done)
        except OSError:  # closed, as was to be expected
            continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
