"""How the gate is run: the keys `drain`, `limits`, `tunnel` and `log`.

Each number has two bounds. The lower one keeps out what would stop everybody, the upper one what can only be a slip, and what the
kernel would refuse later, when the first client is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from proxy.config.reading import FLAG, Kind, Reading, choice, within
from proxy.config.units import parse_count, parse_duration, parse_seconds, parse_size
from proxy.config.yaml_nodes import Table

LIMITS_KEYS: Final = ("max_connections", "max_pending", "max_pending_per_ip", "head_size", "head_timeout")
TUNNEL_KEYS: Final = (
    *("buffer", "keepalive", "user_timeout", "slow_reader"),
    *("ping_interval", "ping_timeout", "idle_timeout", "max_lifetime"),
)
KEEPALIVE_KEYS: Final = ("idle", "interval", "count")
LOG_KEYS: Final = ("level", "format", "access")

OFF: Final = "off"  # the word for a time that never comes
DEFAULT_DRAIN: Final = 8.0  # seconds; under the 10 that Docker waits


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be open or under way at once, and how a head must come.

    `max_connections`: None: as many as RLIMIT_NOFILE allows. `max_pending`: heads and upgrades under way. `head_size`: bytes.
    `head_timeout`: seconds.
    """

    max_connections: int | None = None
    max_pending: int = 1024
    max_pending_per_ip: int = 128
    head_size: int = 16 << 10
    head_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalive, tcp(7): after `idle` seconds of silence a probe every `interval` seconds; `count` without an answer are the end."""

    idle: int = 20
    interval: int = 5
    count: int = 3


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """What one tunnel may take, and how long; all times in seconds, 0 is off.

    `buffer`: bytes per direction. `user_timeout`: that sent bytes may wait for their ACK; it overrides `keepalive.count`, and is not
    below `slow_reader`, or the kernel would end a slow reader before we could.
    """

    buffer: int = 256 << 10
    keepalive: Keepalive = Keepalive()
    user_timeout: float = 30.0
    slow_reader: float = 30.0
    ping_interval: float = 30.0
    ping_timeout: float = 20.0
    idle_timeout: float = 0.0
    max_lifetime: float = 0.0


class LogLevel(Enum):
    """The least that is written; the values are the YAML words, from most lines to fewest."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(Enum):
    """One JSON object a line, or a line for people."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`access`: a line for each end of a connection and each refusal."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.JSON
    access: bool = True


def or_off(kind: Kind[float]) -> Kind[float]:
    """A duration that may be `off` too, which is 0."""
    return Kind(kind.expected, lambda text: 0.0 if text == OFF else kind.parse(text))


CONNECTIONS: Final = within("a whole number", parse_count, "1", "1000000")
HEAD_SIZE: Final = within("a size", parse_size, "1KiB", "1MiB")
TIMEOUT: Final = within("a duration", parse_duration, "1ms", "5m")
DRAIN: Final = within("a duration", parse_duration, "0s", "1h")
BUFFER: Final = within("a size", parse_size, "4KiB", "64MiB")
KEEPALIVE_TIME: Final = within("a duration of whole seconds", parse_seconds, "1s", "32767s")  # MAX_TCP_KEEPIDLE and _KEEPINTVL of Linux
KEEPALIVE_COUNT: Final = within("a whole number", parse_count, "1", "127")  # MAX_TCP_KEEPCNT of Linux
USER_TIMEOUT: Final = within("a duration", parse_duration, "100ms", "1h")
PATIENCE: Final = within("a duration", parse_duration, "100ms", "1h")
PING_INTERVAL: Final = or_off(within("a duration", parse_duration, "100ms", "1h", " or off"))
LONG: Final = or_off(within("a duration", parse_duration, "100ms", "720h", " or off"))
LEVEL: Final = choice(LogLevel)
FORMAT: Final = choice(LogFormat)


def read_drain(reading: Reading, top: Table) -> float | None:
    """Seconds."""
    return reading.optional(top, "drain", DRAIN, DEFAULT_DRAIN)


def read_limits(reading: Reading, top: Table) -> Limits | None:
    """The section, or its defaults where there is none."""
    default = Limits()
    if "limits" not in top.entries:
        return default
    table = reading.fields(top.entries["limits"], "a mapping such as {max_pending: 1024}", LIMITS_KEYS)
    if table is None:
        return None
    max_connections = reading.scalar(table.entries["max_connections"], CONNECTIONS) if "max_connections" in table.entries else None
    max_pending = reading.optional(table, "max_pending", CONNECTIONS, default.max_pending)
    per_ip = reading.optional(table, "max_pending_per_ip", CONNECTIONS, default.max_pending_per_ip)
    head_size = reading.optional(table, "head_size", HEAD_SIZE, default.head_size)
    head_timeout = reading.optional(table, "head_timeout", TIMEOUT, default.head_timeout)
    if max_pending is None or per_ip is None or head_size is None or head_timeout is None:
        return None
    if "max_pending_per_ip" in table.entries and per_ip > max_pending:
        place = table.entries["max_pending_per_ip"].place
        reading.report(place, f"a number of at most max_pending ({max_pending})", "a larger one")
    return Limits(max_connections, max_pending, per_ip, head_size, head_timeout)


def read_tunnel(reading: Reading, top: Table) -> TunnelSettings | None:
    """The section, or its defaults where there is none."""
    default = TunnelSettings()
    if "tunnel" not in top.entries:
        return default
    table = reading.fields(top.entries["tunnel"], "a mapping such as {buffer: 256KiB}", TUNNEL_KEYS)
    if table is None:
        return None
    buffer = reading.optional(table, "buffer", BUFFER, default.buffer)
    keepalive = _read_keepalive(reading, table)
    user_timeout = reading.optional(table, "user_timeout", USER_TIMEOUT, default.user_timeout)
    slow_reader = reading.optional(table, "slow_reader", PATIENCE, default.slow_reader)
    ping_interval = reading.optional(table, "ping_interval", PING_INTERVAL, default.ping_interval)
    ping_timeout = reading.optional(table, "ping_timeout", PATIENCE, default.ping_timeout)
    idle_timeout = reading.optional(table, "idle_timeout", LONG, default.idle_timeout)
    max_lifetime = reading.optional(table, "max_lifetime", LONG, default.max_lifetime)
    if user_timeout is not None and slow_reader is not None and user_timeout < slow_reader:
        _report_order(reading, table, user_timeout, slow_reader)
    if buffer is None or keepalive is None or user_timeout is None or slow_reader is None:
        return None
    if ping_interval is None or ping_timeout is None or idle_timeout is None or max_lifetime is None:
        return None
    return TunnelSettings(buffer, keepalive, user_timeout, slow_reader, ping_interval, ping_timeout, idle_timeout, max_lifetime)


def _report_order(reading: Reading, table: Table, user_timeout: float, slow_reader: float) -> None:
    """The kernel would end a slow reader before we do. Told at user_timeout where that is written, else at slow_reader."""
    user, slow = table.entries.get("user_timeout"), table.entries.get("slow_reader")
    if user is not None:
        where = "by default" if slow is None else f"at {slow.place.line}:{slow.place.column}"
        reading.report(user.place, f"a duration not below slow_reader ({slow_reader:g}s {where})", "a shorter one")
    elif slow is not None:
        reading.report(slow.place, f"a duration not above user_timeout ({user_timeout:g}s by default)", "a longer one")


def _read_keepalive(reading: Reading, tunnel: Table) -> Keepalive | None:
    default = Keepalive()
    if "keepalive" not in tunnel.entries:
        return default
    table = reading.fields(tunnel.entries["keepalive"], "a mapping such as {idle: 20s, interval: 5s, count: 3}", KEEPALIVE_KEYS)
    if table is None:
        return None
    idle = reading.optional(table, "idle", KEEPALIVE_TIME, default.idle)
    interval = reading.optional(table, "interval", KEEPALIVE_TIME, default.interval)
    count = reading.optional(table, "count", KEEPALIVE_COUNT, default.count)
    return None if idle is None or interval is None or count is None else Keepalive(idle, interval, count)


def read_log(reading: Reading, top: Table) -> LogSettings | None:
    """The section, or its defaults where there is none."""
    default = LogSettings()
    if "log" not in top.entries:
        return default
    table = reading.fields(top.entries["log"], "a mapping such as {level: info}", LOG_KEYS)
    if table is None:
        return None
    level = reading.optional(table, "level", LEVEL, default.level)
    log_format = reading.optional(table, "format", FORMAT, default.format)
    access = reading.optional(table, "access", FLAG, default.access)
    return None if level is None or log_format is None or access is None else LogSettings(level, log_format, access)
