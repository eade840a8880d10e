"""These tests run on the event loop that the gate runs on in production, and each leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.waiting import until


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that leaves a transport open fails by the fixture below. The warning that uvloop adds when it is closed would, as an
    error, end uvloop's closing in the middle, and pytest would wait for ever."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning"))


def open_sockets() -> int:
    """Sockets that this process has open."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return count


@pytest.fixture(autouse=True, scope="session")
def what_is_there_already() -> None:
    """Keep all modules out of the collections below: they look at what a test has made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """After a test no task runs, no socket is open, and nothing went wrong where only the event loop could see it."""
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    before = open_sockets()
    yield
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()} and open_sockets() <= before)
    gc.collect()  # futures whose exception nobody took complain when they go
    assert not wrong
