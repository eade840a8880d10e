"""Which upstream and which room a path names: what is matched, what is refused, and what must not slip past a room's cap."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy import routes
from proxy.policy.routes import (
    MAX_REMEMBERED,
    MAX_ROOM_NAME,
    Match,
    PathError,
    RoomCase,
    Route,
    RouteTable,
    check_path,
    compile_path,
    split_target,
    template_names,
)

TOURNAMENT = Route("tournament", "/ws/tournament/{room}", "game", "{room}")
REST = Route("rest", "/{rest*}", "game")
TABLE = RouteTable([TOURNAMENT, REST])


def room(path: str, *routes: Route) -> str | None:
    """The room of a path that must have a route."""
    match = (RouteTable(routes) if routes else TABLE).match(path.encode("latin-1"))
    assert match is not None
    return match.room


def refused(path: str, table: RouteTable = TABLE) -> bool:
    try:
        table.match(path.encode("latin-1"))
    except PathError:
        return True
    return False


def test_a_refused_path_is_a_bad_request() -> None:
    assert PathError.status == 400


class TestMatching:
    def test_a_path_names_its_room(self) -> None:
        assert TABLE.match(b"/ws/tournament/lobby") == Match(TOURNAMENT, "lobby")

    def test_the_first_match_wins(self) -> None:
        first, second = Route("first", "/a/{rest*}", "x"), Route("second", "/a/b", "y")
        assert RouteTable([first, second]).match(b"/a/b") == Match(first, None)
        assert RouteTable([second, first]).match(b"/a/b") == Match(second, None)

    def test_without_a_route_there_is_no_match(self) -> None:
        assert RouteTable([TOURNAMENT]).match(b"/elsewhere") is None
        assert RouteTable([]).match(b"/") is None

    @pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a/b/c", "/%20", "/ws/tournament", "/ws/tournament/", "/ws/tournament/a/b"])
    def test_the_catch_all_matches_the_empty_rest_and_everything_else(self, path: str) -> None:
        assert TABLE.match(path.encode()) == Match(REST, None)

    def test_a_rest_under_a_prefix_matches_the_empty_rest_with_and_without_a_slash(self) -> None:
        files = Route("files", "/files/{rest*}", "u", "{rest}")
        assert [room(path, files) for path in ("/files", "/files/", "/files/a", "/files/a/b")] == ["", "", "a", "a/b"]
        table = RouteTable([files])
        assert table.match(b"/filesystem") is None

    def test_a_trailing_slash_matches_the_same_route_and_the_same_room(self) -> None:
        assert room("/ws/tournament/lobby/") == room("/ws/tournament/lobby") == "lobby"
        routes = (Route("files", "/files/{rest*}", "u", "{rest}"), Route("ends", "/ends/", "u", "end"), Route("root", "/", "u", "root"))
        assert room("/files/a/b/", *routes) == room("/files/a/b", *routes) == "a/b"
        assert room("/ends", *routes) == room("/ends/", *routes) == "end"
        assert room("/", *routes) == "root"

    def test_a_name_matches_one_whole_segment(self) -> None:
        table = RouteTable([TOURNAMENT])
        assert table.match(b"/ws/tournament/a/b") is None
        assert table.match(b"/ws/tournament/") is None
        assert table.match(b"/x/ws/tournament/a") is None

    def test_a_name_may_be_a_part_of_a_segment(self) -> None:
        route = Route("r", "/room-{room}.ws", "u", "{room}")
        assert room("/room-a.b.ws", route) == "a.b"
        assert RouteTable([route]).match(b"/room-aXws") is None  # a dot is a dot

    def test_rest_after_a_room_takes_in_what_lies_below_it(self) -> None:
        route = Route("r", "/ws/{room}/{rest*}", "u", "{room}")
        assert [room(path, route) for path in ("/ws/a", "/ws/a/", "/ws/a/b", "/ws/a/b/c")] == ["a"] * 4


class TestRoomNames:
    @pytest.mark.parametrize(
        ("spelled", "name"),
        [
            ("lobby", "lobby"),
            ("%6cobby", "lobby"),
            ("Lobby", "Lobby"),
            ("a%20b", "a b"),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("%C3%A9", "é"),
            ("%F0%9F%8E%B2", "🎲"),
            ("a%3Fb%23c%3Bd", "a?b#c;d"),
            ("{x}", "{x}"),
            ("a:b@c", "a:b@c"),
        ],
    )
    def test_are_percent_decoded(self, spelled: str, name: str) -> None:
        assert room(f"/ws/tournament/{spelled}") == name

    def test_are_decoded_exactly_once(self) -> None:
        assert room("/ws/tournament/%2561") == "%61"
        assert room("/ws/tournament/%25252525") == "%252525"

    @pytest.mark.parametrize("spelled", ["%ff", "%C3", "a%E2%82", "%ED%A0%80", "%C0%AF"])
    def test_that_are_not_utf_8_are_refused(self, spelled: str) -> None:
        assert refused(f"/ws/tournament/{spelled}")

    def test_have_at_most_200_bytes(self) -> None:
        assert MAX_ROOM_NAME == 200
        assert room("/ws/tournament/" + "a" * 200) == "a" * 200
        assert refused("/ws/tournament/" + "a" * 201)
        assert room("/ws/tournament/" + "%C3%A9" * 100) == "é" * 100
        assert refused("/ws/tournament/" + "%C3%A9" * 100 + "a")
        assert room("/ws/tournament/" + "%61" * 200) == "a" * 200

    def test_of_a_route_without_rooms_are_not_looked_at(self) -> None:
        assert room("/elsewhere/%ff/" + "a" * 500) is None

    def test_keep_their_case_unless_told_to_fold_it(self) -> None:
        fold = Route("t", "/ws/{room}", "u", "{room}", RoomCase.FOLD)
        assert room("/ws/LOBBY", fold) == room("/ws/lobby", fold) == "lobby"
        assert room("/ws/STRASSE", fold) == room("/ws/stra%C3%9Fe", fold)
        keep = Route("t", "/ws/{room}", "u", "{room}")
        assert room("/ws/LOBBY", keep) != room("/ws/lobby", keep)

    @pytest.mark.parametrize(
        ("template", "name"),
        [("{room}", "b"), ("{kind}", "a"), ("{kind}/{room}", "a/b"), ("x-{room}-{kind}", "x-b-a"), ("the only one", "the only one")],
    )
    def test_are_made_by_the_routes_template(self, template: str, name: str) -> None:
        assert room("/ws/a/b", Route("r", "/ws/{kind}/{room}", "u", template)) == name

    def test_are_not_templates_themselves(self) -> None:
        assert room("/ws/%7Broom%7D/b", Route("r", "/ws/{kind}/{room}", "u", "{kind}-{room}")) == "{room}-b"


class TestRefused:
    """DESIGN, "The door" 4."""

    @pytest.mark.parametrize(
        "path",
        [
            "//",
            "/a//b",
            "/a//",
            "//ws/tournament/lobby",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/a/%2e/b",
            "/a/%2E%2e/b",
            "/a/.%2e/b",
            "/a/%2E./b",
            "/a%2Fb",
            "/a%2fb",
            "/a%5Cb",
            "/a%5cb",
            "/a%00b",
            "/a;b",
            "/a;jsessionid=1/b",
            "/..;/b",
            "/a\\b",
            "/a#b",
            "/a\xe9b",
            "/a\x7fb",
            "/a b",
            "/a\tb",
            "/a\x00b",
            "",
            "a",
            "*",
            "http://host/ws/tournament/lobby",
            "ws://host/",
            "/a%",
            "/a%4",
            "/a%zz",
            "/%u0061",
        ],
    )
    def test_whatever_the_routes_are(self, path: str) -> None:
        assert refused(path)
        assert refused(path, RouteTable([]))
        with pytest.raises(PathError):
            check_path(path.encode("latin-1"))

    @pytest.mark.parametrize(
        "path", ["/...", "/.a", "/a.", "/a..b", "/%2ea", "/..a", "/%252e%252e", "/a%3Bb", "/a%23b", "/a:b@c!$&'()*+,=~_-"]
    )
    def test_but_not_what_only_looks_like_it(self, path: str) -> None:
        assert not refused(path)
        check_path(path.encode())


class TestLenientBackends:
    """What a backend may take for a room of the tournament must not go to it through the catch-all."""

    @pytest.mark.parametrize(
        "path",
        [
            "/WS/tournament/lobby",
            "/ws/Tournament/lobby",
            "/ws/TOURNAMENT/lobby/",
            "/%77s/tournament/lobby",
            "/ws/%74ournament/lobby",
            "/ws/%54ournament/lobby",
            "/ws/tourn%61ment/lobby",
            "/w%C5%BF/tournament/lobby",  # a long s: re.IGNORECASE of str takes it for an s
        ],
    )
    def test_a_path_that_only_its_lenient_form_takes_to_a_room_is_refused(self, path: str) -> None:
        assert refused(path)
        assert refused(path, RouteTable([TOURNAMENT]))  # also where no other route would have taken it

    @pytest.mark.parametrize("path", ["/ws/tournament/LOBBY", "/ws/tournament/%6Cobby", "/ws/tournament/lobby/"])
    def test_a_path_whose_strict_form_is_the_same_route_is_not(self, path: str) -> None:
        assert not refused(path)

    @pytest.mark.parametrize("path", ["/WS/chat", "/ws/tournaments/lobby", "/ws/tournament", "/WS/TOURNAMENT/"])
    def test_a_path_that_is_no_room_in_any_reading_is_not(self, path: str) -> None:
        assert not refused(path)

    def test_a_lenient_match_of_a_route_without_rooms_does_not_matter(self) -> None:
        table = RouteTable([Route("chat", "/chat", "u"), REST])
        assert table.match(b"/CHAT") == Match(REST, None)

    def test_another_routes_room_is_refused_too(self) -> None:
        table = RouteTable([Route("vip", "/ws/vip/{room}", "u", "{room}"), Route("any", "/ws/{kind}/{room}", "u", "{room}")])
        assert table.match(b"/ws/vip/a") != table.match(b"/ws/other/a")
        assert refused("/ws/VIP/a", table)
        assert not refused("/ws/other/a", table)

    def test_templates_in_capitals_and_with_escapes_are_read_leniently_too(self) -> None:
        table = RouteTable([Route("cafe", "/WS/Caf%C3%A9/{room}", "u", "{room}"), REST])
        match = table.match(b"/WS/Caf%C3%A9/a")
        assert match is not None
        assert match.room == "a"
        for path in ("/ws/Caf%C3%A9/a", "/WS/caf%C3%A9/a", "/WS/Caf%c3%a9/a", "/WS/Caf%C3%89/a"):
            assert refused(path, table)

    def test_a_template_whose_escapes_are_not_utf_8_is_read_too(self) -> None:
        table = RouteTable([Route("r", "/%FF/{room}", "u", "{room}"), REST])
        assert table.match(b"/%FF/a") is not None
        assert refused("/%ff/a", table)


# Attack: what the routers of common backends take to the tournament's room, our table counts as that room or refuses.

Reader = Callable[[str], str | None]
"""A raw path -> the room that the backend would open, None where it has no route."""


def aiohttp_router() -> Reader:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    router = web.UrlDispatcher()
    router.add_get("/ws/tournament/{room}", handler)
    router.add_get("/ws/tournament/{room}/", handler)

    def read(path: str) -> str | None:
        for resource in router.resources():
            resolving = resource.resolve(make_mocked_request("GET", path))
            try:
                resolving.send(None)
            except StopIteration as done:
                match, _ = done.value
            if match is not None:
                return str(match["room"])
        return None

    return read


def express(path: str) -> str | None:
    """path-to-regexp of Express 4: case-insensitive, an optional slash at the end, parameters decoded once."""
    match = re.fullmatch(r"/ws/tournament/([^/]+?)/?", path, re.IGNORECASE)
    return match and unquote(match[1], errors="strict")


def django(path: str) -> str | None:
    """Channels' URLRouter: the path decoded first."""
    match = re.match(r"^/?ws/tournament/(?P<room>[^/]+)/?$", unquote(path))
    return match and match["room"]


def django_ignoring_case(path: str) -> str | None:
    match = re.match(r"(?i)^/?ws/tournament/(?P<room>[^/]+)/?$", unquote(path))
    return match and match["room"]


def go_mux(path: str) -> str | None:
    """Go 1.22 `/ws/tournament/{room}`: segments decoded one by one; an unclean path is redirected, which upgrades nothing."""
    segments = [unquote(segment) for segment in path.split("/")]
    return segments[3] if len(segments) == 4 and segments[:3] == ["", "ws", "tournament"] and segments[3] else None


def squeezing(path: str) -> str | None:
    """nginx with merge_slashes in front of a strict router: decoded, dot segments resolved, slashes squeezed."""
    kept: list[str] = []
    for segment in unquote(path.replace("\\", "/")).split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment.partition(";")[0])
    return kept[2] if len(kept) == 3 and kept[:2] == ["ws", "tournament"] else None


READERS: dict[str, Reader] = {
    "aiohttp": aiohttp_router(),
    "express": express,
    "django": django,
    "django (?i)": django_ignoring_case,
    "go": go_mux,
    "squeezing": squeezing,
}

letters = [
    *"ws/tournameWSTOUR",
    "%77",
    "%73",
    "%2F",
    "%2f",
    "%5c",
    "//",
    "/./",
    "/../",
    "%2e",
    "%2E",
    ";x",
    "\\",
    "#",
    "%00",
    "%C5%BF",
    "%25",
    "%2574",
    "x",
    "lobby",
]


def mutated(path: str, edits: list[tuple[int, int, str]]) -> str:
    for where, removed, text in edits:
        at = where % (len(path) + 1)
        path = path[:at] + text + path[at + removed :]
    return path


def spelled(path: str, how: list[int]) -> str:
    """Each letter as it is, in the other case, or percent-encoded in one of two ways."""
    ways: list[Callable[[str], str]] = [str, str, str, str.swapcase, lambda c: f"%{ord(c):02x}", lambda c: f"%{ord(c):02X}"]
    return "".join(ways[how[i % len(how)]](c) if c.isascii() and c.isalpha() and "%" not in path else c for i, c in enumerate(path))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.sampled_from(letters)), max_size=3),
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
)
@example([], [0])
@example([(0, 1, "//")], [0])
@example([(4, 0, "%2e%2e/")], [0])
@settings(max_examples=500, deadline=None)
def test_no_path_reaches_a_room_of_a_common_backend_past_our_count(edits: list[tuple[int, int, str]], how: list[int]) -> None:
    path = mutated(spelled("/ws/tournament/lobby", how), edits)
    try:
        match = TABLE.match(path.encode())
    except PathError:
        return
    assert match is not None
    for name, read in READERS.items():
        opened = read(path)
        if opened is not None:
            assert match.route is TOURNAMENT, f"{name} opens {opened!r} for {path!r}, which we take for no room"
            assert match.room == opened, f"{name} opens {opened!r} for {path!r}, which we count as {match.room!r}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\\;\0"), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_any_room_that_a_client_encodes_is_that_room_whatever_it_leaves_plain(name: str) -> None:
    if set(name) <= {"."}:
        name += "x"
    paths = [f"/ws/tournament/{quote(name, safe=safe)}" for safe in ("", ":@!$&'()*+,=~")]
    assert {room(path) for path in paths} == {name}


@given(st.lists(st.sampled_from([*string.printable, "%2e", "%C3", "\xff"]), max_size=30).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_a_match_or_none_or_a_path_error(path: str) -> None:
    for one in (path, "/" + path, "/ws/tournament/" + path):
        refused(one)


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "names"),
        [("/", []), ("/a/{room}", ["room"]), ("/{a}/{b_2}", ["a", "b_2"]), ("/{room}/{rest*}", ["room", "rest"]), ("{_x}-y", ["_x"])],
    )
    def test_tell_their_names(self, template: str, names: list[str]) -> None:
        assert template_names(template) == names

    @pytest.mark.parametrize(
        "template", ["{", "}", "{}", "{Room}", "{a b}", "{1a}", "{a", "a}", "{{a}}", "{a**}", "{*}", "{a}{a}", "{a}/{a*}"]
    )
    def test_that_cannot_be_read_are_errors(self, template: str) -> None:
        with pytest.raises(ValueError, match=r"braces|twice"):
            template_names(template)
        with pytest.raises(ValueError, match=r"braces|twice"):
            compile_path("/" + template.replace(" ", "-"))

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("", "begins with /"),
            ("ws", "begins with /"),
            ("//", "plain segments"),
            ("/a//b", "plain segments"),
            ("/a;b", "plain segments"),
            ("/a b", "plain segments"),
            ("/é", "plain segments"),
            ("/a%2Fb", "plain segments"),
            ("/a\\b", "plain segments"),
            ("/a#b", "plain segments"),
            ("/{rest*}/a", "alone at the end"),
            ("/a{rest*}", "alone at the end"),
            ("/../{room}", "dot segment"),
            ("/a/%2E/{room}", "dot segment"),
            ("/a%zz/{room}", "two hexadecimal digits"),
        ],
    )
    def test_of_paths_that_could_never_match_are_errors(self, path: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            compile_path(path)

    def test_are_compiled_to_raw_paths(self) -> None:
        pattern = compile_path("/ws/{room}")
        match = pattern.fullmatch(b"/ws/%61")
        assert match is not None
        assert match["room"] == b"%61"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/ws?token=a", b"/ws", b"token=a"),
        (b"/ws", b"/ws", b""),
        (b"/ws?", b"/ws", b""),
        (b"/ws?a?b", b"/ws", b"a?b"),
        (b"/%3Fa", b"/%3Fa", b""),
    ],
)
def test_a_target_is_a_path_and_a_query(target: bytes, path: bytes, query: bytes) -> None:
    assert split_target(target) == (path, query)


def test_the_query_does_not_matter_to_the_path() -> None:
    path, _ = split_target(b"/ws/tournament/lobby?x=//../%2F;\\#")
    assert TABLE.match(path) == Match(TOURNAMENT, "lobby")


SEGMENTS = st.sampled_from(
    ["ws", "tournament", "Tournament", "lobby", "a.b", ".", "..", "%2e", "", "%6C", "x;y", "é", "(a)", "~", "-", "a b"]
)


@given(st.lists(SEGMENTS, max_size=5), st.booleans())
def test_the_short_way_for_plain_paths_leads_to_the_same_place(segments: list[str], slash: bool) -> None:
    path = "/" + "/".join(segments) + ("/" if slash else "")

    def outcome(table: RouteTable) -> Match | str | None:
        try:
            return table.match(path.encode("latin-1"))
        except PathError as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        short = outcome(RouteTable([TOURNAMENT, REST]))
        patch.setattr(routes, "_PLAIN", re.compile(rb"(?!)"))
        assert outcome(RouteTable([TOURNAMENT, REST])) == short


def test_a_long_path_is_not_remembered_and_a_path_that_comes_again_is_judged_again() -> None:
    table = RouteTable([TOURNAMENT, REST])
    long = b"/ws/" + b"x" * MAX_REMEMBERED
    for _ in range(2):
        assert table.match(long) == Match(REST, None)
        assert table.match(b"/ws/tournament/lobby") == Match(TOURNAMENT, "lobby")
        assert refused("/a/../b", table)
    assert table._remembered.cache_info().currsize == 1
