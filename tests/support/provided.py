"""Programs that are not Python's: Debian's own, through the command that everybody has."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@functools.cache
def provided(name: str) -> Path:
    """Where a program of deploy/debs.py is, after it was fetched if need be: the first time that may take a while."""
    command = [sys.executable, REPOSITORY / "deploy" / "dev.py", "fetch", name]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
