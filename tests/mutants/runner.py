"""Runs pytest again and again over different copies of the package, each time in a fresh fork.

What costs time at the start of a pytest, importing it and its plugins, is done once; `proxy` is never imported here, so each fork finds
the copy that it is pointed at. Reads one JSON line per run on stdin, {"root": …, "tests": […]}, and answers each with one,
{"exit": pytest's exit code, "output": its last lines}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
OPTIONS = (
    *("-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(REPOSITORY)),
    *("-x", "-q", "--tb=line", "--timeout=20", "-p", "no:cacheprovider", "-p", "no:cov"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the price of having imported so much already
)
FAILED_TO_START = 70


def preload() -> None:
    """Import what tests import, apart from the package."""
    import asyncio  # noqa: F401 (imported for the forks)

    import aiohttp.test_utils
    import hypothesis.strategies
    import websockets.extensions.permessage_deflate
    import websockets.protocol  # noqa: F401 (imported for the forks)


def run(root: str, tests: list[str]) -> int:
    """In a fork: pytest over `tests` with the package under `root`. Returns its exit code."""
    os.chdir(root)
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = root
    return int(pytest.main([*OPTIONS, *(str(REPOSITORY / test) for test in tests)]))


def fork(root: str, tests: list[str]) -> tuple[int, str]:
    """(exit code, output) of one run."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            code = FAILED_TO_START
            try:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                code = run(root, tests)
                sys.stdout.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def main() -> None:
    preload()
    assert "proxy" not in sys.modules
    for line in sys.stdin:
        code, output = fork(**json.loads(line))
        print(json.dumps({"exit": code, "output": output[-2000:]}), flush=True)  # noqa: T201 (the answer to the harness)


if __name__ == "__main__":
    main()
