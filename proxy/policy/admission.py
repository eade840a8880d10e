"""From a principal to claims, and from the store's answer to what the client is told.

All rules of a connection are one decision: every seat and every upgrade token, or none. The first broken rule in the file is named.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from proxy.ledger.store import Claim, PenaltyClaim, SeatClaim, TokenClaim
from proxy.policy.identity import Identifier, Principal, part_of
from proxy.policy.rules import FRAME_QUANTITIES, Direction, Per, Quantity, Rule, penalty_rule

MAX_RETRY_MS: Final = (1 << 31) - 1  # 24 days: what a browser's setTimeout can wait; with more it fires at once
SEAT_RETRY: Final = 1.0  # seconds; when a seat becomes free cannot be known
REFUSALS: Final = 10  # more than so many ...
REFUSAL_WINDOW: Final = 10.0  # ... within so many seconds, and further refusals are plain HTTP
CLAIMS: Final = 4096  # that are remembered, for each rule
MAX_REFUSED: Final = 100_000  # principals whose refusals are remembered

_TEXTS: Final = {
    "connection_limit_exceeded": "too many connections are open",
    "ip_connection_limit_exceeded": "too many connections are open from this address",
    "room_full": "the room is full",
    "upgrade_rate_limit_exceeded": "too many new connections in a short time",
    "message_rate_limit_exceeded": "messages are sent too fast",
    "ip_rate_limit_exceeded": "messages are sent too fast from this address",
    "payload_too_large": "the message is too large",
    "byte_rate_limit_exceeded": "more is sent than may pass in this time",
    "control_rate_limit_exceeded": "pings and pongs are sent too fast",
    "too_many_fragments": "the message has too many fragments",
    "penalized": "a limit was broken a short while ago",
}
_TEXTS_OUT: Final = {
    "message_rate_limit_exceeded": "messages of the server come too fast",
    "ip_rate_limit_exceeded": "messages of the server come too fast for this address",
    "byte_rate_limit_exceeded": "the server sends more than may pass in this time",
}


@dataclass(frozen=True, slots=True)
class Excess:
    """One rule's limit was reached. `retry_after`: seconds; None where waiting does not help."""

    rule: Rule
    retry_after: float | None

    @property
    def text(self) -> str:
        """What happened, for a person."""
        texts = _TEXTS if self.rule.direction is Direction.IN else _TEXTS_OUT
        return texts[self.rule.code]

    @property
    def retry_after_ms(self) -> int | None:
        """Milliseconds, rounded up; never more than MAX_RETRY_MS."""
        return None if self.retry_after is None else ceil(min(self.retry_after * 1000, MAX_RETRY_MS))

    def error_message(self, connection: str, suppressed: int = 0) -> bytes:
        """The JSON text message for the client. `suppressed`: notices that were left out since the last one."""
        return json.dumps(
            {
                "type": "error",
                "code": self.rule.code,
                "message": self.text,
                "retry_after_ms": self.retry_after_ms,
                "rule": self.rule.name,
                "suppressed": suppressed,
                "id": connection,
            },
            separators=(",", ":"),
        ).encode()

    def close_reason(self, connection: str) -> str:
        """Rule, retry time and id; at most 123 bytes, since names of rules are at most 64 and ids at most 24."""
        retry = "never" if self.retry_after_ms is None else str(self.retry_after_ms)
        return f"rule={self.rule.name} retry_after_ms={retry} id={connection}"


class AdmissionRule:
    """One rule that decides about upgrades. Its claims are remembered: the same few come again and again."""

    def __init__(self, rule: Rule, identifier: Identifier) -> None:
        self.rule = rule
        self._identifier = identifier
        self._pers = _asked_about(rule)
        self._claims: dict[tuple[bytes, ...], Claim] = {}

    def claim(self, principal: Principal) -> Claim:
        """What this principal asks for."""
        parts = tuple([part_of(principal, per) for per in self._pers])
        claim = self._claims.get(parts)
        if claim is None:
            if len(self._claims) >= CLAIMS:
                self._claims.clear()
            claim = self._claims[parts] = self._new_claim(principal)
        return claim

    def _new_claim(self, principal: Principal) -> Claim:
        rule = self.rule
        if rule.quantity in FRAME_QUANTITIES:
            return PenaltyClaim(rule.name, penalty_key(self._identifier, rule, principal))
        key = self._identifier.key(rule, principal, rule.per)
        if rule.quantity is Quantity.UPGRADES:
            return TokenClaim(rule.name, key, rule.limit, rule.burst, rule.shadow)
        member = principal.user if rule.quantity is Quantity.MEMBERS else None
        return SeatClaim(rule.name, key, int(rule.limit), rule.shadow, member)


class AdmissionRules:
    """The rules that decide about upgrades, ready to be turned into claims."""

    def __init__(self, rules: Sequence[Rule], identifier: Identifier) -> None:
        self._rules = tuple(AdmissionRule(_at_upgrades(rule), identifier) for rule in rules if _is_asked(rule))
        self._particular = any(rule.rule.when.room is not None or rule.rule.when.networks for rule in self._rules)
        self._chosen: dict[tuple[str, bool, bool], tuple[AdmissionRule, ...]] = {}  # bounded by the routes

    def claims(self, principal: Principal) -> tuple[list[Rule], list[Claim]]:
        """What this principal asks for, rule by rule in the order of the file."""
        rules = self._about(principal)
        return [one.rule for one in rules], [one.claim(principal) for one in rules]

    def _about(self, principal: Principal) -> tuple[AdmissionRule, ...]:
        """The rules about this principal; where no rule asks for more than these three, they decide."""
        kind = (principal.route, principal.room is None, principal.anonymous)
        chosen = self._chosen.get(kind)
        if chosen is None:
            chosen = tuple(one for one in self._rules if applies(one.rule, principal))
            if not self._particular:
                self._chosen[kind] = chosen
        return chosen


def _asked_about(rule: Rule) -> tuple[Per, ...]:
    """What of a principal a claim under this rule depends on."""
    if rule.quantity in FRAME_QUANTITIES:
        return (Per.USER, Per.IP)  # as penalty_key
    return (*rule.per, Per.USER) if rule.quantity is Quantity.MEMBERS else rule.per


def _is_asked(rule: Rule) -> bool:
    """Has an upgrade anything to ask under this rule? Under one about frames: whether somebody is kept out."""
    return rule.quantity not in FRAME_QUANTITIES or (rule.penalty > 0 and not rule.shadow)


def _at_upgrades(rule: Rule) -> Rule:
    return penalty_rule(rule) if rule.quantity in FRAME_QUANTITIES else rule


def penalty_key(identifier: Identifier, rule: Rule, principal: Principal) -> bytes:
    """Under whom a penalty of this rule is remembered: the user, or the address of one who is not known."""
    return identifier.key(rule, principal, (Per.IP,) if principal.anonymous else (Per.USER,))


def applies(rule: Rule, principal: Principal) -> bool:
    """Is this rule about this principal at all? One that counts per room is not where the route has no room."""
    if Per.ROOM in rule.per and principal.room is None:
        return False
    return rule.when.holds(route=principal.route, room=principal.room, anonymous=principal.anonymous, address=principal.address)


def refusal(rule: Rule, retry_after: float | None) -> Excess:
    """What a refused client is told. `retry_after` as a store's Denial gives it: None unknown, infinite never. A limit of 0 is never."""
    if retry_after is None and rule.limit > 0:
        return Excess(rule, SEAT_RETRY)
    return Excess(rule, None if retry_after == inf else retry_after)


class RefusalHistory:
    """Who was refused so often that the friendly refusal, which costs an upgrade, is withheld.

    Bounded: the principals that were refused longest ago are forgotten first.
    """

    def __init__(self, most: int = MAX_REFUSED) -> None:
        self._times: OrderedDict[bytes, deque[float]] = OrderedDict()
        self._most = most

    def note(self, principal: Principal, now: float) -> bool:
        """Note one refusal; True if this principal was refused more than 10 times in the 10 seconds before it."""
        key = principal.ip if principal.anonymous else principal.user
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = deque(maxlen=REFUSALS + 1)
            if len(self._times) > self._most:
                self._times.popitem(last=False)
        else:
            self._times.move_to_end(key)
        often = len(times) == times.maxlen and now - times[0] < REFUSAL_WINDOW
        times.append(now)
        return often

    def sweep(self, now: float) -> None:
        """Forget whose last refusal is out of the window."""
        while self._times:
            key, times = next(iter(self._times.items()))
            if now - times[-1] < REFUSAL_WINDOW:
                return
            del self._times[key]

    def __len__(self) -> int:
        return len(self._times)
