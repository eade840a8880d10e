"""Addresses: what each spelling means, and what two readers could read in two ways."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.upstreams import (
    MAX_UNIX_PATH,
    Address,
    TcpAddress,
    UnixAddress,
    Upstream,
    UpstreamTls,
    UpstreamUrl,
    parse_listen,
    parse_server_name,
    parse_tcp,
    parse_upstream_url,
)

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", TcpAddress("0.0.0.0", 8080)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::]:8080", TcpAddress("::", 8080)),
        ("[0:0::1]:65535", TcpAddress("::1", 65535)),
        ("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
        ("my_game.internal.:9000", TcpAddress("my_game.internal.", 9000)),
        ("unix:/run/gate.sock", UnixAddress("/run/gate.sock")),
        ("unix:/run/with space", UnixAddress("/run/with space")),
        ("unix:/" + "x" * (MAX_UNIX_PATH - 1), UnixAddress("/" + "x" * (MAX_UNIX_PATH - 1))),
    ],
)
def test_we_listen_on_a_host_and_port_or_a_unix_socket(text: str, address: Address) -> None:
    assert parse_listen(text) == address
    if isinstance(address, TcpAddress):
        assert parse_tcp(text) == address
        assert parse_tcp(str(address)) == address
    else:
        assert str(address) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", "with a host"),
        ("", "with a host"),
        ("localhost", "with a port"),
        ("8080", "IPv4 address of four numbers"),
        ("localhost:", "a host and a port"),
        ("::1:80", "with a host"),
        ("2001:db8::1:80", "a host and a port"),
        ("[::1]", "with a port"),
        ("[::1]80", "a host and a port"),
        ("[::1]:", "a host and a port"),
        ("[127.0.0.1]:80", "IPv6 address in the brackets"),
        ("[]:80", "IPv6 address in the brackets"),
        ("[::1%a b]:80", "IPv6 address in the brackets"),
        ("[x]:80", "IPv6 address in the brackets"),
        ("1.2.3:80", "IPv4 address of four numbers"),
        ("1.2.3.256:80", "IPv4 address of four numbers"),
        ("01.2.3.4:80", "IPv4 address of four numbers"),
        ("host.1:80", "IPv4 address of four numbers"),
        ("host:65536", "at most 65535"),
        ("host:+80", "a host and a port"),
        ("host:\u0668\u0660", "a host and a port"),
        ("host:80\n", "a host and a port"),
        ("host:000080", "a host and a port"),
        ("ho st:80", "a host name"),
        ("-host:80", "a host name"),
        ("host..x:80", "a host name"),
        ("*:80", "a host name"),
        ("h\u00f6st:80", "a host name"),
        ("\u0661.\u0661.\u0661.\u0661:80", "a host name"),
        ("a" * 64 + ":80", "a host name"),
        (".".join(["a" * 63] * 4) + ":80", "a host name"),
        ("ws://host:80", "a host and a port"),
        ("unix:", "absolute path"),
        ("unix:run/x", "absolute path"),
        ("unix://run/x", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/a\0b", "printable"),
        ("unix:/a\udcff", "printable"),
        ("unix:/" + "x" * MAX_UNIX_PATH, "at most 107 bytes"),
        ("unix:/" + "\u00fc" * 54, "at most 107 bytes"),
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ws://127.0.0.1:9000", TcpAddress("127.0.0.1", 9000)),
        ("http://game", TcpAddress("game", 80)),
        ("WS://game:1", TcpAddress("game", 1)),
        ("ws://[::1]", TcpAddress("::1", 80)),
        ("ws://[::1]:9000", TcpAddress("::1", 9000)),
        ("unix:/run/game.sock", UnixAddress("/run/game.sock")),
    ],
)
def test_an_upstream_is_a_url_without_a_path(text: str, address: Address) -> None:
    assert parse_upstream_url(text) == UpstreamUrl(address, secure=False)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("wss://game", TcpAddress("game", 443)),
        ("https://game", TcpAddress("game", 443)),
        ("HTTPS://game:8443", TcpAddress("game", 8443)),
        ("wss://game:80", TcpAddress("game", 80)),
        ("wss://[::1]", TcpAddress("::1", 443)),
    ],
)
def test_tls_is_spoken_where_the_url_says_so_by_default_on_its_own_port(text: str, address: Address) -> None:
    assert parse_upstream_url(text) == UpstreamUrl(address, secure=True)


def test_the_defaults_of_an_upstream_are_those_of_the_contract() -> None:
    upstream = Upstream("game", TcpAddress("h", 80))
    assert (upstream.connect_timeout, upstream.handshake_timeout, upstream.tls, upstream.max_pending) == (5.0, 10.0, None, 512)
    tls = UpstreamTls()
    assert (tls.ca, tls.server_name, tls.verify) == (None, None, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a URL such as"),
        ("game:9000", "a URL such as"),
        ("//game", "a URL such as"),
        ("ftp://game", "a URL such as"),
        ("ws:game", "a URL such as"),
        ("wsss://game", "a URL such as"),
        ("wss:game", "a URL such as"),
        ("wss://game:0", "a port from 1"),
        ("wss://game/", "the request's own path goes upstream"),
        ("wss://user:hunter2@game", "without user and password"),
        ("ws://user@game", "without user and password"),
        ("ws://user:hunter2@game/x", "without user and password"),
        ("ws://game/", "the request's own path goes upstream"),
        ("ws://game/path", "the request's own path goes upstream"),
        ("ws://game?x", "the request's own path goes upstream"),
        ("ws://game#x", "the request's own path goes upstream"),
        ("ws://", "a host name"),
        ("ws://:80", "a host name"),
        ("ws://game:", "a host and a port"),
        ("ws://game:0", "a port from 1"),
        ("ws://game:65536", "at most 65535"),
        ("ws://game\\x", "a host name"),
        ("ws://game\n", "a host name"),
        ("ws://1.2.3", "IPv4 address of four numbers"),
        ("unix://game", "absolute path"),
    ],
)
def test_an_upstream_that_could_be_read_in_two_ways_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        parse_upstream_url(text)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("game.internal", "game.internal"),
        ("my_game", "my_game"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("xn--hst-sna.test", "xn--hst-sna.test"),
    ],
)
def test_a_server_name_is_a_host_or_an_address_as_certificates_have_them(text: str, name: str) -> None:
    assert parse_server_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "game.",
        "game:443",
        "[::1]",
        "fe80::1%eth0",
        "*.game",
        "h\u00f6st",
        "ga me",
        "-game",
        "1.2.3",
        "10.0.0.256",
        "wss://game",
        ":",
        "g%",
    ],
)
def test_what_no_certificate_can_name_is_no_server_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the name in the upstream's certificate: a host name or an address, "):
        parse_server_name(text)


@given(st.text() | st.text("ab.:-_0123456789xn"))
def test_the_library_that_asks_for_a_server_name_takes_each_that_we_take(text: str) -> None:
    try:
        name = parse_server_name(text)
    except ValueError:
        return
    CONTEXT.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


@given(st.text() | st.text("ws:/unix[].0123456789@%a-_#?"))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for parse in (parse_listen, parse_tcp, lambda text: parse_upstream_url(text).address):
        try:
            address = parse(text)
        except ValueError:
            continue
        assert parse_listen(str(address)) == address
