"""What went wrong in nobody's hands is told in our own lines, and quotes nothing of a client's."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from proxy.log import LINES_PER_SECOND, Log
from proxy.unhandled import report_to

TOKEN = "a-token"


@pytest.fixture
def restored() -> Iterator[None]:
    """The process is everybody's."""
    root, hook = logging.getLogger(), sys.unraisablehook
    handlers, level = root.handlers, root.level
    yield
    root.handlers, sys.unraisablehook = handlers, hook
    root.setLevel(level)


class Heard:
    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = Log(self.stream)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
async def heard(restored: None) -> Heard:
    heard = Heard()
    report_to(heard.log, asyncio.get_running_loop())
    return heard


def fail(token: str) -> None:
    raise ValueError(f"cannot read {token}")


async def test_a_callback_that_fails_is_told_with_its_place_and_without_what_it_was_about(heard: Heard) -> None:
    asyncio.get_running_loop().call_soon(fail, TOKEN)
    await asyncio.sleep(0)
    (line,) = heard.lines
    assert (line["level"], line["event"], line["source"], line["error"]) == ("warning", "unhandled", "asyncio", "ValueError")
    assert str(line["what"]).startswith("Exception in callback")
    assert f"test_unhandled.py:{fail.__code__.co_firstlineno + 1}" in str(line["where"])
    assert TOKEN not in heard.stream.getvalue()


async def test_a_task_that_nobody_asked_about_is_told(heard: Heard) -> None:
    async def run() -> None:
        fail(TOKEN)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    del task
    gc.collect()
    (line,) = heard.lines
    assert (line["what"], line["error"]) == ("Task exception was never retrieved", "ValueError")
    assert TOKEN not in heard.stream.getvalue()


async def test_what_a_library_logs_is_told_without_its_arguments(heard: Heard) -> None:
    logging.getLogger("library").error("cannot ask %s", f"http://game/?token={TOKEN}")
    logging.getLogger("library").warning(f"cannot ask http://game/?token={TOKEN}")  # noqa: G004 -- as libraries do
    logging.getLogger("library").info("all is well")
    assert [(line["source"], line["what"], line["error"], line["where"]) for line in heard.lines] == [
        ("library", "cannot ask", "", ""),
        ("library", "cannot ask http", "", ""),
    ]
    assert TOKEN not in heard.stream.getvalue()


async def test_an_exception_that_a_library_logs_is_told(heard: Heard) -> None:
    try:
        fail(TOKEN)
    except ValueError:
        logging.getLogger("library").exception("it failed")
    (line,) = heard.lines
    assert (line["what"], line["error"]) == ("it failed", "ValueError")
    assert "test_unhandled.py:" in str(line["where"])
    assert TOKEN not in heard.stream.getvalue()


async def test_what_python_cannot_raise_is_told(heard: Heard) -> None:
    class Fragile:
        def __del__(self) -> None:
            fail(TOKEN)

    hook = sys.unraisablehook  # pytest has one of its own around each test
    report_to(heard.log, asyncio.get_running_loop())
    Fragile()
    sys.unraisablehook = hook
    (line,) = heard.lines
    assert (line["what"], line["error"]) == ("an exception that could not be raised", "ValueError")
    assert TOKEN not in heard.stream.getvalue()


async def test_what_a_peer_does_to_tls_is_no_news(heard: Heard) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "Fatal error on SSL protocol", "exception": RuntimeError("closed")})
    assert heard.lines == []


async def test_it_is_no_flood_of_lines(heard: Heard) -> None:
    for _ in range(LINES_PER_SECOND + 5):
        logging.getLogger("library").error("again")
    assert len(heard.lines) == LINES_PER_SECOND
    heard.log.flush()
    last = heard.lines[-1]
    assert (last["level"], last["event"], last["suppressed"]) == ("warning", "unhandled", 5)
