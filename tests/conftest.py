"""Options of the whole suite: `--long` adds the tests marked `long`, `--trial` those that are marked `trial`."""

import signal

import pytest

# A shell that starts the suite in the background has it ignore Ctrl-C, and every program that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run soaks, floods and other slow tests")
    parser.addoption("--trial", action="store_true", help="also run what has not been shown to pass on a busy machine, or takes too long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for option in ("long", "trial"):
        left_out = [] if config.getoption(f"--{option}") else [item for item in items if item.get_closest_marker(option)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in set(left_out)]
