"""The store's URL and the keys about it. What may be a password is never repeated."""

from collections.abc import Callable

import pytest

from proxy.config import Config, ConfigError, OnStoreDown, Overrides, StoreSettings, default, parse
from proxy.config.store_schema import PREFIX_WORDS, STORE_WORDS, parse_prefix, parse_store
from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

SENTINEL, CLUSTER = Topology.SENTINEL, Topology.CLUSTER
ENCODED = "user and password percent-encoded: %40 for @, %3A for :, %2F for /, %25 for %"


def address(*endpoints: tuple[str, int], **fields: object) -> StoreAddress:
    return StoreAddress(tuple(Endpoint(*one) for one in endpoints), **fields)  # type: ignore[arg-type]  # a table of cases


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis://h", address(("h", 6379))),
        ("REDIS://redis.internal:6380/", address(("redis.internal", 6380))),
        ("redis://127.0.0.1/3", address(("127.0.0.1", 6379), database=3)),
        ("redis://[::1]:6380/15", address(("::1", 6380), database=15)),
        ("rediss://h", address(("h", 6379), tls=True)),
        ("redis://:secret@h", address(("h", 6379), password="secret")),
        ("redis://me:secret@h", address(("h", 6379), username="me", password="secret")),
        ("redis://m%C3%BC:p%40s%3As%2Fw%25%20@h", address(("h", 6379), username="mü", password="p@s:s/w% ")),
        ("redis://:a+b$c=@h", address(("h", 6379), password="a+b$c=")),
        ("redis+sentinel://a,b:1,[::1]/gate", address(("a", 26379), ("b", 1), ("::1", 26379), topology=SENTINEL, service="gate")),
        ("rediss+sentinel://:p@a/gate/2", address(("a", 26379), topology=SENTINEL, service="gate", database=2, password="p", tls=True)),
        ("redis+cluster://a,b:7001", address(("a", 6379), ("b", 7001), topology=CLUSTER)),
        ("rediss+cluster://u:p@a/", address(("a", 6379), topology=CLUSTER, username="u", password="p", tls=True)),
    ],
)
def test_urls(url: str, read: StoreAddress) -> None:
    assert parse_store(url) == read


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", STORE_WORDS),
        ("memory", STORE_WORDS),
        ("memory:///", STORE_WORDS),
        ("memory://x", STORE_WORDS),
        ("MEMORY://", STORE_WORDS),
        ("postgres://h", STORE_WORDS),
        ("unix:/run/redis.sock", STORE_WORDS),
        ("redis:h", STORE_WORDS),
        ("valkey://h", STORE_WORDS),
        ("redis://", "a host name (letters, digits, - and dots), an IPv4 address or an IPv6 address in brackets"),
        ("redis://h:0", "a port from 1 to 65535"),
        ("redis://h:65536", "a port of at most 65535"),
        ("redis://h:", "a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080"),
        ("redis://::1:6379", "a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080"),
        ("redis://1.2.3", "an IPv4 address of four numbers, such as 127.0.0.1"),
        ("redis://a,b", "one host (several: redis+sentinel:// or redis+cluster://)"),
        ("redis+cluster://a,,b", "a host name (letters, digits, - and dots), an IPv4 address or an IPv6 address in brackets"),
        ("redis+cluster://a,a:6379", "each host once"),
        ("redis+cluster://" + ",".join(f"h{number}" for number in range(65)), "fewer hosts"),
        ("redis+cluster://a/1", "no path: a Cluster has the database 0 alone"),
        ("redis+sentinel://a", "the service's name behind the hosts, as in redis+sentinel://host,host/service"),
        ("redis+sentinel://a/", "the service's name behind the hosts, as in redis+sentinel://host,host/service"),
        ("redis+sentinel://a/x y", "the service's name behind the hosts, as in redis+sentinel://host,host/service"),
        ("redis://h/x", "the number of a database behind the last /, 0 to 9999"),
        ("redis://h/-1", "the number of a database behind the last /, 0 to 9999"),
        ("redis://h/10000", "the number of a database behind the last /, 0 to 9999"),
        ("redis+sentinel://a/gate/x", "the number of a database behind the last /, 0 to 9999"),
        ("redis://h/0/", "the number of a database behind the last /, 0 to 9999"),
        ("redis://h?db=1", "a URL without ? and # (%3F and %23 in a password)"),
        ("redis://:a#b@h", "a URL without ? and # (%3F and %23 in a password)"),
        ("redis://:a/b@h", "a / in a password written as %2F"),
        ("redis://secret@h", "user:password or :password before the @"),
        ("redis://:@h", "user:password or :password before the @"),
        ("redis://@h", "user:password or :password before the @"),
        ("redis://:a@b@h", ENCODED),
        ("redis://:a:b@h", ENCODED),
        ("redis://:a%@h", ENCODED),
        ("redis://:a%g0@h", ENCODED),
        ("redis://:ä@h", ENCODED),
        ("redis://:%ff@h", "user and password in UTF-8, percent-encoded"),
        ("redis+cluster://a,u:p@b", "user:password once, in front of all hosts"),
        ("redis://h\n", "a host name (letters, digits, - and dots), an IPv4 address or an IPv6 address in brackets"),
    ],
)
def test_wrong_urls(url: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_store(url)
    assert str(error.value) == words


def test_without_keys_the_store_is_this_process(config: Read) -> None:
    assert config("").store == StoreSettings(None, "wsgate:", 0.2, required=False, on_down=OnStoreDown.LOCAL, holder_ttl=15.0)
    assert config("store: memory://").store == StoreSettings()


def test_every_key_is_read(config: Read) -> None:
    text = "store: redis://h\nstore_prefix: 'game/1:'\nstore_timeout: 50ms\nstore_required: true\non_store_down: closed\nholder_ttl: 1m"
    assert config(text).store == StoreSettings(address(("h", 6379)), "game/1:", 0.05, True, OnStoreDown.CLOSED, 60.0)
    assert config("on_store_down: open").store.on_down is OnStoreDown.OPEN


@pytest.mark.parametrize(("key", "least", "most"), [("store_timeout", "10ms", "5s"), ("holder_ttl", "5s", "1h")])
def test_both_bounds_are_allowed_and_nothing_beyond(key: str, least: str, most: str, config: Read, mistakes: Mistakes) -> None:
    assert config(f"store: redis://h\n{key}: {least}").store != config(f"store: redis://h\n{key}: {most}").store
    for wrong in ("9ms", "61m", "-1s", "5"):
        told = mistakes(f"{key}: {wrong}")
        assert len(told) == 1
        assert told[0].startswith(f"2:{len(key) + 3}: {key}: expected a duration from {least} to {most}")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("store: x", f'2:8: store: expected {STORE_WORDS}, found "x"'),
        ("store:", f"2:7: store: expected {STORE_WORDS}, found nothing"),
        ("store: [a]", f"2:8: store: expected {STORE_WORDS}, found a list"),
        ("store: redis://h:99999", '2:8: store: expected a port of at most 65535, found "redis://h:99999"'),
        ("store_prefix: ''", f'2:15: store_prefix: expected {PREFIX_WORDS}, found ""'),
        ("store_prefix: '{a}:'", f'2:15: store_prefix: expected {PREFIX_WORDS}, found "{{a}}:"'),
        ("store_required: yes", '2:17: store_required: expected true or false, found "yes"'),
        ("on_store_down: locl", '2:16: on_store_down: expected local, open or closed (did you mean local?), found "locl"'),
    ],
)
def test_each_mistake_is_told_where_it_stands(text: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(text) == [mistake]


def test_one_mistake_hides_no_other(mistakes: Mistakes) -> None:
    text = "store: x\nstore_prefix: ' '\nstore_timeout: x\nstore_required: x\non_store_down: x\nholder_ttl: x"
    assert [one.split(": ")[1] for one in mistakes(text)] == [line.split(":")[0] for line in text.splitlines()]


@pytest.mark.parametrize("prefix", ["a", "wsgate:", "x" * 64, "~!#$%&()*+,-./:;<=>?@[]^_`|"])
def test_prefixes(prefix: str) -> None:
    assert parse_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["", " ", "x" * 65, "{", "}", "ä", "a b", "a\n", '"', "'", "\\"])
def test_wrong_prefixes(prefix: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        parse_prefix(prefix)


def test_the_flag_wins_over_the_file_and_leaves_the_rest(config: Read) -> None:
    read = config("store: redis://h\nholder_ttl: 30s", {}, Overrides(store="redis://i"))
    assert read.store == StoreSettings(address(("i", 6379)), holder_ttl=30.0)
    assert config("store: redis://h", {}, Overrides(store="memory://")).store == StoreSettings()
    assert default(Overrides(upstream="ws://h", store="rediss://i")).store.address == address(("i", 6379), tls=True)


def test_a_mistake_in_the_file_counts_where_a_flag_makes_it_harmless(mistakes: Mistakes) -> None:
    told = mistakes("store: x", {}, Overrides(store="y"))
    assert told == [f'--store: expected {STORE_WORDS}, found "y"', f'2:8: store: expected {STORE_WORDS}, found "x"']


def test_keys_without_a_shared_store_are_noted(config: Read) -> None:
    assert not [note for note in config("").notes() if "store" in note]
    assert not [note for note in config("store: redis://h\nstore_required: true").notes() if "store" in note]
    assert [note for note in config("store_required: true").notes() if "store is memory://" in note]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h:0",
        "redis://:hunter2",
        "redis://hunter2@h",
        "redis://:hunter2@h@i/x",
        "redis://me:hun%ter2/hunter2@h",
        "redis://h/?password=hunter2",
        "redis://h#hunter2",
        "redis://me:hunter2@",
        "redis:hunter2@h",
        "redis//:hunter2@h",
        ":hunter2@h:6379",
        "rediss+sentinel://:hunter2@a,b",
        "redis+cluster://a,b,:hunter2@c",
    ],
)
def test_a_password_is_in_no_message(url: str) -> None:
    for text, flag in ((f"store: '{url}'", None), ("", url)):
        with pytest.raises(ConfigError) as error:
            parse(f"upstreams: {{game: {{url: ws://h}}}}\n{text}", "f", {}, Overrides(store=flag))
        assert "hunter2" not in str(error.value) + repr(error.value.problems)


def test_a_password_from_the_environment_is_read_and_never_shown(config: Read, mistakes: Mistakes) -> None:
    environ = {"PASSWORD": "hunter2"}
    read = config("store: redis://:${PASSWORD}@h/1", environ)
    assert read.store.address == address(("h", 6379), password="hunter2", database=1)
    assert "hunter2" not in f"{read} {read!r} {read.store.address}"
    assert mistakes("store: redis://:${PASSWORD}@h/x", environ) == [
        f'2:8: store: expected {STORE_WORDS}, found "redis://...@h/x" (a value from the environment, not shown)',
    ]
