"""What the operator hears of a shared store, line by line."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from proxy.ledger.store import Grant, SeatClaim, StoreState
from proxy.log import Log
from proxy.metrics import StoreTotals
from proxy.server.store_watch import CONFLICT, DEAF, DOWN, EVICTS, HEALING, UP, StoreWatch, over_limit


class Heard:
    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.totals = StoreTotals()
        self.watch = StoreWatch(self.totals, Log(self._stream))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in self._stream.getvalue().splitlines()]

    @property
    def gauges(self) -> tuple[bool, bool]:
        return self.totals.up, self.totals.degraded


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_before_the_first_answer_the_store_is_not_up_and_nothing_is_said(heard: Heard) -> None:
    assert heard.gauges == (True, False)  # no store beyond this process
    heard.watch.begin()
    assert heard.gauges == (False, True)
    assert heard.lines == []


def test_each_change_of_state_is_one_line(heard: Heard) -> None:
    heard.watch.state_changed(StoreState.UP, "")
    assert heard.gauges == (True, False)
    heard.watch.state_changed(StoreState.DOWN, "connection lost")
    heard.watch.state_changed(StoreState.DOWN, "connection refused")
    assert heard.gauges == (False, True)
    heard.watch.state_changed(StoreState.HEALING, "")
    assert heard.gauges == (True, True)
    heard.watch.state_changed(StoreState.UP, "")
    assert heard.lines == [
        {"level": "info", "event": UP},
        {"level": "warning", "event": DOWN, "why": "connection lost"},
        {"level": "warning", "event": HEALING, "why": None},
        {"level": "info", "event": UP},
    ]


def test_a_key_of_others_is_told_once_for_each_rule_and_counted(heard: Heard) -> None:
    for rule in ("a", "a", "b", "", "a"):
        heard.watch.conflict(rule)
    assert [(line["event"], line["rule"]) for line in heard.lines] == [(CONFLICT, "a"), (CONFLICT, "b"), (CONFLICT, None)]
    assert heard.totals.conflicts == {("a",): 3, ("b",): 1, ("",): 1}
    heard.watch.state_changed(StoreState.DOWN, "")
    heard.watch.conflict("a")
    assert heard.lines[-1]["rule"] == "a"


def test_a_store_that_evicts_is_told_once_and_measured_until_it_does_no_more(heard: Heard) -> None:
    heard.watch.memory_policy("", "noeviction")
    assert not heard.totals.may_evict
    heard.watch.memory_policy("", "allkeys-lru")
    heard.watch.memory_policy("", "allkeys-lru")
    assert heard.lines == [{"level": "warning", "event": EVICTS, "policy": "allkeys-lru", "server": None}]
    assert heard.totals.may_evict
    heard.watch.memory_policy("", "noeviction")
    assert not heard.totals.may_evict


def test_of_several_servers_one_that_evicts_is_enough(heard: Heard) -> None:
    for server in ("a:1", "b:1"):
        heard.watch.memory_policy(server, "volatile-ttl")
    assert [line["server"] for line in heard.lines] == ["a:1", "b:1"]
    heard.watch.memory_policy("a:1", "noeviction")
    assert heard.totals.may_evict
    heard.watch.memory_policy("b:1", "noeviction")
    assert not heard.totals.may_evict


def test_that_this_instance_may_not_listen_is_told_once(heard: Heard) -> None:
    for why in ("no", "no", "never"):
        heard.watch.deaf(why)
    assert heard.lines == [{"level": "warning", "event": DEAF, "why": why} for why in ("no", "never")]


def test_durations_are_observed(heard: Heard) -> None:
    heard.watch.answered(0.004)
    family = heard.totals.request_duration.family("x", "x")
    assert {sample.name: sample.value for sample in family.samples}["x_sum"] == 0.004


def seat(rule: str, limit: int, member: bytes | None = None) -> SeatClaim:
    return SeatClaim(rule, rule.encode(), limit, member=member)


def grant(*seats: SeatClaim) -> Grant:
    return Grant(seats, ())


def test_seats_beyond_the_limit_are_counted_with_those_of_others() -> None:
    held = [grant(seat("a", 2), seat("b", 5)) for _ in range(4)]
    assert over_limit(held, lambda _: 0) == {"a": 2}
    assert over_limit(held, lambda key: {b"a": 1, b"b": 2}[key]) == {"a": 3, "b": 1}
    assert over_limit([], lambda _: 9) == {}


def test_connections_of_one_member_are_one_seat() -> None:
    held = [grant(seat("m", 1, member)) for member in (b"x", b"x", b"y")]
    assert over_limit(held, lambda _: 0) == {"m": 1}
