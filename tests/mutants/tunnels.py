"""Mutants of proxy/server while a tunnel stands, and of how it ends."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LINGER = "proxy/server/linger.py"
TUNNEL = "proxy/server/tunnel.py"
LIVE = "proxy/server/live.py"

FLOOD = ("tests/server/test_tunnel.py::test_a_client_that_floods_reads_our_close_and_then_the_end",)
WAITS_FOR_FRAME = ("tests/server/test_tunnel.py::test_a_close_of_ours_waits_for_the_end_of_a_frame",)
CUT_INSIDE = ("tests/server/test_tunnel.py::test_a_stream_that_is_cut_inside_a_frame_ends_in_fin_and_nothing_of_ours",)
STALLS = ("tests/server/test_tunnel.py::test_a_reader_that_stalls_stops_the_writer_and_later_gets_every_byte",)
NOTICE_WAITS = ("tests/server/test_tunnel.py::test_a_notice_waits_for_the_end_of_a_message_and_stands_between_two",)

VIGIL = "proxy/server/vigil.py"

VIGILS = "tests/server/test_vigil.py::"
SERVER_TUNNEL = "tests/server/test_tunnel.py::"
IS_LIFE = (f"{VIGILS}test_whatever_comes_is_life",)
IN_THE_PLACE = (f"{VIGILS}test_a_ping_of_the_backend_asks_in_the_place_of_ours",)
TAKES_NOTHING = (f"{VIGILS}test_a_side_that_takes_nothing_is_closed",)
A_BYTE_NOW_AND_THEN = (f"{VIGILS}test_a_slow_reader_that_takes_a_byte_now_and_then_lives",)
WITHOUT_DATA = (f"{VIGILS}test_a_tunnel_without_data_is_1001_for_both",)
A_FEW_AT_A_TIME = (f"{VIGILS}test_many_tunnels_are_looked_at_a_few_at_a_time_and_each_once_in_a_period",)

TUNNELS = (
    Mutant(
        "seats_kept_until_a_close_is_answered",
        LIVE,
        "        self.store.release(held.grant)\n        if tunnel.meter",
        "        if tunnel.meter",
        ("tests/server/test_tunnel.py::test_a_seat_is_free_at_the_first_sign_of_the_end",),
    ),
    # the tunnel
    Mutant(
        "close_of_ours_cuts_a_frame",
        TUNNEL,
        "        if half.peer.walker.in_frame and not half.peer.heard:\n",
        "        if False:\n",
        WAITS_FOR_FRAME,
    ),
    Mutant(
        "close_of_ours_behind_what_follows_the_frame",
        TUNNEL,
        "onward[: walker.frame_end] + peer.farewell",
        "onward + peer.farewell",
        WAITS_FOR_FRAME,
    ),
    Mutant(
        "close_written_into_a_cut_frame",
        TUNNEL,
        '            self._say(half, b"")  # cut for good',
        "            self._say(half, close)  # cut for good",
        CUT_INSIDE,
    ),
    Mutant(
        "close_written_into_a_frame_that_does_not_end",
        TUNNEL,
        'b"" if half.peer.walker.in_frame else last',
        "last",
        ("tests/server/test_tunnel.py::test_a_frame_that_does_not_end_is_cut_by_fin",),
    ),
    Mutant(
        "close_of_the_client_wins_time",
        TUNNEL,
        "            if self._timer.due <= when:\n",
        "            if False:\n",
        ("tests/server/test_tunnel.py::test_a_frame_that_does_not_end_is_cut_by_fin",),
    ),
    Mutant(
        "something_follows_our_close",
        TUNNEL,
        "        half.peer.forward = _nowhere\n\n    def gone",
        "\n    def gone",
        WAITS_FOR_FRAME,
    ),
    Mutant(
        "error_in_the_middle_of_a_message",
        TUNNEL,
        "to_client if in_message else error + to_client",
        "error + to_client",
        ("tests/server/test_tunnel.py::test_in_the_middle_of_a_message_the_error_is_left_out",),
    ),
    Mutant(
        "normal_end_told_as_a_failure",
        TUNNEL,
        "self._closing_answer(half.peer) or build_close(CloseCode.INTERNAL_ERROR",
        "build_close(CloseCode.INTERNAL_ERROR",
        ("tests/server/test_tunnel.py::test_a_close_that_is_answered_with_the_end_of_the_stream_gets_its_own_code_back",),
    ),
    Mutant(
        "no_back_pressure", TUNNEL, "        self.writable = False\n        self.peer.pause()\n", "        self.writable = False\n", STALLS
    ),
    Mutant(
        "notice_in_the_middle_of_a_message", TUNNEL, "        if not self.upstream.walker.in_message:\n", "        if True:\n", NOTICE_WAITS
    ),
    Mutant(
        "notice_for_who_does_not_read",
        TUNNEL,
        "or not self.client.writable or",
        "or",
        ("tests/server/test_tunnel.py::test_a_client_that_does_not_read_is_not_told",),
    ),
    Mutant(
        "lost_notice_is_not_counted",
        TUNNEL,
        "            self._notice = None\n            self._notices.unsent(notice.rule, notice.drops)\n",
        "            self._notice = None\n",
        ("tests/server/test_tunnel.py::test_a_notice_that_waits_too_long_is_dropped_and_counted",),
    ),
    Mutant(
        "limit_told_as_a_protocol_error",
        TUNNEL,
        "CloseCode.MESSAGE_TOO_BIG if size else CloseCode.POLICY_VIOLATION",
        "CloseCode.POLICY_VIOLATION",
        ("tests/server/test_tunnel.py::test_a_size_is_4009_with_the_error_before_it_and_1009_for_the_backend",),
    ),
    # how they leave
    Mutant("bad_frame_ends_the_lingering", LINGER, "if isinstance(halt, CloseFrame):", "if halt is not None:", FLOOD),
    Mutant(
        "lingering_without_number",
        LINGER,
        "if len(self._peers) >= self._most:",
        "if False:",
        ("tests/server/test_linger.py::test_it_is_bounded_in_number_and_the_oldest_gives_way",),
    ),
    Mutant(
        "stop_forgets_who_is_closing",
        TUNNEL,
        "        elif self.phase is Phase.ENDING and self.client.farewell is None and self.upstream.farewell is None:\n",
        "        elif False:\n",
        ("tests/test_app.py::test_a_stop_does_not_wait_for_the_answer_to_a_close",),
    ),
    Mutant(
        "stop_cuts_a_frame",
        TUNNEL,
        " and self.client.farewell is None and self.upstream.farewell is None:",
        ":",
        ("tests/test_app.py::test_a_stop_in_the_middle_of_a_frame_waits_for_its_end",),
    ),
    Mutant(
        "meter_ends_its_own_penalty",
        LIVE,
        "            tunnel.meters.penalize(self.store, time.monotonic())\n",
        "            pass\n",
        ("tests/limits/test_exactness.py::test_an_unknown_client_stays_out_by_its_address",),
    ),
    Mutant(
        "meter_released_at_the_first_sign_of_the_end",
        LIVE,
        "            tunnel.meters.penalize(self.store, time.monotonic())\n",
        "            tunnel.meters.penalize(self.store, time.monotonic())\n            tunnel.meters.release(self.store, time.monotonic())\n            tunnel.meters = None\n",
        ("tests/server/test_tunnel.py::test_frames_of_a_tunnel_that_ends_are_charged_to_the_key_all_the_same",),
    ),
    Mutant(
        "linger_looks_no_further_than_a_turn",
        "proxy/server/linger.py",
        "            if halt is Turn.OVER:\n",
        "            if halt is Turn:\n",
        ("tests/server/test_linger.py::test_a_close_behind_very_many_frames_ends_it",),
    ),
    Mutant(
        "linger_reads_what_it_cannot_walk",
        "proxy/server/linger.py",
        "        self._transport.pause_reading()\n",
        "",
        ("tests/server/test_linger.py::test_more_is_not_read_before_all_is_looked_at",),
    ),
    Mutant(
        "linger_walks_behind_any_number_of_floods",
        "proxy/server/linger.py",
        "        if len(self._walked) > MAX_WALKED:\n",
        "        if False:\n",
        ("tests/server/test_linger.py::test_of_many_floods_one_is_walked_on_in_each_turn_and_behind_a_few_of_them_a_close_is_looked_for",),
    ),
    Mutant(
        "linger_reads_as_fast_as_a_deaf_peer_sends",
        "proxy/server/linger.py",
        "        if len(data) >= FULL:\n",
        "        if False:\n",
        ("tests/server/test_linger.py::test_what_a_deaf_peer_sends_is_read_in_turns_of_its_own",),
    ),
    Mutant(
        "one_line_but_all_of_it_at_once",
        "proxy/server/turns.py",
        "        if line:\n            self._loop.call_soon(self._next)\n",
        "        if line:\n            self._next()\n",
        ("tests/server/test_turns.py",),
    ),
    Mutant(
        "flood_goes_first",
        "proxy/server/tunnel.py",
        "        half.hold = self._around.turns.wait(partial(self._ask_again, half))\n",
        "        self._ask_again(half)\n",
        ("tests/server/test_tunnel.py::test_others_have_their_turn_between_those_of_a_flood",),
    ),
    Mutant(
        "every_flood_has_a_turn",
        "proxy/server/tunnel.py",
        "        half.hold = self._around.turns.wait(partial(self._ask_again, half))\n",
        "        half.hold = self._loop.call_soon(self._ask_again, half)\n",
        ("tests/server/test_tunnel.py::test_two_floods_have_one_turn_between_them",),
    ),
    Mutant(
        "flood_is_read_while_it_is_walked",
        "proxy/server/tunnel.py",
        "        half.pause()\n        half.hold = self._around.turns.wait(",
        "        half.paused += 1\n        half.hold = self._around.turns.wait(",
        ("tests/server/test_tunnel.py::test_nothing_is_read_of_a_flood_before_it_was_walked",),
    ),
    Mutant(
        "flood_that_is_over_goes_on_for_ever",
        "proxy/server/tunnel.py",
        "                if walker.halt is Turn.OVER:\n",
        "                if walker.halt is Turn:\n",
        ("tests/server/test_tunnel.py::test_a_refused_flood_is_walked_to_its_end_while_our_close_waits",),
    ),
    Mutant(
        "linger_cuts_a_slow_reader",
        "proxy/server/linger.py",
        "if self._transport.get_write_buffer_size() and self._looks:",
        "if False:",
        ("tests/server/test_linger.py::test_a_slow_reader_gets_what_was_written_before_our_last_word",),
    ),
    # TLS
    Mutant(
        "tls_wanted_half_open",
        TUNNEL,
        "return self.transport.can_write_eof()",
        "return True",
        ("tests/server/test_tls.py::test_a_client_that_leaves_is_told_to_the_backend",),
    ),
    Mutant(
        "half_of_the_users_is_a_crowd",
        LIVE,
        "count <= len(users) * CROWD_SHARE",
        "count < len(users) * CROWD_SHARE",
        ("tests/server/test_live.py::test_half_of_the_users_is_not_most_of_them",),
    ),
    Mutant(
        "tabs_taken_for_users",
        LIVE,
        "users = {(held.principal.ip, held.principal.user): held.principal.address for held in self.held.values()}",
        "users = {(held.principal.ip, str(id(held))): held.principal.address for held in self.held.values()}",
        ("tests/server/test_live.py::test_one_user_with_many_connections_is_no_crowd",),
    ),
    Mutant(
        "dead_tunnels_left_to_the_collector",
        LIVE,
        "del half.tunnel, half.peer",
        "pass",
        ("tests/server/test_live.py::test_a_tunnel_that_is_over_leaves_memory_without_the_collector",),
    ),
    Mutant(
        "an_answer_wakes_a_tunnel_twice",
        "proxy/server/tunnel.py",
        "if half.hold is timer:",
        "if True:",
        ("tests/server/test_tunnel.py::test_a_held_frame_goes_on_when_the_answer_comes_and_is_not_woken_twice",),
    ),
)

PATIENCE = (
    # pings
    Mutant("control_frames_are_no_life", VIGIL, "client_data + client.walker.controls", "client_data", IS_LIFE),
    Mutant(
        "part_of_a_frame_is_no_life",
        VIGIL,
        "walker.messages + walker.received_bytes",
        "walker.messages",
        (f"{VIGILS}test_every_byte_of_a_long_frame_is_life",),
    ),
    Mutant("ping_beside_that_of_the_backend", TUNNEL, "if upstream.ping_or_pong_at > client.ping_or_pong_at:", "if False:", IN_THE_PLACE),
    Mutant(
        "ping_cuts_a_frame",
        TUNNEL,
        "        if upstream.in_frame:\n",
        "        if False:\n",
        (f"{VIGILS}test_no_ping_cuts_a_frame_and_it_comes_when_the_frame_is_over",),
    ),
    Mutant(
        "old_pong_forgotten",
        TUNNEL,
        "        if client.own_pong is None:\n",
        "        if True:\n",
        (f"{VIGILS}test_a_late_pong_goes_nowhere_even_behind_newer_pings",),
    ),
    Mutant(
        "silent_because_we_do_not_read",
        VIGIL,
        "if client.paused or client_life != self._client_life:",
        "if client_life != self._client_life:",
        (f"{VIGILS}test_while_we_do_not_read_a_client_it_cannot_be_silent",),
    ),
    Mutant(
        "backlog_is_no_answer",
        VIGIL,
        "            self._before_ping = max(0, self._before_ping - taken)\n            self._asked = now\n",
        "            pass\n",
        (f"{VIGILS}test_a_client_that_still_takes_what_stood_before_a_ping_has_not_failed_to_answer_it",),
    ),
    Mutant(
        "backlog_suppresses_the_ping",
        VIGIL,
        "max(0, self._before_ping - taken)",
        "self._before_ping",
        (f"{VIGILS}test_a_backlog_that_never_ends_does_not_hide_a_client_that_does_not_answer",),
    ),
    Mutant(
        "own_pings_not_counted",
        TUNNEL,
        "        client.own_pings += 1\n",
        "",
        (f"{SERVER_TUNNEL}test_copies_of_the_pong_to_our_ping_are_control_frames_like_any",),
    ),
    Mutant(
        "who_left_unread_is_kept",
        VIGIL,
        "                self._tunnel.gone(half)\n                return\n",
        "                pass\n",
        (f"{VIGILS}test_a_client_that_leaves_while_its_frame_waits_gives_its_seat_back",),
    ),
    Mutant(
        "end_of_a_backend_cuts_what_it_sent",
        VIGIL,
        "or (for_good and sock.family == socket.AF_UNIX)",
        "",
        (f"{VIGILS}test_what_a_backend_sent_before_it_ended_comes_to_a_slow_client",),
    ),
    Mutant(
        "acknowledged_bytes_not_seen",
        VIGIL,
        "        if self.acked is not None and before.acked is not None:\n",
        "        if False:\n",
        (
            "tests/server/test_vigil.py::test_a_client_that_takes_nothing_is_closed_though_messages_trickle_in",
            "tests/limits/test_patience.py::test_a_client_that_reads_slowly_lives_and_gets_every_byte",
        ),
    ),
    Mutant(
        "life_does_not_answer_the_ping",
        VIGIL,
        "self._heard, self._asked, self._before_ping = now, inf, 0",
        "self._heard = now",
        (f"{VIGILS}test_whatever_comes_answers_a_ping",),
    ),
    # slow readers
    Mutant("stalled_backend_not_seen", VIGIL, "if self._upstream_backlog is not None:", "if False:", TAKES_NOTHING),
    Mutant("stalled_client_not_seen", VIGIL, "        if self._client_backlog is not None:\n", "        if False:\n", TAKES_NOTHING),
    Mutant("progress_is_an_empty_buffer", VIGIL, "return max(0, before.size - self.size)", "return 0", A_BYTE_NOW_AND_THEN),
    Mutant(
        "frames_that_come_hide_progress",
        VIGIL,
        "        if not came:\n",
        "        if True:\n",
        (f"{VIGILS}test_a_buffer_that_grows_while_frames_come_is_not_judged_before_they_end",),
    ),
    Mutant(
        "progress_of_the_kernel_not_seen",
        VIGIL,
        "transport.get_write_buffer_size(), _with_kernel(transport)",
        "transport.get_write_buffer_size(), 0",
        (f"{VIGILS}test_a_client_that_takes_nothing_is_closed_though_messages_trickle_in",),
    ),
    Mutant(
        "full_buffer_waits_for_the_next_round",
        TUNNEL,
        "            self.tunnel.vigil.buffer_full()\n",
        "            pass\n",
        (f"{VIGILS}test_a_full_buffer_counts_from_when_it_filled",),
    ),
    # idle and old tunnels
    Mutant("pings_are_data", VIGIL, "client_data + upstream_data != self._data", "client.walker.controls or True", WITHOUT_DATA),
    Mutant(
        "back_pressure_is_idle",
        VIGIL,
        "(client.paused or upstream.paused or client_data + upstream_data != self._data)",
        "(client_data + upstream_data != self._data)",
        (f"{VIGILS}test_a_side_that_we_do_not_read_is_not_idle",),
    ),
    Mutant(
        "lifetime_without_jitter",
        VIGIL,
        "random.uniform(1 - JITTER, 1 + JITTER)",
        "1",
        (f"{VIGILS}test_no_tunnel_is_older_than_its_lifetime_and_they_do_not_end_together",),
    ),
    # the rounds
    Mutant("all_looked_at_at_once", VIGIL, "hash(vigil) % len(self._steps)", "0", A_FEW_AT_A_TIME),
    Mutant("steps_lose_ticks", VIGIL, "max(now, due + self._pause)", "now + self._pause", A_FEW_AT_A_TIME),
    Mutant(
        "ended_tunnel_looked_at",
        TUNNEL,
        "        self.vigil.end()\n",
        "",
        (f"{VIGILS}test_a_tunnel_has_no_deadline_of_its_own_and_is_not_looked_at_behind_its_end",),
    ),
    Mutant(
        "silence_noticed_a_look_too_late",
        VIGIL,
        "interval <= now + TICK",
        "interval <= now - TICK",
        (f"{VIGILS}test_at_any_phase_of_the_looks_a_silence_is_noticed_within_one_look",),
    ),
    Mutant(
        "full_buffer_wakes_the_vigil_of_an_ended_tunnel",
        TUNNEL,
        "        if self.tunnel.phase is Phase.OPEN:\n",
        "        if True:\n",
        (f"{VIGILS}test_a_tunnel_has_no_deadline_of_its_own_and_is_not_looked_at_behind_its_end",),
    ),
    Mutant(
        "sleep_of_ours_held_against_clients",
        VIGIL,
        "        if late > STALL:\n",
        "        if False:\n",
        (f"{VIGILS}test_while_we_sleep_nobody_is_silent_slow_or_idle",),
    ),
)

MUTANTS = (
    *TUNNELS,
    *PATIENCE,
)
