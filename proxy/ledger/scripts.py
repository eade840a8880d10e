"""The Lua scripts, how they are called, and what their answers mean.

A command is a tuple of bytes, ready to be sent; scripts are called by their digest. Keys of one claim lie under one hash tag, so
that a Cluster has them in one slot. Pure, but for reading the scripts when it is imported.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf
from pathlib import Path
from typing import Final

from proxy.ledger.seats.levels import NOTHING, Bounds
from proxy.ledger.seats.own_seats import Seat
from proxy.ledger.store import Ask, Denial, PenaltyClaim, SeatClaim, TokenClaim

Command = tuple[bytes, ...]

SEAT_TTL: Final = 24 * 3600  # seconds that a key of seats outlives the last word about it
SEATS_AT_ONCE: Final = 64  # seats told in one script: some 0.2 ms
FOR_EVER: Final = 1e9  # seconds: what is sent for longer times
REAP_COUNT: Final = b"500"  # members looked at in one script: some 0.3 ms
MOST_NAMES: Final = 100_000  # of one key, that are looked at for the dead: some 20 ms. Asking counts 1,000 at most: lua/admit.lua
LOSS: Final = b"l"  # the name of the mark that the store has lost its data
LOSS_TTL: Final = 86_400_000  # milliseconds that it lives: its age is what is missing (lua/join.lua, lua/rent.lua)

_is_holder: Final = re.compile(rb"[0-9a-f]{16}").fullmatch
_is_count: Final = re.compile(rb"[0-9]{1,15}").fullmatch
_is_number_of_seats: Final = re.compile(rb"[1-9][0-9]{0,8}").fullmatch
_SPECIAL: Final = re.compile(rb"([\\*?\[\]^-])")  # in patterns of channels


class Script:
    """One file in lua/."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = (Path(__file__).parent / "lua" / f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[bytes], *arguments: bytes) -> Command:
        return (b"EVALSHA", self.digest, b"%d" % len(keys), *keys, *arguments)


ADMIT: Final = Script("admit")
TELL: Final = Script("tell")
REAP: Final = Script("reap")
JOIN: Final = Script("join")
BEAT: Final = Script("beat")
BURY: Final = Script("bury")
PROBE: Final = Script("probe")
REFUND: Final = Script("refund")
PENALIZE: Final = Script("penalize")
RENT: Final = Script("rent")
SCRIPTS: Final = (ADMIT, TELL, REAP, JOIN, BEAT, BURY, PROBE, REFUND, PENALIZE, RENT)


class Unlisted(Exception):  # noqa: N818 -- an answer, and a normal one
    """The store does not know our id: it was flushed, or somebody took us for dead."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key holds what is not ours. `index`: of the claim."""

    index: int


@dataclass(frozen=True, slots=True)
class Granted:
    """`over`: indexes of shadow claims beyond their limits. `others`: what other holders have, by seat claim. `levels`: tokens that are
    left, by token claim."""

    over: tuple[int, ...]
    others: tuple[int, ...]
    levels: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """`holders` of the broken claim's key, if it is about seats."""

    denial: Denial
    holders: tuple[bytes, ...]


Answer = Granted | Refused | Conflict


@dataclass(frozen=True, slots=True)
class Joined:
    """We are listed. `counters`: the listing, us included; one that is 0 belongs to somebody who knew nobody, and found that some may
    have been forgotten. `lost_for`: seconds since the store lost its data; None: never, as far as it knows."""

    counters: Mapping[bytes, int]
    lost_for: float | None


def channel_word(database: int) -> bytes:
    """What stands between the prefix and the id in the name of an instance's channel."""
    return b"i%d:" % database if database else b"i:"


class Keys:
    """Names of keys under a prefix. `listed`: scripts check that the holder is listed, which takes one server for all keys.

    `database`: its number, which is a part of the channels' names, since these are not of one database as keys are.
    """

    def __init__(self, prefix: str, *, listed: bool, database: int = 0) -> None:
        text = prefix.encode()
        self.holders = text + b"h"
        self._counts = text + b"n:{"
        self._members = text + b"m:{"
        self._tokens = text + b"u:{"
        self._penalties = text + b"p:{"
        self.channels = text + channel_word(database)
        self._listeners = _SPECIAL.sub(rb"\\\1", self.channels) + b"*"
        self.listing = (self.holders,) if listed else ()
        self._join_keys = (self.holders, text + LOSS) if listed else (self.holders,)
        self.check = b"1" if listed else b"0"

    def counts(self, key: bytes) -> bytes:
        return self._counts + key + b"}"

    def members(self, key: bytes) -> bytes:
        return self._members + key + b"}"

    def tokens(self, key: bytes) -> bytes:
        return self._tokens + key + b"}"

    def penalty(self, key: bytes) -> bytes:
        return self._penalties + key + b"}"

    # --- commands

    def admit(self, holder: bytes, ask: Ask, known: Bounds = NOTHING) -> Command:
        """`known`: tokens that a bucket has at most, by key, where the server may believe in more."""
        keys = list(self.listing)
        arguments = [holder, self.check, b"%d" % SEAT_TTL]
        for claim in ask:
            if isinstance(claim, PenaltyClaim):
                keys.append(self.penalty(claim.key))
                arguments += (b"p", b"0", _number(min(claim.left, FOR_EVER)))
                continue
            shadow = b"1" if claim.shadow else b"0"
            if not isinstance(claim, SeatClaim):
                keys.append(self.tokens(claim.key))
                most = _number(known[claim.key]) if claim.key in known else b"-"
                arguments += (b"t", shadow, _of_rule(claim.rate), _of_rule(claim.burst), most)
            elif claim.member is None:
                keys.append(self.counts(claim.key))
                arguments += (b"c", shadow, b"%d" % claim.limit)
            else:
                keys += (self.counts(claim.key), self.members(claim.key))
                arguments += (b"m", shadow, b"%d" % claim.limit, claim.member)
        return ADMIT.call(keys, *arguments)

    def tell(self, holder: bytes, former: Sequence[bytes], seats: Sequence[Seat]) -> Command:
        """The truth about some seats, of which one server has all the keys."""
        keys = list(self.listing)
        arguments = [holder, self.check, b"%d" % SEAT_TTL, b"%d" % len(former), *former]
        for seat in seats:
            keys.append(self.counts(seat.key))
            if seat.member is None:
                arguments += (b"c", b"%d" % seat.held)
            else:
                keys.append(self.members(seat.key))
                arguments += (b"m", b"1" if seat.held else b"0", seat.member)
        return TELL.call(keys, *arguments)

    def reap(self, claim: SeatClaim, holder: bytes, cursor: bytes) -> Command:
        names = (self.counts(claim.key),) if claim.member is None else (self.counts(claim.key), self.members(claim.key))
        return REAP.call(names, holder, cursor, REAP_COUNT)

    def join(self, holder: bytes, known: Collection[bytes]) -> Command:
        """`known`: holders from before, ourselves among them. Whoever knows nobody asks who listens."""
        listeners = b"" if known else self._listeners
        return JOIN.call(self._join_keys, holder, b"%d" % SEAT_TTL, b"%d" % LOSS_TTL, listeners, *known)

    def probe(self) -> Command:
        return PROBE.call((self.holders,))

    def beat(self, holder: bytes) -> Command:
        return BEAT.call((self.holders,), holder, b"%d" % SEAT_TTL)

    def bury(self, holder: bytes, counter: int) -> Command:
        return BURY.call((self.holders,), holder, b"%d" % counter)

    def refund(self, claim: TokenClaim) -> Command:
        return REFUND.call((self.tokens(claim.key),), _of_rule(claim.burst))

    def penalize(self, key: bytes, seconds: float) -> Command:
        return PENALIZE.call((self.penalty(key),), b"%d" % ceil(min(seconds, FOR_EVER) * 1000))

    def unlist(self, holders: Sequence[bytes]) -> Command:
        return (b"HDEL", self.holders, *holders)

    def holders_of(self, key: bytes) -> Command:
        return (b"HGETALL", self.counts(key))

    def total(self, claim: SeatClaim) -> Command:
        """How many seats its key has; see `read_total`."""
        return (b"HGETALL", self.counts(claim.key)) if claim.member is None else (b"HLEN", self.members(claim.key))


def _number(value: float) -> bytes:
    return repr(float(value)).encode()


_of_rule: Final = lru_cache(1024)(_number)  # there are few, again and again


# --- answers


def read_admit(reply: object) -> Answer:
    """Raises Unlisted, and ValueError for what our script does not say."""
    if not isinstance(reply, bytes):
        raise ValueError("not an answer of our script")  # noqa: TRY004 -- what came over the wire is a value, not a type
    try:
        return _read_words(*reply.partition(b" t ")[::2])
    except IndexError as error:
        raise ValueError("not an answer of our script") from error


def _read_words(reply: bytes, levels: bytes) -> Answer:
    kind, *words = reply.split(b" ")
    if kind == b"G":
        return Granted(_indexes(words[0]), tuple(map(int, words[1:])), tuple(map(float, levels.split())))
    if kind == b"D":
        retry = None if words[1] == b"-" else inf if words[1] == b"inf" else float(words[1])
        return Refused(Denial(int(words[0]), retry, _indexes(words[2])), tuple(words[3:]))
    if kind == b"C":
        return Conflict(int(words[0]))
    if kind == b"U":
        raise Unlisted("the store does not list this instance")
    raise ValueError("not an answer of our script")


def _indexes(text: bytes) -> tuple[int, ...]:
    return () if text == b"-" else tuple(map(int, text.split(b",")))


def read_listing(reply: object) -> Mapping[bytes, int]:
    """Raises Unlisted for an empty one, and ValueError for what is no listing."""
    if not isinstance(reply, list):
        raise ValueError("no listing of holders")  # noqa: TRY004 -- what came over the wire is a value, not a type
    if not reply:
        raise Unlisted("the store does not list this instance")
    listing = dict(zip(reply[::2], reply[1::2], strict=True))
    if not (all(map(_is_holder, listing)) and all(map(_is_count, listing.values()))):
        raise ValueError("no listing of holders")
    return {holder: int(counter) for holder, counter in listing.items()}


def read_joined(reply: object) -> Joined:
    """Raises ValueError for what is no listing."""
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[0], int):
        raise ValueError("no listing of holders")
    lost_for, listing = reply
    return Joined(read_listing(listing), lost_for / 1000 if lost_for >= 0 else None)


def read_holders(reply: object) -> Sequence[bytes]:
    """Who has seats of a key: more than may be counted, if so many have died. Raises ValueError for what is not ours."""
    if not isinstance(reply, list) or len(reply) > 2 * MOST_NAMES:
        raise ValueError("no holders")
    holders = reply[::2]
    if not (all(map(_is_holder, holders)) and all(map(_is_number_of_seats, reply[1::2]))):
        raise ValueError("no holders")
    return holders


def read_total(reply: object) -> int:
    """Seats of all holders, or distinct members. Raises ValueError for what is not ours."""
    if isinstance(reply, int):
        return reply
    if not isinstance(reply, list) or len(reply) % 2 or not all(map(_is_count, reply[1::2])):
        raise ValueError("no seats")
    return sum(map(int, reply[1::2]))


def read_told(reply: object) -> tuple[int, ...]:
    """Indexes of seats under keys that hold what is not ours. Raises Unlisted."""
    if reply == b"U":
        raise Unlisted("the store does not list this instance")
    return _indexes(reply) if isinstance(reply, bytes) and reply else ()


@dataclass(frozen=True, slots=True)
class Part:
    """What one server was asked: the claims of an ask at these indexes."""

    indexes: tuple[int, ...]
    answer: Answer


def merge(ask: Ask, parts: Sequence[Part]) -> Answer:
    """What the answers of several servers mean for the whole ask."""
    if len(parts) == 1:
        return parts[0].answer
    over: set[int] = set()
    others: dict[int, int] = {}
    levels: dict[int, float] = {}
    broken: dict[int, Refused | Conflict] = {}
    for part in parts:
        answer = part.answer
        if isinstance(answer, Conflict):
            broken[part.indexes[answer.index]] = answer
        elif isinstance(answer, Refused):
            broken[part.indexes[answer.denial.broken]] = answer
            over.update(part.indexes[index] for index in answer.denial.over)
        else:
            over.update(part.indexes[index] for index in answer.over)
            seats = [index for index in part.indexes if isinstance(ask[index], SeatClaim)]
            others.update(zip(seats, answer.others, strict=True))
            tokens = [index for index in part.indexes if isinstance(ask[index], TokenClaim)]
            levels.update(zip(tokens, answer.levels, strict=True))
    if not broken:
        return Granted(
            tuple(sorted(over)), tuple(others[index] for index in sorted(others)), tuple(levels[index] for index in sorted(levels))
        )
    first = min(broken)
    answer = broken[first]
    if isinstance(answer, Conflict):
        return Conflict(first)
    before = tuple(index for index in sorted(over) if index < first)
    return Refused(Denial(first, answer.denial.retry_after, before), answer.holders)
