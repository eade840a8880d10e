"""Runs pytest again and again over a copy of the package, each time in a fresh fork.

What costs time at the start of a pytest, importing it and its plugins, is done once; `proxy` is never imported here, so each fork finds
the copy as it then is. What the copy's modules were compiled to before it was changed is there to be read, and nothing is compiled for
others. Reads one JSON line per run on stdin, {"root": …, "file": the one that was changed, "tests": […]}, and answers each with one,
{"exit": pytest's exit code, "output": its last lines}.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
OPTIONS = (
    *("-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(REPOSITORY)),
    *("-x", "-q", "--tb=line", "--timeout=40", "--hypothesis-profile=quick", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the price of having imported so much already
)
PATIENCE = 8  # seconds for what is to happen in the end (tests/support/waiting.py), with a mutant as without: else haste would kill it
TESTS_FAILED = 1  # an exit code of pytest's
CANNOT_RUN = 70  # an exit code of ours: the changed module cannot even be imported
PRELOADED = (
    *("aiohttp.test_utils", "hypothesis.strategies", "websockets.extensions.permessage_deflate", "websockets.protocol"),
    *("prometheus_client.parser", "redis.asyncio", "uvloop", "yaml"),
    "quick",  # the module beside this one
)


def run(root: str, file: str, tests: list[str]) -> int:
    """In a fork: pytest over `tests` with the package under `root`. Returns its exit code."""
    os.chdir(root)
    sys.path.insert(0, root)
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=root, PYTHONDONTWRITEBYTECODE="1", WSGATE_TEST_PATIENCE=str(PATIENCE))
    if file.endswith(".py"):
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
    end = _End()
    try:
        options = (*OPTIONS, f"--basetemp={root}/t")
        return int(pytest.main([*options, *(str(REPOSITORY / test) for test in tests)], plugins=[end]))
    except ExceptionGroup:
        if end.status != TESTS_FAILED:
            raise
        return TESTS_FAILED  # a test that fails leaves things open, and pytest complains of them when all is over


class _End:
    """A plugin: how the tests themselves ended."""

    status = CANNOT_RUN

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.status = int(exitstatus)


def fork(root: str, file: str, tests: list[str]) -> tuple[int, str]:
    """(exit code, output) of one run."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            code = CANNOT_RUN
            try:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                code = run(root, file, tests)
            except Exception:  # noqa: BLE001 (a mutant may raise anything when it is imported)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    assert "proxy" not in sys.modules
    gc.freeze()  # so that collections in the forks do not touch, and copy, all these pages
    for line in sys.stdin:
        code, output = fork(**json.loads(line))
        sys.stdout.write(json.dumps({"exit": code, "output": output[-2000:]}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
