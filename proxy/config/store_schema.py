"""The keys `store`, `store_prefix`, `store_timeout`, `store_required`, `on_store_down` and `holder_ttl`: who holds what, and where.

    memory://                                    in this process
    redis://[user:password@]host[:port][/db]     one server; rediss:// speaks TLS to it, as the system trusts (SSL_CERT_FILE)
    redis+sentinel://[...@]host,host/service[/db]   where the master of that name is, the Sentinels say
    redis+cluster://[...@]host,host              some nodes of a Cluster, which name the others

rediss+sentinel:// and rediss+cluster:// speak TLS to all of them. User and password are percent-encoded. No problem ever repeats a part
of a URL that could be one of them, so a URL with a mistake is shown only where nothing in it can be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.config.reading import FLAG, Kind, Reading, choice, within
from proxy.config.units import parse_duration
from proxy.config.yaml_nodes import Node, Table, Text
from proxy.ledger.links.addresses import REDIS_PORT, SENTINEL_PORT, Endpoint, StoreAddress, Topology
from proxy.policy.upstreams import parse_host_and_port

KEYS: Final = ("store", "store_prefix", "store_timeout", "store_required", "on_store_down", "holder_ttl")

MEMORY: Final = "memory://"
SCHEMES: Final = {
    "redis": (Topology.SINGLE, False),
    "rediss": (Topology.SINGLE, True),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}
STORE_WORDS: Final = "memory://, redis://host:port, rediss://, redis+sentinel://host,host/service or redis+cluster://host,host"
MAX_DATABASE: Final = 9999  # what a server has is its own affair; 16 by default
MAX_ENDPOINTS: Final = 64
PREFIX_WORDS: Final = "1 to 64 printable ASCII characters without spaces, quotes, backslashes and braces, such as wsgate:"

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PREFIX: Final = re.compile(r"""(?:(?!["'{}\\])[!-~]){1,64}""")  # braces would choose the Cluster's slot
_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.2.1, without the colon
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what a Sentinel allows
_DATABASE: Final = re.compile(r"[0-9]{1,4}")
_HARMLESS: Final = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[A-Za-z0-9._-]*(?::[0-9]{1,5})?(?:,[A-Za-z0-9._-]+(?::[0-9]{1,5})?)*(?:/[A-Za-z0-9._-]*)*"
)


class OnStoreDown(Enum):
    """What upgrades meet while the shared store is away; the values are the YAML words."""

    LOCAL = "local"  # limits less what the others were last seen to hold
    OPEN = "open"  # nobody is refused for a seat
    CLOSED = "closed"  # 503


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`address`: None for the memory of this process, which needs none of the rest. `timeout` and `holder_ttl` in seconds.

    `required`: without an answer of the store at the start, the gate does not start.
    """

    address: StoreAddress | None = None
    prefix: str = "wsgate:"
    timeout: float = 0.2
    required: bool = False
    on_down: OnStoreDown = OnStoreDown.LOCAL
    holder_ttl: float = 15.0


class Memory(Enum):
    """What memory:// is read as, so that None is left for mistakes."""

    MEMORY = MEMORY


def parse_store(text: str) -> StoreAddress | Memory:
    """The URL of a store. Raises ValueError with what is expected, which repeats no part of the text."""
    if text == MEMORY:
        return Memory.MEMORY
    match = _URL.fullmatch(text)
    if not match or match[1].lower() not in SCHEMES:
        raise ValueError(STORE_WORDS)
    topology, tls = SCHEMES[match[1].lower()]
    if re.search(r"[?#]", match[2]):
        raise ValueError("a URL without ? and # (%3F and %23 in a password)")
    authority, _, path = match[2].partition("/")
    if "@" in path:
        raise ValueError("a / in a password written as %2F")
    userinfo, at, hosts = authority.rpartition("@")
    username, password = _parse_userinfo(userinfo) if at else (None, None)
    endpoints = _parse_endpoints(hosts, topology)
    service, database = _parse_path(path, topology)
    return StoreAddress(endpoints, topology, service, database, username, password, tls)


def _parse_userinfo(text: str) -> tuple[str | None, str]:
    """(user, None for the server's default one; password)."""
    user, colon, password = text.partition(":")
    if not colon or not password:
        raise ValueError("user:password or :password before the @")
    if "," in user:
        raise ValueError("user:password once, in front of all hosts")
    if not _ENCODED.fullmatch(user) or not _ENCODED.fullmatch(password):
        raise ValueError("user and password percent-encoded: %40 for @, %3A for :, %2F for /, %25 for %")
    try:
        return unquote_to_bytes(user).decode() or None, unquote_to_bytes(password).decode()
    except UnicodeDecodeError:
        raise ValueError("user and password in UTF-8, percent-encoded") from None


def _parse_endpoints(text: str, topology: Topology) -> tuple[Endpoint, ...]:
    default = SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    hosts = text.split(",")
    if len(hosts) > (1 if topology is Topology.SINGLE else MAX_ENDPOINTS):
        raise ValueError("one host (several: redis+sentinel:// or redis+cluster://)" if topology is Topology.SINGLE else "fewer hosts")
    endpoints = []
    for one in hosts:
        host, port = parse_host_and_port(one)
        if port == 0:
            raise ValueError("a port from 1 to 65535")
        endpoints.append(Endpoint(host, default if port is None else port))
    if len(set(endpoints)) < len(endpoints):
        raise ValueError("each host once")
    return tuple(endpoints)


def _parse_path(text: str, topology: Topology) -> tuple[str, int]:
    """(service, database)."""
    service = ""
    if topology is Topology.SENTINEL:
        service, _, text = text.partition("/")
        if not _SERVICE.fullmatch(service):
            raise ValueError("the service's name behind the hosts, as in redis+sentinel://host,host/service")
    if not text:
        return service, 0
    if topology is Topology.CLUSTER:
        raise ValueError("no path: a Cluster has the database 0 alone")
    if not _DATABASE.fullmatch(text):
        raise ValueError(f"the number of a database behind the last /, 0 to {MAX_DATABASE}")
    return service, int(text)


def parse_prefix(text: str) -> str:
    """What the names of all our keys begin with. Raises ValueError."""
    if not _PREFIX.fullmatch(text):
        raise ValueError(PREFIX_WORDS)
    return text


STORE: Final = Kind(STORE_WORDS, parse_store)
PREFIX: Final = Kind(PREFIX_WORDS, parse_prefix)
TIMEOUT: Final = within("a duration", parse_duration, "10ms", "5s", " (an upgrade waits so long)")
ON_DOWN: Final = choice(OnStoreDown)
HOLDER_TTL: Final = within("a duration", parse_duration, "5s", "1h")


def read_store(reading: Reading, top: Table, flag: StoreAddress | Memory | None) -> StoreSettings | None:
    """All that the file says of the store. `flag`: what the command line says of its URL, which wins."""
    default = StoreSettings()
    url = read_store_url(reading, top.entries["store"]) if "store" in top.entries else Memory.MEMORY
    prefix = reading.optional(top, "store_prefix", PREFIX, default.prefix)
    timeout = reading.optional(top, "store_timeout", TIMEOUT, default.timeout)
    required = reading.optional(top, "store_required", FLAG, default.required)
    on_down = reading.optional(top, "on_store_down", ON_DOWN, default.on_down)
    holder_ttl = reading.optional(top, "holder_ttl", HOLDER_TTL, default.holder_ttl)
    if url is None or prefix is None or timeout is None or required is None or on_down is None or holder_ttl is None:
        return None
    url = flag or url
    address = url if isinstance(url, StoreAddress) else None
    return StoreSettings(address, prefix, timeout, required, on_down, holder_ttl)


def read_store_url(reading: Reading, node: Node) -> StoreAddress | Memory | None:
    """None after a problem, which repeats nothing that may be a password."""
    if isinstance(node, Text) and not node.from_environment and not _HARMLESS.fullmatch(node.value):
        scheme, slashes, _ = node.value.partition("://")
        known = slashes and scheme.lower() in SCHEMES
        node = replace(node, shown=f'"{scheme}://..."' if known else "another text")
    return reading.scalar(node, STORE)
