"""Every mutant of `mutants.py` must be killed by the tests that it names; the package as it is must pass them all.

A mutant is a copy of `proxy` with one piece of text replaced, so the tests prove that they look at what they claim to look at.
"""

from __future__ import annotations

import ast
import json
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS

REPOSITORY = Path(__file__).parent.parent.parent
RUNNERS = 2  # at a time
PASSED = 0  # pytest's exit codes
TESTS_FAILED = 1  # all others mean that they could not be run
USAGE_ERROR = 4
CANNOT_RUN = 70  # as in runner.py
UNCHANGED = Mutant("unchanged", "", "", "", tuple(dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests)))


@dataclass(frozen=True)
class Outcome:
    """How pytest ended over a copy."""

    exit: int
    output: str


def mutate(mutant: Mutant, root: Path) -> None:
    """Put a copy of the package, with the change, under `root`. Raises ValueError for a change that is not exactly one."""
    shutil.copytree(REPOSITORY / "proxy", root / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is UNCHANGED:
        return
    path = root / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"the old text is there {text.count(mutant.old)} times in {mutant.file}")
    changed = text.replace(mutant.old, mutant.new)
    if path.suffix == ".py" and same_program(changed, text):
        raise ValueError("the new text is the same program")
    path.write_text(changed, encoding="utf-8")


def same_program(one: str, other: str) -> bool:
    """Do two texts differ in layout and comments only?"""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except SystemError:  # CPython 3.11 loses count of a tree's depth while another thread makes one; it says so and nothing is lost
        return False


class Runners:
    """Processes that run pytest over copies (see runner.py), started when they are needed."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._processes: list[subprocess.Popen[str]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(RUNNERS, initializer=self._start)

    def _start(self) -> None:
        command = ["nice", sys.executable, str(Path(__file__).with_name("runner.py"))]  # other tests may be running, and have deadlines
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self._workspace)
        self._processes.append(process)
        self._idle.put(process)

    def submit(self, mutant: Mutant) -> Future[Outcome]:
        return self._pool.submit(self._run, mutant)

    def _run(self, mutant: Mutant) -> Outcome:
        outcome = self._try(mutant)
        return outcome if outcome.exit in (PASSED, TESTS_FAILED) else self._try(mutant)  # pytest itself broke down: once more

    def _try(self, mutant: Mutant) -> Outcome:
        root = self._workspace / mutant.name
        mutate(mutant, root)
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"root": str(root), "file": mutant.file, "tests": mutant.tests}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        self._idle.put(process)
        shutil.rmtree(root)
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """The runs of all mutants that were asked for, under way."""
    asked = [item.callspec.params["mutant"] for item in request.session.items if isinstance(item, pytest.Function) and is_run(item)]
    runners = Runners(tmp_path_factory.mktemp("mutants"))
    yield {mutant.name: runners.submit(mutant) for mutant in asked}
    runners.close()


def is_run(item: pytest.Function) -> bool:
    return item.path == Path(__file__) and "outcomes" in item.fixturenames


@pytest.mark.long
@pytest.mark.timeout(900)  # thousands of tests in one process of low priority
@pytest.mark.parametrize("mutant", [pytest.param(UNCHANGED, id=UNCHANGED.name)])
def test_the_package_as_it_is_passes(mutant: Mutant, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[mutant.name].result()
    assert outcome.exit == PASSED, outcome.output


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_the_mutant_is_killed(mutant: Mutant, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[mutant.name].result()
    assert outcome.exit != PASSED, "it survived"
    assert outcome.exit == TESTS_FAILED, outcome.output


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


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
def test_a_change_that_is_not_exactly_one_is_refused(old: str, new: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        mutate(Mutant("bad", "proxy/wire/frames.py", old, new, (CODES,)), tmp_path)


TRIALS = [
    (Mutant("trial_of_a_survivor", CODES_FILE, "OPCODE_BITS: Final = 0x0F", "OPCODE_BITS: Final = 0x1F", (CODES,)), PASSED),
    (Mutant("trial_of_a_kill", CODES_FILE, "1000 <= code <= 1003", "1000 <= code <= 1004", (CODES,)), TESTS_FAILED),
    (Mutant("trial_of_no_module", CODES_FILE, "class Opcode(IntEnum)", "class Opcode(Missing)", (CODES.partition("::")[0],)), CANNOT_RUN),
    (Mutant("trial_of_no_test", CODES_FILE, "1000 <= code <= 1003", "1000 <= code <= 1004", (CODES + "_not",)), USAGE_ERROR),
]


@pytest.mark.parametrize(("mutant", "code"), TRIALS, ids=[mutant.name for mutant, _ in TRIALS])
def test_a_survivor_is_told_from_a_kill_and_from_what_cannot_run(mutant: Mutant, code: int, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[mutant.name].result()
    assert outcome.exit == code, outcome.output
