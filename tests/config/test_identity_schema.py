"""The `identity` section: where tokens stand, who is believed, and a secret that nothing ever repeats."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.config import Config, ConfigError, Overrides, load, parse
from proxy.config.identity_schema import MAX_SECRET_FILE, parse_network
from proxy.policy.identity import DOCUMENTED_SECRET, IdentityRules
from proxy.policy.tokens import DEFAULT_SOURCES, SourceKind, TokenSource

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

SOURCE = "bearer, {query: NAME}, {cookie: NAME} or {subprotocol: PREFIX}"
NETWORK = "an address or a network such as 10.1.2.0/24 or 2001:db8::/32"


@pytest.mark.parametrize("text", ["", "identity: {}", "identity: {trusted_proxies: []}", "identity:\n  trusted_proxies:\n"])
def test_without_a_section_the_defaults_of_the_contract_hold(text: str, config: Read) -> None:
    assert config(text).identity == IdentityRules(DEFAULT_SOURCES, (), 64, DOCUMENTED_SECRET)


def test_every_key_is_read(config: Read) -> None:
    text = 'identity: {user: [{subprotocol: "auth."}, {cookie: sid}, {query: "ключ"}, bearer], trusted_proxies: [10.1.2.0/24, "::1"], ipv6_prefix: 56, secret: s}'
    assert config(text).identity == IdentityRules(
        (
            TokenSource(SourceKind.SUBPROTOCOL, b"auth."),
            TokenSource(SourceKind.COOKIE, b"sid"),
            TokenSource(SourceKind.QUERY, "ключ".encode()),
            TokenSource(SourceKind.BEARER),
        ),
        (ip_network("10.1.2.0/24"), ip_network("::1")),
        56,
        b"s",
    )


def test_an_empty_list_of_places_makes_everybody_anonymous(config: Read) -> None:
    assert config("identity: {user: []}").identity.sources == ()


@pytest.mark.parametrize(
    ("section", "mistake"),
    [
        ("x", "2:11: identity: expected a mapping, found text"),
        ("[a]", "2:11: identity: expected a mapping, found a list"),
        ("", "2:10: identity: expected a mapping, found nothing"),
        (
            "{usr: []}",
            "2:12: identity.usr: expected user, trusted_proxies, ipv6_prefix, secret or secret_file (did you mean user?), found the unknown key usr",
        ),
        (
            "{user: bearer}",
            "2:18: identity.user: expected a list of bearer, {query: NAME}, {cookie: NAME} and {subprotocol: PREFIX}, found text",
        ),
        ("{user: [token]}", f'2:19: identity.user[0]: expected {SOURCE}, found "token"'),
        ("{user: [[bearer]]}", f"2:19: identity.user[0]: expected {SOURCE}, found a list"),
        ("{user: [{}]}", f"2:19: identity.user[0]: expected {SOURCE}, found an empty mapping"),
        ("{user: [{bearer: x}]}", "2:20: identity.user[0].bearer: expected query, cookie or subprotocol, found the unknown key bearer"),
        ("{user: [{query: a, cookie: b}]}", f"2:19: identity.user[0]: expected {SOURCE}, found 2 places in one"),
        ("{user: [{query: ''}]}", '2:27: identity.user[0].query: expected the name of a query parameter, found ""'),
        ("{user: [{query: [a]}]}", "2:27: identity.user[0].query: expected the name of a query parameter, found a list"),
        (
            "{user: [{cookie: a=b}]}",
            '2:28: identity.user[0].cookie: expected the name of a cookie, without spaces and separators, found "a=b"',
        ),
        (
            "{user: [{subprotocol: a b}]}",
            '2:33: identity.user[0].subprotocol: expected the prefix of a subprotocol, without spaces and separators, found "a b"',
        ),
        ("{user: [bearer, bearer]}", "2:27: identity.user[1]: expected each place once, found the same again"),
        ("{user: [{query: a}, {query: b}, {query: a}]}", "2:43: identity.user[2]: expected each place once, found the same again"),
        (
            "{trusted_proxies: 10.0.0.0/8}",
            "2:29: identity.trusted_proxies: expected a list of addresses and networks such as 10.1.2.0/24, found text",
        ),
        ("{trusted_proxies: [x]}", f'2:30: identity.trusted_proxies[0]: expected {NETWORK}, found "x"'),
        (
            "{trusted_proxies: [10.1.2.3/24]}",
            '2:30: identity.trusted_proxies[0]: expected 10.1.2.0/24, or 10.1.2.3 for the one address, found "10.1.2.3/24"',
        ),
        ("{ipv6_prefix: 0}", '2:25: identity.ipv6_prefix: expected a whole number from 1 to 128, found "0"'),
        ("{ipv6_prefix: 129}", '2:25: identity.ipv6_prefix: expected a whole number from 1 to 128, found "129"'),
        ("{ipv6_prefix: /64}", '2:25: identity.ipv6_prefix: expected a whole number such as 0, 3 or 2000, found "/64"'),
        ("{secret: ''}", "2:20: identity.secret: expected a text that is not empty, or no such key, found nothing"),
        ("{secret: }", "2:19: identity.secret: expected a text that is not empty, or no such key, found nothing"),
        ("{secret: [hunter2]}", "2:20: identity.secret: expected a text that is not empty, or no such key, found a list"),
        ("{secret: '${EMPTY}'}", "2:20: identity.secret: expected a text that is not empty, or no such key, found nothing"),
        ("{secret: hunter2, secret_file: /dev/null}", None),
        ("{secret_file: ''}", '2:25: identity.secret_file: expected the path of a file, found ""'),
        ('{secret_file: "a\\0b"}', '2:25: identity.secret_file: expected the path of a file, found "a\\x00b"'),
    ],
)
def test_each_mistake_is_told_where_it_stands(section: str, mistake: str | None, mistakes: Mistakes) -> None:
    expected = mistake or "2:29: identity.secret_file: expected either secret or secret_file, found both"
    assert mistakes(f"identity: {section}", {"EMPTY": ""}) == [expected]


@pytest.mark.parametrize("text", ["10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::1", "::/0", "2001:DB8::/32"])
def test_networks_are_read(text: str) -> None:
    assert parse_network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001:db8::1/32", "2001:db8::/32, or 2001:db8::1 for the one address"),
        ("1.2.3.4/0", "0.0.0.0/0, or 1.2.3.4 for the one address"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8 (an IPv4 address is never seen in its IPv6 spelling)"),
        ("::ffff:10.1.2.3", "10.1.2.3/32 (an IPv4 address is never seen in its IPv6 spelling)"),
        *(
            (text, NETWORK)
            for text in [
                "",
                "10.1.2",
                "10.1.2.0/33",
                "10.1.2.0/255.255.255.0",
                "fe80::1%eth0",
                "10.1.2.0/",
                "1",
                "\u0661.1.1.1",
                "a/b",
                "[::1]",
                "1.2.3.4:80",
            ]
        ),
    ],
)
def test_networks_that_would_not_mean_what_they_say_are_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"an address|for the one address|IPv6 spelling") as error:
        parse_network(text)
    assert str(error.value) == expected


def test_the_secret_may_come_from_the_environment(config: Read) -> None:
    assert config("identity: {secret: '${S}'}", {"S": "geheim: ü\n"}).identity.secret == "geheim: ü\n".encode()


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"s", b"s"),
        (b"s\n", b"s"),
        (b"s\r\n", b"s"),
        (b"s\n\n", b"s\n"),
        (b" s ", b" s "),
        (b"\xff\0", b"\xff\0"),
        (b"x" * MAX_SECRET_FILE, b"x" * MAX_SECRET_FILE),
    ],
)
def test_the_secret_may_come_from_a_file_beside_the_configuration(content: bytes, secret: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    (tmp_path / "gate.yaml").write_text("upstreams: {game: {url: ws://h}}\nidentity: {secret_file: secret}\n")
    assert load(str(tmp_path / "gate.yaml"), {}).identity.secret == secret


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (None, "expected a file that can be read, found No such file or directory"),
        (b"", "expected a file that holds a secret, found an empty one"),
        (b"\n", "expected a file that holds a secret, found an empty one"),
        (b"x" * (MAX_SECRET_FILE + 1), "expected a file of at most 64 KiB, found a larger one"),
    ],
)
def test_a_file_without_a_secret_is_a_mistake(content: bytes | None, mistake: str, tmp_path: Path, mistakes: Mistakes) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    assert mistakes(f"identity: {{secret_file: {file}}}") == [f"2:25: identity.secret_file: {mistake}"]


def test_a_folder_is_no_secret(tmp_path: Path, mistakes: Mistakes) -> None:
    assert mistakes(f"identity: {{secret_file: {tmp_path}}}") == [
        "2:25: identity.secret_file: expected a file that can be read, found Is a directory"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "identity: {secret: [hunter2]}",
        "identity: {secret: {hunter2: hunter2}}",
        "identity: {secrt: hunter2}",
        "identity: {secret hunter2}",
        "identity: {secret:hunter2}",
        "identity: secret hunter2",
        "identity: hunter2",
        "identity: [hunter2]",
        "identity: {secret: hunter2, secret: hunter2}",
        "identity: {secret: hunter2, secret_file: hunter2/hunter3}",
        "identity: {secret: !x hunter2}",
        "identity: {secret: 'hunter2}",
        "identity: {secret: hunter2${NOPE}}",
        "identity: {ipv6_prefix: '${SECRET}', trusted_proxies: ['${SECRET}'], user: ['${SECRET}', {cookie: 'a ${SECRET}'}]}",
        "identity: {secret_file: '/nowhere/${SECRET}'}",
        "listen: ${SECRET}\nadmin: ${SECRET}\nstore: ${SECRET}\nmode: ${SECRET}\nrefuse_with: ${SECRET}",
        "routes: [{name: 'a ${SECRET}', path: '/{${SECRET}}', upstream: '${SECRET}', room: '{${SECRET}', room_case: '${SECRET}'}]",
        "rules: [{name: ' ${SECRET}', per: ['${SECRET}'], messages: '${SECRET}', burst: '${SECRET}', when: {route: '${SECRET}', ip: '1.2.3.4/${SECRET}'}}]",
        "tls: {certificate: '/nowhere/${SECRET}', key: 'tests/${SECRET}'}",
        "drain: ${SECRET}\nlimits: {max_connections: '${SECRET}', head_size: '${SECRET}'}\nlog: {level: '${SECRET}', access: '${SECRET}'}",
        "tunnel: {buffer: '${SECRET}', keepalive: {idle: '${SECRET}', count: '${SECRET}'}, user_timeout: '${SECRET}'}",
        "store: redis://user:hunter2@host/x",
    ],
)
def test_no_mistake_repeats_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("upstreams: {game: {url: 'ws://u:hunter2@h'}}\n" + text, "f", {"SECRET": "hunter2"}, Overrides(store="redis://:hunter2@h/x"))
    told = str(error.value).replace('"hunter2/hunter3"', "")
    assert "hunter2" not in told
