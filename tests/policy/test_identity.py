"""Who asks. Half of this module attacks: one token in two spellings must not be two users, one client must not be two addresses."""

from __future__ import annotations

import base64
import contextlib
import re
import traceback
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise
from urllib.parse import parse_qs, parse_qsl, quote, quote_plus, urlencode, urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.identity import (
    DEFAULT_SOURCES,
    DIGEST_SIZE,
    Identifier,
    IdentityError,
    IdentityRules,
    Peer,
    Principal,
    SourceKind,
    TokenSource,
    echoed_subprotocol,
    find_token,
    format_node,
    forwarded_for,
    forwarding_headers,
    parse_address,
)
from proxy.policy.rules import OnExcess, Per, Quantity, Rule

ID = b"connection id"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.q2-Hs7b_XkSxOvI3m0dYw9JcTzUuEo8rPnLgMvQa1_w"

Fields = dict[bytes, list[bytes]]


def identifier(**rules: object) -> Identifier:
    return Identifier(IdentityRules(**rules))  # type: ignore[arg-type]  # each test names the fields that it is about


def user(query: str | bytes = b"", fields: Fields | None = None, connection: bytes = ID, **rules: object) -> bytes:
    """The digest of a user who must not be anonymous."""
    digest, anonymous = identifier(**rules).user(query.encode() if isinstance(query, str) else query, fields or {}, connection)
    assert not anonymous
    return digest


def is_anonymous(query: bytes = b"", fields: Fields | None = None, **rules: object) -> bool:
    return identifier(**rules).user(query, fields or {}, ID)[1]


def bearer(value: str) -> Fields:
    return {b"authorization": [value.encode()]}


def cookie(*lines: str) -> Fields:
    return {b"cookie": [line.encode() for line in lines]}


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


class TestWhereATokenStands:
    def test_the_same_token_is_the_same_user_wherever_it_stands(self) -> None:
        everywhere = {
            user("token=abc"),
            user(fields=bearer("Bearer abc")),
            user(fields=cookie("session=abc")),
            user(fields={b"sec-websocket-protocol": [b"game, bearer.abc"]}),
        }
        assert len(everywhere) == 1
        assert everywhere != {user("token=abd")}

    def test_the_first_source_that_has_a_token_is_the_one(self) -> None:
        sources = list(DEFAULT_SOURCES)
        fields = {**bearer("Bearer one"), **cookie("session=three"), b"sec-websocket-protocol": [b"bearer.four"]}
        for name in ("one", "two", "three", "four"):
            assert user("token=two", fields, sources=tuple(sources)) == user(f"token={name}")
            sources.pop(0)

    def test_an_empty_token_is_no_token(self) -> None:
        assert user("token=abc", bearer("Bearer")) == user("token=abc", bearer("Bearer  ")) == user("token=abc")
        assert user("token=", cookie("session=abc")) == user("token=abc")
        assert is_anonymous(b"token=&token", {**cookie('session=""'), b"sec-websocket-protocol": [b"bearer."]})

    def test_names_are_the_configured_ones(self) -> None:
        query, cookie_ = TokenSource(SourceKind.QUERY, b"auth"), TokenSource(SourceKind.COOKIE, b"sid")
        assert is_anonymous(b"token=abc", cookie("session=abc"), sources=(query, cookie_))
        assert user("auth=abc", sources=(query,)) == user(fields=cookie("sid=abc"), sources=(cookie_,))

    def test_without_sources_everybody_is_anonymous(self) -> None:
        assert is_anonymous(b"token=abc", bearer("Bearer abc"), sources=())

    def test_the_schemes_case_does_not_matter(self) -> None:
        assert user(fields=bearer("bEARER abc")) == user("token=abc")

    def test_basic_credentials_are_not_a_token(self) -> None:
        basic = bearer("Basic " + base64.b64encode(b"staging:secret").decode())
        assert is_anonymous(fields=basic)
        assert user("token=abc", basic) == user("token=abc")

    def test_a_subprotocol_that_is_only_like_the_prefix_is_no_token(self) -> None:
        assert is_anonymous(fields={b"sec-websocket-protocol": [b"bearers", b"v1.bearer.x"]})


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


class TestTwoTokensInOneSource:
    """Two readers could find two users: refused. One spelled twice is one."""

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            ("token=a&token=b", {}),
            ("token=a&x=1&%74oken=b", {}),
            ("token=a&TOKEN=b", {}),
            ("token=a&token[]=b", {}),
            ("", cookie("session=a; session=b")),
            ("", cookie("session=a", "session=b")),
            ("", cookie("session=a; Session=b")),
            ("", {b"sec-websocket-protocol": [b"bearer.a", b"bearer.b"]}),
            ("", {b"authorization": [b"Bearer a", b"Bearer a"]}),
            ("", {b"authorization": [b"Basic YTpi", b"Bearer a"]}),
        ],
    )
    def test_that_differ_are_refused(self, query: str, fields: Fields) -> None:
        with pytest.raises(IdentityError):
            user(query, fields)

    def test_that_are_the_same_are_one(self) -> None:
        assert user("token=abc&token=%61bc") == user("token=abc")
        assert user(fields=cookie('session=abc; session="abc"', "session=abc")) == user("token=abc")
        assert user(fields={b"sec-websocket-protocol": [b"bearer.abc", b"x, bearer.abc"]}) == user("token=abc")

    def test_an_empty_one_beside_a_real_one_does_not_count(self) -> None:
        assert user("token=&token=abc") == user("token=abc")


class TestOneTokenInManySpellings:
    """Each of these is a spelling that some backend takes for the plain token."""

    @pytest.mark.parametrize(
        "query",
        [
            "%74oken=abc",  # the name percent-spelled
            "token=%61%62%63",
            "token=a%62c",
            "token=%20abc%0A",  # trimmed
            "token=+abc+",
            'token="abc"',  # a token that went through JSON
            "token=%22abc%22",
            "token=Bearer%20abc",  # a header's value put into the query
            "token=Bearer+abc",
            "token=bearerabc",
            "TOKEN=abc",  # ASP.NET
            "%20token=abc",  # PHP
            "token[]=abc",  # PHP, Express
            "token%5B%5D=abc",
            "token[0]=abc",
            "token%00x=abc",
            "token=abc=",
            "token=abc==",
            "x=1&token=abc",
            "token=abc&",
            "&&token=abc",
        ],
    )
    def test_in_the_query(self, query: str) -> None:
        assert user(query) == user("token=abc")

    @pytest.mark.parametrize(
        "value",
        [
            "Bearer abc",
            "bearer abc",
            "Bearer  abc",
            "Bearer\tabc",
            "Bearer \t abc ",
            "Token abc",
            "JWT abc",
            "x abc",
            "abc",
            "Basic abc",
            "Bearer abc=",
        ],
    )
    def test_in_the_authorization_header(self, value: str) -> None:
        assert user(fields=bearer(value)) == user("token=abc")

    @pytest.mark.parametrize(
        "line",
        [
            'session="abc"',
            "a=b; session=abc",
            "session=abc;",
            "a=b;session=%61bc; c=d",
            "%73ession=abc",
            "SESSION=abc",
            "session=j:%22abc%22",
            "session=j%3A%20%22abc%22",
            "a=some words; session=abc",
            'a="x, y"; session=abc',
        ],
    )
    def test_in_a_cookie(self, line: str) -> None:
        assert user(fields=cookie(line)) == user("token=abc")

    @pytest.mark.parametrize("value", ["bearer.abc", "Bearer.abc", "bearer.abc==", "x, y,bearer.abc , z"])
    def test_in_a_subprotocol(self, value: str) -> None:
        assert user(fields={b"sec-websocket-protocol": [value.encode()]}) == user("token=abc")

    @pytest.mark.parametrize(
        "query",
        [
            "token=abc#1",  # aiohttp, websockets, Node: a fragment ends the query
            "x=1#&token=abc",
            "token=abc?1",  # url.split("?")[1]
            "token=abc?x=1",
            "x=1?token=abc",
            "token=abc;x",
            "token=abc;",
            "x=1;token=abc",
        ],
    )
    def test_that_ends_where_some_reader_ends_it(self, query: str) -> None:
        assert user(query) == user("token=abc")

    @pytest.mark.parametrize("query", ["token=x?token=abc", "token=a;token=b", "token=a#&token=b"])
    def test_that_two_readers_read_as_two_are_refused(self, query: str) -> None:
        with pytest.raises(IdentityError):
            user(query)

    @pytest.mark.parametrize("line", ["a=b session=abc", "a=b\tsession=abc", "a=b,session=abc", r'session="\141bc"'])
    def test_in_a_cookie_that_only_some_readers_find(self, line: str) -> None:
        assert user(fields=cookie(line)) == user(fields=cookie("session=abc"))

    def test_a_legitimate_cookie_of_json_is_one_token(self) -> None:
        lines = ['session={"id":1,"n":"x y"}', 'session={"id":1,"n":"z"}', r'session="a\054b"', "session=1, b=2"]
        assert len({user(fields=cookie(line)) for line in lines}) == len(lines)

    @pytest.mark.parametrize("value", ["Bearer abc x", "Bearer abc\tx"])
    def test_a_bearer_token_is_one_word(self, value: str) -> None:
        assert user(fields=bearer(value)) == user(fields=bearer("Bearer abc"))

    def test_of_real_tokens_that_look_alike_are_told_apart(self) -> None:
        tokens = ["Bob", "bob", "user-1", "user 1", "user-1-", "a/b", "a_b", "DOMAIN\\bob", "DOMAIN\\\\bob"]
        assert len({user("token=" + quote(one, safe="")) for one in tokens}) == len(tokens)

    def test_too_many_parameters_cost_nobody_time(self) -> None:
        with pytest.raises(IdentityError):
            user("&".join(f"a{number}=1" for number in range(1000)))

    def test_a_value_with_an_equals_sign_is_one_token(self) -> None:
        """Play and others sign whole forms in a cookie."""
        assert user(fields=cookie("session=sig-user=1&x=2")) != user(fields=cookie("session=sig-user=2&x=2"))

    def test_credentials_of_other_schemes_count_whole(self) -> None:
        digest = 'Digest username="ann", realm="x", nonce="1"'
        assert user(fields=bearer(digest)) != user(fields=bearer(digest.replace("ann", "bob")))

    def test_of_a_jwt(self) -> None:
        """PyJWT and itsdangerous skip what is not base64 in a signature; most decoders ignore the spare bits of its last digit."""
        head, payload, signature = JWT.split(".")
        spellings = [
            signature + "=",
            signature[:-1] + "x",
            signature.replace("-", "+").replace("_", "/"),
            signature[:5] + "!" + signature[5:],
            signature[:5] + "~~" + signature[5:] + "@",
            signature + "\x7f",
        ]
        for one in spellings:
            assert user(fields=bearer(f"Bearer {head}.{payload}.{one}")) == user(f"token={JWT}")
            assert user("token=" + quote(f"{head}.{payload}.{one}", safe="")) == user(f"token={JWT}")
        assert user(f"token=+{JWT}") == user(f"token=Bearer+{JWT}") == user(f"token={JWT}+") == user(f"token={JWT}")

    def test_two_jwts_are_two_users(self) -> None:
        head, payload, signature = JWT.split(".")
        others = [
            f"{head}.{payload}x.{signature}",
            f"{head}.{payload}.x{signature}",
            f"{head}.{payload}.",
            f"x{head}.{payload}.{signature}",
        ]
        assert len({user(f"token={one}") for one in [JWT, *others]}) == 5

    def test_whoever_knows_only_a_jwts_claims_is_not_its_user(self) -> None:
        head, payload, signature = JWT.split(".")
        assert user(f"token={head}.{payload}.{signature[::-1]}") != user(f"token={JWT}")

    def test_of_a_uuid(self) -> None:
        plain = "550e8400e29b41d4a716446655440000"
        spelled = [
            "550e8400-e29b-41d4-a716-446655440000",
            "550E8400-E29B-41D4-A716-446655440000",
            "{550e8400-e29b-41d4-a716-446655440000}",
            "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
            "5-5-0e8400e29b41d4a716446655440000",
        ]
        for one in spelled:
            assert user("token=" + quote(one)) == user(f"token={plain}")

    def test_tokens_that_people_would_tell_apart_are_told_apart(self) -> None:
        tokens = [
            "ann",
            "bob",
            "user-1",
            "user-2",
            "user-11",
            "1-23",
            "12-3",
            "a.b.1",
            "a.b.2",
            "7",
            "07",
            "é",
            "ann@x",
            "a:b",
            "ab",
            "1|x",
            "12|x",
        ]
        assert len({user("token=" + quote(one)) for one in tokens}) == len(tokens)


# Oracles: readers that real backends use. What they read as the same token must be one user or be refused.


def node_splits(query: str) -> str | None:
    """`new URLSearchParams(req.url.split("?")[1]).get("token")`"""
    return dict(reversed(parse_qsl(query.split("?", maxsplit=1)[0]))).get("token")


def url_library(query: str) -> str | None:
    """aiohttp, websockets: a URL parser, then a form decoder."""
    return dict(reversed(parse_qsl(urlsplit("/ws?" + query).query))).get("token")


pieces = st.lists(
    st.sampled_from(["token", "=", "&", ";", "#", "?", "+", "%20", "%61", "%2561", "abc", "ABC", '"', "x", "[]", "%3D", "%", "Bearer "]),
    max_size=9,
).map("".join)


@given(pieces)
@example("token=abc#1")
@example("token=abc?x=1")
@settings(max_examples=600, deadline=None)
def test_no_query_hides_a_token_from_us_that_a_common_backend_finds(query: str) -> None:
    for reader in (node_splits, url_library):
        token = reader(query)
        if token in ("abc", "ABC"):
            with contextlib.suppress(IdentityError):
                assert user(query.replace(" ", "%20")) == user(f"token={token}")


@given(
    st.lists(
        st.sampled_from(["session", "=", ";", " ", ",", '"', "abc", "a", "\\", "\\141", "%61", "=abc", "session=abc"]), max_size=8
    ).map("".join)
)
@example("a=b session=abc")
@example("session session =abc")
@example("session session= abc")
@example(r'session="\141bc"')
@example('"abc" session=abc')
@settings(max_examples=600, deadline=None)
def test_no_cookie_hides_a_token_from_us_that_a_common_backend_finds(line: str) -> None:
    found = {make_mocked_request("GET", "/", headers={"Cookie": line}).cookies.get("session")}
    with contextlib.suppress(CookieError):
        found.add(SimpleCookie(line)["session"].value if "session" in SimpleCookie(line) else None)
    in_plain_sight = any(pair.strip().startswith("session=") for pair in line.split(";"))  # taken whole, with the blanks in it
    if "abc" in found and not in_plain_sight:
        with contextlib.suppress(IdentityError):
            assert user(fields=cookie(line)) == user("token=abc")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_token_that_a_client_encodes_is_one_user_however_it_encodes_it(token: str, raw_slash: bool) -> None:
    spelled = {
        f"token={quote(token, safe='')}",
        urlencode({"token": token}),
        f"x=1&token={quote_plus(token, safe='/' if raw_slash else '')}",
    }
    seen = set()
    for query in spelled:
        assert parse_qs(query, keep_blank_values=True)["token"] == [token]
        try:
            seen.add(identifier().user(query.encode(), {}, ID))
        except IdentityError:
            seen.add((b"refused", False))
    assert len(seen) == 1


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=40), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_user_or_an_identity_error(query: bytes, cookies: bytes, authorization: bytes, protocols: bytes) -> None:
    fields = {b"cookie": [b"session=" + cookies], b"authorization": [authorization], b"sec-websocket-protocol": [b"bearer." + protocols]}
    for one, other in (
        (query, {}),
        (b"token=" + query, {}),
        *((b"", {name: values}) for name, values in fields.items()),
    ):
        try:
            digest, _ = identifier().user(one, other, ID)
        except IdentityError:
            continue
        assert len(digest) == DIGEST_SIZE


@pytest.mark.parametrize(
    "query", [b"token=" + b"%25" * 5000, b"token=a&" * 2000, b"token=%5B" * 1500, b"token=" + b"-+" * 7000, b"token=" + b"bearer" * 2500]
)
def test_a_head_full_of_it_takes_no_time(query: bytes) -> None:
    """No quadratic reading: 16 KiB would take seconds then, and the suite's timeout with it."""
    for _ in range(20):
        with contextlib.suppress(IdentityError):
            identifier().user(query, {}, ID)


def test_find_token_tells_of_one_source() -> None:
    assert find_token(TokenSource(SourceKind.QUERY, b"t"), b"t=abc", {}) == b"abc"
    assert find_token(TokenSource(SourceKind.QUERY, b"t"), b"", {}) is None
    assert find_token(TokenSource(SourceKind.BEARER), b"", {}) is None


TRUSTING = (ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48"))


def client(peer: str, forwarded: str | list[str] | None = None, *, header: bytes = b"x-forwarded-for") -> str:
    who = identifier(trusted_proxies=TRUSTING)
    lines = [forwarded] if isinstance(forwarded, str) else forwarded or []
    return str(who.client_address(who.peer(peer), {header: [line.encode() for line in lines]} if lines else {}))


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


class TestEchoedSubprotocol:
    @pytest.mark.parametrize(
        ("offered", "echoed"),
        [
            ([], None),
            (["game"], "game"),
            (["bearer.abc", "game", "chat"], "game"),
            (["Bearer.abc", "game"], "game"),
            (["bearer.abc"], "bearer.abc"),
            (["bearer.abc", "bearer.def"], "bearer.abc"),
            (["two words", "game"], "game"),
            (["two words"], None),
            (["a/b", 'x"y', "bearer.x y"], None),
        ],
    )
    def test_is_the_first_that_carries_no_token_and_may_stand_in_a_head(self, offered: list[str], echoed: str | None) -> None:
        answer = echoed_subprotocol(DEFAULT_SOURCES, [one.encode() for one in offered])
        assert answer == (None if echoed is None else echoed.encode())

    def test_without_a_subprotocol_source_is_the_first(self) -> None:
        assert echoed_subprotocol([TokenSource(SourceKind.BEARER)], [b"bearer.abc", b"game"]) == b"bearer.abc"


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


def test_the_sources_are_those_of_the_design() -> None:
    assert [(source.kind.value, source.name) for source in DEFAULT_SOURCES] == [
        ("bearer", b""),
        ("query", b"token"),
        ("cookie", b"session"),
        ("subprotocol", b"bearer."),
    ]
    assert all(one != other for one, other in pairwise(DEFAULT_SOURCES))
