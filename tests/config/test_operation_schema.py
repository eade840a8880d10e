"""The keys `drain`, `limits`, `tunnel` and `log`: what they mean, and the bounds of each number."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from proxy.config import Config, Keepalive, Limits, LogFormat, LogLevel, LogSettings, TunnelSettings

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

LIMITS_KEYS = "max_connections, max_pending, max_pending_per_ip, head_size or head_timeout"
COUNT = "a whole number from 1 to 1000000"
TIMEOUT = "a duration from 1ms to 5m"
SECONDS = "a duration of whole seconds from 1s to 32767s"
TUNNEL_KEYS = "buffer, keepalive, user_timeout, slow_reader, ping_interval, ping_timeout, idle_timeout or max_lifetime"
HOUR = "a duration from 100ms to 1h"
HOUR_OR_OFF = "a duration from 100ms to 1h or off"
MONTH_OR_OFF = "a duration from 100ms to 720h or off"


def test_the_defaults_are_those_of_the_contract() -> None:
    limits, tunnel, log = Limits(), TunnelSettings(), LogSettings()
    assert (limits.max_connections, limits.max_pending, limits.max_pending_per_ip) == (None, 1024, 128)
    assert (limits.head_size, limits.head_timeout) == (16384, 10.0)
    assert (tunnel.buffer, tunnel.user_timeout) == (262144, 30.0)
    assert (tunnel.slow_reader, tunnel.ping_interval, tunnel.ping_timeout) == (30.0, 30.0, 20.0)
    assert (tunnel.idle_timeout, tunnel.max_lifetime) == (0.0, 0.0)  # off
    assert (tunnel.keepalive.idle, tunnel.keepalive.interval, tunnel.keepalive.count) == (20, 5, 3)
    assert (log.level, log.format, log.access) == (LogLevel.INFO, LogFormat.JSON, True)


@pytest.mark.parametrize("text", ["", "limits: {}\ntunnel: {}\nlog: {}", "tunnel: {keepalive: {}}"])
def test_what_is_not_said_is_as_by_default(text: str, config: Read) -> None:
    read = config(text)
    assert (read.drain, read.limits, read.tunnel, read.log) == (8.0, Limits(), TunnelSettings(), LogSettings())


def test_every_key_is_read(config: Read) -> None:
    read = config("""
drain: 1.5s
limits: {max_connections: 7, max_pending: 6, max_pending_per_ip: 5, head_size: 4KiB, head_timeout: 200ms}
tunnel:
  {buffer: 64KiB, keepalive: {idle: 1m, interval: 2s, count: 9}, user_timeout: 90.5s, slow_reader: 90s,
   ping_interval: 1m, ping_timeout: 1s, idle_timeout: 1h, max_lifetime: 12h}
log: {level: debug, format: text, access: false}
""")
    assert read.drain == 1.5
    assert read.limits == Limits(7, 6, 5, 4096, 0.2)
    assert read.tunnel == TunnelSettings(65536, Keepalive(60, 2, 9), 90.5, 90.0, 60.0, 1.0, 3600.0, 43200.0)
    assert read.log == LogSettings(LogLevel.DEBUG, LogFormat.TEXT, access=False)


def test_what_the_kernel_counts_in_whole_seconds_comes_as_an_int(config: Read) -> None:
    keepalive = config("tunnel: {keepalive: {idle: 2000ms, interval: 0.5m}}").tunnel.keepalive
    assert keepalive == Keepalive(2, 30, 3)
    assert isinstance(keepalive.idle, int)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels_are_read_by_their_words(level: str, config: Read) -> None:
    assert config(f"log: {{level: {level}}}").log.level.value == level


def test_settings_cannot_be_changed(config: Read) -> None:
    read = config("")
    for settings, name in [(read.limits, "max_pending"), (read.tunnel, "buffer"), (read.tunnel.keepalive, "idle"), (read.log, "access")]:
        with pytest.raises(FrozenInstanceError):
            setattr(settings, name, 1)


@pytest.mark.parametrize(
    "text",
    [
        *("drain: 0s", "drain: 0ms", "drain: 1h"),
        *("limits: {max_connections: 1}", "limits: {max_connections: 1000000}"),
        *("limits: {max_pending: 1}", "limits: {max_pending: 1000000, max_pending_per_ip: 1000000}"),
        *("limits: {head_size: 1024}", "limits: {head_size: 1MiB}", "limits: {head_timeout: 1ms}", "limits: {head_timeout: 300s}"),
        *("tunnel: {buffer: 4KiB}", "tunnel: {buffer: 64MiB}", "tunnel: {user_timeout: 30s}", "tunnel: {user_timeout: 60m}"),
        *("tunnel: {user_timeout: 100ms, slow_reader: 100ms}", "tunnel: {user_timeout: 1h, slow_reader: 1h}"),
        *("tunnel: {ping_interval: 100ms, ping_timeout: 100ms}", "tunnel: {ping_interval: 1h, ping_timeout: 1h}"),
        *("tunnel: {idle_timeout: 100ms, max_lifetime: 100ms}", "tunnel: {idle_timeout: 720h, max_lifetime: 720h}"),
        *("tunnel: {keepalive: {idle: 1s, interval: 1s, count: 1}}", "tunnel: {keepalive: {idle: 32767s, interval: 32767s, count: 127}}"),
    ],
)
def test_both_bounds_of_a_number_are_allowed(text: str, config: Read) -> None:
    assert config(text)


def test_the_share_of_one_address_is_told_only_where_it_is_said_and_too_large(config: Read, mistakes: Mistakes) -> None:
    assert config("limits: {max_pending: 100}").limits == Limits(max_pending=100)
    assert config("limits: {max_pending: 100, max_pending_per_ip: 100}").limits.max_pending_per_ip == 100
    assert mistakes("limits: {max_pending: 100, max_pending_per_ip: 101}") == [
        "2:48: limits.max_pending_per_ip: expected a number of at most max_pending (100), found a larger one"
    ]
    assert mistakes("limits: {max_pending_per_ip: 1025}") == [
        "2:30: limits.max_pending_per_ip: expected a number of at most max_pending (1024), found a larger one"
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("drain: 8", '2:8: drain: expected a duration from 0s to 1h, found "8"'),
        ("drain: -1s", '2:8: drain: expected a duration from 0s to 1h, found "-1s"'),
        ("drain: 3601s", '2:8: drain: expected a duration from 0s to 1h, found "3601s"'),
        ("drain:", "2:7: drain: expected a duration from 0s to 1h, found nothing"),
        ("drain: [8s]", "2:8: drain: expected a duration from 0s to 1h, found a list"),
        ("limits:", "2:8: limits: expected a mapping such as {max_pending: 1024}, found nothing"),
        ("limits: [x]", "2:9: limits: expected a mapping such as {max_pending: 1024}, found a list"),
        (
            "limits: {max_conections: 1}",
            f"2:10: limits.max_conections: expected {LIMITS_KEYS} (did you mean max_connections?), found the unknown key max_conections",
        ),
        ("limits: {max_connections: 0}", f'2:27: limits.max_connections: expected {COUNT}, found "0"'),
        ("limits: {max_connections: 1000001}", f'2:27: limits.max_connections: expected {COUNT}, found "1000001"'),
        ("limits: {max_connections: 1e3}", f'2:27: limits.max_connections: expected {COUNT}, found "1e3"'),
        ("limits: {max_connections: }", f"2:26: limits.max_connections: expected {COUNT}, found nothing"),
        ("limits: {max_pending: 0}", f'2:23: limits.max_pending: expected {COUNT}, found "0"'),
        ("limits: {max_pending: 1000001}", f'2:23: limits.max_pending: expected {COUNT}, found "1000001"'),
        ("limits: {max_pending_per_ip: 0}", f'2:30: limits.max_pending_per_ip: expected {COUNT}, found "0"'),
        ("limits: {max_pending_per_ip: 1000001}", f'2:30: limits.max_pending_per_ip: expected {COUNT}, found "1000001"'),
        ("limits: {head_size: 1023}", '2:21: limits.head_size: expected a size from 1KiB to 1MiB, found "1023"'),
        ("limits: {head_size: 2MiB}", '2:21: limits.head_size: expected a size from 1KiB to 1MiB, found "2MiB"'),
        ("limits: {head_size: 16k}", '2:21: limits.head_size: expected a size from 1KiB to 1MiB, found "16k"'),
        ("limits: {head_timeout: 0s}", f'2:24: limits.head_timeout: expected {TIMEOUT}, found "0s"'),
        ("limits: {head_timeout: 6m}", f'2:24: limits.head_timeout: expected {TIMEOUT}, found "6m"'),
        ("limits: {head_timeout: 10}", f'2:24: limits.head_timeout: expected {TIMEOUT}, found "10"'),
        ("tunnel: x", "2:9: tunnel: expected a mapping such as {buffer: 256KiB}, found text"),
        (
            "tunnel: {bufer: x}",
            f"2:10: tunnel.bufer: expected {TUNNEL_KEYS} (did you mean buffer?), found the unknown key bufer",
        ),
        ("tunnel: {buffer: 4095}", '2:18: tunnel.buffer: expected a size from 4KiB to 64MiB, found "4095"'),
        ("tunnel: {buffer: 65MiB}", '2:18: tunnel.buffer: expected a size from 4KiB to 64MiB, found "65MiB"'),
        ("tunnel: {user_timeout: 99ms}", f'2:24: tunnel.user_timeout: expected {HOUR}, found "99ms"'),
        ("tunnel: {user_timeout: 61m}", f'2:24: tunnel.user_timeout: expected {HOUR}, found "61m"'),
        ("tunnel: {slow_reader: 99ms}", f'2:23: tunnel.slow_reader: expected {HOUR}, found "99ms"'),
        ("tunnel: {slow_reader: 61m}", f'2:23: tunnel.slow_reader: expected {HOUR}, found "61m"'),
        ("tunnel: {slow_reader: off}", f'2:23: tunnel.slow_reader: expected {HOUR}, found "off"'),
        ("tunnel: {ping_interval: 0s}", f'2:25: tunnel.ping_interval: expected {HOUR_OR_OFF}, found "0s"'),
        ("tunnel: {ping_interval: 61m}", f'2:25: tunnel.ping_interval: expected {HOUR_OR_OFF}, found "61m"'),
        ("tunnel: {ping_interval: false}", f'2:25: tunnel.ping_interval: expected {HOUR_OR_OFF}, found "false"'),
        ("tunnel: {ping_timeout: 0s}", f'2:24: tunnel.ping_timeout: expected {HOUR}, found "0s"'),
        ("tunnel: {ping_timeout: off}", f'2:24: tunnel.ping_timeout: expected {HOUR}, found "off"'),
        ("tunnel: {idle_timeout: 0s}", f'2:24: tunnel.idle_timeout: expected {MONTH_OR_OFF}, found "0s"'),
        ("tunnel: {idle_timeout: 721h}", f'2:24: tunnel.idle_timeout: expected {MONTH_OR_OFF}, found "721h"'),
        ("tunnel: {idle_timeout: }", f"2:23: tunnel.idle_timeout: expected {MONTH_OR_OFF}, found nothing"),
        ("tunnel: {max_lifetime: 0s}", f'2:24: tunnel.max_lifetime: expected {MONTH_OR_OFF}, found "0s"'),
        ("tunnel: {max_lifetime: 721h}", f'2:24: tunnel.max_lifetime: expected {MONTH_OR_OFF}, found "721h"'),
        (
            "tunnel: {user_timeout: 29999ms}",
            "2:24: tunnel.user_timeout: expected a duration not below slow_reader (30s by default), found a shorter one",
        ),
        (
            "tunnel: {slow_reader: 31s}",
            "2:23: tunnel.slow_reader: expected a duration not above user_timeout (30s by default), found a longer one",
        ),
        (
            "tunnel: {slow_reader: 60.5s, user_timeout: 60s}",
            "2:44: tunnel.user_timeout: expected a duration not below slow_reader (60.5s at 2:23), found a shorter one",
        ),
        ("tunnel: {keepalive: 20s}", "2:21: tunnel.keepalive: expected a mapping such as {idle: 20s, interval: 5s, count: 3}, found text"),
        (
            "tunnel: {keepalive: {idel: 1s}}",
            "2:22: tunnel.keepalive.idel: expected idle, interval or count (did you mean idle?), found the unknown key idel",
        ),
        ("tunnel: {keepalive: {idle: 0s}}", f'2:28: tunnel.keepalive.idle: expected {SECONDS}, found "0s"'),
        ("tunnel: {keepalive: {idle: 1500ms}}", f'2:28: tunnel.keepalive.idle: expected {SECONDS}, found "1500ms"'),
        ("tunnel: {keepalive: {idle: 32768s}}", f'2:28: tunnel.keepalive.idle: expected {SECONDS}, found "32768s"'),
        ("tunnel: {keepalive: {interval: 500ms}}", f'2:32: tunnel.keepalive.interval: expected {SECONDS}, found "500ms"'),
        ("tunnel: {keepalive: {interval: 10h}}", f'2:32: tunnel.keepalive.interval: expected {SECONDS}, found "10h"'),
        ("tunnel: {keepalive: {count: 0}}", '2:29: tunnel.keepalive.count: expected a whole number from 1 to 127, found "0"'),
        ("tunnel: {keepalive: {count: 128}}", '2:29: tunnel.keepalive.count: expected a whole number from 1 to 127, found "128"'),
        ("log: info", "2:6: log: expected a mapping such as {level: info}, found text"),
        ("log: {lvl: info}", "2:7: log.lvl: expected level, format or access (did you mean level?), found the unknown key lvl"),
        ("log: {level: warn}", '2:14: log.level: expected debug, info, warning or error (did you mean warning?), found "warn"'),
        ("log: {format: JSON}", '2:15: log.format: expected json or text, found "JSON"'),
        ("log: {access: off}", '2:15: log.access: expected true or false, found "off"'),
    ],
)
def test_each_mistake_is_told_where_it_stands(text: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(text) == [mistake]


@pytest.mark.parametrize("key", ["ping_interval", "idle_timeout", "max_lifetime"])
def test_what_may_be_off(key: str, config: Read) -> None:
    assert getattr(config(f"tunnel: {{{key}: off}}").tunnel, key) == 0.0


def test_a_timeout_that_cannot_be_read_is_the_only_mistake(mistakes: Mistakes) -> None:
    """What it should not be below or above is not told as well."""
    assert mistakes("tunnel: {slow_reader: 40s, user_timeout: soon}") == [f'2:42: tunnel.user_timeout: expected {HOUR}, found "soon"']
