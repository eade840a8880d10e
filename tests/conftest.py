"""How the whole suite is run: `--long` adds the tests marked `long`, and several tests run at a time where workers are asked for.

Most long tests wait for others (a time to live, a drain, a store that is frozen), so running some beside each other costs little. A
file stays with one worker, and long files come first. What measures latency is marked `alone` and comes last, one after the other.
"""

import signal
from typing import Final

import pytest

MUTANTS: Final = "tests/mutants/"  # they have processes of their own, of low priority
EARLY: Final = (MUTANTS, "tests/cluster/", "tests/ledger/", "tests/interop/", "tests/limits/", "tests/fuzz/", "tests/deploy/")

# A shell that starts the suite in the background has it ignore Ctrl-C, and every program that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run soaks, floods and other slow tests")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        leave_out_slow_ones(config, items)
    if config.getoption("dist", "no") != "no" or hasattr(config, "workerinput"):
        items.sort(key=turn)
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item)))


def leave_out_slow_ones(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if item.get_closest_marker("long")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]


def turn(item: pytest.Item) -> int:
    """When it is a test's turn; within one turn the order stays."""
    if item.get_closest_marker("alone"):
        return len(EARLY) + 1
    return next((place for place, folder in enumerate(EARLY) if item.nodeid.startswith(folder)), len(EARLY))


def group_of(item: pytest.Item) -> str:
    """Tests of one group run one after the other, in one process."""
    if item.get_closest_marker("alone"):
        return "alone"
    return "mutants" if item.nodeid.startswith(MUTANTS) else item.nodeid.partition("::")[0]
