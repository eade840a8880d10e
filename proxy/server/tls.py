"""TLS on both sides: contexts made once, at start, from what the configuration names."""

from __future__ import annotations

import ssl
from typing import Final

from proxy.policy.upstreams import TcpAddress, Upstream

ALPN: Final = ["http/1.1"]  # RFC 7301: a WebSocket upgrade is HTTP/1.1


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
