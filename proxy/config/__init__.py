"""YAML and flags -> one frozen Config, or every mistake at once with its place.

    problems.py      a mistake, and how it is told without telling secrets
    yaml_nodes.py    text -> texts, lists and tables with their places; ${VAR}
    reading.py       typed questions to such a tree
    units.py         counts, sizes, rates, durations
    schema.py        the top of the file, the flags; its sections are
                     upstream_, identity_, route_, rule_, store_, tls_ and operation_schema.py

Scalars are text until the schema gives them a type, so `off`, `12:30` and `010` surprise nobody. Whatever the text, the answer is a
Config or a ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.config.operation_schema import Keepalive, Limits, LogFormat, LogLevel, LogSettings, TunnelSettings
from proxy.config.problems import ConfigError, Place, Problem
from proxy.config.schema import Config, Overrides, build
from proxy.config.store_schema import OnStoreDown, StoreSettings
from proxy.config.tls_schema import ServerTls
from proxy.config.yaml_nodes import FILE_WORDS, MAX_FILE, Broken, read

__all__ = [
    "Config",
    "ConfigError",
    "Keepalive",
    "Limits",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "OnStoreDown",
    "Overrides",
    "Problem",
    "ServerTls",
    "StoreSettings",
    "TunnelSettings",
    "default",
    "load",
    "parse",
]

NO_OVERRIDES: Final = Overrides()


def load(path: str, environ: Mapping[str, str], overrides: Overrides = NO_OVERRIDES) -> Config:
    """The configuration in a file. Raises ConfigError, also for a file that cannot be read."""
    problems: list[Problem] = []
    text = _read_file(path, problems)
    if text is None:
        return build(Broken(Place(path, 0, 0, "")), overrides, problems)
    return parse(text, path, environ, overrides)


def parse(text: str, file: str, environ: Mapping[str, str], overrides: Overrides = NO_OVERRIDES) -> Config:
    """The configuration in a text. `file`: its name in problems; its folder is where relative paths start.

    `environ`: what ${VAR} stands for. Raises ConfigError.
    """
    problems: list[Problem] = []
    return build(read(text, file, environ, problems), overrides, problems)


def default(overrides: Overrides) -> Config:
    """The defaults, with `overrides.upstream` as the only backend. Raises ConfigError."""
    return build(None, overrides, [])


def _read_file(path: str, problems: list[Problem]) -> str | None:
    whole_file = Place(path, 0, 0, "")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        problems.append(whole_file.problem("a file that can be read", f"{error.strerror}"))
        return None
    except ValueError:  # a NUL
        problems.append(whole_file.problem("the path of a file", "one that no file can have"))
        return None
    if len(content) > MAX_FILE:
        problems.append(whole_file.problem(FILE_WORDS, "a larger one"))
        return None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        problems.append(Place(path, line, column, "").problem("UTF-8", f"the byte 0x{content[error.start]:02x}"))
        return None
