"""How the suite is shared out, shown with a small suite whose tests write down when and how they ran."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lanes import ALONE, COMPUTES, NICENESS, UNCOVERED

REPOSITORY = Path(__file__).parents[1]
TEST = """
import os, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    begin = time.monotonic()
    time.sleep({seconds})
    {body}
    line = "{name} %d %r %r %d %s\\n" % (number, begin, time.monotonic(), os.nice(0), os.environ["PYTEST_XDIST_WORKER"])
    with Path({log!r}).open("a") as log:
        log.write(line)
"""


class Ran(NamedTuple):
    name: str
    number: int
    begin: float
    end: float
    nice: int
    worker: str


class Suite:
    """A folder of test modules, and what was heard of their tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.log.touch()
        (root / "pytest.ini").write_text("[pytest]\nmarkers = long: slow\n")

    def add(self, name: str, count: int, seconds: float = 0.02, body: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEST.format(count=count, seconds=seconds, name=path.stem, log=str(self.log), body=body))

    def run(self, workers: int) -> tuple[str, list[Ran]]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "PYTEST_"))}
        options = ["-q", "-p", "tests.lanes", "-n", str(workers), "-p", "no:cacheprovider", "--import-mode=importlib"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=self.root,
            env=environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return done.stdout, [Ran(one[0], int(one[1]), float(one[2]), float(one[3]), int(one[4]), one[5]) for one in lines]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_every_test_runs_once_and_none_beside_one_that_needs_the_machine_for_itself(suite: Suite) -> None:
    suite.add("tests/limits/test_neighbours.py", 3)
    suite.add("tests/policy/test_rules.py", 12)
    suite.add("tests/server/test_door.py", 12)
    output, ran = suite.run(4)
    assert "27 passed" in output.splitlines()[-1], output
    assert set(Counter((one.name, one.number) for one in ran).values()) == {1}
    alone = [one for one in ran if one.name == "test_neighbours"]
    assert len(alone) == 3
    for one in alone:
        beside = [other for other in ran if other is not one and other.begin < one.end and one.begin < other.end]
        assert beside == []


def test_those_that_compute_run_at_a_low_priority_and_those_that_wait_do_not(suite: Suite) -> None:
    suite.add("tests/policy/test_rules.py", 30)
    suite.add("tests/server/test_door.py", 30)
    _, ran = suite.run(2)
    first = sorted(ran, key=lambda one: one.begin)[:20]
    usual = os.nice(0)
    low = min(19, usual + NICENESS)  # there is none below that, and this test may itself run at a low one
    assert {(one.name, one.nice) for one in first} == {("test_rules", low), ("test_door", usual)}


def test_who_has_nothing_left_helps_the_others(suite: Suite) -> None:
    suite.add("tests/server/test_door.py", 20)
    _, ran = suite.run(2)
    assert len({one.worker for one in ran}) == 2


def test_what_a_worker_took_with_it_when_it_died_is_told_and_all_else_runs(suite: Suite) -> None:
    suite.add("tests/server/test_door.py", 8, body="os._exit(1) if number == 3 else None")
    output, ran = suite.run(2)
    assert sorted(one.number for one in ran) == [0, 1, 2, 4, 5, 6, 7]
    assert "1 failed, 7 passed" in output.splitlines()[-1], output
    assert "crashed while running" in output


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_will_do(suite: Suite, workers: int) -> None:
    suite.add("tests/limits/test_neighbours.py", 1)
    suite.add("tests/policy/test_rules.py", 1)
    output, _ = suite.run(workers)
    assert "2 passed" in output.splitlines()[-1], output


@pytest.mark.parametrize("prefix", [*ALONE, *COMPUTES, *UNCOVERED])
def test_what_the_tables_name_is_there(prefix: str) -> None:
    assert (REPOSITORY / prefix.partition("::")[0]).exists()
