"""Any bytes at all, for the walker and for heads: what was found once is replayed, and with --long more is looked for.

`corpus/` holds inputs which together go every way through the code that fuzzing has found, as few and as small as that can be done
(each is named by the start of its SHA-1). A finding becomes a unit test of its module, and stays here.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CORPUS = HERE / "corpus"
DICTIONARY = HERE / "heads.dict"
LARGEST = 1500  # bytes of an input
SECONDS = 20  # of guided fuzzing, per target
EXAMPLES = 5000  # of hypothesis, per target
PIECES = [line.split('"')[1].encode("ascii").decode("unicode_escape").encode("latin-1") for line in DICTIONARY.read_text().splitlines()[1:]]

FUZZED = pytest.mark.parametrize("name", TARGETS)


def corpus(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("file", [pytest.param(file, id=f"{name}-{file.name}") for name in TARGETS for file in corpus(name)])
def test_what_was_found_once_is_replayed(file: Path) -> None:
    data = file.read_bytes()
    assert file.name == sha1(data, usedforsecurity=False).hexdigest()[:12]
    assert len(data) <= LARGEST
    TARGETS[file.parent.name](data)


@FUZZED
def test_the_targets_take_any_bytes_of_any_length(name: str) -> None:
    for size in range(20):
        TARGETS[name](bytes(size))
        TARGETS[name](b"\xff" * size)


def mutations(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of the corpus with pieces put in, taken out and changed, or two of them in one."""
    known = st.sampled_from([file.read_bytes() for file in corpus(name)])
    pieces = st.binary(max_size=4) if name == "walker" else st.binary(max_size=2) | st.sampled_from(PIECES)
    edits = st.lists(st.tuples(st.integers(0, LARGEST), st.integers(0, 8), pieces), max_size=6)
    return st.binary(max_size=200) | st.builds(edited, known, edits) | st.builds(spliced, known, known, st.integers(0, LARGEST))


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Each edit: at this place, take out so many bytes, and put these in."""
    for place, out, piece in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + out :]
    return data


def spliced(head: bytes, tail: bytes, place: int) -> bytes:
    return head[: place % (len(head) + 1)] + tail[place % (len(tail) + 1) :]


@pytest.mark.long
@pytest.mark.timeout(300)
@FUZZED
def test_no_mutation_of_the_corpus_is_read_as_no_oracle_reads_it(name: str) -> None:
    target: Callable[[bytes], None] = TARGETS[name]

    @given(mutations(name))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def check(data: bytes) -> None:
        target(data)

    check()


if importlib.util.find_spec("atheris"):  # there is none for some Pythons and machines: see deploy/lock/fuzz.txt

    @pytest.mark.long
    @pytest.mark.timeout(180)
    @FUZZED
    def test_fuzzing_that_is_guided_by_coverage_finds_nothing(name: str, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.fuzz.guided", name, f"-max_total_time={SECONDS}", f"-max_len={LARGEST}", "-timeout=20"]
        command += [f"-dict={DICTIONARY}", f"-artifact_prefix={tmp_path}/", "-rss_limit_mb=1024", "-print_final_stats=1"]
        (tmp_path / "found").mkdir()
        done = subprocess.run([*command, tmp_path / "found", CORPUS / name], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        findings = [(file.name, file.read_bytes()) for file in tmp_path.iterdir() if file.is_file()]
        assert findings == [], done.stderr[-2000:]
        assert done.returncode == 0, done.stderr[-2000:]
        [runs] = [int(line.split()[1]) for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        sys.stdout.write(f"{name}: {runs} inputs\n")
        assert runs > len(corpus(name))
