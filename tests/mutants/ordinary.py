"""Mutants of ordinary HTTP: the client's session, and aiohttp's client."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SESSION = "proxy/server/http_session.py"
CLIENT = "proxy/server/http_client.py"

IN_TIME = ("tests/server/test_passthrough.py::test_a_peer_has_its_time_while_a_body_goes_out_to_it_and_a_tunnel_its_own",)

MUTANTS = (
    Mutant(
        "interim_answer_ends_the_wait",
        CLIENT,
        "            if self._asked:",
        "            if False:",
        ("tests/server/test_passthrough.py::test_a_backend_that_says_nothing_after_an_interim_answer_is_504",),
    ),
    Mutant(
        "interim_answer_hurries_an_upload",
        CLIENT,
        "            if self._asked:",
        "            if True:",
        ("tests/server/test_passthrough.py::test_an_upload_may_last_after_an_interim_answer",),
    ),
    Mutant(
        "head_of_an_answer_without_end",
        CLIENT,
        "if self._room < 0 and",
        "if False and",
        ("tests/server/test_http_client.py::test_a_head_that_does_not_end_is_502",),
    ),
    Mutant(
        "answer_is_lost_to_a_write",
        CLIENT,
        "if exc is not None and self.transport is not None:",
        "if False and self.transport is not None:",
        ("tests/server/test_http_client.py::test_an_answer_counts_though_the_body_is_not_taken_any_more",),
    ),
    Mutant(
        "answer_under_tls_is_lost_to_a_write",
        CLIENT,
        "        if _has_spoken(self._protocol.transport):\n",
        "        if False:\n",
        ("tests/server/test_http_client.py::test_an_answer_under_tls_counts_though_the_body_is_not_taken_any_more",),
    ),
    Mutant(
        "error_of_an_upload_comes_to_nobody",
        CLIENT,
        "        except ConnectionError:\n",
        "        except ZeroDivisionError:\n",
        ("tests/server/test_http_client.py::test_a_connection_that_ends_in_an_upload_leaves_no_error_behind",),
    ),
    Mutant(
        "half_an_upload_goes_back_into_the_pool",
        CLIENT,
        "            protocol.force_close()  #",
        "            pass  #",
        ("tests/server/test_http_client.py::test_a_connection_whose_upload_broke_off_is_not_used_again",),
    ),
    Mutant(
        "connection_that_has_ended_is_asked",
        CLIENT,
        " and _has_spoken(connection.transport)",
        " and False",
        ("tests/server/test_http_client.py::test_a_connection_that_was_closed_unannounced_is_not_used_again",),
    ),
    Mutant("backend_in_a_hurry", CLIENT, "            if self.body:\n", "            if False:\n", IN_TIME),
    Mutant("reader_in_a_hurry", SESSION, "        begin_body(self._transport)\n", "", IN_TIME),
    Mutant(
        "tunnel_with_the_time_of_a_body",
        SESSION,
        "        end_bodies(self._transport, upgrades.dialer.keepalive.user_timeout)\n",
        "",
        IN_TIME,
    ),
    Mutant(
        "empty_line_is_half_a_head_on_a_reused_connection",
        SESSION,
        "        elif not is_empty_line(self._received):\n",
        "        elif self._received:\n",
        ("tests/server/test_http_session.py::test_who_sends_an_empty_line_and_no_request_is_idle",),
    ),
)
