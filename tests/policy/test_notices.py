"""One notice a second per rule and connection; `suppressed` counts the rest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.notices import NOTICE_INTERVAL, Notices

NOW = 1000.0


def test_the_interval_is_a_second() -> None:
    assert NOTICE_INTERVAL == 1.0


def test_the_first_drop_is_told_at_once() -> None:
    assert Notices().note("rule", 1, NOW) == 0


def test_of_several_drops_at_once_one_is_told_and_the_rest_is_suppressed() -> None:
    assert Notices().note("rule", 5, NOW) == 4


def test_mistake_one_notice_per_dropped_message() -> None:
    notices = Notices()
    told = [notices.note("rule", 1, NOW + i / 1000) for i in range(3001)]
    assert [(i, count) for i, count in enumerate(told) if count is not None] == [(0, 0), (1000, 999), (2000, 999), (3000, 999)]


def test_a_second_later_to_the_tick_the_next_one_may_go() -> None:
    notices = Notices()
    notices.note("rule", 1, NOW)
    assert notices.note("rule", 1, NOW + 0.999) is None
    assert notices.note("rule", 1, NOW + 1) == 1


def test_each_rule_is_told_of_on_its_own() -> None:
    notices = Notices()
    assert notices.note("a", 1, NOW) == 0
    assert notices.note("b", 1, NOW) == 0
    assert notices.note("a", 2, NOW + 0.5) is None
    assert notices.note("b", 1, NOW + 1) == 0
    assert notices.note("a", 1, NOW + 1) == 2


def test_a_notice_that_could_not_be_sent_counts_as_suppressed() -> None:
    notices = Notices()
    assert notices.note("rule", 3, NOW) == 2
    notices.unsent("rule", 3)
    assert notices.note("rule", 1, NOW + 0.5) is None
    assert notices.note("rule", 1, NOW + 1) == 4


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.integers(0, 8), st.booleans()), max_size=60))
@settings(max_examples=100, deadline=None)
def test_every_drop_is_told_of_once_either_itself_or_as_suppressed(drops: list[tuple[str, int, int, bool]]) -> None:
    notices = Notices()
    now = NOW
    dropped = {"a": 0, "b": 0}
    told = {"a": 0, "b": 0}
    last = {"a": -1.0, "b": -1.0}
    for rule, count, eighths, sent in drops:
        now += eighths / 8
        dropped[rule] += count
        suppressed = notices.note(rule, count, now)
        if suppressed is None:
            continue
        assert now - last[rule] >= NOTICE_INTERVAL
        last[rule] = now
        if sent:
            told[rule] += suppressed + 1
        else:
            notices.unsent(rule, suppressed + 1)
    for rule, count in dropped.items():
        final = notices.note(rule, 1, now + 10)
        assert final is not None
        assert told[rule] + final + 1 == count + 1
