"""The load generator and the echo server of the benchmarks, compiled."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.provided import provided

SOURCES = Path(__file__).parents[2] / "benchmarks" / "load"


@dataclass(frozen=True)
class Load:
    """Programs; each says at the head of its source what its arguments are."""

    wsload: Path
    wsecho: Path


def compile_load(folder: Path) -> Load:
    """Compile both into a folder: with the compiler of the machine, or one that is fetched."""
    compiler = shutil.which("cc")
    if compiler is None:
        compiler = str(provided("tcc"))
    load = Load(folder / "wsload", folder / "wsecho")
    for target in (load.wsload, load.wsecho):
        subprocess.run([compiler, "-O2", "-o", target, SOURCES / f"{target.name}.c"], capture_output=True, check=True)
    return load
