"""The command line: what it prints, where, and its exit codes. How `run` runs is told in the tests of the gate."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli import main

GOOD = "upstreams: {game: {url: ws://h}}\n"
NOTE = "note: identity.secret is not set: digests of tokens are keyed with a documented secret\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gate.yaml"


def test_check_says_ok_and_counts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + "identity: {secret: s}\nrules: [{name: a, per: ip, connections: 1}, {name: b, per: ip, messages: 1/s}]")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: ok: 1 upstreams, 1 routes, 2 rules\n", "")


def test_check_notes_a_missing_secret(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().err == f"{file}: {NOTE}"


def test_check_replaces_variables_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("upstreams: {game: {url: 'ws://${GAME_HOST}'}}")
    assert main(["check", str(file)]) == 1
    monkeypatch.setenv("GAME_HOST", "h")
    assert main(["check", str(file)]) == 0


@pytest.mark.parametrize("command", [["check"], ["run", "--config"]])
def test_every_mistake_is_printed_on_standard_error_and_nothing_starts(
    command: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("upstreams: {game: {url: x}}\nmode: x\nmore: x\n")
    assert main([*command, str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.removeprefix(f"{file}:").split(": ")[:2] for line in err.splitlines()] == [
        ["1:25", "upstreams.game.url"],
        ["2:7", "mode"],
        ["3:1", "more"],
    ]


def test_run_tells_mistakes_in_flags_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert main(["run", "--config", str(file), "--listen", "x", "--admin", "x", "--upstream", "x", "--store", "x", "--shadow"]) == 1
    assert [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()] == ["--listen", "--admin", "--upstream", "--store"]


def test_run_needs_a_file_or_an_upstream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 1
    assert capsys.readouterr() == ("", "wsgate run: give --config FILE, or --upstream URL to run on the defaults\n")


def test_run_without_a_file_reads_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--upstream", "x"]) == 1
    assert capsys.readouterr().err.startswith("--upstream: expected a URL such as ")


def test_version_names_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert re.fullmatch(
        rf"wsgate {re.escape(__version__)} \(Python 3\.[0-9.]+\S*, aiohttp [0-9.]+\S*, uvloop [0-9.]+\S*\)\n", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "arguments", [[], ["x"], ["check"], ["check", "a", "b"], ["run", "--conf", "x"], ["run", "--listen"], ["run", "x"], ["version", "x"]]
)
def test_what_cannot_be_understood_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: wsgate")


def test_the_package_is_the_program_and_check_loads_nothing_that_runs_the_gate(file: Path) -> None:
    file.write_text(GOOD)
    whole = subprocess.run([sys.executable, "-m", "proxy", "check", str(file)], capture_output=True, text=True, check=False)
    assert (whole.returncode, whole.stderr) == (0, f"{file}: {NOTE}")
    loaded = "import sys; from proxy.cli import main; main(['version']); print([name for name in ('asyncio', 'aiohttp', 'uvloop') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.endswith("\n[]\n")


def test_a_file_name_that_is_not_utf_8_is_still_a_file_name(tmp_path: Path) -> None:
    file = bytes(tmp_path) + b"/\xff.yaml"
    Path(file.decode(errors="surrogateescape")).write_text(GOOD)
    for arguments in ([b"check", file], [b"check", file + b"x"]):
        ended = subprocess.run([sys.executable.encode(), b"-m", b"proxy", *arguments], capture_output=True, check=False)
        assert b"Traceback" not in ended.stderr
