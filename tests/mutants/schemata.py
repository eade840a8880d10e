"""A pytest plugin that runs one session over hundreds of mutants: all is imported and collected once, and each mutant has a fork of its own.

The mutants of a function stand in its module beside it (mutmut writes them so), and one of them is chosen by its name. First the tests
run over no mutant, which tells how long each takes and which functions it comes through. Then, for each mutant, those that come through
its function: first those that have killed most of its siblings, then by the time they take, until one fails.

WSGATE_MUTANTS names a JSON list of names; beside it, with `.verdicts` behind its name, goes {name: what became of it}.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import resource
import signal
import struct
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation import trampoline

MUTATED = ("proxy.ledger.token_bucket", "proxy.policy.meter")
CHILDREN = 2
CPU_SECONDS = 20.0  # of one mutant over all its tests: what takes longer goes round for ever
MEMORY = 2 << 30  # bytes
NONE = -1  # no test failed
NO_MUTANT = ""  # which all tests must survive


class Session:
    """`reached`: function -> the tests that come through it. `seconds`: of each test, without a mutant."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.items = items
        self.seconds: list[float] = []
        self.reached: defaultdict[str, list[int]] = defaultdict(list)
        self.kills: defaultdict[str, Counter[int]] = defaultdict(Counter)  # function -> how many mutants each test has killed

    def run_over_none(self) -> None:
        """Raises AssertionError if a test fails."""
        hits: set[str] = set()
        trampoline.record_trampoline_hit = lambda name, **_: hits.add(name)
        trampoline.set_mutant_under_test("stats")
        for index, item in enumerate(self.items):
            hits.clear()
            reports = runtestprotocol(item, log=False, nextitem=None)
            failed = [report.longreprtext for report in reports if report.failed]
            assert not failed, failed
            self.seconds.append(sum(report.duration for report in reports))
            for function in hits:
                self.reached[function].append(index)

    def tests_of(self, function: str) -> list[int]:
        kills = self.kills[function]
        return sorted(self.reached[function], key=lambda index: (-kills[index], self.seconds[index]))

    def first_failure(self, mutant: str, tests: list[int]) -> int:
        """The first test that fails with this mutant, or NONE. Only to be called in a fork."""
        trampoline.set_mutant_under_test(mutant)
        take_shortcuts(mutant)
        for index in tests:
            if fails(self.items[index]):
                return index
        return NONE


def fails(item: pytest.Item) -> bool:
    """What pytest does with a test, without telling anybody about it, which takes longer than most tests."""
    item._initrequest()  # type: ignore[attr-defined]  # as pytest does before it runs a test again
    try:
        for step in (item.ihook.pytest_runtest_setup, item.ihook.pytest_runtest_call):
            step(item=item)
        item.ihook.pytest_runtest_teardown(item=item, nextitem=None)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 -- a mutant may raise anything
        return True
    return False


def is_class_of(module: ModuleType, one: object) -> bool:
    return isinstance(one, type) and one.__module__ == module.__name__


def take_shortcuts(mutant: str) -> None:
    """Put the functions themselves in the place of their trampolines, which ask at each call which mutant it is."""
    changed, _, name = mutant.rpartition(".")
    for module in (sys.modules[name] for name in MUTATED):
        owners = [(module, "x_"), *((one, f"xǁ{one.__name__}ǁ") for one in vars(module).values() if is_class_of(module, one))]
        for owner, prefix in owners:
            for function in [one for one in vars(owner) if f"{prefix}{one}__mutmut_orig" in vars(owner)]:
                is_changed = module.__name__ == changed and function_of(name) == f"{prefix}{function}"
                setattr(owner, function, getattr(owner, name if is_changed else f"{prefix}{function}__mutmut_orig"))


class Forks:
    """At most so many at a time; what each found is in memory that all share, since a fork can die of its mutant at any time."""

    def __init__(self, session: Session, mutants: list[str]) -> None:
        self._session = session
        self._mutants = mutants
        self._found = mmap.mmap(-1, 4 * len(mutants))
        self._running: dict[int, int] = {}  # process id -> which mutant
        self.verdicts: dict[str, str] = {}

    def run(self) -> None:
        for number in range(len(self._mutants)):
            if len(self._running) == CHILDREN:
                self._reap()
            self._start(number)
        while self._running:
            self._reap()

    def _start(self, number: int) -> None:
        mutant = self._mutants[number]
        tests = self._session.tests_of(function_of(mutant)) if mutant else list(range(len(self._session.items)))
        child = os.fork()
        if child:
            self._running[child] = number
            return
        try:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            struct.pack_into("i", self._found, 4 * number, self._session.first_failure(mutant, tests))
            os._exit(0)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        child, status = os.wait()
        number = self._running.pop(child)
        mutant = self._mutants[number]
        code = os.waitstatus_to_exitcode(status)
        (found,) = struct.unpack_from("i", self._found, 4 * number)
        if code:
            self.verdicts[mutant] = "timeout" if code == -signal.SIGPROF else f"died: {code}"
        elif found == NONE:
            self.verdicts[mutant] = "survived"
        else:
            self._session.kills[function_of(mutant)][found] += 1
            self.verdicts[mutant] = f"killed by {self._session.items[found].nodeid}"


def function_of(mutant: str) -> str:
    return mutant.partition("__mutmut_")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    file = Path(os.environ["WSGATE_MUTANTS"])
    tests = Session(session.items)
    tests.run_over_none()
    gc.freeze()  # so that collections in the forks do not touch, and copy, all these pages
    forks = Forks(tests, [NO_MUTANT, *json.loads(file.read_text())])
    forks.run()
    Path(f"{file}.verdicts").write_text(json.dumps(forks.verdicts))
    return True
