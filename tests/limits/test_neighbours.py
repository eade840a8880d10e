"""200 players who behave feel nothing of attackers, who are all bounded and closed.

The gate has a core of its own; load, backend and attackers share the others, and attackers have the lowest priority there, so that what
is measured is the gate's time and not that of a machine which is short of it. Players send at a fixed pace through the gate, and the
99th percentile of their round trips is taken from the moment that each message was due (a stall cannot hide itself). A machine has good
and bad moments, so windows without the attack and with it follow one another, and medians of the windows are compared: after five
pairs, and if the machine was too restless for these, after more. That attackers end, how and when, is asserted for each of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.limits.neighbourhood import AT_MOST, LAST, MORE, WINDOW, WINDOWS, echo_server, on_other_cores, p99
from tests.limits.program import REPOSITORY, Program, program, wait_until
from tests.support.compiled import Load, compile_load

HEAD_TIMEOUT = 2  # seconds
PER_ADDRESS = 128  # half-open connections, which is limits.max_pending_per_ip by default
LATE = 3.0  # seconds beyond the head_timeout: a linger, and a busy machine
YAML = f"""
limits: {{head_timeout: {HEAD_TIMEOUT}s}}
rules:
  - {{name: user-connections, per: user, connections: 3}}
  - {{name: ip-connections, per: ip, connections: 1000}}
  - {{name: user-messages, per: user, messages: 100/s}}
  - {{name: ip-messages, per: ip, messages: 10000/s}}
  - {{name: payload, per: connection, message_size: 16KiB}}
"""


@dataclass(frozen=True)
class Attack:
    """`count` connections of a kind; all end, and in one of these ways."""

    kind: str
    count: int
    ends: frozenset[str]


ATTACKS = [
    Attack("slow heads", 300, frozenset({"408", "503"})),
    Attack("silence", 300, frozenset({"silent", "503"})),
    Attack("a byte a second", 300, frozenset({"408", "503"})),
    Attack("half-open", 5000, frozenset({"408", "503"})),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return compile_load(tmp_path_factory.mktemp("load"))


@contextmanager
def attacked(gate: Program, attack: Attack, ends: Counter[str]) -> Iterator[None]:
    """The attack goes on inside; each of its connections is closed by the gate, soon."""
    command = [*LAST, sys.executable, "-m", "tests.limits.attackers", attack.kind, str(gate.port), str(attack.count), str(WINDOW)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: gate.descriptors() > PER_ADDRESS, 10)
            yield
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    found = json.loads(output)
    assert sum(found["ends"].values()) == attack.count
    assert found["longest"] < HEAD_TIMEOUT + LATE
    ends.update(found["ends"])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_players_feel_nothing_of_attackers_who_are_all_closed(attack: Attack, load: Load, tmp_path: Path, unused_tcp_port: int) -> None:
    ends: Counter[str] = Counter()
    alone, beside = [], []
    with on_other_cores() as core, echo_server(load, unused_tcp_port) as url, program(tmp_path, YAML, url, core=core) as gate:
        p99(load, gate)  # a first window, for memory and code to be warm
        before = gate.descriptors()
        while len(beside) < WINDOWS or (median(beside) > median(alone) + MORE and len(beside) < AT_MOST):
            wait_until(lambda: gate.descriptors() <= before, 10)
            alone.append(p99(load, gate))
            wait_until(lambda: gate.descriptors() <= before, 10)
            with attacked(gate, attack, ends):
                beside.append(p99(load, gate))
    sys.stdout.write(f"{attack.kind}: p99 in µs {sorted(alone)} alone, {sorted(beside)} beside {dict(ends)}\n")
    assert set(ends) == attack.ends
    assert ends["503"] >= (attack.count - PER_ADDRESS) * len(beside) * 0.5  # half-open ones time out, and leave their places to others
    assert median(beside) <= median(alone) + MORE
