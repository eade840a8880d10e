"""deploy/dev.py, piece by piece: real processes, pipes, ports and a real HTTP server that plays the package index."""

import contextlib
import hashlib
import http.client
import http.server
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "deploy" / "dev.py"

_spec = importlib.util.spec_from_file_location("dev", DEV)
assert _spec is not None
assert _spec.loader is not None
dev = importlib.util.module_from_spec(_spec)
sys.modules["dev"] = dev
_spec.loader.exec_module(dev)


# --- an index of packages ---


@dataclass
class Index:
    """What it serves by path, how often it breaks first, and what it was asked for."""

    url: str
    pages: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def index() -> Iterator[Index]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append((self.path, self.headers["Authorization"]))
            if served.failures:
                self.send_error(served.failures.pop(0))
            elif self.path not in served.pages:
                self.send_error(404)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(served.pages[self.path])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        served = Index(f"http://127.0.0.1:{server.server_port}/simple")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> dev.Home:
    (tmp_path / "home").mkdir()
    return dev.Home(tmp_path / "home")


def wheel_of_uv(program: bytes) -> tuple[dev.Wheel, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"uv-{dev.UV_VERSION}.data/scripts/uv", program)
    return dev.Wheel("uv.whl", hashlib.sha256(buffer.getvalue()).hexdigest()), buffer.getvalue()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "part"),
    [
        ("linux", "x86_64", "glibc", "manylinux_2_17_x86_64"),
        ("linux", "AMD64", "glibc", "manylinux_2_17_x86_64"),
        ("linux", "x86_64", "", "musllinux_1_1_x86_64"),
        ("linux", "aarch64", "glibc", "manylinux_2_28_aarch64"),
        ("linux", "arm64", "musl", "musllinux_1_1_aarch64"),
        ("darwin", "x86_64", "", "macosx_10_12_x86_64"),
        ("darwin", "arm64", "", "macosx_11_0_arm64"),
    ],
)
def test_each_platform_gets_its_own_wheel(system: str, machine: str, libc: str, part: str) -> None:
    assert part in dev.wheel_for(system, machine, libc).filename


@pytest.mark.parametrize("platform", [("linux", "riscv64", "glibc"), ("sunos5", "sun4v", "")])
def test_an_unknown_platform_is_told_which_are_known(platform: tuple[str, str, str]) -> None:
    with pytest.raises(dev.SetupError, match=r"only for .*linux aarch64, linux x86_64"):
        dev.wheel_for(*platform)


def test_a_wheel_with_the_pinned_digest_is_unpacked_and_can_be_started(home: dev.Home) -> None:
    wheel, data = wheel_of_uv(b"#!/bin/sh\necho here\n")
    dev.unpack_uv(wheel, data, home.uv)
    assert subprocess.run([home.uv], capture_output=True, check=True).stdout == b"here\n"
    assert [file.name for file in home.path.iterdir()] == [home.uv.name]


def test_a_wheel_with_another_digest_is_refused_and_leaves_nothing(home: dev.Home) -> None:
    wheel, data = wheel_of_uv(b"#!/bin/sh\n")
    with pytest.raises(dev.SetupError, match="not the file that we know"):
        dev.unpack_uv(wheel, data + b"\0", home.uv)
    assert list(home.path.iterdir()) == []


def test_uv_from_an_index_that_serves_another_file_is_refused(home: dev.Home, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = dev.wheel_for(sys.platform, os.uname().machine, dev.platform.libc_ver()[0])
    index.pages["/simple/uv/"] = json.dumps({"files": [{"filename": wheel.filename, "url": f"../../files/{wheel.filename}"}]}).encode()
    index.pages[f"/files/{wheel.filename}"] = wheel_of_uv(b"something else")[1]
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    with pytest.raises(dev.SetupError, match="not the file that we know"):
        dev.fetch_uv(home)
    assert not home.uv.exists()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "https://pypi.org/simple"),
        ({"PIP_INDEX_URL": "https://a/simple/"}, "https://a/simple"),
        ({"PIP_INDEX_URL": "https://a/simple", "UV_INDEX_URL": "https://b/simple"}, "https://b/simple"),
        ({"UV_INDEX_URL": "https://b/simple", "UV_DEFAULT_INDEX": "mirror=https://c/simple"}, "https://c/simple"),
        ({"UV_DEFAULT_INDEX": ""}, "https://pypi.org/simple"),
    ],
)
def test_the_index_is_the_one_that_the_user_names(environ: dict[str, str], expected: str) -> None:
    assert dev.index_url(environ) == expected


@pytest.mark.parametrize(
    ("name", "value", "handed_on"),
    [
        ("PIP_INDEX_URL", "https://a/simple/", "https://a/simple"),
        ("UV_DEFAULT_INDEX", "mirror=https://c/simple", "mirror=https://c/simple"),
        ("PIP_INDEX_URL", "", None),
    ],
)
def test_uv_gets_the_same_index(home: dev.Home, monkeypatch: pytest.MonkeyPatch, name: str, value: str, handed_on: str | None) -> None:
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_PYTHON", "2.7")
    environ = dev.uv_environ(home)
    assert environ.get("UV_DEFAULT_INDEX") == handed_on
    assert environ["UV_CACHE_DIR"].startswith(str(home.path))
    assert "UV_PYTHON" not in environ


@pytest.mark.parametrize(
    "listing",
    [
        b'{"files": [{"url": "https://f/other.whl"}, {"url": "https://f/a%2Bb/uv%2B1.whl"}]}',
        b"<a href=\"https://f/other.whl#sha256=00\">other</a> <a href='https://f/a%2Bb/uv%2B1.whl#sha256=11&amp;x'>uv</a>",
    ],
)
def test_both_forms_of_an_index_page_are_read(listing: bytes) -> None:
    assert dev.find_link(listing, "https://i/simple/uv/", "uv+1.whl").startswith("https://f/a%2Bb/uv%2B1.whl")


def test_a_link_may_be_relative_and_may_be_missing() -> None:
    assert dev.find_link(b'<a href="../../f/uv.whl">', "https://i/simple/uv/", "uv.whl") == "https://i/f/uv.whl"
    with pytest.raises(dev.SetupError, match=r"the package index i has no uv\.whl"):
        dev.find_link(b'{"files": []}', "https://user:secret@i/simple/uv/", "uv.whl")


def test_credentials_go_into_a_header_and_only_to_their_own_host(index: Index) -> None:
    with_secret = index.url.replace("127.0.0.1", "me:s%40cret@127.0.0.1")
    index.pages["/simple/uv/"] = b"page"
    assert dev.download(f"{with_secret}/uv/") == b"page"
    assert index.asked == [("/simple/uv/", "Basic bWU6c0BjcmV0")]
    assert "s%40cret" in dev.with_credentials_of(with_secret, index.url + "/file")
    assert dev.with_credentials_of(with_secret, "http://elsewhere/file") == "http://elsewhere/file"
    with pytest.raises(dev.SetupError) as caught:
        dev.download(f"{with_secret}/nothing/")
    assert "cret" not in str(caught.value)


def test_a_network_that_fails_once_is_tried_again(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.pages["/simple/uv/"] = b"page"
    index.failures.append(503)
    assert dev.download(f"{index.url}/uv/") == b"page"
    assert "HTTP status 503; trying again" in capsys.readouterr().err


def test_a_missing_page_is_not_tried_again(index: Index) -> None:
    with pytest.raises(dev.SetupError, match="HTTP status 404"):
        dev.download(f"{index.url}/uv/")
    assert len(index.asked) == 1


# --- stamps and the lock ---


@pytest.fixture
def environment(home: dev.Home, tmp_path: Path) -> dev.Environment:
    """Set up, as far as its stamp and its interpreter tell."""
    lock = tmp_path / "lock.txt"
    lock.write_text("aiohttp==1\n")
    environment = dev.Environment(home.path / "runtime", lock)
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    dev.write_stamp(environment.path, environment.stamp())
    return environment


def test_what_is_set_up_is_left_alone(home: dev.Home, environment: dev.Environment) -> None:
    assert environment.is_ready()
    dev.set_up(home, environment)
    assert not (home.path / "lock").exists()


def test_another_lock_file_is_another_set_up(environment: dev.Environment) -> None:
    environment.lock.write_text("aiohttp==2\n")
    assert not environment.is_ready()


def test_another_interpreter_is_another_set_up(environment: dev.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version", "3.99.0 (one that was just upgraded)")
    assert not environment.is_ready()


def test_a_set_up_without_its_interpreter_or_stamp_is_not_ready(environment: dev.Environment) -> None:
    environment.python.unlink()
    assert not environment.is_ready()
    environment.python.touch()
    assert environment.is_ready()
    (environment.path / "stamp").unlink()
    assert not environment.is_ready()


def fake_uv(home: dev.Home, script: str) -> None:
    """A stand-in for the uv program: the tests have no network."""
    home.uv.write_text(f"#!/bin/sh\n{script}\n")
    home.uv.chmod(0o755)


def test_a_set_up_that_fails_leaves_no_stamp(home: dev.Home, environment: dev.Environment) -> None:
    environment.lock.write_text("aiohttp==2\n")
    fake_uv(home, "exit 3")
    with pytest.raises(dev.SetupError, match="uv failed"):
        dev.set_up(home, environment)
    assert not (environment.path / "stamp").exists()


def test_a_set_up_makes_the_command_and_writes_its_stamp_last(home: dev.Home, environment: dev.Environment) -> None:
    environment.lock.write_text("aiohttp==2\n")
    site_packages = environment.path / "lib" / "python3.11" / "site-packages"
    fake_uv(home, f"test ! -e {environment.path}/stamp && mkdir -p {site_packages} && echo $* >> {home.path}/calls")
    dev.set_up(home, environment)
    calls = (home.path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "--require-hashes" in calls[1]
    assert (site_packages / "wsgate.pth").read_text() == f"{ROOT}\n"
    assert environment.is_ready()


def test_a_fuzzer_is_installed_once_and_only_where_one_was_built(home: dev.Home, environment: dev.Environment) -> None:
    fake_uv(home, f"echo $* >> {home.path}/calls")
    dev.set_up_fuzzer(home, environment, "")
    assert not (home.path / "calls").exists()
    for _ in range(2):
        dev.set_up_fuzzer(home, environment, "glibc")
    [call] = (home.path / "calls").read_text().splitlines()
    assert call.endswith("fuzz.txt")
    assert "--require-hashes" in call


def test_the_command_starts_with_a_path_that_holds_spaces_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "it's a folder" / ("long" * 40)
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").symlink_to(sys.executable)
    (path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    environment = dev.Environment(path, tmp_path / "lock.txt")
    dev.link_project(environment)
    package = tmp_path / "path" / "proxy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 7\n")
    done = subprocess.run(
        [environment.gate, "run", "a b"],
        env={"PATH": "/bin", "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("['run', 'a b']\n", 7)


def test_two_set_ups_at_once_take_turns_even_if_the_first_script_is_killed(home: dev.Home) -> None:
    """Its installer holds the lock too, so nobody starts beside it while it still writes."""
    holder = f"""
import importlib.util, subprocess, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("dev", {str(DEV)!r})
dev = sys.modules["dev"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
with dev.Home(Path({str(home.path)!r})).locked() as lock_fd:
    installer = subprocess.Popen(["sleep", "0.6"], pass_fds=[lock_fd], stdout=subprocess.DEVNULL)
    print("locked", flush=True)
    installer.wait()
"""
    first = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        began = time.monotonic()
        first.kill()
    with home.locked():
        assert time.monotonic() - began > 0.3


def test_a_folder_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(dev.SetupError, match="set WSGATE_DEV_HOME"), dev.Home(tmp_path / "file" / "home").locked():
        pass


def test_the_private_folder_is_in_the_checkout_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WSGATE_DEV_HOME", raising=False)
    assert dev.home_folder().path == ROOT / ".dev"
    monkeypatch.setenv("WSGATE_DEV_HOME", str(tmp_path))
    assert dev.home_folder().path == tmp_path


# --- commands ---


def test_arguments_reach_the_gate_which_takes_the_place_of_the_script(tmp_path: Path) -> None:
    """A stand-in environment, whose wsgate prints what it got."""
    environment = dev.runtime_environment(dev.Home(tmp_path))
    environment.python.parent.mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    environment.gate.write_text("import os, sys\nprint(os.getpid(), sys.argv[1:])\nsys.exit(5)\n")
    dev.write_stamp(environment.path, environment.stamp())
    process = subprocess.Popen(
        [sys.executable, DEV, "run", "--config", "my file.yaml", "--help"],
        env={**os.environ, "WSGATE_DEV_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=10)
    assert output == f"{process.pid} ['run', '--config', 'my file.yaml', '--help']\n"
    assert process.returncode == 5


@pytest.mark.parametrize("arguments", [[], ["--long"]])
def test_the_whole_suite_must_cover_the_package(arguments: list[str]) -> None:
    assert "--cov-fail-under=95" in dev.suite_options(arguments)


def test_the_whole_suite_is_shared_out_among_processes() -> None:
    assert dev.suite_options(["--long"])[:4] == ["-p", "tests.lanes", "-n", "4"]


def test_what_python_compiles_for_the_tests_is_kept_in_the_private_folder(
    home: dev.Home, environment: dev.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "node_folder", lambda environment: environment.path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environ = dev.tool_environ(home, environment)
    assert environ["PYTHONPYCACHEPREFIX"] == str(home.path / "pycache")
    assert "PYTHONDONTWRITEBYTECODE" not in environ


@pytest.mark.parametrize("arguments", [["tests/wire"], ["--long", "-k", "walker"]])
def test_a_part_of_the_suite_need_not(arguments: list[str]) -> None:
    assert dev.suite_options(arguments) == []


def test_without_a_known_command_the_usage_is_printed() -> None:
    for arguments in ([], ["biuld"]):
        done = subprocess.run([sys.executable, DEV, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "dev.py run [ARGS]" in done.stderr


def test_the_locks_name_no_address_and_a_digest_for_everything() -> None:
    for lock in ("runtime.txt", "dev.txt", "fuzz.txt"):
        text = (dev.LOCKS / lock).read_text()
        assert "://" not in text
        packages = [line for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))]
        assert packages
        assert all(line.endswith("\\") for line in packages)
    text = (dev.LOCKS / "package-lock.json").read_text()
    assert "resolved" not in text
    assert all("integrity" in package for name, package in json.loads(text)["packages"].items() if name)


def test_tests_run_with_the_very_packages_that_users_get() -> None:
    def versions(lock: str) -> set[str]:
        return {line.split()[0] for line in (dev.LOCKS / lock).read_text().splitlines() if "==" in line and not line.startswith("#")}

    assert versions("runtime.txt") <= versions("dev.txt")


# --- the demo ---


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_all_taken_ports_are_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        taken = {"the gate": one.getsockname(), "the gate's metrics": other.getsockname()}
        with pytest.raises(dev.SetupError) as caught:
            dev.demo_listener(("127.0.0.1", free_port()), taken)
        names = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, other)]
    assert f"{names[0]} for the gate (Address already in use), " in str(caught.value)
    assert f"{names[1]} for the gate's metrics" in str(caught.value)


def test_free_ports_are_left_free_but_for_the_games() -> None:
    game, gate = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    with dev.demo_listener(game, {"the gate": gate}) as listener:
        assert listener.getsockname() == game
        socket.create_server(gate).close()


STAND_IN_FOR_THE_GATE = f"""
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("dev", {str(DEV)!r})
dev = sys.modules["dev"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
listener = dev.listen_on(("127.0.0.1", 0))
dev.start_game(Path(sys.executable), listener)
print(listener.getsockname()[1], flush=True)
os.execvp("sleep", ["sleep", "60"])
"""


@contextlib.contextmanager
def gate_with_game() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that did what `dev.py run` does, and the game's port."""
    with subprocess.Popen([sys.executable, "-c", STAND_IN_FOR_THE_GATE], stdout=subprocess.PIPE, text=True) as gate:
        try:
            assert gate.stdout is not None
            yield gate, int(gate.stdout.readline())
        finally:
            gate.kill()


def page_of(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def ends_listening(port: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_game_ends_with_the_gate_however_that_ends(number: signal.Signals) -> None:
    with gate_with_game() as (gate, port):
        assert "<title>wsgate demo</title>" in page_of(port)
        gate.send_signal(number)
        gate.wait(5)
        assert ends_listening(port, within=5)


def test_a_game_that_has_not_finished_starting_ends_too() -> None:
    with gate_with_game() as (gate, port):
        gate.kill()
        assert ends_listening(port, within=5)
