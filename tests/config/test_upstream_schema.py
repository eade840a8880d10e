"""One backend: its URL, and how it is dialed."""

import pytest

from proxy.config import ConfigError, parse
from proxy.config.upstream_schema import make_upstream, replace_url
from proxy.policy.upstreams import TcpAddress, UnixAddress, Upstream, UpstreamTls, UpstreamUrl

PLAIN = UpstreamUrl(TcpAddress("p", 80))
SECURE = UpstreamUrl(TcpAddress("s", 443), secure=True)
TLS = UpstreamTls(server_name="game.test")

KEYS = "url, connect_timeout, handshake_timeout, tls or max_pending"
TIMEOUT = "a duration from 1ms to 5m"
COUNT = "a whole number from 1 to 1000000"


def read(fields: str) -> Upstream:
    return parse(f"upstreams: {{a: {{{fields}}}}}", "f", {}).upstreams["a"]


@pytest.mark.parametrize(
    ("url", "upstream"),
    [
        ("ws://h", Upstream("a", TcpAddress("h", 80), 5.0, 10.0, None, 512)),
        ("http://h", Upstream("a", TcpAddress("h", 80), 5.0, 10.0, None, 512)),
        ("unix:/run/a.sock", Upstream("a", UnixAddress("/run/a.sock"), 5.0, 10.0, None, 512)),
        ("wss://h", Upstream("a", TcpAddress("h", 443), 5.0, 10.0, UpstreamTls(None, None, verify=True), 512)),
        ("https://h:8443", Upstream("a", TcpAddress("h", 8443), 5.0, 10.0, UpstreamTls(None, None, verify=True), 512)),
    ],
)
def test_only_the_url_is_required(url: str, upstream: Upstream) -> None:
    assert read(f"url: '{url}'") == upstream


def test_every_key_is_read() -> None:
    fields = "url: wss://h, connect_timeout: 200ms, handshake_timeout: 1m, max_pending: 3, tls: {server_name: game.test}"
    assert read(fields) == Upstream("a", TcpAddress("h", 443), 0.2, 60.0, TLS, 3)


@pytest.mark.parametrize(
    "fields", ["connect_timeout: 1ms, handshake_timeout: 5m, max_pending: 1", "connect_timeout: 300s, max_pending: 1000000"]
)
def test_both_bounds_of_a_number_are_allowed(fields: str) -> None:
    assert read(f"url: ws://h, {fields}")


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ("connect_timeout: 0s", f'1:47: upstreams.a.connect_timeout: expected {TIMEOUT}, found "0s"'),
        ("connect_timeout: 5", f'1:47: upstreams.a.connect_timeout: expected {TIMEOUT}, found "5"'),
        ("connect_timeout: 6m", f'1:47: upstreams.a.connect_timeout: expected {TIMEOUT}, found "6m"'),
        ("connect_timeout: ", f"1:46: upstreams.a.connect_timeout: expected {TIMEOUT}, found nothing"),
        ("handshake_timeout: 0.9ms", f'1:49: upstreams.a.handshake_timeout: expected {TIMEOUT}, found "0.9ms"'),
        ("handshake_timeout: 1h", f'1:49: upstreams.a.handshake_timeout: expected {TIMEOUT}, found "1h"'),
        ("max_pending: 0", f'1:43: upstreams.a.max_pending: expected {COUNT}, found "0"'),
        ("max_pending: 1000001", f'1:43: upstreams.a.max_pending: expected {COUNT}, found "1000001"'),
        ("max_pending: [1]", f"1:43: upstreams.a.max_pending: expected {COUNT}, found a list"),
        (
            "max_pendign: 1",
            f"1:30: upstreams.a.max_pendign: expected {KEYS} (did you mean max_pending?), found the unknown key max_pendign",
        ),
    ],
)
def test_each_mistake_is_told_where_it_stands(fields: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(f"url: ws://h, {fields}")
    assert str(error.value) == f"f:{mistake}"


def test_a_broken_url_hides_no_other_mistake_and_makes_none() -> None:
    with pytest.raises(ConfigError) as error:
        read("url: x, connect_timeout: x, handshake_timeout: x, max_pending: x, tls: {verify: x}")
    assert [problem.path.rpartition(".")[2] for problem in error.value.problems] == [
        *("url", "connect_timeout", "handshake_timeout", "max_pending", "verify")
    ]
    with pytest.raises(ConfigError) as error:
        read("url: x, tls: {verify: true}")
    assert len(error.value.problems) == 1


def test_a_backend_of_which_only_the_url_is_known_has_the_defaults() -> None:
    assert make_upstream("a", PLAIN) == Upstream("a", PLAIN.address)
    assert make_upstream("a", SECURE) == Upstream("a", SECURE.address, tls=UpstreamTls())


@pytest.mark.parametrize(
    ("before", "url", "after"),
    [(None, PLAIN, None), (None, SECURE, UpstreamTls()), (TLS, SECURE, TLS), (TLS, PLAIN, None)],
)
def test_another_url_keeps_all_that_still_has_a_meaning(before: UpstreamTls | None, url: UpstreamUrl, after: UpstreamTls | None) -> None:
    upstream = Upstream("a", TcpAddress("h", 1), 1.0, 2.0, before, 3)
    assert replace_url(upstream, url) == Upstream("a", url.address, 1.0, 2.0, after, 3)
