"""What a mutation tool (mutmut) does to meter and bucket, and what their unit tests notice of it.

The tool works in a copy of the package, of these tests and of nothing else, and runs for each mutant the tests that come through the
function it changed. Its own settings are written here, next to the share that is demanded.

Those that survive are, but for a few, no mutants of behaviour:

- the first value of what is written before it is read: `pending`, `queued`, `hold_until`, `Drops.cost`, a message's size and fragments (a
  walker lets no continuation come first), a key that is never looked up;
- `>` for `>=` and the like on a quick path, whose other branch asks the slow one, which says the same (`charge`, `_charge_any`), or where
  both sides are the same number (a level that is exactly the burst, no time that has passed);
- a quick path that is never taken (`_is_plain`);
- a value in a branch that throws it away (`then` where nobody waited, a verdict that is neither DROP nor CLOSE, a penalty of 0).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MUTATED = ("proxy/policy/meter.py", "proxy/ledger/token_bucket.py")
TESTS = ("tests/policy/test_meter.py", "tests/policy/test_meter_model.py", "tests/ledger/test_token_bucket.py")
TOO_SLOW = ("million", "stay_within_a_billionth")  # in a module in which each call takes a detour; others see what they see
SHARE = 0.95  # of all mutants, that must be killed
CHILDREN = 2

CONFIGURATION = f"""
[tool.mutmut]
source_paths = ["proxy/"]
only_mutate = {list(MUTATED)}
pytest_add_cli_args_test_selection = {[*TESTS, "-k", " and ".join(f"not {name}" for name in TOO_SLOW)]}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:cov", "-p", "tests.mutants.quick", "--hypothesis-profile=quick"]
use_git_change_detection = false
"""


def copy_into(folder: Path) -> None:
    """What the tool needs: the package, the tests, and the project's file with the tool's settings."""
    for name in ("proxy", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text() + CONFIGURATION)


def mutmut(folder: Path, *arguments: str) -> str:
    """Its output. Raises CalledProcessError."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "PYTEST_"))}
    command = ["nice", sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def verdicts(results: str) -> dict[str, str]:
    """Of `mutmut results --all true`: mutant -> killed, survived, timeout ..."""
    pairs = (line.strip().rpartition(": ") for line in results.splitlines() if "__mutmut_" in line)
    return {name: verdict for name, _, verdict in pairs}


@pytest.mark.trial
@pytest.mark.timeout(1200)
def test_what_a_mutation_tool_does_to_meter_and_bucket_is_noticed(tmp_path: Path) -> None:
    copy_into(tmp_path)
    mutmut(tmp_path, "run", "--max-children", str(CHILDREN))
    found = verdicts(mutmut(tmp_path, "results", "--all", "true"))
    survivors = sorted(name for name, verdict in found.items() if verdict not in ("killed", "timeout"))
    sys.stdout.write(f"{len(found) - len(survivors)} of {len(found)} mutants killed; left:\n" + "\n".join(survivors) + "\n")
    assert len(found) > 500
    assert len(survivors) <= (1 - SHARE) * len(found), survivors
