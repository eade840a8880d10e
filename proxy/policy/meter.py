"""The meter: what one connection's frames are charged to, compiled when it connects.

`charge` is a walker's judge. All rules of a frame are charged together or not at all: first every bucket is asked, then every one
is spent from. Where several rules are broken, close beats drop, and of equals the first in the file is named. Shadow rules are
looked at only when the frame passes; they are counted and never act.

A message is charged when its first frame's header is read. A continuation can only break a size; its message is half forwarded by
then, so that closes whatever the rule says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from proxy.ledger.store import Store
from proxy.ledger.token_bucket import TokenBucket
from proxy.policy.admission import Excess, applies
from proxy.policy.identity import Identifier, Principal
from proxy.policy.rules import FRAME_QUANTITIES, OnExcess, Quantity, Rule
from proxy.wire.frames import OPCODE_BITS, Opcode, Verdict

NO_LIMIT: Final = 1 << 63  # bytes; no frame is as long (RFC 6455 §5.2)
MESSAGE: Final = 1.0  # token: what a message costs

_PASS = Verdict.PASS


class FrameRule:
    """A frame rule and its running totals, shared by all meters. `order` is its place in the file."""

    __slots__ = ("closes", "drops", "order", "rule")

    def __init__(self, rule: Rule, order: int) -> None:
        self.rule = rule
        self.order = order
        self.drops = 0  # messages dropped, or in shadow: that would have been
        self.closes = 0  # connections closed, or in shadow: that would have been


class Account:
    """One rate rule's bucket, as one connection uses it."""

    __slots__ = ("bucket", "frame_rule", "key")

    def __init__(self, frame_rule: FrameRule, key: bytes, bucket: TokenBucket) -> None:
        self.frame_rule = frame_rule
        self.key = key
        self.bucket = bucket


class Drops:
    """What one rule dropped on one connection since somebody last took it. `bucket` is None for a size."""

    __slots__ = ("_bucket", "_rule", "count")

    def __init__(self, rule: Rule, bucket: TokenBucket | None) -> None:
        self._rule = rule
        self._bucket = bucket
        self.count = 0

    def excess(self, now: float) -> Excess:
        """What to tell the client; the wait is counted from `now`."""
        return _excess(self._rule, self._bucket, now)


class Meter:
    """The frame rules of one connection. `charge` wants times in seconds that do not go backwards."""

    __slots__ = ("_accounts", "_max_size", "_message_size", "_shadow_accounts", "_sizes", "closing", "drops", "hold_until")

    def __init__(self, accounts: Sequence[Account], sizes: Sequence[FrameRule]) -> None:
        self._accounts = tuple(one for one in accounts if not one.frame_rule.rule.shadow)
        self._shadow_accounts = tuple(one for one in accounts if one.frame_rule.rule.shadow)
        self._sizes = tuple(sizes)
        self._max_size = min((one.rule.limit for one in sizes), default=NO_LIMIT)  # beyond this some size rule has a say
        self._message_size = 0  # bytes of the current message, so far as its frames passed
        self.closing: Excess | None = None  # why the last verdict was CLOSE
        self.drops: dict[str, Drops] | None = None  # by the rule's name, until `take_drops`
        self.hold_until = 0.0  # seconds: after a verdict of HOLD, when to ask again

    @property
    def accounts(self) -> tuple[Account, ...]:
        return self._accounts + self._shadow_accounts

    def charge(self, first: int, length: int, now: float) -> Verdict:
        """The verdict on a frame, by its first byte and its payload length in bytes. A breach costs nothing."""
        opcode = first & OPCODE_BITS
        if opcode > Opcode.BINARY:
            return _PASS
        if opcode == Opcode.CONTINUATION:
            size = self._message_size + length
            if size > self._max_size and (verdict := self._oversized_continuation(size)):
                return verdict
            self._message_size = size
            return _PASS
        accounts = self._accounts
        if length > self._max_size:
            return self._judge(length, now)
        for account in accounts:
            if not account.bucket.would_pass(MESSAGE, now):
                return self._judge(length, now)
        for account in accounts:
            account.bucket.spend(MESSAGE, now)
        self._message_size = length
        if self._shadow_accounts:
            self._charge_shadow(now)
        return _PASS

    def _judge(self, length: int, now: float) -> Verdict:
        """Some rule is broken, perhaps only a shadow one: find which one acts."""
        acting: list[tuple[FrameRule, TokenBucket | None]] = [
            (one, None) for one in self._sizes if length > one.rule.limit and not one.rule.shadow
        ]
        rates = [account for account in self._accounts if not account.bucket.would_pass(MESSAGE, now)]
        acting += [(account.frame_rule, account.bucket) for account in rates]
        if not acting:
            for account in self._accounts:
                account.bucket.spend(MESSAGE, now)
            self._count_shadow_sizes(-1, length)
            self._message_size = length
            self._charge_shadow(now)
            return _PASS
        worst, bucket = min(acting, key=lambda one: (one[0].rule.on_excess is not OnExcess.CLOSE, one[0].order))
        if worst.rule.on_excess is OnExcess.CLOSE:
            return self._close(worst, _excess(worst.rule, bucket, now))
        return self._drop(worst, bucket)

    def _oversized_continuation(self, size: int) -> Verdict:
        for one in self._sizes:
            if size > one.rule.limit and not one.rule.shadow:
                return self._close(one, Excess(one.rule, None))
        self._count_shadow_sizes(self._message_size, size)
        return _PASS

    def _count_shadow_sizes(self, before: int, after: int) -> None:
        """Count each shadow size once a message: when the message grows over it. `before` is -1 at a message's first frame."""
        for one in self._sizes:
            if before <= one.rule.limit < after:
                _count(one, closes=before >= 0 or one.rule.on_excess is OnExcess.CLOSE)

    def _charge_shadow(self, now: float) -> None:
        for account in self._shadow_accounts:
            if not account.bucket.take(MESSAGE, now):
                _count(account.frame_rule, closes=account.frame_rule.rule.on_excess is OnExcess.CLOSE)

    def _close(self, frame_rule: FrameRule, excess: Excess) -> Verdict:
        _count(frame_rule, closes=True)
        self.closing = excess
        return Verdict.CLOSE

    def _drop(self, frame_rule: FrameRule, bucket: TokenBucket | None) -> Verdict:
        _count(frame_rule, closes=False)
        if self.drops is None:
            self.drops = {}
        name = frame_rule.rule.name
        drops = self.drops.get(name)
        if drops is None:
            drops = self.drops[name] = Drops(frame_rule.rule, bucket)
        drops.count += 1
        return Verdict.DROP

    def take_drops(self) -> list[Drops]:
        """What was dropped since the last call, rule by rule."""
        drops, self.drops = self.drops, None
        return list(drops.values()) if drops else []


def _excess(rule: Rule, bucket: TokenBucket | None, now: float) -> Excess:
    wait = inf if bucket is None else bucket.wait(MESSAGE, now)
    return Excess(rule, None if wait == inf else wait)


def _count(frame_rule: FrameRule, *, closes: bool) -> None:
    if closes:
        frame_rule.closes += 1
    else:
        frame_rule.drops += 1


class MeterRules:
    """The rules about frames, ready to be compiled into the smallest meter that a connection needs."""

    def __init__(self, rules: Sequence[Rule], identifier: Identifier) -> None:
        self.frame_rules = tuple(FrameRule(rule, order) for order, rule in enumerate(rules) if rule.quantity in FRAME_QUANTITIES)
        self._identifier = identifier

    def compile(self, principal: Principal, store: Store, now: float) -> Meter | None:
        """The meter of a connection, its buckets held open until `release`; None if no rule is about its frames."""
        mine = [one for one in self.frame_rules if applies(one.rule, principal)]
        if not mine:
            return None
        accounts = []
        for one in mine:
            if one.rule.quantity is Quantity.MESSAGES:
                key = self._identifier.key(one.rule, principal, one.rule.per)
                accounts.append(Account(one, key, store.open_bucket(key, one.rule.limit, one.rule.burst, now)))
        return Meter(accounts, [one for one in mine if one.rule.quantity is Quantity.MESSAGE_SIZE])

    def may_drop(self, principal: Principal) -> bool:
        """Could a message of this principal be dropped and the connection live on?"""
        return any(one.rule.on_excess is OnExcess.DROP and not one.rule.shadow and applies(one.rule, principal) for one in self.frame_rules)


def release(meter: Meter, store: Store) -> None:
    """Give up a meter's buckets; they live on in the store."""
    for account in meter.accounts:
        store.close_bucket(account.key, account.bucket)
