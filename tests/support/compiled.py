"""The load generator and the echo server of the benchmarks, compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "benchmarks" / "load"


@dataclass(frozen=True)
class Load:
    """Programs; each says at the head of its source what its arguments are."""

    wsload: Path
    wsecho: Path


def compile_load(folder: Path) -> Load:
    """Compile both into a folder: with the compiler of the machine, or one that is fetched."""
    compiler = shutil.which("cc")
    if compiler is None:
        command = [sys.executable, REPOSITORY / "deploy" / "dev.py", "fetch", "tcc"]
        compiler = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    load = Load(folder / "wsload", folder / "wsecho")
    for target in (load.wsload, load.wsecho):
        subprocess.run([compiler, "-O2", "-o", target, SOURCES / f"{target.name}.c"], capture_output=True, check=True)
    return load
