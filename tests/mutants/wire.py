"""Mutants of proxy/wire: the frame walker, the handshake, compression and bodies."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FRAMES = "proxy/wire/frames.py"
HANDSHAKE = "proxy/wire/handshake.py"
EXTENSIONS = "proxy/wire/extensions.py"
BODY = "proxy/wire/body.py"

FAULTS = ("tests/wire/test_frames.py::TestFaults::test_ends_the_reading_before_the_frame",)
NOTHING_AFTER = ("tests/wire/test_frames.py::TestFaults::test_lets_nothing_pass_that_follows",)
ONE_FRAME = ("tests/wire/test_frames.py::TestOneFrame",)
COMMON_PATH = ("tests/wire/test_frames.py::test_no_chunk_slips_through_the_one_comparison_of_the_common_path",)
FRAGMENTS = ("tests/wire/test_frames.py::test_fragments_and_control_frames_between_them_pass",)
RESERVED = ("tests/wire/test_frames.py::TestReservedBits",)
CLOSE = ("tests/wire/test_frames.py::TestClose",)
DROP = ("tests/wire/test_frames.py::TestDrop",)
REFUSAL = ("tests/wire/test_frames.py::TestRefusal",)
HOLD = ("tests/wire/test_frames.py::TestHold",)
CORPUS = ("tests/fuzz/test_fuzz.py::test_what_was_found_once_is_replayed",)
TURNS = ("tests/wire/test_frames.py::TestTurn",)
PLACES = ("tests/wire/test_frames.py::TestPlaces",)
HEAD = ("tests/wire/test_handshake.py::test_a_header_line_that_is_none_is_400",)
LINE = ("tests/wire/test_handshake.py::test_a_request_line_that_is_none_is_400",)
ALMOST = ("tests/wire/test_handshake.py::TestAlmostAnUpgrade",)
SPELLINGS = ("tests/wire/test_handshake.py::test_other_spellings_of_a_good_upgrade",)
OURS = ("tests/wire/test_handshake.py::test_a_client_cannot_send_what_is_ours_or_between_two_hops",)
NAMED_AWAY = ("tests/wire/test_handshake.py::test_connection_cannot_name_our_headers_away",)
BAD_101 = ("tests/wire/test_handshake.py::test_a_101_that_a_client_would_refuse_is_502",)
NO_TAKEOVER = ("tests/wire/test_extensions.py::test_where_messages_may_be_dropped_the_client_compresses_each_on_its_own",)
BAD_ANSWER = ("tests/wire/test_extensions.py::test_an_answer_that_was_not_offered_or_two_is_502",)
OWN_PONG = ("tests/wire/test_frames.py::TestOwnPong",)
VIGILS = "tests/server/test_vigil.py::"

WALKER = (
    # the common path
    Mutant(
        "mask_bit_not_proved_on_the_common_path",
        FRAMES,
        "self._short_delta = self._mask_bit - overhead",
        "self._short_delta = 0x80 - overhead",
        COMMON_PATH,
    ),
    Mutant("lower_bound_of_the_common_path_off_by_one", FRAMES, "self._low = overhead - 1", "self._low = overhead - 3", COMMON_PATH),
    Mutant(
        "upper_bound_of_the_common_path_off_by_one",
        FRAMES,
        "self._high = overhead + MAX_CONTROL_PAYLOAD + 1",
        "self._high = overhead + MAX_CONTROL_PAYLOAD + 3",
        COMMON_PATH,
    ),
    Mutant(
        "length_not_proved_on_the_common_path",
        FRAMES,
        "data[1] == size + self._short_delta",
        "data[1] & MASK_BIT == self._mask_bit",
        COMMON_PATH,
    ),
    Mutant("opening_fragment_taken_for_a_whole_message", FRAMES, 'else b"\\x81\\x82"', 'else b"\\x81\\x82\\x01\\x02"', (*FRAGMENTS, *DROP)),
    Mutant("common_path_in_the_middle_of_a_message", FRAMES, "if not self._busy and self._low", "if not self._tail and self._low", FAULTS),
    Mutant(
        "common_path_copies",
        FRAMES,
        "                        return data\n",
        "                        return bytes(bytearray(data))\n",
        ONE_FRAME,
    ),
    Mutant(
        "common_path_forgets_the_judge",
        FRAMES,
        "length = size - self._overhead\n                    judge = self._judge\n",
        "length = size - self._overhead\n                    judge = None\n",
        DROP,
    ),
    Mutant(
        "common_path_forwards_what_was_dropped",
        FRAMES,
        '            self._tail = data\n        return b""\n',
        "            self._tail = data\n        return data\n",
        DROP,
    ),
    Mutant(
        "common_path_loses_what_is_held",
        FRAMES,
        "            self.halt = verdict\n            self._tail = data\n",
        "            self.halt = verdict\n",
        HOLD,
    ),
    Mutant("common_path_leaves_old_places", FRAMES, "        self.frame_end = self.message_end = 0\n", "", PLACES),
    Mutant(
        "medium_path_does_not_prove_the_mask",
        FRAMES,
        "self._medium_second = self._mask_bit | 126",
        "self._medium_second = 254",
        COMMON_PATH,
    ),
    Mutant(
        "medium_path_does_not_prove_the_length",
        FRAMES,
        "and data[2] << 8 | data[3] == size - self._medium_overhead",
        "and True",
        COMMON_PATH,
    ),
    Mutant(
        "medium_path_looks_at_half_of_the_length",
        FRAMES,
        "and data[2] << 8 | data[3] ==",
        "and data[3] ==",
        ("tests/wire/test_frames.py::test_whole_frames_with_a_length_of_16_bits_take_the_short_way",),
    ),
    Mutant(
        "medium_path_forgets_the_judge",
        FRAMES,
        "length = size - self._medium_overhead\n                judge = self._judge\n",
        "length = size - self._medium_overhead\n                judge = None\n",
        ("tests/wire/test_frames.py::test_a_message_of_a_16_bit_length_is_told_to_the_judge",),
    ),
    Mutant(
        "short_way_of_a_header_inside_a_message",
        FRAMES,
        "                message\n                or size - position < overhead\n",
        "                size - position < overhead\n",
        (*FAULTS, *DROP),
    ),
    Mutant(
        "short_way_of_a_cut_header",
        FRAMES,
        "                or size - position < overhead\n",
        "                or size - position < 2\n",
        ONE_FRAME,
    ),
    Mutant(
        "short_way_of_a_header_without_its_mask",
        FRAMES,
        "or not 0 <= (length := data[position + 1] - mask_bit) <= MAX",
        "or not (length := (data[position + 1] - mask_bit) & 127) <= MAX",
        FAULTS,
    ),
    Mutant(
        "short_way_of_a_longer_length",
        FRAMES,
        "data[position + 1] - mask_bit) <= MAX",
        "data[position + 1] - mask_bit) <= 1 + MAX",
        ONE_FRAME,
    ),
    # headers and faults
    Mutant("mask_bit_not_checked", FRAMES, "if second & MASK_BIT != self._mask_bit:", "if second & MASK_BIT < self._mask_bit:", FAULTS),
    Mutant("mask_bit_not_demanded", FRAMES, "if second & MASK_BIT != self._mask_bit:", "if second & MASK_BIT > self._mask_bit:", FAULTS),
    Mutant("reserved_bits_not_checked", FRAMES, "if first & self._reserved:", "if False:", FAULTS),
    Mutant("rsv2_allowed_with_compression", FRAMES, "RSV_BITS & ~RSV1 if rsv1", "0x10 if rsv1", RESERVED),
    Mutant("rsv1_always_allowed", FRAMES, "RSV_BITS & ~RSV1 if rsv1 else RSV_BITS", "RSV_BITS & ~RSV1", FAULTS),
    Mutant(
        "reserved_control_opcode_allowed",
        FRAMES,
        "if opcode > _PONG and not self._lenient:",
        "if opcode > 0xB and not self._lenient:",
        FAULTS,
    ),
    Mutant(
        "reserved_data_opcode_allowed",
        FRAMES,
        "elif opcode > _BINARY and not self._lenient:",
        "elif opcode > 3 and not self._lenient:",
        FAULTS,
    ),
    Mutant("control_frame_may_be_fragmented", FRAMES, "            if not first & FIN:\n", "            if False:\n", FAULTS),
    Mutant(
        "control_frame_may_be_long",
        FRAMES,
        "            if length > MAX_CONTROL_PAYLOAD:\n                return",
        "            if length > 126:\n                return",
        FAULTS,
    ),
    Mutant(
        "compressed_control_frame_allowed",
        FRAMES,
        'if first & RSV1 and not self._lenient:\n                return "compressed',
        'if False:\n                return "compressed',
        RESERVED,
    ),
    Mutant(
        "rsv1_on_continuation_allowed",
        FRAMES,
        'if first & RSV1 and not self._lenient:\n                return "reserved',
        'if False:\n                return "reserved',
        RESERVED,
    ),
    Mutant("continuation_without_a_start_allowed", FRAMES, "            if message is _NONE:\n", "            if False:\n", FAULTS),
    Mutant("message_inside_a_message_allowed", FRAMES, "elif message is not _NONE:", "elif message is _DROPPING:", FAULTS),
    Mutant("message_inside_a_dropped_one_allowed", FRAMES, "elif message is not _NONE:", "elif message is _PASSING:", DROP),
    Mutant("top_bit_of_the_length_allowed", FRAMES, "data[position + 2] & TOP_BIT:", "data[position + 2] > 0x80:", FAULTS),
    Mutant("top_bit_judged_in_16_bit_lengths", FRAMES, "if extended == 8 and size - position > 2", "if size - position > 2", ONE_FRAME),
    Mutant(
        "length_126_read_as_it_stands",
        FRAMES,
        "        if length > MAX_CONTROL_PAYLOAD:\n            extended",
        "        if length > 126:\n            extended",
        ONE_FRAME,
    ),
    Mutant(
        "header_whole_a_byte_too_early",
        FRAMES,
        "if header_size <= size - position else None",
        "if header_size <= size - position + 1 else None",
        ONE_FRAME,
    ),
    Mutant(
        "header_whole_a_byte_too_late",
        FRAMES,
        "if header_size <= size - position else None",
        "if header_size < size - position else None",
        ONE_FRAME,
    ),
    Mutant(
        "bytes_behind_a_fault_kept",
        FRAMES,
        'self._tail = b"" if self._over else data[position:]',
        "self._tail = data[position:]",
        NOTHING_AFTER,
    ),
    Mutant(
        "reading_goes_on_behind_a_fault",
        FRAMES,
        "        if self.halt is not None:\n            if self.halt in _UNFINISHED",
        "        if self.halt in _UNFINISHED:\n            if self.halt in _UNFINISHED",
        (*NOTHING_AFTER, *CLOSE),
    ),
    # fragments, drops, verdicts
    Mutant("fin_does_not_end_a_message", FRAMES, "                    message = _NONE\n", "                    pass\n", FRAGMENTS),
    Mutant(
        "dropped_message_forwarded_from_its_second_fragment",
        FRAMES,
        "message = _DROPPING if skipping else _PASSING",
        "message = _PASSING",
        DROP,
    ),
    Mutant(
        "control_frames_inside_a_dropped_message_dropped",
        FRAMES,
        "if message is _DROPPING and opcode == _CONTINUATION:",
        "if message is _DROPPING:",
        DROP,
    ),
    Mutant(
        "continuation_of_a_dropped_message_charged",
        FRAMES,
        "if message is _DROPPING and opcode == _CONTINUATION:",
        "if False:",
        DROP,
    ),
    Mutant(
        "drop_of_a_continuation_leaves_half_a_message",
        FRAMES,
        "if verdict is not _DROP or opcode == _CONTINUATION:",
        "if verdict is not _DROP:",
        DROP,
    ),
    Mutant(
        "drop_forwards_an_empty_frame",
        FRAMES,
        "                run = position\n            position += header_size",
        "                run = position\n                pieces.append(b'\\x81\\x00')\n            position += header_size",
        DROP,
    ),
    Mutant(
        "what_was_before_a_drop_is_lost",
        FRAMES,
        "                if position > run:\n                    pieces.append(data[run:position])\n",
        "",
        DROP,
    ),
    Mutant(
        "tail_of_a_dropped_frame_passes",
        FRAMES,
        "                    run = position\n                    skipping = False",
        "                    skipping = False",
        DROP,
    ),
    Mutant("middle_of_a_dropped_frame_passes", FRAMES, "                if skipping:\n                    run = size\n", "", DROP),
    Mutant(
        "continuations_counted_as_messages",
        FRAMES,
        "                if opcode:\n                    self.messages += 1",
        "                self.messages += 1",
        FRAGMENTS,
    ),
    Mutant(
        "control_payload_counted",
        FRAMES,
        "if self._data:\n                self.payload",
        "if True:\n                self.payload",
        FRAGMENTS,
    ),
    Mutant(
        "hold_turned_into_a_refusal", FRAMES, "self.halt = _HOLD if verdict is _HOLD else Verdict.CLOSE", "self.halt = Verdict.CLOSE", HOLD
    ),
    Mutant("refusal_turned_into_a_hold", FRAMES, "self.halt = _HOLD if verdict is _HOLD else Verdict.CLOSE", "self.halt = _HOLD", REFUSAL),
    Mutant("what_was_read_before_a_hold_is_read_again", FRAMES, "                start = self._tail_start\n", "", HOLD),
    Mutant(
        "what_was_read_before_a_hold_is_taken_with_what_comes", FRAMES, "self._tail[self._tail_start :] + data", "self._tail + data", HOLD
    ),
    Mutant(
        "what_was_read_before_a_hold_counts_as_held", FRAMES, "return len(self._tail) - self._tail_start", "return len(self._tail)", HOLD
    ),
    Mutant("what_comes_during_a_hold_is_lost", FRAMES, "                self._tail += data\n", "                pass\n", HOLD),
    Mutant(
        "what_comes_during_a_hold_overtakes",
        FRAMES,
        "data = self._tail[self._tail_start :] + data",
        "data = data + self._tail[self._tail_start :]",
        (*HOLD, *ONE_FRAME),
    ),
    Mutant(
        "resume_forgives_a_fault",
        FRAMES,
        "if self.halt in _UNFINISHED:\n            self.halt = None",
        "if self.halt is not None:\n            self.halt = None",
        CLOSE,
    ),
    Mutant("corpus_knows_faults", FRAMES, "elif message is not _NONE:", "elif False:", CORPUS),
    Mutant("corpus_knows_white_space", HANDSHAKE, "        value = value.strip(_OWS)\n", '        value = value.strip(b" ")\n', CORPUS),
    Mutant("corpus_knows_what_is_ours", HANDSHAKE, "folded not in owned and (trusted or", "(trusted or", CORPUS),
    Mutant("corpus_knows_answers", HANDSHAKE, "if len(chosen) > 1 or (chosen", "if (chosen", CORPUS),
    Mutant("a_turn_is_never_over", FRAMES, "            if not frames:", "            if False:", TURNS),
    Mutant("a_turn_of_any_size", FRAMES, "if size - start >= TURN_SIZE:", "if False:", TURNS),
    Mutant("a_turn_one_byte_too_short", FRAMES, "if size - start >= TURN_SIZE:", "if size - start >= TURN_SIZE - 1:", TURNS),
    Mutant("a_turn_one_frame_too_long", FRAMES, "            if not frames:", "            if frames < 0:", TURNS),
    Mutant(
        "a_turn_that_is_over_asks_for_nobody",
        FRAMES,
        "                self.halt = _OVER\n                self.attention = True\n                break\n",
        "                self.halt = Turn.OVER\n                break\n",
        TURNS,
    ),
    Mutant("nobody_gets_a_next_turn", FRAMES, "(Verdict.HOLD, Verdict.CLOSE, Turn.OVER)", "(Verdict.HOLD, Verdict.CLOSE)", TURNS),
    Mutant("resume_ends_a_watch", FRAMES, "self.attention = self._watched", "self.attention = False", HOLD),
    Mutant("unwatch_forgets_a_refusal", FRAMES, "self.attention = self.halt is not None", "self.attention = False", REFUSAL),
    # where a frame of ours may stand
    Mutant("place_inside_a_frame", FRAMES, "frame_end = -1 if remaining and not skipping else 0", "frame_end = 0", PLACES),
    Mutant("text_between_fragments", FRAMES, "message_end = -1 if message is _PASSING else frame_end", "message_end = frame_end", PLACES),
    Mutant(
        "text_behind_an_opening_fragment",
        FRAMES,
        "                if message is not _PASSING:\n                    message_end = frame_end\n            if position == size:",
        "                message_end = frame_end\n            if position == size:",
        PLACES,
    ),
    Mutant("places_not_moved_by_what_was_dropped", FRAMES, "                    skipped += position - run\n", "", PLACES),
    Mutant(
        "in_frame_counts_dropped_frames", FRAMES, "return self._remaining > 0 and not self._skipping", "return self._remaining > 0", PLACES
    ),
    Mutant(
        "in_message_counts_frames_only",
        FRAMES,
        "return self.in_frame or self._message is _PASSING",
        "return self.in_frame",
        (*PLACES, *CLOSE),
    ),
    # Close
    Mutant("close_told_before_it_is_whole", FRAMES, "        if size < end:\n            return\n", "", CLOSE),
    Mutant(
        "close_payload_not_unmasked",
        FRAMES,
        "return mask_payload(payload, data[end - length - MASK_SIZE : end - length]) if self._mask_bit else payload",
        "return payload",
        CLOSE,
    ),
    Mutant("close_payload_of_one_byte_allowed", FRAMES, "    if len(payload) == 1:\n", "    if len(payload) > 125:\n", FAULTS),
    Mutant("close_code_1004_allowed", FRAMES, "1000 <= code <= 1003", "1000 <= code <= 1004", CLOSE),
    Mutant("close_code_1006_allowed", FRAMES, "1007 <= code <= 1014", "1006 <= code <= 1014", (*CLOSE, *FAULTS)),
    Mutant("close_code_1014_refused", FRAMES, "1007 <= code <= 1014", "1007 <= code < 1014", CLOSE),
    Mutant("close_code_5000_allowed", FRAMES, "3000 <= code <= 4999", "3000 <= code <= 5000", CLOSE),
    Mutant("close_reason_repaired", FRAMES, "payload[2:].decode()\n", 'payload[2:].decode(errors="replace")\n', FAULTS),
    Mutant(
        "close_reason_cut_inside_a_character",
        FRAMES,
        '[:MAX_CLOSE_REASON].decode(errors="ignore").encode()',
        "[:MAX_CLOSE_REASON]",
        ("tests/wire/test_frames.py::test_a_close_of_ours_is_cut_between_characters",),
    ),
    Mutant(
        "length_of_our_frames_off_at_125",
        FRAMES,
        "if size <= MAX_CONTROL_PAYLOAD:\n        head",
        "if size < MAX_CONTROL_PAYLOAD:\n        head",
        ("tests/wire/test_frames.py::test_a_frame_of_ours_is_read_by_others",),
    ),
    Mutant(
        "length_of_our_frames_off_at_65536",
        FRAMES,
        "elif size < 1 << 16:",
        "elif size < (1 << 16) - 1:",
        ("tests/wire/test_frames.py::test_a_frame_of_ours_is_read_by_others",),
    ),
)

HANDSHAKES = (
    Mutant(
        "bare_lf_ends_a_line", HANDSHAKE, 'if data.translate(None, _LINE) != b"\\r\\n" * (len(lines) - 1):', "if b'\\x00' in data:", HEAD
    ),
    Mutant(
        "space_before_the_colon_allowed",
        HANDSHAKE,
        "        folded = _COMMON_NAMES.get(name)\n",
        "        name = name.rstrip(_OWS)\n        folded = _COMMON_NAMES.get(name)\n",
        HEAD,
    ),
    Mutant("header_name_not_checked", HANDSHAKE, "if not name or name.translate(None, _TOKEN):", "if not name:", HEAD),
    Mutant("common_header_name_without_a_colon", HANDSHAKE, "        if not colon:\n", "        if not colon and not folded:\n", HEAD),
    Mutant("header_value_keeps_its_white_space", HANDSHAKE, "        value = value.strip(_OWS)\n", "", SPELLINGS),
    Mutant("spaces_in_the_request_line_squeezed", HANDSHAKE, 'parts = line.split(b" ")', "parts = line.split()", LINE),
    Mutant(
        "method_not_checked",
        HANDSHAKE,
        'if head.method != b"GET":',
        'if head.method.upper() != b"GET":',
        ("tests/wire/test_handshake.py::test_another_method_is_400",),
    ),
    Mutant(
        "http_1_0_upgraded",
        HANDSHAKE,
        'if head.version != b"HTTP/1.1":',
        "if False:",
        ("tests/wire/test_handshake.py::test_http_1_0_is_426",),
    ),
    Mutant(
        "absolute_target_allowed",
        HANDSHAKE,
        'if not head.target.startswith(b"/"):',
        "if not head.target:",
        ("tests/wire/test_handshake.py::test_a_target_that_is_not_a_path_is_400",),
    ),
    Mutant("first_of_two_headers_taken", HANDSHAKE, "    if len(values) != 1:\n", "    if not values:\n", ALMOST),
    Mutant("host_not_checked", HANDSHAKE, "if not host or host.translate(None, _HOST):", "if not host:", ALMOST),
    Mutant(
        "websocket_in_a_list_allowed",
        HANDSHAKE,
        'if _only(fields, b"upgrade", "Upgrade").lower() != b"websocket":',
        'if b"websocket" not in _only(fields, b"upgrade", "Upgrade").lower():',
        ALMOST,
    ),
    Mutant(
        "upgrade_spelled_otherwise_refused",
        HANDSHAKE,
        '_only(fields, b"upgrade", "Upgrade").lower()',
        '_only(fields, b"upgrade", "Upgrade")',
        SPELLINGS,
    ),
    Mutant(
        "connection_not_read_as_a_list",
        HANDSHAKE,
        'b"upgrade" in {token.lower() for token in list_tokens(values)}',
        'b"upgrade" in b",".join(values).lower()',
        ALMOST,
    ),
    Mutant("transfer_encoding_allowed", HANDSHAKE, 'if b"transfer-encoding" in fields:', "if False:", ALMOST),
    Mutant("body_allowed", HANDSHAKE, 'if b"content-length" in fields and fields[b"content-length"] != [b"0"]:', "if False:", ALMOST),
    Mutant("content_length_0_refused", HANDSHAKE, ' and fields[b"content-length"] != [b"0"]:', ":", SPELLINGS),
    Mutant(
        "any_version_allowed",
        HANDSHAKE,
        'if fields.get(b"sec-websocket-version") != [WEBSOCKET_VERSION]:',
        'if b"sec-websocket-version" not in fields:',
        ALMOST,
    ),
    Mutant("key_of_another_size_allowed", HANDSHAKE, "[A-Za-z0-9+/]{22}==", "[A-Za-z0-9+/]+=*", ALMOST),
    Mutant(
        "what_is_almost_an_upgrade_passes_as_http",
        HANDSHAKE,
        'any(b"websocket" in value.lower() for value',
        'any(b"websocket" == value.lower() for value',
        ("tests/wire/test_handshake.py::test_one_sign_of_an_upgrade_is_enough",),
    ),
    Mutant(
        "key_alone_is_no_sign_of_an_upgrade",
        HANDSHAKE,
        'if b"sec-websocket-key" in fields or b"sec-websocket-version" in fields:',
        "if False:",
        (*ALMOST, "tests/wire/test_handshake.py::test_one_sign_of_an_upgrade_is_enough"),
    ),
    Mutant(
        "work_for_one_call_without_bound",
        BODY,
        "and not self.complete and steps > 0:",
        "and not self.complete:",
        ("tests/wire/test_body.py::test_one_call_does_a_bounded_part_of_the_work_and_gives_back_the_rest",),
    ),
    Mutant(
        "long_lines_cost_nothing",
        BODY,
        "                steps -= (end - position) // BYTES_PER_STEP\n",
        "",
        ("tests/wire/test_body.py::test_one_call_does_a_bounded_part_of_the_work_and_gives_back_the_rest",),
    ),
    Mutant("underscores_slip_through", HANDSHAKE, 'folded = name.replace(b"_", b"-")', "folded = name", OURS),
    Mutant("underscored_hop_by_hop_slips_through", HANDSHAKE, "= _OWNED | HOP_BY_HOP", "= _OWNED", OURS),
    Mutant(
        "forwarded_headers_of_the_client_kept",
        HANDSHAKE,
        "_NEVER_KEPT.union([name.lower() for name, _ in forwarded])",
        "_NEVER_KEPT",
        ("tests/wire/test_handshake.py::test_any_header_that_we_set_is_ours_alone",),
    ),
    Mutant(
        "hop_by_hop_headers_kept",
        HANDSHAKE,
        "return HOP_BY_HOP | (named - _END_TO_END)",
        "return frozenset(named - _END_TO_END)",
        ("tests/wire/test_handshake.py::test_hop_by_hop_headers_end_here",),
    ),
    Mutant(
        "connection_names_nothing_away",
        HANDSHAKE,
        "return HOP_BY_HOP | (named - _END_TO_END)",
        "return HOP_BY_HOP",
        ("tests/wire/test_handshake.py::test_connection_names_other_headers_away",),
    ),
    Mutant(
        "connection_names_the_token_away",
        HANDSHAKE,
        "return HOP_BY_HOP | (named - _END_TO_END)",
        "return HOP_BY_HOP | named",
        ("tests/wire/test_handshake.py::test_connection_cannot_name_away_what_the_client_was_counted_by",),
    ),
    Mutant(
        "connection_names_our_headers_away",
        HANDSHAKE,
        "(*ours, *kept, *forwarded))",
        "end_to_end((*ours[3:], *kept, *forwarded), head.fields))",
        NAMED_AWAY,
    ),
    Mutant(
        "accept_not_checked",
        HANDSHAKE,
        'if list(fields.get(b"sec-websocket-accept", ())) != [accept_value(request.key)]:',
        'if b"sec-websocket-accept" not in fields:',
        BAD_101,
    ),
    Mutant(
        "subprotocol_not_checked",
        HANDSHAKE,
        "if len(chosen) > 1 or (chosen and chosen[0] not in request.protocols):",
        "if len(chosen) > 1:",
        BAD_101,
    ),
    Mutant(
        "own_101_forgets_the_subprotocol",
        HANDSHAKE,
        "    if subprotocol is not None:\n",
        "    if False:\n",
        ("tests/wire/test_handshake.py::test_the_101_of_a_refusal_echoes_one_subprotocol_and_no_extension",),
    ),
    Mutant(
        "bytes_that_never_came_are_counted",
        FRAMES,
        "return self.payload_bytes - self._remaining if self._data else self.payload_bytes",
        "return self.payload_bytes",
        ("tests/wire/test_frames.py::test_what_a_header_only_announces_does_not_count",),
    ),
)

COMPRESSION = (
    Mutant("context_takeover_where_messages_are_dropped", EXTENSIONS, "if may_drop and CLIENT", "if False and CLIENT", NO_TAKEOVER),
    Mutant(
        "no_context_takeover_added_twice",
        EXTENSIONS,
        "if may_drop and CLIENT_NO_CONTEXT_TAKEOVER not in answer.parameters:",
        "if may_drop:",
        NO_TAKEOVER,
    ),
    Mutant(
        "no_context_takeover_added_unneeded",
        EXTENSIONS,
        "if may_drop and CLIENT_NO_CONTEXT_TAKEOVER not in",
        "if CLIENT_NO_CONTEXT_TAKEOVER not in",
        NO_TAKEOVER,
    ),
    Mutant(
        "other_extensions_offered_under_frame_rules",
        EXTENSIONS,
        "if not metered or offer.name == PERMESSAGE_DEFLATE",
        "if True",
        ("tests/wire/test_extensions.py::test_under_frame_rules_only_permessage_deflate_goes_upstream",),
    ),
    Mutant(
        "answer_that_was_not_offered_allowed",
        EXTENSIONS,
        "if answer.name not in {offer.name for offer in offers}:",
        "if False:",
        BAD_ANSWER,
    ),
    Mutant("two_answers_allowed", EXTENSIONS, "    if len(answers) > 1:\n", "    if len(answers) > 2:\n", BAD_ANSWER),
    Mutant(
        "unknown_extension_read_strictly",
        EXTENSIONS,
        "return Agreed(rsv1=True, lenient=True, header=answer.raw)",
        "return Agreed(rsv1=True, lenient=False, header=answer.raw)",
        ("tests/wire/test_extensions.py::test_an_extension_that_we_do_not_know_may_use_any_bit",),
    ),
    Mutant(
        "rsv1_allowed_when_declined",
        EXTENSIONS,
        "return Agreed(rsv1=False, lenient=False",
        "return Agreed(rsv1=True, lenient=False",
        ("tests/wire/test_extensions.py::test_declined_nothing_is_added_and_rsv1_is_a_fault",),
    ),
    Mutant(
        "chunk_ends_before_its_crlf",
        BODY,
        'self._remaining = size + len(b"\\r\\n")',
        "self._remaining = size",
        ("tests/wire/test_body.py::TestBody",),
    ),
)

PINGS = (
    Mutant("own_pong_forwarded", FRAMES, "if self._payload(data, end, length) == self.own_pong:", "if False:", OWN_PONG),
    Mutant("own_pong_compared_masked", FRAMES, "self._payload(data, end, length) == self.own_pong", "payload == self.own_pong", OWN_PONG),
    Mutant("every_pong_swallowed", FRAMES, "self._payload(data, end, length) == self.own_pong", "True", OWN_PONG),
    Mutant("cut_pong_not_held", FRAMES, "                    if size < end:\n                        break\n", "", OWN_PONG),
    Mutant("place_behind_own_pong_lost", FRAMES, "skipped += end - position", "skipped += 0", OWN_PONG),
    Mutant(
        "pong_of_a_server_taken_for_its_ping",
        FRAMES,
        "Opcode.PONG if self._mask_bit else Opcode.PING",
        "opcode",
        (f"{VIGILS}test_a_pong_of_the_backend_is_no_ping",),
    ),
    # pings
    Mutant(
        "dropped_ping_asks",
        FRAMES,
        "            elif skipping and not mask_bit:\n",
        "            elif False:\n",
        ("tests/wire/test_frames.py::test_a_ping_that_was_dropped_has_asked_nobody",),
    ),
    Mutant(
        "own_pongs_always_free", FRAMES, "                            self.own_pings -= 1\n", "                            pass\n", OWN_PONG
    ),
    Mutant(
        "own_pong_too_many_forgotten",
        FRAMES,
        "                        elif judge is not None and (verdict := judge(first, length, now)):\n                            self.attention",
        "                        elif False:\n                            self.attention",
        OWN_PONG,
    ),
)

MUTANTS = (
    *WALKER,
    *HANDSHAKES,
    *COMPRESSION,
    *PINGS,
)
