"""Mutants of what stands beside the rooms: the program, its numbers and its log."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

APP = "proxy/app.py"
METRICS = "proxy/metrics.py"
LOG = "proxy/log.py"
UNHANDLED = "proxy/unhandled.py"

COALESCED = ("tests/test_log.py::test_of_each_group_a_few_lines_are_written_and_the_rest_is_counted",)

TOP = (
    # the program and its numbers
    Mutant(
        "codes_of_clients_become_labels",
        METRICS,
        "known = 1000 <= code <= 1014 or code in self.close_codes",
        "known = 1000 <= code <= 4999",
        ("tests/test_metrics.py::test_a_sample_as_prometheus_reads_it",),
    ),
    Mutant(
        "seats_missing_until_somebody_sits",
        APP,
        "seats=lambda: seats | dict(self._store.seats())",
        "seats=lambda: dict(self._store.seats())",
        ("tests/test_metrics.py::test_every_series_that_can_come_to_be_is_there_from_the_start",),
    ),
    # bounds
    Mutant(
        "upgrades_under_way_get_no_time_to_finish",
        APP,
        "while self._path.tasks and self._loop.time() < last_words:",
        "while False:",
        ("tests/test_app.py::test_an_upgrade_that_is_still_under_way_when_the_drain_ends_is_503",),
    ),
    Mutant(
        "admin_port_outlasts_the_drain",
        APP,
        ", shutdown_timeout=ADMIN_SHUTDOWN",
        "",
        ("tests/test_app.py::test_what_hangs_on_the_admin_port_holds_no_stop_up",),
    ),
    # logs and warnings
    Mutant("flood_of_lines", LOG, "return count <= LINES_PER_SECOND", "return True", COALESCED),
    Mutant("left_out_lines_not_told", LOG, "if count > LINES_PER_SECOND and isinstance(key, tuple):", "if False:", COALESCED),
    # the end
    Mutant(
        "all_sent_away_at_once",
        APP,
        "total - len(tunnels) < ceil(total * share)",
        "True",
        ("tests/test_app.py::test_a_drain_is_spread_over_its_time",),
    ),
    # what is unhandled
    Mutant("unhandled_quotes_the_client", UNHANDLED, 'r"[A-Za-z ,.\'-]*"', 'r".*"', ("tests/test_unhandled.py",)),
    Mutant("unhandled_with_arguments", UNHANDLED, "str(record.msg), error", "record.getMessage(), error", ("tests/test_unhandled.py",)),
    Mutant(
        "unhandled_floods",
        UNHANDLED,
        "log.often(EVENT, group=(source, what, kind, where), ",
        "log.warning(EVENT, ",
        ("tests/test_unhandled.py",),
    ),
)

MUTANTS = (*TOP,)
