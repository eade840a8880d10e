"""What instances say to the store about buckets that they share (lua/rent.lua), and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from proxy.ledger.scripts import LOSS, RENT, Command, channel_word

YIELD: Final = b"y"  # begins a message: somebody else wants the bucket that we own
FREED: Final = b"f"  # the bucket that we want was given back


class Verb(Enum):
    """What is said of a bucket."""

    ASK = b"ask"
    YIELD = b"yield"
    LEAVE = b"leave"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Seconds for which the store is known to have been there, and since it lost its data (None: for ever, and never); and for which it
    was away before that."""

    known: float | None = None
    kept: float | None = None
    away: float = 0.0


@dataclass(frozen=True, slots=True)
class Rent:
    """One word about one bucket. `rate` per second, all else in tokens.

    `epoch`: of an ownership, empty for none. `level`: what the bucket had under that epoch; without one, what it has at least if the store
    has lost it. `most`: what it has at most, infinite if that is not known.

    `number`: of the last question about anything, if this is one its own, which is the epoch if the bucket becomes ours. `heard`: the last
    epoch that may have been heard of; an ownership since was never used. `waited_for`: the owner, as Elsewhere named it, that was told in
    vain to give it back; empty for none.
    """

    key: bytes
    rate: float
    burst: float
    verb: Verb = Verb.ASK
    epoch: bytes = b""
    level: float = 0.0
    need: float = 0.0
    want: float = 0.0
    most: float = inf
    may_own: bool = True
    number: int = 0
    heard: int = 0
    waited_for: bytes = b""


@dataclass(frozen=True, slots=True)
class Owned:
    """The whole bucket, with its level in tokens."""

    level: float
    epoch: bytes


@dataclass(frozen=True, slots=True)
class Leased:
    """`retry`: seconds until it is worth asking again. `sharers`: instances that asked lately, we among them. `left`: tokens that the
    bucket had then, infinite if that is not known."""

    tokens: float
    retry: float
    sharers: int
    left: float = field(default=inf, compare=False)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another instance owns it, and was told to give it back. `retry`: seconds after which it is asked for anew, for then that one has lost
    it. `owner`: a name for that instance and its ownership."""

    retry: float
    sharers: int
    owner: bytes = field(compare=False)


class Said(Enum):
    """Answers that say no more than this."""

    DONE = b"K"
    UNLISTED = b"U"  # the store does not know us as a holder: it may have lost its data
    CONFLICT = b"C"  # the key holds what is not ours


RentAnswer = Owned | Leased | Elsewhere | Said


class RentCommands:
    """The commands of one instance. `instance` is its id, `prefix` that of all keys and channels; `listing`: the key of the holders, if
    whoever asks must be one of them; `channels`: how their names begin."""

    def __init__(self, prefix: str, instance: bytes, listing: Sequence[bytes] = (), channels: bytes = b"") -> None:
        self._prefix = prefix.encode()
        self._names = self._prefix + b"b:{"
        self._channels = channels or self._prefix + channel_word(0)
        self._instance = instance
        self._checked = (*listing, self._prefix + LOSS) if listing else ()
        self.channel = self._channels + instance

    def rent(self, rent: Rent, knowledge: Knowledge, holder: bytes = b"") -> Command:
        return RENT.call(
            (self._names + rent.key + b"}", *self._checked),
            self._instance,
            self._channels,
            rent.verb.value,
            _number(rent.rate),
            _number(rent.burst),
            rent.epoch,
            _number(rent.level),
            _number(rent.need),
            _number(rent.want),
            b"1" if rent.may_own else b"0",
            _microseconds(knowledge.known),
            _microseconds(knowledge.kept),
            b"-1" if rent.most == inf else _number(max(0.0, rent.most)),
            holder,
            b"%d" % rent.number,
            b"%d" % rent.heard,
            _microseconds(knowledge.away),
            rent.waited_for,
        )

    def read_message(self, message: bytes) -> tuple[bytes, bytes] | None:
        """(YIELD or FREED, key), or None for what is not ours."""
        kind, name = message[:1], message[1:]
        if kind not in (YIELD, FREED) or not name.startswith(self._names) or not name.endswith(b"}"):
            return None
        return kind, name[len(self._names) : -1]


def read_rent(reply: object) -> RentAnswer:
    """Raises ValueError for what our script does not say."""
    if not isinstance(reply, bytes):
        raise ValueError("not an answer of our script")  # noqa: TRY004 -- what came over the wire is a value, not a type
    kind, *words = reply.split(b" ")
    match kind, words:
        case b"O", [level, epoch]:
            return Owned(float(level), b"%d" % int(epoch))
        case b"L", [tokens, retry, sharers, left]:
            return Leased(float(tokens), float(retry) / 1000, int(sharers), inf if left == b"-1" else float(left))
        case b"W", [retry, sharers, owner]:
            return Elsewhere(float(retry) / 1000, int(sharers), owner)
        case _, []:
            return Said(kind)
    raise ValueError("not an answer of our script")


def _number(value: float) -> bytes:
    return repr(float(value)).encode()


def _microseconds(seconds: float | None) -> bytes:
    return b"-1" if seconds is None else b"%d" % (max(0.0, seconds) * 1_000_000)
