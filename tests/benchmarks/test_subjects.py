"""Starting and stopping what is measured."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import subjects
from benchmarks.subjects import BenchmarkError, Cores
from proxy.config import load

MINE = frozenset(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("available", "proxy", "others"),
    [({0, 1}, 1, {0}), ({0, 1, 2, 3}, 3, {0, 1, 2}), ({5}, 5, {5})],
)
def test_the_proxy_gets_a_core_of_its_own_where_there_are_two(available: set[int], proxy: int, others: set[int]) -> None:
    assert subjects.share_out(frozenset(available)) == Cores(proxy, frozenset(others))


def test_a_server_and_its_children_end_with_the_measurement_and_stay_on_their_cores(tmp_path: Path) -> None:
    """A server that ignores SIGTERM's example: its child would live on."""
    script = "import subprocess, sys, time; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True); time.sleep(60)"
    log, core = tmp_path / "log", frozenset({max(MINE)})
    with subjects.process([sys.executable, "-c", script], core, log) as server:
        subjects.until(lambda: log.read_text().endswith("\n"), server, log)
        child = int(log.read_text())
        assert os.sched_getaffinity(server.pid) == core
        assert subjects.children_of(server.pid) == [child]
    assert server.returncode != 0
    assert frozenset(os.sched_getaffinity(0)) == MINE
    deadline = time.monotonic() + 5
    while is_alive(child):
        assert time.monotonic() < deadline


def is_alive(pid: int) -> bool:
    """Running, not only waiting to be buried. proc(5): the state stands behind the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        subjects.process([sys.executable, "-c", "import sys; sys.exit('no such upstream')"], MINE, log) as server,
        pytest.raises(BenchmarkError, match="does not start: no such upstream"),
    ):
        subjects.until(lambda: False, server, log)


def test_the_gates_port_is_read_from_its_log() -> None:
    log = '{"event": "warning"}\n{"event": "listening", "address": "127.0.0.1:43210", "admin": "127.0.0.1:1"}\n'
    assert subjects.announced_port(log) == 43210
    assert subjects.announced_port(log[:60]) is None
    assert subjects.announced_port("") is None


@pytest.mark.parametrize("rules", ["", subjects.RULES_AT_THE_UPGRADE, subjects.RULES_AT_THE_UPGRADE + subjects.RULES_ON_THE_FRAMES])
def test_the_gates_configurations_are_valid(tmp_path: Path, rules: str) -> None:
    file = tmp_path / "wsgate.yaml"
    file.write_text(subjects.WSGATE.format(upstream=9001) + rules)
    assert len(load(str(file), {}).rules) == rules.count("- {")


def test_the_metered_gate_has_the_rules_of_the_default_configuration() -> None:
    """Only with limits that nobody reaches."""
    default = load(str(subjects.ROOT / "config" / "wsgate.yaml"), {})
    text = subjects.RULES_AT_THE_UPGRADE + subjects.RULES_ON_THE_FRAMES
    assert all(f"name: {rule.name}," in text for rule in default.rules)


def test_the_load_tools_compile_without_a_warning(tmp_path: Path) -> None:
    compiler = (
        shutil.which("cc")
        or subprocess.run(
            [sys.executable, subjects.ROOT / "deploy" / "dev.py", "fetch", "tcc"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    for name in ("wsecho", "wsload"):
        source = subjects.ROOT / "benchmarks" / "load" / f"{name}.c"
        done = subprocess.run([compiler, "-Wall", "-o", tmp_path / name, source], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
