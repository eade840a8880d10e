"""Who asks: what is made of a token, whose word about an address counts, and what is counted under which key."""

from __future__ import annotations

import re
import traceback
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.forwarding import Peer
from proxy.policy.identity import DIGEST_SIZE, Principal
from proxy.policy.rules import OnExcess, Per, Quantity, Rule
from proxy.policy.tokens import IdentityError
from tests.policy.heads import ID, TRUSTING, Fields, client, cookie, identifier, user


def principal(**parts: object) -> Principal:
    given_: dict[str, object] = {
        "user": b"u" * 16,
        "anonymous": False,
        "address": IPv4Address("203.0.113.7"),
        "ip": b"\xcb\x00\x71\x07",
        "route": "r",
        "room": "lobby",
        "connection": ID,
    }
    return Principal(**{**given_, **parts})  # type: ignore[arg-type]  # as above


def rule(name: str = "rule", *per: Per) -> Rule:
    return Rule(name, per or (Per.USER,), Quantity.CONNECTIONS, 3, 0, OnExcess.REFUSE, 4008)


class TestAnonymous:
    def test_mistake_all_anonymous_users_share_one_id(self) -> None:
        someone, anonymous = identifier().user(b"", {}, b"one")
        other, _ = identifier().user(b"", {}, b"two")
        assert anonymous
        assert someone != other

    def test_a_connection_id_is_not_a_token(self) -> None:
        digest, _ = identifier().user(b"", {}, b"abc")
        assert digest != user("token=abc")


class TestDigests:
    def test_are_of_128_bits(self) -> None:
        assert DIGEST_SIZE == 16
        assert len(user("token=abc")) == 16
        assert len(identifier().user(b"", {}, ID)[0]) == 16

    def test_do_not_hold_the_token(self) -> None:
        assert b"abc" not in user("token=abc")

    def test_are_keyed_by_the_secret(self) -> None:
        secrets = [b"one", b"two", b"x" * 64, b"x" * 65, b"x" * 64 + b"y", b"x" * 1000]
        assert len({user("token=abc", secret=secret) for secret in secrets}) == len(secrets)
        assert user("token=abc", secret=b"one") == user("token=abc", secret=b"one")
        assert user("token=abc", secret=b"one") != user("token=abc")

    def test_keys_are_keyed_by_the_secret_too(self) -> None:
        one, two = (identifier(secret=secret).key(rule(), principal(), (Per.ROOM,)) for secret in (b"one", b"two"))
        assert one != two


class TestKeys:
    def test_are_the_rules_name_and_a_digest_of_128_bits(self) -> None:
        key = identifier().key(rule("user-connections"), principal(), (Per.USER,))
        assert re.fullmatch(rb"user-connections:.{16}", key, re.DOTALL)

    def test_of_two_rules_are_two(self) -> None:
        assert identifier().key(rule("a"), principal(), (Per.USER,)) != identifier().key(rule("b"), principal(), (Per.USER,))

    @pytest.mark.parametrize(
        ("per", "part", "other"),
        [
            (Per.USER, "user", b"v" * 16),
            (Per.IP, "ip", b"\xcb\x00\x71\x08"),
            (Per.ROOM, "room", "arena"),
            (Per.ROUTE, "route", "s"),
            (Per.CONNECTION, "connection", b"other"),
        ],
    )
    def test_depend_on_their_part_and_on_nothing_else(self, per: Per, part: str, other: object) -> None:
        for counted in Per:
            mine, others = (identifier().key(rule(), one, (counted,)) for one in (principal(), principal(**{part: other})))
            assert (mine == others) is (counted is not per)

    def test_of_raw_names_cannot_collide(self) -> None:
        """Length-prefixed: what moves from one part to the next is another key."""
        per = (Per.ROUTE, Per.ROOM)
        pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a\0", "bc"), ("a", "\0bc")]
        keys = {identifier().key(rule(), principal(route=route, room=room), per) for route, room in pairs}
        assert len(keys) == len(pairs)

    @given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=2, max_size=2, unique=True))
    @settings(max_examples=100, deadline=None)
    def test_of_different_principals_are_different(self, pairs: list[tuple[str, str]]) -> None:
        keys = {identifier().key(rule(), principal(route=route, room=room), (Per.ROUTE, Per.ROOM)) for route, room in pairs}
        assert len(keys) == 2

    def test_of_a_unix_peer_is_no_addresss_key(self) -> None:
        """b"unix" would be 117.110.105.120."""
        who = identifier()
        assert who.ip(None) != who.ip(ip_address("117.110.105.120"))
        assert len(who.ip(None)) not in (4, 16)


class TestTokensNeverShow:
    SECRET = "s3cr3tt0ken"

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            (f"token={SECRET}&token={SECRET}2", {}),
            (f"token={SECRET};token=b", {}),
            (f"token={SECRET}?token=1", {}),
            ("", {b"authorization": [f"Bearer {SECRET}".encode()] * 2}),
            ("", cookie(f"session={SECRET}; session=b")),
            ("", {b"sec-websocket-protocol": [f"bearer.{SECRET}, bearer.b".encode()]}),
        ],
    )
    def test_in_the_text_of_an_error_or_in_what_caused_it(self, query: str, fields: Fields) -> None:
        with pytest.raises(IdentityError) as caught:
            user(query, fields)
        assert caught.value.status == 400
        error: BaseException | None = caught.value
        while error:
            assert self.SECRET not in "".join(traceback.format_exception_only(error))
            error = error.__cause__ or error.__context__


class TestClientAddress:
    def test_of_a_stranger_is_his_own_whatever_he_says(self) -> None:
        assert client("203.0.113.7", "198.51.100.1") == "203.0.113.7"
        assert client("203.0.113.7", "for=198.51.100.1", header=b"forwarded") == "203.0.113.7"

    def test_by_default_nobody_is_trusted(self) -> None:
        who = identifier()
        assert str(who.client_address(who.peer("127.0.0.1"), {b"x-forwarded-for": [b"198.51.100.1"]})) == "127.0.0.1"

    def test_mistake_the_first_spoofable_entry_of_x_forwarded_for(self) -> None:
        assert client("10.0.0.1", "1.1.1.1, 2.2.2.2, 203.0.113.7") == "203.0.113.7"

    def test_is_the_last_one_that_is_not_trusted_itself(self) -> None:
        assert client("10.0.0.1", "1.1.1.1, 203.0.113.7, 10.0.0.3, 10.0.0.2") == "203.0.113.7"

    def test_is_the_first_proxy_when_all_are_trusted(self) -> None:
        assert client("10.0.0.1", "10.0.0.3, 10.0.0.2") == "10.0.0.3"

    def test_is_the_proxy_itself_when_it_names_nobody(self) -> None:
        assert client("10.0.0.1") == "10.0.0.1"
        assert client("10.0.0.1", " , ") == "10.0.0.1"

    def test_several_header_lines_are_one_list(self) -> None:
        assert client("10.0.0.1", ["1.1.1.1", "203.0.113.7", "10.0.0.2"]) == "203.0.113.7"
        assert client("10.0.0.1", ["for=1.1.1.1", "for=203.0.113.7, for=10.0.0.2"], header=b"forwarded") == "203.0.113.7"

    @pytest.mark.parametrize(
        "entry", ["unknown", "_hidden", "203.0.113", "203.0.113.07", "0x7f.1", "1.1.1.1.1", "localhost", "é", "[::1", "[::1]x"]
    )
    def test_what_is_no_address_ends_the_search(self, entry: str) -> None:
        assert client("10.0.0.1", f"1.1.1.1, {entry}") == "10.0.0.1"
        assert client("10.0.0.1", f"1.1.1.1, {entry}, 10.0.0.2") == "10.0.0.2"

    def test_x_forwarded_for_counts_before_forwarded(self) -> None:
        who = identifier(trusted_proxies=TRUSTING)
        fields = {b"x-forwarded-for": [b"203.0.113.7"], b"forwarded": [b"for=1.1.1.1"]}
        assert str(who.client_address(who.peer("10.0.0.1"), fields)) == "203.0.113.7"

    def test_a_unix_peer_is_trusted(self) -> None:
        assert client("", "1.1.1.1, 203.0.113.7") == "203.0.113.7"
        assert client("") == "None"

    def test_a_mapped_proxy_is_trusted_as_the_ipv4_that_it_is(self) -> None:
        assert client("::ffff:10.0.0.1", "203.0.113.7, ::ffff:10.0.0.2") == "203.0.113.7"

    def test_an_ipv6_proxy_is_trusted(self) -> None:
        assert client("2001:db8:ffff::1", "2001:db8::7, 2001:db8:ffff::2") == "2001:db8::7"


class TestWhatPerIpCounts:
    def test_of_ipv4_is_the_address(self) -> None:
        assert identifier().ip(ip_address("203.0.113.7")) == b"\xcb\x00\x71\x07"

    def test_mistake_no_ipv6_prefix(self) -> None:
        who = identifier()
        first, last, beside = (who.ip(ip_address(a)) for a in ("2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:2::"))
        assert first == last != beside

    @pytest.mark.parametrize("prefix", [1, 32, 48, 56, 63, 64, 127, 128])
    def test_of_ipv6_is_the_configured_prefix_to_the_bit(self, prefix: int) -> None:
        who = identifier(ipv6_prefix=prefix)
        network = ip_network(f"2001:db8:1234:5678::/{prefix}", strict=False)
        assert who.ip(network[0]) == who.ip(network[-1])
        assert who.ip(network[0]) != who.ip(network[0] + network.num_addresses)

    def test_of_a_mapped_peer_is_the_ipv4(self) -> None:
        who = identifier()
        assert who.ip(who.peer("::ffff:203.0.113.7").address) == who.ip(who.peer("203.0.113.7").address)

    @given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
    @settings(max_examples=100, deadline=None)
    def test_an_ipv4_never_looks_like_an_ipv6(self, address: IPv4Address | IPv6Address) -> None:
        assert len(identifier().ip(address)) == address.max_prefixlen // 8


class TestPeer:
    def test_knows_whether_it_is_trusted(self) -> None:
        who = identifier(trusted_proxies=TRUSTING)
        assert who.peer("10.1.2.3") == Peer(IPv4Address("10.1.2.3"), trusted=True)
        assert who.peer("11.1.2.3") == Peer(IPv4Address("11.1.2.3"), trusted=False, name="0b010203")
        assert who.peer("") == Peer(None, trusted=True)
        assert who.peer("not an address") == Peer(None, trusted=False, name="unknown")

    def test_of_one_ipv6_network_has_one_name(self) -> None:
        who = identifier()
        assert who.peer("2001:db8::1").name == who.peer("2001:db8::ffff:1").name
        assert who.peer("2001:db8::1").name != who.peer("2001:db8:0:1::1").name
        assert identifier(ipv6_prefix=48).peer("2001:db8::1").name == identifier(ipv6_prefix=48).peer("2001:db8:0:1::1").name

    def test_that_speaks_for_many_has_no_name(self) -> None:
        assert identifier(trusted_proxies=TRUSTING).peer("10.1.2.3").name is None

    def test_in_a_network_of_the_other_family_is_not_trusted(self) -> None:
        assert not identifier(trusted_proxies=(ip_network("::/0"),)).is_trusted(ip_address("10.0.0.1"))
        assert not identifier(trusted_proxies=(ip_network("0.0.0.0/0"),)).is_trusted(ip_address("::1"))
