"""The top of the file, and the flags that win over it."""

from collections.abc import Callable

import pytest

from proxy.config import Config, ConfigError, Limits, LogSettings, Overrides, StoreSettings, TunnelSettings, default, parse
from proxy.policy.identity import IdentityRules
from proxy.policy.routes import Route
from proxy.policy.rules import Mode, RefuseWith
from proxy.policy.upstreams import TcpAddress, UnixAddress, Upstream, UpstreamTls

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

STORE_KEYS = "store, store_prefix, store_timeout, store_required, on_store_down, holder_ttl"
KEYS = f"listen, admin, upstreams, {STORE_KEYS}, identity, routes, rules, mode, refuse_with, tls, drain, limits, tunnel or log"
UPSTREAM_KEYS = "url, connect_timeout, handshake_timeout, tls or max_pending"
UPSTREAMS = "at least one upstream, such as {game: {url: ws://127.0.0.1:9000}}"
URL = "a URL such as ws://host:port (or wss, http, https), or unix:/path"
HOST = "a host name (letters, digits, - and dots), an IPv4 address or an IPv6 address in brackets"
TWO = "upstreams: {a: {url: ws://a}, b: {url: ws://b}}\nroutes: [{name: r, path: /, upstream: a}]\n"


def told(text: str, overrides: Overrides | None = None) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse(text, "f", {}, overrides or Overrides())
    return [str(problem).removeprefix("f:") for problem in error.value.problems]


def test_only_upstreams_are_required_and_the_rest_is_as_the_contract_says(config: Read) -> None:
    assert config("") == Config(
        listen=TcpAddress("0.0.0.0", 8080),
        admin=TcpAddress("127.0.0.1", 9901),
        upstreams={"game": Upstream("game", TcpAddress("h", 80))},
        identity=IdentityRules(),
        routes=(Route("default", "/{rest*}", "game"),),
        rules=(),
        refuse_with=RefuseWith.CLOSE,
        store=StoreSettings(),
        tls=None,
        drain=8.0,
        limits=Limits(),
        tunnel=TunnelSettings(),
        log=LogSettings(),
    )


def test_every_key_is_read(config: Read) -> None:
    read = config(
        "listen: unix:/run/gate.sock\nadmin: '[::1]:0'\nstore: memory://\nmode: shadow\nrefuse_with: http\nrules: [{name: r, per: ip, connections: 1}]"
    )
    assert (read.listen, read.admin, read.store) == (UnixAddress("/run/gate.sock"), TcpAddress("::1", 0), StoreSettings())
    assert (read.refuse_with, read.rules[0].mode) == (RefuseWith.HTTP, Mode.SHADOW)


def test_a_missing_secret_is_noted_and_one_that_is_there_is_not(config: Read) -> None:
    assert config("").notes() == ["identity.secret is not set: digests of tokens are keyed with a documented secret"]
    assert config("identity: {secret: s}").notes() == []


def test_several_upstreams_are_read_by_name() -> None:
    text = TWO.replace("ws://b", "unix:/run/b.sock")
    assert parse(text, "f", {}).upstreams == {"a": Upstream("a", TcpAddress("a", 80)), "b": Upstream("b", UnixAddress("/run/b.sock"))}


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("x", "1:1: expected a mapping with at least upstreams, found text"),
        ("[x]", "1:1: expected a mapping with at least upstreams, found a list"),
        ("mode: enforce", f"1:1: upstreams: expected {UPSTREAMS}, found nothing"),
        ("{}", f"1:1: upstreams: expected {UPSTREAMS}, found nothing"),
        ("upstreams:", f"1:11: upstreams: expected {UPSTREAMS}, found nothing"),
        ("upstreams: {}", f"1:12: upstreams: expected {UPSTREAMS}, found none"),
        ("upstreams: ws://h", f"1:12: upstreams: expected {UPSTREAMS}, found text"),
        ("upstreams: [a]", f"1:12: upstreams: expected {UPSTREAMS}, found a list"),
        ("upstreams: {a: ws://h}", "1:16: upstreams.a: expected a mapping such as {url: ws://127.0.0.1:9000}, found text"),
        ("upstreams: {a: {}}", f"1:16: upstreams.a.url: expected {URL}, found nothing"),
        (
            "upstreams: {a: {url: ws://h, ulr: x}}",
            f"1:30: upstreams.a.ulr: expected {UPSTREAM_KEYS} (did you mean url?), found the unknown key ulr",
        ),
        (
            "upstreams: {a b: {url: ws://h}}",
            '1:13: upstreams.?: expected a name of at most 64 letters, digits, - _ or ., beginning with a letter or digit, found "a b"',
        ),
        ("upstreams: {a: {url: h}}", f'1:22: upstreams.a.url: expected {URL}, found "h"'),
        (
            "upstreams: {a: {url: ws://h/x}}",
            '1:22: upstreams.a.url: expected a URL that ends with the host or port: the request\'s own path goes upstream, found "ws://h/x"',
        ),
        ("upstreams: {a: {url: ws://u:p@h}}", '1:22: upstreams.a.url: expected a URL without user and password, found "ws://...@h"'),
    ],
)
def test_each_mistake_about_upstreams_is_told_where_it_stands(text: str, mistake: str) -> None:
    assert told(text) == [mistake]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("lisen: x", f"2:1: lisen: expected {KEYS} (did you mean listen?), found the unknown key lisen"),
        ("<<: x", f"2:1: <<: expected {KEYS}, found the unknown key <<"),
        ("listen: :8080", '2:9: listen: expected host:port with a host (0.0.0.0 or [::] for every address), found ":8080"'),
        ("listen: 8080", '2:9: listen: expected an IPv4 address of four numbers, such as 127.0.0.1, found "8080"'),
        ("listen: [a]", "2:9: listen: expected host:port or unix:/path, found a list"),
        (
            "admin: unix:/run/admin.sock",
            '2:8: admin: expected a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080, found "unix:/run/admin.sock"',
        ),
        ("admin:", "2:7: admin: expected host:port with a host (0.0.0.0 or [::] for every address), found nothing"),
        ("mode: Shadow", '2:7: mode: expected enforce or shadow (did you mean shadow?), found "Shadow"'),
        ("refuse_with: 429", '2:14: refuse_with: expected close or http, found "429"'),
        ("listen: 127.0.0.1:9901", "2:9: listen: expected different addresses for listen and admin, found the same for both"),
        ("admin: 0.0.0.0:8080", "2:8: admin: expected different addresses for listen and admin, found the same for both"),
        ("mode: enforce\nmode: shadow", "3:1: mode: expected each key once, found mode again (first on line 2)"),
    ],
)
def test_each_mistake_at_the_top_is_told_where_it_stands(text: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(text)[0] == mistake


def test_port_0_gives_each_server_a_port_of_its_own(config: Read) -> None:
    assert config("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0").admin == TcpAddress("127.0.0.1", 0)


def test_all_mistakes_come_at_once_in_the_order_of_the_file_flags_first() -> None:
    text = """\
listen: nowhere
admin: nowhere
upstreams: {a: {url: x}}
identity: {ipv6_prefix: 0, secret: '${NOPE}'}
routes: [{name: r, path: x, upstream: b}]
rules:
  - {name: r, per: x, messages: x}
  - {name: r, per: room, penalty: x}
mode: x
more: x
tls: {key: /nowhere}
drain: 2h
limits: {max_pending: 0}
tunnel: {keepalive: {idle: 0s}}
log: {level: x}
"""
    paths = [one.split(": ")[0] for one in told(text, Overrides(listen="x", store="x"))]
    assert paths == [
        "--listen",
        "--store",
        *("1:9", "2:8", "3:22", "4:25", "4:36", "5:26", "5:39"),
        *("7:20", "7:33", "8:5", "8:12", "8:35", "9:7", "10:1"),
        *("11:6", "11:12", "12:8", "13:23", "14:28", "15:14"),
    ]


def test_flags_win_over_the_file(config: Read) -> None:
    overrides = Overrides(listen="unix:/run/x.sock", admin="[::1]:1", upstream="http://b:2", store="memory://", shadow=True)
    read = config("listen: 127.0.0.1:5\nadmin: 127.0.0.1:6\nrules: [{name: r, per: ip, connections: 1}]", overrides=overrides)
    assert (read.listen, read.admin) == (UnixAddress("/run/x.sock"), TcpAddress("::1", 1))
    assert read.upstreams == {"game": Upstream("game", TcpAddress("b", 2))}
    assert read.rules[0].shadow


def test_the_upstream_flag_replaces_the_url_and_leaves_how_it_is_dialed() -> None:
    tls = UpstreamTls(server_name="game.test")

    def read(url: str, flag: str) -> Upstream:
        text = f"upstreams: {{a: {{url: '{url}', connect_timeout: 1s, max_pending: 2{', tls: {server_name: game.test}' if 'wss' in url else ''}}}}}"
        return parse(text, "f", {}, Overrides(upstream=flag)).upstreams["a"]

    assert read("wss://h", "https://i") == Upstream("a", TcpAddress("i", 443), 1.0, tls=tls, max_pending=2)
    assert read("wss://h", "ws://i") == Upstream("a", TcpAddress("i", 80), 1.0, max_pending=2)
    assert read("ws://h", "wss://i") == Upstream("a", TcpAddress("i", 443), 1.0, tls=UpstreamTls(), max_pending=2)


def test_a_flag_does_not_hide_a_mistake_in_the_file(mistakes: Mistakes) -> None:
    assert len(mistakes("listen: x", overrides=Overrides(listen="127.0.0.1:1"))) == 1


def test_an_upstream_may_come_from_the_flag_alone() -> None:
    read = parse("refuse_with: http", "f", {}, Overrides(upstream="ws://h:9000"))
    assert read.upstreams == {"default": Upstream("default", TcpAddress("h", 9000))}
    assert read.routes == (Route("default", "/{rest*}", "default"),)
    assert default(Overrides(upstream="wss://h")).upstreams["default"] == Upstream("default", TcpAddress("h", 443), tls=UpstreamTls())


def test_the_upstream_flag_does_not_choose_among_several() -> None:
    assert told(TWO, Overrides(upstream="ws://h")) == [
        "--upstream: expected a file with one upstream, for the flag to replace, found 2 upstreams"
    ]


@pytest.mark.parametrize(
    ("overrides", "mistake"),
    [
        (Overrides(listen=""), '--listen: expected host:port with a host (0.0.0.0 or [::] for every address), found ""'),
        (Overrides(listen="a b:1"), f'--listen: expected {HOST}, found "a b:1"'),
        (Overrides(listen="\udcff:1"), f'--listen: expected {HOST}, found "\\udcff:1"'),
        (
            Overrides(admin="unix:/x"),
            '--admin: expected a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080, found "unix:/x"',
        ),
        (Overrides(upstream="h:1"), f'--upstream: expected {URL}, found "h:1"'),
        (
            Overrides(store="redis://:pw@h:x"),
            '--store: expected a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080, found "redis://..."',
        ),
        (Overrides(listen="127.0.0.1:9901"), "--listen: expected different addresses for listen and admin, found the same for both"),
        (Overrides(admin="0.0.0.0:8080"), "--admin: expected different addresses for listen and admin, found the same for both"),
    ],
)
def test_a_mistake_in_a_flag_is_told_in_the_same_way(overrides: Overrides, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes("", overrides=overrides) == [mistake]


def test_a_broken_file_does_not_hide_a_broken_flag() -> None:
    assert [one.split(": ")[0] for one in told("a: [", Overrides(admin="x"))] == ["--admin", "1:5"]


def test_a_broken_upstream_flag_is_told_once_without_a_file_and_with_one() -> None:
    assert len(told("mode: enforce", Overrides(upstream="x"))) == 1
    with pytest.raises(ConfigError) as error:
        default(Overrides(upstream="x"))
    assert str(error.value) == f'--upstream: expected {URL}, found "x"'


def test_without_a_file_the_flags_run_on_the_defaults() -> None:
    read = default(Overrides(upstream="ws://h", listen="127.0.0.1:1"))
    assert read.upstreams == {"default": Upstream("default", TcpAddress("h", 80))}
    assert (read.listen, read.rules) == (TcpAddress("127.0.0.1", 1), ())


def test_without_a_file_and_an_upstream_there_is_nothing_to_run() -> None:
    with pytest.raises(ConfigError) as error:
        default(Overrides())
    assert str(error.value) == f"--upstream: expected {URL}, found nothing"
