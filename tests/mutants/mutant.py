"""What a hand-made mutant is. The tables are in the modules beside this one, one for each room of the package."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file under `proxy/`, and the test paths of which at least one test must fail with it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
