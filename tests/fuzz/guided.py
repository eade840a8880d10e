"""Fuzzing that is guided by coverage: python -m tests.fuzz.guided TARGET [OPTIONS OF LIBFUZZER] [FOLDER...]

Inputs that reach something new go into the first folder; those of the others are read at the start. Where a target raises, the
process ends with an error, and the input is in a file `crash-*` (see -artifact_prefix). Needs atheris.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["proxy.wire"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    program, name, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[name])
    atheris.Fuzz()
