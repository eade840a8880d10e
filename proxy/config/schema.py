"""The top of the file, and the flags of the command line that win over it.

The names of keys are the contract of DESIGN. A key of a later issue is known here only to say that it is not supported yet.
A mistake in the file counts even where a flag makes it harmless, and a broken file does not hide a broken flag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from proxy.config.identity_schema import read_identity
from proxy.config.operation_schema import Limits, LogSettings, TunnelSettings, read_drain, read_limits, read_log, read_tunnel
from proxy.config.problems import ConfigError, Place, Problem, show
from proxy.config.reading import Kind, Reading, choice, whole
from proxy.config.route_schema import read_routes
from proxy.config.rule_schema import Surroundings, read_rules
from proxy.config.store_schema import KEYS as STORE_KEYS
from proxy.config.store_schema import Memory, StoreSettings, read_store, read_store_url
from proxy.config.tls_schema import ServerTls, read_server_tls
from proxy.config.upstream_schema import URL, make_upstream, read_upstream, replace_url
from proxy.config.yaml_nodes import Node, Table, Text
from proxy.ledger.links.addresses import StoreAddress
from proxy.policy.identity import DOCUMENTED_SECRET, IdentityRules
from proxy.policy.routes import Route
from proxy.policy.rules import Mode, RefuseWith, Rule
from proxy.policy.upstreams import Address, TcpAddress, Upstream, UpstreamUrl, parse_listen, parse_tcp

T = TypeVar("T")

DEFAULT_LISTEN: Final = TcpAddress("0.0.0.0", 8080)
DEFAULT_ADMIN: Final = TcpAddress("127.0.0.1", 9901)
DEFAULT_UPSTREAM: Final = "default"  # the name of the one that --upstream brings without a file

KEYS: Final = (
    *("listen", "admin", "upstreams", *STORE_KEYS, "identity", "routes", "rules", "mode", "refuse_with"),
    *("tls", "drain", "limits", "tunnel", "log"),
)

UPSTREAMS_WORDS: Final = "at least one upstream, such as {game: {url: ws://127.0.0.1:9000}}"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None: nothing. A flag wins over the file."""

    listen: str | None = None
    admin: str | None = None
    upstream: str | None = None
    store: str | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without a mistake. `rules` stand in the order of the file; under `mode: shadow` each of them is in shadow.

    `tls`: None where clients come in plain. `drain`: the seconds over which tunnels are closed at the end; 0: all at once.
    """

    listen: Address
    admin: TcpAddress
    upstreams: Mapping[str, Upstream]
    identity: IdentityRules
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    refuse_with: RefuseWith
    store: StoreSettings
    tls: ServerTls | None
    drain: float
    limits: Limits
    tunnel: TunnelSettings
    log: LogSettings

    def notes(self) -> list[str]:
        """What is no mistake, but better known."""
        notes = []
        if self.identity.secret == DOCUMENTED_SECRET:
            notes.append("identity.secret is not set: digests of tokens are keyed with a documented secret")
        if self.store.address is None and self.store != StoreSettings():
            notes.append("store is memory://: store_prefix, store_timeout, store_required, on_store_down and holder_ttl are for the others")
        return notes


@dataclass(frozen=True, slots=True)
class _Flags:
    """The flags' values, each None where the flag is not there or wrong. `replaces_upstream`: it is there, right or wrong."""

    listen: Address | None
    admin: TcpAddress | None
    upstream: UpstreamUrl | None
    store: StoreAddress | Memory | None
    mode: Mode | None
    replaces_upstream: bool


LISTEN: Final = Kind("host:port or unix:/path", parse_listen)
ADMIN: Final = Kind("host:port", parse_tcp)
MODE: Final = choice(Mode)
REFUSE_WITH: Final = choice(RefuseWith)


def build(root: Node | None, overrides: Overrides, problems: list[Problem]) -> Config:
    """The configuration of a file's tree, or of the flags alone. Raises ConfigError with `problems` and all that come to them."""
    reading = Reading(problems)
    flags = _read_flags(reading, overrides)
    if root is None:
        top: Table | None = Table(_flag_place("upstream"))
        if not flags.replaces_upstream:
            reading.report(_flag_place("upstream"), URL.expected, "nothing")
            top = None
    else:
        top = reading.fields(root, "a mapping with at least upstreams", KEYS)
    config = _read_top(reading, top, flags) if top else None
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _read_flags(reading: Reading, overrides: Overrides) -> _Flags:
    def read(name: str, value: str | None, kind: Kind[T]) -> T | None:
        return None if value is None else reading.scalar(_flag_text(name, value), kind)

    return _Flags(
        listen=read("listen", overrides.listen, LISTEN),
        admin=read("admin", overrides.admin, ADMIN),
        upstream=read("upstream", overrides.upstream, URL),
        store=None if overrides.store is None else read_store_url(reading, _flag_text("store", overrides.store)),
        mode=Mode.SHADOW if overrides.shadow else None,
        replaces_upstream=overrides.upstream is not None,
    )


def _flag_text(name: str, value: str) -> Text:
    return Text(_flag_place(name), value, show(value))


def _flag_place(name: str) -> Place:
    return Place("", 0, 0, f"--{name}")


def _read_top(reading: Reading, top: Table, flags: _Flags) -> Config | None:
    listen = reading.optional(top, "listen", LISTEN, DEFAULT_LISTEN)
    admin = reading.optional(top, "admin", ADMIN, DEFAULT_ADMIN)
    listen, admin = flags.listen or listen, flags.admin or admin
    _check_distinct(reading, top, flags, listen, admin)
    store = read_store(reading, top, flags.store)
    mode = reading.optional(top, "mode", MODE, Mode.ENFORCE)
    refuse_with = reading.optional(top, "refuse_with", REFUSE_WITH, RefuseWith.CLOSE)
    upstreams, upstream_names = _read_upstreams(reading, top, flags)
    identity = read_identity(reading, top)
    routes, route_names = read_routes(reading, top, upstream_names)
    surroundings = Surroundings(
        shadow=Mode.SHADOW in (flags.mode, mode),
        routes=routes,
        route_names=route_names,
        has_tokens=identity is None or bool(identity.sources),
    )
    rules = read_rules(reading, top, surroundings)
    tls = read_server_tls(reading, top)
    drain, limits = read_drain(reading, top), read_limits(reading, top)
    tunnel, log = read_tunnel(reading, top), read_log(reading, top)
    if listen is None or admin is None or store is None or refuse_with is None:
        return None
    if upstreams is None or identity is None or routes is None or rules is None:
        return None
    if drain is None or limits is None or tunnel is None or log is None:
        return None
    return Config(listen, admin, upstreams, identity, routes, rules, refuse_with, store, tls, drain, limits, tunnel, log)


def _check_distinct(reading: Reading, top: Table, flags: _Flags, listen: Address | None, admin: TcpAddress | None) -> None:
    """Two servers cannot have one port; 0 gives each its own."""
    if listen is None or listen != admin or admin.port == 0:
        return
    blamed = "admin" if flags.admin or (not flags.listen and "admin" in top.entries) else "listen"
    from_flag = flags.admin if blamed == "admin" else flags.listen
    place = _flag_place(blamed) if from_flag else top.entries[blamed].place
    reading.report(place, "different addresses for listen and admin", "the same for both")


def _read_upstreams(reading: Reading, top: Table, flags: _Flags) -> tuple[Mapping[str, Upstream] | None, Collection[str] | None]:
    """(upstreams, None after a problem; their names as far as they are known, for the routes that point to them)."""
    if "upstreams" not in top.entries and flags.replaces_upstream:
        upstream = make_upstream(DEFAULT_UPSTREAM, flags.upstream) if flags.upstream else None
        return _as_mapping([upstream]), [DEFAULT_UPSTREAM]
    node = reading.required_node(top, "upstreams", UPSTREAMS_WORDS)
    table = None if node is None else reading.table(node, UPSTREAMS_WORDS)
    if table is None:
        return None, None
    if not table.entries:
        reading.report(table.place, UPSTREAMS_WORDS, "none")
        return None, None
    if flags.replaces_upstream and len(table.entries) > 1:
        reading.report(_flag_place("upstream"), "a file with one upstream, for the flag to replace", f"{len(table.entries)} upstreams")
    upstreams = [read_upstream(reading, table, name) for name in table.entries]
    if flags.upstream and len(upstreams) == 1 and upstreams[0]:
        upstreams = [replace_url(upstreams[0], flags.upstream)]
    return _as_mapping(upstreams), table.entries


def _as_mapping(upstreams: Iterable[Upstream | None]) -> Mapping[str, Upstream] | None:
    read = whole(upstreams)
    return None if read is None else MappingProxyType({one.name: one for one in read})
