"""Hand-made mutants: each is one mistake that somebody could make, and the tests that must notice it.

To add one, append a row to the table of its package. `old` must occur exactly once in the file; take a longer piece of the line if it
does not. Name the narrowest tests that tell the story (a class or a function after `::`): the harness runs them and no others, and
each row costs its tests' time on every run.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file under `proxy/`, and the test paths of which at least one test must fail with it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


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
    Mutant("a_turn_one_frame_too_long", FRAMES, "            if not frames:", "            if frames < 0:", TURNS),
    Mutant(
        "a_turn_that_is_over_asks_for_nobody",
        FRAMES,
        "                self.halt = _OVER\n                self.attention = True\n",
        "                self.halt = Turn.OVER\n",
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

HEAD = ("tests/wire/test_handshake.py::test_a_header_line_that_is_none_is_400",)
LINE = ("tests/wire/test_handshake.py::test_a_request_line_that_is_none_is_400",)
ALMOST = ("tests/wire/test_handshake.py::TestAlmostAnUpgrade",)
SPELLINGS = ("tests/wire/test_handshake.py::test_other_spellings_of_a_good_upgrade",)
OURS = ("tests/wire/test_handshake.py::test_a_client_cannot_send_what_is_ours_or_between_two_hops",)
NAMED_AWAY = ("tests/wire/test_handshake.py::test_connection_cannot_name_our_headers_away",)
BAD_101 = ("tests/wire/test_handshake.py::test_a_101_that_a_client_would_refuse_is_502",)

DOOR = (
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
)

NO_TAKEOVER = ("tests/wire/test_extensions.py::test_where_messages_may_be_dropped_the_client_compresses_each_on_its_own",)
BAD_ANSWER = ("tests/wire/test_extensions.py::test_an_answer_that_was_not_offered_or_two_is_502",)

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

BUCKET = "proxy/ledger/token_bucket.py"
PENALTIES = "proxy/ledger/penalties.py"
MEMORY_STORE = "proxy/ledger/memory_store.py"
ADMISSION = "proxy/policy/admission.py"
METER = "proxy/policy/meter.py"
LIVE_FILE = "proxy/server/live.py"
NOTICES = "proxy/policy/notices.py"
IDENTITY = "proxy/policy/identity.py"
ROUTES = "proxy/policy/routes.py"
RULES = "proxy/policy/rules.py"

LINE = ("tests/ledger/test_token_bucket.py::TestLine",)
PENALTY = ("tests/ledger/test_penalties.py",)

LEDGER = (
    Mutant("penalty_made_shorter_by_the_next", PENALTIES, "end if known is None else max(known, end)", "end", PENALTY),
    Mutant("penalty_not_made_longer", PENALTIES, "else max(known, end)", "else known", PENALTY),
    Mutant("penalties_unbounded", PENALTIES, "if len(self._line) > self._most:", "if False:", PENALTY),
    Mutant("penalty_made_longer_is_forgotten", PENALTIES, "            if end > now:\n", "            if False:\n", PENALTY),
    Mutant("penalties_never_forgotten", PENALTIES, "line[0][0] <= now:", "line[0][0] <= 0:", PENALTY),
    Mutant(
        "penalty_takes_a_place_each_time", PENALTIES, "if known is not None:\n            return", "if False:\n            return", PENALTY
    ),
    Mutant(
        "penalty_claims_always_granted",
        MEMORY_STORE,
        "                if retry_after:\n",
        "                if False:\n",
        ("tests/ledger/test_memory_store.py::TestPenalties",),
    ),
    Mutant(
        "bucket_born_empty", BUCKET, "self.level = self.burst", "self.level = 0.0", ("tests/ledger/test_token_bucket.py::TestAtOneInstant",)
    ),
    Mutant(
        "bucket_above_its_burst",
        BUCKET,
        "elif level > self.burst:",
        "elif level > self.burst + 1:",
        ("tests/ledger/test_token_bucket.py::TestRefill",),
    ),
    Mutant(
        "bucket_refuses_what_is_exactly_enough",
        BUCKET,
        "return level - self.owed >= cost",
        "return level - self.owed > cost",
        ("tests/ledger/test_token_bucket.py::TestAtOneInstant",),
    ),
    Mutant(
        "bucket_tokens_taken_back_when_time_goes_backwards",
        BUCKET,
        "            level = self.level\n",
        "            pass\n",
        ("tests/ledger/test_token_bucket.py::TestTimeThatGoesBackwards",),
    ),
    Mutant(
        "bucket_stamp_stays_when_time_goes_backwards",
        BUCKET,
        "        if elapsed < 0:\n            self.stamp = now\n",
        "        if elapsed < 0:\n",
        ("tests/ledger/test_token_bucket.py::TestTimeThatGoesBackwards",),
    ),
    Mutant(
        "bucket_refused_charge_moves_the_stamp",
        BUCKET,
        "        self.pending = level\n",
        "        self.pending = level\n        self.stamp = now\n",
        ("tests/ledger/test_token_bucket.py::TestRefill",),
    ),
    Mutant(
        "bucket_spending_does_not_move_the_stamp",
        BUCKET,
        "self.level = self.pending - cost\n        self.stamp = now",
        "self.level = self.pending - cost",
        ("tests/ledger/test_token_bucket.py::TestRefill",),
    ),
    Mutant(
        "bucket_refused_charge_costs",
        BUCKET,
        "            return False\n        self.spend(cost, now)",
        "            self.level = min(self.level, 0.0)\n            return False\n        self.spend(cost, now)",
        ("tests/ledger/test_token_bucket.py::TestAtOneInstant",),
    ),
    Mutant(
        "bucket_rate_of_0_divides_by_zero",
        BUCKET,
        "if cost > self.burst or self.rate <= 0:\n            return inf\n        return (cost",
        "if cost > self.burst + 1:\n            return inf\n        return (cost",
        ("tests/ledger/test_token_bucket.py::TestNever",),
    ),
    Mutant(
        "bucket_rate_of_0_has_a_burst",
        BUCKET,
        "self.burst = burst if rate > 0 else 0.0",
        "self.burst = burst",
        ("tests/ledger/test_token_bucket.py::TestNever",),
    ),
    Mutant(
        "bucket_waits_for_a_cost_above_its_burst",
        BUCKET,
        "if cost > self.burst or self.rate <= 0:\n            return inf\n        return (cost",
        "if self.rate <= 0:\n            return inf\n        return (cost",
        ("tests/ledger/test_token_bucket.py::TestNever",),
    ),
    Mutant(
        "bucket_wait_from_the_last_spending",
        BUCKET,
        "return (cost + self.owed - self.pending) / self.rate",
        "return (cost + self.owed - self.level) / self.rate",
        ("tests/ledger/test_token_bucket.py::TestWait",),
    ),
    Mutant(
        "line_beyond_what_the_bucket_keeps_for_others",
        BUCKET,
        "if self.owed + cost > self.burst or self.rate",
        "if cost > self.burst or self.rate",
        LINE,
    ),
    Mutant(
        "late_newcomer_loses_to_a_full_bucket",
        BUCKET,
        "self.level + (start - self.stamp) * self.rate)",
        "self.level + (now - self.stamp) * self.rate)",
        LINE,
    ),
    Mutant("spending_as_of_before_the_last_one_gives_tokens", BUCKET, "        when = max(when, self.stamp)\n", "", LINE),
    Mutant("first_in_line_not_told", BUCKET, "            if hear is not None:\n", "            if False:\n", LINE),
    Mutant("line_overtaken_by_who_comes_later", BUCKET, "return level - self.owed >= cost", "return level >= cost", LINE),
    Mutant(
        "line_in_the_order_of_coming", BUCKET, "insort(self.line, (ticket, cost, hear))", "self.line.append((ticket, cost, hear))", LINE
    ),
    Mutant("line_of_which_each_thinks_to_be_first", BUCKET, "else self._ahead(ticket))\n", "else 0.0)\n", LINE),
    Mutant(
        "line_of_which_each_thinks_to_be_last",
        BUCKET,
        "cost + (self.owed if ticket is None else self._ahead(ticket))\n",
        "cost + self.owed\n",
        LINE,
    ),
    Mutant("line_due_now_where_it_was_due_before", BUCKET, "return min(now, self.stamp +", "return max(now, self.stamp +", LINE),
    Mutant("line_owes_to_who_has_left", BUCKET, "        self.owed = self.owed - cost if line else 0.0\n", "", LINE),
    Mutant("line_owes_what_rounding_left", BUCKET, "self.owed - cost if line else 0.0", "self.owed - cost", LINE),
    Mutant(
        "bucket_full_too_early",
        BUCKET,
        "self.stamp + (self.burst - self.level) / self.rate",
        "self.stamp + (self.burst - self.level) / self.rate / 2",
        ("tests/ledger/test_token_bucket.py::TestFullAt",),
    ),
    Mutant(
        "store_one_seat_too_many",
        MEMORY_STORE,
        "return self._counts.get(claim.key, 0) < claim.limit",
        "return self._counts.get(claim.key, 0) <= claim.limit",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_one_member_too_many",
        MEMORY_STORE,
        "or len(members) < claim.limit",
        "or len(members) <= claim.limit",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_second_tab_takes_a_seat",
        MEMORY_STORE,
        "return claim.member in members or len",
        "return len",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_second_tab_is_counted",
        MEMORY_STORE,
        "            if members[claim.member] > 1:\n                return\n",
        "",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_first_tab_empties_the_seat",
        MEMORY_STORE,
        "        if members[member]:\n            return False\n",
        "",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_releases_twice",
        MEMORY_STORE,
        "seats, grant.seats = grant.seats, ()",
        "seats = grant.seats",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_takes_before_all_is_decided",
        MEMORY_STORE,
        "                broken = not self._has_room(claim)\n",
        "                broken = not self._has_room(claim)\n                if not broken and index == 0:\n                    self._sit(claim)\n",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_names_the_last_broken_claim",
        MEMORY_STORE,
        "for index, claim in enumerate(ask):",
        "for index, claim in reversed(list(enumerate(ask))):",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_shadow_denies",
        MEMORY_STORE,
        "                if not claim.shadow:\n",
        "                if True:\n",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_shadow_takes_no_seat_beyond_the_limit",
        MEMORY_STORE,
        "        for claim in ask:\n            if isinstance",
        "        for claim in (one for index, one in enumerate(ask) if index not in over):\n            if isinstance",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_admission_spends_no_token",
        MEMORY_STORE,
        "        bucket.take(1.0, now)\n",
        "",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_seats_go_back_but_the_key_stays",
        MEMORY_STORE,
        "                if left:\n",
        "                if left >= 0:\n",
        ("tests/ledger/test_memory_store.py::test_seats_leave_nothing_behind",),
    ),
    Mutant(
        "store_empty_rooms_stay",
        MEMORY_STORE,
        "        if not members:\n            del self._members[key]\n",
        "",
        ("tests/ledger/test_memory_store.py::test_seats_leave_nothing_behind",),
    ),
    Mutant(
        "store_bucket_forgotten_with_its_connection",
        MEMORY_STORE,
        "        self._buckets[key] = bucket\n        if bucket.users or",
        "        self._buckets.pop(key, None)\n        if bucket.users or",
        ("tests/ledger/test_memory_store.py::TestContract",),
    ),
    Mutant(
        "store_bucket_forgotten_before_it_is_full",
        MEMORY_STORE,
        "if not bucket.users and full_at > now:",
        "if not bucket.users and full_at > now + 5:",
        ("tests/ledger/test_memory_store.py::test_a_bucket_that_was_spent_from_again_is_kept_until_it_is_full_from_then",),
    ),
    Mutant(
        "store_forgets_a_bucket_that_is_held_open",
        MEMORY_STORE,
        "        bucket.queued = False\n        if not bucket.users:\n            del",
        "        bucket.queued = False\n        if True:\n            del",
        ("tests/ledger/test_memory_store.py::TestIdleBound::test_a_bucket_that_is_held_open_is_never_evicted",),
    ),
    Mutant(
        "store_lines_a_bucket_up_again_and_again",
        MEMORY_STORE,
        "if bucket.users or bucket.queued:",
        "if bucket.users:",
        ("tests/ledger/test_memory_store.py::test_connecting_and_leaving_over_and_over_lines_a_bucket_up_once",),
    ),
    Mutant(
        "store_idle_buckets_unbounded",
        MEMORY_STORE,
        "if len(self._idle) > self._max_idle:",
        "if False:",
        ("tests/ledger/test_memory_store.py::TestIdleBound",),
    ),
    Mutant(
        "store_evicts_by_an_old_time",
        MEMORY_STORE,
        "if bucket.users or full_at <= lined_up:",
        "if True:",
        ("tests/ledger/test_memory_store.py::TestIdleBound",),
    ),
    Mutant(
        "store_sweep_without_a_bound",
        MEMORY_STORE,
        "self._forget_full(now, SWEEP_BATCH)",
        "self._forget_full(now, 1 << 60)",
        ("tests/ledger/test_memory_store.py::test_a_sweep_is_bounded_work",),
    ),
)

ADMISSION_RULES = (
    Mutant(
        "admission_member_is_the_connection",
        ADMISSION,
        "member = principal.user if",
        "member = principal.connection if",
        ("tests/policy/test_admission.py::TestAnonymous",),
    ),
    Mutant(
        "admission_counts_connections_as_members",
        ADMISSION,
        "if rule.quantity is Quantity.MEMBERS else None",
        "if True else None",
        ("tests/policy/test_admission.py::TestEveryRuleFires::test_for_whoever_shares_all_that_it_counts_by",),
    ),
    Mutant(
        "admission_room_rule_without_a_room",
        ADMISSION,
        "if Per.ROOM in rule.per and principal.room is None:",
        "if False:",
        ("tests/policy/test_admission.py::TestApplies",),
    ),
    Mutant(
        "admission_empty_room_name_is_no_room",
        ADMISSION,
        "if Per.ROOM in rule.per and principal.room is None:",
        "if Per.ROOM in rule.per and not principal.room:",
        ("tests/policy/test_admission.py::TestApplies",),
    ),
    Mutant(
        "admission_shadow_forgotten",
        ADMISSION,
        "int(rule.limit), rule.shadow, member)",
        "int(rule.limit), False, member)",
        ("tests/policy/test_admission.py::TestShadow",),
    ),
    Mutant("admission_wait_rounded_down", ADMISSION, "ceil(min(", "int(min(", ("tests/policy/test_admission.py::TestWhatTheClientIsTold",)),
    Mutant(
        "admission_wait_without_an_end",
        ADMISSION,
        "min(self.retry_after * 1000, MAX_RETRY_MS)",
        "min(self.retry_after * 1000, 1e30)",
        ("tests/policy/test_admission.py::TestWhatTheClientIsTold",),
    ),
    Mutant(
        "refusals_one_too_few",
        ADMISSION,
        "deque(maxlen=REFUSALS + 1)",
        "deque(maxlen=REFUSALS)",
        ("tests/policy/test_admission.py::TestRefusalHistory",),
    ),
    Mutant(
        "refusals_counted_per_address_alone",
        ADMISSION,
        "principal.ip if principal.anonymous else principal.user",
        "principal.ip",
        ("tests/policy/test_admission.py::TestRefusalHistory",),
    ),
    Mutant(
        "refusals_of_anonymous_clients_never_add_up",
        ADMISSION,
        "principal.ip if principal.anonymous else principal.user",
        "principal.user",
        ("tests/policy/test_admission.py::TestRefusalHistory",),
    ),
    Mutant(
        "refusals_unbounded",
        ADMISSION,
        "if len(self._times) > self._most:",
        "if False:",
        ("tests/policy/test_admission.py::TestRefusalHistory",),
    ),
    Mutant(
        "refusals_forget_the_last_one_first",
        ADMISSION,
        "            self._times.move_to_end(key)\n",
        "            pass\n",
        ("tests/policy/test_admission.py::TestRefusalHistory",),
    ),
)

TOGETHER = ("tests/policy/test_meter.py::TestChargedTogetherOrNotAtAll",)
RATES = ("tests/policy/test_meter.py::TestRates",)
SIZES = ("tests/policy/test_meter.py::TestSizes",)
BYTES = ("tests/policy/test_meter.py::TestBytes",)
FRAGMENT_COUNTS = ("tests/policy/test_meter.py::TestFragments",)
DELAY = ("tests/policy/test_meter.py::TestDelay",)
SEVERITY = ("tests/policy/test_meter.py::TestSeverity",)
SHADOW = ("tests/policy/test_meter.py::TestShadow",)
CLOSE_AFTER = ("tests/policy/test_meter.py::TestCloseAfter",)
PENALIZED = ("tests/policy/test_meter.py::TestPenalty",)

METERS = (
    Mutant(
        "meter_charges_the_first_rule_alone",
        METER,
        "        for bucket in buckets:\n            bucket.level = bucket.pending - ONE",
        "        for bucket in buckets[:1]:\n            bucket.level = bucket.pending - ONE",
        TOGETHER,
    ),
    Mutant("meter_charges_one_by_one", METER, "bucket.pending = level\n", "bucket.pending = bucket.level = level - ONE\n", TOGETHER),
    Mutant(
        "meter_plain_path_above_the_burst", METER, "if level > bucket.burst:", "if False:", ("tests/policy/test_meter.py::TestPlainPath",)
    ),
    Mutant(
        "meter_plain_path_believes_a_clock_that_steps_back",
        METER,
        "or elapsed < 0.0:",
        "or False:",
        ("tests/policy/test_meter.py::TestPlainPath",),
    ),
    Mutant(
        "meter_plain_path_for_shadows_too",
        METER,
        "self._is_plain = not (self._bytes or self._shadows or delays)",
        "self._is_plain = not (self._bytes or delays)",
        SHADOW,
    ),
    Mutant(
        "meter_plain_path_for_bytes_too",
        METER,
        "self._is_plain = not (self._bytes or self._shadows or delays)",
        "self._is_plain = not (self._shadows or delays)",
        BYTES,
    ),
    Mutant(
        "meter_plain_path_for_delays_too",
        METER,
        "self._is_plain = not (self._bytes or self._shadows or delays)",
        "self._is_plain = not (self._bytes or self._shadows)",
        DELAY,
    ),
    Mutant("meter_bytes_not_asked", METER, "if not bucket.would_pass(length, now):", "if bucket is None:", BYTES),
    Mutant("meter_only_text_counted", METER, "_LAST_DATA: Final = int(Opcode.BINARY)", "_LAST_DATA: Final = int(Opcode.TEXT)", RATES),
    Mutant(
        "meter_control_frames_charged",
        METER,
        "ones = self._controls if opcode > _LAST_DATA else",
        "ones = self._messages if opcode > _LAST_DATA else",
        RATES,
    ),
    Mutant("meter_continuations_charged", METER, "else self._messages if opcode else ()", "else self._messages", RATES),
    Mutant(
        "meter_size_of_the_frame_alone",
        METER,
        "return self._message_size + length, self._fragments + 1",
        "return length, self._fragments + 1",
        SIZES,
    ),
    Mutant(
        "meter_fragments_not_counted",
        METER,
        "return self._message_size + length, self._fragments + 1",
        "return self._message_size + length, 1",
        FRAGMENT_COUNTS,
    ),
    Mutant(
        "meter_control_frames_are_fragments",
        METER,
        "        if opcode <= _LAST_DATA:\n            self._message_size",
        "        if True:\n            self._message_size",
        (*SIZES, *FRAGMENT_COUNTS),
    ),
    Mutant(
        "meter_size_of_the_last_message_stays",
        METER,
        "        self._message_size = length\n        self._fragments = 1\n",
        "        self._message_size += length\n        self._fragments = 1\n",
        SIZES,
    ),
    Mutant(
        "meter_size_limit_itself_is_too_large",
        METER,
        "if length > self._max_size:",
        "if length >= self._max_size and self._judge(opcode, length + 1, now):",
        SIZES,
    ),
    Mutant(
        "meter_rule_broken_by_what_it_allows",
        METER,
        "else fragments) > rule.limit",
        "else fragments) >= rule.limit",
        (*SIZES, *FRAGMENT_COUNTS),
    ),
    Mutant("meter_continuation_dropped", METER, "or opcode == _CONTINUATION or not (", "or not (", SIZES),
    Mutant("meter_drop_beats_close", METER, "_DROP: 2, _CLOSE: 3}", "_DROP: 3, _CLOSE: 2}", SEVERITY),
    Mutant("meter_delay_beats_drop", METER, "_HOLD: 1, _DROP: 2,", "_HOLD: 2, _DROP: 1,", DELAY),
    Mutant(
        "meter_last_rule_named",
        METER,
        "if _SEVERITY[verdict] > _SEVERITY[worst]:",
        "if _SEVERITY[verdict] >= _SEVERITY[worst] > 0 or _SEVERITY[verdict] > _SEVERITY[worst]:",
        SEVERITY,
    ),
    Mutant(
        "meter_shadow_acts",
        METER,
        "self._enforced = tuple(one for one in accounts if not one.frame_rule.rule.shadow)",
        "self._enforced = tuple(accounts)",
        SHADOW,
    ),
    Mutant("meter_shadow_counts_each_frame", METER, "if opcode == _CONTINUATION and account.is_stopped:", "if False:", SHADOW),
    Mutant(
        "meter_shadow_stops_for_ever",
        METER,
        "account.is_stopped = verdict is _DROP or verdict is _CLOSE",
        "account.is_stopped = account.is_stopped or verdict is _DROP",
        (*SHADOW, "tests/policy/test_meter_model.py"),
    ),
    Mutant(
        "meter_shadow_delay_always_a_delay",
        METER,
        "_CLOSE if bucket.wait(cost, now) > rule.max_delay else _HOLD",
        "_HOLD",
        DELAY,
    ),
    Mutant("meter_cost_of_bytes_is_one", METER, "                return length\n", "                return ONE\n", BYTES),
    Mutant(
        "meter_waits_without_end",
        METER,
        "return (_CLOSE if bucket.earliest(cost, None if held is None else held.ticket) > latest else _HOLD), due",
        "return _HOLD, due",
        DELAY,
    ),
    Mutant(
        "meter_wait_bounds_the_backlog",
        METER,
        "else held.since) + rule.max_delay + EARLY",
        "else held.since)",
        (*DELAY, "tests/policy/test_meter_model.py"),
    ),
    Mutant("meter_late_loses", METER, "min(now, max(then, dues.get(bucket, now)))", "now", DELAY),
    Mutant("meter_late_without_bound", METER, "max(now - LATE, *kept)", "max(kept)", (*DELAY, "tests/policy/test_meter_model.py")),
    Mutant(
        "meter_delay_counted_at_each_ask",
        METER,
        "if not held.is_counted and not bucket.is_asking:",
        "if not bucket.is_asking:",
        DELAY,
    ),
    Mutant("meter_keeps_its_place_in_all_lines", METER, "            elif held.leave(bucket):\n", "            elif False:\n", DELAY),
    Mutant("meter_asks_when_the_last_bucket_is_ready", METER, "hold_until = min(hold_until, due)", "hold_until = due", DELAY),
    Mutant(
        "meter_who_is_behind_is_not_told",
        METER,
        "        for bucket in self._step_out():\n            bucket.tell_first(now)\n",
        "        self._step_out()\n",
        DELAY,
    ),
    Mutant(
        "meter_who_is_behind_one_that_passed_is_not_told",
        METER,
        "        for bucket in left:\n            bucket.tell_first(now)\n",
        "",
        DELAY,
    ),
    Mutant(
        "meter_who_steps_out_tells_nobody",
        METER,
        "            elif held.leave(bucket):\n                bucket.tell_first(now)\n",
        "            else:\n                held.leave(bucket)\n",
        DELAY,
    ),
    Mutant("meter_wakes_whoever_is_first", METER, "due < self.until - SOONER", "True", DELAY),
    Mutant(
        "meter_late_of_others_closes",
        METER,
        "        if due <= latest:\n            return _HOLD, due\n        return (_CLOSE if bucket.earliest(cost, None if held is None else held.ticket) > latest else _HOLD), due",
        "        return (_CLOSE if due > latest else _HOLD), due",
        DELAY,
    ),
    Mutant("meter_backlog_loses_what_is_late", METER, "self._held is not None or self._late:", "self._held is not None:", DELAY),
    Mutant(
        "meter_pause_of_the_client_is_lateness",
        METER,
        "return now - min(LATE, self._late) if 0.0 <=",
        "return self._passed_at - min(LATE, self._late) if 0.0 <=",
        DELAY,
    ),
    Mutant(
        "meter_late_is_never_forgotten",
        METER,
        "if 0.0 <= now - self._passed_at <= LATE else now",
        "if 0.0 <= now - self._passed_at else now",
        (*DELAY, "tests/policy/test_meter_model.py"),
    ),
    Mutant(
        "meter_ends_its_own_penalty",
        LIVE_FILE,
        "            tunnel.meters.penalize(self.store, time.monotonic())\n",
        "            pass\n",
        ("tests/limits/test_exactness.py::test_an_unknown_client_stays_out_by_its_address",),
    ),
    Mutant(
        "meter_released_at_the_first_sign_of_the_end",
        LIVE_FILE,
        "            tunnel.meters.penalize(self.store, time.monotonic())\n",
        "            tunnel.meters.penalize(self.store, time.monotonic())\n            tunnel.meters.release(self.store, time.monotonic())\n            tunnel.meters = None\n",
        ("tests/server/test_tunnel.py::test_frames_of_a_tunnel_that_ends_are_charged_to_the_key_all_the_same",),
    ),
    Mutant("meter_stands_in_every_line", METER, "if cost and bucket.due(cost, now, held.ticket) > now + EARLY:", "if cost:", DELAY),
    Mutant("meter_a_ghost_in_the_line", METER, "        self._is_released = True\n", "", DELAY),
    Mutant(
        "meter_who_is_dropped_stays_in_line", METER, "        self._leave_lines(now)\n        cost = named", "        cost = named", DELAY
    ),
    Mutant(
        "meter_who_leaves_stays_in_line",
        METER,
        "        self._leave_lines(now)\n        self._is_released",
        "        self._is_released",
        DELAY,
    ),
    Mutant(
        "meter_tickets_of_its_own",
        METER,
        "self._tickets = count() if tickets is None else tickets",
        "self._tickets = count()",
        (*DELAY, "tests/policy/test_meter_model.py"),
    ),
    Mutant(
        "meter_drop_garbles_the_next",
        METER,
        "or not (self.can_drop or opcode > _LAST_DATA)",
        "",
        ("tests/policy/test_meter.py::TestDirection",),
    ),
    Mutant("meter_directions_mixed", METER, "if one.rule.direction is Direction.OUT]", "]", ("tests/policy/test_meter.py::TestDirection",)),
    Mutant(
        "meter_close_after_one_more",
        METER,
        "len(self.breaches) == close_after.breaches and",
        "len(self.breaches) > close_after.breaches and",
        CLOSE_AFTER,
    ),
    Mutant("meter_close_after_whenever", METER, " and now - self.breaches[0] <= close_after.within", "", CLOSE_AFTER),
    Mutant("meter_breaches_unbounded", METER, "deque(maxlen=close_after.breaches)", "deque()", CLOSE_AFTER),
    Mutant("meter_penalty_forgotten", METER, "            store.penalize(", "            (lambda *_: None)(", PENALIZED),
    Mutant("meter_penalty_not_told", METER, "        if rule.penalty:\n", "        if False:\n", PENALIZED),
    Mutant(
        "meter_penalty_of_whoever_has_no_token", ADMISSION, "(Per.IP,) if principal.anonymous else (Per.USER,)", "(Per.USER,)", PENALIZED
    ),
    Mutant("meter_penalty_in_shadow", ADMISSION, "rule.penalty > 0 and not rule.shadow", "rule.penalty > 0", PENALIZED),
    Mutant(
        "meter_buckets_leak",
        METER,
        "        store.close_bucket(account.key, account.bucket)",
        "        account.bucket.queued = False",
        ("tests/policy/test_meter.py::TestRates::test_after_the_release_the_store_forgets_what_is_full_again",),
    ),
    Mutant(
        "meter_may_drop_for_a_shadow",
        METER,
        "rule.on_excess is OnExcess.DROP and not rule.shadow and",
        "rule.on_excess is OnExcess.DROP and",
        ("tests/policy/test_meter.py::TestMayDrop",),
    ),
    Mutant("notices_for_every_drop", NOTICES, "if now < self._next.get(rule, now):", "if False:", ("tests/policy/test_notices.py",)),
    Mutant(
        "notices_of_all_rules_in_one",
        NOTICES,
        "self._next[rule] = now + NOTICE_INTERVAL",
        'self._next = dict.fromkeys((rule, "a", "b"), now + NOTICE_INTERVAL)',
        ("tests/policy/test_notices.py",),
    ),
)

IDENTITIES = (
    Mutant(
        "identity_one_id_for_all_anonymous_users",
        IDENTITY,
        'self._digest(b"anonymous", connection)',
        'self._digest(b"anonymous", b"")',
        ("tests/policy/test_identity.py::TestAnonymous",),
    ),
    Mutant(
        "identity_without_a_key",
        IDENTITY,
        "digest_size=DIGEST_SIZE, key=self._secret,",
        "digest_size=DIGEST_SIZE,",
        ("tests/policy/test_identity.py::TestDigests",),
    ),
    Mutant(
        "identity_short_digest",
        IDENTITY,
        "DIGEST_SIZE: Final = 16",
        "DIGEST_SIZE: Final = 8",
        ("tests/policy/test_identity.py::TestDigests",),
    ),
    Mutant(
        "identity_long_secret_cut",
        IDENTITY,
        "else blake2b(rules.secret).digest()",
        "else rules.secret[:MAX_SECRET]",
        ("tests/policy/test_identity.py::TestDigests",),
    ),
    Mutant(
        "identity_parts_without_length",
        IDENTITY,
        'len(part).to_bytes(4, "big") + part for',
        "part for",
        ("tests/policy/test_identity.py::TestKeys",),
    ),
    Mutant(
        "identity_unix_is_an_address", IDENTITY, 'return b"unix socket"', 'return b"unix"', ("tests/policy/test_identity.py::TestKeys",)
    ),
    Mutant(
        "identity_first_forwarded_for_counts",
        IDENTITY,
        "for entry in reversed(forwarded_for(fields)):",
        "for entry in forwarded_for(fields):",
        ("tests/policy/test_identity.py::TestClientAddress",),
    ),
    Mutant(
        "identity_any_peer_is_believed",
        IDENTITY,
        "        if not peer.trusted:\n            return client\n",
        "",
        ("tests/policy/test_identity.py::TestClientAddress",),
    ),
    Mutant(
        "identity_goes_on_behind_what_is_no_address",
        IDENTITY,
        "            if address is None:\n                break\n",
        "            if address is None:\n                continue\n",
        ("tests/policy/test_identity.py::TestClientAddress",),
    ),
    Mutant(
        "identity_whole_ipv6_address",
        IDENTITY,
        "(int(address) >> host_bits << host_bits)",
        "int(address)",
        ("tests/policy/test_identity.py::TestWhatPerIpCounts",),
    ),
    Mutant(
        "identity_mapped_ipv4_is_ipv6",
        IDENTITY,
        "return address.ipv4_mapped or IPv6Address",
        "return IPv6Address",
        ("tests/policy/test_identity.py::TestAddresses",),
    ),
    Mutant(
        "identity_two_tokens_allowed",
        IDENTITY,
        "if len(found) > 1:",
        "if False:",
        ("tests/policy/test_identity.py::TestTwoTokensInOneSource",),
    ),
    Mutant(
        "identity_second_authorization_ignored",
        IDENTITY,
        "if len(values) > 1:",
        "if False:",
        ("tests/policy/test_identity.py::TestTwoTokensInOneSource",),
    ),
    Mutant(
        "identity_other_readings_of_the_query_ignored",
        IDENTITY,
        'rb"[&;#?]", query',
        'rb"[&]", query',
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_fragment_ignored",
        IDENTITY,
        'rb"[&;#?]", query',
        'rb"[&;?]", query',
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_octal_escapes_kept",
        IDENTITY,
        "unquote_to_bytes(_unquoted(value.strip()))",
        "unquote_to_bytes(value.strip())",
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_any_number_of_parameters",
        IDENTITY,
        "if len(pairs) > MAX_PAIRS:",
        "if False:",
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "linger_looks_no_further_than_a_turn",
        "proxy/server/linger.py",
        "            elif walker.halt is Turn.OVER:\n",
        "            elif walker.halt is Turn:\n",
        ("tests/server/test_linger.py::test_a_close_behind_very_many_frames_ends_it",),
    ),
    Mutant(
        "linger_reads_what_it_cannot_walk",
        "proxy/server/linger.py",
        "                self._transport.pause_reading()\n",
        "",
        ("tests/server/test_linger.py::test_more_is_not_read_before_all_is_looked_at",),
    ),
    Mutant(
        "flood_goes_first",
        "proxy/server/tunnel.py",
        "        half.pause()\n        half.hold = self._loop.call_soon(self._ask_again, half)\n",
        "        half.pause()\n        self._ask_again(half)\n",
        ("tests/server/test_tunnel.py::test_others_have_their_turn_between_those_of_a_flood",),
    ),
    Mutant(
        "flood_is_read_while_it_is_walked",
        "proxy/server/tunnel.py",
        "        half.pause()\n        half.hold = self._loop.call_soon(",
        "        half.paused += 1\n        half.hold = self._loop.call_soon(",
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
    Mutant(
        "bytes_that_never_came_are_counted",
        FRAMES,
        "return self.payload_bytes - self._remaining if self._data else self.payload_bytes",
        "return self.payload_bytes",
        ("tests/wire/test_frames.py::test_what_a_header_only_announces_does_not_count",),
    ),
    Mutant(
        "identity_blanks_around_a_cookies_equals_sign_hide_it",
        IDENTITY,
        're.sub(rb"\\s*=\\s*", b"=", line)',
        "line",
        ("tests/policy/test_identity.py::test_no_cookie_hides_a_token_from_us_that_a_common_backend_finds",),
    ),
    Mutant(
        "identity_blank_between_cookies_ignored",
        IDENTITY,
        're.split(rb"[;,\\s]", re.sub(',
        're.split(rb"[;]", re.sub(',
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_spare_bits_count",
        IDENTITY,
        "last[:SIGNATURE_DIGITS] if signed",
        "last if signed",
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_signature_does_not_count",
        IDENTITY,
        "last[:SIGNATURE_DIGITS] if signed",
        'b"" if signed',
        ("tests/policy/test_identity.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_open_quote_in_forwarded_believed",
        IDENTITY,
        "        if match is None:\n            return None\n",
        "        if match is None:\n            return nodes\n",
        ("tests/policy/test_identity.py::TestForwarded",),
    ),
    Mutant(
        "identity_smuggled_forwarded_carried_on",
        IDENTITY,
        'if list_tokens(fields.get(b"x-forwarded-for", ())):',
        "if False:",
        ("tests/policy/test_identity.py::TestForwardingHeaders",),
    ),
    Mutant(
        "identity_stranger_speaks_for_others",
        IDENTITY,
        "    if not peer.trusted:  # which",
        "    if False:  # which",
        ("tests/policy/test_identity.py::TestForwardingHeaders",),
    ),
    Mutant(
        "identity_token_echoed",
        IDENTITY,
        "if not protocol.lower().startswith(prefixes):",
        "if True:",
        ("tests/policy/test_identity.py::TestEchoedSubprotocol",),
    ),
)

ROUTING = (
    Mutant(
        "routes_lenient_form_not_looked_at",
        ROUTES,
        "if lenient is not strict and lenient is not None and",
        "if lenient is not strict and lenient is not None and False and",
        ("tests/policy/test_routes.py::TestLenientBackends",),
    ),
    Mutant(
        "routes_lenient_form_keeps_its_case",
        ROUTES,
        ".casefold().encode(errors",
        ".encode(errors",
        ("tests/policy/test_routes.py::TestLenientBackends",),
    ),
    Mutant(
        "routes_lenient_form_not_decoded",
        ROUTES,
        "return unquote_to_bytes(text).decode(errors",
        "return text.decode(errors",
        ("tests/policy/test_routes.py::TestLenientBackends",),
    ),
    Mutant("routes_double_slash_allowed", ROUTES, 're.compile(rb"//|[;', 're.compile(rb"[;', ("tests/policy/test_routes.py::TestRefused",)),
    Mutant("routes_encoded_slash_allowed", ROUTES, "|%2[fF]|", "|%2[F]|", ("tests/policy/test_routes.py::TestRefused",)),
    Mutant(
        "routes_encoded_dot_segment_allowed", ROUTES, "(?:\\.|%2[eE]){1,2}", "(?:\\.){1,2}", ("tests/policy/test_routes.py::TestRefused",)
    ),
    Mutant("routes_non_ascii_allowed", ROUTES, "\\x7f-\\xff", "\\x7f", ("tests/policy/test_routes.py::TestRefused",)),
    Mutant(
        "routes_room_decoded_twice",
        ROUTES,
        'unquote_to_bytes(value.rstrip(b"/")).decode()',
        'unquote_to_bytes(unquote_to_bytes(value.rstrip(b"/"))).decode()',
        ("tests/policy/test_routes.py::TestRoomNames",),
    ),
    Mutant(
        "routes_room_not_decoded",
        ROUTES,
        'unquote_to_bytes(value.rstrip(b"/")).decode()',
        'value.rstrip(b"/").decode()',
        ("tests/policy/test_routes.py::TestRoomNames",),
    ),
    Mutant(
        "routes_room_length_in_characters",
        ROUTES,
        "if len(room.encode()) > MAX_ROOM_NAME:",
        "if len(room) > MAX_ROOM_NAME:",
        ("tests/policy/test_routes.py::TestRoomNames",),
    ),
    Mutant(
        "routes_slash_at_the_end_is_another_room", ROUTES, 'value.rstrip(b"/")', "value", ("tests/policy/test_routes.py::TestMatching",)
    ),
    Mutant("routes_room_case_kept", ROUTES, "return room.casefold() if", "return room if", ("tests/policy/test_routes.py::TestRoomNames",)),
    Mutant(
        "routes_last_match_wins",
        ROUTES,
        "for route, pattern in table:",
        "for route, pattern in reversed(table):",
        ("tests/policy/test_routes.py::TestMatching",),
    ),
    Mutant(
        "routes_literals_are_patterns",
        ROUTES,
        "return _compile(template, re.escape)",
        "return _compile(template, str)",
        ("tests/policy/test_routes.py::TestMatching",),
    ),
    Mutant(
        "codes_of_rooms_and_addresses_mixed_up",
        RULES,
        "case Quantity.MESSAGES if per == (Per.IP,):",
        "case Quantity.MESSAGES if Per.IP in per:",
        ("tests/policy/test_rules.py::test_codes_and_close_codes",),
    ),
    Mutant(
        "when_any_condition_is_enough",
        RULES,
        "if self.anonymous is not None and anonymous is not self.anonymous:",
        "if False:",
        ("tests/policy/test_rules.py::TestWhen",),
    ),
    Mutant("burst_below_one_token", RULES, "max(1.0, rate) if", "rate if", ("tests/policy/test_rules.py::TestDefaultBurst",)),
)

LINGER = "proxy/server/linger.py"
AT_THE_DOOR = "proxy/server/door.py"
TUNNEL = "proxy/server/tunnel.py"
UPGRADE = "proxy/server/upgrade.py"
LIVE = "proxy/server/live.py"
UPSTREAM = "proxy/server/upstream.py"
APP = "proxy/app.py"
METRICS = "proxy/metrics.py"

FLOOD = ("tests/server/test_tunnel.py::test_a_client_that_floods_reads_our_close_and_then_the_end",)
SLOW_ANSWER = ("tests/server/test_upstream.py::test_a_slow_client_slows_the_backend_down_and_gets_every_byte",)
WAITS_FOR_FRAME = ("tests/server/test_tunnel.py::test_a_close_of_ours_waits_for_the_end_of_a_frame",)
CUT_INSIDE = ("tests/server/test_tunnel.py::test_a_stream_that_is_cut_inside_a_frame_ends_in_fin_and_nothing_of_ours",)
LEAVES_WHILE_DIALING = ("tests/server/test_upgrade.py::test_a_client_that_leaves_while_we_wait_for_the_backend_frees_its_seats",)
STALLS = ("tests/server/test_tunnel.py::test_a_reader_that_stalls_stops_the_writer_and_later_gets_every_byte",)
NOTICE_WAITS = ("tests/server/test_tunnel.py::test_a_notice_waits_for_the_end_of_a_message_and_stands_between_two",)

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
        "len(self._received) >= size + len(END_OF_HEAD)",
        "len(self._received) > size",
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
        "        if self._received:\n",
        "        if False:\n",
        ("tests/server/test_door.py::test_half_a_head_at_its_deadline_is_408",),
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
        "seats_kept_until_a_close_is_answered",
        LIVE,
        "        self.store.release(held.grant)\n        if tunnel.meter",
        "        if tunnel.meter",
        ("tests/server/test_tunnel.py::test_a_seat_is_free_at_the_first_sign_of_the_end",),
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
    Mutant("bad_frame_ends_the_lingering", LINGER, "if isinstance(walker.halt, CloseFrame):", "if walker.halt is not None:", FLOOD),
    Mutant(
        "lingering_without_number",
        LINGER,
        "if len(self._peers) >= self._most:",
        "if False:",
        ("tests/server/test_linger.py::test_it_is_bounded_in_number_and_the_oldest_gives_way",),
    ),
    # the program and its numbers
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
)

CAPACITY = "proxy/server/capacity.py"
TLS = "proxy/server/tls.py"
TLS_LISTENER = "proxy/server/tls_listener.py"
SOCKETS = "proxy/server/sockets.py"
LOG = "proxy/log.py"

PLACES_BACK = ("tests/server/test_capacity.py::test_a_place_is_given_back_by",)
COALESCED = ("tests/test_log.py::test_of_each_group_a_few_lines_are_written_and_the_rest_is_counted",)

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
    Mutant(
        "proxy_bounded_like_a_client",
        IDENTITY,
        "            return Peer(parsed, trusted=True)\n",
        "            return Peer(parsed, trusted=True, name=str(parsed))\n",
        ("tests/server/test_capacity.py::test_a_trusted_proxy_may_have_more_than_one_address",),
    ),
    Mutant(
        "every_address_of_a_network_counted_by_itself",
        IDENTITY,
        "self.ip(parsed).hex()",
        "str(parsed)",
        ("tests/policy/test_identity.py::TestPeer::test_of_one_ipv6_network_has_one_name",),
    ),
    Mutant("place_of_a_head_kept", AT_THE_DOOR, "            self._place.leave()\n", "            pass\n", PLACES_BACK),
    Mutant(
        "clients_of_a_proxy_without_number",
        UPGRADE,
        "self.identifier.vouched_name(peer, head.fields)",
        "None",
        ("tests/server/test_capacity.py::test_behind_a_trusted_proxy_each_client_has_a_part_of_the_places",),
    ),
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
        "tls_wanted_half_open",
        TUNNEL,
        "return self.transport.can_write_eof()",
        "return True",
        ("tests/server/test_tls.py::test_a_client_that_leaves_is_told_to_the_backend",),
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
    # logs and warnings
    Mutant("flood_of_lines", LOG, "return count <= LINES_PER_SECOND", "return True", COALESCED),
    Mutant("left_out_lines_not_told", LOG, "if count > LINES_PER_SECOND and isinstance(key, tuple):", "if False:", COALESCED),
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
    # the end
    Mutant(
        "all_sent_away_at_once",
        APP,
        "total - len(tunnels) < ceil(total * share)",
        "True",
        ("tests/test_app.py::test_a_drain_is_spread_over_its_time",),
    ),
)

ADMIT = "proxy/ledger/lua/admit.lua"
TELL = "proxy/ledger/lua/tell.lua"
REAP = "proxy/ledger/lua/reap.lua"
BURY = "proxy/ledger/lua/bury.lua"
BEAT = "proxy/ledger/lua/beat.lua"
HOLDERS = "proxy/ledger/holders.py"
OWN_SEATS = "proxy/ledger/own_seats.py"
TELLER = "proxy/ledger/teller.py"
KEEPER = "proxy/ledger/keeper.py"
LEVELS = "proxy/ledger/levels.py"
SHARED_PENALTIES = "proxy/ledger/shared_penalties.py"
SCOPED = "proxy/ledger/scoped_store.py"
PENALIZE = "proxy/ledger/lua/penalize.lua"
REDIS_STORE = "proxy/ledger/redis_store.py"
REDIS_LINK = "proxy/ledger/redis_link.py"

_REDIS = "tests/ledger/test_redis_store.py"
CONTRACT = (f"{_REDIS}::TestContract",)
TOKENS = (f"{_REDIS}::TestTokens",)
EXPIRY = (f"{_REDIS}::test_keys_of_seats_and_tokens_expire_if_nobody_speaks_of_them_again",)
TABS = (f"{_REDIS}::test_a_user_with_tabs_on_two_instances_has_one_seat_until_the_last_one_closes",)
CONFLICTS = (f"{_REDIS}::test_a_key_that_holds_what_is_not_ours_is_refused_and_told",)
FLUSH = (f"{_REDIS}::test_a_flush_is_noticed_at_the_first_question_and_healed",)
DEATH = (f"{_REDIS}::test_a_dead_instances_seats_are_free_after_its_ttl_and_not_before",)
EMPTY = (f"{_REDIS}::test_a_server_that_comes_back_empty_is_told_everything",)
FORMER = ("tests/ledger/test_teller.py::test_an_id_of_before_has_nothing_any_more_when_all_is_told",)
OWN_TABLE = ("tests/ledger/test_own_seats.py",)
JUDGING = ("tests/ledger/test_holders.py",)
KEPT_OUT = (f"{_REDIS}::TestPenalties", f"{_REDIS}::TestPenaltiesOfAnotherInstance")
OUTAGES = ("tests/ledger/test_fallback_store.py::test_an_outage_brings_no_fresh_burst_and_what_is_taken_meanwhile_is_taken_from_all",)
LATE_PENALTIES = (
    "tests/ledger/test_shared_penalties.py",
    "tests/ledger/test_fallback_store.py::test_a_penalty_holds_while_the_store_is_away_and_is_told_to_it_when_it_is_back",
)
LEVEL_TESTS = ("tests/ledger/test_levels.py",)
SCOPES = ("tests/ledger/test_scoped_store.py",)

SHARED = (
    # the scripts
    Mutant("admit_lets_one_more_in", ADMIT, "fits = own + elsewhere < limit", "fits = own + elsewhere <= limit", CONTRACT),
    Mutant("admit_lets_one_more_member_in", ADMIT, "having or count < limit", "having or count <= limit", CONTRACT),
    Mutant("admit_sees_own_seats_only", ADMIT, "fits = own + elsewhere < limit", "fits = own < limit", (f"{_REDIS}::test_300_parallel_upgrades_at_a_cap_of_100_admit_exactly_100",)),
    Mutant("admit_knows_no_tabs", ADMIT, "fits = having or count < limit", "fits = count < limit", CONTRACT),
    Mutant("admit_forgets_the_other_holder_of_a_member", ADMIT, "(having or '') .. holder .. ';'", "holder .. ';'", TABS),
    Mutant("admit_counts_the_wrong_key", ADMIT, "local count = redis.call('HLEN', members)", "local count = redis.call('HLEN', name)", CONTRACT),
    Mutant("admit_writes_the_wrong_key", ADMIT, "redis.call('HINCRBY', name, holder, 1)", "redis.call('HINCRBY', KEYS[#KEYS], holder, 1)", CONTRACT),
    Mutant("admit_shadows_refuse", ADMIT, "if not shadow then", "if true then", CONTRACT),
    Mutant("admit_asks_no_listing", ADMIT, "redis.call('HEXISTS', KEYS[1], holder) == 0", "false", FLUSH),
    Mutant("admit_seats_live_for_ever", ADMIT, "      redis.call('EXPIRE', name, ttl)\n", "", EXPIRY),
    Mutant("admit_members_live_for_ever", ADMIT, "if kind == 'm' then redis.call('EXPIRE', write[4], ttl) end", "", EXPIRY),
    Mutant("admit_tokens_are_not_taken", ADMIT, "level = level - 1\n", "\n", CONTRACT),
    Mutant("admit_tokens_beyond_the_burst", ADMIT, "return math.min(level, burst, known)", "return level", (f"{_REDIS}::TestTokens::test_a_bucket_never_holds_more_than_its_burst",)),
    Mutant("admit_takes_time_backwards", ADMIT, "if elapsed > 0 then level = level + elapsed * rate end", "level = level + elapsed * rate", TOKENS),
    Mutant("admit_rate_of_0_gives", ADMIT, "fits = limit > 0 and level >= 1", "fits = level >= 1", CONTRACT),
    Mutant("admit_half_a_token_is_enough", ADMIT, "and level >= 1", "and level >= 0.5", TOKENS),
    Mutant("admit_believes_foreign_numbers", ADMIT, "    if not count then return nil end\n", "    count = count or 0\n", CONFLICTS),
    Mutant("admit_believes_foreign_buckets", ADMIT, "if not level or not stamp then return nil end", "level, stamp = level or burst, stamp or now", CONFLICTS),
    Mutant("tell_asks_no_listing", TELL, "redis.call('HEXISTS', KEYS[1], holder) == 0", "false", ("tests/ledger/test_teller.py::test_whoever_is_not_listed_any_more_tells_everything_anew",)),
    Mutant("tell_keeps_former_seats", TELL, "if #former > 0 then redis.call('HDEL', name, unpack(former)) end", "", FORMER),
    Mutant("tell_keeps_former_members", TELL, "      change(name, id, -1)\n", "      after[#after + 1] = id .. ';'\n", FORMER),
    Mutant("tell_counts_former_members", TELL, "      change(name, id, -1)\n", "", FORMER),
    Mutant("tell_takes_others_out", TELL, "      after[#after + 1] = id .. ';'\n", "", TABS),
    Mutant("tell_leaves_an_empty_member", TELL, "if text == '' then", "if text == '-' then", TABS),
    Mutant("tell_names_nothing_that_is_not_ours", TELL, "    foreign[#foreign + 1] = index\n", "", (f"{_REDIS}::test_a_key_that_is_overwritten_under_a_seat_is_told_and_does_no_harm",)),
    Mutant("tell_takes_any_error_for_a_foreign_key", TELL, "if not is_foreign(problem) then error(problem) end", "", (f"{_REDIS}::test_what_could_not_be_told_for_want_of_memory_is_no_conflict_and_is_told_later",)),
    Mutant("admit_lets_the_penalized_in", ADMIT, "if left == -2 then return 0 end", "if true then return 0 end", KEPT_OUT),
    Mutant("admit_penalties_for_ever", ADMIT, "return left / 1000", "return left", KEPT_OUT),
    Mutant("admit_knows_penalties_of_the_server_only", ADMIT, "left = math.max(left, limit)", "left = math.max(left, 0)", KEPT_OUT),
    Mutant("admit_believes_in_a_full_bucket_where_there_is_none", ADMIT, "return math.min(burst, known)", "return burst", OUTAGES),
    Mutant("penalize_shortens", PENALIZE, "if left < tonumber(ARGV[1]) then", "if true then", (f"{_REDIS}::test_a_shorter_penalty_of_another_instance_does_not_end_a_longer_one",)),
    Mutant("penalize_once", PENALIZE, "if left < tonumber(ARGV[1]) then", "if left < 0 then", KEPT_OUT),
    Mutant("penalize_overwrites_what_is_not_ours", PENALIZE, "if left == -1 or", "if", (f"{_REDIS}::test_a_penalty_key_that_is_not_ours_is_refused_told_and_not_touched",)),
    Mutant("penalties_that_were_not_heard_are_lost", SHARED_PENALTIES, "        except StoreDown:\n            self._untold[key] = None", "        except StoreDown:\n            pass", LATE_PENALTIES),
    Mutant("penalties_of_before_a_doubt_are_lost", SHARED_PENALTIES, "self._untold = dict.fromkeys(self._known)", "pass", LATE_PENALTIES),
    Mutant("levels_what_is_taken_alone_stays_in_the_whole", LEVELS, "known.most_at(now) - 1.0, now, None", "known.most_at(now), now, None", LEVEL_TESTS),
    Mutant("levels_a_whole_burst_each", LEVELS, "known.most_at(now) / sharers", "known.most_at(now)", LEVEL_TESTS),
    Mutant("levels_a_new_server_is_believed", LEVELS, "if known is not None and known.holder != holder:", "if known is not None and known.holder is None:", LEVEL_TESTS),
    Mutant("levels_a_fresh_share_each_time", LEVELS, "if known.alone is None:", "if True:", LEVEL_TESTS),
    Mutant("scoped_asks_for_claims_behind_too", SCOPED, "enumerate(ask[: ours.broken])", "enumerate(ask)", SCOPES),
    Mutant("scoped_forgets_shadows_of_the_others", SCOPED, "(*ours.over, *theirs.over) if index < theirs.broken", "ours.over", SCOPES),
    Mutant("reap_takes_the_living_too", REAP, "if one ~= ARGV[1] then", "if false then", DEATH),
    Mutant("reap_frees_no_members", REAP, "redis.call('HDEL', KEYS[2], found[2][i])", "", DEATH),
    Mutant("reap_frees_no_seats", REAP, "if cursor == '0' then redis.call('HDEL', KEYS[1], ARGV[1]) end", "", DEATH),
    Mutant("bury_the_living", BURY, "if counter and counter ~= ARGV[2] then return 0 end", "", ("tests/ledger/test_keeper.py::test_whoever_moved_meanwhile_is_not_buried",)),
    Mutant("beat_lists_itself_again", BEAT, "if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {} end", "", (f"{_REDIS}::test_an_instance_that_was_wrongly_taken_for_dead_comes_back_with_its_seats",)),
    # who lives
    Mutant("newcomers_judge", HOLDERS, "return now - self._since >= self._ttl and", "return", JUDGING),
    Mutant("gaps_count_as_watching", HOLDERS, "if asked_at - self._heard_at > MAX_GAP * self._interval:", "if False:", JUDGING),
    Mutant("suspects_die_of_an_old_heartbeat", HOLDERS, "elif seen < asked_at:", "else:", JUDGING),
    Mutant("the_past_is_watched_like_others", HOLDERS, "if holder in self._former or holder in self._dead:", "if holder in self._dead:", JUDGING),
    # what is told
    Mutant("a_refused_one_that_was_told_stays", OWN_SEATS, "doubtful=seat.tells != tells", "doubtful=False", OWN_TABLE),
    Mutant("a_last_tab_is_not_told", OWN_SEATS, "doubtful=seat.member is None or not seat.taken", "doubtful=seat.member is None or not seat.held", OWN_TABLE),
    Mutant("abandoned_ones_are_forgotten", OWN_SEATS, "        seat.pending -= 1\n        self._let_go(seat, doubtful=True)", "        seat.pending -= 1\n        self._let_go(seat, doubtful=False)", OWN_TABLE),
    Mutant("others_are_not_known_alone", OWN_SEATS, "self.count(claim) + self.others(claim.key) < claim.limit", "self.count(claim) < claim.limit", FLUSH),
    Mutant("lost_words_are_not_told_again", TELLER, "            self._own.untell(seats)  # the next", "            pass  # the next", ("tests/ledger/test_teller.py::test_what_was_not_heard_is_told_again",)),
    Mutant("nothing_is_told_after_a_doubt", KEEPER, "            self._own.mark_all()\n", "", EMPTY),
    Mutant("order_of_a_release_and_a_question", REDIS_STORE, "        if self._own.is_untold(ask):\n            self._teller.now()\n", "", CONTRACT),
    Mutant("refusals_are_repeated_after_a_release", REDIS_STORE, "            self._own.leave(claim)\n            self._full.pop(claim.key, None)\n", "            self._own.leave(claim)\n", CONTRACT),
    Mutant("late_answers_are_believed", REDIS_LINK, "        self._in_flight.extend(batch)\n", "        self._in_flight.extend(one for one in batch if one.command[0] != b\"PING\")\n", ("tests/ledger/test_redis_link.py",)),
)  # fmt: skip

VIGIL = "proxy/server/vigil.py"
OWN_PONG = ("tests/wire/test_frames.py::TestOwnPong",)
VIGILS = "tests/server/test_vigil.py::"
SERVER_TUNNEL = "tests/server/test_tunnel.py::"
IS_LIFE = (f"{VIGILS}test_whatever_comes_is_life",)
IN_THE_PLACE = (f"{VIGILS}test_a_ping_of_the_backend_asks_in_the_place_of_ours",)
TAKES_NOTHING = (f"{VIGILS}test_a_side_that_takes_nothing_is_closed",)
A_BYTE_NOW_AND_THEN = (f"{VIGILS}test_a_slow_reader_that_takes_a_byte_now_and_then_lives",)
WITHOUT_DATA = (f"{VIGILS}test_a_tunnel_without_data_is_1001_for_both",)
A_FEW_AT_A_TIME = (f"{VIGILS}test_many_tunnels_are_looked_at_a_few_at_a_time_and_each_once_in_a_period",)

PATIENCE = (
    # the walker's part
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
    # compression
    Mutant(
        "compression_off_offers",
        UPGRADE,
        "if match.route.compression is Compression.PASS else ()",
        "if True else ()",
        ("tests/interop/test_compression.py::test_with_compression_off_the_backend_is_offered_nothing",),
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
    Mutant(
        "guests_take_the_rules_of_users",
        "proxy/policy/admission.py",
        "kind = (principal.route, principal.room is None, principal.anonymous)",
        "kind = (principal.route, principal.room is None, True)",
        ("tests/policy/test_admission.py",),
    ),
    Mutant(
        "rules_about_some_rooms_remembered_for_all",
        "proxy/policy/admission.py",
        "if not self._particular:",
        "if True:",
        ("tests/policy/test_admission.py",),
    ),
    Mutant(
        "claim_of_another_member_remembered",
        "proxy/policy/admission.py",
        "(*rule.per, Per.USER) if rule.quantity is Quantity.MEMBERS else rule.per",
        "rule.per",
        ("tests/policy/test_admission.py",),
    ),
    Mutant(
        "dot_segments_taken_for_plain",
        "proxy/policy/routes.py",
        'rb"(?:/[-a-z0-9_~',
        'rb"(?:/[-.a-z0-9_~',
        ("tests/policy/test_routes.py",),
    ),
    Mutant(
        "capitals_taken_for_plain",
        "proxy/policy/routes.py",
        'rb"(?:/[-a-z0-9_~',
        'rb"(?:/[-a-zA-Z0-9_~',
        ("tests/policy/test_routes.py",),
    ),
)

RENT = "proxy/ledger/lua/rent.lua"
LEASED_BUCKET = "proxy/ledger/leased_bucket.py"
REDIS_RATES = "proxy/ledger/redis_rates.py"
_SCRIPT = "tests/ledger/test_rent.py"
_TRAFFIC = "tests/ledger/test_redis_rates.py"
OWNERS = (f"{_SCRIPT}::TestOwner",)
LEASES = (f"{_SCRIPT}::TestLeases",)
TROUBLE = (f"{_SCRIPT}::TestTrouble",)
BUCKET = ("tests/ledger/test_leased_bucket.py",)

RATES = (
    # the script
    Mutant("rent_leases_are_not_taken", RENT, "level = math.max(0, level - granted)", "level = math.max(0, level)", LEASES),
    Mutant("rent_two_owners", RENT, "ARGV[10] == '1' and sharers == 1 and", "ARGV[10] == '1' and", LEASES),
    Mutant("rent_silent_owner_is_believed_for_ever", RENT, "if now - wanted < PATIENCE then", "if true then", OWNERS),
    Mutant("rent_silent_owner_leaves_a_full_bucket", RENT, "  release(0)\nelseif owner or", "  release(burst)\nelseif owner or", OWNERS),
    Mutant("rent_anybody_gives_back", RENT, "owner == id and ARGV[6] == epoch and ARGV[6] ~= ''", "ARGV[6] ~= '' and owner", OWNERS),
    Mutant("rent_tells_nobody_that_it_is_free", RENT, "tell(other.id, 'f')", "local _ = other", OWNERS),
    Mutant("rent_tells_no_owner", RENT, "    tell(owner, 'y')\n", "", OWNERS),
    Mutant("rent_forgets_what_is_not_full", RENT, "if level >= burst and rate > 0 and sharers == 1", "if sharers == 1", OWNERS),
    Mutant("rent_overtakes", RENT, "level - ahead + 0.000001 >= need", "level + 0.000001 >= need", LEASES),
    Mutant("rent_beyond_the_burst", RENT, "level = math.min(capacity, level + elapsed", "level = math.max(0, level + elapsed", LEASES),
    Mutant("rent_takes_time_backwards", RENT, "local elapsed = math.max(0, now - stamp)", "local elapsed = now - stamp", TROUBLE),
    Mutant("rent_believes_the_future", RENT, "if at > now or at + FORGET", "if at + FORGET", TROUBLE),
    Mutant("rent_refills_an_outage", RENT, "if known >= 0 then elapsed = math.min(elapsed, known) end", "", TROUBLE),
    Mutant("rent_fresh_burst_after_a_flush", RENT, "elseif kept < 0 then level = burst", "elseif true then level = burst", TROUBLE),
    Mutant("rent_believes_foreign_fields", RENT, "  else return 'C' end\nend", "  end\nend", TROUBLE),
    # one instance
    Mutant(
        "lease_lives_from_its_answer",
        LEASED_BUCKET,
        "self._expires = asked_at + self.lease_time",
        "self._expires = now + self.lease_time",
        BUCKET,
    ),
    Mutant("lease_never_ends", LEASED_BUCKET, "leases[0].expires <= now", "False", BUCKET),
    Mutant("leases_stay_under_an_owner", LEASED_BUCKET, "        self._leases.clear()\n", "", BUCKET),
    Mutant("alone_at_the_whole_rate", LEASED_BUCKET, "rate = self.full_rate / max(1, sharers)", "rate = self.full_rate", BUCKET),
    Mutant("alone_with_a_fresh_burst", LEASED_BUCKET, "min(self.burst, self._available(now) + left + grown)", "self.burst", BUCKET),
    Mutant("waits_for_ever", LEASED_BUCKET, "if self.deadline <= now:", "if False:", BUCKET),
    Mutant(
        "asks_for_every_frame",
        LEASED_BUCKET,
        "if not self.is_asking and now >= self._ask_at:\n            self._ask(cost,",
        "if not self.is_asking:\n            self._ask(cost,",
        BUCKET,
    ),
    Mutant("wakes_nobody", LEASED_BUCKET, "            wake()\n", "            pass\n", BUCKET),
    Mutant("overtakes_the_line", LEASED_BUCKET, "if self._available(now) - ahead >= cost:", "if self._available(now) >= cost:", BUCKET),
    Mutant(
        "what_is_not_known_is_refused", METER, "if known_at > now:", "if False:", ("tests/policy/test_meter.py::TestTokensThatAreAskedFor",)
    ),
    Mutant(
        "an_answer_wakes_a_tunnel_twice",
        "proxy/server/tunnel.py",
        "if half.hold is timer:",
        "if True:",
        ("tests/server/test_tunnel.py::test_a_held_frame_goes_on_when_the_answer_comes_and_is_not_woken_twice",),
    ),
    Mutant(
        "nothing_is_given_back",
        REDIS_RATES,
        "self._give_back(bucket, Verb.LEAVE)\n        if bucket.mode is not",
        "pass\n        if bucket.mode is not",
        (f"{_TRAFFIC}::test_a_bucket_outlives_its_connections_and_follows_its_user",),
    ),
    Mutant(
        "a_wish_that_comes_early_is_lost",
        REDIS_RATES,
        "            self._unwanted.add(bucket)\n",
        "            pass\n",
        (f"{_TRAFFIC}::test_a_wish_that_comes_before_the_bucket_is_kept",),
    ),
    Mutant(
        "knows_nothing_of_an_outage",
        REDIS_RATES,
        "            self._lost_at = now\n",
        "            pass\n",
        (f"{_TRAFFIC}::test_who_has_seen_a_loss_of_data_needs_no_mark_of_it",),
    ),
    # what instances know, and what is not ours
    Mutant("rent_asks_nobody_for_a_listing", RENT, "if KEYS[2] and verb == 'ask'", "if false", TROUBLE),
    Mutant("rent_lists_whoever_gives_back", RENT, "if KEYS[2] and verb == 'ask' and", "if KEYS[2] and", TROUBLE),
    Mutant("rent_forgets_what_instances_know", RENT, "if most >= 0 then level = math.min(level, most) end", "", TROUBLE),
    Mutant("rent_tells_nobody_what_is_left", RENT, "+ 1 or 0, sharers, text(level)}", "+ 1 or 0, sharers, '-1'}", TROUBLE),
    Mutant("rent_gives_no_first_message", RENT, "math.max(tonumber(ARGV[7]), rate * kept / 1000000)", "rate * kept / 1000000", TROUBLE),
    Mutant("rent_does_not_read_the_mark_of_a_loss", RENT, "if left >= 0 then kept", "if false then kept", TROUBLE),
    Mutant(
        "nobody_marks_a_loss",
        REDIS_RATES,
        "            self._call_away(self._commands.lost())\n",
        "",
        (f"{_TRAFFIC}::test_one_who_starts_after_a_flush_takes_no_bucket_to_be_full",),
    ),
    Mutant("rent_takes_nan_for_a_number", RENT, "if value and value >= 0 and value <= LARGEST then", "if value then", TROUBLE),
    Mutant("rent_takes_negative_numbers", RENT, "if value and value >= 0 and", "if value and", TROUBLE),
    Mutant("rent_takes_infinite_numbers", RENT, "value >= 0 and value <= LARGEST then", "value >= 0 then", TROUBLE),
    Mutant("rent_reads_any_number_of_fields", RENT, "or size > MOST_FIELDS then", "then", TROUBLE),
    Mutant("rent_owner_without_an_epoch", RENT, " or not owner ~= not epoch then", " then", TROUBLE),
    Mutant("rent_turn_beyond_all_numbers", RENT, "/ rate * 1000000), LARGEST)", "/ rate * 1000000), 2 ^ 63)", TROUBLE),
    Mutant("rent_divides_by_no_rate", RENT, "  if rate <= 0 then return OWNED_TTL end\n", "", TROUBLE),
    Mutant("rent_forgets_an_empty_bucket", RENT, "if level >= burst and rate > 0 and", "if level >= burst and", TROUBLE),
    Mutant("rent_gives_back_what_is_not_there", RENT, "(level or ARGV[6] == '')", "level", TROUBLE),
    Mutant(
        "rent_gives_back_twice", RENT, "elseif owner or verb == 'yield' and (level or ARGV[6] == '') then", "elseif owner then", TROUBLE
    ),
    Mutant("rent_no_spare_for_a_small_burst", RENT, "and 0 or SHORT_SPARE", "and 0 or 0", LEASES),
    Mutant("rent_spare_for_every_burst", RENT, "and 0 or SHORT_SPARE", "and SHORT_SPARE or SHORT_SPARE", LEASES),
    Mutant("lease_of_a_small_burst_lives_as_long", LEASED_BUCKET, "return LATE - self._spare", "return LATE", BUCKET),
    Mutant("grace_for_each_instance", LEASED_BUCKET, "/ max(1, sharers, instances)", "/ 1", BUCKET),
    Mutant("grace_for_each_who_never_shared", LEASED_BUCKET, "/ max(1, sharers, instances)", "/ max(1, sharers)", BUCKET),
    Mutant("waits_beyond_its_patience", LEASED_BUCKET, "min(self.deadline, self._patience))", "self.deadline)", BUCKET),
    Mutant("patience_is_not_given_back", LEASED_BUCKET, "            self._patience = inf  # nobody", "            pass  # nobody", BUCKET),
    Mutant("knows_less_as_time_goes_by", LEASED_BUCKET, "(now - self._most_at + SLACK) * self.full_rate", "0.0", BUCKET),
    Mutant(
        "a_late_answer_makes_it_meter_alone",
        REDIS_RATES,
        "        if self._link.is_usable:\n            bucket.unanswered()",
        "        if False:\n            bucket.unanswered()",
        (f"{_TRAFFIC}::test_a_late_answer_is_asked_for_again_and_nothing_passes_without_one",),
    ),
    Mutant(
        "nobody_says_that_it_is_not_listed",
        REDIS_RATES,
        "        self.not_listed(holder)\n        self.late",
        "        self.late",
        (f"{_TRAFFIC}::test_after_a_flush_a_first_message_waits_until_the_store_is_told_and_passes",),
    ),
    Mutant(
        "asks_without_what_it_knows",
        REDIS_RATES,
        ", most=bucket.most(now))",
        ")",
        (f"{_TRAFFIC}::test_a_flush_gives_no_first_message_to_those_who_are_known",),
    ),
    Mutant(
        "who_gave_a_bucket_back_takes_itself_for_the_only_one",
        REDIS_RATES,
        "            bucket.sharers = max(bucket.sharers, 2)\n",
        "            pass\n",
        (f"{_TRAFFIC}::test_who_has_just_given_a_bucket_back_goes_alone_at_half_the_rate",),
    ),
)

MUTANTS = (
    *WALKER,
    *DOOR,
    *COMPRESSION,
    *LEDGER,
    *SHARED,
    *RATES,
    *ADMISSION_RULES,
    *METERS,
    *IDENTITIES,
    *ROUTING,
    *SERVER,
    *FRONT,
    *PATIENCE,
    *CHEAP,
)
