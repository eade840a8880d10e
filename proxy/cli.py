"""The command line: run, check, version.

Exit codes: 0 when all is well, 1 for a configuration with mistakes (all of them on standard error, nothing started), 2 for a command
that cannot be understood. `check` and `version` are quick: what runs the gate is imported only by `run`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from proxy import __version__
from proxy.config import ConfigError, Overrides, default, load


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code. Raises SystemExit(2) for arguments that cannot be understood."""
    arguments = _parser().parse_args(argv)
    match arguments.command:
        case "run":
            return _run(arguments)
        case "check":
            return _check(arguments.file)
        case _:
            print(f"wsgate {__version__} (Python {platform.python_version()}, {_release('aiohttp')}, {_release('uvloop')})")
            return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wsgate", description="A reverse proxy that limits WebSockets.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="start the gate", allow_abbrev=False)
    run.add_argument("--config", metavar="FILE", help="the configuration; flags win over it")
    run.add_argument("--listen", metavar="ADDRESS", help="host:port or unix:/path")
    run.add_argument("--admin", metavar="ADDRESS", help="host:port of /metrics and health")
    run.add_argument("--upstream", metavar="URL", help="the one backend, such as ws://127.0.0.1:9000")
    run.add_argument("--store", metavar="URL", help="memory://, or redis:// and the like to share limits with other instances")
    run.add_argument("--shadow", action="store_true", help="decide and count, but never act")
    check = commands.add_parser("check", help="say what is wrong with a configuration", allow_abbrev=False)
    check.add_argument("file", metavar="FILE")
    commands.add_parser("version", help="say which wsgate this is", allow_abbrev=False)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.config is None and arguments.upstream is None:
        return _fail("wsgate run: give --config FILE, or --upstream URL to run on the defaults")
    overrides = Overrides(arguments.listen, arguments.admin, arguments.upstream, arguments.store, arguments.shadow)
    try:
        config = default(overrides) if arguments.config is None else load(arguments.config, os.environ, overrides)
    except ConfigError as error:
        return _fail(str(error))
    from proxy import app

    return app.run(config)


def _check(file: str) -> int:
    try:
        config = load(file, os.environ)
    except ConfigError as error:
        return _fail(str(error))
    name = file.encode(errors="backslashreplace").decode()
    print(f"{name}: ok: {len(config.upstreams)} upstreams, {len(config.routes)} routes, {len(config.rules)} rules")
    for note in config.notes():
        print(f"{name}: note: {note}", file=sys.stderr)
    return 0


def _release(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1
