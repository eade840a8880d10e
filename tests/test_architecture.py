"""The house rules, executable: who may import whom, what the pure packages never touch, one test module per module, metric labels.

Each rule is a function from a source tree to a list of complaints. It is held against our own tree, which has none, and against
small trees that break it, to prove that it can fail.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

EVERYTHING = "everything"
MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    # part of the house: the other parts that it may import ("" is the package itself: its version)
    "": (),
    "__main__": ("cli",),
    "cli": ("", "app", "config"),
    "app": (EVERYTHING,),
    "config": ("policy", "wire", "ledger.links.addresses"),
    "server": ("wire", "policy", "ledger.store", "metrics", "log"),
    "policy": ("wire", "ledger.store", "ledger.token_bucket"),
    "ledger": (),
    "wire": (),
    "metrics": (),
    "log": (),
    "unhandled": ("log",),
}

PURE = ("wire", "policy", "ledger")
IMPURE_MODULES = tuple(  # in pure packages, and allowed to see the world
    f"ledger.{name}"
    for name in (
        "fallback_store",
        "links.cluster_link",
        "links.connecting",
        "links.link",
        "links.redis_link",
        "links.sentinels",
        "links.subscription",
        "rates.own_buckets",
        "rates.redis_landlord",
        "rates.redis_rates",
        "rates.rent_link",
        "scoped_store",
        "seats.keeper",
        "seats.redis_store",
        "seats.shared_penalties",
        "seats.teller",
        "seats.undertaker",
    )
)
WORLD = frozenset(
    [
        "aiohttp",
        "asyncio",
        "concurrent",
        "datetime",
        "importlib",
        "logging",
        "multiprocessing",
        "os",
        "prometheus_client",
        "random",
        "redis",
        "secrets",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "threading",
        "time",
        "uuid",
        "uvloop",
    ]
)

UNTESTED = frozenset(("__init__", "__main__"))  # nothing of their own to test

LABELS = frozenset(("rule", "route", "direction", "action", "mode", "code", "result", "initiator"))


class Module:
    """One file of the package. `name` is dotted, without `proxy.`: "wire.frames", "cli", "" for the package itself."""

    def __init__(self, root: Path, path: Path) -> None:
        parts = path.relative_to(root / "proxy").with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.path = path
        self.where = path.relative_to(root).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    @property
    def part(self) -> str:
        """Its part of the house: the package that it is in, or itself."""
        return self.name.partition(".")[0]


def modules(root: Path) -> list[Module]:
    return [Module(root, path) for path in sorted((root / "proxy").rglob("*.py"))]


def imports(module: Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of all that is imported anywhere in a module, submodules that are imported as names included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = ["proxy", *filter(None, module.name.split("."))]
                up = node.level - module.is_package
                source = ".".join([*here[: len(here) - up], *filter(None, [source])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield node.lineno, name if name in known else source
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "__import__":
            yield node.lineno, "importlib"


def names_of(found: list[Module]) -> frozenset[str]:
    return frozenset(f"proxy.{module.name}".rstrip(".") for module in found)


def wrong_imports(root: Path) -> list[str]:
    """Imports against the directions of DESIGN, "The house"."""
    complaints = []
    found = modules(root)
    for module in found:
        if module.part not in MAY_IMPORT:
            complaints.append(f"{module.where}: has no place in the house")
            continue
        for line, name in imports(module, names_of(found)):
            if name == "proxy" or name.startswith("proxy."):
                target = name.removeprefix("proxy").removeprefix(".")
                if not may_import(module.part, target):
                    complaints.append(f"{module.where}:{line}: imports {name}")
    return complaints


def may_import(part: str, target: str) -> bool:
    if part and target.partition(".")[0] == part:
        return True
    allowed = MAY_IMPORT[part]
    return EVERYTHING in allowed or any(target == one or (one and target.startswith(f"{one}.")) for one in allowed)


def impurities(root: Path) -> list[str]:
    """Clocks, chance, sockets and the like in packages that get all this as arguments."""
    found = modules(root)
    return [
        f"{module.where}:{line}: imports {name}"
        for module in found
        if module.part in PURE and module.name not in IMPURE_MODULES
        for line, name in imports(module, names_of(found))
        if name.partition(".")[0] in WORLD
    ]


def untested(root: Path) -> list[str]:
    """Modules without the test module that mirrors them."""
    complaints = []
    for module in modules(root):
        if module.path.stem not in UNTESTED:
            inside = module.path.relative_to(root / "proxy")
            mirror = root / "tests" / inside.with_name(f"test_{inside.name}")
            if not mirror.exists():
                complaints.append(f"{module.where}: no {mirror.relative_to(root).as_posix()}")
    return complaints


def wrong_labels(root: Path) -> list[str]:
    """Metric labels that are not in DESIGN, "Observability", or that cannot be told."""
    complaints = []
    for module in modules(root):
        if not any(name.startswith("prometheus_client") for _, name in imports(module, frozenset())):
            continue
        for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
            complaints += [f"{module.where}:{call.lineno}: label {label}" for label in labels_of(call) if label not in LABELS]
    return complaints


def labels_of(call: ast.Call) -> Iterator[str]:
    """The tuples and lists of strings that a call is given; a `labels=` that is neither these nor a parameter named so."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        if isinstance(argument, ast.Tuple | ast.List):
            yield from (item.value for item in argument.elts if isinstance(item, ast.Constant) and isinstance(item.value, str))
    for keyword in call.keywords:
        readable = isinstance(keyword.value, ast.Tuple | ast.List) or (isinstance(keyword.value, ast.Name) and keyword.value.id == "labels")
        if keyword.arg in ("labels", "labelnames") and not readable:
            yield ast.unparse(keyword.value)


RULES = [wrong_imports, impurities, untested, wrong_labels]


@pytest.mark.parametrize("rule", RULES)
def test_our_own_tree_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(ROOT) == []


def test_the_rules_see_the_whole_package() -> None:
    assert {"", "cli", "wire.frames", "policy.meter", "ledger.store"} <= {module.name for module in modules(ROOT)}


# --- proof that each rule can fail ----------------------------------------------------------------------------------------------


def build_tree(root: Path, files: Mapping[str, str]) -> Path:
    """A source tree of these files; the packages' `__init__.py` come by themselves."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if name.startswith("proxy/"):
            for parent in path.relative_to(root).parents:
                if parent.parts:
                    (root / parent / "__init__.py").touch()
    return root


HOUSE = {
    "proxy/cli.py": "",
    "proxy/app.py": "",
    "proxy/config.py": "",
    "proxy/metrics.py": "",
    "proxy/log.py": "",
    "proxy/wire/frames.py": "",
    "proxy/policy/rules.py": "",
    "proxy/ledger/store.py": "",
    "proxy/ledger/token_bucket.py": "",
    "proxy/ledger/memory_store.py": "",
    "proxy/server/door.py": "",
}


@pytest.mark.parametrize(
    ("where", "code", "seen"),
    [
        ("proxy/wire/frames.py", "import proxy.policy.rules", "proxy.policy.rules"),
        ("proxy/wire/frames.py", "from proxy.policy import rules", "proxy.policy.rules"),
        ("proxy/wire/frames.py", "from proxy.policy.rules import Rule", "proxy.policy.rules"),
        ("proxy/wire/frames.py", "from proxy import policy", "proxy.policy"),
        ("proxy/wire/frames.py", "from ..policy import rules", "proxy.policy.rules"),
        ("proxy/wire/frames.py", "from ..policy.rules import Rule", "proxy.policy.rules"),
        ("proxy/wire/frames.py", "from .. import policy", "proxy.policy"),
        ("proxy/wire/__init__.py", "from ..ledger import store", "proxy.ledger.store"),
        ("proxy/wire/frames.py", "def late():\n    from proxy.app import run", "proxy.app"),
        ("proxy/wire/frames.py", "if TYPE_CHECKING:\n    from proxy.app import run", "proxy.app"),
        ("proxy/wire/frames.py", "from proxy import __version__", "proxy"),
        ("proxy/wire/frames.py", "import proxy", "proxy"),
        ("proxy/ledger/store.py", "from proxy.wire import frames", "proxy.wire.frames"),
        ("proxy/policy/rules.py", "from proxy.ledger.memory_store import MemoryStore", "proxy.ledger.memory_store"),
        ("proxy/policy/rules.py", "from proxy.ledger import memory_store", "proxy.ledger.memory_store"),
        ("proxy/policy/rules.py", "import proxy.ledger", "proxy.ledger"),
        ("proxy/policy/rules.py", "from proxy.server import door", "proxy.server.door"),
        ("proxy/policy/rules.py", "from proxy.config import Config", "proxy.config"),
        ("proxy/server/door.py", "from proxy.config import Config", "proxy.config"),
        ("proxy/server/door.py", "from proxy.ledger.token_bucket import TokenBucket", "proxy.ledger.token_bucket"),
        ("proxy/server/door.py", "from proxy.app import Gate", "proxy.app"),
        ("proxy/config.py", "from proxy.ledger.store import Store", "proxy.ledger.store"),
        ("proxy/config.py", "from . import server", "proxy.server"),
        ("proxy/config/schema.py", "from ..metrics import Totals", "proxy.metrics"),
        ("proxy/metrics.py", "from proxy.policy.rules import Rule", "proxy.policy.rules"),
        ("proxy/log.py", "from .metrics import Totals", "proxy.metrics"),
        ("proxy/cli.py", "from proxy.policy.rules import Rule", "proxy.policy.rules"),
        ("proxy/__init__.py", "from .cli import main", "proxy.cli"),
        ("proxy/__main__.py", "from proxy.app import run", "proxy.app"),
    ],
)
def test_an_import_outwards_is_found(where: str, code: str, seen: str, tmp_path: Path) -> None:
    line = code.count("\n") + 1
    assert wrong_imports(build_tree(tmp_path, HOUSE | {where: code})) == [f"{where}:{line}: imports {seen}"]


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("proxy/cli.py", "from proxy import __version__, app\nfrom .config import load"),
        ("proxy/app.py", "from proxy.ledger.memory_store import MemoryStore\nfrom .server import door\nimport proxy.cli"),
        ("proxy/config.py", "from proxy.policy import rules\nfrom proxy.wire.frames import CloseCode"),
        ("proxy/config/schema.py", "from . import units\nfrom .units import Rate\nfrom ..policy.rules import Rule"),
        ("proxy/server/door.py", "from proxy.ledger.store import Store\nfrom proxy import log, metrics\nfrom . import tunnel"),
        ("proxy/policy/rules.py", "from proxy.ledger import store, token_bucket\nfrom . import routes\nimport proxy.wire.frames"),
        ("proxy/ledger/store.py", "from .token_bucket import TokenBucket\nimport heapq\nfrom proxy_of_others import x"),
        ("proxy/__main__.py", "from proxy.cli import main"),
    ],
)
def test_an_import_inwards_is_fine(where: str, code: str, tmp_path: Path) -> None:
    assert wrong_imports(build_tree(tmp_path, HOUSE | {where: code})) == []


def test_a_module_that_nobody_placed_is_found(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, HOUSE | {"proxy/utils.py": "", "proxy/helpers/strings.py": ""})
    places = ["proxy/helpers/__init__.py", "proxy/helpers/strings.py", "proxy/utils.py"]
    assert wrong_imports(tree) == [f"{place}: has no place in the house" for place in places]


@pytest.mark.parametrize("package", PURE)
@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import asyncio", "asyncio"),
        ("from asyncio import Protocol", "asyncio"),
        ("import time as clock", "time"),
        ("from time import monotonic", "time"),
        ("import random", "random"),
        ("from secrets import token_bytes", "secrets"),
        ("from os import urandom", "os"),
        ("import os.path", "os.path"),
        ("import socket", "socket"),
        ("from aiohttp.web import Request", "aiohttp.web"),
        ("def late():\n    import redis.asyncio", "redis.asyncio"),
        ("import logging", "logging"),
        ("clock = __import__('time')", "importlib"),
        ("from importlib import import_module", "importlib"),
    ],
)
def test_the_world_in_a_pure_package_is_found(package: str, code: str, seen: str, tmp_path: Path) -> None:
    where = f"proxy/{package}/new.py"
    assert impurities(build_tree(tmp_path, {where: code})) == [f"{where}:{code.count(chr(10)) + 1}: imports {seen}"]


def test_the_world_elsewhere_is_fine(tmp_path: Path) -> None:
    files = {"proxy/server/door.py": "import asyncio, time", "proxy/app.py": "import os", "proxy/wire/frames.py": "from . import time"}
    files |= {"proxy/ledger/seats/redis_store.py": "import redis, time", "proxy/ledger/fallback_store.py": "import asyncio"}
    assert impurities(build_tree(tmp_path, files)) == []


def test_a_module_without_its_test_module_is_found(tmp_path: Path) -> None:
    files = {"proxy/cli.py": "", "proxy/wire/frames.py": "", "proxy/server/door.py": "", "proxy/__main__.py": ""}
    tests = {"tests/test_cli.py": "", "tests/test_frames.py": "", "tests/server/test_door.py": ""}
    assert untested(build_tree(tmp_path, files | tests)) == ["proxy/wire/frames.py: no tests/wire/test_frames.py"]


@pytest.mark.parametrize("label", ["user", "ip", "room", "path"])
@pytest.mark.parametrize(
    "code",
    [
        "Gauge('seats', 'help', ['rule', {!r}])",
        "GaugeMetricFamily('seats', 'help', labels=('rule', {!r}))",
        "_counter('seats', 'help', ({!r},), counts)",
        "Counter('seats', 'help', labelnames=[{!r}])",
    ],
)
def test_a_label_that_grows_with_the_clients_is_found(code: str, label: str, tmp_path: Path) -> None:
    text = "from prometheus_client import Gauge\n" + code.format(label)
    assert wrong_labels(build_tree(tmp_path, {"proxy/metrics.py": text})) == [f"proxy/metrics.py:2: label {label}"]


def test_labels_that_cannot_be_told_are_found(tmp_path: Path) -> None:
    text = "from prometheus_client import Gauge\nGauge('seats', 'help', labelnames=NAMES)"
    assert wrong_labels(build_tree(tmp_path, {"proxy/metrics.py": text})) == ["proxy/metrics.py:2: label NAMES"]
