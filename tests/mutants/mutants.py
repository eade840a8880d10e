"""Hand-made mutants: each is one mistake that somebody could make, and the tests that must notice it.

To add one, append a row to a table of its room. `old` must occur exactly once in the file; take a longer piece of the line if it
does not. Name the narrowest tests that tell the story (a class or a function after `::`): the harness runs them and no others, and
each row costs its tests' time on every run.
"""

from __future__ import annotations

from tests.mutants import ledger, ordinary, policy, server, shared, top, tunnels, wire

MUTANTS = tuple(mutant for room in (wire, ledger, shared, policy, server, ordinary, tunnels, top) for mutant in room.MUTANTS)
