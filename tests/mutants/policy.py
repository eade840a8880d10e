"""Mutants of proxy/policy: who somebody is, where it goes, which rules hold and what they decide."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ADMISSION = "proxy/policy/admission.py"
METER = "proxy/policy/meter.py"
NOTICES = "proxy/policy/notices.py"
IDENTITY = "proxy/policy/identity.py"
TOKENS = "proxy/policy/tokens.py"
FORWARDING = "proxy/policy/forwarding.py"
ROUTES = "proxy/policy/routes.py"
RULES = "proxy/policy/rules.py"

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
        "not (about(Quantity.BYTES) or shadows or delays),",
        "not (about(Quantity.BYTES) or delays),",
        SHADOW,
    ),
    Mutant(
        "meter_plain_path_for_bytes_too",
        METER,
        "not (about(Quantity.BYTES) or shadows or delays),",
        "not (shadows or delays),",
        BYTES,
    ),
    Mutant(
        "meter_plain_path_for_delays_too",
        METER,
        "not (about(Quantity.BYTES) or shadows or delays),",
        "not (about(Quantity.BYTES) or shadows),",
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
        "enforced = tuple(place for place, rule in enumerate(rules) if not rule.shadow)",
        "enforced = tuple(range(len(rules)))",
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
    Mutant(
        "meter_rules_of_the_first_for_all",
        METER,
        "            if not self._particular:\n",
        "            if True:\n",
        ("tests/policy/test_meter.py",),
    ),
    Mutant(
        "meter_rules_of_a_room_for_none",
        METER,
        "kind = (principal.route, principal.room is None, principal.anonymous)",
        "kind = (principal.route, True, principal.anonymous)",
        ("tests/policy/test_meter.py",),
    ),
    Mutant(
        "meter_rules_of_users_for_strangers",
        METER,
        "kind = (principal.route, principal.room is None, principal.anonymous)",
        "kind = (principal.route, principal.room is None, True)",
        ("tests/policy/test_meter.py",),
    ),
    Mutant(
        "meter_rules_of_another_route",
        METER,
        "kind = (principal.route, principal.room is None, principal.anonymous)",
        "kind = (True, principal.room is None, principal.anonymous)",
        ("tests/policy/test_meter.py",),
    ),
    Mutant(
        "meter_directions_mixed",
        METER,
        "for one in frame_rules if one.rule.direction is direction)",
        "for one in frame_rules)",
        ("tests/policy/test_meter.py::TestDirection",),
    ),
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
    Mutant(
        "what_is_not_known_is_refused", METER, "if known_at > now:", "if False:", ("tests/policy/test_meter.py::TestTokensThatAreAskedFor",)
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
        FORWARDING,
        "return address.ipv4_mapped or IPv6Address",
        "return IPv6Address",
        ("tests/policy/test_forwarding.py::TestAddresses",),
    ),
    Mutant(
        "identity_two_tokens_allowed",
        TOKENS,
        "if len(found) > 1:",
        "if False:",
        ("tests/policy/test_tokens.py::TestTwoTokensInOneSource",),
    ),
    Mutant(
        "identity_second_authorization_ignored",
        TOKENS,
        "if len(values) > 1:",
        "if False:",
        ("tests/policy/test_tokens.py::TestTwoTokensInOneSource",),
    ),
    Mutant(
        "identity_other_readings_of_the_query_ignored",
        TOKENS,
        'rb"[&;#?]", query',
        'rb"[&]", query',
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_fragment_ignored",
        TOKENS,
        'rb"[&;#?]", query',
        'rb"[&;?]", query',
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_octal_escapes_kept",
        TOKENS,
        "unquote_to_bytes(_unquoted(value.strip()))",
        "unquote_to_bytes(value.strip())",
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_any_number_of_parameters",
        TOKENS,
        "if len(pairs) > MAX_PAIRS:",
        "if False:",
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_blanks_around_a_cookies_equals_sign_hide_it",
        TOKENS,
        're.sub(rb"\\s*=\\s*", b"=", line)',
        "line",
        ("tests/policy/test_tokens.py::test_no_cookie_hides_a_token_from_us_that_a_common_backend_finds",),
    ),
    Mutant(
        "identity_blank_between_cookies_ignored",
        TOKENS,
        're.split(rb"[;,\\s]", re.sub(',
        're.split(rb"[;]", re.sub(',
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_spare_bits_count",
        TOKENS,
        "last[:SIGNATURE_DIGITS] if signed",
        "last if signed",
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_signature_does_not_count",
        TOKENS,
        "last[:SIGNATURE_DIGITS] if signed",
        'b"" if signed',
        ("tests/policy/test_tokens.py::TestOneTokenInManySpellings",),
    ),
    Mutant(
        "identity_open_quote_in_forwarded_believed",
        FORWARDING,
        "        if match is None:\n            return None\n",
        "        if match is None:\n            return nodes\n",
        ("tests/policy/test_forwarding.py::TestForwarded",),
    ),
    Mutant(
        "identity_smuggled_forwarded_carried_on",
        FORWARDING,
        'if list_tokens(fields.get(b"x-forwarded-for", ())):',
        "if False:",
        ("tests/policy/test_forwarding.py::TestForwardingHeaders",),
    ),
    Mutant(
        "identity_stranger_speaks_for_others",
        FORWARDING,
        "    if not peer.trusted:  # which",
        "    if False:  # which",
        ("tests/policy/test_forwarding.py::TestForwardingHeaders",),
    ),
    Mutant(
        "identity_token_echoed",
        TOKENS,
        "if not protocol.lower().startswith(prefixes):",
        "if True:",
        ("tests/policy/test_tokens.py::TestEchoedSubprotocol",),
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
)

CHEAP = (  # what makes an upgrade cheap must not make it wrong
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

MUTANTS = (
    *ADMISSION_RULES,
    *METERS,
    *IDENTITIES,
    *ROUTING,
    *CHEAP,
)
