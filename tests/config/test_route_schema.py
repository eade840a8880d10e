"""The `routes` section: paths, rooms, and the upstreams they point to."""

from collections.abc import Callable

import pytest

from proxy.config import Config, ConfigError, parse
from proxy.policy.routes import Compression, RoomCase, Route

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

PATH = "a path such as /ws/{room} or /{rest*}"
ROOM = "the name of a room, made from names in the path, such as {room}"
NAME = "a name of at most 64 letters, digits, - _ or ., beginning with a letter or digit"


def test_without_routes_everything_goes_to_the_sole_upstream(config: Read) -> None:
    assert config("").routes == (Route("default", "/{rest*}", "game"),)


def test_without_routes_several_upstreams_leave_it_open_where_to_go() -> None:
    with pytest.raises(ConfigError) as error:
        parse("mode: enforce\nupstreams: {a: {url: ws://a}, b: {url: ws://b}}", "f", {})
    assert str(error.value) == "f:1:1: routes: expected routes that say which upstream is for what (a or b), found nothing"


def test_every_key_is_read(config: Read) -> None:
    text = """
routes:
  - {name: a, path: "/a/{room}", upstream: game}
  - {name: b, path: "/b/{x}/{y}", upstream: game, room: "{y}-{x}", room_case: fold}
  - {name: c, path: "/c/{room}", upstream: game, room: hall, room_case: keep, compression: pass}
  - {name: d, path: "/{rest*}", upstream: game, compression: off}
"""
    assert config(text).routes == (
        Route("a", "/a/{room}", "game", "{room}"),
        Route("b", "/b/{x}/{y}", "game", "{y}-{x}", RoomCase.FOLD),
        Route("c", "/c/{room}", "game", "hall"),
        Route("d", "/{rest*}", "game", compression=Compression.OFF),
    )


def test_a_folded_room_needs_no_room_key_where_the_path_has_one(config: Read) -> None:
    assert config('routes: [{name: a, path: "/{room}", upstream: game, room_case: fold}]').routes[0].room_case is RoomCase.FOLD


def test_a_route_that_an_earlier_one_hides_is_allowed_unless_it_is_the_same(config: Read) -> None:
    assert len(config('routes: [{name: a, path: "/{rest*}", upstream: game}, {name: b, path: /b, upstream: game}]').routes) == 2


@pytest.mark.parametrize(
    ("routes", "mistake"),
    [
        ("x", "2:9: routes: expected a list of at least one route, found text"),
        ("[]", "2:9: routes: expected a list of at least one route, found none"),
        ("", "2:8: routes: expected a list of at least one route, found none"),
        ("{a: b}", "2:9: routes: expected a list of at least one route, found a mapping"),
        ("[x]", '2:10: routes[0]: expected a mapping such as {name: rest, path: "/{rest*}", upstream: game}, found text'),
        ("[{path: /, upstream: game}]", f"2:10: routes[0].name: expected {NAME}, found nothing"),
        ("[{name: a b, path: /, upstream: game}]", f'2:17: routes[0].name: expected {NAME}, found "a b"'),
        ("[{name: a, upstream: game}]", f"2:10: routes[0].path: expected {PATH}, found nothing"),
        ("[{name: a, path: /}]", "2:10: routes[0].upstream: expected the name of an upstream, found nothing"),
        ("[{name: a, path: /, upstream: [game]}]", "2:39: routes[0].upstream: expected the name of an upstream, found a list"),
        (
            "[{name: a, path: /, upstream: gane}]",
            '2:39: routes[0].upstream: expected the name of an upstream: game (did you mean game?), found "gane"',
        ),
        ("[{name: a, path: ws, upstream: game}]", f'2:26: routes[0].path: expected {PATH} (a path begins with /), found "ws"'),
        (
            "[{name: a, path: '/{x', upstream: game}]",
            f'2:26: routes[0].path: expected {PATH} (braces hold a name: {{room}}, or {{rest*}} at the end for all that follows), found "/{{x"',
        ),
        (
            "[{name: a, path: '/{x}/{x}', upstream: game}]",
            f'2:26: routes[0].path: expected {PATH} ({{x}} is there twice), found "/{{x}}/{{x}}"',
        ),
        (
            "[{name: a, path: '/{x*}/y', upstream: game}]",
            f'2:26: routes[0].path: expected {PATH} ({{x*}} stands alone at the end of a path), found "/{{x*}}/y"',
        ),
        (
            "[{name: a, path: /, upstream: game, room: hall, x: y}]",
            "2:57: routes[0].x: expected name, path, upstream, room, room_case or compression, found the unknown key x",
        ),
        (
            "[{name: a, path: /, upstream: game, compression: on}]",
            '2:58: routes[0].compression: expected pass or off, found "on"',
        ),
        ("[{name: a, path: '/{x}', upstream: game, room: '{y}'}]", '2:56: routes[0].room: expected names of the path ({x}), found "{y}"'),
        ("[{name: a, path: /x, upstream: game, room: '{y}'}]", '2:52: routes[0].room: expected names of the path (none), found "{y}"'),
        (
            "[{name: a, path: '/{x}', upstream: game, room: '{x'}]",
            f'2:56: routes[0].room: expected {ROOM} (braces hold a name: {{room}}, or {{rest*}} at the end for all that follows), found "{{x"',
        ),
        ("[{name: a, path: '/{x}', upstream: game, room: ''}]", f'2:56: routes[0].room: expected {ROOM}, found ""'),
        (
            "[{name: a, path: '/{room}', upstream: game, room_case: lower}]",
            '2:64: routes[0].room_case: expected keep or fold, found "lower"',
        ),
        (
            "[{name: a, path: '/{x}', upstream: game, room_case: fold}]",
            "2:50: routes[0].room_case: expected a room too: neither the path nor a room key names one, found room_case alone",
        ),
        (
            "[{name: a, path: /a, upstream: game}, {name: a, path: /b, upstream: game}]",
            "2:54: routes[1].name: expected another name than the one on line 2, found the same again",
        ),
        (
            "[{name: a, path: /a, upstream: game}, {name: b, path: /a, upstream: game}]",
            "2:63: routes[1].path: expected another path than the one on line 2, found the same again",
        ),
        (
            "[{name: a, path: /a, upstream: game}, {name: b, path: /a/, upstream: game}]",
            "2:63: routes[1].path: expected another path than the one on line 2, found the same again",
        ),
    ],
)
def test_each_mistake_is_told_where_it_stands(routes: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(f"routes: {routes}") == [mistake]


def test_a_broken_path_or_upstream_gives_no_mistakes_that_only_follow_from_it(mistakes: Mistakes) -> None:
    assert (
        len(
            mistakes(
                "routes: [{name: a, path: x, upstream: game, room: '{y}', room_case: fold}]\nrules: [{name: r, per: room, members: 1}]"
            )
        )
        == 1
    )
    with pytest.raises(ConfigError) as error:
        parse("upstreams: {game: {url: x}}\nroutes: [{name: a, path: /a, upstream: game}]", "f", {})
    assert len(error.value.problems) == 1
    with pytest.raises(ConfigError) as error:
        parse("upstreams: x\nroutes: [{name: a, path: /a, upstream: game}]", "f", {})
    assert len(error.value.problems) == 1
