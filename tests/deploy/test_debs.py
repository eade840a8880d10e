"""deploy/debs.py against a mirror in a folder, with real packages: apt-get and dpkg-deb are Debian's own, as everywhere it fetches."""

import functools
import gzip
import hashlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_spec = importlib.util.spec_from_file_location("debs", ROOT / "deploy" / "debs.py")
assert _spec is not None
assert _spec.loader is not None
debs = importlib.util.module_from_spec(_spec)
sys.modules["debs"] = debs
_spec.loader.exec_module(debs)

ARCHITECTURE = debs.debian_architecture() or "amd64"
WHO_AM_I = '#!/bin/sh\necho "$$ $LD_LIBRARY_PATH $*"\n'


# --- a mirror ---


@dataclass
class Mirror:
    """A folder that is served, and what was asked for."""

    folder: Path
    asked: list[str]

    def publish(
        self, name: str, version: str = "1", section: str = "httpd", depends: str = "", program: str | None = None
    ) -> tuple[str, str]:
        """Build a package and put it into the pool. Its path there, and its SHA-256."""
        contents = self.folder / "build" / name
        (contents / "DEBIAN").mkdir(parents=True, exist_ok=True)
        fields = {
            "Package": name,
            "Version": version,
            "Architecture": ARCHITECTURE,
            "Maintainer": "us <us@example.com>",
            "Section": section,
        }
        fields |= {"Depends": depends} if depends else {}
        fields |= {"Description": "a package"}
        (contents / "DEBIAN" / "control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
        if program is not None:
            (contents / program).parent.mkdir(parents=True, exist_ok=True)
            (contents / program).write_text(WHO_AM_I)
            (contents / program).chmod(0o755)
        path = f"pool/main/{name}_{version}_{ARCHITECTURE}.deb"
        (self.folder / "pool" / "main").mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", contents, self.folder / path], capture_output=True, check=True)
        return path, hashlib.sha256((self.folder / path).read_bytes()).hexdigest()

    def index(self) -> None:
        """Write what apt-get update reads, for everything in the pool."""
        paragraphs = []
        for package in sorted(self.folder.glob("pool/main/*.deb")):
            control = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout.strip()
            data = package.read_bytes()
            where = f"Filename: pool/main/{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}"
            paragraphs.append(f"{control}\n{where}\n")
        plain = "\n".join(paragraphs).encode()
        for suite in ("bookworm", "bookworm-updates", "bookworm-security"):
            top = self.folder / "dists" / suite
            (top / f"main/binary-{ARCHITECTURE}").mkdir(parents=True, exist_ok=True)
            sums = "SHA256:\n"
            for data, file in ((plain, "Packages"), (gzip.compress(plain), "Packages.gz")):
                (top / f"main/binary-{ARCHITECTURE}/{file}").write_bytes(data)
                sums += f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-{ARCHITECTURE}/{file}\n"
            (top / "Release").write_text(
                f"Suite: {suite}\nCodename: {suite}\nArchitectures: {ARCHITECTURE}\nComponents: main\n"
                f"Date: Sun, 01 Jan 2023 00:00:00 UTC\n{sums}"
            )

    def packages_asked(self) -> list[str]:
        return [path for path in self.asked if path.endswith(".deb")]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Unsigned, as it cannot have Debian's key; that apt checks signatures is apt's affair."""
    served = Mirror(tmp_path / "mirror", [])
    served.folder.mkdir()

    class Answers(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Answers, directory=str(served.folder))) as server:
        for name in ("WSGATE_DEBIAN_MIRROR", "WSGATE_DEBIAN_SECURITY_MIRROR"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(debs, "TRUST", "[trusted=yes]")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "a home"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "debian.json"
    monkeypatch.setattr(debs, "LOCK", path)
    return path


def write_lock(lock: Path, **bundles: dict[str, str]) -> None:
    lock.write_text(json.dumps({name: {ARCHITECTURE: files} for name, files in bundles.items()}))


# --- fetching and unpacking ---


def test_a_program_comes_with_its_libraries_and_takes_the_place_of_its_script(mirror: Mirror, home: Path, lock: Path) -> None:
    write_lock(lock, nginx=dict([mirror.publish("nginx", program="usr/sbin/nginx"), mirror.publish("libfoo", section="libs")]))
    program = debs.provide(["nginx"], home)["nginx"]
    with subprocess.Popen([program, "-c", "a b"], stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=10)
    pid, rest = output.split(" ", 1)
    assert int(pid) == process.pid
    root = program.parents[1]
    triplet = f"{os.uname().machine}-linux-gnu"
    assert rest.startswith(f"{root}/usr/lib/{triplet}:{root}/lib/{triplet}")
    assert rest.endswith(" -c a b\n")


def test_a_program_that_needs_settings_gets_them(mirror: Mirror, home: Path, lock: Path) -> None:
    write_lock(lock, chromium=dict([mirror.publish("chromium", program="usr/lib/chromium/chromium")]))
    program = debs.provide(["chromium"], home)["chromium"]
    root = program.parents[1]
    (root / "usr/lib/chromium/chromium").write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH|$FONTCONFIG_PATH|$XDG_DATA_HOME"\n')
    libraries, *rest = subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip().split("|")
    lib = f"{root}/usr/lib/{os.uname().machine}-linux-gnu"
    assert libraries.startswith(f"{lib}/pulseaudio:{lib}:")
    assert rest == [f"{root}/etc/fonts", f"{root}/usr/share"]


def test_what_is_unpacked_is_not_asked_for_again(mirror: Mirror, home: Path, lock: Path) -> None:
    write_lock(lock, nginx=dict([mirror.publish("nginx", program="usr/sbin/nginx")]))
    assert not debs.is_ready(["nginx"], home)
    first = debs.provide(["nginx"], home)
    assert debs.is_ready(["nginx"], home)
    assert debs.provide(["nginx"], home) == first
    assert len(mirror.packages_asked()) == 1


def test_only_the_bundles_that_are_asked_for_are_fetched(mirror: Mirror, home: Path, lock: Path) -> None:
    nginx, haproxy = mirror.publish("nginx", program="usr/sbin/nginx"), mirror.publish("haproxy", program="usr/sbin/haproxy")
    write_lock(lock, nginx=dict([nginx]), haproxy=dict([haproxy]))
    debs.provide(["haproxy"], home)
    assert mirror.packages_asked() == [f"/{haproxy[0]}"]


def test_another_lock_is_another_place_and_the_old_one_goes(mirror: Mirror, home: Path, lock: Path) -> None:
    write_lock(lock, nginx=dict([mirror.publish("nginx", program="usr/sbin/nginx")]))
    old = debs.provide(["nginx"], home)["nginx"]
    write_lock(lock, nginx=dict([mirror.publish("nginx", version="2", program="usr/sbin/nginx")]))
    new = debs.provide(["nginx"], home)["nginx"]
    assert new.exists()
    assert not old.exists()


def test_a_set_up_that_was_cut_short_is_done_anew(mirror: Mirror, home: Path, lock: Path) -> None:
    files = dict([mirror.publish("nginx", program="usr/sbin/nginx")])
    write_lock(lock, nginx=files)
    left_over = debs.place(home, "nginx", files).with_name(debs.place(home, "nginx", files).name + ".new")
    (left_over / "usr").mkdir(parents=True)
    (left_over / "half").touch()
    program = debs.provide(["nginx"], home)["nginx"]
    assert not (program.parents[1] / "half").exists()
    assert not left_over.exists()


# --- a mirror that has moved on ---


def test_a_version_that_the_mirror_has_dropped_is_replaced_by_its_newest_with_a_warning(
    mirror: Mirror, home: Path, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lock(lock, nginx=dict([mirror.publish("nginx", program="usr/sbin/nginx")]))
    next(mirror.folder.glob("pool/main/nginx_1_*")).unlink()
    mirror.publish("nginx", version="1+deb12u1", program="usr/sbin/nginx")
    mirror.index()
    program = debs.provide(["nginx"], home)["nginx"]
    assert subprocess.run([program], capture_output=True, check=False).returncode == 0
    warning = capsys.readouterr().err
    assert "has no nginx_1_" in warning
    assert "took nginx_1+deb12u1_" in warning
    assert "index alone" in warning


def test_a_file_with_another_digest_is_never_used(mirror: Mirror, home: Path, lock: Path) -> None:
    path, _ = mirror.publish("nginx", program="usr/sbin/nginx")
    write_lock(lock, nginx={path: "0" * 64})
    with pytest.raises(debs.DebsError, match=r"apt-get .*WSGATE_DEBIAN_MIRROR"):  # there is no index either
        debs.provide(["nginx"], home)
    assert not debs.is_ready(["nginx"], home)
    assert not list(home.glob("cache/debian/*.deb"))


def test_a_mirror_that_is_not_there_is_named_with_the_way_out(home: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGATE_DEBIAN_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("WSGATE_DEBIAN_SECURITY_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(debs, "RETRIES", 0)
    write_lock(lock, nginx={"pool/main/nginx.deb": "0" * 64})
    with pytest.raises(debs.DebsError, match=r"127\.0\.0\.1.*set WSGATE_DEBIAN_MIRROR"):
        debs.provide(["nginx"], home)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pool/main/n/nginx.deb", "http://m/debian/pool/main/n/nginx.deb"),
        ("pool/updates/main/n/nginx.deb", "http://s/pool/updates/main/n/nginx.deb"),
    ],
)
def test_security_updates_come_from_their_own_mirror(monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.setenv("WSGATE_DEBIAN_MIRROR", "http://m/debian/")
    monkeypatch.setenv("WSGATE_DEBIAN_SECURITY_MIRROR", "http://s")
    assert debs.address(path) == expected


# --- where nothing is fetched ---


@pytest.mark.parametrize("system", [{"ID": "fedora", "VERSION_ID": "40"}, {"ID": "debian", "VERSION_ID": "13"}, {}])
def test_elsewhere_than_on_debian_12_programs_are_taken_from_the_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: dict[str, str]
) -> None:
    monkeypatch.setattr(debs.platform, "freedesktop_os_release", lambda: system)
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text(WHO_AM_I)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(debs, "SERVER_FOLDERS", ())
    assert debs.is_ready(["redis-server"], home)
    assert debs.provide(["redis-server"], home) == {"redis-server": program}
    with pytest.raises(debs.DebsError, match=r"nginx is needed and not on PATH: install it .*only on Debian 12, x86_64 and aarch64"):
        debs.provide(["nginx"], home)


def test_an_unknown_machine_or_system_is_not_debian_12(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debs.platform, "machine", lambda: "riscv64")
    assert debs.debian_architecture() is None

    def no_such_file() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(debs.platform, "freedesktop_os_release", no_such_file)
    assert debs.debian_architecture() is None


def test_an_unknown_program_is_told_which_are_known(home: Path) -> None:
    with pytest.raises(debs.DebsError, match=r"no program 'postgres' here, only chromium, curl, haproxy, nginx, .*redis-server"):
        debs.provide(["postgres"], home)


# --- the lock ---


def test_the_lock_has_a_digest_for_everything_and_no_address() -> None:
    locked = json.loads(debs.LOCK.read_text())
    assert locked.keys() == debs.BUNDLES.keys()
    for name, bundle in debs.BUNDLES.items():
        assert locked[name].keys() == set(debs.ARCHITECTURES.values())
        for files in locked[name].values():
            assert set(bundle.packages) <= {debs.package_of(path) for path in files}
            assert all(path.startswith("pool/") and len(sha256) == 64 for path, sha256 in files.items())


def test_the_lock_follows_libraries_but_not_what_a_system_service_needs(mirror: Mirror, home: Path) -> None:
    mirror.publish("nginx", depends="libpresent, libfoo (>= 1) | libother, iproute2")
    mirror.publish("libfoo", section="libs", depends="libbar")
    mirror.publish("libbar", section="libs", depends="libfoo, data")
    mirror.publish("libpresent", section="libs", depends="libnever")
    for name in ("libnever", "libother"):
        mirror.publish(name, section="libs")
    mirror.publish("iproute2", section="net", depends="libnever")
    mirror.publish("data", section="misc")
    mirror.index()
    apt = debs.Apt(home, ARCHITECTURE)
    apt.update()
    packages = debs.with_libraries(apt, ["nginx"], present={"libpresent"})
    assert [package.name for package in packages] == ["libbar", "libfoo", "nginx"]
    assert packages[2].path == f"pool/main/nginx_1_{ARCHITECTURE}.deb"
    assert packages[2].sha256 == hashlib.sha256((mirror.folder / packages[2].path).read_bytes()).hexdigest()


def test_an_index_is_read_in_paragraphs_without_continuations() -> None:
    text = "Package: a\nDepends: b: c\nDescription: x\n more: of it\n\nPackage: d\n\n\n"
    assert debs.parse_index(text) == [{"Package": "a", "Depends": "b: c", "Description": "x"}, {"Package": "d"}]


# --- the real packages ---

HELLO = '#include <stdio.h>\n#include <sys/epoll.h>\nint main(void) { printf("%d", (int)sizeof(struct epoll_event)); return 0; }\n'


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_locked_programs_start(tmp_path: Path) -> None:
    """From the real mirror, through the command that fixtures call too."""
    names = [
        "nginx",
        "haproxy",
        "redis-server",
        "redis-cli",
        "prometheus",
        "promtool",
        "curl",
        "chromium",
        "tcc",
    ]  # tcc, last, is started below
    command = [sys.executable, ROOT / "deploy" / "dev.py", "fetch", *names]
    paths = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    said = {}
    for name, path in zip(names[:-1], paths, strict=False):
        flag = "-v" if name in ("nginx", "haproxy") else "--version"
        done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
        said[name] = (done.returncode, done.stdout + done.stderr)
    assert all(code == 0 for code, _ in said.values()), said
    source, program = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text(HELLO)
    subprocess.run([paths[-1], "-o", program, source], check=True)
    expected = 12 if os.uname().machine == "x86_64" else 16  # packed there, and only there
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == str(expected)
