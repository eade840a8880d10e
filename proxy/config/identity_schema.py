"""The `identity` section: where tokens stand, which proxies are believed, and the secret that keys the digests.

The secret comes from the file, the environment or a file of its own. No problem ever repeats a part of it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from proxy.config.reading import FILE, Kind, Reading, beside, whole
from proxy.config.units import parse_count
from proxy.config.yaml_nodes import Node, Table
from proxy.policy.identity import DOCUMENTED_SECRET, IdentityRules, Network
from proxy.policy.tokens import DEFAULT_SOURCES, SourceKind, TokenSource

KEYS: Final = ("user", "trusted_proxies", "ipv6_prefix", "secret", "secret_file")
MAX_SECRET_FILE: Final = 64 << 10  # bytes; a secret is some dozens
MAPPED: Final = IPv6Network("::ffff:0:0/96")  # IPv4 seen through an IPv6 socket, RFC 4291 §2.5.5.2

_NETWORK: Final = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2

SOURCES_WORDS: Final = "a list of bearer, {query: NAME}, {cookie: NAME} and {subprotocol: PREFIX}"
SOURCE_WORDS: Final = "bearer, {query: NAME}, {cookie: NAME} or {subprotocol: PREFIX}"
NOT_EMPTY: Final = "a text that is not empty, or no such key"
NETWORKS_WORDS: Final = "a list of addresses and networks such as 10.1.2.0/24"


def parse_network(text: str) -> Network:
    """An address, or a network without bits behind its prefix. Raises ValueError with what is expected."""
    if not _NETWORK.fullmatch(text):
        raise ValueError(NETWORK.expected)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(NETWORK.expected) from None
    address, _, _ = text.partition("/")
    if ip_network(address).network_address != network.network_address:
        raise ValueError(f"{network}, or {address} for the one address")
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        mapped = IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - MAPPED.prefixlen))
        raise ValueError(f"{mapped} (an IPv4 address is never seen in its IPv6 spelling)")
    return network


def _parse_bearer(text: str) -> TokenSource:
    if text != SourceKind.BEARER.value:
        raise ValueError(SOURCE_WORDS)
    return TokenSource(SourceKind.BEARER)


def _parse_ipv6_prefix(text: str) -> int:
    number = parse_count(text)
    if not 1 <= number <= IPv6Network("::/0").max_prefixlen:
        raise ValueError(IPV6_PREFIX.expected)
    return number


def _parse_parameter(text: str) -> bytes:
    if not text or not text.isprintable():
        raise ValueError(SOURCE_NAMES["query"].expected)
    return text.encode()


def _parse_cookie(text: str) -> bytes:
    if not _TOKEN.fullmatch(text):
        raise ValueError(SOURCE_NAMES["cookie"].expected)
    return text.encode()


def _parse_prefix(text: str) -> bytes:
    if not _TOKEN.fullmatch(text):
        raise ValueError(SOURCE_NAMES["subprotocol"].expected)
    return text.encode()


NETWORK: Final = Kind("an address or a network such as 10.1.2.0/24 or 2001:db8::/32", parse_network)
BEARER: Final = Kind(SOURCE_WORDS, _parse_bearer)
IPV6_PREFIX: Final = Kind("a whole number from 1 to 128", _parse_ipv6_prefix)
SOURCE_NAMES: Final = {
    "query": Kind("the name of a query parameter", _parse_parameter),
    "cookie": Kind("the name of a cookie, without spaces and separators", _parse_cookie),
    "subprotocol": Kind("the prefix of a subprotocol, without spaces and separators", _parse_prefix),
}


def read_identity(reading: Reading, top: Table) -> IdentityRules | None:
    """The section, or its defaults where there is none."""
    if "identity" not in top.entries:
        return IdentityRules()
    table = reading.fields(top.entries["identity"], "a mapping", KEYS)
    if table is None:
        return None
    sources = _read_sources(reading, table.entries["user"]) if "user" in table.entries else DEFAULT_SOURCES
    proxies = _read_networks(reading, table.entries["trusted_proxies"]) if "trusted_proxies" in table.entries else ()
    ipv6_prefix = reading.optional(table, "ipv6_prefix", IPV6_PREFIX, 64)
    secret = _read_secret(reading, table)
    if sources is None or proxies is None or ipv6_prefix is None or secret is None:
        return None
    return IdentityRules(sources, proxies, ipv6_prefix, secret)


def _read_networks(reading: Reading, node: Node) -> tuple[Network, ...] | None:
    items = reading.items(node, NETWORKS_WORDS)
    return None if items is None else whole([reading.scalar(item, NETWORK) for item in items])


def _read_sources(reading: Reading, node: Node) -> tuple[TokenSource, ...] | None:
    items = reading.items(node, SOURCES_WORDS)
    if items is None:
        return None
    sources = [_read_source(reading, item) for item in items]
    seen: set[TokenSource] = set()
    for item, source in zip(items, sources, strict=True):
        if source in seen:
            reading.report(item.place, "each place once", "the same again")
        elif source is not None:
            seen.add(source)
    return whole(sources)


def _read_source(reading: Reading, node: Node) -> TokenSource | None:
    if not isinstance(node, Table):
        return reading.scalar(node, BEARER)
    table = reading.fields(node, SOURCE_WORDS, tuple(SOURCE_NAMES))
    names = [key for key in node.entries if key in SOURCE_NAMES]
    if table is None or len(names) != 1:
        if not node.entries or names:
            reading.report(node.place, SOURCE_WORDS, f"{len(names)} places in one" if names else "an empty mapping")
        return None
    name = reading.scalar(node.entries[names[0]], SOURCE_NAMES[names[0]])
    return None if name is None else TokenSource(SourceKind(names[0]), name)


def _read_secret(reading: Reading, table: Table) -> bytes | None:
    secret, file = table.entries.get("secret"), table.entries.get("secret_file")
    if secret and file:
        reading.report(table.keys["secret_file"], "either secret or secret_file", "both")
    if secret:
        return _secret_of_text(reading, secret)
    if file:
        return _secret_of_file(reading, file)
    return DOCUMENTED_SECRET


def _secret_of_text(reading: Reading, node: Node) -> bytes | None:
    """The value itself must never be shown, so this asks for no kind of scalar."""
    text = reading.text(node, NOT_EMPTY)
    if text and not text.value:
        reading.report(text.place, NOT_EMPTY, "nothing")
    return text.value.encode() if text and text.value else None


def _secret_of_file(reading: Reading, node: Node) -> bytes | None:
    """The content of a file without the newline at its end. A relative path is taken from the folder of the configuration."""
    path = reading.scalar(node, FILE)
    if path is None:
        return None
    try:
        with beside(node.place, path).open("rb") as file:
            content = file.read(MAX_SECRET_FILE + 1)
    except OSError as error:
        reading.report(node.place, "a file that can be read", f"{error.strerror}")
        return None
    if len(content) > MAX_SECRET_FILE:
        reading.report(node.place, f"a file of at most {MAX_SECRET_FILE >> 10} KiB", "a larger one")
        return None
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content:
        reading.report(node.place, "a file that holds a secret", "an empty one")
    return content or None
