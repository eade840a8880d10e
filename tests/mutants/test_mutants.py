"""Every mutant of `mutants.py` must be killed by the tests that it names; the package as it is must pass them all.

A mutant is a copy of `proxy` with one piece of text replaced, so the tests prove that they look at what they claim to look at.
"""

from __future__ import annotations

import ast
import compileall
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS

REPOSITORY = Path(__file__).parent.parent.parent
PASSED = 0  # pytest's exit codes
TESTS_FAILED = 1  # all others mean that they could not be run
USAGE_ERROR = 4
CANNOT_RUN = 70  # as in runner.py
EVERY_TEST = sorted({test for mutant in MUTANTS for test in mutant.tests})
UNCHANGED = [  # no change, and all tests of one file
    Mutant(file, "", "", "", tuple(tests)) for file, tests in groupby(EVERY_TEST, lambda test: test.partition("::")[0])
]


@dataclass(frozen=True)
class Outcome:
    """How pytest ended over a copy."""

    exit: int
    output: str


def change(mutant: Mutant) -> str:
    """The text of its file with the change. Raises ValueError for a change that is not exactly one."""
    text = (REPOSITORY / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"the old text is there {text.count(mutant.old)} times in {mutant.file}")
    changed = text.replace(mutant.old, mutant.new)
    if mutant.file.endswith(".py") and same_program(changed, text):
        raise ValueError("the new text is the same program")
    return changed


def same_program(one: str, other: str) -> bool:
    """Do two texts differ in layout and comments only?"""
    return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))


class Runner:
    """A process that runs pytest over a copy of the package (see runner.py), which is changed for each run and then mended."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[str] | None = None
        copy = root / "proxy"
        shutil.copytree(REPOSITORY / "proxy", copy, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(copy, quiet=1)

    def _start(self) -> subprocess.Popen[str]:
        command = ["nice", sys.executable, str(Path(__file__).with_name("runner.py"))]  # other tests may be running, and have deadlines
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **pipes, cwd=self._root, start_new_session=True)

    def run(self, mutant: Mutant) -> Outcome:
        """Raises ValueError for a change that is not exactly one."""
        if not mutant.file:
            return self._run(mutant)
        path = self._root / mutant.file
        path.write_text(change(mutant), encoding="utf-8")
        os.utime(path, (0, 0))  # older than anything that was compiled: it is compiled anew, whatever its size and the time of day
        try:
            return self._run(mutant)
        finally:
            shutil.copy2(REPOSITORY / mutant.file, path)

    def _run(self, mutant: Mutant) -> Outcome:
        outcome = self._ask(mutant)
        return outcome if outcome.exit in (PASSED, TESTS_FAILED) else self._ask(mutant)  # pytest itself broke down: once more

    def _ask(self, mutant: Mutant) -> Outcome:
        """Whoever is interrupted while it waits leaves no process whose answer the next one would take for its own."""
        process = self._process or self._start()
        self._process = None
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"root": str(self._root), "file": mutant.file, "tests": mutant.tests}) + "\n")
            process.stdin.flush()
            outcome = Outcome(**json.loads(process.stdout.readline()))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        self._process = process
        return outcome

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
        compiled = Path(importlib.util.cache_from_source(str(self._root / "proxy" / "__init__.py")))
        shutil.rmtree(compiled.parent.parent if compiled.parent.name == "__pycache__" else compiled.parent)  # maybe far from the copy


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    found = Runner(tmp_path_factory.mktemp("mutants"))
    yield found
    found.close()


@pytest.mark.long
@pytest.mark.timeout(300)  # many tests in one process of low priority
@pytest.mark.parametrize("unchanged", [pytest.param(one, id=one.name) for one in UNCHANGED])
def test_the_package_as_it_is_passes(unchanged: Mutant, runner: Runner) -> None:
    outcome = runner.run(unchanged)
    assert outcome.exit == PASSED, outcome.output


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_the_mutant_is_killed(mutant: Mutant, runner: Runner) -> None:
    outcome = runner.run(mutant)
    assert outcome.exit != PASSED, "it survived"
    assert outcome.exit == TESTS_FAILED, outcome.output


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_what_a_mutant_replaces_occurs_exactly_once() -> None:
    files = {mutant.file: (REPOSITORY / mutant.file).read_text(encoding="utf-8") for mutant in MUTANTS}
    assert [mutant.name for mutant in MUTANTS if files[mutant.file].count(mutant.old) != 1] == []


# --- the harness itself ---------------------------------------------------------------------------------------------------------

CODES_FILE = "proxy/wire/frames.py"
CODES = "tests/wire/test_frames.py::test_every_code_that_may_be_sent"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("nowhere in the file", "x", "0 times"),
        ("Final", "x", "times"),
        ("LENGTH_BITS: Final = 0x7F", "LENGTH_BITS: Final = 127", "same program"),
    ],
)
def test_a_change_that_is_not_exactly_one_is_refused(old: str, new: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        change(Mutant("bad", CODES_FILE, old, new, (CODES,)))


TRIALS = [
    (Mutant("trial_of_a_survivor", CODES_FILE, "OPCODE_BITS: Final = 0x0F", "OPCODE_BITS: Final = 0x1F", (CODES,)), PASSED),
    (Mutant("trial_of_a_kill", CODES_FILE, "1000 <= code <= 1003", "1000 <= code <= 1004", (CODES,)), TESTS_FAILED),
    (Mutant("trial_of_no_module", CODES_FILE, "class Opcode(IntEnum)", "class Opcode(Missing)", (CODES.partition("::")[0],)), CANNOT_RUN),
    (Mutant("trial_of_no_test", CODES_FILE, "1000 <= code <= 1003", "1000 <= code <= 1004", (CODES + "_not",)), USAGE_ERROR),
]


@pytest.mark.parametrize(("mutant", "code"), TRIALS, ids=[mutant.name for mutant, _ in TRIALS])
def test_a_survivor_is_told_from_a_kill_and_from_what_cannot_run(mutant: Mutant, code: int, runner: Runner) -> None:
    outcome = runner.run(mutant)
    assert outcome.exit == code, outcome.output


def test_a_mutant_leaves_nothing_behind(runner: Runner) -> None:
    kill, survivor = TRIALS[1][0], Mutant("again", "", "", "", (CODES,))
    assert [runner.run(mutant).exit for mutant in (kill, survivor, kill)] == [TESTS_FAILED, PASSED, TESTS_FAILED]
