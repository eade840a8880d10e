"""One client at full speed, or one that does not read, takes nothing from 200 players who behave, and no memory.

The gate is pinned to a core, as in test_neighbours.py; the flood takes all that is left of it. Windows without the flood and with it
follow one another, and medians of their 99th percentiles are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.limits.neighbourhood import AT_MOST, MORE, WINDOW, WINDOWS, echo_server, on_other_cores, p99
from tests.limits.program import REPOSITORY, Program, program, wait_until
from tests.support.compiled import Load, compile_load

GROWTH = 24 << 20  # bytes that memory may grow by: buffers, of both directions and sides, and what an allocator keeps
YAML = """
routes:
  - {name: drop, path: /drop, upstream: game}
  - {name: delay, path: /delay, upstream: game}
  - {name: close, path: /close, upstream: game}
  - {name: deaf, path: /deaf, upstream: game}
  - {name: pings, path: /pings, upstream: game}
  - {name: fragments, path: /fragments, upstream: game}
  - {name: bytes, path: /bytes, upstream: game}
  - {name: slow-reader, path: /slow-reader, upstream: flood}
  - {name: rest, path: "/{rest*}", upstream: game}
rules:
  - {name: user-connections, per: user, connections: 3}
  - {name: ip-connections, per: ip, connections: 1000}
  - {name: delayed, per: user, messages: 50/s, on_excess: delay, when: {route: delay}}
  - {name: closed, per: user, messages: 50/s, on_excess: close, when: {route: [close, deaf]}}
  - {name: slowed, per: user, bytes: 64KiB/s, when: {route: bytes}}
  - {name: pings, per: user, control_frames: 10/s, when: {route: pings}}
  - {name: fragments, per: connection, fragments: 64, when: {route: fragments}}
  - {name: user-messages, per: user, messages: 100/s}
  - {name: ip-messages, per: ip, messages: 10000/s}
  - {name: payload, per: connection, message_size: 16KiB}
"""


@dataclass(frozen=True)
class Flooded:
    """A flood, and the least that it must come to in all windows: connections, bytes that it sent (or, if it reads slowly, got)."""

    kind: str
    entered: int
    sent: int


FLOODS = [
    Flooded("drop", 5, 20 << 20),
    Flooded("delay", 5, 1 << 18),
    Flooded("close", 50, 1 << 20),
    Flooded("deaf", 5, 1 << 20),
    Flooded("pings", 50, 1 << 20),
    Flooded("fragments", 50, 1 << 20),
    Flooded("bytes", 5, 1 << 18),
    Flooded("slow reader", 5, 1 << 20),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return compile_load(tmp_path_factory.mktemp("load"))


@contextmanager
def flooded(gate: Program, kind: str, backend: int, done: list[dict[str, int]]) -> Iterator[None]:
    """The flood goes on inside."""
    command = [sys.executable, "-m", "tests.limits.flooders", kind, str(gate.port)]
    command += [str(backend)] if kind == "slow reader" else []
    alone = gate.descriptors()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: gate.descriptors() > alone, 30)
            yield
            process.terminate()
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    done.append(json.loads(output))


@pytest.mark.trial
@pytest.mark.timeout(300)
@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.kind)
def test_players_feel_nothing_of_a_flood_which_takes_no_memory(
    flood: Flooded, load: Load, tmp_path: Path, unused_tcp_port_factory: pytest.FixtureRequest
) -> None:
    game, backend = unused_tcp_port_factory(), unused_tcp_port_factory()
    more = f"}}, flood: {{url: 'ws://127.0.0.1:{backend}'"
    alone, beside, sizes, shares = [], [], [], []
    done: list[dict[str, int]] = []
    with (
        on_other_cores() as core,
        echo_server(load, game) as url,
        program(tmp_path, YAML, url, options=more, core=core) as gate,
    ):
        before = gate.descriptors()
        p99(load, gate)  # a first window, for memory and code to be warm
        resident = gate.resident()
        while len(beside) < WINDOWS or (median(beside) > median(alone) + MORE and len(beside) < AT_MOST):
            wait_until(lambda: gate.descriptors() <= before, 20)
            alone.append(p99(load, gate))
            wait_until(lambda: gate.descriptors() <= before, 20)
            with flooded(gate, flood.kind, backend, done):
                cpu = gate.cpu()
                beside.append(p99(load, gate))
                shares.append((gate.cpu() - cpu) / WINDOW)
                sizes.append(gate.resident())
        wait_until(lambda: gate.descriptors() <= before, 20)
    entered, sent = (sum(one[what] for one in done) for what in ("entered", "sent"))
    sys.stdout.write(
        f"{flood.kind}: p99 in µs {sorted(alone)} alone, {sorted(beside)} beside {entered} floods of {sent >> 20} MB; "
        f"{median(shares):.0%} of a core, {(max(sizes) - resident) >> 10} KB more\n"
    )
    assert (entered >= flood.entered, sent >= flood.sent) == (True, True), (entered, sent)
    assert max(sizes) - resident <= GROWTH
    assert median(beside) <= median(alone) + MORE
