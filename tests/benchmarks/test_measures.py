"""What a line of the load generator says, and when it says nothing."""

import pytest

from benchmarks import measures
from benchmarks.subjects import BenchmarkError

ANSWER = {
    "sent": 100,
    "echoed": 100,
    "bad": 0,
    "lost": 0,
    "closed_by_server": 0,
    "http": {"101": 10},
    "timed_out": False,
    "cpu_s_per_1m": 9.5,
    "rss_kb_per_conn": 3.25,
    "rtt_us": {"p50": 80.0, "p99": 120.5},
}


def test_cpu_seconds_per_million_are_microseconds_each() -> None:
    assert measures.round_trip(100, 64, 1000).value(ANSWER) == 9.5


def test_one_load_gives_both_latencies() -> None:
    median, worst = measures.paced(10, 20, 1)
    assert median.load == worst.load
    assert (median.value(ANSWER), worst.value(ANSWER)) == (80.0, 120.5)


def test_memory_is_read_per_connection() -> None:
    assert measures.idle(100, 1).value(ANSWER) == 3.25


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ({"bad": 1}, "bad 1"),
        ({"lost": 2}, "lost 2"),
        ({"closed_by_server": 3}, "closed_by_server 3"),
        ({"http": {"101": 9, "502": 1}}, "HTTP 502 1"),
        ({"http": {}}, "no answer with status 101"),
        ({"echoed": 99}, "not echoed 1"),
        ({"timed_out": True}, "timed out"),
        ({"cpu_s_per_1m": 0.0}, "is no measurement"),
    ],
)
def test_a_load_that_did_not_come_through_whole_is_no_measurement(trouble: dict[str, object], told: str) -> None:
    with pytest.raises(BenchmarkError, match=told):
        measures.round_trip(100, 64, 1000).value(ANSWER | trouble)


def test_a_refusal_must_be_refused() -> None:
    _, refused = measures.upgrades(10)
    answer = {"http": {"429": 10}, "timed_out": False, "cpu_s_per_1m": 15.0}
    assert refused.value(answer) == 15.0
    with pytest.raises(BenchmarkError, match="HTTP 101 1"):
        refused.value(answer | {"http": {"429": 9, "101": 1}})


def test_refusals_are_asked_for_on_a_path_that_every_proxy_refuses() -> None:
    admitted, refused = measures.upgrades(10)
    assert "/refused/{i}" in measures.arguments(refused, 8080, 1)
    assert "/refused/{i}" not in measures.arguments(admitted, 8080, 1)


@pytest.mark.parametrize("measure", measures.full_plan())
def test_each_load_is_warmed_up_with_a_small_one_of_its_kind(measure: measures.Measure) -> None:
    warm = measures.warm_up(measure)
    assert warm.status == measure.status
    assert ("handshake" in warm.load) == ("handshake" in measure.load)
    assert ("-g" in warm.load) == ("-g" in measure.load)


def test_keys_name_one_measure_each() -> None:
    for plan in (measures.full_plan(), measures.quick_plan()):
        keys = [measure.key for measure in plan]
        assert len(keys) == len(set(keys))
