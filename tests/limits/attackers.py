"""Attackers, in a process of their own.

    python -m tests.limits.attackers KIND PORT COUNT SECONDS

opens COUNT connections from 127.0.0.2 over SECONDS, and prints, as a JSON line once all have ended, how they ended (a status, or
`silent`), and how many seconds the longest of them lived. Nobody ends by himself, but for those who are left after PATIENCE: `alive`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import repeat

import uvloop

ADDRESS = "127.0.0.2"
PATIENCE = 15.0  # seconds after the last of them has come
PORTION = 50  # connections that come together

HEAD = b"GET / HTTP/1.1\r\nHost: gate.test\r\n"


def slow_head() -> Iterator[tuple[float, bytes]]:
    """Header lines without end, one each 100 ms."""
    yield 0.0, HEAD
    yield from repeat((0.1, b"X-More: 1\r\n"))


def silence() -> Iterator[tuple[float, bytes]]:
    yield from ()


def byte_a_second() -> Iterator[tuple[float, bytes]]:
    yield 0.0, HEAD[:1]
    for byte in HEAD[1:]:
        yield 1.0, bytes((byte,))


def half_a_head() -> Iterator[tuple[float, bytes]]:
    yield 0.0, HEAD


KINDS = {"slow heads": slow_head, "silence": silence, "a byte a second": byte_a_second, "half-open": half_a_head}


async def attack(kind: str, port: int, ends: Counter[str]) -> float:
    """One connection, to its end. How long it lived, in seconds."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT, ip(7): the port is chosen at the connect
    sock.bind((ADDRESS, 0))
    await loop.sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    started = loop.time()
    sending = asyncio.create_task(send(kind, writer))
    try:
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        ends[answer[9:12].decode() or "silent"] += 1
    except TimeoutError:
        ends["alive"] += 1
    except ConnectionResetError:
        ends["reset"] += 1
    finally:
        sending.cancel()
        writer.close()
    return loop.time() - started


async def send(kind: str, writer: asyncio.StreamWriter) -> None:
    for pause, data in KINDS[kind]():
        await asyncio.sleep(pause)
        writer.write(data)


async def main(kind: str, port: int, count: int, seconds: float) -> None:
    ends: Counter[str] = Counter()
    attacks = []
    started = asyncio.get_running_loop().time()
    for number in range(count):
        attacks.append(asyncio.create_task(attack(kind, port, ends)))
        if number % PORTION == 0:
            await asyncio.sleep(max(0.0, started + seconds * number / count - asyncio.get_running_loop().time()))
    longest = max(await asyncio.gather(*attacks))
    sys.stdout.write(json.dumps({"ends": ends, "longest": longest}) + "\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
