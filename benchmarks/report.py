"""From measurements to tables: medians, ratios of one round each, Markdown. Pure; nothing here starts anything."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GATE = "wsgate"
PEERS = ("nginx", "HAProxy")
BEGIN = "<!-- figures: written by `python3 deploy/dev.py bench --doc` -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True)
class Sample:
    """One measurement of one subject in one round."""

    measure: str
    subject: str
    round: int
    value: float


@dataclass(frozen=True)
class Row:
    """A measure, as it is shown."""

    key: str
    title: str
    unit: str


@dataclass(frozen=True)
class Target:
    """At most `factor` times the peer, or without a peer at most `factor` units."""

    measure: str
    peer: str | None
    factor: float
    what: str


TARGETS = (
    Target("round-trip-64-100", "HAProxy", 1.5, "CPU per metered round trip, 100 connections"),
    Target("round-trip-64-1000", "HAProxy", 1.5, "the same, 1,000"),
    Target("round-trip-64-5000", "HAProxy", 1.5, "the same, 5,000"),
    Target("round-trip-64-100", "wsgate, no frame rules", 1.15, "CPU per round trip, metered to unmetered, 100 connections"),
    Target("round-trip-64-1000", "wsgate, no frame rules", 1.15, "the same, 1,000"),
    Target("round-trip-64-5000", "wsgate, no frame rules", 1.15, "the same, 5,000"),
    Target("admitted", "nginx", 3.0, "CPU per admitted upgrade"),
    Target("refused", "nginx", 1.5, "CPU per refused upgrade"),
    Target("idle", None, 6.0, "KiB RSS per idle tunnel"),
)


@dataclass(frozen=True)
class Results:
    """All that one run found. `facts`: the machine and the versions."""

    facts: Mapping[str, str]
    rows: Sequence[Row]
    subjects: Sequence[str]
    samples: Sequence[Sample]
    failures: Sequence[str]

    def values(self, measure: str, subject: str) -> dict[int, float]:
        return {sample.round: sample.value for sample in self.samples if (sample.measure, sample.subject) == (measure, subject)}

    def median(self, measure: str, subject: str) -> float | None:
        values = self.values(measure, subject)
        return statistics.median(values.values()) if values else None

    def ratio(self, measure: str, subject: str, peer: str) -> float | None:
        """The median over the rounds of subject / peer in one round: what drifts from round to round cancels."""
        ours, theirs = self.values(measure, subject), self.values(measure, peer)
        both = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number] > 0]
        return statistics.median(both) if both else None


def to_json(results: Results) -> dict[str, Any]:
    return {
        "facts": dict(results.facts),
        "measures": [vars(row) for row in results.rows],
        "subjects": list(results.subjects),
        "samples": [vars(sample) for sample in results.samples],
        "failures": list(results.failures),
    }


def from_json(data: Mapping[str, Any]) -> Results:
    return Results(
        facts=data["facts"],
        rows=[Row(**row) for row in data["measures"]],
        subjects=data["subjects"],
        samples=[Sample(**sample) for sample in data["samples"]],
        failures=data["failures"],
    )


# --- Markdown -----------------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three figures are what such a measurement is worth."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = [head, ["---", *("---:" for _ in head[1:])], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in text)


def medians_table(results: Results) -> str:
    head = ["median", "unit", *results.subjects]
    lines = [[row.title, row.unit, *(number(results.median(row.key, name)) for name in results.subjects)] for row in results.rows]
    return table(head, lines)


def ratios_table(results: Results) -> str:
    ours = [name for name in results.subjects if name.startswith(GATE)]
    pairs = [(name, peer) for name in ours for peer in PEERS if peer in results.subjects]
    head = ["ratio", *(f"{name} ÷ {peer}" for name, peer in pairs)]
    return table(head, [[row.title, *(number(results.ratio(row.key, *pair)) for pair in pairs)] for row in results.rows])


def reached(results: Results, target: Target) -> float | None:
    if target.peer is None:
        return results.median(target.measure, GATE)
    return results.ratio(target.measure, GATE, target.peer)


def targets_table(results: Results) -> str:
    lines = []
    for target in TARGETS:
        value = reached(results, target)
        verdict = "not measured" if value is None else "met" if value <= target.factor else "**missed**"
        limit = f"≤ {number(target.factor)}" + (f" times {target.peer}" if target.peer else "")
        lines.append([target.what, limit, number(value), verdict])
    return table(["target", "limit", "measured", ""], lines)


def markdown(results: Results) -> str:
    """Everything, for a terminal and for the doc alike."""
    facts = "\n".join(f"- {name}: {value}" for name, value in results.facts.items())
    parts = [targets_table(results), ratios_table(results), medians_table(results), facts]
    if results.failures:
        parts.append("Measurements that failed:\n\n" + "\n".join(f"- {failure}" for failure in results.failures))
    return "\n\n".join(parts) + "\n"


def put_into(document: str, figures: str) -> str:
    """The document with these figures between its two marks. Raises ValueError when it has no marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for figures: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{figures}\n{END}{after}"
