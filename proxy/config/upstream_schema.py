"""One entry of `upstreams`: where a backend is, and how it is dialed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from proxy.config.problems import show
from proxy.config.reading import NAME, Kind, Reading, within
from proxy.config.tls_schema import read_upstream_tls
from proxy.config.units import parse_count, parse_duration
from proxy.config.yaml_nodes import Table, Text
from proxy.policy.upstreams import (
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_HANDSHAKE_TIMEOUT,
    DEFAULT_MAX_PENDING,
    URL_WORDS,
    Upstream,
    UpstreamTls,
    UpstreamUrl,
    parse_upstream_url,
)

KEYS: Final = ("url", "connect_timeout", "handshake_timeout", "tls", "max_pending")

URL: Final = Kind(URL_WORDS, parse_upstream_url)
TIMEOUT: Final = within("a duration", parse_duration, "1ms", "5m")
MAX_PENDING: Final = within("a whole number", parse_count, "1", "1000000")


def make_upstream(name: str, url: UpstreamUrl) -> Upstream:
    """A backend of which nothing is known but its URL."""
    return Upstream(name, url.address, tls=UpstreamTls() if url.secure else None)


def replace_url(upstream: Upstream, url: UpstreamUrl) -> Upstream:
    """The same backend, somewhere else."""
    return replace(upstream, address=url.address, tls=(upstream.tls or UpstreamTls()) if url.secure else None)


def read_upstream(reading: Reading, upstreams: Table, key: str) -> Upstream | None:
    """The backend of that name; None after a problem."""
    name = reading.scalar(Text(upstreams.keys[key], key, show(key)), NAME)
    table = reading.fields(upstreams.entries[key], "a mapping such as {url: ws://127.0.0.1:9000}", KEYS)
    if table is None:
        return None
    url = reading.required(table, "url", URL)
    connect_timeout = reading.optional(table, "connect_timeout", TIMEOUT, DEFAULT_CONNECT_TIMEOUT)
    handshake_timeout = reading.optional(table, "handshake_timeout", TIMEOUT, DEFAULT_HANDSHAKE_TIMEOUT)
    tls = read_upstream_tls(reading, table, url)
    max_pending = reading.optional(table, "max_pending", MAX_PENDING, DEFAULT_MAX_PENDING)
    if name is None or url is None or connect_timeout is None or handshake_timeout is None or max_pending is None:
        return None
    return Upstream(name, url.address, connect_timeout, handshake_timeout, tls, max_pending)
