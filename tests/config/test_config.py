"""Files: what cannot be read, what is shipped, and that any text at all gives a Config or a ConfigError."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import proxy
from proxy.config import Config, ConfigError, Limits, LogSettings, Overrides, StoreSettings, TunnelSettings, load, parse
from proxy.config.operation_schema import KEEPALIVE_KEYS, LIMITS_KEYS, LOG_KEYS, TUNNEL_KEYS
from proxy.config.rule_schema import KEYS as RULE_KEYS
from proxy.config.schema import DEFAULT_ADMIN, DEFAULT_LISTEN, KEYS
from proxy.config.store_schema import STORE_WORDS
from proxy.config.tls_schema import SERVER_KEYS, UPSTREAM_KEYS
from proxy.config.upstream_schema import KEYS as BACKEND_KEYS
from proxy.config.yaml_nodes import MAX_FILE
from proxy.policy.identity import IdentityRules
from proxy.policy.rules import RefuseWith
from proxy.policy.upstreams import TcpAddress, Upstream

SHIPPED = Path(proxy.__file__).parents[1] / "config"


def mistake(path: Path | str, overrides: Overrides | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load(str(path), {}, overrides or Overrides())
    return str(error.value)


def test_the_shipped_configuration_spells_out_the_defaults_and_starts_without_an_environment() -> None:
    config = load(str(SHIPPED / "wsgate.yaml"), {})
    assert (config.listen, config.admin, config.identity) == (DEFAULT_LISTEN, DEFAULT_ADMIN, IdentityRules())
    assert (config.refuse_with, config.store) == (RefuseWith.CLOSE, StoreSettings())
    assert config.upstreams == {"game": Upstream("game", TcpAddress("127.0.0.1", 9000))}
    assert (config.tls, config.drain) == (None, 8.0)
    assert (config.limits, config.tunnel, config.log) == (Limits(), TunnelSettings(), LogSettings())
    assert [route.path for route in config.routes] == ["/ws/tournament/{room}", "/{rest*}"]
    assert [(rule.name, rule.limit, rule.burst, rule.close_code) for rule in config.rules] == [
        ("user-connections", 3, 0, 4008),
        ("ip-connections", 10, 0, 4008),
        ("room-seats", 2000, 0, 4010),
        ("ip-upgrades", 5, 20, 4008),
        ("user-messages", 10, 20, 4008),
        ("ip-messages", 20, 40, 4008),
        ("payload", 16384, 0, 4009),
    ]
    assert not any(rule.shadow for rule in config.rules)


def test_the_shipped_configuration_shows_every_key() -> None:
    text = (SHIPPED / "wsgate.yaml").read_text()
    keys = (*KEYS, *BACKEND_KEYS, *SERVER_KEYS, *UPSTREAM_KEYS, *LIMITS_KEYS, *TUNNEL_KEYS, *KEEPALIVE_KEYS, *LOG_KEYS)
    assert [key for key in keys if f"{key}:" not in text] == []


def test_the_minimal_configuration_limits_something() -> None:
    config = load(str(SHIPPED / "minimal.yaml"), {})
    assert (len(config.upstreams), len(config.routes), len(config.rules)) == (1, 1, 1)


def test_a_configuration_cannot_be_changed() -> None:
    config = load(str(SHIPPED / "minimal.yaml"), {})
    with pytest.raises(TypeError):
        config.upstreams["other"] = config.upstreams["game"]  # type: ignore[index]  # that it cannot is the point


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"a: \xff", ":1:4: expected UTF-8, found the byte 0xff"),
        ("# ü\n# üü ".encode() + b"\xc3(\n", ":2:6: expected UTF-8, found the byte 0xc3"),
        ("upstreams: {}".encode("utf-16"), ":1:1: expected UTF-8, found the byte 0xff"),
        (b"#" * (MAX_FILE + 1), ": expected a file of at most 1024 KiB, found a larger one"),
        (b"", ":1:1: expected a mapping with at least upstreams, found an empty file"),
    ],
)
def test_a_file_that_is_no_text_is_a_located_mistake(content: bytes, where: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_bytes(content)
    assert mistake(file) == f"{file}{where}"


def test_a_file_that_is_not_there_is_a_mistake_beside_those_in_flags(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    assert mistake(file) == f"{file}: expected a file that can be read, found No such file or directory"
    assert mistake(tmp_path) == f"{tmp_path}: expected a file that can be read, found Is a directory"
    assert mistake("a\0b") == "a\0b: expected the path of a file, found one that no file can have"
    assert mistake(file, Overrides(store="x")).splitlines()[1] == f'--store: expected {STORE_WORDS}, found "x"'


def test_a_file_that_is_read_once_may_be_a_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        pipe.write((SHIPPED / "minimal.yaml").read_bytes())
    try:
        assert len(load(f"/dev/fd/{reader}", {}).rules) == 1
    finally:
        os.close(reader)


def config_or_mistakes(text: str) -> None:
    try:
        config: Config | ConfigError = parse(text, "f", {"A": "b", "EMPTY": ""})
    except ConfigError as error:
        config = error
    if isinstance(config, ConfigError):
        assert config.problems
        assert {problem.file for problem in config.problems} == {"f"}
        assert len(str(config).split("\n")) == len(config.problems)
    else:
        assert config.upstreams


WORDS = [
    *KEYS,
    *RULE_KEYS,
    *BACKEND_KEYS,
    *SERVER_KEYS,
    *UPSTREAM_KEYS,
    *LIMITS_KEYS,
    *TUNNEL_KEYS,
    *KEEPALIVE_KEYS,
    *LOG_KEYS,
    "user",
    "ip",
    "room",
    "route",
    "path",
    "upstream",
    "bearer",
    "query",
    "secret",
    "trusted_proxies",
    "game",
    "ws://h",
    "wss://h",
    "10/s",
    "30s",
    "16KiB",
    "true",
    "${A}",
    "${",
    "<<",
    "",
]
VALUES = st.recursive(
    st.sampled_from(WORDS) | st.integers().map(str) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab:-?[]{}&*!|>'\"%@`#,.$~<= \n\t\\\r\x85\u2028\ufeff0x\0") | st.characters(), max_size=80))
def test_any_text_gives_a_config_or_mistakes_and_nothing_else(text: str) -> None:
    config_or_mistakes(text)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_values_under_known_keys_give_a_config_or_mistakes_and_nothing_else(values: dict[str, object]) -> None:
    config_or_mistakes(yaml.safe_dump(values, allow_unicode=True))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_shipped_configuration_with_any_damage_gives_a_config_or_mistakes_and_nothing_else(data: st.DataObject) -> None:
    text = (SHIPPED / "wsgate.yaml").read_text()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 40)))
    config_or_mistakes(text[:begin] + data.draw(st.text(max_size=6) | st.sampled_from(WORDS)) + text[end:])
