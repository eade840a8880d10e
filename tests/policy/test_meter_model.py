"""Meters and buckets against a slow, obviously right model, through any sequence of frames, holds, leavings and returns.

The model has one ledger per key, in fractions, and one function that says what becomes of a frame; it is written from docs/rules.md,
knows no fast path, and keeps no running sums. Times are multiples of 1/8 s and rates powers of two, which floats hold exactly, so both
must agree to the last token and the last microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition
from hypothesis.stateful import rule as step

from proxy.ledger.memory_store import MemoryStore
from proxy.policy.identity import Principal
from proxy.policy.meter import MeterRules, Meters
from proxy.policy.rules import LEGAL_ON_EXCESS, LEGAL_PER, RATE_QUANTITIES, CloseAfter, OnExcess, Per, Quantity, Rule
from proxy.wire.frames import CloseFrame, FrameWalker, ProtocolError, Turn, Verdict
from tests.policy.principals import ANN, IDENTIFIER, beside, rule
from tests.wire.reference import account, read_frames
from tests.wire.streams import cut, one_by_one, streams

START = Fraction(1000)
LATE = Fraction(1, 8)
PASS, DROP, CLOSE, HOLD = Verdict.PASS, Verdict.DROP, Verdict.CLOSE, Verdict.HOLD
PEOPLE = [
    ANN,
    replace(ANN, connection=b"ann 3"),
    beside(Per.IP, Per.CONNECTION),
    replace(ANN, user=b"bob", connection=b"bob 1"),
    replace(beside(Per.IP), user=b"bob", connection=b"bob 2"),
]
FRAME_RULES = [Quantity.MESSAGES, Quantity.MESSAGE_SIZE, Quantity.BYTES, Quantity.CONTROL_FRAMES, Quantity.FRAGMENTS]


@st.composite
def some_rules(draw: st.DrawFn) -> list[Rule]:
    rules = []
    for number in range(draw(st.integers(1, 4))):
        quantity = draw(st.sampled_from(FRAME_RULES))
        on_excess = draw(st.sampled_from(LEGAL_ON_EXCESS[quantity]))
        per = draw(st.sampled_from([one for one in (Per.CONNECTION, Per.USER, Per.IP) if one in LEGAL_PER[quantity]]))
        limit, burst = draw(st.sampled_from([1, 2, 3] if quantity is Quantity.FRAGMENTS else [0, 3, 10])), 0.0
        if quantity in RATE_QUANTITIES:
            limit = draw(st.sampled_from([0, 0.25, 1, 2, 8]))
            burst = draw(st.sampled_from([1.0, 1.5, 3.0, 8.0]))
        close_after = draw(st.none() | st.builds(CloseAfter, st.integers(1, 3), st.sampled_from([0.5, 2.0])))
        more = {
            "max_delay": draw(st.sampled_from([0.5, 2.0, 60.0])),
            "close_after": close_after if on_excess is OnExcess.DROP else None,
        }
        shadow = draw(st.integers(0, 3)) == 0
        rules.append(rule(quantity, per, limit=limit, burst=burst, name=f"r{number}", on_excess=on_excess, shadow=shadow, **more))
    return rules


@dataclass
class Ledger:
    """The tokens of one key, and who waits for them: ticket -> tokens."""

    rate: Fraction
    burst: Fraction
    level: Fraction
    stamp: Fraction
    waiting: dict[int, Fraction] = field(default_factory=dict)

    def at(self, now: Fraction) -> Fraction:
        return min(self.burst, self.level + (now - self.stamp) * self.rate)

    def needed(self, cost: Fraction, ticket: float) -> Fraction:
        """So much must be there, for this place in the line."""
        return cost + sum(theirs for other, theirs in self.waiting.items() if other < ticket)

    def since(self, cost: Fraction, ticket: float, now: Fraction) -> Fraction | float:
        """When it came to be there, or will."""
        needed = self.needed(cost, ticket)
        if not self.rate or cost > self.burst:
            return inf
        if self.at(now) < needed:
            return now + (needed - self.at(now)) / self.rate
        return self.stamp + max(Fraction(0), needed - self.level) / self.rate

    def came_late(self, cost: Fraction, since: Fraction, now: Fraction) -> Fraction | float:
        """As `since` for who comes now and would have come at a time before, from which on nothing was lost to a full bucket."""
        needed = self.needed(cost, inf)
        if needed > self.burst or not self.rate:
            return self.since(cost, inf, now)
        start = max(since, self.stamp)
        return start + (needed - self.at(start)) / self.rate if self.at(start) < needed else since

    def at_best(self, cost: Fraction, ticket: float) -> Fraction | float:
        """When it is there, if all who are before are served in time."""
        if not self.rate or cost > self.burst:
            return inf
        return self.stamp + (self.needed(cost, ticket) - self.level) / self.rate

    def take(self, cost: Fraction, when: Fraction) -> None:
        when = max(when, self.stamp)
        self.level, self.stamp = self.at(when) - cost, when


@dataclass
class Client:
    """One connection in the model. `frame`: the one that is held, with its ticket and since when."""

    who: Principal
    size: int = 0
    fragments: int = 0
    in_message: bool = False
    frame: tuple[int, int] | None = None
    ticket: int = 0
    since: Fraction = Fraction(0)
    late: Fraction = Fraction(0)
    passed: Fraction = Fraction(0)
    stopped: set[str] = field(default_factory=set)
    breaches: dict[str, list[Fraction]] = field(default_factory=dict)


class Model:
    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.ledgers: dict[tuple[str, object], Ledger] = {}
        self.totals = {(one.name, action): 0 for one in rules for action in ("drop", "close", "delay")}
        self.tickets = 0

    def ledger(self, one: Rule, who: Principal, now: Fraction) -> Ledger:
        [per] = one.per
        whom = {Per.CONNECTION: who.connection, Per.USER: who.user, Per.IP: who.ip}[per]
        burst = Fraction(one.burst if one.limit else 0)
        return self.ledgers.setdefault((one.name, whom), Ledger(Fraction(one.limit), burst, burst, now))

    def cost(self, one: Rule, first: int, length: int) -> Fraction:
        control, opens = first & 0x08, first & 0x03 and not first & 0x08
        costs = {Quantity.MESSAGES: bool(opens), Quantity.CONTROL_FRAMES: bool(control), Quantity.BYTES: length}
        return Fraction(costs.get(one.quantity, 0))

    def sizes(self, client: Client, first: int, length: int) -> dict[Quantity, tuple[int, int]]:
        """Of the message that this frame belongs to: before it and with it."""
        if first & 0x08:
            return {Quantity.MESSAGE_SIZE: (0, 0), Quantity.FRAGMENTS: (0, 0)}
        if first & 0x03:
            return {Quantity.MESSAGE_SIZE: (-1, length), Quantity.FRAGMENTS: (-1, 1)}
        return {
            Quantity.MESSAGE_SIZE: (client.size, client.size + length),
            Quantity.FRAGMENTS: (client.fragments, client.fragments + 1),
        }

    def breaks(self, client: Client, one: Rule, first: int, now: Fraction) -> Verdict:
        """What breaking this rule comes to, if it is not one that delays."""
        if one.on_excess is OnExcess.CLOSE or not first & 0x0F:
            return CLOSE
        times = client.breaches.setdefault(one.name, [])
        times.append(now)
        after = one.close_after
        if after and len(times) >= after.breaches and now - times[-after.breaches] <= Fraction(after.within):
            return CLOSE
        return DROP

    def judge(self, client: Client, one: Rule, frame: tuple[int, int], now: Fraction) -> tuple[Verdict, Fraction | float]:
        first, length = frame
        if one.quantity not in RATE_QUANTITIES:
            _, after = self.sizes(client, first, length)[one.quantity]
            return (self.breaks(client, one, first, now) if after > one.limit else PASS), now
        cost, ledger = self.cost(one, first, length), self.ledger(one, client.who, now)
        if not cost:
            return PASS, now
        if one.on_excess is not OnExcess.DELAY:
            return (PASS if ledger.at(now) >= cost else self.breaks(client, one, first, now)), now
        ready = self.ready(client, one, cost, now)
        if ready <= now:
            return PASS, now
        held = client.frame is not None
        latest = (client.since if held else now) + Fraction(one.max_delay)
        return (CLOSE if min(ready, ledger.at_best(cost, client.ticket if held else inf)) > latest else HOLD), ready

    def ready(self, client: Client, one: Rule, cost: Fraction, now: Fraction) -> Fraction | float:
        """When the tokens of the frame are there, or came to be."""
        ledger = self.ledger(one, client.who, now)
        if client.frame is not None:
            return ledger.since(cost, client.ticket, now)
        return ledger.came_late(cost, self.would_have_come(client, now), now) if client.late else ledger.since(cost, inf, now)

    def would_have_come(self, client: Client, now: Fraction) -> Fraction:
        return now - min(LATE, client.late) if now - client.passed <= LATE else now

    def decide(self, client: Client, frame: tuple[int, int], now: Fraction) -> tuple[Verdict, str | None, Fraction | float]:
        """(verdict, the rule that is named, until when to hold)."""
        enforced = [one for one in self.rules if not one.shadow]
        said = [(one, *self.judge(client, one, frame, now)) for one in enforced]
        for verdict, action in ((CLOSE, "close"), (DROP, "drop")):
            for one, theirs, _ in said:
                if theirs is verdict:
                    self.totals[one.name, action] += 1
                    self.leave(client)
                    return verdict, one.name, 0
        holding = [(one, ready) for one, theirs, ready in said if theirs is HOLD]
        if holding:
            return HOLD, self.hold(client, frame, holding, now), min(ready for _, ready in holding)
        self.let_pass(client, frame, now)
        return PASS, None, 0

    def hold(self, client: Client, frame: tuple[int, int], holding: Sequence[tuple[Rule, Fraction | float]], now: Fraction) -> str:
        name = holding[0][0].name
        if client.frame is None:
            client.frame, client.since = frame, now
            self.tickets += 1
            client.ticket = self.tickets
            self.totals[name, "delay"] += 1
        for one in self.rules:
            if not one.shadow and one.on_excess is OnExcess.DELAY and self.cost(one, *frame):
                self.ledger(one, client.who, now).waiting.pop(client.ticket, None)
        for one, _ in holding:
            self.ledger(one, client.who, now).waiting[client.ticket] = self.cost(one, *frame)
        return name

    def let_pass(self, client: Client, frame: tuple[int, int], now: Fraction) -> None:
        rates = [one for one in self.rules if not one.shadow and one.quantity in RATE_QUANTITIES and self.cost(one, *frame)]
        waited = [one for one in rates if client.frame and client.ticket in self.ledger(one, client.who, now).waiting]
        delaying = [one for one in rates if one.on_excess is OnExcess.DELAY]
        ready = {one.name: Fraction(self.ready(client, one, self.cost(one, *frame), now)) for one in delaying}
        kept = [ready[one.name] for one in (waited if client.frame else delaying if client.late else [])]
        then = min(now, max(now - LATE, *kept)) if kept else now
        client.late = now - then if kept and (client.frame or then > self.would_have_come(client, now)) else Fraction(0)
        client.passed = now
        was_late = bool(client.frame or kept)
        self.leave(client)
        for one in rates:
            when = min(now, max(then, ready[one.name])) if one in delaying and was_late else now
            self.ledger(one, client.who, now).take(self.cost(one, *frame), when)
        self.count_shadows(client, frame, now)
        first, length = frame
        if not first & 0x08:
            client.size = self.sizes(client, first, length)[Quantity.MESSAGE_SIZE][1]
            client.fragments = self.sizes(client, first, length)[Quantity.FRAGMENTS][1]
            client.in_message = not first & 0x80

    def count_shadows(self, client: Client, frame: tuple[int, int], now: Fraction) -> None:
        first, _ = frame
        for one in self.rules:
            if not one.shadow or (not first & 0x0F and one.name in client.stopped):
                continue
            before = self.totals[one.name, "drop"] + self.totals[one.name, "close"]
            self.count_shadow(one, client, frame, now)
            if not first & 0x08:
                client.stopped.discard(one.name)
                if self.totals[one.name, "drop"] + self.totals[one.name, "close"] > before:
                    client.stopped.add(one.name)

    def count_shadow(self, one: Rule, client: Client, frame: tuple[int, int], now: Fraction) -> None:
        first, length = frame
        if one.quantity not in RATE_QUANTITIES:
            if self.sizes(client, first, length)[one.quantity][1] > one.limit:
                self.totals[one.name, "drop" if self.breaks(client, one, first, now) is DROP else "close"] += 1
            return
        cost, ledger = self.cost(one, first, length), self.ledger(one, client.who, now)
        if ledger.at(now) >= cost:
            ledger.take(cost, now)
        elif one.on_excess is OnExcess.DELAY:
            waits = ledger.since(cost, inf, now) - now
            self.totals[one.name, "close" if waits > one.max_delay else "delay"] += 1
        else:
            self.totals[one.name, "drop" if self.breaks(client, one, first, now) is DROP else "close"] += 1

    def leave(self, client: Client) -> None:
        for ledger in self.ledgers.values():
            ledger.waiting.pop(client.ticket, None)
        client.frame, client.ticket = None, 0


class MeterMachine(RuleBasedStateMachine):
    """Clients who share keys, each with a meter and in the model."""

    @initialize(rules=some_rules())
    def start(self, rules: list[Rule]) -> None:
        self.now = START
        self.rules = MeterRules(rules, IDENTIFIER)
        self.store = MemoryStore()
        self.model = Model(rules)
        self.clients: list[tuple[Client, Meters]] = []

    @precondition(lambda self: len(self.clients) < 6)
    @step(who=st.sampled_from(PEOPLE))
    def enter(self, who: Principal) -> None:
        meters = self.rules.compile(who, self.store, float(self.now))
        assert meters is not None
        self.clients.append((Client(who), meters))

    @precondition(lambda self: self.clients)
    @step(data=st.data(), kind=st.sampled_from(["whole", "whole", "part", "ping"]), length=st.integers(0, 9), fin=st.booleans())
    def send(self, data: st.DataObject, kind: str, length: int, fin: bool) -> None:
        """The next frame of somebody, or the one that waits once more."""
        place = data.draw(st.integers(0, len(self.clients) - 1))
        client, meters = self.clients[place]
        meter = meters.inward
        assert meter is not None
        first = 0x89 if kind == "ping" else (0x80 if fin else 0) if client.in_message else 0x82 if kind == "whole" else 0x02
        frame = client.frame or (first, length)
        verdict, named, until = self.model.decide(client, frame, self.now)
        assert meter.charge(*frame, float(self.now)) is verdict
        if verdict is HOLD:
            assert meter.hold_until == until
        elif verdict is DROP:
            assert [one.excess(float(self.now)).rule.name for one in meter.take_drops()] == [named]
        elif verdict is CLOSE:
            assert meter.closing is not None
            assert meter.closing.rule.name == named
            self._leave(place)

    @precondition(lambda self: self.clients)
    @step(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._leave(data.draw(st.integers(0, len(self.clients) - 1)))

    def _leave(self, place: int) -> None:
        client, meters = self.clients.pop(place)
        meters.release(self.store, float(self.now))
        self.model.leave(client)

    @step(eighths=st.integers(1, 16))
    def time_passes(self, eighths: int) -> None:
        self.now += Fraction(eighths, 8)
        self.store.sweep(float(self.now))

    @invariant()
    def totals_agree(self) -> None:
        if hasattr(self, "rules"):
            found = {
                (one.rule.name, action): getattr(one, f"{action}s")
                for one in self.rules.frame_rules
                for action in ("drop", "close", "delay")
            }
            assert found == self.model.totals

    def teardown(self) -> None:
        if hasattr(self, "rules"):
            while self.clients:
                self._leave(0)
            self.store.sweep(float(self.now) + 1e6)
            assert len(self.store) == 0


TestMeterModel = MeterMachine.TestCase
TestMeterModel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# --- a meter behind a walker ---------------------------------------------------------------------------------------------------------


def through(rules: Sequence[Rule], chunks: Sequence[bytes]) -> tuple[bytes, list[str], str]:
    """(what goes on, the verdicts, why it stopped) of a stream; the clock moves only while a frame is held, which is bounded."""
    meters = MeterRules(rules, IDENTIFIER).compile(ANN, MemoryStore(), float(START))
    assert meters is not None
    meter = meters.inward
    assert meter is not None
    now = float(START)
    verdicts: list[str] = []

    def judge(first: int, length: int, now: float) -> Verdict:
        verdict = meter.charge(first, length, now)
        verdicts.append(verdict.name.lower())
        return verdict

    walker = FrameWalker(masked=True, judge=judge)
    onward = b""
    for chunk in chunks:
        onward += walker.receive_data(chunk, now)
        while walker.halt is HOLD or walker.halt is Turn.OVER:
            if walker.halt is HOLD:
                now = max(now, meter.hold_until)
            walker.resume()
            onward += walker.receive_data(b"", now)
        assert walker.halt is CLOSE or walker.held <= 131
    return onward, verdicts, told(walker)


def told(walker: FrameWalker) -> str:
    match walker.halt:
        case None:
            return "nothing"
        case Verdict():
            return "refused"
        case ProtocolError():
            return "protocol error"
        case CloseFrame():
            return "a Close"


@given(some_rules(), st.data(), st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_split_of_any_stream_gives_the_same_verdicts_and_the_same_bytes(
    rules: list[Rule], data: st.DataObject, cuts: list[int]
) -> None:
    stream = data.draw(streams(masked=True))
    onward, verdicts, halt = through(rules, [stream])
    assert through(rules, cut(stream, cuts)) == (onward, verdicts, halt)
    if len(stream) < 2000:
        assert through(rules, one_by_one(stream)) == (onward, verdicts, halt)
    assert onward == account(stream, masked=True, verdicts=verdicts).forwarded


@given(some_rules(), st.data(), st.lists(st.integers(0, 2000), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_corruption_of_a_header_is_judged_as_the_reference_judges_it(rules: list[Rule], data: st.DataObject, cuts: list[int]) -> None:
    stream = bytearray(data.draw(streams(masked=True)) or b"\x81\x80\x01\x02\x03\x04")
    headers = [at for frame in read_frames(bytes(stream)) for at in range(frame.start, frame.body)]
    stream[data.draw(st.sampled_from(headers))] = data.draw(st.integers(0, 255))
    onward, verdicts, halt = through(rules, cut(bytes(stream), cuts))
    expected = account(bytes(stream), masked=True, verdicts=verdicts)
    assert onward == expected.forwarded
    assert halt == ("a Close" if isinstance(expected.halt, tuple) else expected.halt or "nothing")
