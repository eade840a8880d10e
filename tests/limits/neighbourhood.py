"""Players who behave, at a fixed pace, and what they feel: the method of test_neighbours.py and test_floods.py.

The gate has a core of its own; load, backend and attackers share the others. The 99th percentile of round trips is taken from the
moment that each message was due, so that a stall cannot hide itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.limits.program import Program, wait_until
from tests.support.compiled import Load

PLAYERS = 200
PACE = 20  # messages a second, of each
WINDOW = 1.5  # seconds
WINDOWS, AT_MOST = 3, 15  # pairs of them
# What is measured runs before what others do on the machine. Where that is not allowed, nice(1) says so, and runs it as it is.
FIRST = ("nice", "-n", "-20")
# Attackers get what nobody else wants. To be `nice` is not enough: such a process keeps who wakes waiting for the rest of its slice.
LAST = ("chrt", "--idle", "0")
MORE = 5_000  # microseconds that the p99 may be above that without an attack


@contextmanager
def on_other_cores() -> Iterator[int]:
    """Leave the last core to the gate: its number. With one core alone all share it."""
    cores = os.sched_getaffinity(0)
    gate = max(cores)
    os.sched_setaffinity(0, cores - {gate} or cores)
    try:
        yield gate
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def echo_server(load: Load, port: int) -> Iterator[str]:
    """Yields its URL."""
    with subprocess.Popen([*FIRST, load.wsecho, "-q", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: listens(port), 5)
            yield f"ws://127.0.0.1:{port}"
        finally:
            server.kill()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def p99(load: Load, gate: Program, seconds: float = WINDOW) -> float:
    """Microseconds of a window. All players are let in, and all that they send comes back."""
    command = [
        *FIRST,
        load.wsload,
        "-m",
        "paced",
        "-c",
        str(PLAYERS),
        "-r",
        str(PACE),
        "-T",
        str(seconds),
        "-p",
        str(gate.port),
        "-S",
        "50",
    ]
    command += ["-u", "/room/{i%10}", "-H", "Authorization: Bearer player-{i}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["opened"], found["lost"], found["closed_by_server"]) == (PLAYERS, 0, 0), found
    assert found["echoed"] == found["sent"] >= PLAYERS * PACE * seconds * 0.9
    return float(found["rtt_us"]["p99"])
