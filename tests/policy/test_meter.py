"""What frames are charged to: the meter alone, told in headers, and behind a walker, told in bytes."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import count, permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.rates.leased_bucket import LeasedBucket
from proxy.ledger.store import Denial
from proxy.ledger.token_bucket import TokenBucket
from proxy.policy.admission import AdmissionRules, applies
from proxy.policy.identity import Principal
from proxy.policy.meter import EARLY, LATE, NO_LIMIT, SOONER, Account, FrameRule, Held, Meter, MeterRules, Meters, Plan
from proxy.policy.rules import CloseAfter, Direction, Mode, OnExcess, Per, Quantity, Rule, When
from proxy.wire.frames import FrameWalker, Opcode, Verdict, build_frame
from tests.policy.principals import ANN, IDENTIFIER, NOW, beside, legal_pers, rule, unlike

CONNECTIONS, MEMBERS, UPGRADES, MESSAGES, MESSAGE_SIZE, BYTES, CONTROL_FRAMES, FRAGMENTS = Quantity
CONNECTION, USER, IP, ROOM, ROUTE, GLOBAL = Per
PASS, DROP, CLOSE, HOLD = Verdict.PASS, Verdict.DROP, Verdict.CLOSE, Verdict.HOLD
TEXT, BINARY, CONTINUATION = 0x81, 0x82, 0x80
FIRST, MIDDLE = 0x01, 0x00
PING, PONG = 0x89, 0x8A


class Gate:
    """Rules and a store, as one instance holds them."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = MeterRules(rules, IDENTIFIER)
        self.store = MemoryStore()

    def meter(self, who: Principal = ANN, now: float = NOW) -> Meter:
        """The meter of a client's frames."""
        meters = self.meters(who, now)
        assert meters.inward is not None
        return meters.inward

    def meters(self, who: Principal = ANN, now: float = NOW) -> Meters:
        meters = self.rules.compile(who, self.store, now)
        assert meters is not None
        return meters

    def totals(self) -> dict[str, tuple[int, int]]:
        """rule -> (drops, closes)"""
        return {one.rule.name: (one.drops, one.closes) for one in self.rules.frame_rules}


def messages(meter: Meter, count: int, now: float = NOW, length: int = 10) -> list[Verdict]:
    return [meter.charge(TEXT, length, now) for _ in range(count)]


class TestEveryRuleFires:
    @pytest.mark.parametrize("per", legal_pers(MESSAGES))
    def test_for_whoever_shares_all_that_it_counts_by(self, per: tuple[Per, ...]) -> None:
        gate = Gate(rule(MESSAGES, *per, limit=1, burst=2))
        assert messages(gate.meter(), 1) == [PASS]
        assert messages(gate.meter(unlike(per)), 2) == [PASS, DROP]

    @pytest.mark.parametrize(("per", "differs"), [(per, one) for per in legal_pers(MESSAGES) for one in per if one is not GLOBAL])
    def test_but_not_for_the_one_beside(self, per: tuple[Per, ...], differs: Per) -> None:
        gate = Gate(rule(MESSAGES, *per, limit=1))
        mine, theirs = gate.meter(), gate.meter(beside(differs))
        assert messages(mine, 2) == [PASS, DROP]
        assert messages(theirs, 1) == [PASS]

    def test_message_size_fires_for_the_one_over_and_not_for_the_one_beside(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=100))
        assert gate.meter().charge(TEXT, 101, NOW) is CLOSE
        assert gate.meter(beside(CONNECTION)).charge(TEXT, 100, NOW) is PASS

    def test_not_per_room_where_the_route_has_none(self) -> None:
        gate = Gate(rule(MESSAGES, ROOM, limit=0))
        assert gate.rules.compile(replace(ANN, room=None), gate.store, NOW) is None

    def test_only_to_whom_when_names(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, when=When(routes=frozenset(("chat",)))))
        assert gate.rules.compile(ANN, gate.store, NOW) is None
        assert messages(gate.meter(beside(ROUTE)), 1) == [DROP]

    @pytest.mark.parametrize("when", [When(), When(room="r*"), When(networks=(ip_network("10.0.0.0/8"),))], ids=["any", "room", "ip"])
    def test_whoever_came_before(self, when: When) -> None:
        """What is remembered of one principal is used for those whom the same rules are about, and for nobody else."""
        rules = (
            rule(MESSAGES, USER, name="all", when=when),
            rule(MESSAGES, ROOM, name="rooms"),
            rule(MESSAGES, IP, name="strangers", when=When(anonymous=True)),
            rule(BYTES, IP, name="chat", when=When(routes=frozenset(("chat",))), direction=Direction.OUT),
        )
        everybody = [
            replace(ANN, route=route, room=room, anonymous=anonymous, address=ip_address(address))
            for route in ("chat", "arena")
            for room in ("red", "blue", None)
            for anonymous in (True, False)
            for address in ("10.1.1.1", "11.1.1.1")
        ]
        gate = Gate(*rules)
        for who in [*everybody, *reversed(everybody)]:
            expected = {one.name for one in rules if applies(one, who)}
            meters = gate.rules.compile(who, gate.store, NOW) or Meters(None, None)
            assert {account.frame_rule.rule.name for meter in meters if meter for account in meter.accounts} == expected
            assert (meters.outward is None) is (who.route != "chat")

    def test_a_rule_about_some_rooms_is_asked_about_each(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, when=When(room="r*")))
        for _ in range(2):
            assert messages(gate.meter(replace(ANN, room="red")), 1) == [DROP]
            assert gate.rules.compile(replace(ANN, room="blue"), gate.store, NOW) is None

    def test_what_a_meter_is_made_of_is_worked_out_once(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=100))
        assert gate.meter().charge(TEXT, 100, NOW) is PASS
        [one] = gate.rules.frame_rules
        one.rule = rule(MESSAGE_SIZE, CONNECTION, limit=5)  # who looks at it again sees that 10 bytes are too many
        assert gate.meter(beside(CONNECTION)).charge(TEXT, 10, NOW) is PASS

    def test_what_is_no_rate_has_neither_bucket_nor_key(self) -> None:
        [account] = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=5)).meter().accounts
        assert (account.bucket, account.key) == (None, b"")

    def test_mistake_a_per_user_rule_that_never_saw_a_user(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1))
        digest, _ = IDENTIFIER.user(b"token=ann", {}, b"1")
        again, _ = IDENTIFIER.user(b"", {b"authorization": [b"Bearer ann"]}, b"2")
        assert messages(gate.meter(replace(ANN, user=digest)), 1) == [PASS]
        assert messages(gate.meter(replace(ANN, user=again)), 1) == [DROP]

    def test_without_frame_rules_there_is_no_meter(self) -> None:
        gate = Gate(rule(CONNECTIONS, USER))
        assert gate.rules.compile(ANN, gate.store, NOW) is None

    def test_a_rate_of_0_means_never(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, burst=5))
        meter = gate.meter()
        assert meter.charge(TEXT, 0, NOW + 1e6) is DROP
        [drops] = meter.take_drops()
        assert drops.excess(NOW).retry_after is None


class TestRates:
    def test_pass_the_burst_and_then_the_rate(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=10, burst=20))
        meter = gate.meter()
        passed = sum(meter.charge(TEXT, 5, NOW + i / 1000) is PASS for i in range(10_001))
        assert passed == 20 + 100

    def test_mistake_only_text_is_counted(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=2), rule(MESSAGE_SIZE, CONNECTION, limit=16384))
        meter = gate.meter()
        assert [meter.charge(first, 1, NOW) for first in (BINARY, TEXT, BINARY)] == [PASS, PASS, DROP]
        assert gate.meter(beside(USER)).charge(BINARY, 10 << 20, NOW) is CLOSE

    def test_compressed_messages_are_counted(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1))
        meter = gate.meter()
        assert [meter.charge(0x40 | first, 1, NOW) for first in (TEXT, BINARY)] == [PASS, DROP]

    def test_a_message_is_charged_at_its_first_frame_only(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1))
        meter = gate.meter()
        assert meter.charge(FIRST, 5, NOW) is PASS
        assert [meter.charge(first, 5, NOW) for first in (MIDDLE, MIDDLE, CONTINUATION)] == [PASS] * 3
        assert meter.charge(TEXT, 5, NOW) is DROP
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=3)).meter()
        assert [meter.charge(first, 5, NOW) for first in (FIRST, MIDDLE, CONTINUATION, TEXT, TEXT, TEXT)] == [PASS] * 5 + [DROP]

    def test_control_frames_cost_nothing(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=2)).meter()
        assert [meter.charge(first, 5, NOW) for first in (PING, PONG, PING, TEXT, TEXT, TEXT)] == [PASS] * 5 + [DROP]
        gate = Gate(rule(MESSAGES, USER, limit=0), rule(MESSAGE_SIZE, CONNECTION, limit=0))
        meter = gate.meter()
        assert [meter.charge(first, 125, NOW) for first in (PING, PONG)] == [PASS, PASS]

    def test_a_breach_costs_nothing(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1))
        meter = gate.meter()
        messages(meter, 1000)
        assert meter.charge(TEXT, 5, NOW + 1) is PASS

    def test_buckets_outlive_the_connection(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=2))
        meter = gate.meter()
        assert messages(meter, 3) == [PASS, PASS, DROP]
        meter.release(gate.store, NOW)
        gate.store.sweep(NOW)
        assert messages(gate.meter(beside(CONNECTION)), 1) == [DROP]

    def test_after_the_release_the_store_forgets_what_is_full_again(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, name="a"), rule(MESSAGES, IP, limit=1, name="b", shadow=True))
        meter = gate.meter()
        messages(meter, 5)
        meter.release(gate.store, NOW)
        gate.store.sweep(NOW + 1)
        assert len(gate.store) == 0


class TestChargedTogetherOrNotAtAll:
    def test_a_message_that_one_rule_stops_is_not_charged_to_the_other(self) -> None:
        for order in permutations((rule(MESSAGES, USER, limit=1, burst=3, name="user"), rule(MESSAGES, IP, limit=1, burst=1, name="ip"))):
            gate = Gate(*order)
            meter = gate.meter()
            assert messages(meter, 5) == [PASS, DROP, DROP, DROP, DROP]
            assert messages(gate.meter(beside(IP)), 1) == [PASS]
            meter.release(gate.store, NOW)
            assert messages(gate.meter(beside(IP, who=replace(ANN, room="x"))), 2) == [DROP, DROP]  # that IP has had its message
            third = replace(ANN, ip=b"third")
            assert messages(gate.meter(third), 2) == [PASS, DROP]  # and the user's third and last token was still there

    def test_a_message_that_is_too_large_is_not_charged_to_a_rate(self) -> None:
        for order in permutations(
            (rule(MESSAGES, USER, limit=1, name="rate"), rule(MESSAGE_SIZE, CONNECTION, limit=9, name="size", on_excess=OnExcess.DROP))
        ):
            meter = Gate(*order).meter()
            assert messages(meter, 100, length=10) == [DROP] * 100
            assert messages(meter, 2, length=9) == [PASS, DROP]

    def test_a_shadow_rule_is_not_charged_for_a_message_that_is_stopped(self) -> None:
        gate = Gate(rule(MESSAGES, IP, limit=1, burst=2, name="shadow", shadow=True), rule(MESSAGES, USER, limit=1, burst=1, name="rate"))
        meter = gate.meter()
        messages(meter, 100)
        assert gate.totals() == {"shadow": (0, 0), "rate": (99, 0)}
        messages(gate.meter(beside(USER)), 1)
        assert gate.totals()["shadow"] == (0, 0)
        messages(gate.meter(replace(ANN, user=b"third")), 1)
        assert gate.totals()["shadow"] == (1, 0)


class TestSizes:
    @pytest.mark.parametrize("on_excess", [OnExcess.CLOSE, OnExcess.DROP])
    def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(self, on_excess: OnExcess) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=16384, on_excess=on_excess)).meter()
        assert meter.charge(BINARY, 16384, NOW) is PASS
        assert meter.charge(BINARY, 16385, NOW) is {OnExcess.CLOSE: CLOSE, OnExcess.DROP: DROP}[on_excess]

    def test_a_size_is_that_of_the_whole_message_over_its_fragments(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10)).meter()
        assert [
            meter.charge(first, size, NOW) for first, size in ((FIRST, 4), (PING, 100), (MIDDLE, 4), (MIDDLE, 2), (CONTINUATION, 0))
        ] == [PASS] * 5
        assert meter.charge(FIRST, 10, NOW) is PASS
        assert meter.charge(PING, 0, NOW) is PASS
        assert meter.charge(MIDDLE, 1, NOW) is CLOSE

    def test_each_message_begins_at_0(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10)).meter()
        for _ in range(3):
            assert [meter.charge(FIRST, 6, NOW), meter.charge(CONTINUATION, 4, NOW), meter.charge(TEXT, 10, NOW)] == [PASS] * 3

    def test_a_continuation_that_breaks_a_drop_rule_closes_since_its_message_is_half_forwarded(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10, on_excess=OnExcess.DROP))
        meter = gate.meter()
        assert meter.charge(FIRST, 11, NOW) is DROP
        assert meter.charge(FIRST, 10, NOW) is PASS
        assert meter.charge(CONTINUATION, 1, NOW) is CLOSE
        assert meter.closing is not None
        assert meter.closing.rule.name == "rule"
        assert meter.closing.retry_after is None
        assert gate.totals() == {"rule": (1, 1)}

    def test_a_dropped_message_leaves_nothing_of_its_size_behind(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10, on_excess=OnExcess.DROP)).meter()
        assert meter.charge(FIRST, 100, NOW) is DROP
        assert meter.charge(FIRST, 5, NOW) is PASS
        assert meter.charge(CONTINUATION, 5, NOW) is PASS

    def test_a_limit_of_0_passes_empty_messages_only(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=0)).meter()
        assert meter.charge(TEXT, 0, NOW) is PASS
        assert meter.charge(FIRST, 0, NOW) is PASS
        assert meter.charge(CONTINUATION, 1, NOW) is CLOSE

    def test_without_a_size_rule_any_length_passes(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=10)).meter()
        assert meter.charge(FIRST, NO_LIMIT - 1, NOW) is PASS
        assert meter.charge(CONTINUATION, 1, NOW) is PASS

    def test_of_several_limits_the_smallest_that_acts_counts(self) -> None:
        gate = Gate(
            rule(MESSAGE_SIZE, CONNECTION, limit=5, name="shadow", shadow=True),
            rule(MESSAGE_SIZE, CONNECTION, limit=20, name="close"),
            rule(MESSAGE_SIZE, CONNECTION, limit=10, name="drop", on_excess=OnExcess.DROP),
        )
        meter = gate.meter()
        assert [meter.charge(TEXT, size, NOW) for size in (5, 6, 10, 11, 20, 21)] == [PASS, PASS, PASS, DROP, DROP, CLOSE]
        assert gate.totals() == {"shadow": (0, 2), "close": (0, 1), "drop": (2, 0)}


class TestSeverity:
    def test_close_beats_drop_wherever_it_stands(self) -> None:
        for order in permutations(
            (
                rule(MESSAGES, USER, limit=0, name="drop"),
                rule(MESSAGES, IP, limit=0, name="close", on_excess=OnExcess.CLOSE),
                rule(MESSAGE_SIZE, CONNECTION, limit=9, name="size", on_excess=OnExcess.DROP),
            )
        ):
            gate = Gate(*order)
            meter = gate.meter()
            assert meter.charge(TEXT, 10, NOW) is CLOSE
            assert meter.closing is not None
            assert meter.closing.rule.name == "close"
            assert meter.take_drops() == []
            assert gate.totals() == {"drop": (0, 0), "close": (0, 1), "size": (0, 0)}

    @pytest.mark.parametrize("on_excess", [OnExcess.DROP, OnExcess.CLOSE])
    def test_of_equals_the_first_in_the_file_is_named(self, on_excess: OnExcess) -> None:
        rules = (
            rule(MESSAGES, USER, limit=0, name="a", on_excess=on_excess),
            rule(MESSAGE_SIZE, CONNECTION, limit=9, name="b", on_excess=on_excess),
            rule(MESSAGES, IP, limit=0, name="c", on_excess=on_excess),
        )
        for order in permutations(rules):
            meter = Gate(*order).meter()
            meter.charge(TEXT, 10, NOW)
            named = meter.closing.rule.name if meter.closing else meter.take_drops()[0].excess(NOW).rule.name
            assert named == order[0].name

    def test_why_it_closes_says_when_to_come_back(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=2, burst=1, on_excess=OnExcess.CLOSE))
        meter = gate.meter()
        assert meter.charge(TEXT, 1, NOW) is PASS
        assert meter.charge(TEXT, 1, NOW + 0.125) is CLOSE
        assert meter.closing is not None
        assert meter.closing.retry_after_ms == 375
        assert meter.closing.rule.close_code == 4008


class TestPlainPath:
    """The path of a message under no rules but rates and sizes, which has the bucket's arithmetic in its own lines."""

    def test_a_clock_that_steps_back_gives_and_takes_nothing(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=5), rule(MESSAGE_SIZE, CONNECTION, limit=10, name="size")).meter()
        assert messages(meter, 1) == [PASS]
        assert messages(meter, 5, NOW - 1) == [PASS] * 4 + [DROP]
        assert messages(meter, 2, NOW - 100) == [DROP] * 2
        assert messages(meter, 2, NOW - 99) == [PASS, DROP]

    def test_after_a_long_pause_no_more_than_the_burst_passes(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=10, burst=3)).meter()
        assert messages(meter, 4) == [PASS] * 3 + [DROP]
        assert messages(meter, 4, NOW + 1e6) == [PASS] * 3 + [DROP]


class TestDrops:
    def test_are_told_rule_by_rule_and_then_forgotten(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=2, burst=2, name="rate"),
            rule(MESSAGE_SIZE, CONNECTION, limit=9, name="size", on_excess=OnExcess.DROP),
        )
        meter = gate.meter()
        assert meter.take_drops() == []
        messages(meter, 5)
        meter.charge(TEXT, 1, NOW)
        meter.charge(TEXT, 1, NOW)
        messages(meter, 3, length=1)
        told = {drops.excess(NOW).rule.name: (drops.count, drops.excess(NOW).retry_after) for drops in meter.take_drops()}
        assert told == {"size": (5, None), "rate": (3, 0.5)}
        assert meter.take_drops() == []
        assert meter.drops is None

    def test_the_wait_is_counted_from_when_it_is_told(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1)).meter()
        messages(meter, 2)
        [drops] = meter.take_drops()
        assert [drops.excess(NOW + later).retry_after for later in (0, 0.25, 1)] == [1, 0.75, 0]


class TestShadow:
    @pytest.mark.parametrize(("on_excess", "total"), [(OnExcess.DROP, (3, 0)), (OnExcess.CLOSE, (0, 3))])
    def test_a_rate_counts_and_never_acts(self, on_excess: OnExcess, total: tuple[int, int]) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=2, shadow=True, on_excess=on_excess))
        meter = gate.meter()
        assert messages(meter, 5) == [PASS] * 5
        assert gate.totals() == {"rule": total}
        assert meter.closing is None
        assert meter.take_drops() == []

    def test_a_size_is_counted_once_a_message_as_what_would_have_happened(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10, shadow=True, on_excess=OnExcess.DROP))
        meter = gate.meter()
        assert meter.charge(TEXT, 11, NOW) is PASS
        assert gate.totals() == {"rule": (1, 0)}
        assert [meter.charge(first, size, NOW) for first, size in ((FIRST, 6), (MIDDLE, 6), (MIDDLE, 6), (CONTINUATION, 6))] == [PASS] * 4
        assert gate.totals() == {"rule": (1, 1)}  # in the middle it would have closed
        assert [meter.charge(first, size, NOW) for first, size in ((FIRST, 0), (CONTINUATION, 11))] == [PASS] * 2
        assert gate.totals() == {"rule": (1, 2)}
        assert [meter.charge(first, size, NOW) for first, size in ((FIRST, 11), (CONTINUATION, 11))] == [PASS] * 2
        assert gate.totals() == {"rule": (2, 2)}

    def test_a_shadow_size_does_not_spare_the_rates(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10, name="size", shadow=True), rule(MESSAGES, USER, limit=1, burst=2, name="rate"))
        meter = gate.meter()
        assert messages(meter, 4, length=20) == [PASS, PASS, DROP, DROP]
        assert gate.totals() == {"size": (0, 2), "rate": (2, 0)}

    def test_a_message_that_is_stopped_counts_for_no_shadow_rule(self) -> None:
        gate = Gate(
            rule(MESSAGE_SIZE, CONNECTION, limit=10, name="shadow", shadow=True), rule(MESSAGE_SIZE, CONNECTION, limit=15, name="size")
        )
        assert gate.meter().charge(TEXT, 20, NOW) is CLOSE
        meter = gate.meter()
        assert [meter.charge(FIRST, 5, NOW), meter.charge(CONTINUATION, 15, NOW)] == [PASS, CLOSE]
        assert gate.totals() == {"shadow": (0, 0), "size": (0, 2)}


class TestBytes:
    def test_each_frame_costs_its_payload_whatever_it_is(self) -> None:
        meter = Gate(rule(BYTES, USER, limit=8, burst=100, on_excess=OnExcess.CLOSE)).meter()
        frames = ((FIRST, 40), (PING, 10), (MIDDLE, 0), (MIDDLE, 20), (CONTINUATION, 20), (PONG, 10))
        assert [meter.charge(first, size, NOW) for first, size in frames] == [PASS] * 6
        assert meter.charge(TEXT, 0, NOW) is PASS  # it is for nothing
        assert meter.charge(TEXT, 1, NOW) is CLOSE
        assert meter.closing is not None
        assert (meter.closing.rule.code, meter.closing.retry_after) == ("byte_rate_limit_exceeded", 0.125)

    def test_a_frame_beyond_the_burst_is_a_breach_however_full_the_bucket_is(self) -> None:
        for on_excess, verdict in ((OnExcess.DROP, DROP), (OnExcess.CLOSE, CLOSE), (OnExcess.DELAY, CLOSE)):
            meter = Gate(rule(BYTES, USER, limit=100, burst=100, on_excess=on_excess)).meter()
            assert meter.charge(TEXT, 101, NOW) is verdict
            assert meter.charge(TEXT, 100, NOW) is PASS

    def test_a_message_is_dropped_whole_at_its_first_frame_and_closes_at_a_later_one(self) -> None:
        gate = Gate(rule(BYTES, USER, limit=8, burst=100, on_excess=OnExcess.DROP))
        meter = gate.meter()
        assert meter.charge(FIRST, 101, NOW) is DROP
        assert meter.charge(FIRST, 99, NOW) is PASS
        assert meter.charge(PING, 2, NOW) is DROP  # a control frame is whole
        assert meter.charge(CONTINUATION, 2, NOW) is CLOSE
        assert gate.totals() == {"rule": (2, 1)}
        [drops] = meter.take_drops()
        assert (drops.count, drops.excess(NOW).retry_after) == (2, 0.125)

    def test_messages_and_bytes_are_charged_together_or_not_at_all(self) -> None:
        rules = (
            rule(BYTES, IP, limit=8, burst=100, name="bytes", on_excess=OnExcess.DROP),
            rule(MESSAGES, USER, limit=1, burst=2, name="rate"),
        )
        for order in permutations(rules):
            gate = Gate(*order)
            meter = gate.meter()
            assert [meter.charge(TEXT, size, NOW) for size in (101, 60, 60, 40, 1, 1)] == [DROP, PASS, DROP, PASS, DROP, DROP]
            assert gate.meter(beside(USER)).charge(TEXT, 1, NOW) is DROP
            assert gate.meter(beside(IP)).charge(TEXT, 1, NOW) is DROP


class TestControlFrames:
    def test_pings_and_pongs_cost_one_each_and_messages_nothing(self) -> None:
        gate = Gate(rule(CONTROL_FRAMES, CONNECTION, limit=1, burst=3))
        meter = gate.meter()
        frames = ((PING, 0), (TEXT, 9), (FIRST, 9), (PONG, 125), (MIDDLE, 9), (PING, 1), (CONTINUATION, 9))
        assert [meter.charge(first, size, NOW) for first, size in frames] == [PASS] * 7
        assert meter.charge(PONG, 0, NOW) is CLOSE
        assert meter.closing is not None
        assert (meter.closing.rule.code, meter.closing.retry_after) == ("control_rate_limit_exceeded", 1)

    def test_they_may_be_dropped_or_wait_in_the_middle_of_a_message_too(self) -> None:
        meter = Gate(rule(CONTROL_FRAMES, USER, limit=1, on_excess=OnExcess.DROP)).meter()
        assert [meter.charge(first, 0, NOW) for first in (FIRST, PING, PING, MIDDLE, PONG)] == [PASS, PASS, DROP, PASS, DROP]
        meter = Gate(rule(CONTROL_FRAMES, USER, limit=1, on_excess=OnExcess.DELAY)).meter()
        assert [meter.charge(first, 0, NOW) for first in (FIRST, PING, PING)] == [PASS, PASS, HOLD]
        assert meter.charge(PING, 0, NOW + 1) is PASS


class TestFragments:
    def test_the_frame_that_is_one_too_many_closes(self) -> None:
        gate = Gate(rule(FRAGMENTS, CONNECTION, limit=3))
        meter = gate.meter()
        for _ in range(3):
            assert [meter.charge(first, 0, NOW) for first in (FIRST, MIDDLE, PING, PONG, CONTINUATION)] == [PASS] * 5
        assert [meter.charge(first, 0, NOW) for first in (FIRST, MIDDLE, MIDDLE, CONTINUATION)] == [PASS, PASS, PASS, CLOSE]
        assert meter.closing is not None
        assert (meter.closing.rule.code, meter.closing.rule.close_code, meter.closing.retry_after) == ("too_many_fragments", 4009, None)
        assert gate.totals() == {"rule": (0, 1)}

    def test_a_limit_of_one_is_no_fragmentation(self) -> None:
        meter = Gate(rule(FRAGMENTS, CONNECTION, limit=1)).meter()
        assert [meter.charge(first, 5, NOW) for first in (TEXT, TEXT, FIRST, CONTINUATION)] == [PASS, PASS, PASS, CLOSE]

    def test_in_shadow_a_message_counts_once(self) -> None:
        gate = Gate(rule(FRAGMENTS, CONNECTION, limit=2, shadow=True))
        meter = gate.meter()
        for _ in range(2):
            assert [meter.charge(first, 0, NOW) for first in (FIRST, *[MIDDLE] * 9, CONTINUATION)] == [PASS] * 11
        assert gate.totals() == {"rule": (0, 2)}

    @pytest.mark.parametrize("shadow", [True, False])
    def test_a_message_that_a_shadow_would_have_dropped_counts_as_enforcement_counts_it(self, shadow: bool) -> None:
        gate = Gate(rule(BYTES, USER, limit=1, burst=4, on_excess=OnExcess.DROP, shadow=shadow))
        walker = FrameWalker(masked=True, judge=gate.meter().charge)
        stream = b"".join(bytes([first]) + build_frame(Opcode.TEXT, b"12345", MASK)[1:] for first in (FIRST, MIDDLE, MIDDLE, CONTINUATION))
        walker.receive_data(stream + stream + build_frame(Opcode.TEXT, b"1234", MASK), NOW)
        assert gate.totals() == {"rule": (2, 0)}

    def test_a_message_that_a_shadow_would_have_closed_for_counts_once(self) -> None:
        gate = Gate(rule(BYTES, USER, limit=1, burst=4, on_excess=OnExcess.CLOSE, shadow=True))
        meter = gate.meter()
        assert [meter.charge(first, 3, NOW) for first in (FIRST, MIDDLE, PING, MIDDLE, CONTINUATION, TEXT)] == [PASS] * 6
        assert gate.totals() == {"rule": (0, 3)}  # in the message, for the ping, and for the next one


class TestDelay:
    def test_the_frame_waits_until_its_tokens_are_there_and_is_charged_when_it_passes(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=4, burst=2, on_excess=OnExcess.DELAY))
        meter = gate.meter()
        assert messages(meter, 3) == [PASS, PASS, HOLD]
        assert meter.hold_until == NOW + 0.25
        assert messages(meter, 3, NOW + 0.125) == [HOLD] * 3  # however often somebody asks
        assert messages(meter, 1, NOW + 0.25) == [PASS]
        assert messages(meter, 1, NOW + 0.25) == [HOLD]
        assert meter.hold_until == NOW + 0.5
        assert dict(gate.rules.frame_rules[0].totals()) == {"delay": 2, "close": 0}  # a frame counts once

    def test_who_is_asked_late_has_the_tokens_of_the_time_up_to_an_eighth_of_a_second(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=16, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]  # until 1/16
        late = NOW + 3 / 16
        assert messages(meter, 4, late) == [PASS, PASS, PASS, HOLD]  # those of 1/16, 2/16 and 3/16
        assert meter.hold_until == NOW + 4 / 16
        later = meter.hold_until + 0.25  # so late, that half of it is forfeit
        assert messages(meter, 4, later) == [PASS, PASS, PASS, HOLD]
        assert meter.hold_until == later + 1 / 16

    @pytest.mark.parametrize(("rate", "late"), [(2000, 0.001), (2000, 0.01), (100, 0.02), (100, 0.05), (100, 0.1), (16, 0.125)])
    def test_a_backlog_passes_at_the_rate_however_late_it_is_asked_about(self, rate: float, late: float) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=rate, burst=1, on_excess=OnExcess.DELAY)).meter()
        now, passed = NOW, 0
        while passed < 2 * rate + 1:
            if meter.charge(TEXT, 5, now) is PASS:
                passed += 1
            else:
                now = meter.hold_until + late
        assert 2 - EARLY <= now - NOW <= 2 + 2 * late

    def test_a_backlog_that_is_read_in_several_turns_loses_nothing_either(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1000, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 60, NOW + 0.1) == [PASS] * 60
        assert messages(meter, 41, NOW + 0.1005) == [PASS] * 40 + [HOLD]

    def test_rules_of_which_one_holds_more_lose_nothing_by_waking_late(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=64, burst=1, on_excess=OnExcess.DELAY, name="user"),
            rule(MESSAGES, IP, limit=64, burst=3, on_excess=OnExcess.DELAY, name="ip"),
        )
        meter = gate.meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 9, NOW + 8 / 64) == [PASS] * 8 + [HOLD]

    def test_a_pause_of_the_client_gives_it_no_more_than_the_burst(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=128, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, NOW + 1.5 / 128) == [PASS]  # half a message late
        assert messages(meter, 2, NOW + 15 / 128) == [PASS, HOLD]
        meter = Gate(rule(MESSAGES, USER, limit=128, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, NOW + 3.5 / 128) == [PASS]  # more than two messages late
        assert messages(meter, 2, NOW + 150) == [PASS, HOLD]

    def test_of_a_time_beyond_an_eighth_of_a_second_nothing_is_left(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=32, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 6, NOW + 1) == [PASS] * 5 + [HOLD]

    def test_in_any_window_no_more_comes_through_than_the_burst_and_the_rate_of_it_and_of_an_eighth_of_a_second(self) -> None:
        choose = random.Random(5)
        meter = Gate(rule(MESSAGES, USER, limit=64, burst=2, on_excess=OnExcess.DELAY)).meter()
        now, passed = NOW, []
        for _ in range(3000):
            if meter.charge(TEXT, 5, now) is PASS:
                passed.append(now)
                now += choose.choice([0, 0, 0, 0.01, 0.1])
            else:
                now = max(now, meter.hold_until) + choose.choice([0, 0.001, 0.03, 0.12, 0.5])
        for first in range(len(passed)):
            for last in range(first, min(first + 100, len(passed))):
                assert last - first + 1 <= 2 + 64 * (passed[last] - passed[first] + LATE) + EARLY

    def test_a_clock_that_steps_back_behind_a_late_frame_makes_nobody_wait(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=16, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, NOW + 1.5 / 16) == [PASS]
        assert meter.charge(TEXT, 5, NOW - 100) is HOLD
        assert meter.hold_until <= NOW - 100 + 1 / 16

    def test_nothing_is_lost_by_waking_late(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=16, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 1) == [PASS]
        now, passed = NOW, 0
        while now < NOW + 100:
            if meter.charge(TEXT, 5, now) is PASS:
                passed += 1
            else:
                now = meter.hold_until + 1 / 32
        assert passed == 1599

    def test_a_frame_that_would_wait_longer_than_it_may_closes(self) -> None:
        for seconds, verdict in ((0.25, HOLD), (0.2, CLOSE)):
            gate = Gate(rule(MESSAGES, USER, limit=4, burst=1, on_excess=OnExcess.DELAY, max_delay=seconds))
            meter = gate.meter()
            assert messages(meter, 2) == [PASS, verdict]
        assert meter.closing is not None
        assert meter.closing.retry_after == 0.25
        assert gate.totals() == {"rule": (0, 1)}

    def test_a_backlog_may_wait_longer_than_one_frame_may(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=4, burst=1, on_excess=OnExcess.DELAY, max_delay=0.25)).meter()
        now = NOW
        for _ in range(100):
            while meter.charge(TEXT, 5, now) is not PASS:
                assert meter.closing is None
                now = meter.hold_until
        assert now == NOW + 99 / 4

    @pytest.mark.parametrize("limit", [{"limit": 0}, {"limit": 4, "burst": 4}])
    def test_never_is_a_close(self, limit: dict[str, float]) -> None:
        meter = Gate(rule(BYTES, USER, on_excess=OnExcess.DELAY, max_delay=3600.0, **limit)).meter()
        assert meter.charge(TEXT, 5, NOW) is CLOSE
        assert meter.closing is not None
        assert meter.closing.retry_after is None

    def test_a_continuation_waits_like_any_frame(self) -> None:
        meter = Gate(rule(BYTES, USER, limit=8, burst=16, on_excess=OnExcess.DELAY)).meter()
        assert [meter.charge(first, 16, NOW) for first in (FIRST, MIDDLE)] == [PASS, HOLD]
        assert meter.charge(MIDDLE, 16, NOW + 2) is PASS

    def test_connections_that_share_a_bucket_pass_in_the_order_in_which_they_began_to_wait(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=8, burst=1, on_excess=OnExcess.DELAY))
        meters = [gate.meter() for _ in range(4)]
        assert [meter.charge(TEXT, 5, NOW) for meter in meters] == [PASS, HOLD, HOLD, HOLD]
        assert [meter.hold_until - NOW for meter in meters[1:]] == [1 / 8, 2 / 8, 3 / 8]
        late = NOW + 1 / 8
        assert meters[0].charge(TEXT, 5, late) is HOLD  # the token that is there is not for those who come now
        assert [meters[number].charge(TEXT, 5, late) for number in (3, 2, 1)] == [HOLD, HOLD, PASS]
        assert [meters[number].hold_until - NOW for number in (2, 3, 0)] == [2 / 8, 3 / 8, 4 / 8]

    def test_what_is_left_beyond_those_in_line_is_for_others(self) -> None:
        gate = Gate(
            rule(BYTES, ROOM, limit=8, burst=100, on_excess=OnExcess.DELAY, max_delay=100.0, name="room"),
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="user"),
        )
        ann, bob, cat = gate.meter(), gate.meter(beside(USER)), gate.meter(replace(ANN, user=b"cat"))
        assert messages(ann, 2, length=40) == [PASS, HOLD]  # for her own rate; the room is not what she waits for
        assert messages(bob, 1, length=50) == [PASS]
        assert messages(cat, 1, length=20) == [HOLD]  # 10 are left of the room
        assert cat.hold_until == NOW + 1.25
        assert ann.charge(TEXT, 40, NOW + 1) is HOLD  # now the room is, and Ann began to wait before Cat
        assert cat.charge(TEXT, 20, NOW + 1.25) is HOLD
        assert (ann.hold_until, cat.hold_until) == (NOW + 3.75, NOW + 6.25)
        assert ann.charge(TEXT, 40, NOW + 3.75) is PASS
        assert cat.charge(TEXT, 20, NOW + 6.25) is PASS

    def test_who_waits_for_one_bucket_keeps_nobody_from_another(self) -> None:
        gate = Gate(
            rule(MESSAGES, ROOM, limit=128, burst=1, on_excess=OnExcess.DELAY, name="all"),
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="user"),
        )
        ann, bob = gate.meter(), gate.meter(beside(USER))
        assert messages(ann, 2) == [PASS, HOLD]  # at first for both
        assert ann.hold_until == NOW + 1 / 128
        woken: list[str] = []
        ann.call_when_known(lambda: woken.append("ann"))
        assert bob.charge(TEXT, 5, NOW) is HOLD
        bob.call_when_known(lambda: woken.append("bob"))
        assert ann.charge(TEXT, 5, NOW + 1 / 128) is HOLD  # her own token is not there for a second
        assert woken == ["bob"]
        assert bob.charge(TEXT, 5, NOW + 1 / 128) is PASS
        cat = gate.meter(replace(ANN, user=b"cat"))
        assert cat.charge(TEXT, 5, NOW + 2 / 128) is PASS
        dan = gate.meter(replace(ANN, user=b"dan"))
        assert dan.charge(TEXT, 5, NOW + 1 - 1 / 256) is PASS
        assert ann.charge(TEXT, 5, NOW + 1) is HOLD  # now all have no token left, and she is in line again
        eve = gate.meter(replace(ANN, user=b"eve"))
        assert eve.charge(TEXT, 5, NOW + 1) is HOLD
        assert (ann.hold_until, eve.hold_until) == (NOW + 1 + 1 / 256, NOW + 1 + 3 / 256)
        assert ann.charge(TEXT, 5, NOW + 1 + 1 / 256) is PASS

    def test_who_comes_back_into_a_line_is_before_those_who_began_to_wait_later(self) -> None:
        gate = Gate(
            rule(MESSAGES, ROOM, limit=8, burst=1, on_excess=OnExcess.DELAY, name="all"),
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="user"),
        )
        ann, bob, cat = gate.meter(), gate.meter(beside(USER)), gate.meter(replace(ANN, user=b"cat"))
        assert messages(ann, 2) == [PASS, HOLD]
        assert ann.charge(TEXT, 5, NOW + 1 / 8) is HOLD
        assert bob.charge(TEXT, 5, NOW + 1) is PASS
        assert cat.charge(TEXT, 5, NOW + 1) is HOLD
        assert ann.charge(TEXT, 5, NOW + 1) is HOLD
        assert cat.charge(TEXT, 5, NOW + 9 / 8) is HOLD
        assert ann.charge(TEXT, 5, NOW + 9 / 8) is PASS
        assert cat.charge(TEXT, 5, NOW + 10 / 8) is PASS

    def test_when_somebody_leaves_a_line_nobody_who_comes_later_is_before_those_behind(self) -> None:
        gate = Gate(rule(BYTES, USER, limit=1000, burst=8000, on_excess=OnExcess.DELAY, max_delay=60.0))
        before = gate.meters()
        assert before.inward is not None
        first, behind, last = gate.meter(), gate.meter(), gate.meter()
        assert first.charge(BINARY, 8000, NOW) is PASS
        woken: list[str] = []
        for name, meter, size in (("before", before.inward, 8000), ("behind", behind, 10), ("last", last, 10)):
            assert meter.charge(BINARY, size, NOW) is HOLD
            meter.call_when_known(partial(woken.append, name))
        before.release(gate.store, NOW + 0.125)
        assert woken == ["behind"]
        assert behind.charge(BINARY, 10, NOW + 0.125) is PASS
        assert woken == ["behind", "last"]
        assert last.charge(BINARY, 10, NOW + 0.125) is PASS

    def test_nobody_is_woken_who_was_told_the_right_time(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=8, burst=1, on_excess=OnExcess.DELAY))
        meters = [gate.meter() for _ in range(4)]
        woken: list[int] = []
        for number, meter in enumerate(meters):
            if meter.charge(TEXT, 5, NOW) is HOLD:
                meter.call_when_known(partial(woken.append, number))
        assert [meter.charge(TEXT, 5, meter.hold_until) for meter in meters[1:]] == [PASS] * 3
        assert woken == []

    def test_who_gives_up_is_out_of_all_lines(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY))
        ann, other = gate.meter(), gate.meter()
        assert messages(ann, 2) == [PASS, HOLD]
        ann.give_up(NOW)
        assert other.charge(TEXT, 5, NOW + 1) is PASS

    def test_no_frame_waits_longer_than_it_may_because_another_came_back_before_it(self) -> None:
        gate = Gate(
            rule(MESSAGES, ROOM, limit=8, burst=1, on_excess=OnExcess.DELAY, max_delay=0.125, name="all"),
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="user"),
        )
        cat, bob = gate.meter(replace(ANN, user=b"cat")), gate.meter(beside(USER))
        ann = gate.meter()
        assert messages(ann, 1) == [PASS]
        assert messages(ann, 1, NOW + 0.5) == [HOLD]
        assert bob.charge(TEXT, 5, NOW + 1) is PASS
        assert cat.charge(TEXT, 5, NOW + 1) is HOLD
        assert ann.charge(TEXT, 5, NOW + 1) is CLOSE  # she has waited for longer than that already
        assert cat.charge(TEXT, 5, NOW + 9 / 8) is PASS

    def test_that_others_are_late_closes_nobody(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=8, burst=1, on_excess=OnExcess.DELAY, max_delay=0.25))
        first, second, third = gate.meter(), gate.meter(), gate.meter()
        assert [meter.charge(TEXT, 5, NOW) for meter in (first, second, third)] == [PASS, HOLD, HOLD]
        assert third.charge(TEXT, 5, NOW + 0.3) is HOLD  # the second has not been asked about since
        assert second.charge(TEXT, 5, NOW + 0.3) is PASS
        assert third.charge(TEXT, 5, NOW + 0.3) is PASS

    def test_two_who_wait_for_the_same_two_buckets_do_not_wait_for_each_other(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="user"),
            rule(MESSAGES, IP, limit=1, burst=1, on_excess=OnExcess.DELAY, name="ip", max_delay=100.0),
        )
        first, second = gate.meter(), gate.meter()
        assert gate.meter(beside(IP)).charge(TEXT, 5, NOW) is PASS  # the user's token is gone, that of the address is not
        assert first.charge(TEXT, 5, NOW) is HOLD
        assert gate.meter(beside(USER)).charge(TEXT, 5, NOW) is PASS  # now that is gone too
        assert second.charge(TEXT, 5, NOW) is HOLD
        assert second.charge(TEXT, 5, NOW + 1) is HOLD
        assert first.charge(TEXT, 5, NOW + 1) is PASS
        assert second.charge(TEXT, 5, NOW + 2) is PASS

    @pytest.mark.parametrize("on_excess", [OnExcess.DROP, OnExcess.CLOSE])
    def test_drop_and_close_beat_it_and_it_is_charged_nothing(self, on_excess: OnExcess) -> None:
        for order in permutations(
            (
                rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="delay"),
                rule(MESSAGES, IP, limit=1, burst=1, on_excess=on_excess, name="other"),
            )
        ):
            gate = Gate(*order)
            meter = gate.meter()
            assert messages(meter, 2) == [PASS, {OnExcess.DROP: DROP, OnExcess.CLOSE: CLOSE}[on_excess]]
            assert gate.meter(beside(IP)).charge(TEXT, 5, NOW + 1) is PASS  # nobody stands in line

    def test_a_frame_that_waited_may_be_dropped_in_the_end(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, name="delay"),
            rule(MESSAGES, IP, limit=0.125, burst=2, name="drop"),
        )
        meter = gate.meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert gate.meter(beside(USER)).charge(TEXT, 5, NOW) is PASS  # takes the last token of the address
        assert meter.charge(TEXT, 5, NOW + 1) is DROP
        assert gate.meter(beside(IP)).charge(TEXT, 5, NOW + 1) is PASS

    def test_who_leaves_while_waiting_leaves_the_line_too(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY))
        ann, other = gate.meters(), gate.meter()
        assert ann.inward is not None
        assert messages(ann.inward, 2) == [PASS, HOLD]
        ann.release(gate.store, NOW)
        assert ann.inward.charge(TEXT, 5, NOW) is HOLD  # a tunnel that ends may still ask
        assert other.charge(TEXT, 5, NOW + 1) is PASS
        assert ann.inward.charge(TEXT, 5, NOW + 2) is PASS
        other.release(gate.store, NOW + 2)
        gate.store.sweep(NOW + 10)
        assert len(gate.store) == 0

    def test_in_shadow_it_is_counted_what_would_have_waited(self) -> None:
        gate = Gate(rule(BYTES, USER, limit=8, burst=16, on_excess=OnExcess.DELAY, max_delay=1.0, shadow=True))
        meter = gate.meter()
        assert [meter.charge(TEXT, size, NOW) for size in (12, 10, 13, 17)] == [PASS] * 4
        assert dict(gate.rules.frame_rules[0].totals()) == {"delay": 1, "close": 2}

    def test_a_clock_that_steps_back_makes_nobody_wait_for_ever(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert meter.charge(TEXT, 5, NOW - 100) is HOLD
        assert meter.hold_until == NOW - 99
        assert meter.charge(TEXT, 5, NOW - 99) is PASS


class TestDirection:
    def test_each_way_has_a_meter_of_its_own_or_none(self) -> None:
        rules = (
            rule(MESSAGES, USER, limit=1, name="in"),
            rule(MESSAGES, USER, limit=1, burst=2, name="out", direction=Direction.OUT),
            rule(BYTES, USER, limit=8, name="bytes", direction=Direction.OUT, on_excess=OnExcess.DELAY),
        )
        inward, outward = Gate(*rules).meters()
        assert inward is not None
        assert outward is not None
        assert messages(inward, 2) == [PASS, DROP]
        assert messages(outward, 3, length=4) == [PASS, PASS, DROP]
        assert Gate(rules[0]).meters().outward is None
        assert Gate(rules[1]).meters().inward is None

    def test_what_a_client_is_told_of_its_server_does_not_blame_the_client(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, direction=Direction.OUT))
        outward = gate.meters().outward
        assert outward is not None
        assert outward.charge(TEXT, 5, NOW) is DROP
        [drops] = outward.take_drops()
        assert drops.excess(NOW).text == "messages of the server come too fast"

    def test_where_a_missing_message_would_garble_the_next_a_drop_closes(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=1, name="messages", direction=Direction.OUT),
            rule(BYTES, USER, limit=100, name="bytes", direction=Direction.OUT, on_excess=OnExcess.DROP),
        )
        outward = gate.meters().outward
        assert outward is not None
        outward.can_drop = False
        assert outward.charge(TEXT, 99, NOW) is PASS
        assert outward.charge(PING, 5, NOW) is DROP  # it is not compressed
        assert outward.charge(TEXT, 0, NOW) is CLOSE
        assert outward.closing is not None
        assert outward.closing.rule.name == "messages"


class TestCloseAfter:
    def test_the_last_of_so_many_breaches_within_the_time_closes(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, close_after=CloseAfter(3, 10.0)))
        meter = gate.meter()
        assert [meter.charge(TEXT, 5, NOW + at) for at in (0, 5, 10.5, 14, 20.75, 24)] == [DROP, DROP, DROP, CLOSE, DROP, CLOSE]
        assert gate.totals() == {"rule": (4, 2)}
        assert meter.closing is not None
        assert meter.closing.rule.code == "message_rate_limit_exceeded"

    def test_a_connection_answers_for_its_own_breaches(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, close_after=CloseAfter(2, 10.0)))
        assert [gate.meter().charge(TEXT, 5, NOW) for _ in range(3)] == [DROP] * 3

    def test_it_counts_what_another_rule_dropped_first(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=0, name="first"),
            rule(MESSAGE_SIZE, CONNECTION, limit=1, name="second", on_excess=OnExcess.DROP, close_after=CloseAfter(3, 10.0)),
        )
        assert messages(gate.meter(), 3) == [DROP, DROP, CLOSE]
        assert gate.totals() == {"first": (2, 0), "second": (0, 1)}

    def test_in_shadow_it_is_counted_what_would_have_closed(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, close_after=CloseAfter(3, 10.0), shadow=True))
        assert messages(gate.meter(), 3) == [PASS] * 3
        assert gate.totals() == {"rule": (2, 1)}

    def test_its_memory_is_bounded(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, close_after=CloseAfter(5, 1.0)))
        meter = gate.meter()
        assert [meter.charge(TEXT, 5, NOW + at) for at in range(100)] == [DROP] * 100
        [account] = meter.accounts
        assert account.breaches is not None
        assert len(account.breaches) == 5


async def barred(gate: Gate, who: Principal, now: float = NOW) -> Denial | None:
    """What the store says to this principal's next upgrade, where it says no."""
    rules, claims = AdmissionRules([one.rule for one in gate.rules.frame_rules], IDENTIFIER).claims(who)
    assert [one.code for one in rules] == ["penalized"] * len(claims)
    [answer] = await gate.store.admit([claims], now)
    return answer if isinstance(answer, Denial) else None


class TestPenalty:
    async def test_a_client_that_was_closed_for_a_breach_stays_out_for_so_long(self) -> None:
        gate = Gate(rule(MESSAGES, IP, limit=1, on_excess=OnExcess.CLOSE, penalty=30.0))
        meters = gate.meters()
        assert meters.inward is not None
        assert messages(meters.inward, 2) == [PASS, CLOSE]
        assert await barred(gate, ANN) is None  # until its tunnel ends
        assert meters.inward.closing is not None
        assert meters.inward.closing.retry_after == 30
        meters.penalize(gate.store, NOW)
        assert await barred(gate, beside(IP, ROOM, CONNECTION), NOW + 29) == Denial(0, 1.0, ())  # the user, wherever
        assert await barred(gate, beside(USER)) is None
        assert await barred(gate, ANN, NOW + 30) is None

    def test_a_shadow_claims_nothing_of_an_upgrade(self) -> None:
        one = rule(MESSAGES, IP, on_excess=OnExcess.CLOSE, penalty=30.0, shadow=True)
        assert AdmissionRules([one, rule(MESSAGES, IP)], IDENTIFIER).claims(ANN) == ([], [])

    async def test_one_who_is_not_known_stays_out_by_address(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=0, on_excess=OnExcess.CLOSE, penalty=30.0))
        stranger = replace(ANN, user=b"of this connection", anonymous=True)
        meters = gate.meters(stranger)
        assert meters.inward is not None
        assert messages(meters.inward, 1) == [CLOSE]
        meters.penalize(gate.store, NOW)
        again = replace(stranger, user=b"of another connection", connection=b"2")
        assert await barred(gate, again) == Denial(0, 30.0, ())
        assert await barred(gate, beside(IP, who=again)) is None
        assert await barred(gate, ANN) is None  # from the same address, and known

    @pytest.mark.parametrize("how", ["drop", "delay", "shadow", "no breach"])
    async def test_nothing_but_a_close_brings_one(self, how: str) -> None:
        close_after = CloseAfter(2, 1.0) if how == "drop" else None
        on_excess = {"drop": OnExcess.DROP, "delay": OnExcess.DELAY}.get(how, OnExcess.CLOSE)
        gate = Gate(rule(MESSAGES, USER, limit=1, on_excess=on_excess, penalty=30.0, shadow=how == "shadow", close_after=close_after))
        meters = gate.meters()
        assert meters.inward is not None
        messages(meters.inward, 1 if how == "no breach" else 2)
        meters.penalize(gate.store, NOW)
        assert await barred(gate, ANN) is None

    async def test_the_last_breach_of_a_rule_that_drops_does(self) -> None:
        gate = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=1, on_excess=OnExcess.DROP, penalty=30.0, close_after=CloseAfter(2, 1.0)))
        meters = gate.meters()
        assert meters.inward is not None
        assert messages(meters.inward, 2) == [DROP, CLOSE]
        assert meters.inward.closing is not None
        assert meters.inward.closing.retry_after == 30
        meters.penalize(gate.store, NOW)
        assert await barred(gate, ANN, NOW + 1) == Denial(0, 29.0, ())


class TestMayDrop:
    @pytest.mark.parametrize(
        ("one", "may"),
        [
            (rule(MESSAGES, USER), True),
            (rule(MESSAGE_SIZE, CONNECTION, on_excess=OnExcess.DROP), True),
            (rule(MESSAGE_SIZE, CONNECTION), False),
            (rule(MESSAGES, USER, on_excess=OnExcess.CLOSE), False),
            (rule(BYTES, USER, on_excess=OnExcess.DROP), True),
            (rule(BYTES, USER), False),
            (rule(CONTROL_FRAMES, USER, on_excess=OnExcess.DROP), False),  # they are not compressed
            (rule(FRAGMENTS, CONNECTION), False),
            (rule(MESSAGES, USER, shadow=True), False),
            (rule(MESSAGES, USER, when=When(anonymous=True)), False),
            (rule(CONNECTIONS, USER), False),
        ],
    )
    def test_tells_whether_a_message_of_this_principal_could_vanish(self, one: Rule, may: bool) -> None:
        assert MeterRules([one], IDENTIFIER).may_drop(ANN) is may
        assert not MeterRules([one], IDENTIFIER).may_drop(ANN, Direction.OUT)
        out = MeterRules([replace(one, direction=Direction.OUT)], IDENTIFIER)
        assert out.may_drop(ANN, Direction.OUT) is may
        assert not out.may_drop(ANN)


MASK = b"\x01\x02\x03\x04"


class TestBehindAWalker:
    def test_mistake_a_drop_that_forwards_an_empty_message(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1)).meter()
        walker = FrameWalker(masked=True, judge=meter.charge)
        hello = build_frame(Opcode.TEXT, b"hello", MASK)
        assert [walker.receive_data(hello, NOW) for _ in range(3)] == [hello, b"", b""]

    def test_a_fragmented_message_over_the_rate_is_dropped_whole(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1), rule(MESSAGE_SIZE, CONNECTION, limit=10, name="size")).meter()
        walker = FrameWalker(masked=True, judge=meter.charge)
        hello = build_frame(Opcode.TEXT, b"hello", MASK)
        fragments = b"\x01\x86" + MASK + b"abcdef" + build_frame(Opcode.PING, b"!", MASK) + b"\x80\x86" + MASK + b"ghijkl"
        assert walker.receive_data(hello + fragments, NOW) == hello + build_frame(Opcode.PING, b"!", MASK)
        assert walker.halt is None  # twelve bytes, but not of a message that went on
        assert walker.receive_data(hello, NOW + 1) == hello

    def test_the_frame_that_makes_a_message_too_large_is_not_forwarded(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=10)).meter()
        walker = FrameWalker(masked=True, judge=meter.charge)
        first = b"\x01\x86" + MASK + b"abcdef"
        assert walker.receive_data(first + b"\x80\x86" + MASK + b"ghijkl", NOW) == first
        assert walker.halt is CLOSE
        assert meter.closing is not None


frames = st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 6)), max_size=40)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=2),
    rates=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.booleans()), max_size=3),
    stream=frames,
)
@settings(max_examples=300, deadline=None)
def test_any_stream_agrees_with_a_slow_model(
    sizes: list[tuple[int, bool]], rates: list[tuple[int, int, bool]], stream: list[tuple[int, bool, int]]
) -> None:
    """Messages of one or many fragments against levels in fractions and a list of sizes; a close ends it."""
    ways = {True: OnExcess.CLOSE, False: OnExcess.DROP}
    rules = [
        rule(MESSAGE_SIZE, CONNECTION, limit=limit, name=f"size {i}", on_excess=ways[closes]) for i, (limit, closes) in enumerate(sizes)
    ]
    rules += [
        rule(MESSAGES, USER, limit=rate, burst=burst, name=f"rate {i}", on_excess=ways[closes])
        for i, (rate, burst, closes) in enumerate(rates)
    ]
    if not rules:
        return
    meter = Gate(*rules).meter()
    levels = [Fraction(burst if rate else 0) for rate, burst, _ in rates]
    now = Fraction(NOW)
    size = 0
    passing = False
    for length, more, quarters in stream:
        for i, (rate, burst, _) in enumerate(rates):
            levels[i] = min(Fraction(burst if rate else 0), levels[i] + Fraction(quarters, 4) * rate)
        now += Fraction(quarters, 4)
        if passing:
            size += length
            broken = [True for limit, _ in sizes if size > limit]
            verdict = meter.charge(MIDDLE if more else CONTINUATION, length, float(now))
            passing = more
        else:
            broken = [closes for limit, closes in sizes if length > limit]
            broken += [closes for level, (_, _, closes) in zip(levels, rates, strict=True) if level < 1]
            if not broken:
                levels = [level - 1 for level in levels]
                size = length
                passing = more
            verdict = meter.charge(FIRST if more else TEXT, length, float(now))
        assert verdict is (CLOSE if any(broken) else DROP if broken else PASS)
        if verdict is CLOSE:
            return


class AskedStore(MemoryStore):
    """A store whose shared buckets are asked for, and that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[LeasedBucket] = []
        self.shared: set[bytes] = set()
        self.instances = 1
        self.away_since = inf

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        self.asked.append(bucket)
        bucket.asked(now + DEADLINE, now + DEADLINE, now)

    def late(self, bucket: LeasedBucket, now: float) -> None:
        bucket.go_alone(now)

    def open_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        self.shared.add(key)
        return LeasedBucket(key, rate, burst, self)

    def open_own_bucket(self, key: bytes, rate: float, burst: float, now: float) -> TokenBucket:
        return super().open_bucket(key, rate, burst, now)

    def close_bucket(self, key: bytes, bucket: TokenBucket) -> None:
        pass


DEADLINE = 0.25  # seconds


def asking(*rules: Rule) -> tuple[Gate, AskedStore, Meter]:
    gate, store = Gate(*rules), AskedStore()
    gate.store = store
    return gate, store, gate.meter()


class TestTokensThatAreAskedFor:
    """A store may have to be asked for tokens: until it has answered, a frame is neither passed nor refused."""

    @pytest.mark.parametrize("on_excess", [OnExcess.DROP, OnExcess.CLOSE, OnExcess.DELAY])
    def test_a_frame_waits_for_the_answer_and_is_asked_about_when_it_comes(self, on_excess: OnExcess) -> None:
        gate, store, meter = asking(rule(MESSAGES, USER, limit=1, burst=2, on_excess=on_excess))
        woken: list[str] = []
        assert messages(meter, 1) == [Verdict.HOLD]
        assert meter.hold_until > NOW
        meter.call_when_known(lambda: woken.append("now"))
        store.asked[0].own(2.0, b"1", NOW)
        assert woken == ["now"]
        assert messages(meter, 1) == [PASS]
        assert store.asked == [store.asked[0]]
        assert gate.rules.frame_rules[0].delays == 0  # to wait for an answer is no breach

    def test_a_refusal_is_final_once_the_answer_is_there(self) -> None:
        _, store, meter = asking(rule(MESSAGES, USER, limit=1, burst=2, on_excess=OnExcess.DROP))
        assert messages(meter, 1) == [Verdict.HOLD]
        store.asked[0].lease(1.0, 1.0, NOW, NOW)
        assert messages(meter, 3) == [PASS, DROP, DROP]
        assert len(store.asked) == 1

    def test_no_frame_waits_longer_than_the_deadline(self) -> None:
        _, _, meter = asking(rule(MESSAGES, USER, limit=1, burst=2, on_excess=OnExcess.DROP))
        assert messages(meter, 1) == [Verdict.HOLD]
        assert meter.hold_until == NOW + DEADLINE
        assert messages(meter, 2, NOW + DEADLINE) == [PASS, DROP]

    def test_all_rules_are_asked_at_once_and_charged_together(self) -> None:
        _, store, meter = asking(rule(MESSAGES, USER, limit=1, burst=2, name="a"), rule(BYTES, IP, limit=100, burst=100, name="b"))
        assert messages(meter, 1, length=60) == [Verdict.HOLD]
        first, second = store.asked
        first.own(2.0, b"1", NOW)
        assert messages(meter, 1, length=60) == [Verdict.HOLD]
        assert first.level == 2.0
        second.own(100.0, b"1", NOW)
        assert messages(meter, 1, length=60) == [PASS]
        assert (first.level, second.level) == (1.0, 40.0)

    def test_what_is_refused_anyway_does_not_wait(self) -> None:
        _, _, meter = asking(rule(MESSAGES, USER, limit=1), rule(MESSAGE_SIZE, CONNECTION, limit=5, name="size"))
        assert messages(meter, 1, length=6) == [CLOSE]

    def test_a_shadow_rule_holds_nothing_and_counts_nothing_that_it_does_not_know(self) -> None:
        gate, store, meter = asking(replace(rule(MESSAGES, USER, limit=1, burst=1), mode=Mode.SHADOW))
        assert messages(meter, 2) == [PASS, PASS]
        assert set(gate.totals().values()) == {(0, 0)}
        store.asked[0].lease(1.0, 1.0, NOW, NOW)
        assert messages(meter, 2) == [PASS, PASS]
        assert set(gate.totals().values()) == {(1, 0)}

    def test_what_nobody_else_can_have_is_not_asked_for(self) -> None:
        anonymous = replace(ANN, anonymous=True)
        _, store, _ = asking(rule(MESSAGES, CONNECTION, limit=1, name="a"))
        assert store.shared == set()
        mine = Gate(rule(MESSAGES, USER, limit=1, name="b"))
        mine.store = store
        mine.meter(anonymous)
        assert store.shared == set()
        mine.meter(ANN)
        assert len(store.shared) == 1


# --- corners that mutants showed ------------------------------------------------------------------------------------------------


def buckets(meter: Meter) -> list[TokenBucket]:
    return [one.bucket for one in meter.accounts if one.bucket is not None]


class TestWaiting:
    """A frame that waits: in which lines, until when, and what it costs when it passes."""

    def test_the_time_to_ask_again_is_that_of_the_tokens_on_a_clock_that_begins_at_0(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=2, burst=1, on_excess=OnExcess.DELAY)).meter(now=0.0)
        assert messages(meter, 2, now=0.0) == [PASS, HOLD]
        assert meter.hold_until == 0.5

    def test_a_meter_without_a_source_of_tickets_has_one_of_its_own(self) -> None:
        delays = FrameRule(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY), 0)
        assert messages(Meter([Account(delays, b"", TokenBucket(1, 1, NOW))]), 2) == [PASS, HOLD]

    def test_connections_stand_in_line_behind_each_other_towards_the_client_too(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, direction=Direction.OUT))
        meters = [gate.meters().outward, gate.meters(beside(CONNECTION)).outward]
        assert meters[0] is not None
        assert meters[1] is not None
        assert messages(meters[0], 2) == [PASS, HOLD]
        assert messages(meters[1], 1) == [HOLD]
        assert (meters[0].hold_until, meters[1].hold_until) == (NOW + 1, NOW + 2)

    def test_who_wakes_late_leaves_the_line(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=3, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 4) == [PASS, PASS, PASS, HOLD]
        assert messages(meter, 4, now=NOW + 5) == [PASS, PASS, PASS, HOLD]

    def test_a_rule_that_does_not_delay_keeps_nobody_out_of_a_line(self) -> None:
        meter = Gate(rule(MESSAGE_SIZE, CONNECTION, limit=100), rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert [bucket.owed for bucket in buckets(meter)] == [1.0]

    def test_it_may_wait_as_long_as_was_said_and_a_little_more_from_when_it_came(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, max_delay=2.0)).meter()
        [bucket] = buckets(meter)
        assert messages(meter, 2) == [PASS, HOLD]
        bucket.level -= 1  # somebody was served first
        assert messages(meter, 1, now=NOW + 1) == [HOLD]
        assert meter.hold_until == NOW + 2
        bucket.level -= 1
        assert messages(meter, 1, now=NOW + 2) == [CLOSE]

    def test_bytes_that_waited_are_charged(self) -> None:
        meter = Gate(rule(BYTES, USER, limit=4, burst=4)).meter()
        assert messages(meter, 2, length=4) == [PASS, HOLD]
        assert messages(meter, 2, now=NOW + 1, length=4) == [PASS, HOLD]
        assert meter.hold_until == NOW + 2

    def test_what_waited_counts_for_shadow_rules_when_it_passes(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY),
            rule(BYTES, USER, limit=0, name="shadow", on_excess=OnExcess.DROP, shadow=True),
        )
        meter = gate.meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, now=NOW + 1) == [PASS]
        assert gate.totals()["shadow"] == (2, 0)

    def test_a_rule_for_which_it_did_not_wait_is_charged_now(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY),
            rule(MESSAGES, IP, limit=8, burst=2, name="ip"),
        )
        meter = gate.meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, now=NOW + 1.125) == [PASS]
        assert [(bucket.level, bucket.stamp) for bucket in buckets(meter)] == [(0.0, NOW + 1), (1.0, NOW + 1.125)]

    def test_a_rule_that_would_have_delayed_it_and_did_not_is_charged_when_its_tokens_were_there(self) -> None:
        gate = Gate(
            rule(MESSAGES, USER, limit=64, burst=1, on_excess=OnExcess.DELAY),
            rule(MESSAGES, IP, limit=32, burst=2, on_excess=OnExcess.DELAY, name="ip"),
        )
        meter = gate.meter()
        assert messages(meter, 2) == [PASS, HOLD]  # for the user's, until 1/64
        assert messages(gate.meter(beside(USER)), 1) == [PASS]  # the last of the address, which has the next one at 2/64
        assert messages(meter, 1, now=NOW + 4 / 64) == [PASS]
        assert [(bucket.level, bucket.stamp) for bucket in buckets(meter)] == [(0.0, NOW + 1 / 64), (0.0, NOW + 2 / 64)]

    def test_what_is_due_in_just_the_time_of_a_rounding_is_not_waited_for(self) -> None:
        early = (NOW + EARLY) - NOW  # in steps that `NOW` has too
        gate = Gate(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY),
            rule(MESSAGES, IP, limit=1, burst=1, on_excess=OnExcess.DELAY, name="ip"),
        )
        meter = gate.meter()
        early_one, other = buckets(meter)
        early_one.level, other.level = 1.0 - early, 0.0
        assert messages(meter, 1) == [HOLD]
        assert (early_one.owed, other.owed) == (0.0, 1.0)  # it stands in one line
        meter.give_up(NOW)
        other.level = 1.0
        assert messages(meter, 1) == [PASS]

    def test_who_is_held_for_an_answer_stands_in_no_line_of_that_rule(self) -> None:
        _, _, meter = asking(
            rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DROP),
            rule(MESSAGES, CONNECTION, limit=1, burst=1, on_excess=OnExcess.DELAY, name="own"),
        )
        asked, own = buckets(meter)
        own.level = 0.0
        assert messages(meter, 1) == [HOLD]
        assert asked.is_asking
        assert (asked.owed, own.owed) == (0.0, 1.0)

    def test_in_shadow_a_wait_of_just_the_longest_is_no_close(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, burst=1, on_excess=OnExcess.DELAY, max_delay=1.0, shadow=True))
        assert messages(gate.meter(), 2) == [PASS, PASS]
        [one] = gate.rules.frame_rules
        assert list(one.totals()) == [("delay", 1), ("close", 0)]


class TestEnds:
    def test_totals_are_told_by_what_a_rule_does(self) -> None:
        for on_excess, word in ((OnExcess.DROP, "drop"), (OnExcess.DELAY, "delay"), (OnExcess.CLOSE, "drop")):
            one = FrameRule(rule(MESSAGES, USER, limit=1, on_excess=on_excess), 3)
            assert list(one.totals()) == [(word, 0), ("close", 0)]
            assert one.order == 3

    def test_rules_know_their_place_in_the_file(self) -> None:
        gate = Gate(rule(CONNECTIONS, USER), rule(MESSAGES, USER, limit=1), rule(BYTES, USER, limit=1))
        assert [one.order for one in gate.rules.frame_rules] == [1, 2]

    @pytest.mark.parametrize("first", [TEXT, BINARY])
    def test_where_nothing_may_be_missing_a_drop_closes_whatever_the_message(self, first: int) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1)).meter()
        meter.can_drop = False
        assert [meter.charge(first, 1, NOW) for _ in range(2)] == [PASS, CLOSE]

    @pytest.mark.parametrize(("penalty", "wait"), [(2.0, 64.0), (90.0, 90.0)])
    def test_who_is_kept_out_waits_for_the_later_of_tokens_and_penalty(self, penalty: float, wait: float) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=1 / 64, burst=1, on_excess=OnExcess.CLOSE, penalty=penalty)).meter()
        assert messages(meter, 2) == [PASS, CLOSE]
        assert meter.closing is not None
        assert meter.closing.retry_after == wait

    def test_without_a_penalty_nobody_is_kept_out(self) -> None:
        gate = Gate(rule(MESSAGES, USER, limit=1, on_excess=OnExcess.CLOSE))
        meter = gate.meter()
        assert meter.penalty_key is None
        assert messages(meter, 2) == [PASS, CLOSE]
        assert meter.penalty_key is None
        known = len(gate.store)
        meter.penalize(gate.store, NOW)
        assert len(gate.store) == known


class TestCosts:
    @pytest.mark.parametrize(
        ("quantity", "opcode", "cost"),
        [
            (MESSAGES, Opcode.CONTINUATION, 0),
            (MESSAGES, Opcode.TEXT, 1),
            (MESSAGES, Opcode.BINARY, 1),
            (MESSAGES, Opcode.CLOSE, 0),
            (MESSAGES, Opcode.PING, 0),
            (CONTROL_FRAMES, Opcode.CONTINUATION, 0),
            (CONTROL_FRAMES, Opcode.TEXT, 0),
            (CONTROL_FRAMES, Opcode.BINARY, 0),
            (CONTROL_FRAMES, Opcode.CLOSE, 1),
            (CONTROL_FRAMES, Opcode.PONG, 1),
            (BYTES, Opcode.CONTINUATION, 7),
            (BYTES, Opcode.PING, 7),
        ],
    )
    def test_a_frame_costs_what_the_rule_is_about(self, quantity: Quantity, opcode: Opcode, cost: float) -> None:
        assert FrameRule(rule(quantity, USER, limit=1), 0).cost(opcode, 7) == cost


class TestPlan:
    @pytest.mark.parametrize(
        ("one", "is_plain"),
        [
            (rule(MESSAGES, USER), True),
            (rule(MESSAGE_SIZE, CONNECTION), True),
            (rule(CONTROL_FRAMES, USER), True),  # it is about no first frame
            (rule(BYTES, USER, on_excess=OnExcess.DROP), False),
            (rule(MESSAGES, USER, on_excess=OnExcess.DELAY), False),
            (rule(MESSAGES, USER, shadow=True), False),
        ],
    )
    def test_is_plain_where_a_first_frame_can_only_be_one_too_many_or_too_large(self, one: Rule, is_plain: bool) -> None:
        assert Plan.of([FrameRule(one, 0)]).is_plain is is_plain

    def test_names_the_places_of_the_rules_and_the_smallest_limits(self) -> None:
        rules = (
            rule(BYTES, USER),
            rule(MESSAGES, USER, shadow=True),
            rule(MESSAGES, IP),
            rule(CONTROL_FRAMES, USER),
            rule(FRAGMENTS, CONNECTION, limit=3),
            rule(MESSAGE_SIZE, CONNECTION, limit=20),
            rule(MESSAGE_SIZE, ROUTE, limit=10),
        )
        plan = Plan.of([FrameRule(one, order) for order, one in enumerate(rules)])
        assert plan == Plan((0, 2, 3, 4, 5, 6), (1,), (2,), (3,), (0,), False, 10, 3)
        assert Plan.of([]) == Plan((), (), (), (), (), True, NO_LIMIT, NO_LIMIT)


class TestBesideBytes:
    """A rule of bytes is about every frame, so that none takes the short way; what else is counted must come to the same."""

    PLENTY = rule(BYTES, USER, limit=1e6, name="bytes")

    def test_binary_messages_are_messages(self) -> None:
        meter = Gate(self.PLENTY, rule(MESSAGES, USER, limit=1, burst=2)).meter()
        assert [meter.charge(BINARY, 1, NOW) for _ in range(3)] == [PASS, PASS, DROP]

    def test_binary_messages_are_no_control_frames(self) -> None:
        meter = Gate(self.PLENTY, rule(CONTROL_FRAMES, USER, limit=1)).meter()
        assert [meter.charge(first, 1, NOW) for first in (BINARY, BINARY, PING, PING)] == [PASS, PASS, PASS, CLOSE]

    @pytest.mark.parametrize("first", [0x01, 0x02])
    def test_the_size_of_a_message_is_that_of_all_its_fragments(self, first: int) -> None:
        meter = Gate(self.PLENTY, rule(MESSAGE_SIZE, CONNECTION, limit=100)).meter()
        assert [meter.charge(one, 50, NOW) for one in (first, MIDDLE, MIDDLE)] == [PASS, PASS, CLOSE]

    def test_fragments_are_counted_from_the_first(self) -> None:
        meter = Gate(self.PLENTY, rule(FRAGMENTS, CONNECTION, limit=3)).meter()
        assert [meter.charge(one, 1, NOW) for one in (FIRST, MIDDLE, PING, MIDDLE, MIDDLE)] == [PASS, PASS, PASS, PASS, CLOSE]

    def test_control_frames_are_no_fragments(self) -> None:
        meter = Gate(self.PLENTY, rule(FRAGMENTS, CONNECTION, limit=0), rule(CONTROL_FRAMES, USER, limit=5, name="control")).meter()
        assert [meter.charge(one, 1, NOW) for one in (PING, TEXT)] == [PASS, CLOSE]
        assert [meter.charge(PING, 1, NOW) for _ in range(5)] == [PASS, PASS, PASS, PASS, CLOSE]

    def test_a_message_that_is_too_large_does_not_wait_for_its_bytes(self) -> None:
        bytes_wait = rule(BYTES, USER, limit=10, on_excess=OnExcess.DELAY, name="bytes")
        meter = Gate(bytes_wait, rule(MESSAGE_SIZE, CONNECTION, limit=5, name="size")).meter()
        assert meter.charge(TEXT, 6, NOW) is CLOSE


class TestShadowsOfOneMessage:
    @pytest.mark.parametrize("first", [0x01, 0x02])
    def test_what_one_would_have_stopped_is_counted_by_the_others_all_the_same(self, first: int) -> None:
        gate = Gate(
            rule(MESSAGE_SIZE, CONNECTION, limit=5, shadow=True, name="size"),
            rule(FRAGMENTS, CONNECTION, limit=1, shadow=True, name="fragments"),
        )
        meter = gate.meter()
        assert [meter.charge(one, 10, NOW) for one in (first, MIDDLE, MIDDLE)] == [PASS] * 3
        assert gate.totals() == {"size": (0, 1), "fragments": (0, 1)}


class TestLines:
    """Who stands in lines with others, and who does not."""

    ONE_A_SECOND = rule(MESSAGES, GLOBAL, limit=1, burst=1, on_excess=OnExcess.DELAY)

    def waiting(self, *more: Rule) -> tuple[Meter, Meter, list[str]]:
        """Two that wait, one behind the other, and what the second hears."""
        gate = Gate(self.ONE_A_SECOND, *more)
        first, second, third = (gate.meter(beside(one)) for one in (USER, IP, CONNECTION))
        assert [messages(one, 1) for one in (third, first, second)] == [[PASS], [HOLD], [HOLD]]
        woken: list[str] = []
        second.call_when_known(lambda: woken.append("second"))
        return first, second, woken

    def test_who_gives_up_makes_those_behind_the_sooner(self) -> None:
        first, second, woken = self.waiting()
        first.give_up(NOW)
        assert woken == ["second"]
        assert messages(second, 1, NOW + 1) == [PASS]

    def test_who_is_closed_makes_those_behind_the_sooner(self) -> None:
        first, second, woken = self.waiting(rule(MESSAGE_SIZE, CONNECTION, limit=20, name="size"))
        assert messages(first, 1, NOW, length=21) == [CLOSE]
        assert woken == ["second"]
        assert messages(second, 1, NOW + 1) == [PASS]

    def test_a_rule_without_tokens_has_nothing_to_tell(self) -> None:
        _, second, _ = self.waiting(rule(MESSAGE_SIZE, CONNECTION, limit=20, name="size"))
        second.call_when_known(lambda: None)
        assert second.hold_until == NOW + 2

    def test_whom_half_a_moment_would_be_gained_is_left_asleep(self) -> None:
        held, woken = Held(1, NOW), []
        held.until = NOW + 1
        bucket = TokenBucket(1, 1, NOW)
        held.join(bucket, 1)
        held.wake = lambda: woken.append("now")
        assert bucket.line is not None
        hear = bucket.line[0][2]
        assert hear is not None
        hear(held.until - SOONER)
        assert woken == []
        hear(held.until - SOONER * 1.01)
        assert woken == ["now"]

    def test_who_stands_in_no_line_leaves_none(self) -> None:
        assert Held(1, NOW).leave(TokenBucket(1, 1, NOW)) is False

    def test_a_frame_that_only_waits_for_an_answer_takes_no_place(self) -> None:
        bucket = AskedStore().open_bucket(b"key", 1, 2, NOW)
        tickets = count()
        meter = Meter([Account(FrameRule(rule(MESSAGES, USER), 0), b"key", bucket)], tickets)
        assert messages(meter, 1) == [HOLD]
        assert next(tickets) == 0


class TestLateOnce:
    def test_who_was_late_once_is_not_late_for_ever(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=100, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert [messages(meter, 1, at) for at in (NOW, NOW)] == [[PASS], [HOLD]]
        assert messages(meter, 1, NOW + 0.02) == [PASS]  # 10 ms late
        assert messages(meter, 1, NOW + 1) == [PASS]
        assert messages(meter, 2, NOW + 1.05) == [PASS, HOLD]

    def test_who_found_all_tokens_there_is_not_late_any_more(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=128, burst=2, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 3) == [PASS, PASS, HOLD]
        assert messages(meter, 1, NOW + 2 / 128) == [PASS]  # 1/128 late
        assert messages(meter, 1, NOW + 6 / 128) == [PASS]  # which the full bucket is spared
        assert messages(meter, 3, NOW + 12 / 128) == [PASS, PASS, HOLD]  # and not again

    def test_who_was_late_an_eighth_of_a_second_ago_is_spared_it_still(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=128, burst=1, on_excess=OnExcess.DELAY)).meter()
        assert messages(meter, 2) == [PASS, HOLD]
        assert messages(meter, 1, NOW + 2 / 128) == [PASS]  # 1/128 late
        assert messages(meter, 3, NOW + 2 / 128 + LATE) == [PASS, PASS, HOLD]

    def test_nobody_is_late_when_a_clock_begins(self) -> None:
        meter = Gate(rule(MESSAGES, USER, limit=100, burst=1, on_excess=OnExcess.DELAY)).meter(now=0.0)
        assert messages(meter, 2, 0.05) == [PASS, HOLD]
