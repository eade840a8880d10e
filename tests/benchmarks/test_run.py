"""The command, from its arguments to its files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.subjects import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
DEV = [sys.executable, str(ROOT / "deploy" / "dev.py"), "bench"]


def test_measures_are_chosen_by_the_start_of_their_key_and_subjects_by_name() -> None:
    plan, subjects = run.choose(run.parse(["--quick", "--only", "round-trip-64-", "--only", "nginx", "--only", "wsgate"]))
    assert [measure.key for measure in plan] == ["round-trip-64-100"]
    assert subjects == ["nginx", "wsgate"]


@pytest.mark.parametrize("arguments", [["--quick"], []], ids=["quick", "full"])
def test_upgrades_are_measured_on_first_and_on_reused_connections(arguments: list[str]) -> None:
    keys = {measure.key for measure in run.choose(run.parse(arguments))[0]}
    assert keys >= {"admitted", "refused", "admitted-reused", "refused-reused"}


def test_a_choice_that_leaves_nothing_names_what_there_is() -> None:
    with pytest.raises(BenchmarkError, match=r"nothing to measure. Subjects: direct, nginx, .* Measures: round-trip"):
        run.choose(run.parse(["--only", "round-trips"]))


def test_measures_that_read_one_load_share_its_run() -> None:
    plan, _ = run.choose(run.parse(["--quick"]))
    groups = [[measure.key for measure in group] for group in run.by_load(plan)]
    assert ["latency-p50", "latency-p99"] in groups
    assert ["admitted"] in groups
    assert ["refused"] in groups


def test_saved_results_are_shown_again_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, plot = tmp_path / "a.json", tmp_path / "a.svg"
    saved.write_text(
        json.dumps(
            {
                "facts": {"machine": "two cores"},
                "measures": [{"key": "idle", "title": "idle tunnel", "unit": "KiB RSS"}],
                "subjects": ["nginx", "wsgate"],
                "samples": [{"measure": "idle", "subject": "wsgate", "round": 0, "value": 3.0}],
                "failures": [],
            }
        )
    )
    scratch = tmp_path / "scratch"
    assert run.main(["--from", str(saved), "--plot", str(plot), "--scratch", str(scratch)]) == 0
    assert json.loads((scratch / "results.json").read_text()) == json.loads(saved.read_text())
    assert "| idle tunnel | KiB RSS | - | 3.00 |" in capsys.readouterr().out
    assert plot.read_text().startswith("<svg")


def test_samples_and_plot_are_saved_without_being_asked_for(tmp_path: Path) -> None:
    saved = tmp_path / "a.json"
    saved.write_text(json.dumps({"facts": {}, "measures": [], "subjects": [], "samples": [], "failures": []}))
    assert run.main(["--from", str(saved), "--scratch", str(tmp_path)]) == 0
    assert (tmp_path / "results.json").exists()
    assert (tmp_path / "results.svg").read_text().startswith("<svg")


def test_without_a_compiler_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--quick", "--cc", str(tmp_path / "cc"), "--scratch", str(tmp_path)]) == 1
    assert "no C compiler" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_small_run_measures_gate_and_peers(tmp_path: Path) -> None:
    file, plot = tmp_path / "results.json", tmp_path / "results.svg"
    chosen = ["--only", "round-trip-64-", "--only", "refused", "--only", "idle", "--only", "nginx", "--only", "HAProxy", "--only", "wsgate"]
    done = subprocess.run([*DEV, "--quick", *chosen, "--json", file, "--plot", plot], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert {(sample["measure"], sample["subject"]) for sample in results["samples"]} == {
        (measure, subject)
        for measure in ("round-trip-64-100", "refused", "refused-reused", "idle")
        for subject in ("nginx", "HAProxy", "wsgate")
    }
    assert all(sample["value"] > 0 for sample in results["samples"])
    assert "CPU per metered round trip" in done.stdout
    assert "<svg" in plot.read_text()


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_it_started_ends_with_it(number: signal.Signals, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with subprocess.Popen([*DEV, "--quick", "--scratch", str(scratch), "--only", "wsgate"], stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if "round 1 of 1" in line:
                break
        while not (scratch / "wsgate.yaml").exists():
            assert bench.poll() is None
        bench.send_signal(number)
        assert bench.wait(20) == 130
    left = [line for line in running() if str(scratch) in line]
    assert left == []


def running() -> list[str]:
    """All command lines of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found
