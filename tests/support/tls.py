"""A small public-key infrastructure: an authority, and the certificate of `game.test` and 127.0.0.1 that it signed. Valid 2020 to 2120."""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"
AUTHORITY = CERTIFICATES / "authority.pem"
CERTIFICATE = CERTIFICATES / "server.pem"
KEY = CERTIFICATES / "server.key"

LISTENING = f"tls: {{certificate: '{CERTIFICATE}', key: '{KEY}'}}\n"  # YAML
TRUSTING = f"{{ca: '{AUTHORITY}'}}"  # YAML, of an upstream


def client_tls(*alpn: str) -> ssl.SSLContext:
    """Of a client that trusts the authority."""
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def backend_tls(asked: list[str | None] | None = None) -> ssl.SSLContext:
    """Of a backend. `asked` collects the names that clients ask for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    if asked is not None:
        context.sni_callback = lambda _socket, name, _context: asked.append(name)
    return context
