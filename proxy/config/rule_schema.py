"""The `rules` section, with the checks that keep a rule from standing there without effect.

Which rules there are, and what is legal together, is said by the tables of `policy.rules`; this file only asks them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from proxy.config.identity_schema import NETWORK
from proxy.config.reading import FLAG, NAME, Kind, Reading, any_of, choice, names_of, suggestion, whole, within
from proxy.config.units import (
    BYTE_RATE_WORDS,
    COUNT_WORDS,
    NUMBER_WORDS,
    RATE_WORDS,
    SIZE_WORDS,
    parse_byte_rate,
    parse_count,
    parse_duration,
    parse_number,
    parse_rate,
    parse_size,
)
from proxy.config.yaml_nodes import Listing, Table, Text
from proxy.policy.identity import Network
from proxy.policy.routes import Route
from proxy.policy.rules import (
    DIRECTED_QUANTITIES,
    LEGAL_ON_EXCESS,
    LEGAL_PER,
    LISTS_ALLOWED,
    MAX_DELAY,
    RATE_QUANTITIES,
    SEAT_QUANTITIES,
    CloseAfter,
    Direction,
    Mode,
    OnExcess,
    Per,
    Quantity,
    Rule,
    Scope,
    When,
    default_burst,
    default_close_code,
)
from proxy.wire.frames import CloseCode

QUANTITIES: Final = {quantity.value: quantity for quantity in Quantity}
FRAME_KEYS: Final = ("direction", "max_delay", "close_after", "penalty")
KEYS: Final = ("name", "per", *QUANTITIES, "burst", "when", "on_excess", "notify", "close_code", "mode", *FRAME_KEYS, "scope")
CLOSE_AFTER_KEYS: Final = ("breaches", "within")
WHEN_KEYS: Final = ("route", "room", "anonymous", "ip")

TRY_AGAIN_LATER: Final = 1013  # IANA registry of close codes
STANDARD_CLOSE_CODES: Final = (CloseCode.POLICY_VIOLATION, CloseCode.MESSAGE_TOO_BIG, TRY_AGAIN_LATER)
OWN_CLOSE_CODES: Final = range(3000, 5000)  # RFC 6455 §7.4.2

RULE_WORDS: Final = "a mapping such as {name: user-messages, per: user, messages: 10/s}"
CLOSE_AFTER_WORDS: Final = "a mapping such as {breaches: 20, within: 10s}"
WHEN_WORDS: Final = f"conditions: {any_of(WHEN_KEYS)}"


def _parse_close_code(text: str) -> int:
    code = parse_count(text)
    if code not in STANDARD_CLOSE_CODES and code not in OWN_CLOSE_CODES:
        raise ValueError(CLOSE_CODE.expected)
    return code


def _parse_burst(text: str) -> float:
    burst = parse_number(text)
    if burst < 1:
        raise ValueError(BURST.expected)
    return burst


def _parse_byte_burst(text: str) -> float:
    burst = parse_size(text)
    if burst < 1:
        raise ValueError(BYTE_BURST.expected)
    return burst


def _parse_fragments(text: str) -> float:
    count = parse_count(text)
    if count < 1:
        raise ValueError(FRAGMENTS.expected)
    return count


def _parse_text(text: str) -> str:
    if not text:
        raise ValueError("text")
    return text


COUNT: Final[Kind[float]] = Kind(COUNT_WORDS, parse_count)
RATE: Final = Kind(RATE_WORDS, parse_rate)
SIZE: Final[Kind[float]] = Kind(SIZE_WORDS, parse_size)
BURST: Final = Kind(f"{NUMBER_WORDS}, at least 1", _parse_burst)
IGNORED_BURST: Final = Kind(NUMBER_WORDS, parse_number)
IGNORED_BYTE_BURST: Final[Kind[float]] = Kind(SIZE_WORDS, parse_size)
BYTE_RATE: Final = Kind(BYTE_RATE_WORDS, parse_byte_rate)
BYTE_BURST: Final = Kind(f"{SIZE_WORDS}, at least 1", _parse_byte_burst)
FRAGMENTS: Final = Kind("a whole number of frames such as 64, at least 1", _parse_fragments)
DELAY_TIME: Final = within("a time to wait", parse_duration, "1ms", "1h")
BREACHES: Final = within("a number of breaches", parse_count, "1", "1000")
WITHIN: Final = within("a time", parse_duration, "1ms", "24h")
PENALTY: Final = within("a time", parse_duration, "1ms", "24h")
MODE: Final = choice(Mode)
DIRECTION: Final = choice(Direction)
SCOPE: Final = choice(Scope)
CLOSE_CODE: Final = Kind("a close code: 1008, 1009, 1013, or one from 3000 to 4999", _parse_close_code)
ROUTE_NAME: Final = Kind("the name of a route, or a list of them", _parse_text)
ROOM_GLOB: Final = Kind("the name of a room, in which * and ? stand for others", _parse_text)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rest of the file says that matters to a rule.

    `routes`: None if one of them has a problem. `route_names`: None if one of them could not be read. `has_tokens`: does `identity`
    look for tokens at all?
    """

    shadow: bool
    routes: tuple[Route, ...] | None
    route_names: Collection[str] | None
    has_tokens: bool


def read_rules(reading: Reading, top: Table, surroundings: Surroundings) -> tuple[Rule, ...] | None:
    """The rules in the order of the file; None after a problem."""
    if "rules" not in top.entries:
        return ()
    items = reading.items(top.entries["rules"], "a list of rules")
    if items is None:
        return None
    names: dict[str, int] = {}
    rules = []
    for item in items:
        table = reading.fields(item, RULE_WORDS, KEYS)
        rules.append(None if table is None else _RuleReader(reading, table, surroundings).read(names))
    return whole(rules)


class _RuleReader:
    """Reads one rule."""

    def __init__(self, reading: Reading, table: Table, surroundings: Surroundings) -> None:
        self._reading = reading
        self._table = table
        self._surroundings = surroundings

    def read(self, names: dict[str, int]) -> Rule | None:
        """`names`: those of the rules before, with their lines."""
        table, reading = self._table, self._reading
        name = reading.required(table, "name", NAME)
        if name is not None:
            reading.unique(table.entries["name"].place, name, names)
        quantity = self._quantity()
        per = self._per(quantity)
        limit = self._limit(quantity)
        burst = self._burst(quantity, limit)
        on_excess = self._on_excess(quantity)
        close_code = self._close_code(quantity, per)
        notify = reading.optional(table, "notify", FLAG, default=True)
        mode = reading.optional(table, "mode", MODE, Mode.ENFORCE)
        when = self._when()
        known = None if quantity is None else on_excess
        direction, max_delay = self._direction(quantity), self._max_delay(known)
        close_after, is_close_after_good = self._close_after(known)
        penalty, scope = self._penalty(known, direction), self._scope(per)
        if per is not None:
            self._check_users(per, quantity, limit, when)
            self._check_rooms(per, when)
        if name is None or quantity is None or per is None or limit is None or burst is None:
            return None
        if on_excess is None or close_code is None or notify is None or mode is None or when is None:
            return None
        if direction is None or max_delay is None or not is_close_after_good or penalty is None or scope is None:
            return None
        mode = Mode.SHADOW if self._surroundings.shadow else mode
        limits = (name, per, quantity, limit, burst, on_excess, close_code, notify, mode, when)
        return Rule(*limits, direction, max_delay, close_after, penalty, scope)

    def _quantity(self) -> Quantity | None:
        """The one quantity; None after a problem."""
        there = [key for key in self._table.entries if key in QUANTITIES]
        if not there:
            self._reading.report(self._table.place, f"one of {any_of(QUANTITIES)}", "none of them")
        for key in there[1:]:
            self._reading.report(self._table.keys[key], f"one quantity a rule; {there[0]} is there already", key)
        return QUANTITIES[there[0]] if len(there) == 1 else None

    def _limit(self, quantity: Quantity | None) -> float | None:
        """A count, a size in bytes, or a rate per second (of bytes, too)."""
        entries = self._table.entries
        limits = {one: self._reading.scalar(entries[key], _limit_kind(one)) for key, one in QUANTITIES.items() if key in entries}
        return None if quantity is None else limits[quantity]

    def _per(self, quantity: Quantity | None) -> tuple[Per, ...] | None:
        legal = [per for per in Per if quantity is None or per in LEGAL_PER[quantity]]
        lists = quantity is None or quantity in LISTS_ALLOWED
        kind = choice(legal, where=f" for {quantity.value}" if quantity else "")
        expected = f"{kind.expected}, or a list of them" if lists else kind.expected
        node = self._reading.required_node(self._table, "per", expected)
        if node is None:
            return None
        if isinstance(node, Listing) and not lists:
            self._reading.report(node.place, expected, "a list")
            return None
        items = self._reading.one_or_more(node, expected)
        if items is None:
            return None
        read = [self._reading.scalar(item, kind) for item in items]
        seen: set[Per] = set()
        for item, one in zip(items, read, strict=True):
            if one in seen:
                self._reading.report(item.place, "each of them once", f"{one.value} again")
            elif one is not None:
                seen.add(one)
        return whole(read)

    def _burst(self, quantity: Quantity | None, limit: float | None) -> float | None:
        """Tokens; 0 where there is no rate."""
        node = self._table.entries.get("burst")
        if node is None:
            return default_burst(limit) if quantity in RATE_QUANTITIES and limit is not None else 0.0
        if quantity is not None and quantity not in RATE_QUANTITIES:
            rates = any_of(one.value for one in Quantity if one in RATE_QUANTITIES)
            self._reading.report(self._table.keys["burst"], f"no burst: only rates have one ({rates})", "one")
            return None
        if limit is None:
            return self._reading.scalar(node, IGNORED_BYTE_BURST if quantity is Quantity.BYTES else IGNORED_BURST)
        kind = BYTE_BURST if quantity is Quantity.BYTES else BURST
        burst = self._reading.scalar(node, kind if limit else IGNORED_BYTE_BURST if kind is BYTE_BURST else IGNORED_BURST)
        return 0.0 if burst is not None and not limit else burst

    def _on_excess(self, quantity: Quantity | None) -> OnExcess | None:
        legal = tuple(OnExcess) if quantity is None else LEGAL_ON_EXCESS[quantity]
        return self._reading.optional(self._table, "on_excess", choice(legal), legal[0])

    # Each of the keys below belongs to some rules only. One that would do nothing is a mistake, and the words say where it belongs.
    # The other half of a question may itself have a problem (None); then only this half is looked at.

    def _misplaced(self, key: str, belongs: str, found: str) -> None:
        self._reading.report(self._table.keys[key], belongs, found)

    def _direction(self, quantity: Quantity | None) -> Direction | None:
        direction = self._reading.optional(self._table, "direction", DIRECTION, Direction.IN)
        if "direction" not in self._table.entries or quantity is None or quantity in DIRECTED_QUANTITIES:
            return direction
        directed = any_of(one.value for one in Quantity if one in DIRECTED_QUANTITIES)
        self._misplaced("direction", f"no direction: only {directed} have one", f"one for {quantity.value}")
        return None

    def _max_delay(self, on_excess: OnExcess | None) -> float | None:
        seconds = self._reading.optional(self._table, "max_delay", DELAY_TIME, MAX_DELAY)
        if "max_delay" not in self._table.entries or on_excess is None or on_excess is OnExcess.DELAY:
            return seconds
        self._misplaced("max_delay", "no max_delay: only on_excess: delay has one", f"one for {on_excess.value}")
        return None

    def _close_after(self, on_excess: OnExcess | None) -> tuple[CloseAfter | None, bool]:
        """(the value, False after a problem)."""
        node = self._table.entries.get("close_after")
        if node is None:
            return None, True
        if on_excess is not None and on_excess is not OnExcess.DROP:
            self._misplaced("close_after", "no close_after: only on_excess: drop goes on to close", f"one for {on_excess.value}")
        table = self._reading.fields(node, CLOSE_AFTER_WORDS, CLOSE_AFTER_KEYS)
        if table is None:
            return None, False
        breaches = self._reading.required(table, "breaches", BREACHES)
        seconds = self._reading.required(table, "within", WITHIN)
        if breaches is None or seconds is None or on_excess is not OnExcess.DROP:
            return None, False
        return CloseAfter(breaches, seconds), True

    def _penalty(self, on_excess: OnExcess | None, direction: Direction | None) -> float | None:
        if "penalty" not in self._table.entries:
            return 0.0
        seconds = self._reading.scalar(self._table.entries["penalty"], PENALTY)
        if on_excess is OnExcess.REFUSE or (on_excess is OnExcess.DROP and "close_after" not in self._table.entries):
            self._misplaced("penalty", "no penalty: only a rule that closes has one (on_excess: close or delay, or close_after)", "one")
            return None
        if direction is Direction.OUT:
            self._misplaced("penalty", "no penalty: with direction: out it is the server that sends too much", "one")
            return None
        return seconds

    def _scope(self, per: tuple[Per, ...] | None) -> Scope | None:
        scope = self._reading.optional(self._table, "scope", SCOPE, Scope.CLUSTER)
        if "scope" in self._table.entries and per == (Per.CONNECTION,):
            self._misplaced("scope", "no scope: a connection is on one instance anyway", "one for per: connection")
            return None
        return scope

    def _close_code(self, quantity: Quantity | None, per: tuple[Per, ...] | None) -> int | None:
        default = int(default_close_code(quantity, per)) if quantity and per else int(CloseCode.LIMIT_EXCEEDED)
        return self._reading.optional(self._table, "close_code", CLOSE_CODE, default)

    def _when(self) -> When | None:
        if "when" not in self._table.entries:
            return When()
        node = self._table.entries["when"]
        table = self._reading.fields(node, WHEN_WORDS, WHEN_KEYS)
        if table is None:
            return None
        if not table.entries:
            self._reading.report(node.place, WHEN_WORDS, "none")
            return None
        routes = self._when_routes(table)
        room = self._reading.scalar(table.entries["room"], ROOM_GLOB) if "room" in table.entries else None
        anonymous = self._reading.scalar(table.entries["anonymous"], FLAG) if "anonymous" in table.entries else None
        networks = self._when_networks(table)
        if routes is None or networks is None:
            return None
        return When(routes, room, anonymous, networks)

    def _when_routes(self, table: Table) -> frozenset[str] | None:
        if "route" not in table.entries:
            return frozenset()
        items = self._reading.one_or_more(table.entries["route"], ROUTE_NAME.expected)
        if items is None:
            return None
        names = [self._reading.scalar(item, ROUTE_NAME) for item in items]
        known = self._surroundings.route_names
        for item, name in zip(items, names, strict=True):
            if name is not None and known is not None and name not in known and isinstance(item, Text):
                hint = suggestion(name, known) if not item.from_environment else ""
                self._reading.report(item.place, f"the name of a route: {names_of(known)}{hint}", item.shown)
        read = whole(names)
        return None if read is None else frozenset(read)

    def _when_networks(self, table: Table) -> tuple[Network, ...] | None:
        if "ip" not in table.entries:
            return ()
        items = self._reading.one_or_more(table.entries["ip"], f"{NETWORK.expected}, or a list of them")
        return None if items is None else whole([self._reading.scalar(item, NETWORK) for item in items])

    # A rule that can never act is a mistake which would show only when it is too late.

    def _check_users(self, per: tuple[Per, ...], quantity: Quantity | None, limit: float | None, when: When | None) -> None:
        anonymous = None if when is None else when.anonymous
        if not self._surroundings.has_tokens:
            if Per.USER in per:
                self._report_useless("per", "identity.user is an empty list, so that each connection is its own user")
            elif anonymous is False:
                self._report_useless("when", "identity.user is an empty list, so that everybody is anonymous")
        elif anonymous and limit and Per.USER in per and quantity in (Quantity.CONNECTIONS, Quantity.UPGRADES):
            self._report_useless("per", "each anonymous connection is its own user")

    def _check_rooms(self, per: tuple[Per, ...], when: When | None) -> None:
        routes = self._surroundings.routes
        if routes is None or when is None:
            return
        if any(route.room is not None for route in routes if not when.routes or route.name in when.routes):
            return
        why = "none of its routes has a room" if when.routes else "no route has a room"
        if Per.ROOM in per:
            self._report_useless("per", why)
        elif when.room is not None:
            self._report_useless("when", why)

    def _report_useless(self, key: str, why: str) -> None:
        self._reading.report(self._table.entries[key].place, "a rule that can apply", f"one that never applies: {why}")


def _limit_kind(quantity: Quantity) -> Kind[float]:
    if quantity in SEAT_QUANTITIES:
        return COUNT
    if quantity is Quantity.BYTES:
        return BYTE_RATE
    if quantity is Quantity.FRAGMENTS:
        return FRAGMENTS
    return RATE if quantity in RATE_QUANTITIES else SIZE
