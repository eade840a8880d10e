"""Shares the whole suite out among worker processes, so that tests which wait and tests which compute run at the same time.

A pytest plugin, on top of pytest-xdist: `pytest -n 4`. Half of the workers take tests that mostly wait (for seconds to pass, for servers,
for sockets) and measure time; the other half, at a low priority, take those that only compute, and so get what the first leave of the
cores. Who has nothing left helps the others. Before all that come those that need the machine for themselves, one by one. Which these
are was measured, and is told by the tables below: the beginnings of node ids.

Coverage makes what runs in our own process cost more than twice as much. So it is taken where tests tell what a line is for, and not where
they come through the same lines thousands of times, or measure how long that takes.

Invariant: each test runs exactly once, and none beside one of ALONE.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadScheduling
from xdist.workermanage import WorkerController

COMPUTES = (
    "tests/benchmarks/test_measures.py",
    "tests/benchmarks/test_plot.py",
    "tests/benchmarks/test_report.py",
    "tests/config/",
    "tests/fuzz/",
    "tests/ledger/test_memory_store.py",
    "tests/ledger/test_token_bucket.py",
    "tests/limits/test_memory.py",
    "tests/mutants/",
    "tests/policy/",
    "tests/test_architecture.py",
    "tests/wire/",
)
ALONE = (
    "tests/limits/test_floods.py",
    "tests/limits/test_neighbours.py",
)
UNCOVERED = ("tests/fuzz/", "tests/limits/", "tests/mutants/")
UNCOVERED_MARKS = ("hypothesis", "long")
NICENESS = 10  # of the workers that compute
AHEAD = 2  # tests that a worker knows of: the one it runs and, as its fixtures want to know who comes next, another


def is_one_of(prefixes: Sequence[str], test: str) -> bool:
    return test.startswith(tuple(prefixes))


def computes(node: WorkerController) -> bool:
    """Workers are numbered from gw0; one that takes the place of a dead one has a new number."""
    return int(node.gateway.id.removeprefix("gw")) % 2 == 1


class Lanes(LoadScheduling):
    """`pending` holds the indices of tests that no worker has been given, in the order in which they were collected."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._alone: set[int] = set()  # those that have not ended
        self._computes: list[bool] = []  # of each test

    def schedule(self) -> None:
        """All workers have collected: begin. Called again when a new worker has taken the place of a dead one."""
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                return
            self.collection = next(iter(self.node2collection.values()))
            self.pending[:] = range(len(self.collection))
            self._computes = [is_one_of(COMPUTES, test) for test in self.collection]
            self._alone = {index for index in self.pending if is_one_of(ALONE, self.collection[index])}
        self._give_to_all()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        was_alone = item_index in self._alone
        self._alone.discard(item_index)
        super().mark_test_complete(node, item_index, duration)
        if was_alone and not self._alone:
            self._give_to_all()

    def remove_node(self, node: WorkerController) -> str | None:
        """A worker that died takes the test with it that it ran; what else it was given is pending again."""
        crashed = self.node2pending[node][:1]
        name = super().remove_node(node)
        self._alone.difference_update(crashed)
        self._give_to_all()
        return name

    def check_schedule(self, node: WorkerController, duration: float = 0) -> None:
        """Give this worker what it lacks."""
        if node.shutting_down or self.collection is None:
            return
        while len(self.node2pending[node]) < AHEAD:
            index = self._next_for(node)
            if index is None:
                break
            self.pending.remove(index)
            self.node2pending[node].append(index)
            node.send_runtest_some([index])
        if not self.pending:
            node.shutdown()

    def _give_to_all(self) -> None:
        for node in self.nodes:
            self.check_schedule(node)

    def _next_for(self, node: WorkerController) -> int | None:
        if self._alone:
            if node is not self.nodes[0]:
                return None
            mine = [index for index in self.pending if index in self._alone]
            if mine:
                return mine[0]
        wanted = computes(node)
        other = None
        for index in self.pending:
            if self._computes[index] == wanted:
                return index
            if other is None:
                other = index
        return other


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> Lanes | None:
    return Lanes(config) if config.getoption("dist") == "load" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["niceness"] = NICENESS if computes(node) else 0


def pytest_configure(config: pytest.Config) -> None:
    os.nice(getattr(config, "workerinput", {}).get("niceness", 0))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones first, so that no worker begins one when the others are done."""
    for item in items:
        if is_one_of(UNCOVERED, item.nodeid) or any(item.get_closest_marker(mark) for mark in UNCOVERED_MARKS):
            item.add_marker(pytest.mark.no_cover)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("long") is None)
