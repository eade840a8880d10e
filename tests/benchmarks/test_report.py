"""From samples to tables."""

import json

import pytest

from benchmarks import report
from benchmarks.report import Results, Row, Sample

ROWS = [Row("round-trip-64-100", "round trip", "µs CPU"), Row("idle", "idle tunnel", "KiB RSS")]
SUBJECTS = ["nginx", "wsgate", "HAProxy"]


def results(samples: list[tuple[str, str, list[float]]], failures: list[str] | None = None) -> Results:
    flat = [Sample(key, subject, number, value) for key, subject, values in samples for number, value in enumerate(values)]
    return Results({"machine": "two cores"}, ROWS, SUBJECTS, flat, failures or [])


def test_medians_are_over_the_rounds() -> None:
    found = results([("idle", "wsgate", [5.0, 3.0, 40.0])])
    assert found.median("idle", "wsgate") == 5.0
    assert found.median("idle", "nginx") is None


def test_a_ratio_is_taken_within_each_round_so_that_drift_cancels() -> None:
    """The machine slows down threefold; ours stays twice the peer's."""
    found = results([("idle", "wsgate", [2.0, 4.0, 6.0]), ("idle", "nginx", [1.0, 2.0, 3.0])])
    assert found.ratio("idle", "wsgate", "nginx") == 2.0


def test_rounds_in_which_one_of_the_two_failed_do_not_count() -> None:
    samples = [
        Sample("idle", "wsgate", 0, 9.0),
        Sample("idle", "wsgate", 1, 4.0),
        Sample("idle", "nginx", 1, 2.0),
        Sample("idle", "nginx", 2, 7.0),
    ]
    assert Results({}, ROWS, SUBJECTS, samples, []).ratio("idle", "wsgate", "nginx") == 2.0
    assert Results({}, ROWS, SUBJECTS, samples[:1], []).ratio("idle", "wsgate", "nginx") is None


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (99.94, "99.9"), (9.876, "9.88"), (0.2, "0.20"), (None, "-")])
def test_numbers_are_shown_with_three_figures(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_targets_are_met_or_missed_or_not_measured() -> None:
    found = results(
        [
            ("round-trip-64-100", "wsgate", [12.0]),
            ("round-trip-64-100", "wsgate, no frame rules", [10.0]),
            ("round-trip-64-100", "HAProxy", [8.0]),
            ("idle", "wsgate", [6.5]),
        ],
    )
    lines = report.targets_table(found).splitlines()[2:]
    assert lines == [
        "| CPU per metered round trip, 100 connections | ≤ 1.50 times HAProxy | 1.50 | met |",
        "| the same, 1,000 | ≤ 1.50 times HAProxy | - | not measured |",
        "| the same, 5,000 | ≤ 1.50 times HAProxy | - | not measured |",
        "| CPU per round trip, metered to unmetered, 100 connections | ≤ 1.15 times wsgate, no frame rules | 1.20 | **missed** |",
        "| the same, 1,000 | ≤ 1.15 times wsgate, no frame rules | - | not measured |",
        "| the same, 5,000 | ≤ 1.15 times wsgate, no frame rules | - | not measured |",
        "| CPU per admitted upgrade | ≤ 3.00 times nginx | - | not measured |",
        "| CPU per refused upgrade | ≤ 1.50 times nginx | - | not measured |",
        "| KiB RSS per idle tunnel | ≤ 6.00 | 6.50 | **missed** |",
    ]


def test_every_target_names_a_measure_of_the_full_plan_and_a_subject() -> None:
    from benchmarks.measures import full_plan
    from benchmarks.subjects import SUBJECTS

    assert {target.peer for target in report.TARGETS if target.peer} <= SUBJECTS.keys()
    assert {target.measure for target in report.TARGETS} <= {measure.key for measure in full_plan()}


def test_the_tables_hold_every_subject_and_every_failure() -> None:
    text = report.markdown(results([("idle", "wsgate", [3.0]), ("idle", "nginx", [18.0])], ["HAProxy, round 1: lost 3"]))
    assert "| idle tunnel | KiB RSS | 18.0 | 3.00 | - |" in text
    assert "| idle tunnel | 0.17 | - |" in text
    assert "- HAProxy, round 1: lost 3" in text
    assert "- machine: two cores" in text


def test_results_survive_being_saved() -> None:
    found = results([("idle", "wsgate", [3.0])], ["nginx, round 1: lost 3"])
    assert report.from_json(json.loads(json.dumps(report.to_json(found)))) == found


def test_figures_replace_the_earlier_ones_and_nothing_else() -> None:
    document = f"# Head\n\n{report.BEGIN}\nold\n{report.END}\n\nfoot\n"
    once = report.put_into(document, "new\n")
    assert once == f"# Head\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\nfoot\n"
    assert report.put_into(once, "new\n") == once
    with pytest.raises(ValueError, match="no place for figures"):
        report.put_into("# Head\n", "new\n")
