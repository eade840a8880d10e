"""Rules: one YAML limit each, as the rest of the program sees it. The tables here are the contract of DESIGN in code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from proxy.wire.frames import CloseCode


class Quantity(Enum):
    """What a rule limits; the values are the YAML keys."""

    CONNECTIONS = "connections"
    MEMBERS = "members"
    UPGRADES = "upgrades"
    MESSAGES = "messages"
    MESSAGE_SIZE = "message_size"
    BYTES = "bytes"
    CONTROL_FRAMES = "control_frames"
    FRAGMENTS = "fragments"


class Per(Enum):
    """Whom a rule counts; the values are the YAML words."""

    CONNECTION = "connection"
    USER = "user"
    IP = "ip"
    ROOM = "room"
    ROUTE = "route"
    GLOBAL = "global"


class OnExcess(Enum):
    """What happens beyond the limit. REFUSE is what happens to upgrades; the others to frames. DELAY: they wait, and nothing is lost."""

    REFUSE = "refuse"
    DROP = "drop"
    CLOSE = "close"
    DELAY = "delay"


class Direction(Enum):
    """Which way the frames go that a rule is about: in from the client, or out towards it; the values are the YAML words."""

    IN = "in"
    OUT = "out"


class Mode(Enum):
    """SHADOW decides and counts but never acts."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Scope(Enum):
    """Over which instances a rule counts: all that share a store, or each for itself."""

    CLUSTER = "cluster"
    INSTANCE = "instance"


SEAT_QUANTITIES: Final = frozenset((Quantity.CONNECTIONS, Quantity.MEMBERS))
RATE_QUANTITIES: Final = frozenset((Quantity.UPGRADES, Quantity.MESSAGES, Quantity.BYTES, Quantity.CONTROL_FRAMES))
FRAME_QUANTITIES: Final = frozenset(
    (Quantity.MESSAGES, Quantity.MESSAGE_SIZE, Quantity.BYTES, Quantity.CONTROL_FRAMES, Quantity.FRAGMENTS),
)
DIRECTED_QUANTITIES: Final = frozenset((Quantity.MESSAGES, Quantity.BYTES))
"""Those that may have a `direction`; all others about frames are about the client's."""

_PRINCIPALS: Final = frozenset((Per.USER, Per.IP, Per.ROOM, Per.ROUTE, Per.GLOBAL))
LEGAL_PER: Final[Mapping[Quantity, frozenset[Per]]] = {
    Quantity.CONNECTIONS: _PRINCIPALS,
    Quantity.MEMBERS: frozenset((Per.ROOM,)),
    Quantity.UPGRADES: _PRINCIPALS,
    Quantity.MESSAGES: _PRINCIPALS | {Per.CONNECTION},
    Quantity.MESSAGE_SIZE: frozenset((Per.CONNECTION,)),
    Quantity.BYTES: _PRINCIPALS | {Per.CONNECTION},
    Quantity.CONTROL_FRAMES: frozenset((Per.CONNECTION, Per.USER, Per.IP)),
    Quantity.FRAGMENTS: frozenset((Per.CONNECTION,)),
}
LISTS_ALLOWED: Final = frozenset((Quantity.CONNECTIONS, Quantity.UPGRADES, Quantity.MESSAGES, Quantity.BYTES))

LEGAL_ON_EXCESS: Final[Mapping[Quantity, tuple[OnExcess, ...]]] = {
    Quantity.CONNECTIONS: (OnExcess.REFUSE,),
    Quantity.MEMBERS: (OnExcess.REFUSE,),
    Quantity.UPGRADES: (OnExcess.REFUSE,),
    Quantity.MESSAGES: (OnExcess.DROP, OnExcess.CLOSE, OnExcess.DELAY),
    Quantity.MESSAGE_SIZE: (OnExcess.CLOSE, OnExcess.DROP),
    Quantity.BYTES: (OnExcess.DELAY, OnExcess.DROP, OnExcess.CLOSE),
    Quantity.CONTROL_FRAMES: (OnExcess.CLOSE, OnExcess.DROP, OnExcess.DELAY),
    Quantity.FRAGMENTS: (OnExcess.CLOSE,),
}
"""The default stands first. A size is not there later either, so it cannot be waited for; the fragment too many comes when its message
is half forwarded, so it cannot be dropped."""

MAX_DELAY: Final = 5.0  # seconds: the default of `max_delay`


@dataclass(frozen=True, slots=True)
class When:
    """Which principals a rule is about; every condition that is set must hold."""

    routes: frozenset[str] = frozenset()  # empty: any
    room: str | None = None  # a glob, case-sensitive
    anonymous: bool | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] = ()  # empty: any

    def holds(self, *, route: str, room: str | None, anonymous: bool, address: IPv4Address | IPv6Address | None) -> bool:
        """`address` is None for a peer on a Unix socket that names no client: no network contains it."""
        if self.routes and route not in self.routes:
            return False
        if self.room is not None and (room is None or not fnmatchcase(room, self.room)):
            return False
        if self.anonymous is not None and anonymous is not self.anonymous:
            return False
        return not self.networks or (address is not None and any(address in network for network in self.networks))


@dataclass(frozen=True, slots=True)
class CloseAfter:
    """From drop to close: a connection that breaks the rule `breaches` times within `within` seconds is closed by the last of them."""

    breaches: int
    within: float


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit. `limit` is a count, a size in bytes, or a rate per second; `burst` in tokens, 0 where there is no rate.

    Seconds: `max_delay`, the longest that a frame waits under DELAY; `penalty`, how long a client that the rule closed stays out
    (0: not at all).
    """

    name: str
    per: tuple[Per, ...]
    quantity: Quantity
    limit: float
    burst: float
    on_excess: OnExcess
    close_code: int
    notify: bool = True
    mode: Mode = Mode.ENFORCE
    when: When = When()
    direction: Direction = Direction.IN
    max_delay: float = MAX_DELAY
    close_after: CloseAfter | None = None
    penalty: float = 0.0
    scope: Scope = Scope.CLUSTER

    @property
    def shadow(self) -> bool:
        return self.mode is Mode.SHADOW

    @property
    def code(self) -> str:
        """The error code that a client sees."""
        return error_code(self.quantity, self.per)


@dataclass(frozen=True, slots=True)
class PenaltyRule(Rule):
    """A frame rule as an upgrade meets it: it keeps out whom it has closed."""

    @property
    def code(self) -> str:
        return "penalized"


def penalty_rule(rule: Rule) -> PenaltyRule:
    """What an upgrade is told of a frame rule with a penalty. The close code is that of all penalties, whatever the rule closes with."""
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}
    return PenaltyRule(**values | {"close_code": CloseCode.LIMIT_EXCEEDED})


def error_code(quantity: Quantity, per: tuple[Per, ...]) -> str:
    """The error code of a quantity and whom it is counted by."""
    match quantity:
        case Quantity.CONNECTIONS if per == (Per.IP,):
            return "ip_connection_limit_exceeded"
        case Quantity.CONNECTIONS if per == (Per.ROOM,):
            return "room_full"
        case Quantity.CONNECTIONS:
            return "connection_limit_exceeded"
        case Quantity.MEMBERS:
            return "room_full"
        case Quantity.UPGRADES:
            return "upgrade_rate_limit_exceeded"
        case Quantity.MESSAGES if per == (Per.IP,):
            return "ip_rate_limit_exceeded"
        case Quantity.MESSAGES:
            return "message_rate_limit_exceeded"
        case Quantity.MESSAGE_SIZE:
            return "payload_too_large"
        case Quantity.BYTES:
            return "byte_rate_limit_exceeded"
        case Quantity.CONTROL_FRAMES:
            return "control_rate_limit_exceeded"
        case Quantity.FRAGMENTS:
            return "too_many_fragments"


def default_close_code(quantity: Quantity, per: tuple[Per, ...]) -> int:
    """The close code of a quantity and whom it is counted by, where the rule names none."""
    if quantity in (Quantity.MESSAGE_SIZE, Quantity.FRAGMENTS):
        return CloseCode.PAYLOAD_TOO_LARGE
    if quantity is Quantity.MEMBERS or (quantity is Quantity.CONNECTIONS and per == (Per.ROOM,)):
        return CloseCode.ROOM_FULL
    return CloseCode.LIMIT_EXCEEDED


def default_burst(rate: float) -> float:
    """One second's worth, but at least the one token without which nothing would ever pass; 0 for a rate of 0."""
    return max(1.0, rate) if rate > 0 else 0.0


class RefuseWith(Enum):
    """How an upgrade is refused: CLOSE accepts it, sends the error and closes, so that a browser can read it; HTTP answers 429."""

    CLOSE = "close"
    HTTP = "http"
