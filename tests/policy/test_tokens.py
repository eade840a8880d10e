"""The token of a request. Half of this module attacks: one token in two spellings must not be two users."""

from __future__ import annotations

import base64
import contextlib
from http.cookies import CookieError, SimpleCookie
from itertools import pairwise
from urllib.parse import parse_qs, parse_qsl, quote, quote_plus, urlencode, urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.identity import DIGEST_SIZE
from proxy.policy.tokens import DEFAULT_SOURCES, IdentityError, SourceKind, TokenSource, echoed_subprotocol, find_token
from tests.policy.heads import ID, JWT, Fields, bearer, cookie, identifier, is_anonymous, user


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


def test_the_sources_are_those_of_the_design() -> None:
    assert [(source.kind.value, source.name) for source in DEFAULT_SOURCES] == [
        ("bearer", b""),
        ("query", b"token"),
        ("cookie", b"session"),
        ("subprotocol", b"bearer."),
    ]
    assert all(one != other for one, other in pairwise(DEFAULT_SOURCES))
