"""Servers that tests and benchmarks need, out of Debian's own packages: without root, without a system service.

deploy/lock/debian.json names the packages of each bundle: the programs, and the libraries that they need beyond a Debian 12
"minbase", each by its path in the mirror's pool and its SHA-256. `provide` unpacks them to <folder>/NAME-DIGEST/ and puts a script
for each program into bin/ there, which finds the libraries and becomes the program (exec), so that signals and /proc reach it. A
bundle is unpacked beside its place and then renamed: what stands there is whole, and one look at the name tells that it is current.

apt-get and dpkg-deb do the work; every Debian has them, and neither asks for root here. They get a state and a cache of our own, and
of the machine's settings only its apt.conf (proxies). A locked file is taken for its digest alone. Mirrors drop a version when the next
one comes; then the newest is taken, for which the mirror's index vouches, signed by Debian and checked by apt, and a warning says so.

Elsewhere than on Debian 12, on x86_64 or aarch64, the programs are taken from PATH.

Mirrors: WSGATE_DEBIAN_MIRROR, WSGATE_DEBIAN_SECURITY_MIRROR. They and the functions' `folder` are all the state there is.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).parent / "lock" / "debian.json"
SUITE = "bookworm"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # what the kernel calls it -> what Debian calls it
APT_HELPER = "/usr/lib/apt/apt-helper"
TRUST = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"  # who signs the mirror's index
RETRIES = 3  # of a download that failed, which apt makes by itself
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on every user's PATH

Files = Mapping[str, str]  # path in the pool -> SHA-256


class DebsError(Exception):
    """What went wrong and what to do about it, in one line."""


@dataclass(frozen=True)
class Bundle:
    """Programs that come together. `packages`: those that are taken by name; their libraries are added when the lock is made."""

    packages: tuple[str, ...]
    programs: Mapping[str, str]  # name -> path in the unpacked packages
    arguments: str = ""  # for sh, in front of and behind the user's "$@"
    environment: str = ""  # for sh, in front of the program


# A C compiler without gcc's 60 MB. It knows the usual places only, so they are all named: headers, start files, the C library.
# glibc's headers take __attribute__((packed)), which it understands, away from compilers that they do not know; hence __clang__.
TCC_ARGUMENTS = " ".join(
    [
        '-D__clang__ -B"$lib/tcc" -nostdinc -I"$lib/tcc/include" -I"$root/usr/include/$triplet" -I"$root/usr/include"',
        '-nostdlib "$lib/crt1.o" "$lib/crti.o" "$@" "/lib/$triplet/libc.so.6" "$lib/tcc/libtcc1.a" "$lib/crtn.o"',
    ]
)

# Chromium without a desktop: fonts, and where fontconfig finds them; and where Debian keeps the parts of PulseAudio's library.
CHROMIUM_PACKAGES = ("chromium", "chromium-common", "fontconfig-config", "fonts-dejavu-core")
CHROMIUM_ENVIRONMENT = (
    'LD_LIBRARY_PATH="$lib/pulseaudio:$LD_LIBRARY_PATH" FONTCONFIG_PATH="$root/etc/fonts" XDG_DATA_HOME="$root/usr/share"'
)

BUNDLES = {
    "nginx": Bundle(("nginx",), {"nginx": "usr/sbin/nginx"}),
    "haproxy": Bundle(("haproxy",), {"haproxy": "usr/sbin/haproxy"}),
    "redis": Bundle(("redis-server", "redis-tools"), {"redis-server": "usr/bin/redis-server", "redis-cli": "usr/bin/redis-cli"}),
    "prometheus": Bundle(("prometheus",), {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"}),
    "tcc": Bundle(("tcc", "libc6-dev", "linux-libc-dev"), {"tcc": "usr/bin/tcc"}, TCC_ARGUMENTS),
    "curl": Bundle(("curl",), {"curl": "usr/bin/curl"}),
    "chromium": Bundle(CHROMIUM_PACKAGES, {"chromium": "usr/lib/chromium/chromium"}, environment=CHROMIUM_ENVIRONMENT),
}
BUNDLE_OF = {program: name for name, bundle in BUNDLES.items() for program in bundle.programs}


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


# --- what tests and benchmarks ask for --------------------------------------------------------------------------------------


def provide(programs: Iterable[str], home: Path) -> dict[str, Path]:
    """Where each of the programs is, after it was fetched if need be. The caller sees to it that it is alone. Raises DebsError."""
    names = list(programs)
    for name in names:
        if name not in BUNDLE_OF:
            raise DebsError(f"no program {name!r} here, only {', '.join(sorted(BUNDLE_OF))}")
    architecture = debian_architecture()
    if architecture is None:
        return {name: on_path(name) for name in names}
    locked = json.loads(LOCK.read_text())
    wanted = {BUNDLE_OF[name]: locked[BUNDLE_OF[name]][architecture] for name in names}
    places = {bundle: place(home, bundle, files) for bundle, files in wanted.items()}
    missing = {bundle: files for bundle, files in wanted.items() if not places[bundle].exists()}
    if missing:
        packages = fetch({path: sha256 for files in missing.values() for path, sha256 in files.items()}, architecture, home)
        for bundle, files in missing.items():
            unpack(bundle, [packages[path] for path in files], places[bundle])
    return {name: places[BUNDLE_OF[name]] / "bin" / name for name in names}


def is_ready(programs: Iterable[str], home: Path) -> bool:
    """Everything is unpacked, so that `provide` has nothing to fetch."""
    architecture = debian_architecture()
    if architecture is None:
        return True
    locked = json.loads(LOCK.read_text())
    bundles = {BUNDLE_OF[name] for name in programs if name in BUNDLE_OF}
    return all(place(home, bundle, locked[bundle][architecture]).exists() for bundle in bundles)


def debian_architecture() -> str | None:
    """Debian's name for this machine, or None if it is not one that the lock is for."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return None
    if (system.get("ID"), system.get("VERSION_ID")) != ("debian", "12") or not Path(APT_HELPER).exists():
        return None
    return ARCHITECTURES.get(platform.machine())


def on_path(program: str) -> Path:
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_FOLDERS]))
    if found is None:
        wanted = f"{program} is needed and not on PATH"
        raise DebsError(f"{wanted}: install it (it is fetched only on Debian 12, x86_64 and aarch64, with apt)")
    return Path(found)


def place(home: Path, bundle: str, files: Files) -> Path:
    """Its name tells what is in it: another lock, or another way to start its programs, is another place."""
    contents = json.dumps([sorted(files.items()), dict(BUNDLES[bundle].programs), BUNDLES[bundle].arguments, str(home)])
    return home / "debian" / f"{bundle}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"


# --- from the mirror ----------------------------------------------------------------------------------------------------------


def fetch(files: Files, architecture: str, home: Path) -> dict[str, Path]:
    """The .deb of each path in the pool, from the cache or the mirror. Raises DebsError."""
    cache = home / "cache" / "debian"
    cache.mkdir(parents=True, exist_ok=True)
    found = {path: cache / Path(path).name for path in files}
    missing = [path for path in files if not is_file(found[path], files[path])]
    if missing:
        say(f"fetching {len(missing)} Debian packages: {', '.join(package_of(path) for path in missing)}")
        download({path: files[path] for path in missing}, cache)
    superseded = [path for path in missing if not is_file(found[path], files[path])]
    if superseded:
        found |= newest(superseded, architecture, home)
    return found


def is_file(path: Path, sha256: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def package_of(path: str) -> str:
    return path.rpartition("/")[2].partition("_")[0]


def address(path: str) -> str:
    """Of a path in the pool. Security updates lie in a pool of their own, and their paths say so."""
    if path.startswith("pool/updates/"):
        return f"{mirrors()[1]}/{path}"
    return f"{mirrors()[0]}/{path}"


def mirrors() -> tuple[str, str]:
    """Plain HTTP is Debian's own default: digests and signatures say what to trust, and no CA is needed."""
    main = os.environ.get("WSGATE_DEBIAN_MIRROR") or "http://deb.debian.org/debian"
    security = os.environ.get("WSGATE_DEBIAN_SECURITY_MIRROR") or "http://deb.debian.org/debian-security"
    return main.rstrip("/"), security.rstrip("/")


def download(files: Files, cache: Path) -> None:
    """All at once; what the mirror does not have, or has with another digest, is not there afterwards."""
    triples = [(address(path), str(cache / Path(path).name), f"SHA256:{sha256}") for path, sha256 in files.items()]
    for _, target, _ in triples:
        Path(target).unlink(missing_ok=True)
    command = [APT_HELPER, *options({"APT::Sandbox::User": "root", "Acquire::Retries": RETRIES}), "download-file"]
    subprocess.run([*command, *(part for triple in triples for part in triple)], capture_output=True, check=False)


def newest(paths: Sequence[str], architecture: str, home: Path) -> dict[str, Path]:
    """The newest version of what is no longer there in the locked one. Raises DebsError."""
    apt = Apt(home, architecture)
    apt.update()
    found = {}
    for path in paths:
        folder = home / "cache" / "debian" / f"{package_of(path)}-newest"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        apt.get("download", package_of(path), cwd=folder)
        found[path] = next(folder.glob("*.deb"))
        warning = f"the mirror has no {Path(path).name} as locked; took {found[path].name}, on the word of its signed index alone"
        say(f"{warning}. To lock it: python3 deploy/dev.py lock")
    return found


def options(settings: Mapping[str, object]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


@dataclass(frozen=True)
class Apt:
    """apt with lists and a cache of our own, which believes that nothing is installed."""

    home: Path
    architecture: str

    def update(self) -> None:
        """Fetch the package lists and check their signatures: about 10 MB. Raises DebsError."""
        folder = self.folder
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        main, security = mirrors()
        suites = ((main, SUITE), (main, f"{SUITE}-updates"), (security, f"{SUITE}-security"))
        (folder / "sources.list").write_text("".join(f"deb {TRUST} {mirror} {suite} main\n" for mirror, suite in suites))
        self.get("update", "--error-on=any")

    @property
    def folder(self) -> Path:
        return self.home / "cache" / "apt" / self.architecture

    def get(self, *arguments: str, cwd: Path | None = None) -> str:
        return self.run("apt-get", "-q", *arguments, cwd=cwd)

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """What it prints. Raises DebsError."""
        settings = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": RETRIES,
        }
        done = subprocess.run([program, *options(settings), *arguments], cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            problem = errors[0] if errors else f"exit code {done.returncode}"  # errors after the first say less
            advice = "check the network and apt's proxy, or set WSGATE_DEBIAN_MIRROR to a mirror"
            raise DebsError(f"{program} {arguments[0]}: {problem}; {advice}")
        return done.stdout


# --- unpacking ----------------------------------------------------------------------------------------------------------------

WRAPPER = """#!/bin/sh
# Becomes the program, with the libraries that lie beside it.
root={root}
triplet={triplet}
lib="$root/usr/lib/$triplet"
LD_LIBRARY_PATH="$lib:$root/lib/$triplet${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export LD_LIBRARY_PATH
{environment}exec "$root/{program}" {arguments}
"""


def unpack(bundle: str, packages: Sequence[Path], target: Path) -> None:
    """Unpack into `target`, all or nothing, and remove what stood there for an earlier lock. Raises DebsError."""
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for package in packages:
        done = subprocess.run(["/usr/bin/dpkg-deb", "--extract", package, unfinished], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DebsError(f"cannot unpack {package}: {done.stderr.strip()}")
    (unfinished / "bin").mkdir(exist_ok=True)
    for name, program in BUNDLES[bundle].programs.items():
        script = unfinished / "bin" / name
        script.write_text(
            WRAPPER.format(
                root=shlex.quote(str(target)),
                triplet=f"{platform.machine()}-linux-gnu",
                program=program,
                arguments=BUNDLES[bundle].arguments or '"$@"',
                environment=f"export {BUNDLES[bundle].environment}\n" if BUNDLES[bundle].environment else "",
            )
        )
        script.chmod(0o755)
    for older in target.parent.glob(f"{bundle}-????????????"):
        shutil.rmtree(older, ignore_errors=True)
    unfinished.replace(target)


# --- making the lock ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """What apt's index says of the newest version."""

    name: str
    section: str
    path: str
    sha256: str
    depends: tuple[str, ...]  # the first of each list of alternatives


def lock(home: Path) -> None:
    """Look up the newest versions of all bundles for all architectures, and write the lock. Raises DebsError."""
    if not Path(APT_HELPER).exists():
        say(f"no apt here: {LOCK.name} stays as it is")
        return
    locked: dict[str, dict[str, Files]] = {name: {} for name in BUNDLES}
    for architecture in ARCHITECTURES.values():
        apt = Apt(home, architecture)
        apt.update()
        present = minbase(apt)
        for name, bundle in BUNDLES.items():
            packages = with_libraries(apt, bundle.packages, present)
            locked[name][architecture] = {package.path: package.sha256 for package in packages}
    LOCK.write_text(json.dumps(locked, indent=1) + "\n")


def minbase(apt: Apt) -> set[str]:
    """What debootstrap --variant=minbase puts in place: the required packages, apt, and what they depend on."""
    available = parse_index(apt.run("apt-cache", "dumpavail"))
    required = [fields["Package"] for fields in available if fields.get("Priority") == "required"]
    plan = apt.get("install", "--simulate", "--no-install-recommends", "apt", *sorted(required))
    return {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")}


def with_libraries(apt: Apt, names: Sequence[str], present: set[str]) -> list[Package]:
    """The packages of these names, and the libraries that they need beyond `present`. Of their dependencies only libraries are
    followed: what else they name (configuration, users, init scripts) is for a system service."""
    found: dict[str, Package] = {}
    pending = set(names)
    while pending:
        looked_up = look_up(apt, sorted(pending))
        for package in looked_up:
            if package.name in names or package.section == "libs":
                found[package.name] = package
        seen = {package.name for package in looked_up} | pending
        pending = {name for package in looked_up if package.name in found for name in package.depends} - seen - present - found.keys()
    return sorted(found.values(), key=lambda package: package.path)


def look_up(apt: Apt, names: Sequence[str]) -> list[Package]:
    return [package_from(fields) for fields in parse_index(apt.run("apt-cache", "show", "--no-all-versions", *names))]


def parse_index(text: str) -> list[dict[str, str]]:
    """Paragraphs of `Name: value`, as in a Packages file; continuation lines are left out."""
    paragraphs = (paragraph.splitlines() for paragraph in text.split("\n\n"))
    read = [dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" ")) for lines in paragraphs]
    return [fields for fields in read if fields]


def package_from(fields: Mapping[str, str]) -> Package:
    depends = ", ".join(fields[name] for name in ("Pre-Depends", "Depends") if name in fields)
    first = (re.match(r"[a-z0-9][a-z0-9+.-]*", part.strip()) for part in depends.split(","))
    names = tuple(dict.fromkeys(match.group() for match in first if match))
    return Package(fields["Package"], fields["Section"], fields["Filename"], fields["SHA256"], names)
