"""One client at full speed, or one that does not read, takes nothing from 200 players who behave, and no memory.

What the gate owes them is a short turn of its event loop: a message passes it twice, and waits each time for the turn that is under way.
Turns are measured in CPU time, so whatever else a machine does is not in them. What players feel is measured too, as in
test_neighbours.py: the gate is pinned to a core, and the flood takes all that is left of it. Windows without the flood and with it
follow one another, and medians of their 99th percentiles are compared. A gate that is flooded needs its core; a window in which others
had it tells of them, and does not count. On a machine with no others, so in CI, three pairs are enough; on one that is never calm the turns
alone tell.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.limits.neighbourhood import AT_MOST, LAST, MORE, WINDOWS, echo_server, on_other_cores, p99
from tests.limits.program import REPOSITORY, Program, program, wait_until
from tests.support.compiled import Load, compile_load

SECONDS = 1.0  # of a window
DISTURBED = 0.03  # of a window: so long the gate may wait for its core. What is looked at is a hundredth of the messages
HOPELESS = 4  # pairs of windows, of which none counted
LOOKS = 9  # at the longest turn, each time of
LOOK = 0.3  # seconds
LONGEST = MORE / 2 / 1000  # milliseconds
Ports = Callable[[], int]
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
    """A flood, and the least that it must come to in a window: connections, bytes that it sent (or, if it reads slowly, got)."""

    kind: str
    entered: int
    sent: int


FLOODS = [
    Flooded("drop", 1, 1 << 20),
    Flooded("large", 1, 8 << 20),
    Flooded("delay", 1, 1 << 18),
    Flooded("close", 10, 1 << 20),
    Flooded("deaf", 1, 1 << 20),
    Flooded("pings", 10, 1 << 20),
    Flooded("fragments", 10, 1 << 20),
    Flooded("bytes", 1, 1 << 18),
    Flooded("slow reader", 1, 1 << 18),
]
every_flood = pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.kind)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return compile_load(tmp_path_factory.mktemp("load"))


@contextmanager
def flooded(gate: Program, kind: str, backend: int, done: list[dict[str, int]], priority: Sequence[str] = ()) -> Iterator[None]:
    """The flood goes on inside."""
    command = [*priority, sys.executable, "-m", "tests.limits.flooders", kind, str(gate.port)]
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


def is_strong(flood: Flooded, done: dict[str, int]) -> bool:
    """Did it come to so much that it proves something?"""
    return done["entered"] >= flood.entered and done["sent"] >= flood.sent


@contextmanager
def stage(load: Load, folder: Path, ports: Ports, core: int | None) -> Iterator[tuple[Program, int]]:
    """A gate, and the port of a backend that floods: it is the flooder's own."""
    game, backend = ports(), ports()
    more = f"}}, flood: {{url: 'ws://127.0.0.1:{backend}'"
    with echo_server(load, game) as url, program(folder, YAML, url, options=more, core=core) as gate:
        yield gate, backend


@pytest.mark.long
@pytest.mark.timeout(60)
@every_flood
def test_a_flood_takes_short_turns_of_the_loop_and_no_memory(
    flood: Flooded, load: Load, tmp_path: Path, unused_tcp_port_factory: Ports
) -> None:
    done: list[dict[str, int]] = []
    longest, sizes = [], []
    with stage(load, tmp_path, unused_tcp_port_factory, None) as (gate, backend):
        before, resident = gate.descriptors(), gate.resident()
        with flooded(gate, flood.kind, backend, done):
            for _ in range(LOOKS):
                gate.longest_turn()
                time.sleep(LOOK)
                longest.append(gate.longest_turn())
                sizes.append(gate.resident())
        wait_until(lambda: gate.descriptors() <= before, 20)
    sys.stdout.write(f"{flood.kind}: turns of {sorted(longest)} ms beside {done[0]}, {(max(sizes) - resident) >> 10} KB more\n")
    assert is_strong(flood, done[0])
    assert max(sizes) - resident <= GROWTH
    assert median(longest) <= LONGEST


@pytest.mark.long
@pytest.mark.timeout(180)
@every_flood
def test_players_feel_nothing_of_a_flood_where_the_gate_has_its_core(
    flood: Flooded, load: Load, tmp_path: Path, unused_tcp_port_factory: Ports
) -> None:
    done: list[dict[str, int]] = []
    alone: list[float] = []
    beside: list[float] = []
    with on_other_cores() as core, stage(load, tmp_path, unused_tcp_port_factory, core) as (gate, backend):
        before = gate.descriptors()
        p99(load, gate)  # a first window, for memory and code to be warm
        while min(len(alone), len(beside)) < WINDOWS or median(beside) > median(alone) + MORE:
            wait_until(lambda: gate.descriptors() <= before, 20)
            alone += undisturbed(load, gate)
            wait_until(lambda: gate.descriptors() <= before, 20)
            with flooded(gate, flood.kind, backend, done, LAST):
                felt = undisturbed(load, gate)
            beside += felt if is_strong(flood, done[-1]) else []
            if len(done) == AT_MOST or (len(done) == HOPELESS and not beside):
                break
        wait_until(lambda: gate.descriptors() <= before, 20)
    sys.stdout.write(f"{flood.kind}: p99 in µs {sorted(alone)} alone, {sorted(beside)} beside, in {len(done)} pairs; {done[-1]}\n")
    assert min(len(alone), len(beside)) < WINDOWS or median(beside) <= median(alone) + MORE


def undisturbed(load: Load, gate: Program) -> list[float]:
    """The 99th percentile of a window, in µs; nothing where others had too much of the gate's core, since that tells of them."""
    waited = gate.waited()
    felt = p99(load, gate, SECONDS)
    return [felt] if gate.waited() - waited <= DISTURBED * SECONDS else []
