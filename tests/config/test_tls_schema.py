"""The two keys `tls`: files that OpenSSL would refuse later are told now, each with its reason and its place."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.config import Config, ConfigError, ServerTls, load, parse
from proxy.policy.upstreams import UpstreamTls

CERTIFICATES = Path(__file__).parent / "certificates"

CERTIFICATE = "a PEM file with at least one certificate"
KEY = "a PEM file with a private key"
NAME = "the name in the upstream's certificate: a host name or an address, without port, brackets and final dot"
UNREADABLE = "expected a file that can be read, found"

Read = Callable[..., Config]
Told = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a configuration, with good files and all kinds of bad ones."""
    shutil.copytree(CERTIFICATES, tmp_path, dirs_exist_ok=True)
    certificate, key = (tmp_path / "gate.pem").read_text(), (tmp_path / "gate.key").read_text()
    damaged = certificate.replace("-----\nMI", "-----\nXX")
    assert damaged != certificate
    (tmp_path / "damaged.pem").write_text(damaged)
    (tmp_path / "damaged.key").write_text(key.replace("-----\nMI", "-----\nXX"))
    (tmp_path / "chain.pem").write_text(certificate + (tmp_path / "other.pem").read_text())
    (tmp_path / "reversed.pem").write_text((tmp_path / "other.pem").read_text() + certificate)
    (tmp_path / "damaged_chain.pem").write_text(certificate + damaged)
    (tmp_path / "both.pem").write_text("# Schlüssel und Zertifikat\n" + key + certificate)
    (tmp_path / "locked.pem").write_text(certificate + (tmp_path / "encrypted.key").read_text())
    (tmp_path / "binary.pem").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Read:
    """A text read as a file in the folder."""

    def read(text: str, environ: Mapping[str, str] | None = None) -> Config:
        return parse(text, str(folder / "f"), environ or {})

    return read


@pytest.fixture
def told(folder: Path, config: Read) -> Told:
    """The mistakes of such a text."""

    def tell(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as error:
            config(text, environ)
        return [str(problem).removeprefix(f"{folder / 'f'}:") for problem in error.value.problems]

    return tell


def server(fields: str) -> str:
    return f"upstreams: {{a: {{url: ws://h}}}}\ntls: {{{fields}}}"


def upstream(fields: str, url: str = "wss://h") -> str:
    return f"upstreams:\n  a:\n    url: {url}\n    tls: {{{fields}}}"


# --- what clients see


def test_without_a_section_clients_come_in_plain(config: Read) -> None:
    assert config("upstreams: {a: {url: ws://h}}").tls is None


@pytest.mark.parametrize(
    ("certificate", "key"),
    [("gate.pem", "gate.key"), ("chain.pem", "gate.key"), ("both.pem", "both.pem"), ("./gate.pem", "gate.key"), ("gate.pem", "both.pem")],
)
def test_relative_paths_start_where_the_configuration_lies(certificate: str, key: str, folder: Path, config: Read) -> None:
    expected = ServerTls(str(folder / certificate), str(folder / key))
    assert config(server(f"certificate: {certificate}, key: {key}")).tls == expected
    (folder / "gate.yaml").write_text(server(f"certificate: {certificate}, key: {key}"))
    assert load(str(folder / "gate.yaml"), {}).tls == expected


def test_absolute_paths_are_taken_as_they_are(folder: Path) -> None:
    text = server(f"certificate: '{folder}/gate.pem', key: '${{KEY}}'")
    assert parse(text, "elsewhere/f", {"KEY": f"{folder}/gate.key"}).tls == ServerTls(f"{folder}/gate.pem", f"{folder}/gate.key")


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ("", [f"2:6: tls.certificate: expected {CERTIFICATE}, found nothing", f"2:6: tls.key: expected {KEY}, found nothing"]),
        ("certificate: gate.pem", [f"2:6: tls.key: expected {KEY}, found nothing"]),
        ("key: gate.key", [f"2:6: tls.certificate: expected {CERTIFICATE}, found nothing"]),
        (
            "certificate: , key: ''",
            ["2:19: tls.certificate: expected the path of a file, found nothing", '2:27: tls.key: expected the path of a file, found ""'],
        ),
        ("certificate: [gate.pem], key: gate.key", ["2:20: tls.certificate: expected the path of a file, found a list"]),
        (
            "certificate: gate.pem, key: gate.key, ca: x",
            ["2:45: tls.ca: expected certificate or key, found the unknown key ca"],
        ),
        (
            "certificate: nowhere, key: nowhere/else",
            [f"2:20: tls.certificate: {UNREADABLE} No such file or directory", f"2:34: tls.key: {UNREADABLE} No such file or directory"],
        ),
        ("certificate: ., key: gate.key", [f"2:20: tls.certificate: {UNREADABLE} Is a directory"]),
        ("certificate: gate.pem, key: gate.pem/x", [f"2:35: tls.key: {UNREADABLE} Not a directory"]),
        ("certificate: pipe, key: gate.key", ["2:20: tls.certificate: expected a file, found a pipe or a device"]),
        ("certificate: gate.pem, key: /dev/zero", ["2:35: tls.key: expected a file, found a pipe or a device"]),
        ("certificate: /proc/self/mem, key: gate.key", [f"2:20: tls.certificate: {UNREADABLE} Input/output error"]),
        ("certificate: gate.pem, key: /proc/self/mem", [f"2:35: tls.key: {UNREADABLE} Input/output error"]),
        ("certificate: empty, key: gate.key", [f"2:20: tls.certificate: expected {CERTIFICATE}, found one without"]),
        ("certificate: binary.pem, key: gate.key", [f"2:20: tls.certificate: expected {CERTIFICATE}, found one without"]),
        ("certificate: gate.key, key: gate.key", [f"2:20: tls.certificate: expected {CERTIFICATE}, found one without"]),
        ("certificate: damaged.pem, key: gate.key", [f"2:20: tls.certificate: expected {CERTIFICATE}, found one that is damaged"]),
        ("certificate: damaged_chain.pem, key: gate.key", [f"2:20: tls.certificate: expected {CERTIFICATE}, found one that is damaged"]),
        (
            "certificate: weak.pem, key: gate.key",
            ["2:20: tls.certificate: expected a certificate that OpenSSL accepts, found one that it refuses: ee key too small"],
        ),
        ("certificate: gate.pem, key: empty", [f"2:35: tls.key: expected {KEY}, found no key that OpenSSL can read"]),
        ("certificate: gate.pem, key: binary.pem", [f"2:35: tls.key: expected {KEY}, found no key that OpenSSL can read"]),
        ("certificate: gate.pem, key: gate.pem", [f"2:35: tls.key: expected {KEY}, found no key that OpenSSL can read"]),
        ("certificate: gate.pem, key: damaged.key", [f"2:35: tls.key: expected {KEY}, found no key that OpenSSL can read"]),
        ("certificate: gate.pem, key: encrypted.key", [f"2:35: tls.key: expected {KEY} that is not encrypted, found an encrypted one"]),
        ("certificate: locked.pem, key: locked.pem", [f"2:37: tls.key: expected {KEY} that is not encrypted, found an encrypted one"]),
        (
            "certificate: gate.pem, key: other.key",
            ["2:35: tls.key: expected the key of tls.certificate, found the key of another certificate"],
        ),
        (
            "certificate: gate.pem, key: ed25519.key",
            ["2:35: tls.key: expected the key of tls.certificate, found the key of another certificate"],
        ),
        (
            "certificate: reversed.pem, key: gate.key",
            ["2:39: tls.key: expected the key of tls.certificate, found the key of another certificate"],
        ),
    ],
)
def test_a_pair_that_would_not_serve_is_told_with_its_reason(fields: str, mistake: list[str], told: Told) -> None:
    assert told(server(fields)) == mistake


def test_a_section_that_is_no_mapping_is_told(told: Told) -> None:
    for text, found in [("", "2:5: tls: expected {}, found nothing"), (" x", "2:6: tls: expected {}, found text")]:
        assert told(f"upstreams: {{a: {{url: ws://h}}}}\ntls:{text}") == [
            found.format("a mapping such as {certificate: gate.pem, key: gate.key}")
        ]


def test_a_path_from_the_environment_is_not_repeated(told: Told) -> None:
    assert told(server("certificate: '/nowhere/${P}', key: '${Q}'"), {"P": "hunter2", "Q": "hun\nter2"}) == [
        f"2:20: tls.certificate: {UNREADABLE} No such file or directory",
        '2:42: tls.key: expected the path of a file, found "${Q}" (a value from the environment, not shown)',
    ]


# --- how backends are judged


@pytest.mark.parametrize(
    ("fields", "tls"),
    [
        ("", UpstreamTls()),
        ("verify: true", UpstreamTls()),
        ("verify: false", UpstreamTls(verify=False)),
        ("server_name: game.test", UpstreamTls(server_name="game.test")),
        ("server_name: '::1', verify: false", UpstreamTls(server_name="::1", verify=False)),
    ],
)
def test_the_settings_of_a_backend_are_read(fields: str, tls: UpstreamTls, config: Read) -> None:
    for url in ("wss://h", "https://h"):
        assert config(upstream(fields, url)).upstreams["a"].tls == tls


@pytest.mark.parametrize("ca", ["gate.pem", "chain.pem", "both.pem"])
def test_those_who_may_sign_come_from_a_file_beside_the_configuration(ca: str, folder: Path, config: Read) -> None:
    assert config(upstream(f"ca: {ca}")).upstreams["a"].tls == UpstreamTls(ca=str(folder / ca))
    assert config(upstream(f"ca: '{folder / ca}'")).upstreams["a"].tls == UpstreamTls(ca=str(folder / ca))


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ("ca: nowhere", f"4:15: upstreams.a.tls.ca: {UNREADABLE} No such file or directory"),
        ("ca: .", f"4:15: upstreams.a.tls.ca: {UNREADABLE} Is a directory"),
        ("ca: pipe", "4:15: upstreams.a.tls.ca: expected a file, found a pipe or a device"),
        ("ca: ''", '4:15: upstreams.a.tls.ca: expected the path of a file, found ""'),
        ("ca: empty", f"4:15: upstreams.a.tls.ca: expected {CERTIFICATE}, found one without"),
        ("ca: gate.key", f"4:15: upstreams.a.tls.ca: expected {CERTIFICATE}, found one without"),
        ("ca: revoked.pem", f"4:15: upstreams.a.tls.ca: expected {CERTIFICATE}, found one without"),
        ("ca: damaged.pem", f"4:15: upstreams.a.tls.ca: expected {CERTIFICATE}, found one that is damaged"),
        ("ca: gate.pem, verify: false", "4:11: upstreams.a.tls.ca: expected no ca: under verify false nobody asks for it, found a ca"),
        ("server_name: 'game.test:443'", f'4:24: upstreams.a.tls.server_name: expected {NAME}, found "game.test:443"'),
        ("server_name: ", f"4:23: upstreams.a.tls.server_name: expected {NAME}, found nothing"),
        ("verify: no", '4:19: upstreams.a.tls.verify: expected true or false, found "no"'),
        (
            "verfy: false",
            "4:11: upstreams.a.tls.verfy: expected ca, server_name or verify (did you mean verify?), found the unknown key verfy",
        ),
    ],
)
def test_a_mistake_about_a_backend_is_told_where_it_stands(fields: str, mistake: str, told: Told) -> None:
    assert told(upstream(fields)) == [mistake]


@pytest.mark.parametrize("url", ["ws://h", "http://h", "unix:/run/a.sock"])
def test_settings_of_tls_are_a_mistake_where_none_is_spoken(url: str, told: Told) -> None:
    assert told(upstream("verify: true", url)) == ["4:5: upstreams.a.tls: expected no tls: only wss:// and https:// speak it, found tls"]


def test_a_backends_section_that_is_no_mapping_is_told(told: Told) -> None:
    assert told("upstreams: {a: {url: wss://h, tls: true}}") == [
        "1:36: upstreams.a.tls: expected a mapping such as {ca: ca.pem}, found text"
    ]
