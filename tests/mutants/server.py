"""Mutants of proxy/server on the way to a tunnel: the door, upgrades, dials, bounds, sockets, TLS."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

AT_THE_DOOR = "proxy/server/door.py"
UPGRADE = "proxy/server/upgrade.py"
UPSTREAM = "proxy/server/upstream.py"

SLOW_ANSWER = ("tests/server/test_upstream.py::test_a_slow_client_slows_the_backend_down_and_gets_every_byte",)
LEAVES_WHILE_DIALING = ("tests/server/test_upgrade.py::test_a_client_that_leaves_while_we_wait_for_the_backend_frees_its_seats",)

CAPACITY = "proxy/server/capacity.py"
TLS = "proxy/server/tls.py"
TLS_LISTENER = "proxy/server/tls_listener.py"
SOCKETS = "proxy/server/sockets.py"

PLACES_BACK = ("tests/server/test_capacity.py::test_a_place_is_given_back_by",)

SERVER = (
    # the door
    Mutant(
        "peer_that_is_gone_is_trusted",
        AT_THE_DOOR,
        "if sock is not None and sock.family == socket.AF_UNIX:",
        "if True:",
        ("tests/server/test_door.py::test_a_client_that_is_gone_when_we_look_cannot_say_who_it_is",),
    ),
    Mutant(
        "bound_of_the_head_depends_on_how_it_is_cut",
        AT_THE_DOOR,
        "len(self._received) - start >= size + len(END_OF_HEAD)",
        "len(self._received) - start > size",
        ("tests/server/test_door.py::test_a_head_of_16_kib_is_read_however_it_is_cut",),
    ),
    Mutant(
        "bytes_behind_the_head_allowed",
        AT_THE_DOOR,
        "            if len(received) > end + len(END_OF_HEAD):\n",
        "            if False:\n",
        ("tests/server/test_door.py::test_every_bad_head_gets_its_answer_and_ends_its_connection",),
    ),
    Mutant(
        "half_a_head_ends_without_a_word",
        AT_THE_DOOR,
        "        if not is_empty_line(self._received):\n",
        "        if False:\n",
        ("tests/server/test_door.py::test_half_a_head_at_its_deadline_is_408",),
    ),
    Mutant(
        "empty_line_is_half_a_head",
        AT_THE_DOOR,
        "        if not is_empty_line(self._received):\n",
        "        if self._received:\n",
        ("tests/server/test_door.py::test_who_sends_an_empty_line_and_nothing_more_is_left_without_a_word",),
    ),
    Mutant(
        "empty_line_counts_as_head",
        AT_THE_DOOR,
        "if end - start > size or",
        "if end > size or",
        ("tests/server/test_door.py::test_an_empty_line_before_a_head_is_no_part_of_it",),
    ),
    Mutant(
        "refused_at_the_door_without_lingering",
        AT_THE_DOOR,
        "self._entrance.upgrades.lingering.adopt(self._transport)",
        "self._transport.close()",
        ("tests/server/test_door.py::test_who_still_sends_can_read_the_answer",),
    ),
    # the control path
    Mutant(
        "seats_leak_when_the_client_leaves",
        UPGRADE,
        "            else:\n                self._give_back(connection)\n            self.totals",
        "            elif connection.result is not Result.ABANDONED:\n                self._give_back(connection)\n            self.totals",
        LEAVES_WHILE_DIALING,
    ),
    Mutant(
        "seats_leak_when_the_backend_rejects",
        UPGRADE,
        "            else:\n                self._give_back(connection)\n            self.totals",
        "            elif connection.result is not Result.UPSTREAM_REJECTED:\n                self._give_back(connection)\n            self.totals",
        ("tests/server/test_upstream.py::test_it_is_relayed_as_it_is_and_ends_both_connections",),
    ),
    Mutant(
        "refused_often_and_still_friendly",
        UPGRADE,
        "if often or self.refuse_with",
        "if self.refuse_with",
        ("tests/server/test_upgrade.py::test_who_was_refused_too_often_gets_plain_http_and_nobody_else",),
    ),
    Mutant(
        "relays_are_not_remembered",
        UPGRADE,
        "                self.relays.add(relay)\n",
        "",
        ("tests/server/test_upstream.py::test_a_stop_ends_an_answer_on_its_way",),
    ),
    # the dialer and the relay of other answers
    Mutant(
        "early_hints_taken_for_the_answer",
        UPSTREAM,
        "if head.status >= 200 or",
        "if head.status >= 103 or",
        ("tests/server/test_upstream.py::test_other_informational_answers_before_the_101_are_passed_over",),
    ),
    Mutant(
        "bytes_behind_the_101_lost",
        UPSTREAM,
        "Answer(self._transport, head, self._received)",
        'Answer(self._transport, head, b"")',
        ("tests/server/test_upstream.py::test_bytes_behind_the_101_come_behind_ours",),
    ),
    Mutant(
        "address_of_the_backend_told",
        UPSTREAM,
        "return os.strerror(error.errno)",
        "return str(error)",
        ("tests/server/test_upstream.py::test_a_dial_that_fails_says_why_without_the_address",),
    ),
    Mutant(
        "slow_client_of_an_answer_slows_nobody", UPSTREAM, "            self._upstream.pause_reading()\n", "            pass\n", SLOW_ANSWER
    ),
    # compression
    Mutant(
        "compression_off_offers",
        UPGRADE,
        "if match.route.compression is Compression.PASS else ()",
        "if True else ()",
        ("tests/interop/test_compression.py::test_with_compression_off_the_backend_is_offered_nothing",),
    ),
)

FRONT = (
    # bounds
    Mutant(
        "place_given_back_twice",
        CAPACITY,
        "            self._capacity = None\n",
        "",
        ("tests/server/test_capacity.py::test_a_place_is_given_back_once",),
    ),
    Mutant(
        "one_address_takes_all_places",
        CAPACITY,
        "self._by_address.get(address, 0) < bounds.pending_per_ip)",
        "True)",
        ("tests/server/test_capacity.py::test_silent_connections_from_one_address_leave_room_for_others",),
    ),
    Mutant(
        "all_addresses_together_are_not_bounded",
        CAPACITY,
        "self.pending < bounds.pending and",
        "True and",
        ("tests/server/test_capacity.py::test_silent_connections_from_everywhere_are_bounded_too",),
    ),
    Mutant("place_of_a_head_kept", AT_THE_DOOR, "            self._place.leave()\n", "            pass\n", PLACES_BACK),
    Mutant(
        "clients_of_a_proxy_without_number",
        UPGRADE,
        "self.identifier.vouched_name(peer, head.fields)",
        "None",
        ("tests/server/test_capacity.py::test_behind_a_trusted_proxy_each_client_has_a_part_of_the_places",),
    ),
    Mutant("place_of_an_upgrade_kept", UPGRADE, "        place.leave()\n", "", PLACES_BACK),
    Mutant(
        "connections_without_number",
        AT_THE_DOOR,
        "entrance.connections() > entrance.capacity.bounds.connections",
        "False",
        ("tests/server/test_capacity.py::test_no_more_connections_than_max_connections",),
    ),
    Mutant(
        "dials_counted_for_ever",
        UPSTREAM,
        "            self.dials.end(upstream)\n",
        "            pass\n",
        ("tests/server/test_capacity.py::test_a_place_is_given_back_when_the_backend_cannot_be_reached",),
    ),
    Mutant(
        "full_dialer_taken_for_a_dead_upstream",
        UPGRADE,
        "if error is None or error.status != 503:",
        "if True:",
        ("tests/server/test_capacity.py::test_dials_to_one_upstream_are_bounded_and_that_says_nothing_about_the_upstream",),
    ),
    # sockets
    Mutant(
        "vanished_upstreams_not_noticed",
        UPSTREAM,
        "        self.keepalive.apply_to_transport(transport)\n",
        "",
        ("tests/server/test_sockets.py::test_of_a_tunnel_both_sides_have_them",),
    ),
    Mutant(
        "user_timeout_in_seconds",
        SOCKETS,
        "int(self.user_timeout * 1000)",
        "int(self.user_timeout)",
        ("tests/server/test_sockets.py::test_they_are_those_of_the_configuration",),
    ),
    # TLS
    Mutant(
        "end_of_a_tls_stream_lost",
        TLS,
        "high=1, low=0",
        "high=1 << 18, low=1 << 16",
        ("tests/server/test_tls.py::test_a_slow_client_loses_nothing_of_who_closes_his_socket",),
    ),
    Mutant(
        "any_certificate_believed",
        TLS,
        "if not tls.verify:",
        "if True:",
        ("tests/server/test_tls.py::test_a_certificate_that_is_not_trusted_is_502",),
    ),
    Mutant(
        "old_tls_spoken",
        TLS,
        "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n    context.set_alpn_protocols(ALPN)\n    context.load",
        "    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED\n    context.set_alpn_protocols(ALPN)\n    context.load",
        ("tests/server/test_tls.py::test_neither_side_speaks_what_is_older_than_1_2",),
    ),
    Mutant(
        "handshakes_without_number",
        TLS_LISTENER,
        "enter(entrance.identifier.peer(address).name)\n",
        "enter(entrance.identifier.peer(address).name) or Place(entrance.capacity, None)\n",
        ("tests/server/test_tls_listener.py::test_handshakes_from_one_address_are_bounded_and_others_come_in",),
    ),
    Mutant(
        "handshake_and_head_need_two_places",
        TLS_LISTENER,
        "        self._pending.leave()\n",
        "",
        ("tests/server/test_tls_listener.py::test_a_place_is_given_back_when_the_door_takes_over",),
    ),
)

CHEAP = (  # what makes an upgrade cheap must not make it wrong
    Mutant(
        "cancellation_lost_before_a_tasks_first_step",
        "proxy/server/eager.py",
        "        awaited = self._begun.throw(error if traceback is None else error.with_traceback(traceback))\n",
        "        awaited = self._begun.send(None)\n",
        ("tests/server/test_eager.py",),
    ),
    Mutant(
        "what_a_coroutine_waits_for_is_forgotten",
        "proxy/server/eager.py",
        "return loop.create_task(_Rest(begun, awaited))",
        "return loop.create_task(_Rest(begun, _NOTHING))",
        ("tests/server/test_eager.py",),
    ),
    Mutant(
        "timeout_swallows_a_cancellation",
        "proxy/server/expiry.py",
        "self._task.uncancel() <= self._cancelled_before",
        "self._task.uncancel() >= 0",
        ("tests/server/test_expiry.py",),
    ),
    Mutant(
        "timeout_leaves_its_deadline",
        "proxy/server/expiry.py",
        "        self._deadline.cancel()\n",
        "",
        ("tests/server/test_expiry.py",),
    ),
)

LOST = "tests/server/test_tls.py::test_who_is_lost_in_the_moment_of_the_answer_leaves_no_seat"

ENDS_TOLD_LATE = (
    Mutant(
        "loss_before_the_tunnel_unheard",
        SOCKETS,
        "        asyncio.get_running_loop().call_soon(protocol.connection_lost, None)\n",
        "        pass\n",
        (LOST,),
    ),
    Mutant(
        "ipv6_alone",
        SOCKETS,
        'asked[0] != "::" or len(found) > 1',
        "True",
        ("tests/server/test_sockets.py::test_all_addresses_are_those_of_ipv4_too",),
    ),
)

NAMES = "proxy/server/names.py"
NAMED = ("tests/server/test_names.py",)

NAMED_UPSTREAMS = (
    Mutant("each_dial_looks_up", NAMES, "        lookup = self._lookups.get(host)\n", "        lookup = None\n", NAMED),
    Mutant("answer_not_kept", NAMES, "self._loop.time() + self._kept, lookup.result()", "self._loop.time() - 99, lookup.result()", NAMED),
    Mutant("old_answer_for_ever", NAMES, "        if now >= until + STALE:\n", "        if not found:\n", NAMED),
    Mutant("old_answer_never_renewed", NAMES, "        if now >= until:\n", "        if False:\n", NAMED),
    Mutant("always_the_first_address", NAMES, "        found = _rotated(found)\n", "", NAMED),
    Mutant(
        "families_mixed",
        NAMES,
        "    return [*same, first, *(other for other in others if other.family != first.family)]",
        "    return [*others, first]",
        NAMED,
    ),
    Mutant(
        "only_one_address_dialed",
        UPSTREAM,
        "            except OSError as error:\n                failure = error\n",
        "            except OSError as error:\n                raise error from None\n",
        NAMED,
    ),
    Mutant("who_gives_up_ends_the_lookup", NAMES, "await asyncio.shield(self._lookup(host))", "await self._lookup(host)", NAMED),
)

MUTANTS = (
    *SERVER,
    *FRONT,
    *CHEAP,
    *ENDS_TOLD_LATE,
    *NAMED_UPSTREAMS,
)
