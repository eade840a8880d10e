"""The meter: what the frames of one direction of a connection are charged to, compiled when it connects.

`charge` is a walker's judge. All rules of a frame are charged together or not at all: first every bucket is asked, then every one
is spent from. Where several rules are broken, close beats drop beats delay, and of equals the first in the file is named. Shadow rules
are looked at only when the frame passes; they are counted and never act.

A message is charged when its first frame's header is read, bytes with each frame, pings and pongs included. A continuation that may not
pass closes where its rule drops: its message is half forwarded by then.

A frame that is delayed stands in the line of each bucket that lacks its tokens, and of no other: what one bucket keeps it waiting for is
not kept from others in the next. Its ticket is the same everywhere, so where tokens are gone when it asks again it is first. Frames of
all connections that share a bucket pass in the order in which they began to wait.

It is charged when it passes, as of the moment when its tokens were there, and those behind it in the same backlog likewise. So who wakes
late loses nothing, up to LATE seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from math import inf
from typing import Final, NamedTuple

from proxy.ledger.store import Store
from proxy.ledger.token_bucket import TokenBucket
from proxy.policy.admission import Excess, applies, penalty_key
from proxy.policy.identity import Identifier, Principal
from proxy.policy.rules import FRAME_QUANTITIES, RATE_QUANTITIES, CloseAfter, Direction, OnExcess, Per, Quantity, Rule
from proxy.wire.frames import OPCODE_BITS, Opcode, Verdict

NO_LIMIT: Final = 1 << 63  # bytes, or fragments; no frame is as long (RFC 6455 §5.2)
ONE: Final = 1.0  # token: what a message costs, or a control frame
LATE: Final = 0.125  # seconds: so late a frame that waited may be asked about and have the tokens of that time all the same
EARLY: Final = 1e-6  # seconds: so early it may pass, by the rounding of clocks; the bucket's level goes below 0 for it
SOONER: Final = 0.001  # seconds: by so much a frame must be due before the time that it was told to be worth waking for

_PASS: Final = Verdict.PASS
_DROP: Final = Verdict.DROP
_CLOSE: Final = Verdict.CLOSE
_HOLD: Final = Verdict.HOLD
_SEVERITY: Final = {_PASS: 0, _HOLD: 1, _DROP: 2, _CLOSE: 3}
_CONTINUATION: Final = int(Opcode.CONTINUATION)  # comparing with an IntEnum's member costs more than the comparison
_LAST_DATA: Final = int(Opcode.BINARY)


class FrameRule:
    """A frame rule and its running totals, shared by all meters. `order` is its place in the file."""

    __slots__ = ("closes", "delays", "drops", "order", "rule")

    def __init__(self, rule: Rule, order: int) -> None:
        self.rule = rule
        self.order = order
        # Frames that were stopped so, or in shadow: that would have been.
        self.drops = 0
        self.closes = 0
        self.delays = 0

    def totals(self) -> Iterator[tuple[str, int]]:
        """(action, frames): what a delay comes to is a delay or a close, all else is a drop or a close."""
        if self.rule.on_excess is OnExcess.DELAY:
            yield "delay", self.delays
        else:
            yield "drop", self.drops
        yield "close", self.closes

    def note(self, verdict: Verdict) -> None:
        if verdict is _DROP:
            self.drops += 1
        elif verdict is _CLOSE:
            self.closes += 1
        else:
            self.delays += 1

    def cost(self, opcode: int, length: int) -> float:
        """Tokens that a frame costs under a rate; 0 where the rule is not about it."""
        match self.rule.quantity:
            case Quantity.BYTES:
                return length
            case Quantity.CONTROL_FRAMES:
                return ONE if opcode > _LAST_DATA else 0.0
            case _:
                return ONE if _CONTINUATION < opcode <= _LAST_DATA else 0.0


class Account:
    """One rule, as one connection uses it. `bucket` is None where the rule is no rate; `penalty_key` where it has no penalty."""

    __slots__ = ("breaches", "bucket", "frame_rule", "is_stopped", "key", "penalty_key")

    def __init__(self, frame_rule: FrameRule, key: bytes, bucket: TokenBucket | None, penalty_key: bytes | None = None) -> None:
        self.frame_rule = frame_rule
        self.key = key
        self.bucket = bucket
        self.penalty_key = penalty_key
        self.breaches: deque[float] | None = None  # when the last ones were, at most as many as close
        self.is_stopped = False  # of a shadow: the rest of the current message would not have come

    def drop_or_close(self, now: float) -> Verdict:
        """What a breach of a rule that drops comes to: DROP, or CLOSE if it is one too many within the time."""
        close_after = self.frame_rule.rule.close_after
        return _DROP if close_after is None or not self._is_last(close_after, now) else _CLOSE

    def _is_last(self, close_after: CloseAfter, now: float) -> bool:
        if self.breaches is None:
            self.breaches = deque(maxlen=close_after.breaches)
        self.breaches.append(now)
        return len(self.breaches) == close_after.breaches and now - self.breaches[0] <= close_after.within


class Drops:
    """What one rule dropped on one connection since somebody last took it. `cost`: tokens that the last of it would have cost."""

    __slots__ = ("_account", "cost", "count")

    def __init__(self, account: Account) -> None:
        self._account = account
        self.count = 0
        self.cost = 0.0

    def excess(self, now: float) -> Excess:
        """What to tell the client; the wait is counted from `now`."""
        bucket = self._account.bucket
        wait = inf if bucket is None else bucket.wait(self.cost, now)
        return Excess(self._account.frame_rule.rule, None if wait == inf else wait)


class Held:
    """The frame that waits. `ticket`: its place in all lines; `since`: seconds; `places`: the buckets in whose lines it stands.

    `wake` is called once, if its tokens are there well before `until`.
    """

    __slots__ = ("is_counted", "places", "since", "ticket", "until", "wake")

    def __init__(self, ticket: int, since: float) -> None:
        self.ticket = ticket
        self.since = since
        self.is_counted = False  # as delayed; a frame that only waits for an answer is not
        self.places: dict[TokenBucket, float] = {}  # -> cost
        self.until = inf
        self.wake: Callable[[], None] | None = None

    def join(self, bucket: TokenBucket, cost: float) -> None:
        if bucket not in self.places:
            self.places[bucket] = cost
            bucket.join(self.ticket, cost, self._hear)

    def leave(self, bucket: TokenBucket) -> bool:
        """Go out of this line. False if it stood in none."""
        cost = self.places.pop(bucket, None)
        if cost is None:
            return False
        bucket.leave(self.ticket, cost)
        return True

    def _hear(self, due: float) -> None:
        """What somebody before it did not take is its own, and sooner."""
        if self.wake is not None and due < self.until - SOONER:
            wake, self.wake = self.wake, None
            wake()


class Plan(NamedTuple):
    """What a meter of some rules is made of; the numbers are places among them. Worked out once, not for each connection.

    `is_plain`: a first frame can only break a rate of messages, or a size.
    """

    enforced: tuple[int, ...]
    shadows: tuple[int, ...]
    messages: tuple[int, ...]
    controls: tuple[int, ...]
    bytes: tuple[int, ...]
    is_plain: bool
    max_size: float
    max_fragments: float

    @classmethod
    def of(cls, frame_rules: Sequence[FrameRule]) -> Plan:
        rules = [one.rule for one in frame_rules]
        enforced = tuple(place for place, rule in enumerate(rules) if not rule.shadow)
        shadows = tuple(place for place, rule in enumerate(rules) if rule.shadow)

        def about(quantity: Quantity) -> tuple[int, ...]:
            return tuple(place for place in enforced if rules[place].quantity is quantity)

        def smallest(quantity: Quantity) -> float:
            return min((rules[place].limit for place in about(quantity)), default=NO_LIMIT)

        delays = any(rules[place].on_excess is OnExcess.DELAY for place in enforced)
        return cls(
            enforced,
            shadows,
            about(Quantity.MESSAGES),
            about(Quantity.CONTROL_FRAMES),
            about(Quantity.BYTES),
            not (about(Quantity.BYTES) or shadows or delays),
            smallest(Quantity.MESSAGE_SIZE),
            smallest(Quantity.FRAGMENTS),
        )


class Meter:
    """The frame rules of one direction. `charge` wants times in seconds that do not go backwards.

    `accounts`: in the order of the file. `tickets`: one source of them for all meters that share buckets. `plan`: of their rules, where
    somebody has it already.
    """

    __slots__ = (
        "_bytes",
        "_controls",
        "_enforced",
        "_fragments",
        "_held",
        "_is_plain",
        "_is_released",
        "_late",
        "_max_fragments",
        "_max_size",
        "_message_size",
        "_messages",
        "_passed_at",
        "_shadows",
        "_tickets",
        "can_drop",
        "closing",
        "drops",
        "hold_until",
        "penalty_key",
    )

    def __init__(self, accounts: Sequence[Account], tickets: Iterator[int] | None = None, plan: Plan | None = None) -> None:
        if plan is None:
            plan = Plan.of([one.frame_rule for one in accounts])
        self._enforced = tuple([accounts[place] for place in plan.enforced])
        self._shadows = tuple([accounts[place] for place in plan.shadows])
        self._messages = _buckets(accounts, plan.messages)
        self._controls = _buckets(accounts, plan.controls)
        self._bytes = _buckets(accounts, plan.bytes)
        self._is_plain = plan.is_plain
        self._max_size = plan.max_size
        self._max_fragments = plan.max_fragments
        self._message_size = 0  # bytes of the current message, so far as its frames passed
        self._fragments = 0  # frames of it
        self._tickets = count() if tickets is None else tickets
        self._held: Held | None = None
        self._late = 0.0  # seconds, from when the last frame that waited had its tokens until it passed
        self._passed_at = 0.0  # seconds; means something where `_late` is more than 0
        self._is_released = False
        self.can_drop = True  # False: a message that is missing would make the later ones unreadable, so that a drop closes
        self.closing: Excess | None = None  # why the last verdict was CLOSE
        self.penalty_key: bytes | None = None  # and whom it keeps out, if its rule does
        self.drops: dict[str, Drops] | None = None  # by the rule's name, until `take_drops`
        self.hold_until = 0.0  # seconds: after a verdict of HOLD, when to ask again

    @property
    def accounts(self) -> tuple[Account, ...]:
        return self._enforced + self._shadows

    def charge(self, first: int, length: int, now: float) -> Verdict:
        """The verdict on a frame, by its first byte and its payload length in bytes. A breach costs nothing.

        The path of a message that passes, under no rules but rates of messages and sizes, has the bucket's arithmetic in its own lines:
        two buckets and a size cost 0.4 µs so and 0.7 µs with calls.
        """
        opcode = first & OPCODE_BITS
        if not self._is_plain or not opcode or opcode > _LAST_DATA:
            return self._charge_any(opcode, length, now)
        if length > self._max_size:
            return self._judge(opcode, length, now)
        buckets = self._messages
        for bucket in buckets:
            elapsed = now - bucket.stamp
            level = bucket.level + elapsed * bucket.rate
            if level > bucket.burst:
                level = bucket.burst
            if level < ONE or elapsed < 0.0:
                return self._judge(opcode, length, now)
            bucket.pending = level
        for bucket in buckets:
            bucket.level = bucket.pending - ONE
            bucket.stamp = now
        self._message_size = length
        self._fragments = 1
        return _PASS

    def _charge_any(self, opcode: int, length: int, now: float) -> Verdict:
        """Any frame under any rules."""
        if self._held is not None or self._late:
            return self._judge(opcode, length, now)
        size, fragments = self._grown(opcode, length)
        if size > self._max_size or fragments > self._max_fragments:
            return self._judge(opcode, length, now)
        ones = self._controls if opcode > _LAST_DATA else self._messages if opcode else ()
        for bucket in ones:
            if not bucket.would_pass(ONE, now):
                return self._judge(opcode, length, now)
        for bucket in self._bytes:
            if not bucket.would_pass(length, now):
                return self._judge(opcode, length, now)
        for bucket in ones:
            bucket.spend(ONE, now)
        for bucket in self._bytes:
            bucket.spend(length, now)
        return self._passed(opcode, length, size, fragments, now)

    def _judge(self, opcode: int, length: int, now: float) -> Verdict:
        """Some rule seems to be broken: ask all of them, and find which one acts."""
        worst: Verdict = _PASS
        named: Account | None = None
        hold_until = inf  # the first of them: whose tokens are there then, in its line others may be served
        is_delayed = False
        for account in self._enforced:
            verdict, due = self._ask(account, opcode, length, now)
            if verdict is _HOLD:
                hold_until = min(hold_until, due)
                is_delayed = is_delayed or account.frame_rule.rule.on_excess is OnExcess.DELAY
            if _SEVERITY[verdict] > _SEVERITY[worst]:
                worst, named = verdict, account
        if named is None:
            return self._pass(opcode, length, now)
        if worst is _HOLD:
            self.hold_until = hold_until
            return self._stand_in_line(opcode, length, now) if is_delayed else _HOLD
        self._leave_lines(now)
        cost = named.frame_rule.cost(opcode, length)
        return self._drop(named, cost) if worst is _DROP else self._close(named, cost, now)

    def _ask(self, account: Account, opcode: int, length: int, now: float) -> tuple[Verdict, float]:
        """What one rule says to a frame, and for HOLD until when. Here, and nowhere else, a bucket's refusal becomes a verdict."""
        frame_rule, bucket = account.frame_rule, account.bucket
        rule = frame_rule.rule
        if bucket is None:
            if not self._is_over(rule, opcode, length):
                return _PASS, now
        else:
            cost = frame_rule.cost(opcode, length)
            if not cost:
                return _PASS, now
            if rule.on_excess is OnExcess.DELAY:
                return self._ask_to_wait(rule, bucket, cost, now)
            if bucket.would_pass(cost, now):
                return _PASS, now
            known_at = bucket.known_at(cost, now)
            if known_at > now:
                return _HOLD, known_at
        if rule.on_excess is OnExcess.CLOSE or opcode == _CONTINUATION or not (self.can_drop or opcode > _LAST_DATA):
            return _CLOSE, now
        return account.drop_or_close(now), now

    def _ask_to_wait(self, rule: Rule, bucket: TokenBucket, cost: float, now: float) -> tuple[Verdict, float]:
        """PASS, HOLD until a time, or CLOSE if that would be too long. Others who are late are no reason to close one who waits."""
        due = self._due(bucket, cost, now)
        if due <= now + EARLY:
            return _PASS, now
        held = self._held
        latest = (now if held is None else held.since) + rule.max_delay + EARLY
        if due <= latest:
            return _HOLD, due
        return (_CLOSE if bucket.earliest(cost, None if held is None else held.ticket) > latest else _HOLD), due

    def _due(self, bucket: TokenBucket, cost: float, now: float) -> float:
        """When the tokens of the frame that is asked about are there, or came to be there."""
        if self._held is not None:
            return bucket.due(cost, now, self._held.ticket)
        return bucket.due_since(cost, now, self._since(now)) if self._late else bucket.due(cost, now)

    def _since(self, now: float) -> float:
        """When a frame that comes now would have been asked about, had nobody been late with the one before it."""
        return now - min(LATE, self._late) if 0.0 <= now - self._passed_at <= LATE else now

    def _is_over(self, rule: Rule, opcode: int, length: int) -> bool:
        """Does this frame make its message larger than the rule allows, or of more fragments?"""
        size, fragments = self._grown(opcode, length)
        return (size if rule.quantity is Quantity.MESSAGE_SIZE else fragments) > rule.limit

    def _grown(self, opcode: int, length: int) -> tuple[int, int]:
        """(size, fragments) of the message once this frame belongs to it; (0, 0) for a control frame, which belongs to none."""
        if opcode == _CONTINUATION:
            return self._message_size + length, self._fragments + 1
        return (0, 0) if opcode > _LAST_DATA else (length, 1)

    def _pass(self, opcode: int, length: int, now: float) -> Verdict:
        """Charge all; those that delay as of the moment when the last of them that kept the frame waiting had its tokens."""
        held = self._held
        dues = self._dues(opcode, length, now) if held is not None or self._late else {}
        kept = dues.values() if held is None else [dues[bucket] for bucket in held.places]
        then = min(now, max(now - LATE, *kept)) if kept else now
        # Who finds all tokens there at once is not late any more.
        self._late = now - then if kept and (held is not None or then > self._since(now)) else 0.0
        self._passed_at = now
        left = self._step_out()
        for account in self._enforced:
            bucket = account.bucket
            if bucket is not None and (cost := account.frame_rule.cost(opcode, length)):
                bucket.spend_due(cost, min(now, max(then, dues.get(bucket, now))))
        for bucket in left:
            bucket.tell_first(now)
        return self._passed(opcode, length, *self._grown(opcode, length), now)

    def _dues(self, opcode: int, length: int, now: float) -> dict[TokenBucket, float]:
        """When the tokens came to be there that the frame needs of each bucket that would have delayed it."""
        delaying = (one for one in self._enforced if one.bucket is not None and one.frame_rule.rule.on_excess is OnExcess.DELAY)
        return {
            one.bucket: self._due(one.bucket, cost, now)
            for one in delaying
            if one.bucket is not None and (cost := one.frame_rule.cost(opcode, length))
        }

    def _passed(self, opcode: int, length: int, size: int, fragments: int, now: float) -> Verdict:
        if self._shadows:
            self._charge_shadows(opcode, length, now)
        if opcode <= _LAST_DATA:
            self._message_size = size
            self._fragments = fragments
        return _PASS

    def _charge_shadows(self, opcode: int, length: int, now: float) -> None:
        """Count what would have happened to this frame, which passes."""
        for account in self._shadows:
            if opcode == _CONTINUATION and account.is_stopped:
                continue  # one message is one breach
            verdict = self._ask_shadow(account, opcode, length, now)
            if verdict is not _PASS:
                account.frame_rule.note(verdict)
            if opcode <= _LAST_DATA:
                account.is_stopped = verdict is _DROP or verdict is _CLOSE

    def _ask_shadow(self, account: Account, opcode: int, length: int, now: float) -> Verdict:
        """What one shadow rule would have said to a frame; if that is PASS, it is charged."""
        frame_rule, bucket = account.frame_rule, account.bucket
        rule = frame_rule.rule
        if bucket is None:
            if not self._is_over(rule, opcode, length):
                return _PASS
        else:
            cost = frame_rule.cost(opcode, length)
            if not cost or bucket.take(cost, now) or bucket.known_at(cost, now) > now:
                return _PASS  # what nobody knows yet is no breach
            if rule.on_excess is OnExcess.DELAY:
                return _CLOSE if bucket.wait(cost, now) > rule.max_delay else _HOLD
        return _CLOSE if rule.on_excess is OnExcess.CLOSE or opcode == _CONTINUATION else account.drop_or_close(now)

    def _stand_in_line(self, opcode: int, length: int, now: float) -> Verdict:
        """Let the frame wait, in the line of each bucket that has not enough for it, and of no other."""
        held = self._held
        if held is None:
            held = self._held = Held(next(self._tickets), now)
        held.until = self.hold_until
        if self._is_released:
            return _HOLD  # nobody would take it out of a line again
        for account in self._enforced:
            bucket = account.bucket
            if bucket is None or account.frame_rule.rule.on_excess is not OnExcess.DELAY:
                continue
            cost = account.frame_rule.cost(opcode, length)
            if cost and bucket.due(cost, now, held.ticket) > now + EARLY:
                held.join(bucket, cost)
                if not held.is_counted and not bucket.is_asking:
                    held.is_counted = True
                    account.frame_rule.note(_HOLD)
            elif held.leave(bucket):
                bucket.tell_first(now)
        return _HOLD

    def call_when_known(self, wake: Callable[[], None]) -> None:
        """After a verdict of HOLD: call `wake` as soon as it is worth asking again, should that be before `hold_until`."""
        if self._held is not None:
            self._held.wake = wake
        for account in self._enforced:
            if account.bucket is not None and account.bucket.is_asking:
                account.bucket.call_when_known(wake)

    def _leave_lines(self, now: float) -> None:
        for bucket in self._step_out():
            bucket.tell_first(now)

    def _step_out(self) -> list[TokenBucket]:
        """The frame waits no more. Returns the buckets whose lines it has left, and whose first ones are to be told."""
        held, self._held = self._held, None
        return [] if held is None else [bucket for bucket in list(held.places) if held.leave(bucket)]

    def _close(self, account: Account, cost: float, now: float) -> Verdict:
        account.frame_rule.note(_CLOSE)
        rule, bucket = account.frame_rule.rule, account.bucket
        wait = inf if bucket is None else bucket.wait(cost, now)
        if rule.penalty:
            wait = rule.penalty if wait == inf else max(wait, rule.penalty)
        self.closing = Excess(rule, None if wait == inf else wait)
        self.penalty_key = account.penalty_key
        return _CLOSE

    def _drop(self, account: Account, cost: float) -> Verdict:
        account.frame_rule.note(_DROP)
        if self.drops is None:
            self.drops = {}
        name = account.frame_rule.rule.name
        drops = self.drops.get(name)
        if drops is None:
            drops = self.drops[name] = Drops(account)
        drops.count += 1
        drops.cost = cost
        return _DROP

    def take_drops(self) -> list[Drops]:
        """What was dropped since the last call, rule by rule."""
        drops, self.drops = self.drops, None
        return list(drops.values()) if drops else []

    def give_up(self, now: float) -> None:
        """The frame that is held will not be asked about again: it stands in nobody's way."""
        self._leave_lines(now)

    def penalize(self, store: Store, now: float) -> None:
        """Keep out whom the breach that ended the connection keeps out."""
        if self.penalty_key is not None and self.closing is not None:
            store.penalize(self.penalty_key, self.closing.rule.penalty, now)

    def release(self, store: Store, now: float) -> None:
        """Give up the buckets, which live on in the store. Nothing more will be forwarded."""
        self._leave_lines(now)
        self._is_released = True
        for account in self.accounts:
            if account.bucket is not None:
                store.close_bucket(account.key, account.bucket)


def _buckets(accounts: Sequence[Account], places: Sequence[int]) -> tuple[TokenBucket, ...]:
    return tuple([bucket for place in places if (bucket := accounts[place].bucket) is not None])


class Meters(NamedTuple):
    """The meters of one connection: of the client's frames, and of the server's; None where no rule is about them."""

    inward: Meter | None
    outward: Meter | None

    def penalize(self, store: Store, now: float) -> None:
        for meter in self:
            if meter is not None:
                meter.penalize(store, now)

    def release(self, store: Store, now: float) -> None:
        for meter in self:
            if meter is not None:
                meter.release(store, now)


class Choice(NamedTuple):
    """Rules of one direction, and what a meter of them is made of."""

    rules: tuple[FrameRule, ...]
    plan: Plan


def _choice(frame_rules: Sequence[FrameRule], direction: Direction) -> Choice:
    rules = tuple(one for one in frame_rules if one.rule.direction is direction)
    return Choice(rules, Plan.of(rules))


class MeterRules:
    """The rules about frames, ready to be compiled into the smallest meters that a connection needs."""

    def __init__(self, rules: Sequence[Rule], identifier: Identifier) -> None:
        self.frame_rules = tuple(FrameRule(rule, order) for order, rule in enumerate(rules) if rule.quantity in FRAME_QUANTITIES)
        self._identifier = identifier
        self._tickets = count()
        self._dropping = tuple(one.rule for one in self.frame_rules if _drops_messages(one.rule))
        self._particular = any(one.rule.when.room is not None or one.rule.when.networks for one in self.frame_rules)
        self._chosen: dict[tuple[str, bool, bool], tuple[Choice, Choice]] = {}  # bounded by the routes

    def compile(self, principal: Principal, store: Store, now: float) -> Meters | None:
        """The meters of a connection, their buckets held open until `release`; None if no rule is about its frames."""
        inward, outward = self._about(principal)
        if not inward.rules and not outward.rules:
            return None
        return Meters(self._meter(inward, principal, store, now), self._meter(outward, principal, store, now))

    def _about(self, principal: Principal) -> tuple[Choice, Choice]:
        """The rules about this principal, in either direction; where no rule asks for more than these three, they decide."""
        kind = (principal.route, principal.room is None, principal.anonymous)
        chosen = self._chosen.get(kind)
        if chosen is None:
            mine = [one for one in self.frame_rules if applies(one.rule, principal)]
            chosen = _choice(mine, Direction.IN), _choice(mine, Direction.OUT)
            if not self._particular:
                self._chosen[kind] = chosen
        return chosen

    def _meter(self, choice: Choice, principal: Principal, store: Store, now: float) -> Meter | None:
        if not choice.rules:
            return None
        return Meter([self._account(one, principal, store, now) for one in choice.rules], self._tickets, choice.plan)

    def _account(self, one: FrameRule, principal: Principal, store: Store, now: float) -> Account:
        rule, identifier = one.rule, self._identifier
        penalty = penalty_key(identifier, rule, principal) if rule.penalty else None
        if rule.quantity not in RATE_QUANTITIES:
            return Account(one, b"", None, penalty)
        key = identifier.key(rule, principal, rule.per)
        # Nobody else can have the key of a connection, nor that of a user without a token.
        is_own = Per.CONNECTION in rule.per or (principal.anonymous and Per.USER in rule.per)
        open_bucket = store.open_own_bucket if is_own else store.open_bucket
        return Account(one, key, open_bucket(key, rule.limit, rule.burst, now), penalty)

    def may_drop(self, principal: Principal, direction: Direction = Direction.IN) -> bool:
        """Could a message of this principal, or to it, be dropped and the connection live on?"""
        return any(rule.direction is direction and applies(rule, principal) for rule in self._dropping)


def _drops_messages(rule: Rule) -> bool:
    return rule.on_excess is OnExcess.DROP and not rule.shadow and rule.quantity is not Quantity.CONTROL_FRAMES
