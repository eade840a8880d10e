"""TLS on both sides: contexts made once, at start, from what the configuration names.

A TLS transport is no TCP transport: it cannot be half open, its close waits for the peer's, and what it has decrypted but not given to
a protocol that does not read is lost when the stream ends. The last is `keep_the_end`'s business.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Protocol, cast

from proxy.policy.upstreams import TcpAddress, Upstream
from proxy.server.linger import LAST_BYTES, LINGER

ALPN: Final = ["http/1.1"]  # RFC 7301: a WebSocket upgrade is HTTP/1.1
SHUTDOWN_TIMEOUT: Final = LINGER + LAST_BYTES  # seconds that a close takes at most; by itself asyncio waits 30 s for the peer's


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """For clients. TLS 1.2 at least. Raises OSError (ssl.SSLError among them) when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    context.load_cert_chain(certificate, key)
    return context


def upstream_context(upstream: Upstream) -> ssl.SSLContext | None:
    """For dialing an upstream; None where that is done in the clear.

    It trusts the system's authorities, or those of the upstream's `ca`; without `verify` nobody is asked who he is.
    """
    tls = upstream.tls
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_name(upstream: Upstream) -> str:
    """Whom the upstream's certificate must name, and what is sent as SNI."""
    assert upstream.tls is not None and isinstance(upstream.address, TcpAddress)
    return upstream.tls.server_name or upstream.address.host


class _TlsTransport(Protocol):
    def set_read_buffer_limits(self, high: int, low: int) -> None: ...


def keep_the_end(transport: asyncio.BaseTransport) -> None:
    """Let a TLS transport not read ahead of its protocol: bytes that wait in it would be thrown away at the end of the stream."""
    cast(_TlsTransport, transport).set_read_buffer_limits(high=1, low=0)
