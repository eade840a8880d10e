"""The two keys `tls`: the certificate that clients see, and how those of backends are judged.

Files are loaded here once, by the library that will use them, so that one which cannot work is a mistake with a place, and no surprise
behind open ports. What they hold is never repeated.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from proxy.config.reading import FILE, FLAG, Kind, Reading, beside
from proxy.config.yaml_nodes import Node, Table
from proxy.policy.upstreams import SERVER_NAME_WORDS, UpstreamTls, UpstreamUrl, parse_server_name

SERVER_KEYS: Final = ("certificate", "key")
UPSTREAM_KEYS: Final = ("ca", "server_name", "verify")

CERTIFICATES_WORDS: Final = "a PEM file with at least one certificate"
KEY_WORDS: Final = "a PEM file with a private key"

SERVER_NAME: Final = Kind(SERVER_NAME_WORDS, parse_server_name)

# OpenSSL's reasons for a key that is not the certificate's; the last one comes where even the kinds of key differ.
_MISMATCHES: Final = frozenset(("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"))


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The paths of what clients see, both PEM: the certificate with its chain, and its key, which is not encrypted."""

    certificate: str
    key: str


def read_server_tls(reading: Reading, top: Table) -> ServerTls | None:
    """The section; None where there is none, and after a problem."""
    if "tls" not in top.entries:
        return None
    table = reading.fields(top.entries["tls"], "a mapping such as {certificate: gate.pem, key: gate.key}", SERVER_KEYS)
    if table is None:
        return None
    certificate_node = reading.required_node(table, "certificate", CERTIFICATES_WORDS)
    key_node = reading.required_node(table, "key", KEY_WORDS)
    certificate = None if certificate_node is None else _read_certificates(reading, certificate_node)
    key = None if key_node is None else _read_path(reading, key_node)
    if certificate_node is None or key_node is None or certificate is None or key is None:
        return None
    _check_pair(reading, table, certificate, key)
    return ServerTls(certificate, key)


def read_upstream_tls(reading: Reading, upstream: Table, url: UpstreamUrl | None) -> UpstreamTls | None:
    """The section of an upstream, or its defaults; None where the connection is plain, and after a problem. `url`: None after a problem."""
    if "tls" not in upstream.entries:
        return UpstreamTls() if url and url.secure else None
    if url and not url.secure:
        reading.report(upstream.keys["tls"], "no tls: only wss:// and https:// speak it", "tls")
    table = reading.fields(upstream.entries["tls"], "a mapping such as {ca: ca.pem}", UPSTREAM_KEYS)
    if table is None:
        return None
    ca = _read_certificates(reading, table.entries["ca"]) if "ca" in table.entries else None
    server_name = reading.scalar(table.entries["server_name"], SERVER_NAME) if "server_name" in table.entries else None
    verify = reading.optional(table, "verify", FLAG, default=True)
    if verify is False and "ca" in table.entries:
        reading.report(table.keys["ca"], "no ca: under verify false nobody asks for it", "a ca")
    return None if verify is None else UpstreamTls(ca, server_name, verify)


def _read_path(reading: Reading, node: Node) -> str | None:
    """The path of a file that can be read, more than once."""
    text = reading.scalar(node, FILE)
    if text is None:
        return None
    path = beside(node.place, text)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # to open a pipe would wait for its writer
            reading.report(node.place, "a file", "a pipe or a device")
            return None
        with path.open("rb"):
            return str(path)
    except OSError as error:
        _report_unreadable(reading, node, error)
        return None


def _report_unreadable(reading: Reading, node: Node, error: OSError) -> None:
    reading.report(node.place, "a file that can be read", f"{error.strerror}")


def _read_certificates(reading: Reading, node: Node) -> str | None:
    """The path of a file of certificates, each of which OpenSSL understands."""
    path = _read_path(reading, node)
    if path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        reading.report(node.place, CERTIFICATES_WORDS, "one without" if error.reason else "one that is damaged")
        return None
    except OSError as error:
        _report_unreadable(reading, node, error)
        return None
    if not context.cert_store_stats()["x509"]:
        reading.report(node.place, CERTIFICATES_WORDS, "one without")
        return None
    return path


def _check_pair(reading: Reading, table: Table, certificate: str, key: str) -> None:
    """Do they fit each other? The certificate alone is judged already, so what OpenSSL gives no reason for is about the key."""
    is_encrypted = False

    def refuse_password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, refuse_password)
    except ssl.SSLError as error:
        place = table.entries["key"].place
        if is_encrypted:
            reading.report(place, f"{KEY_WORDS} that is not encrypted", "an encrypted one")
        elif error.reason in _MISMATCHES:
            reading.report(place, "the key of tls.certificate", "the key of another certificate")
        elif error.reason:
            reason = error.reason.lower().replace("_", " ")
            reading.report(table.entries["certificate"].place, "a certificate that OpenSSL accepts", f"one that it refuses: {reason}")
        else:
            reading.report(place, KEY_WORDS, "no key that OpenSSL can read")
    except OSError as error:
        _report_unreadable(reading, table.entries["key"], error)
