"""What proxies in front wrote, read and written anew: one client must not be two addresses."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.forwarding import Peer, format_node, forwarded_for, forwarding_headers, parse_address
from tests.policy.heads import Fields, client


class TestForwarded:
    @pytest.mark.parametrize(
        ("line", "nodes"),
        [
            ("for=192.0.2.60", ["192.0.2.60"]),
            ("For=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
            ("proto=http;for=192.0.2.60", ["192.0.2.60"]),
            ('for="192.0.2.60:4711"', ["192.0.2.60:4711"]),
            ("for=192.0.2.60:4711", ["192.0.2.60:4711"]),
            ('for="[2001:db8:cafe::17]:4711"', ["[2001:db8:cafe::17]:4711"]),
            ("for=192.0.2.43, for=198.51.100.17", ["192.0.2.43", "198.51.100.17"]),
            ("for=_gazonk ; proto=http ,for=unknown", ["_gazonk", "unknown"]),
            ("proto=http", [""]),
            ("for=1.1.1.1;for=2.2.2.2", [""]),
            ("forx=1.1.1.1", [""]),
            (", ,for=1.1.1.1,;,", ["1.1.1.1"]),
            ('for=1.1.1.1;host="a,for=6.6.6.6"', ["1.1.1.1"]),
            ('for=1.1.1.1;host="a\\",for=6.6.6.6;x=\\""', ["1.1.1.1"]),
        ],
    )
    def test_is_read_as_rfc_7239_says(self, line: str, nodes: list[str]) -> None:
        assert forwarded_for({b"forwarded": [line.encode()]}) == [node.encode() for node in nodes]

    @pytest.mark.parametrize(
        "line",
        [
            'for="1.1.1.1, for=203.0.113.7',  # a quote that the client left open
            'for="x, for="[2001:db8::1]"',
            'for=1.1.1.1;x=", for=203.0.113.7;host="example.com"',
            'for="1.1.1.1"x',
            "for=1.1.1.1 for=2.2.2.2",
            "for 1.1.1.1",
            "1.1.1.1",
            "for=1.1.1.1;=",
            'for=1.1.1.1;host="\\',
        ],
    )
    def test_a_line_that_cannot_be_read_names_nobody(self, line: str) -> None:
        assert forwarded_for({b"forwarded": [line.encode()]}) == [b""]
        assert client("10.0.0.1", line, header=b"forwarded") == "10.0.0.1"

    def test_a_host_with_a_comma_makes_up_no_element(self) -> None:
        """Fronts quote the client's Host: split at each comma it would be an element of his own."""
        assert client("10.0.0.1", 'for=203.0.113.7;host="x,for=6.6.6.6;y=";proto=http', header=b"forwarded") == "203.0.113.7"

    @given(st.lists(st.sampled_from(["for=", "1.1.1.1", '"', "\\", ",", ";", " ", "=", "x", "[::1]"]), max_size=12).map("".join))
    @example('for=1.1.1.1,"')
    @settings(max_examples=300, deadline=None)
    def test_nothing_that_a_client_wrote_before_hides_what_the_proxy_adds(self, theirs: str) -> None:
        line = f'{theirs}, for=203.0.113.7;proto=http;host="h"'
        assert client("10.0.0.1", line, header=b"forwarded") in ("203.0.113.7", "10.0.0.1")


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7\t", "203.0.113.7"),
            ("203.0.113.7:80", "203.0.113.7"),
            ("[203.0.113.7]:80", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:cb00:7107]:443", "203.0.113.7"),
            ("fe80::1%eth0", "fe80::1"),
        ],
    )
    def test_are_read_with_ports_brackets_zones_and_mapped_ones_as_ipv4(self, text: str, address: str) -> None:
        assert str(parse_address(text.encode())) == address

    @pytest.mark.parametrize(
        "text",
        ["", "unknown", "_x", "203.0.113.7:80:90", "2001:db8::g", "[2001:db8::1", "[2001:db8::1]443", "203.0.113.7, 1.1.1.1", "\xff"],
    )
    def test_nothing_else_is_one(self, text: str) -> None:
        assert parse_address(text.encode("latin-1")) is None

    @given(st.binary(max_size=50))
    @settings(max_examples=100, deadline=None)
    def test_any_bytes_are_an_address_or_none(self, text: bytes) -> None:
        parse_address(text)

    @pytest.mark.parametrize(
        ("address", "node"), [("203.0.113.7", b"203.0.113.7"), ("2001:db8::1", b'"[2001:db8::1]"'), (None, b"unknown")]
    )
    def test_stand_in_forwarded_as_rfc_7239_wants(self, address: str | None, node: bytes) -> None:
        assert format_node(None if address is None else ip_address(address)) == node


def forwarding(peer: str, fields: Fields | None = None, *, trusted: bool = True) -> dict[str, str]:
    address = parse_address(peer.encode())
    headers = forwarding_headers(Peer(address, trusted), fields or {}, host=b"example.com", proto=b"http")
    assert [name for name, _ in headers] == [b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded"][-len(headers) :]
    return {name.decode(): value.decode() for name, value in headers}


class TestForwardingHeaders:
    def test_of_a_stranger_are_made_from_what_we_saw(self) -> None:
        spoofed = {
            b"x-forwarded-for": [b"1.1.1.1"],
            b"x-forwarded-host": [b"evil"],
            b"x-forwarded-proto": [b"https"],
            b"forwarded": [b"for=1.1.1.1"],
        }
        assert forwarding("203.0.113.7", spoofed, trusted=False) == {
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Host": "example.com",
            "X-Forwarded-Proto": "http",
            "Forwarded": 'for=203.0.113.7;host="example.com";proto=http',
        }

    def test_of_a_trusted_proxy_are_carried_on_and_added_to(self) -> None:
        told = {b"x-forwarded-for": [b"1.1.1.1", b"203.0.113.7"], b"x-forwarded-host": [b"play.example"], b"x-forwarded-proto": [b"https"]}
        assert forwarding("10.0.0.1", told) == {
            "X-Forwarded-For": "1.1.1.1, 203.0.113.7, 10.0.0.1",
            "X-Forwarded-Host": "play.example",
            "X-Forwarded-Proto": "https",
            "Forwarded": 'for=1.1.1.1, for=203.0.113.7, for=10.0.0.1;host="play.example";proto=https',
        }

    def test_the_elements_of_a_trusted_proxys_forwarded_stay_as_they_are(self) -> None:
        told = forwarding("10.0.0.1", {b"forwarded": [b'for="[2001:db8::1]:99";proto=https;by=_x', b"for=10.0.0.9"]})
        assert told["Forwarded"] == 'for="[2001:db8::1]:99";proto=https;by=_x, for=10.0.0.9, for=10.0.0.1;host="example.com";proto=http'
        assert told["X-Forwarded-For"] == "[2001:db8::1]:99, 10.0.0.9, 10.0.0.1"

    def test_a_forwarded_that_the_client_smuggled_past_a_proxy_that_writes_x_forwarded_for_is_not_carried_on(self) -> None:
        told = forwarding("10.0.0.1", {b"x-forwarded-for": [b"203.0.113.7"], b"forwarded": [b"for=6.6.6.6"]})
        assert "6.6.6.6" not in told["Forwarded"]
        assert told["Forwarded"].startswith("for=203.0.113.7, for=10.0.0.1;")

    def test_an_open_quote_of_the_client_is_not_carried_on(self) -> None:
        told = forwarding("10.0.0.1", {b"forwarded": [b'for="x, for=203.0.113.7']})
        assert told["Forwarded"] == 'for=unknown, for=10.0.0.1;host="example.com";proto=http'

    def test_what_is_no_address_is_unknown(self) -> None:
        told = forwarding("10.0.0.1", {b"x-forwarded-for": [b"garbage;for=6.6.6.6, 203.0.113.7:80"]})
        assert told["Forwarded"].startswith("for=unknown, for=203.0.113.7, for=10.0.0.1;")
        told = forwarding("10.0.0.1", {b"forwarded": [b"proto=http"]})
        assert told["X-Forwarded-For"] == "unknown, 10.0.0.1"

    def test_a_scheme_that_is_none_adds_nothing_to_our_element(self) -> None:
        assert forwarding("10.0.0.1", {b"x-forwarded-proto": [b"https;for=6.6.6.6"]})["Forwarded"].endswith(";proto=http")
        assert forwarding("10.0.0.1", {b"x-forwarded-proto": [b"http, https"]})["X-Forwarded-Proto"] == "https"

    def test_a_host_cannot_leave_its_quotes(self) -> None:
        told = forwarding("10.0.0.1", {b"x-forwarded-host": [b'a";for=6.6.6.6;x="\\']})
        assert told["Forwarded"] == 'for=10.0.0.1;host="a\\";for=6.6.6.6;x=\\"\\\\";proto=http'
        assert forwarded_for({b"forwarded": [told["Forwarded"].encode()]}) == [b"10.0.0.1"]

    def test_a_unix_peer_is_unknown_and_adds_no_address(self) -> None:
        assert forwarding("") == {
            "X-Forwarded-Host": "example.com",
            "X-Forwarded-Proto": "http",
            "Forwarded": 'for=unknown;host="example.com";proto=http',
        }
        assert forwarding("", {b"x-forwarded-for": [b"203.0.113.7"]})["X-Forwarded-For"] == "203.0.113.7"

    def test_an_ipv6_peer_is_quoted_in_forwarded_only(self) -> None:
        told = forwarding("2001:db8::1", trusted=False)
        assert told["X-Forwarded-For"] == "2001:db8::1"
        assert told["Forwarded"].startswith('for="[2001:db8::1]";')

    @given(st.lists(st.binary(max_size=20).filter(lambda line: not {10, 13} & set(line)), max_size=3), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_whatever_a_proxy_says_the_last_hop_is_the_peer_that_we_saw(self, lines: list[bytes], x: bool) -> None:
        headers = dict(
            forwarding_headers(
                Peer(ip_address("10.0.0.1"), True), {b"x-forwarded-for" if x else b"forwarded": lines}, host=b"h", proto=b"http"
            )
        )
        assert forwarded_for({b"forwarded": [headers[b"Forwarded"]]})[-1] == b"10.0.0.1"
        assert forwarded_for({b"x-forwarded-for": [headers[b"X-Forwarded-For"]]})[-1] == b"10.0.0.1"
