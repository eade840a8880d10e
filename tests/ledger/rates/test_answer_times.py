"""How long answers take: from when on one is late."""

from __future__ import annotations

from proxy.ledger.rates.answer_times import LATE, SOON, WINDOW, AnswerTimes

NOW = 1_000.0


def test_the_first_answer_is_taken_for_a_quick_one() -> None:
    assert AnswerTimes().usual() == SOON


def test_quick_answers_are_late_no_sooner_than_a_moment() -> None:
    times = AnswerTimes()
    times.heard(0.001, NOW)
    assert times.usual() == SOON


def test_the_longest_counts() -> None:
    times = AnswerTimes()
    for seconds in (0.04, 0.06, 0.01):
        times.heard(seconds, NOW)
    assert times.usual() == LATE * 0.06


def test_what_was_long_ago_counts_no_more() -> None:
    times = AnswerTimes()
    times.heard(0.06, NOW)
    times.heard(0.02, NOW + WINDOW + 1)
    assert times.usual() == LATE * 0.06
    times.heard(0.02, NOW + 2 * WINDOW + 2)
    assert times.usual() == LATE * 0.02


def test_silence_is_no_reason_to_forget() -> None:
    times = AnswerTimes()
    times.heard(0.06, NOW)
    times.heard(0.06, NOW + WINDOW)
    assert times.usual() == LATE * 0.06
