"""What a mutation tool (mutmut) does to meter and bucket, and what their unit tests notice of it.

The tool writes all mutants of a function beside it, into a copy of the package. One session of pytest over that copy runs the tests for
each of them in a fork of its own (schemata.py): a mutant that is killed takes 20 ms, one that survives a second.

Those that survive are, but for a few, no mutants of behaviour:

- the first value of what is written before it is read: `pending`, `queued`, `hold_until`, `is_stopped`, `Drops.cost`, a message's size and
  fragments (a walker lets no continuation come first);
- `>` for `>=` and the like on a quick path, whose other branch asks the slow one, which says the same (`charge`, `_charge_any`), or where
  both sides are the same number (a level that is exactly the burst, no time that has passed), or a key that tells the same apart;
- a quick path that is never taken (`_is_plain`);
- a value in a branch that throws it away (`then` where nobody waited, a verdict that is neither DROP nor CLOSE).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MUTATED = ("proxy/policy/meter.py", "proxy/ledger/token_bucket.py")
TESTS = ("tests/policy/test_meter.py", "tests/ledger/test_token_bucket.py")
TOO_SLOW = ("million", "billionth", "however_many", "any_window", "however_late_it")  # each takes seconds; others see what they see
SHARE = 0.95  # of all mutants, that must be killed

WRITE = """
import json, pathlib, sys
from mutmut.mutation.file_mutation import mutate_file_contents

names = []
for file in sys.argv[1:]:
    written = mutate_file_contents(file, pathlib.Path(file).read_text())
    pathlib.Path(file).write_text(written.code)
    names += [file.removesuffix(".py").replace("/", ".") + "." + name for name in written.mutant_names]
print(json.dumps(names))
"""


def run(folder: Path, *arguments: str, **environ: str) -> str:
    """What Python, over the copy in this folder, prints. Raises CalledProcessError."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "PYTEST_"))}
    command = ["nice", sys.executable, *arguments]
    environ = {**inherited, "PYTHONPATH": str(folder), **environ}
    return subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout


def write_mutants(folder: Path) -> list[str]:
    """A copy of the package with all mutants in it, and of the tests. Returns the names of the mutants."""
    for name in ("proxy", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = (REPOSITORY / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(settings + '\n[tool.mutmut]\nsource_paths = ["proxy/"]\n')
    return list(json.loads(run(folder, "-c", WRITE, *MUTATED)))


def verdicts(folder: Path, mutants: list[str]) -> dict[str, str]:
    """mutant -> what became of it."""
    asked = folder / "mutants.json"
    asked.write_text(json.dumps(mutants))
    plugins = ["-p", "tests.mutants.quick", "-p", "tests.mutants.schemata", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
    options = ["-q", "--timeout=0", "--hypothesis-profile=quick", "-k", " and ".join(f"not {name}" for name in TOO_SLOW)]
    run(folder, "-m", "pytest", *plugins, *options, *TESTS, WSGATE_MUTANTS=str(asked))
    return dict(json.loads(Path(f"{asked}.verdicts").read_text()))


@pytest.mark.long
@pytest.mark.timeout(900)  # it takes 40 s of one core, at a low priority
def test_what_a_mutation_tool_does_to_meter_and_bucket_is_noticed(tmp_path: Path) -> None:
    mutants = write_mutants(tmp_path)
    found = verdicts(tmp_path, mutants)
    assert found.pop("") == "survived"  # no mutant: all tests pass in a fork too
    assert found.keys() == set(mutants)
    survivors = sorted(name for name, verdict in found.items() if verdict == "survived")
    sys.stdout.write(f"{len(found) - len(survivors)} of {len(found)} mutants killed; left:\n" + "\n".join(survivors) + "\n")
    assert len(found) > 800
    assert len(survivors) <= (1 - SHARE) * len(found), survivors
