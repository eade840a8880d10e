"""Mutants of proxy/ledger over a shared server: its scripts, who lives, what is told, rates."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ADMIT = "proxy/ledger/lua/admit.lua"
TELL = "proxy/ledger/lua/tell.lua"
REAP = "proxy/ledger/lua/reap.lua"
BURY = "proxy/ledger/lua/bury.lua"
BEAT = "proxy/ledger/lua/beat.lua"
HOLDERS = "proxy/ledger/seats/holders.py"
OWN_SEATS = "proxy/ledger/seats/own_seats.py"
TELLER = "proxy/ledger/seats/teller.py"
KEEPER = "proxy/ledger/seats/keeper.py"
UNDERTAKER = "proxy/ledger/seats/undertaker.py"
SLOW_SWEEP = "proxy/ledger/seats/slow_sweep.py"
LEVELS = "proxy/ledger/seats/levels.py"
SHARED_PENALTIES = "proxy/ledger/seats/shared_penalties.py"
SCOPED = "proxy/ledger/scoped_store.py"
PENALIZE = "proxy/ledger/lua/penalize.lua"
REDIS_STORE = "proxy/ledger/seats/redis_store.py"
REDIS_LINK = "proxy/ledger/links/redis_link.py"
SCRIPT_CALLS = "proxy/ledger/scripts.py"
JOIN = "proxy/ledger/lua/join.lua"
STORE_WATCH = "proxy/server/store_watch.py"
FALLBACK = "proxy/ledger/fallback_store.py"
SUBSCRIPTION = "proxy/ledger/links/subscription.py"
CONNECTING = "proxy/ledger/links/connecting.py"
CLUSTER_LINK = "proxy/ledger/links/cluster_link.py"
SLOT_MAP = "proxy/ledger/links/slot_map.py"
SENTINELS = "proxy/ledger/links/sentinels.py"
BREAKER = "proxy/ledger/links/breaker.py"

_REDIS = "tests/ledger/seats/test_redis_store.py"
_SLOTS = "tests/ledger/seats/test_several_slots.py"
_FOREIGN = "tests/ledger/test_foreign_data.py"
_BAD_DAYS = "tests/ledger/test_trouble.py"
_DEAD = "tests/ledger/seats/test_undertaker.py"
_KEEPER = "tests/ledger/seats/test_keeper.py"
CONTRACT = (f"{_REDIS}::TestContract",)
TOKENS = (f"{_REDIS}::TestTokens",)
EXPIRY = (f"{_REDIS}::test_keys_of_seats_and_tokens_expire_if_nobody_speaks_of_them_again",)
TABS = (f"{_REDIS}::test_a_user_with_tabs_on_two_instances_has_one_seat_until_the_last_one_closes",)
CONFLICTS = (f"{_REDIS}::test_a_key_that_holds_what_is_not_ours_is_refused_and_told",)
FLUSH = (f"{_REDIS}::test_a_flush_is_noticed_at_the_first_question_and_healed",)
KEEPS_HIS_SEAT = (f"{_BAD_DAYS}::test_a_member_with_tabs_on_a_dead_and_on_a_living_instance_keeps_his_seat",)
DEATH = (f"{_REDIS}::test_a_dead_instances_seats_are_free_after_its_ttl_and_not_before",)
EMPTY = (f"{_REDIS}::test_a_server_that_comes_back_empty_is_told_everything",)
FORMER = ("tests/ledger/seats/test_teller.py::test_an_id_of_before_has_nothing_any_more_when_all_is_told",)
MARK = ("tests/ledger/seats/test_keeper.py::test_the_mark_of_a_loss_is_left_once_by_whoever_finds_nobody_whom_he_knew",)
OWN_TABLE = ("tests/ledger/seats/test_own_seats.py",)
JUDGING = ("tests/ledger/seats/test_holders.py",)
KEPT_OUT = (f"{_REDIS}::TestPenalties", f"{_REDIS}::TestPenaltiesOfAnotherInstance")
OUTAGES = ("tests/ledger/test_fallback_store.py::test_an_outage_brings_no_fresh_burst_and_what_is_taken_meanwhile_is_taken_from_all",)
LATE_PENALTIES = (
    "tests/ledger/seats/test_shared_penalties.py",
    "tests/ledger/test_fallback_store.py::test_a_penalty_holds_while_the_store_is_away_and_is_told_to_it_when_it_is_back",
)
CROWDS = "proxy/ledger/seats/crowds.py"
CROWD_TESTS = ("tests/ledger/seats/test_crowds.py",)
LATE_LOOKS = (
    f"{_DEAD}::test_a_key_of_which_nothing_was_heard_waits_behind_the_others",
    f"{_DEAD}::test_what_was_told_of_a_key_of_which_nothing_was_heard_is_not_told_again",
)
ENDED_LOOKS = (f"{_KEEPER}::test_what_goes_wrong_ends_a_look_at_once_and_it_is_not_forgotten",)
_MADE_UP = "test_seats_that_were_forgotten_are_made_up_for_by_one_new_id"
LEVEL_TESTS = ("tests/ledger/seats/test_levels.py",)
SWEEPS = ("tests/ledger/seats/test_slow_sweep.py",)
SCOPES = ("tests/ledger/test_scoped_store.py",)
BATCHES = ("tests/ledger/links/test_redis_link.py::test_all_of_one_turn_goes_out_in_one_write_and_at_most_128_of_it",)
WORDS = ("tests/ledger/links/test_parsers.py::test_what_the_server_says_means_the_same",)
_STORY = "tests/ledger/test_story.py"
_ALONE = "test_who_is_alone_leaves_what_the_others_had_when_he_last_heard"
REFUND = "proxy/ledger/lua/refund.lua"
PROBE = "proxy/ledger/lua/probe.lua"
REFUNDS = ("tests/ledger/test_refund.py",)
NO_MEMORY = (f"{_BAD_DAYS}::test_without_memory_what_is_given_back_reaches_the_store_all_the_same",)
_CLUSTER = "tests/ledger/links/test_cluster_link.py"
_SENTINELS = "tests/ledger/links/test_sentinels.py"
_SEAT_SCRIPTS = "tests/ledger/seats/test_seat_scripts.py"
LISTING = (f"{_SEAT_SCRIPTS}::TestListing",)
TOLD = (f"{_SEAT_SCRIPTS}::TestTold",)
REAPED = (f"{_SEAT_SCRIPTS}::TestDead",)
ASKED = (f"{_SEAT_SCRIPTS}::TestAsked",)
ON_ITS_WAY = (f"{_CLUSTER}::test_a_slot_on_its_way_is_decided_alone_and_nothing_else_is",)
GAP = (f"{_CLUSTER}::test_a_gap_in_the_slots_is_an_outage_that_ends",)
BLANK = (f"{_CLUSTER}::test_a_node_that_knows_no_slots_is_not_believed",)

RENT = "proxy/ledger/lua/rent.lua"
LEASED_BUCKET = "proxy/ledger/rates/leased_bucket.py"
REDIS_RATES = "proxy/ledger/rates/redis_rates.py"
LEASES_HELD = "proxy/ledger/rates/leases.py"
PROSPECT = "proxy/ledger/rates/prospect.py"
LANDLORD = "proxy/ledger/rates/redis_landlord.py"
OWN_BUCKETS = "proxy/ledger/rates/own_buckets.py"
RENT_LINK = "proxy/ledger/rates/rent_link.py"
BUCKET_TABLE = "proxy/ledger/rates/bucket_table.py"
ANSWER_TIMES = "proxy/ledger/rates/answer_times.py"

_SCRIPT = "tests/ledger/rates/test_rent.py"
_LANDLORD = "tests/ledger/rates/test_redis_landlord.py"
_OWN = "tests/ledger/rates/test_own_buckets.py"
_WORDS = "tests/ledger/rates/test_rent_link.py"
OWNERS = (f"{_SCRIPT}::TestOwner",)
LEASES = (f"{_SCRIPT}::TestLeases",)
TROUBLE = (f"{_SCRIPT}::TestTrouble",)
BUCKET = ("tests/ledger/rates/test_leased_bucket.py",)
HELD = ("tests/ledger/rates/test_leases.py",)
PROSPECTS = ("tests/ledger/rates/test_prospect.py",)
TIMES = ("tests/ledger/rates/test_answer_times.py",)
TABLE = ("tests/ledger/rates/test_bucket_table.py",)
SAID = (f"{_WORDS}::TestWords", f"{_WORDS}::TestKnowledge")
TOLD_AGAIN = (f"{_OWN}::TestToldAgain",)
GIVEN_BACK = (f"{_OWN}::TestGivenBack",)
ANSWERS = (f"{_LANDLORD}::TestAnswers",)
DOUBTS = (f"{_LANDLORD}::TestDoubts",)
FULL = (f"{_OWN}::test_what_could_not_be_given_back_stays_ours",)

HEALED_SOON = (
    "tests/ledger/test_fallback_store.py::test_after_a_doubt_whoever_asks_waits_until_the_store_decides_again",
    "tests/ledger/test_fallback_store.py::test_what_takes_longer_than_an_answer_to_be_told_is_waited_for_once",
)

DEAF = (f"{_OWN}::TestDeaf",)

SHARED = (
    # the scripts
    Mutant("admit_lets_one_more_in", ADMIT, "fits = own + elsewhere < limit", "fits = own + elsewhere <= limit", CONTRACT),
    Mutant("admit_lets_one_more_member_in", ADMIT, "having or count < limit", "having or count <= limit", CONTRACT),
    Mutant(
        "admit_sees_own_seats_only",
        ADMIT,
        "fits = own + elsewhere < limit",
        "fits = own < limit",
        (f"{_REDIS}::test_300_parallel_upgrades_at_a_cap_of_100_admit_exactly_100",),
    ),
    Mutant("admit_knows_no_tabs", ADMIT, "fits = having or count < limit", "fits = count < limit", CONTRACT),
    Mutant("admit_forgets_the_other_holder_of_a_member", ADMIT, "(having or '') .. holder .. ';'", "holder .. ';'", TABS),
    Mutant("admit_counts_the_wrong_key", ADMIT, "local count = call('HLEN', whom)", "local count = call('HLEN', name)", CONTRACT),
    Mutant(
        "admit_writes_the_wrong_key",
        ADMIT,
        "call('HINCRBY', counts[i], holder, 1)",
        "call('HINCRBY', KEYS[#KEYS], holder, 1)",
        CONTRACT,
    ),
    Mutant("admit_shadows_refuse", ADMIT, "if not shadow then", "if true then", CONTRACT),
    Mutant("admit_asks_no_listing", ADMIT, "call('HEXISTS', KEYS[1], holder) == 0", "false", FLUSH),
    Mutant("admit_seats_live_for_ever", ADMIT, "if counts[i + 1] == 0 then call('EXPIRE', counts[i], ttl) end", "", EXPIRY),
    Mutant("admit_members_live_for_ever", ADMIT, "    call('EXPIRE', seat.whom, ttl)\n", "", EXPIRY),
    Mutant(
        "admit_tokens_are_not_taken",
        ADMIT,
        "put(bucket, bucket.level - bucket.taken)",
        "put(bucket, bucket.level)",
        (f"{_REDIS}::TestTokens::test_one_bucket_for_all_instances",),
    ),
    Mutant("admit_says_that_more_is_left", ADMIT, "level = level - 1\n", "\n", OUTAGES),
    Mutant(
        "admit_tokens_beyond_the_burst",
        ADMIT,
        "return math.min(level, burst, known)",
        "return level",
        (f"{_REDIS}::TestTokens::test_a_bucket_never_holds_more_than_its_burst",),
    ),
    Mutant(
        "admit_takes_time_backwards",
        ADMIT,
        "if elapsed > 0 then level = level + elapsed * rate end",
        "level = level + elapsed * rate",
        TOKENS,
    ),
    Mutant("admit_rate_of_0_gives", ADMIT, "fits = limit > 0 and level >= 1", "fits = level >= 1", CONTRACT),
    Mutant("admit_half_a_token_is_enough", ADMIT, "and level >= 1", "and level >= 0.5", TOKENS),
    Mutant(
        "admit_believes_foreign_numbers",
        ADMIT,
        "if #count > 9 or not find(count, '^[1-9]%d*$') then return nil end",
        "count = tonumber(count) or 0",
        (f"{_FOREIGN}::test_a_count_that_is_none_is_refused_at_once",),
    ),
    Mutant(
        "admit_believes_foreign_buckets",
        ADMIT,
        "if not level or not stamp or level == math.huge or stamp == math.huge then return nil end",
        "level, stamp = level or burst, stamp or now",
        (f"{_FOREIGN}::test_a_bucket_that_is_none",),
    ),
    Mutant(
        "tell_asks_no_listing",
        TELL,
        "redis.call('HEXISTS', KEYS[1], holder) == 0",
        "false",
        ("tests/ledger/seats/test_teller.py::test_whoever_is_not_listed_any_more_tells_everything_anew",),
    ),
    Mutant("tell_keeps_former_seats", TELL, "if #former > 0 then redis.call('HDEL', name, unpack(former)) end", "", FORMER),
    Mutant("tell_keeps_former_members", TELL, "      change(name, id, -1)\n", "      after[#after + 1] = id .. ';'\n", FORMER),
    Mutant("tell_counts_former_members", TELL, "      change(name, id, -1)\n", "", FORMER),
    Mutant("tell_takes_others_out", TELL, "      after[#after + 1] = id .. ';'\n", "", TABS),
    Mutant("tell_leaves_an_empty_member", TELL, "if text == '' then", "if text == '-' then", TABS),
    Mutant(
        "tell_names_nothing_that_is_not_ours",
        TELL,
        "    foreign[#foreign + 1] = index\n",
        "",
        (f"{_REDIS}::test_a_key_that_is_overwritten_under_a_seat_is_told_and_does_no_harm",),
    ),
    Mutant(
        "tell_takes_any_error_for_a_foreign_key",
        TELL,
        "if not is_foreign(problem) then error(problem) end",
        "",
        (f"{_REDIS}::test_what_may_not_be_told_is_no_conflict_and_is_told_later",),
    ),
    Mutant("admit_lets_the_penalized_in", ADMIT, "if left == -2 then return 0 end", "if true then return 0 end", KEPT_OUT),
    Mutant("admit_penalties_for_ever", ADMIT, "return left / 1000", "return left", KEPT_OUT),
    Mutant("admit_knows_penalties_of_the_server_only", ADMIT, "left = math.max(left, limit)", "left = math.max(left, 0)", KEPT_OUT),
    Mutant("admit_believes_in_a_full_bucket_where_there_is_none", ADMIT, "return math.min(burst, known)", "return burst", OUTAGES),
    Mutant(
        "penalize_shortens",
        PENALIZE,
        "if left < tonumber(ARGV[1]) then",
        "if true then",
        (f"{_REDIS}::test_a_shorter_penalty_of_another_instance_does_not_end_a_longer_one",),
    ),
    Mutant("penalize_once", PENALIZE, "if left < tonumber(ARGV[1]) then", "if left < 0 then", KEPT_OUT),
    Mutant(
        "penalize_overwrites_what_is_not_ours",
        PENALIZE,
        "left == -1 or redis.pcall",
        "left ~= -1 and redis.pcall",
        (f"{_REDIS}::test_a_penalty_key_that_is_not_ours_is_refused_told_and_not_touched",),
    ),
    Mutant(
        "penalties_that_were_not_heard_are_lost",
        SHARED_PENALTIES,
        "        except StoreDown:\n            self._untold[key] = None",
        "        except StoreDown:\n            pass",
        LATE_PENALTIES,
    ),
    Mutant("penalties_of_before_a_doubt_are_lost", SHARED_PENALTIES, "self._untold = dict.fromkeys(self._known)", "pass", LATE_PENALTIES),
    Mutant(
        "levels_what_is_taken_alone_stays_in_the_whole",
        LEVELS,
        "known.most_at(now) - 1.0, now, None",
        "known.most_at(now), now, None",
        LEVEL_TESTS,
    ),
    Mutant("levels_a_whole_burst_each", LEVELS, "known.most_at(now) / sharers", "known.most_at(now)", LEVEL_TESTS),
    Mutant(
        "levels_a_new_server_is_believed",
        LEVELS,
        "if known is not None and known.holder != holder:",
        "if known is not None and known.holder is None:",
        LEVEL_TESTS,
    ),
    Mutant("levels_a_fresh_share_each_time", LEVELS, "if known.alone is None:", "if True:", LEVEL_TESTS),
    Mutant("scoped_asks_for_claims_behind_too", SCOPED, "enumerate(ask[: ours.broken])", "enumerate(ask)", SCOPES),
    Mutant("scoped_forgets_shadows_of_the_others", SCOPED, "(*ours.over, *theirs.over) if index < theirs.broken", "ours.over", SCOPES),
    Mutant("reap_takes_the_living_too", REAP, "if times > 0 and after == '' then", "if times > 0 then", KEEPS_HIS_SEAT),
    Mutant("reap_frees_no_members", REAP, "redis.call('HDEL', KEYS[2], found[2][i])", "", DEATH),
    Mutant("reap_frees_no_seats", REAP, "if cursor == '0' then redis.call('HDEL', KEYS[1], ARGV[1]) end", "", DEATH),
    Mutant(
        "bury_the_living",
        BURY,
        "if counter and counter ~= ARGV[2] then return 0 end",
        "",
        ("tests/ledger/seats/test_undertaker.py::test_whoever_moved_meanwhile_is_not_buried",),
    ),
    Mutant(
        "beat_lists_itself_again",
        BEAT,
        "if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {} end",
        "",
        (f"{_REDIS}::test_an_instance_that_was_wrongly_taken_for_dead_comes_back_with_its_seats",),
    ),
    # who lives
    Mutant("newcomers_judge", HOLDERS, "return now - self._since >= self._ttl and", "return", JUDGING),
    Mutant("gaps_count_as_watching", HOLDERS, "if asked_at - self._heard_at > MAX_GAP * self._interval:", "if False:", JUDGING),
    Mutant("suspects_die_of_an_old_heartbeat", HOLDERS, "elif seen < asked_at:", "else:", JUDGING),
    Mutant(
        "the_past_is_watched_like_others",
        HOLDERS,
        "if holder in self._former or holder in self._dead:",
        "if holder in self._dead:",
        JUDGING,
    ),
    # what is told
    Mutant("a_refused_one_that_was_told_stays", OWN_SEATS, "doubtful=seat.tells != tells", "doubtful=False", OWN_TABLE),
    Mutant(
        "a_last_tab_is_not_told",
        OWN_SEATS,
        "doubtful=seat.member is None or not seat.taken",
        "doubtful=seat.member is None or not seat.held",
        OWN_TABLE,
    ),
    Mutant(
        "abandoned_ones_are_forgotten",
        OWN_SEATS,
        "        seat.pending -= 1\n        self._let_go(seat, doubtful=True)",
        "        seat.pending -= 1\n        self._let_go(seat, doubtful=False)",
        OWN_TABLE,
    ),
    Mutant(
        "others_are_not_known_alone",
        OWN_SEATS,
        "self.count(claim) + self.others(claim.key) < claim.limit",
        "self.count(claim) < claim.limit",
        FLUSH,
    ),
    Mutant(
        "lost_words_are_not_told_again",
        TELLER,
        "            self._own.untell(seats)  # the next",
        "            pass  # the next",
        ("tests/ledger/seats/test_teller.py::test_what_was_not_heard_is_told_again",),
    ),
    Mutant(
        "lost_words_of_forgotten_seats_are_not_told_again",
        OWN_SEATS,
        "            there.told = True\n            self.mark(there)\n",
        "            if there.held or there in self._marked:\n                self.mark(there)\n",
        OWN_TABLE,
    ),
    Mutant(
        "everything_waits_for_nothing_on_its_way",
        TELLER,
        "while self._own.untold or self._unheard:",
        "while self._own.untold:",
        ("tests/ledger/seats/test_teller.py::test_everything_is_told_only_when_what_was_on_its_way_is_heard",),
    ),
    Mutant(
        "ids_in_doubt_are_forgotten",
        KEEPER,
        "        if self.holders.own != own:\n            return  # a doubt meanwhile",
        "        if False:\n            return  # a doubt meanwhile",
        (f"{_KEEPER}::test_what_has_been_told_to_the_end_when_a_doubt_comes_unlists_nobody",),
    ),
    Mutant("nothing_is_told_after_a_doubt", KEEPER, "            self._own.mark_all()\n", "", EMPTY),
    Mutant(
        "order_of_a_release_and_a_question",
        REDIS_STORE,
        "        if self._own.is_untold(ask):\n            self._teller.now()\n",
        "",
        CONTRACT,
    ),
    Mutant(
        "refusals_are_repeated_after_a_release",
        REDIS_STORE,
        "            self._full.pop(claim.key, None)\n            self._given_back",
        "            self._given_back",
        CONTRACT,
    ),
    Mutant(
        "late_answers_are_believed",
        REDIS_LINK,
        "        self._in_flight.extend(batch)\n",
        '        self._in_flight.extend(one for one in batch if one.command[0] != b"PING")\n',
        ("tests/ledger/links/test_redis_link.py",),
    ),
    Mutant(
        "whoever_answers_is_taken_for_redis",
        REDIS_LINK,
        "if await connection.read_response() != script.digest:",
        "if await connection.read_response() is None:",
        ("tests/ledger/links/test_redis_link.py::test_whoever_speaks_something_else_is_never_believed",),
    ),
    # bad days
    Mutant(
        "admit_leaves_a_bucket_in_the_future",
        ADMIT,
        "if bucket.is_ahead then pcall(put, bucket, bucket.level) end",
        "",
        (f"{_BAD_DAYS}::test_a_clock_that_went_back_keeps_an_empty_bucket_empty_for_no_longer_than_a_refill",),
    ),
    Mutant(
        "admit_leaves_a_shadow_bucket_in_the_future",
        ADMIT,
        "if fits or (is_ahead and limit > 0) then",
        "if fits then",
        (f"{_BAD_DAYS}::test_a_shadow_rate_in_the_future_fills_up_too",),
    ),
    Mutant(
        "admit_stamps_every_bucket_of_a_denial",
        ADMIT,
        "if bucket.is_ahead then pcall(put, bucket, bucket.level) end",
        "pcall(put, bucket, bucket.level - bucket.taken)",
        CONTRACT,
    ),
    Mutant(
        "admit_takes_no_shadow_for_a_shadow",
        ADMIT,
        "taken = fits and 1 or 0",
        "taken = 1",
        (f"{_BAD_DAYS}::test_a_shadow_rate_in_the_future_fills_up_too",),
    ),
    Mutant(
        "admit_counts_thousands_of_fields",
        ADMIT,
        "all.err or #all > 2 * MOST_HOLDERS",
        "all.err",
        (f"{_FOREIGN}::test_thousands_of_fields_are_a_conflict_and_no_outage",),
    ),
    Mutant(
        "admit_refuses_many_holders",
        ADMIT,
        "#all > 2 * MOST_HOLDERS",
        "#all >= 2 * MOST_HOLDERS",
        (f"{_FOREIGN}::test_so_many_holders_as_there_may_be_are_none",),
    ),
    Mutant(
        "admit_takes_any_name_for_a_holder",
        ADMIT,
        "elseif #id == 16 and not find(id, '[^0-9a-f]') then",
        "elseif true then",
        (f"{_FOREIGN}::test_numbers_of_another_program_are_neither_counted_nor_reaped",),
    ),
    Mutant(
        "admit_reads_any_number_as_a_bucket",
        ADMIT,
        "'^(%d[%d.e+-]*) (%d[%d.e+-]*)$'",
        "'^(%S+) (%S+)$'",
        (f"{_FOREIGN}::test_a_bucket_that_is_none",),
    ),
    Mutant(
        "admit_takes_any_text_for_a_penalty",
        ADMIT,
        "if left == -1 or try('GET', name) ~= '' then return nil end",
        "if left == -1 then return nil end",
        (f"{_FOREIGN}::test_a_text_that_lives_for_some_time_is_no_penalty",),
    ),
    Mutant(
        "penalize_overwrites_any_text_that_lives_for_some_time",
        PENALIZE,
        " or redis.pcall('GET', KEYS[1]) ~= ''",
        "",
        (f"{_FOREIGN}::test_a_text_that_lives_for_some_time_is_no_penalty",),
    ),
    Mutant(
        "admit_takes_any_value_for_holders_of_a_member",
        ADMIT,
        "type(having) == 'table' or #having % 17 ~= 0 or having == '' or find(having, '[^0-9a-f;]')",
        "type(having) == 'table'",
        (f"{_FOREIGN}::test_a_member_that_is_not_ours",),
    ),
    Mutant(
        "admit_counts_members_whom_nobody_holds",
        ADMIT,
        "if count > 0 and holders and #holders == 0 then return 'C ' .. index end",
        "",
        (f"{_FOREIGN}::test_members_whom_nobody_holds_are_not_ours",),
    ),
    Mutant(
        "admit_names_nobody_of_a_room_in_which_it_has_members",
        ADMIT,
        "if not (fits or holders) then",
        "if false then",
        (f"{_BAD_DAYS}::test_a_member_with_tabs_on_a_dead_and_on_a_living_instance_keeps_his_seat",),
    ),
    Mutant(
        "admit_refuses_by_a_room_that_is_not_ours_any_more",
        ADMIT,
        """        own, elsewhere, holders = seats_of(name)
        if not own then return 'C ' .. index end
      end""",
        """        own, elsewhere, holders = seats_of(name)
      end""",
        (f"{_FOREIGN}::test_numbers_of_another_program_beside_our_members_are_found_when_somebody_is_refused",),
    ),
    Mutant(
        "admit_takes_any_number_of_own_members",
        ADMIT,
        "if type(count) == 'string' and #count <= 9 and find(count, '^[1-9]%d*$') then",
        "if count then",
        (f"{_FOREIGN}::test_an_own_count_of_members_that_is_none",),
    ),
    Mutant(
        "reap_rewrites_what_does_not_name_the_dead",
        REAP,
        "    elseif times > 0 then\n",
        "    else\n      after = after .. ';'\n",
        (f"{_FOREIGN}::test_reaping_a_room_leaves_what_does_not_name_the_dead",),
    ),
    Mutant(
        "tell_writes_to_what_is_not_ours",
        TELL,
        "  if checked[name] then return end\n",
        "  if true then return end\n",
        (f"{_FOREIGN}::test_what_was_taken_alone_is_not_written_to_what_is_not_ours",),
    ),
    Mutant(
        "join_adds_to_any_listing",
        JOIN,
        "then return 'C' end\n  listed",
        "then break end\n  listed",
        (f"{_FOREIGN}::test_a_listing_of_another_program_gets_nothing_added_and_nobody_is_buried",),
    ),
    Mutant(
        "any_listing_is_believed",
        SCRIPT_CALLS,
        "if not (all(map(_is_holder, listing)) and",
        "if not (",
        (f"{_FOREIGN}::test_a_listing_that_another_program_writes_to_leaves_the_instance_alone_and_nobody_is_buried",),
    ),
    Mutant(
        "a_look_at_another_type_is_an_outage",
        UNDERTAKER,
        "            if isinstance(error, CommandError) and not error.wrong_type:\n                raise\n",
        "            raise\n",
        (f"{_FOREIGN}::test_the_look_at_a_key_of_another_type_is_a_conflict_and_no_outage",),
    ),
    Mutant(
        "a_look_believes_any_holder",
        SCRIPT_CALLS,
        "if not (all(map(_is_holder, holders)) and",
        "if not (",
        (f"{_FOREIGN}::test_numbers_of_another_program_beside_ours_are_left_alone_by_the_slow_sweep",),
    ),
    Mutant(
        "the_dead_are_cleared_away_for_one_claim_only",
        REDIS_STORE,
        "seats = [one for one in asked.ask if isinstance(one, SeatClaim)]",
        "seats = [claim]",
        (f"{_BAD_DAYS}::test_a_dead_instance_that_filled_several_claims_is_in_nobodys_way",),
    ),
    Mutant(
        "the_dead_are_cleared_away_once_only",
        REDIS_STORE,
        "again.repeats = asked.repeats - 1",
        "again.repeats = 0",
        (f"{_BAD_DAYS}::test_several_dead_instances_each_in_the_way_of_another_claim_are_in_nobodys_way",),
    ),
    Mutant(
        "a_missing_script_costs_two_deadlines",
        REDIS_STORE,
        "            async with asyncio.timeout(self._left(asked)):\n                return await self._once_more(asked)\n",
        "            return await self._once_more(asked)\n",
        (f"{_BAD_DAYS}::test_a_missing_script_costs_no_more_than_the_deadline",),
    ),
    Mutant(
        "what_was_waited_for_in_vain_is_not_measured",
        REDIS_STORE,
        "                self.abandon(asked)\n                self._events.answered(time.monotonic() - asked.began)\n",
        "                self.abandon(asked)\n",
        (f"{_BAD_DAYS}::test_what_was_waited_for_in_vain_is_measured_too",),
    ),
    Mutant(
        "tell_needs_memory",
        TELL,
        "#!lua flags=allow-oom\n",
        "",
        (f"{_BAD_DAYS}::test_without_memory_what_is_given_back_reaches_the_store_all_the_same",),
    ),
    Mutant(
        "beat_needs_memory",
        BEAT,
        "#!lua flags=allow-oom\n",
        "",
        (f"{_BAD_DAYS}::test_without_memory_what_is_given_back_reaches_the_store_all_the_same",),
    ),
    Mutant(
        "a_store_without_memory_decides_now_and_then",
        KEEPER,
        "        await self._probe()\n",
        "",
        (f"{_BAD_DAYS}::test_without_memory_what_is_given_back_reaches_the_store_all_the_same",),
    ),
    Mutant(
        "newcomers_do_not_look_who_listens",
        JOIN,
        "if #listeners > #listing / 2 then count = '0' end",
        "",
        (f"{_BAD_DAYS}::test_who_starts_just_after_a_flush_waits_for_the_others_to_tell_what_they_hold",),
    ),
    Mutant(
        "newcomers_wait_for_nobody",
        JOIN,
        "#listeners > #listing / 2",
        "#listeners >= #listing / 2",
        (f"{_BAD_DAYS}::test_who_starts_on_a_store_that_was_never_used_decides_at_once",),
    ),
    Mutant(
        "newcomers_do_not_look_for_the_mark",
        KEEPER,
        "if joined.lost_for is not None:",
        "if False:",
        (f"{_BAD_DAYS}::test_who_starts_when_all_are_listed_again_waits_until_they_have_told_what_they_hold",),
    ),
    Mutant(
        "a_mark_is_young_for_ever",
        KEEPER,
        "max(0.0, self._telling_time - joined.lost_for)",
        "self._telling_time",
        (f"{_BAD_DAYS}::test_a_while_after_a_flush_nobody_waits_any_more",),
    ),
    Mutant(
        "who_was_there_for_long_shows_nothing",
        KEEPER,
        "are_missed and not has_settled(joined.counters)",
        "are_missed",
        (f"{_BAD_DAYS}::test_beside_one_who_was_there_for_long_nobody_is_missed",),
    ),
    Mutant(
        "newcomers_take_each_other_for_those_who_listen",
        JOIN,
        "  if listing[i + 1] == '0' and ARGV[4] ~= '' then count = '0' end\n",
        "",
        ("tests/ledger/seats/test_keeper.py::test_newcomers_tell_each_other_that_somebody_may_have_been_forgotten",),
    ),
    Mutant(
        "data_of_the_past_are_the_present",
        KEEPER,
        "elif self.holders.is_of_the_past(joined.counters):",
        "elif False:",
        (f"{_BAD_DAYS}::test_on_data_of_the_past_nobody_decides_before_the_others_have_told_what_they_hold",),
    ),
    Mutant(
        "all_data_are_of_the_past",
        KEEPER,
        "elif self.holders.is_of_the_past(joined.counters):",
        "else:",
        (f"{_BAD_DAYS}::test_after_an_outage_that_lost_nothing_nobody_waits_for_others",),
    ),
    Mutant(
        "ids_of_long_ago_stay_listed",
        KEEPER,
        "[*self._returned(joined), *self.teller.former][-MAX_FORMER:]",
        "self.teller.former",
        (f"{_BAD_DAYS}::test_an_id_from_long_ago_that_comes_back_with_old_data_is_nobodys_at_once",),
    ),
    Mutant(
        "ids_of_long_ago_tell_nothing",
        KEEPER,
        "self.holders.listed() or self._returned(joined) or",
        "self.holders.listed() or",
        (f"{_BAD_DAYS}::test_who_finds_his_id_from_long_ago_waits_for_those_whom_he_may_not_know",),
    ),
    Mutant(
        "the_present_is_the_past", HOLDERS, "counters[self._latest] < self._counter", "counters[self._latest] <= self._counter", JUDGING
    ),
    Mutant("who_stands_still_has_gone_on", HOLDERS, "counters.get(holder, 0) > watched", "counters.get(holder, 0) >= watched", JUDGING),
    Mutant("own_counter_is_not_heard", HOLDERS, "self._counter = counters.get(self._latest, self._counter)", "pass", JUDGING),
    Mutant("nobody_was_there_for_long", HOLDERS, "counter >= SETTLED", "counter > SETTLED", JUDGING),
    Mutant(
        "newcomers_claim_what_they_suspect",
        KEEPER,
        "            self._patience = self._still_telling(joined)\n",
        "            self._patience = self._still_telling(joined)\n            self._is_flushed = self._patience > 0\n",
        (f"{_BAD_DAYS}::test_a_channel_that_outlives_its_instance_is_no_loss_of_data",),
    ),
    Mutant(
        "who_was_taken_for_dead_waits_for_the_living",
        KEEPER,
        "if self.holders.listed() or self._returned(joined) or not has_settled(joined.counters):",
        "if True:",
        (f"{_BAD_DAYS}::test_one_who_knew_nobody_and_was_taken_for_dead_waits_for_nobody",),
    ),
    Mutant(
        "nobody_waits_after_a_flush",
        KEEPER,
        "if self.holders.listed() or self._returned(joined) or not has_settled(joined.counters):",
        "if False:",
        (f"{_BAD_DAYS}::test_after_a_flush_whoever_was_there_waits_for_the_others",),
    ),
    Mutant(
        "a_flush_is_settled_by_strangers",
        KEEPER,
        "if self.holders.listed() or self._returned(joined) or not has_settled(joined.counters):",
        "if self._returned(joined) or not has_settled(joined.counters):",
        (f"{_BAD_DAYS}::test_one_who_knew_others_waits_for_them_though_strangers_were_there_for_long",),
    ),
    Mutant(
        "what_another_wants_is_kept_for_ever",
        LANDLORD,
        "            self._own.give_back(bucket, Verb.YIELD)\n            self._own.rest(bucket)\n",
        "            self._own.give_back(bucket, Verb.YIELD)\n",
        ANSWERS,
    ),
    Mutant("join_leaves_no_mark", JOIN, "if is_lost then redis.pcall('SET', KEYS[2], '1', 'PX', ARGV[3], 'NX') end", "", MARK),
    Mutant("every_join_leaves_a_mark", JOIN, "is_lost and not listed[ARGV[i]]", "is_lost", MARK),
    Mutant("the_mark_is_renewed", JOIN, ", ARGV[3], 'NX')", ", ARGV[3])", MARK),
    Mutant(
        "who_may_not_ask_for_the_mark_does_not_start",
        JOIN,
        "redis.pcall('PTTL'",
        "redis.call('PTTL'",
        (f"{_BAD_DAYS}::test_who_may_not_ask_for_the_mark_starts_all_the_same",),
    ),
    Mutant(
        "newcomers_open_before_they_know",
        KEEPER,
        "        if self.state is StoreState.HEALING:\n            with suppress(TimeoutError):\n                async with asyncio.timeout(self._telling_time):\n                    await self._first.wait()\n",
        "",
        (f"{_BAD_DAYS}::test_who_starts_just_after_a_flush_does_not_open_before_it_knows",),
    ),
    Mutant(
        "scoped_refuses_for_what_comes_back",
        SCOPED,
        "while isinstance(answer, Denial) and",
        "while False and",
        SCOPES,
    ),
    Mutant("scoped_waits_for_ever", SCOPED, "until = time.monotonic() + PATIENCE", "until = time.monotonic() + 1e9", SCOPES),
    Mutant(
        "once_evicting_always_evicting",
        STORE_WATCH,
        "            self._evicting.pop(server, None)\n",
        "            pass\n",
        ("tests/server/test_store_watch.py",),
    ),
    Mutant(
        "a_policy_is_asked_for_once",
        REDIS_LINK,
        "                if policy != SAFE:\n                    self._look_again()\n",
        "",
        (f"{_BAD_DAYS}::test_a_policy_that_was_put_right_is_noticed",),
    ),
    Mutant(
        "why_nobody_listens_is_not_told",
        SUBSCRIPTION,
        "            self._denied(one_line(error))\n",
        "",
        ("tests/ledger/links/test_subscription.py::test_whom_the_server_does_not_let_listen_is_told_why_and_hears_when_it_does",),
    ),
    # the way to a server, whichever parser reads it
    Mutant(
        "every_command_is_a_write_of_its_own",
        REDIS_LINK,
        "BATCH: Final = 128 ",
        "BATCH: Final = 1 ",
        BATCHES,
    ),
    Mutant(
        "a_write_has_no_bound",
        REDIS_LINK,
        "BATCH: Final = 128 ",
        "BATCH: Final = 1000 ",
        BATCHES,
    ),
    Mutant(
        "what_no_redis_says_is_an_answer",
        REDIS_LINK,
        "as_told(await read(timeout=inf, disconnect_on_error=False))",
        "await read(timeout=inf, disconnect_on_error=False)",
        WORDS,
    ),
    Mutant(
        "an_error_within_a_list_is_an_answer",
        CONNECTING,
        "            raise one\n",
        "            pass\n",
        WORDS,
    ),
    Mutant(
        "only_the_first_level_of_a_list_is_looked_at",
        CONNECTING,
        "            waiting += one\n",
        "            waiting += [each for each in one if not isinstance(each, list)]\n",
        WORDS,
    ),
    Mutant(
        "true_is_a_number",
        CONNECTING,
        "type(one) not in _SCALARS",
        "not isinstance(one, _SCALARS)",
        WORDS,
    ),
    Mutant(
        "whatever_the_library_raises_ends_a_subscription",
        SUBSCRIPTION,
        "    except Exception as error:\n        raise StoreDown",
        "    except (OSError, ValueError) as error:\n        raise StoreDown",
        ("tests/ledger/links/test_subscription.py::test_whoever_says_what_no_redis_says_is_tried_again_and_again",),
    ),
    # several instances
    Mutant(
        "alone_there_is_room_for_all", FALLBACK, "return self._own.has_room(claim), None", "return True, None", (f"{_STORY}::{_ALONE}",)
    ),
    Mutant(
        "levels_tell_a_new_server_nothing",
        LEVELS,
        "return found or NOTHING",
        "return NOTHING",
        (f"{_STORY}::test_a_loss_of_data_brings_back_no_upgrades_that_all_know_to_be_spent",),
    ),
    # the wrong key, and scripts that only a Cluster or a server without memory needs
    Mutant(
        "two_knocks_vouch_for_each_other",
        OWN_SEATS,
        "return bool(seat.taken) or self.count",
        "return bool(seat.held) or self.count",
        OWN_TABLE,
    ),
    Mutant(
        "who_knocks_twice_counts_twice",
        OWN_SEATS,
        "self.others(claim.key) <= claim.limit",
        "self.others(claim.key) < claim.limit",
        OWN_TABLE,
    ),
    Mutant("refund_gives_nothing", REFUND, "math.min(level + 1,", "math.min(level,", REFUNDS),
    Mutant("refund_beyond_the_burst", REFUND, "math.min(level + 1, tonumber(ARGV[1]))", "level + 1", REFUNDS),
    Mutant("refund_lives_for_ever", REFUND, ", 'KEEPTTL')", ")", REFUNDS),
    Mutant("refund_of_another_moment", REFUND, "level, stamp), 'KEEPTTL'", "level, ARGV[1]), 'KEEPTTL'", REFUNDS),
    Mutant("refund_reads_any_number_as_a_bucket", REFUND, "'^(%d[%d.e+-]*) (%d[%d.e+-]*)$'", "'^(%S+) (%S+)$'", REFUNDS),
    Mutant("refund_takes_a_part_for_a_bucket", REFUND, "(%d[%d.e+-]*)$'", "(%d[%d.e+-]*)'", REFUNDS),
    Mutant("refund_takes_any_type", REFUND, "type(state) ~= 'string'", "not state", REFUNDS),
    Mutant(
        "a_slot_that_fails_costs_the_tokens_of_others",
        REDIS_STORE,
        "            self._refund(asked.ask, parts)  # now",
        "            pass  # now",
        (f"{_SLOTS}::test_if_one_part_fails_the_token_of_another_one_is_given_back",),
    ),
    Mutant(
        "a_slot_that_fails_is_all_that_is_waited_for",
        REDIS_STORE,
        "                errors.append(error)\n",
        "                errors.append(error)\n                break\n",
        (f"{_SLOTS}::test_if_one_part_fails_the_token_of_another_one_is_given_back",),
    ),
    Mutant(
        "a_missing_script_hides_a_failure",
        REDIS_STORE,
        "raise next((error for error in errors if not _is_missing_script(error)), errors[0])",
        "raise errors[0]",
        (f"{_SLOTS}::test_a_server_that_fails_is_not_asked_anew_because_another_one_has_no_script",),
    ),
    Mutant(
        "what_is_given_back_without_scripts_is_lost",
        REDIS_STORE,
        "_is_missing_script(answer.exception()) and not is_repeated",
        "False",
        (f"{_SLOTS}::test_what_is_given_back_as_the_scripts_are_forgotten_is_given_back_once_more",),
    ),
    Mutant(
        "what_is_given_back_without_scripts_is_given_back_for_ever",
        REDIS_STORE,
        "_is_missing_script(answer.exception()) and not is_repeated",
        "_is_missing_script(answer.exception())",
        (f"{_SLOTS}::test_what_is_given_back_as_the_scripts_are_forgotten_is_given_back_once_more",),
    ),
    Mutant("probe_needs_no_memory", PROBE, "#!lua\n", "#!lua flags=allow-oom\n", NO_MEMORY),
    Mutant("probe_is_a_script_of_the_old_kind", PROBE, "#!lua\n", "", NO_MEMORY),
    Mutant("probe_asks_only_to_read", PROBE, "#!lua\n", "#!lua flags=no-writes\n", NO_MEMORY),
    Mutant(
        "tell_counts_in_the_listing", TELL, "redis.call('HSET', name, holder, count)", "redis.call('HSET', KEYS[1], holder, count)", EMPTY
    ),
    Mutant(
        "tell_writes_members_among_the_counts",
        TELL,
        "redis.call('HSET', members, member, text)",
        "redis.call('HSET', name, member, text)",
        EMPTY,
    ),
    Mutant("tell_leaves_members_of_nobody", TELL, "redis.call('HDEL', members, member)", "redis.call('HDEL', name, member)", TABS),
    Mutant("tell_reads_members_among_the_counts", TELL, "redis.call('HGET', members, member)", "redis.call('HGET', name, member)", TABS),
    Mutant(
        "tell_gives_back_another_key", TELL, "redis.call('HDEL', name, holder, unpack(former))", "redis.call('HDEL', KEYS[1], '')", CONTRACT
    ),
    Mutant("reap_frees_members_among_the_counts", REAP, "redis.call('HDEL', KEYS[2], found", "redis.call('HDEL', KEYS[1], found", DEATH),
    Mutant(
        "reap_leaves_the_count_of_members", REAP, "redis.call('HDEL', KEYS[1], ARGV[1])", "redis.call('HDEL', KEYS[#KEYS], ARGV[1])", DEATH
    ),
    Mutant("reap_looks_for_members_among_the_counts", REAP, "redis.call('HSCAN', KEYS[2],", "redis.call('HSCAN', KEYS[1],", DEATH),
    Mutant(
        "reap_writes_members_among_the_counts",
        REAP,
        "redis.call('HSET', KEYS[2], found",
        "redis.call('HSET', KEYS[1], found",
        KEEPS_HIS_SEAT,
    ),
    Mutant("reap_asks_members_for_the_dead", REAP, "redis.call('HEXISTS', KEYS[1],", "redis.call('HEXISTS', KEYS[2],", DEATH),
    # Clusters and Sentinels
    Mutant(
        "slots_as_the_first_node_says",
        CLUSTER_LINK,
        "                if slots.is_whole:\n                    break",
        "                break",
        BLANK,
    ),
    Mutant(
        "slots_as_the_last_node_says",
        CLUSTER_LINK,
        "slots.covered > best.covered):",
        "slots.covered):",
        (f"{_CLUSTER}::test_a_node_that_knows_some_slots_is_believed_if_nobody_knows_more",),
    ),
    Mutant(
        "whoever_is_cut_off_is_believed_for_ever",
        CLUSTER_LINK,
        "        self._is_misled = True\n        self._stale.set()\n",
        "        self._stale.set()\n",
        (f"{_CLUSTER}::test_a_master_that_is_cut_off_from_the_others_and_its_map_are_not_believed_for_ever",),
    ),
    Mutant(
        "a_map_that_does_not_help_is_believed_for_ever",
        CLUSTER_LINK,
        "            elif loop.time() - self._believed_at > PATIENCE:\n                self._is_misled = True\n",
        "",
        (f"{_CLUSTER}::test_a_map_with_a_master_that_is_gone_is_not_believed_for_ever",),
    ),
    Mutant(
        "a_new_master_that_is_there_is_not_told",
        CLUSTER_LINK,
        "        elif not self.is_usable:\n            self._was_up = False\n",
        "",
        (f"{_CLUSTER}::test_a_master_that_is_added_is_no_doubt",),
    ),
    Mutant(
        "a_new_master_is_a_doubt",
        CLUSTER_LINK,
        "            self._added |= new",
        "            pass",
        (f"{_CLUSTER}::test_a_master_that_is_added_is_no_doubt",),
    ),
    Mutant(
        "a_master_that_was_new_once_is_never_a_doubt",
        CLUSTER_LINK,
        "        self._added.discard(endpoint)\n        self._stale.set()\n",
        "        self._stale.set()\n",
        (f"{_CLUSTER}::test_an_added_master_that_was_lost_before_we_knew_it_is_one",),
    ),
    Mutant(
        "what_a_lost_master_had_is_told_nobody",
        CLUSTER_LINK,
        "            self._anew = True  # what a lost",
        "            pass  # what a lost",
        (f"{_CLUSTER}::test_what_a_lost_master_had_is_told_to_the_one_who_has_its_slots_now",),
    ),
    Mutant("a_gap_in_the_slots_is_not_told", CLUSTER_LINK, '            self._tell_down("some slots', '            str("some slots', GAP),
    Mutant(
        "what_comes_after_a_gap_is_not_doubted",
        CLUSTER_LINK,
        "            self._anew = True  # whoever gets",
        "            pass  # whoever gets",
        GAP,
    ),
    Mutant("slots_that_have_moved_are_not_looked_for", REDIS_LINK, "if isinstance(error, MovedError):", "if False:", ON_ITS_WAY),
    Mutant("a_slot_that_moves_is_a_fault", REDIS_LINK, "        if self.moved is None:\n", "        if True:\n", ON_ITS_WAY),
    Mutant(
        "a_single_server_may_be_one_of_a_cluster",
        REDIS_LINK,
        "        if self.moved is None:\n",
        "        if False:\n",
        (f"{_CLUSTER}::test_whoever_expects_no_cluster_takes_a_redirection_for_an_error",),
    ),
    Mutant(
        "a_redirection_ends_an_outage_in_silence",
        REDIS_LINK,
        "if self._breaker.succeeded() and self.is_connected:",
        "if self._breaker.succeeded() and not isinstance(reply, StoreDown):",
        (f"{_CLUSTER}::test_a_redirection_ends_an_outage_too",),
    ),
    Mutant(
        "slots_that_two_have_count_twice",
        SLOT_MAP,
        "SlotMap(tuple(shares), sum(has_master))",
        "SlotMap(tuple(shares), sum(len(one) for one, _ in shares))",
        ("tests/ledger/links/test_slot_map.py",),
    ),
    Mutant(
        "the_first_sentinel_is_believed",
        SENTINELS,
        "    return most > second + left",
        "    return most > second",
        (f"{_SENTINELS}::test_one_that_is_wrong_is_not_believed_while_most_are_right",),
    ),
    Mutant(
        "sentinels_that_are_silent_are_waited_for",
        SENTINELS,
        "    return most > second + left",
        "    return not left",
        (f"{_SENTINELS}::test_a_sentinel_that_is_away_does_not_matter",),
    ),
    Mutant(
        "one_of_two_sentinels_is_believed_for_ever",
        SENTINELS,
        "equals.index(self._last) + 1 if",
        "equals.index(self._last) if",
        (f"{_SENTINELS}::test_where_two_disagree_both_are_tried",),
    ),
    Mutant(
        "a_failed_probe_puts_the_next_one_off",
        BREAKER,
        "            return False  # open already",
        "            self._next_probe = now + self._interval\n            return False  # open already",
        ("tests/ledger/links/test_breaker.py",),
    ),
    Mutant("a_slot_that_moves_is_asked_for_in_a_circle", LANDLORD, "except (SlotMoved, ValueError):", "except ValueError:", ANSWERS),
    # what takes long
    Mutant(
        "who_tells_everything_is_not_heard",
        KEEPER,
        "await self._beside_heartbeats(own, self._tell_everything(own), lambda: self.holders.own == own)",
        "await self._tell_everything(own)",
        (f"{_KEEPER}::test_who_has_much_to_tell_is_heard_meanwhile_and_tells_it_once",),
    ),
    Mutant(
        "ids_that_still_move_are_silent",
        KEEPER,
        "            await self.do(self._keys.beat(former))\n",
        "            pass\n",
        (f"{_KEEPER}::test_who_has_much_to_tell_is_heard_meanwhile_and_tells_it_once",),
    ),
    Mutant(
        "ids_that_still_move_are_watched",
        KEEPER,
        "asked_at, self.teller.former)",
        "asked_at)",
        (f"{_KEEPER}::test_an_own_id_that_still_moves_is_not_watched",),
    ),
    Mutant(
        "looks_never_end",
        UNDERTAKER,
        "for _ in range(len(self._looks)):",
        "while self._looks:",
        (f"{_DEAD}::test_keys_that_come_while_it_looks_wait_for_the_next_heartbeat",),
    ),
    Mutant(
        "looks_take_as_long_as_they_take",
        UNDERTAKER,
        " or time.monotonic() >= until:",
        ":",
        (f"{_DEAD}::test_it_looks_no_longer_than_it_may_and_forgets_nothing",),
    ),
    Mutant(
        "looks_in_doubt",
        UNDERTAKER,
        "if self._holders.own != own or time",
        "if time",
        (f"{_DEAD}::test_a_doubt_ends_its_looks",),
    ),
    Mutant(
        "a_long_look_silences_the_heartbeat",
        KEEPER,
        "await self._beside_heartbeats(own, self._look(), lambda: self.teller.is_open)",
        "await self._look()",
        (f"{_DEAD}::test_one_look_that_takes_long_leaves_the_heartbeat_alone",),
    ),
    Mutant(
        "who_doubts_himself_is_dead",
        UNDERTAKER,
        " if holder not in moving]",
        "]",
        (f"{_DEAD}::test_a_refusal_that_comes_just_after_a_doubt_frees_nothing_that_is_held_here",),
    ),
    Mutant(
        "nobody_looks_for_the_dead_where_they_are_too_many",
        REDIS_STORE,
        "            self.keeper.undertaker.look_beyond(claim)\n",
        "            pass\n",
        (f"{_FOREIGN}::test_thousands_who_died_one_after_the_other_keep_nobody_out_for_ever",),
    ),
    Mutant(
        "a_look_believes_any_count",
        SCRIPT_CALLS,
        " and all(map(_is_number_of_seats, reply[1::2]))",
        "",
        (f"{_FOREIGN}::test_a_count_that_is_none_stays_under_a_name_that_may_be_a_dead_holders",),
    ),
    Mutant(
        "what_is_not_ours_is_told_twice",
        UNDERTAKER,
        "            self._told.add(claim.key)\n",
        "            pass\n",
        (f"{_FOREIGN}::test_numbers_of_another_program_are_neither_counted_nor_reaped",),
    ),
    Mutant(
        "nothing_is_refreshed_while_the_store_does_not_decide",
        KEEPER,
        "            self._sweep.rest(time.monotonic())\n",
        "            pass\n",
        (f"{_KEEPER}::test_who_may_not_decide_for_long_goes_on_telling_what_is_held",),
    ),
    Mutant(
        "what_nobody_is_told_of_grows",
        SHARED_PENALTIES,
        "if len(self._untold) > 2 * len(self._known) + TOLD_AT_ONCE:",
        "if False:",
        ("tests/ledger/seats/test_shared_penalties.py::test_what_nobody_is_told_of_is_bounded_by_what_still_lasts",),
    ),
    Mutant(
        "refusals_from_before_a_release_are_repeated",
        REDIS_STORE,
        "            self._given_back[claim.key] = now\n",
        "            pass\n",
        (f"{_REDIS}::test_a_refusal_that_was_on_its_way_as_a_seat_was_given_back_is_not_repeated",),
    ),
    Mutant(
        "releases_are_forgotten",
        REDIS_STORE,
        "            self._given_back_since = now\n",
        "            pass\n",
        (f"{_REDIS}::test_a_refusal_that_was_on_its_way_as_a_seat_was_given_back_is_not_repeated",),
    ),
    Mutant("the_sweep_tells_all_at_once", SLOW_SWEEP, " / REFRESH", "", SWEEPS),
    Mutant("the_sweep_goes_by_heartbeats", SLOW_SWEEP, "self._rate * passed", "self._rate * self._interval", SWEEPS),
    Mutant(
        "the_sweep_makes_up_for_everything_at_once",
        SLOW_SWEEP,
        "min(now - self._last, MOST_BEATS * self._interval)",
        "now - self._last",
        SWEEPS,
    ),
    Mutant("the_sweep_tells_those_who_have_left", SLOW_SWEEP, "if seat.held:", "if True:", SWEEPS),
    Mutant("the_sweep_never_begins_again", SLOW_SWEEP, "if not self._seats:", "if not self._rate:", SWEEPS),
    Mutant("what_was_swept_has_rested", SLOW_SWEEP, "        self._last = now\n        if not", "        if not", SWEEPS),
    Mutant("rests_are_forgotten", SLOW_SWEEP, "self._rested += now", "self._rested = now", SWEEPS),
    Mutant("one_rest_counts_for_ever", SLOW_SWEEP, "            self._rested = 0.0\n", "", SWEEPS),
    Mutant(
        "who_stands_still_while_he_tells_everything_goes_on",
        KEEPER,
        "                elif self.holders.is_overdue(time.monotonic()):\n                    self.doubt()\n",
        "",
        (f"{_KEEPER}::test_who_stands_still_while_he_tells_everything_begins_anew",),
    ),
    Mutant("own_ids_are_watched", HOLDERS, " if holder not in moving}", "}", JUDGING),
    # after a doubt
    Mutant(
        "nobody_waits_until_it_is_told",
        FALLBACK,
        "        if not await self._shared.keeper.heals_by(until):\n",
        "        if True:\n",
        HEALED_SOON,
    ),
    Mutant("what_takes_long_is_waited_for", KEEPER, "until = min(until, self._doubted_at + self._link.timeout)", "pass", HEALED_SOON),
    Mutant("who_waits_does_not_hear", KEEPER, "            self._progress.set_result(None)\n", "            pass\n", HEALED_SOON),
    # single lines of scripts
    Mutant("heartbeats_let_the_listing_expire", BEAT, "redis.call('EXPIRE', KEYS[1], ARGV[2])\n", "", LISTING),
    Mutant("bury_knows_no_other_undertaker", BURY, "if counter and counter ~=", "if counter ~=", LISTING),
    Mutant("join_needs_memory", JOIN, "#!lua flags=allow-oom\n", "", LISTING),
    Mutant("join_takes_any_length_for_a_holder", JOIN, "#listing[i] ~= 16 or ", "", LISTING),
    Mutant("join_takes_any_letters_for_a_holder", JOIN, "string.find(listing[i], '[^0-9a-f]') or ", "", LISTING),
    Mutant("who_may_not_leave_a_mark_does_not_start", JOIN, "redis.pcall('SET'", "redis.call('SET'", LISTING),
    Mutant("join_fails_at_another_type", JOIN, "redis.pcall('HGETALL'", "redis.call('HGETALL'", LISTING),
    Mutant("who_may_not_ask_who_listens_does_not_start", JOIN, "redis.pcall('PUBSUB'", "redis.call('PUBSUB'", LISTING),
    Mutant("newcomers_let_the_listing_expire", JOIN, "redis.call('EXPIRE', KEYS[1], ARGV[2])\n", "", LISTING),
    Mutant("join_takes_a_mark_of_the_future_for_none", JOIN, "math.max(0, ARGV[3] - left)", "ARGV[3] - left", LISTING),
    Mutant("tell_takes_any_length_for_a_holder", TELL, "if #all[i] ~= 16 or string", "if string", TOLD),
    Mutant("tell_takes_any_letters_for_a_holder", TELL, "string.find(all[i], '[^0-9a-f]') or ", "", TOLD),
    Mutant("tell_takes_any_word_for_a_count", TELL, " or not string.find(all[i + 1], '^%d+$')", "", TOLD),
    Mutant(
        "tell_leaves_former_ids_what_was_given_back",
        TELL,
        "redis.call('HDEL', name, holder, unpack(former))",
        "redis.call('HDEL', name, holder)",
        TOLD,
    ),
    Mutant(
        "tell_seats_live_for_ever",
        TELL,
        "  redis.call('HSET', name, holder, count)\n  redis.call('EXPIRE', name, ttl)",
        "  redis.call('HSET', name, holder, count)",
        TOLD,
    ),
    Mutant("tell_counts_of_members_live_for_ever", TELL, "    redis.call('EXPIRE', name, ttl)\n    redis", "    redis", TOLD),
    Mutant("tell_members_live_for_ever", TELL, "    redis.call('EXPIRE', members, ttl)\n", "", TOLD),
    Mutant("tell_takes_any_length_for_a_member", TELL, "#before % 17 ~= 0 or ", "", TOLD),
    Mutant(
        "tell_takes_any_letters_for_a_member",
        TELL,
        "if #before % 17 ~= 0 or string.find(before, '[^0-9a-f;]') then",
        "if #before % 17 ~= 0 then",
        TOLD,
    ),
    Mutant("tell_gives_no_member_back_beside_what_is_not_ours", TELL, "if wanted then check(name) end", "check(name)", TOLD),
    Mutant("tell_counts_a_member_each_time", TELL, "if wanted ~= had then change", "if true then change", TOLD),
    Mutant("tell_fails_at_a_count_that_is_none", TELL, " or string.find(text, 'not an integer', 1, true)", "", TOLD),
    Mutant("tell_fails_at_another_type", TELL, "string.find(text, 'WRONGTYPE', 1, true) or ", "", TOLD),
    Mutant(
        "tell_leaves_a_count_of_0",
        TELL,
        "by) <= 0 then redis.call('HDEL', name, id) end",
        "by) < 0 then redis.call('HDEL', name, id) end",
        TOLD,
    ),
    Mutant("reap_ends_after_the_first_look", REAP, "if cursor == '0' then redis", "if true then redis", REAPED),
    Mutant("reap_looks_at_the_type_of_the_counts_only", REAP, "for i = 1, #KEYS do", "for i = 1, 1 do", REAPED),
    Mutant("reap_looks_at_the_type_of_the_members_only", REAP, "for i = 1, #KEYS do", "for i = 2, #KEYS do", REAPED),
    Mutant("reap_needs_memory", REAP, "#!lua flags=allow-oom\n", "", REAPED),
    Mutant("admit_takes_any_letters_for_a_member", ADMIT, " or find(having, '[^0-9a-f;]')", "", ASKED),
    Mutant("admit_takes_what_has_no_end_for_a_penalty", ADMIT, "left == -1 or try", "try", ASKED),
    Mutant(
        "penalize_takes_what_has_no_end_for_a_penalty",
        PENALIZE,
        "(left == -1 or redis.pcall('GET', KEYS[1]) ~= '')",
        "redis.pcall('GET', KEYS[1]) ~= ''",
        ASKED,
    ),
    Mutant("penalize_fails_at_another_type", PENALIZE, "redis.pcall('GET'", "redis.call('GET'", ASKED),
    Mutant(
        "admit_notes_a_member_each_time", ADMIT, "if not having or not find(having, holder .. ';', 1, true) then", "if true then", ASKED
    ),
    Mutant("admit_buckets_live_for_longer_than_may_be_said", ADMIT, ", 31536000000)", ", 2 ^ 62)", ASKED),
    Mutant("admit_divides_by_no_rate", ADMIT, "(is_ahead and limit > 0)", "is_ahead", ASKED),
    Mutant("admit_refuses_with_memory_only", ADMIT, "pcall(put, bucket, bucket.level)", "put(bucket, bucket.level)", ASKED),
    Mutant("refund_adds_to_what_is_no_number", REFUND, "if level then", "if true then", REFUNDS),
)

RATES = (
    # the script
    Mutant("rent_leases_are_not_taken", RENT, "level = math.max(0, level - granted)", "level = math.max(0, level)", LEASES),
    Mutant("rent_two_owners", RENT, "ARGV[10] == '1' and sharers == 1 and", "ARGV[10] == '1' and", LEASES),
    Mutant("rent_silent_owner_is_believed_for_ever", RENT, "if ARGV[18] ~= name then", "if true then", OWNERS),
    Mutant("rent_one_owner_was_waited_for_and_another_loses_it", RENT, "if ARGV[18] ~= name then", "if ARGV[18] == '' then", OWNERS),
    Mutant("rent_silent_owner_leaves_a_full_bucket", RENT, "  release(lost)\nelseif owner or", "  release(burst)\nelseif owner or", OWNERS),
    Mutant(
        "rent_silent_owner_leaves_nothing_after_an_outage",
        RENT,
        "  release(lost)\nelseif owner or",
        "  release(0)\nelseif owner or",
        OWNERS,
    ),
    Mutant("rent_silent_owner_always_leaves_a_share", RENT, "known >= 0 and known < RETURN and", "", OWNERS),
    Mutant("who_was_told_that_it_is_free_takes_it_from_the_next", LANDLORD, '            bucket.owner = b""\n', "", ANSWERS),
    Mutant(
        "an_answer_leaves_the_owner_waited_for",
        LEASED_BUCKET,
        '        self.absence = None\n        self.owner = b""\n',
        "        self.absence = None\n",
        ANSWERS,
    ),
    Mutant(
        "rent_anybody_gives_back",
        RENT,
        "owner == id and believed and (believed == won or believed < won and won <= heard)",
        "believed and owner",
        OWNERS,
    ),
    Mutant(
        "rent_who_became_owner_anew_has_nothing", RENT, "(believed == won or believed < won and won <= heard)", "believed == won", TROUBLE
    ),
    Mutant("rent_any_older_owner_is_believed", RENT, "believed < won and won <= heard", "believed < won", OWNERS),
    Mutant("rent_tells_nobody_that_it_is_free", RENT, "tell(other.id, 'f')", "local _ = other", OWNERS),
    Mutant("rent_tells_no_owner", RENT, "  tell(owner, 'y')  -- also", "  -- also", OWNERS),
    Mutant("rent_forgets_what_is_not_full", RENT, "if level >= burst and rate > 0 and sharers == 1", "if sharers == 1", OWNERS),
    Mutant("rent_overtakes", RENT, "level - ahead + 0.000001 >= need", "level + 0.000001 >= need", LEASES),
    Mutant("rent_beyond_the_burst", RENT, "level = math.min(capacity, level + elapsed", "level = math.max(0, level + elapsed", LEASES),
    Mutant("rent_takes_time_backwards", RENT, "local elapsed = math.max(0, now - stamp)", "local elapsed = now - stamp", TROUBLE),
    Mutant("rent_believes_the_future", RENT, "if at > now or at + FORGET", "if at + FORGET", TROUBLE),
    Mutant("rent_refills_an_outage", RENT, "if known >= 0 then elapsed = ", "if false then elapsed = ", TROUBLE),
    Mutant(
        "rent_forgets_what_came_before_an_outage",
        RENT,
        "math.max(math.min(elapsed, known), elapsed - away)",
        "math.min(elapsed, known)",
        TROUBLE,
    ),
    Mutant(
        "rent_fresh_burst_after_a_flush",
        RENT,
        "if kept >= 0 then level = math.min(level, given",
        "if false then level = math.min(level, given",
        TROUBLE,
    ),
    Mutant("rent_believes_foreign_fields", RENT, "  else return 'C' end\nend", "  end\nend", TROUBLE),
    # and single lines of it
    Mutant("rent_counts_for_9_seconds_who_has_asked", RENT, "local ACTIVE = 2000000", "local ACTIVE = 9000000", LEASES),
    Mutant(
        "rent_owner_shares_what_he_has",
        RENT,
        "  redis.call('HDEL', key, 'i' .. id)\n  return table.concat({'O'",
        "  return table.concat({'O'",
        LEASES,
    ),
    Mutant("rent_keeps_no_turn_after_its_time", RENT, "local pending = slot + GRACE > now", "local pending = slot > now", LEASES),
    Mutant("rent_keeps_a_turn_for_ever", RENT, "if place + GRACE < now then place = 0 end", "", LEASES),
    Mutant("rent_who_waits_does_not_count", RENT, "active = at + ACTIVE > now or pending", "active = at + ACTIVE > now", LEASES),
    Mutant("rent_forgets_who_waits_for_long", RENT, "at + FORGET < now and slot + GRACE < now", "at + FORGET < now", LEASES),
    Mutant("rent_shares_out_what_others_wait_for", RENT, "reserved = reserved + other.need", "reserved = 0", LEASES),
    Mutant("rent_who_got_a_part_is_before_who_waits", RENT, "  ahead = reserved\n", "", LEASES),
    Mutant("rent_spare_for_one_alone", RENT, "if sharers > 1 then capacity", "if true then capacity", LEASES),
    Mutant(
        "rent_asks_for_a_small_bucket_no_more_often",
        RENT,
        "local pace = math.min(PACE, (burst / math.max(rate, 0.000001) + SPARE) * 500000)",
        "local pace = PACE",
        LEASES,
    ),
    Mutant("rent_lacks_what_was_rounded", RENT, "level - ahead + 0.000001 >= need", "level - ahead >= need", LEASES),
    Mutant("rent_owes_what_was_rounded", RENT, "level = math.max(0, level - granted)", "level = level - granted", LEASES),
    Mutant("rent_tells_who_needs_nothing_that_it_is_free", RENT, "if other.need > 0 and other.active then", "if other.active then", OWNERS),
    Mutant("rent_tells_who_has_gone_that_it_is_free", RENT, "if other.need > 0 and other.active then", "if other.need > 0 then", OWNERS),
    Mutant(
        "rent_the_next_owner_is_wanted_too", RENT, "redis.call('HDEL', key, 'o', 'e', 'w')", "redis.call('HDEL', key, 'o', 'e')", OWNERS
    ),
    Mutant(
        "rent_who_wants_nothing_takes_it_from_an_owner",
        RENT,
        "  if want == 0 then return table.concat({'L 0 0', sharers, -1}, ' ') end\n",
        "",
        OWNERS,
    ),
    Mutant("rent_who_wants_nothing_owns", RENT, "and (want > 0 or ARGV[6] ~= '') then", "then", OWNERS),
    Mutant("rent_an_owner_shares_with_nobody", RENT, "math.max(sharers, 2), name", "sharers, name", OWNERS),
    Mutant("rent_waits_for_less_than_the_page_says", RENT, "local PATIENCE = 150 ", "local PATIENCE = 120 ", OWNERS),
    Mutant("rent_forgets_a_full_bucket_that_is_used", RENT, "rate > 0 and sharers == 1 then redis", "rate > 0 then redis", OWNERS),
    Mutant(
        "rent_what_an_owner_brings_is_not_written", RENT, "if want == 0 then\n  store({}, until_full())", "if want == 0 then\n  ", OWNERS
    ),
    Mutant("rent_an_owned_bucket_expires", RENT, "  redis.call('PEXPIRE', key, OWNED_TTL)\n", "", TROUBLE),
    Mutant(
        "rent_brings_back_more_than_a_bucket",
        RENT,
        "level = math.min(number(ARGV[7]) or 0, burst)",
        "level = number(ARGV[7]) or 0",
        TROUBLE,
    ),
    Mutant(
        "rent_who_gives_back_forgets_nobody",
        RENT,
        "redis.call('HDEL', key, 'i' .. id, unpack(stale))",
        "redis.call('HDEL', key, 'i' .. id)",
        TROUBLE,
    ),
    Mutant("rent_takes_a_mark_of_the_future_for_none", RENT, "math.max(0, MARK_TTL - left) * 1000)", "(MARK_TTL - left) * 1000)", TROUBLE),
    Mutant("rent_buckets_live_for_longer_than_a_year", RENT, "+ UNUSED / 1000, 31536000000)", "+ UNUSED / 1000, 2 ^ 62)", TROUBLE),
    # one instance
    Mutant(
        "lease_lives_from_its_answer",
        LEASED_BUCKET,
        "self._expires = asked_at + self.lease_time",
        "self._expires = now + self.lease_time",
        BUCKET,
    ),
    Mutant(
        "lease_of_twice_what_is_used",
        LEASED_BUCKET,
        "self._spent * min(1.0, self.lease_time / 2 / elapsed)",
        "2 * self._spent",
        BUCKET,
    ),
    Mutant("lease_of_what_nobody_said_was_too_little", LEASED_BUCKET, "            self._was_dry = True\n", "            pass\n", BUCKET),
    Mutant("lease_wants_a_part_of_a_token", LEASED_BUCKET, "ceil(max(least", "float(max(least", BUCKET),
    Mutant("crowd_is_looked_at_for_ever", CROWDS, " or total <= claim.limit:", ":", CROWD_TESTS),
    Mutant("crowd_is_all_others", CROWDS, "max(0, total - self._own.granted(claim))", "total", CROWD_TESTS),
    Mutant(
        "crowd_is_without_who_knocks",
        CROWDS,
        "max(0, total - self._own.granted(claim))",
        "max(0, total - self._own.count(claim))",
        CROWD_TESTS,
    ),
    Mutant("refusal_hides_a_crowd", CROWDS, "self._own.others(claim.key) if claim.key in self._claims else 0", "0", CROWD_TESTS),
    Mutant("crowd_of_before_is_one_for_ever", CROWDS, " if claim.key in self._claims else 0", "", CROWD_TESTS),
    Mutant(
        "refusal_is_without_who_knocks",
        CROWDS,
        "claim.limit - self._own.granted(claim)",
        "claim.limit - self._own.count(claim)",
        CROWD_TESTS,
    ),
    Mutant("crowd_is_looked_at_out_of_turn", CROWDS, "            self._claims.move_to_end(claim.key)\n", "", CROWD_TESTS),
    Mutant("crowds_take_all_the_time", CROWDS, "            if not has_time():\n                return\n", "", CROWD_TESTS),
    Mutant("late_answer_ends_a_look_for_good", UNDERTAKER, "(self.look_beyond if is_told else self.look_at)(claim)", "pass", LATE_LOOKS),
    Mutant(
        "late_answer_is_told_again", UNDERTAKER, "(self.look_beyond if is_told else self.look_at)(claim)", "self.look_at(claim)", LATE_LOOKS
    ),
    Mutant(
        "look_outlives_what_goes_wrong", KEEPER, "self._look(), lambda: self.teller.is_open)", "self._look(), lambda: True)", ENDED_LOOKS
    ),
    Mutant(
        "full_link_is_asked_in_a_loop",
        KEEPER,
        "            self.teller.now()\n        with self._lateness():\n",
        "            self.teller.now()\n",
        (f"{_KEEPER}::test_whoever_may_send_nothing_waits_for_the_next_heartbeat",),
    ),
    Mutant("new_ids_for_ever", KEEPER, "            self._own.overflowed = False  #", "            #", (f"{_KEEPER}::{_MADE_UP}",)),
    Mutant(
        "every_error_holds_the_rates_up",
        REDIS_STORE,
        "self.keeper.refused if _takes_no_writes(str(error)) else self.keeper.fault",
        "self.keeper.refused",
        (f"{_REDIS}::test_only_a_server_that_takes_no_writes_is_tried_before_it_is_said_to_be_back",),
    ),
    Mutant(
        "who_hangs_up_makes_no_room",
        REDIS_STORE,
        "        self._make_room(claim for claim, _ in asked.tickets)",
        "        ",
        (f"{_REDIS}::test_a_refusal_for_a_seat_of_one_who_has_hung_up_is_not_repeated",),
    ),
    Mutant(
        "members_who_leave_stay_granted",
        OWN_SEATS,
        "                _one_less(self._members, seat.key)\n",
        "                pass\n",
        OWN_TABLE,
    ),
    Mutant("lease_never_ends", LEASES_HELD, "leases[0].expires <= now", "False", HELD),
    Mutant("lease_is_taken_from_for_ever", LEASES_HELD, "            lease.tokens -= taken\n", "            pass\n", HELD),
    Mutant("leases_stay_under_an_owner", LEASED_BUCKET, "        self._leases.clear()\n", "", BUCKET),
    Mutant(
        "alone_at_the_whole_rate",
        PROSPECT,
        "return max(self.sharers, may_use_it)",
        "return 1",
        PROSPECTS,
    ),
    Mutant(
        "alone_with_a_fresh_burst",
        LEASED_BUCKET,
        "level = min(max(burst, saved), self._leases.available(now) + self._prospect.alone(now) - self._debt)",
        "level = burst",
        BUCKET,
    ),
    Mutant(
        "alone_up_to_the_whole_burst",
        LEASED_BUCKET,
        "self.burst = max(burst, level)",
        "pass",
        BUCKET,
    ),
    Mutant("alone_no_large_frame_ever", LEASED_BUCKET, "if self.burst < cost <= self.full_burst:", "if False:", BUCKET),
    Mutant(
        "alone_saves_up_before_it_was_asked",
        LEASED_BUCKET,
        "            self.level, self.stamp = self.pending, now\n            self.burst = cost",
        "            self.burst = cost",
        BUCKET,
    ),
    Mutant("alone_saves_up_for_ever", LEASED_BUCKET, "            self._end_saving(cost)\n", "            pass\n", BUCKET),
    Mutant("alone_saves_up_for_small_frames", LEASED_BUCKET, "(cost if cost > self.burst else 0.0)", "cost", BUCKET),
    Mutant(
        "outages_long_ago_are_one",
        LEASED_BUCKET,
        " if before.ended > began - NEWS else began - (before.ended - before.began)",
        "",
        BUCKET,
    ),
    Mutant("what_is_unheard_is_forgotten", OWN_BUCKETS, "        if not bucket.is_unheard:\n", "        if True:\n", DOUBTS),
    Mutant(
        "what_is_left_in_vain_is_forgotten",
        OWN_BUCKETS,
        "        except StoreDown:\n            self._buckets.keep(bucket)\n",
        "        except StoreDown:\n            self._buckets.forget(bucket)\n",
        DOUBTS,
    ),
    Mutant(
        "what_was_left_and_not_heard_is_forgotten",
        OWN_BUCKETS,
        "answer.exception() is not None and self._buckets.get(bucket.key) is None:\n            if",
        "False:\n            if",
        DOUBTS,
    ),
    Mutant("an_outage_is_over_at_first_sight", LANDLORD, "if is_back and self._seems_back:", "if is_back:", DOUBTS),
    Mutant("an_outage_that_nobody_ends_is_for_ever", LANDLORD, "if is_back and self._seems_back:", "if False:", DOUBTS),
    Mutant("all_try_again_at_once", LANDLORD, "min(AT_ONCE, len(self._rejoining))", "len(self._rejoining)", DOUBTS),
    Mutant("rent_refills_what_expired_in_an_outage", RENT, "if away > UNUSED then", "if false then", TROUBLE),
    Mutant("rent_gives_a_share_of_what_lacks_little", RENT, "math.max(given, burst - rate * (away - UNUSED) / 1000000)", "given", TROUBLE),
    Mutant(
        "rent_knows_nothing_of_what_came_since",
        RENT,
        "(away - UNUSED) / 1000000) + rate * known / 1000000)",
        "(away - UNUSED) / 1000000))",
        TROUBLE,
    ),
    Mutant(
        "small_frames_take_the_turn_of_a_large_one", LEASED_BUCKET, "self.line[0][1] if ahead > 0 and self.line else cost", "cost", BUCKET
    ),
    Mutant(
        "who_passed_in_advance_uses_up_patience",
        LEASED_BUCKET,
        "self._patience == inf or nobody_waited or",
        "self._patience == inf or",
        BUCKET,
    ),
    Mutant("patience_is_for_ever", LEASED_BUCKET, "self._patience == inf or nobody_waited or", "True or", BUCKET),
    Mutant("what_is_saved_up_is_lost_by_a_question", LEASED_BUCKET, "self.burst = max(burst, level)", "self.burst = burst", BUCKET),
    Mutant(
        "a_doubt_uses_up_patience",
        LANDLORD,
        "bucket.asked(now + left + BACKSTOP, now + self._most_patience,",
        "bucket.asked(now + left + BACKSTOP, now + left,",
        DOUBTS,
    ),
    Mutant(
        "back_with_a_share_of_the_burst",
        LEASED_BUCKET,
        "self.burst = self._share_of_burst = self.full_burst\n",
        "self._share_of_burst = self.full_burst\n",
        BUCKET,
    ),
    Mutant("an_absence_begins_anew", LEASED_BUCKET, "        if before is not None:\n", "        if False:\n", BUCKET),
    Mutant("of_two_outages_one_counts", LEASED_BUCKET, "else began - (before.ended - before.began)", "else began", BUCKET),
    Mutant(
        "an_absence_is_for_ever",
        LEASED_BUCKET,
        '        self.absence = None\n        self.owner = b""\n',
        '        self.owner = b""\n',
        BUCKET,
    ),
    Mutant("what_nobody_knows_is_full", PROSPECT, "self._burst / (self._shares(now) + 1))", "self._burst)", PROSPECTS),
    Mutant("what_nobody_knows_passes_in_advance", PROSPECT, "self._grace if self._most == inf else self", "self", PROSPECTS),
    Mutant(
        "what_was_left_is_not_shared",
        PROSPECT,
        "self.most(min(now, self._grows_from))) / self._shares(now))",
        "self.most(min(now, self._grows_from))))",
        PROSPECTS,
    ),
    Mutant("debts_are_forgotten", LEASED_BUCKET, "(self._debt <= 0 or self._owes_until <= now)", "True", BUCKET),
    Mutant(
        "leases_end_in_any_order",
        LEASES_HELD,
        'insort(self._leases, _Lease(tokens, expires), key=attrgetter("expires"))',
        "self._leases.append(_Lease(tokens, expires))",
        HELD,
    ),
    Mutant(
        "nothing_came_before_one_who_comes_in_an_outage",
        LEASED_BUCKET,
        "self._prospect.asked(min(self._landlord.away_since, now))",
        "self._prospect.asked(now)",
        BUCKET,
    ),
    Mutant("a_second_question_grows_anew", PROSPECT, "self._grows_from = min(self._grows_from, now)", "self._grows_from = now", PROSPECTS),
    Mutant("put_off_grows_from_the_question", PROSPECT, "        self._grows_from = now\n\n", "        pass\n\n", PROSPECTS),
    Mutant(
        "an_answer_leaves_what_was_alone",
        PROSPECT,
        "self._left, self._grows_from, self.saved = None, inf, 0.0",
        "self._grows_from, self.saved = inf, 0.0",
        PROSPECTS,
    ),
    Mutant("news_are_never_old", PROSPECT, "1 if now - self._sharers_at < NEWS else self._others.instances", "1", PROSPECTS),
    Mutant("alone_beyond_its_share", PROSPECT, "return min(self.burst(now), left", "return min(inf, left", PROSPECTS),
    Mutant("advance_before_an_answer_is_late", LEASED_BUCKET, "return now >= self._advance_from and", "return", BUCKET),
    Mutant("advance_is_a_gift", LEASED_BUCKET, "        self._debt += missing\n", "", BUCKET),
    Mutant("advance_is_paid_for_ever", LEASED_BUCKET, "        self._debt -= paid\n", "", BUCKET),
    Mutant(
        "advance_of_a_fresh_burst",
        LEASED_BUCKET,
        "if missing > self._prospect.in_advance(now) - self._debt:",
        "if missing > self.burst:",
        BUCKET,
    ),
    Mutant("advance_overtakes_the_line", LEASED_BUCKET, "self._is_advanced(cost + ahead, now)", "self._is_advanced(cost, now)", BUCKET),
    Mutant("owner_pays_no_debt", LEASED_BUCKET, "self.full_rate, self._pay(level), now", "self.full_rate, level, now", BUCKET),
    Mutant("debt_is_not_asked_for", LEASED_BUCKET, "min(self.burst, need + self._debt) if need", "need if need", BUCKET),
    Mutant(
        "answers_leave_the_next_one_late",
        LEASED_BUCKET,
        "self._patience = self._advance_from = inf\n        self.is_unheard",
        "self._patience = inf\n        self.is_unheard",
        BUCKET,
    ),
    Mutant("answers_are_late_for_ever", ANSWER_TIMES, "self._before, self._longest = self._longest, 0.0", "pass", TIMES),
    Mutant("answers_of_a_moment_ago_are_forgotten", ANSWER_TIMES, "max(self._longest, self._before)", "self._longest", TIMES),
    Mutant(
        "the_first_answer_is_never_late",
        ANSWER_TIMES,
        "return max(SOON, LATE",
        "return inf if self._began == -inf else max(SOON, LATE",
        (*TIMES, "tests/ledger/rates/test_redis_rates.py::test_a_store_that_freezes_before_its_first_answer_holds_up_nobody"),
    ),
    Mutant("waits_for_ever", LEASED_BUCKET, "if self.deadline <= now:", "if False:", BUCKET),
    Mutant(
        "asks_for_every_frame",
        LEASED_BUCKET,
        "if self.is_asking or now < self._ask_at:\n            self._was_dry",
        "if self.is_asking:\n            self._was_dry",
        BUCKET,
    ),
    Mutant("wakes_nobody", LEASED_BUCKET, "            wake()\n", "            pass\n", BUCKET),
    Mutant(
        "overtakes_the_line",
        LEASED_BUCKET,
        "if self._leases.available(now) - ahead >= cost:",
        "if self._leases.available(now) >= cost:",
        BUCKET,
    ),
    Mutant(
        "nothing_is_given_back",
        OWN_BUCKETS,
        "self._leave(bucket)\n        elif bucket.is_done",
        "pass\n        elif bucket.is_done",
        (f"{_OWN}::test_a_bucket_outlives_its_connections_and_follows_its_user",),
    ),
    Mutant(
        "a_wish_that_comes_early_is_lost",
        LANDLORD,
        "            self._unwanted.add(bucket)\n",
        "            pass\n",
        (f"{_LANDLORD}::test_a_wish_that_comes_before_the_bucket_is_kept",),
    ),
    Mutant(
        "knows_nothing_of_an_outage",
        RENT_LINK,
        "            self._lost_at = now\n",
        "            pass\n",
        (f"{_WORDS}::test_who_has_seen_a_loss_of_data_needs_no_mark_of_it",),
    ),
    Mutant("rent_asks_nobody_for_a_listing", RENT, "if KEYS[2] and verb == 'ask'", "if false", TROUBLE),
    Mutant("rent_lists_whoever_gives_back", RENT, "if KEYS[2] and verb == 'ask' and", "if KEYS[2] and", TROUBLE),
    Mutant("rent_forgets_what_instances_know", RENT, "if most >= 0 then level = math.min(level, most) end", "", TROUBLE),
    Mutant("rent_tells_nobody_what_is_left", RENT, "+ 1 or 0, sharers, text(level)}", "+ 1 or 0, sharers, '-1'}", TROUBLE),
    Mutant("rent_gives_no_first_message", RENT, "given + rate * kept / 1000000", "rate * kept / 1000000", TROUBLE),
    Mutant("rent_does_not_read_the_mark_of_a_loss", RENT, "if left >= 0 then kept", "if false then kept", TROUBLE),
    Mutant("rent_takes_nan_for_a_number", RENT, "if value and value >= 0 and value <= LARGEST then", "if value then", TROUBLE),
    Mutant("rent_takes_negative_numbers", RENT, "if value and value >= 0 and", "if value and", TROUBLE),
    Mutant("rent_takes_infinite_numbers", RENT, "value >= 0 and value <= LARGEST then", "value >= 0 then", TROUBLE),
    Mutant("rent_reads_any_number_of_fields", RENT, "or size > MOST_FIELDS then", "then", TROUBLE),
    Mutant("rent_owner_without_an_epoch", RENT, " or not owner ~= not won then", " then", TROUBLE),
    Mutant("rent_turn_beyond_all_numbers", RENT, "/ rate * 1000000), LARGEST)", "/ rate * 1000000), 2 ^ 63)", TROUBLE),
    Mutant("rent_divides_by_no_rate", RENT, "  if rate <= 0 then return OWNED_TTL end\n", "", TROUBLE),
    Mutant("rent_forgets_an_empty_bucket", RENT, "if level >= burst and rate > 0 and", "if level >= burst and", TROUBLE),
    Mutant("rent_gives_back_what_is_not_there", RENT, "and ARGV[6] == '' and not level", "and false", TROUBLE),
    Mutant(
        "rent_gives_back_twice",
        RENT,
        "elseif owner or verb == 'yield' and level or verb ~= 'ask' and ARGV[6] == '' and not level then",
        "elseif owner then",
        TROUBLE,
    ),
    Mutant(
        "rent_one_who_leaves_what_is_gone_makes_it_anew",
        RENT,
        "or verb ~= 'ask' and ARGV[6] == '' and not",
        "or not owner and verb == 'yield' and not",
        TROUBLE,
    ),
    Mutant("rent_no_spare_for_a_small_burst", RENT, "and 0 or SHORT_SPARE", "and 0 or 0", LEASES),
    Mutant("rent_spare_for_every_burst", RENT, "and 0 or SHORT_SPARE", "and SHORT_SPARE or SHORT_SPARE", LEASES),
    Mutant("lease_of_a_small_burst_lives_as_long", LEASED_BUCKET, "return LATE - self._spare", "return LATE", BUCKET),
    Mutant("no_grace", PROSPECT, "max(self._grace, min(self._burst,", "max(0.0, min(self._burst,", PROSPECTS),
    Mutant("waits_beyond_its_patience", LEASED_BUCKET, "until = min(self.deadline, self._patience)", "until = self.deadline", BUCKET),
    Mutant("what_is_left_unheard_is_lost", RENT, "  release()  -- it was told so", "  release(0)  -- it was told so", OWNERS),
    Mutant("what_was_forgotten_comes_back", RENT, "won > heard then", "won >= heard then", OWNERS),
    Mutant("late_questions_count", RENT, "won > asked then", "false then", OWNERS),
    Mutant(
        "new_buckets_have_heard_nothing",
        REDIS_RATES,
        "            bucket.heard = self.rents.number\n",
        "",
        (f"{_OWN}::test_who_returns_after_he_was_given_back_in_vain_gets_nothing_twice",),
    ),
    Mutant(
        "what_was_not_given_back_is_forgotten",
        OWN_BUCKETS,
        "            self._stay(bucket, word)\n        else:",
        "            pass\n        else:",
        FULL,
    ),
    Mutant(
        "given_back_in_vain_once",
        OWN_BUCKETS,
        "                self._leave(bucket, is_repeated=True)",
        "                pass",
        (f"{_OWN}::test_what_is_given_back_as_the_scripts_are_forgotten_is_given_back_all_the_same",),
    ),
    Mutant("forgets_nobody_who_is_idle", BUCKET_TABLE, "if len(self._idle) > MAX_IDLE:", "if False:", TABLE),
    Mutant("who_returns_is_still_idle", BUCKET_TABLE, "        self._idle.pop(bucket.key, None)\n        bucket", "        bucket", TABLE),
    Mutant("the_table_forgets_what_it_owns", BUCKET_TABLE, "if bucket.is_done(now):", "if True:", TABLE),
    Mutant("what_is_forgotten_is_told_nobody", BUCKET_TABLE, "        self.forgotten(bucket)\n", "", TABLE),
    Mutant("sweeps_look_at_the_same_ones", BUCKET_TABLE, "popitem(last=False)\n", "popitem()\n", TABLE),
    Mutant("whatever_is_said_has_a_number", RENT_LINK, "        if verb is Verb.ASK:\n", "        if verb:\n", SAID),
    Mutant("owns_what_it_cannot_hear_of", RENT_LINK, "may_own=self.may_own", "may_own=True", SAID),
    Mutant("an_outage_that_was_none", RENT_LINK, "        if away_since <= now:\n", "        if True:\n", SAID),
    Mutant("knows_the_older_absence", RENT_LINK, "ended = max(ended, absence.ended)", "ended = min(ended, absence.ended)", SAID),
    Mutant("what_is_lost_begins_with_all_of_it", RENT_LINK, "bucket.full_burst / (instances + 1))", "bucket.full_burst)", SAID),
    Mutant("errors_that_nobody_waits_for_are_logged", RENT_LINK, "error = answer.exception()", "error = None", SAID),
    Mutant("what_is_told_without_scripts_is_lost", RENT_LINK, "error.missing_script and not is_repeated", "False", SAID),
    Mutant("tells_all_at_once", OWN_BUCKETS, "await asyncio.wait(answers)\n", "pass\n", TOLD_AGAIN),
    Mutant(
        "tells_twice_at_a_time",
        OWN_BUCKETS,
        "            self._telling.cancel()\n        self._telling =",
        "            pass\n        self._telling =",
        TOLD_AGAIN,
    ),
    Mutant("believes_answers_of_before", OWN_BUCKETS, " or bucket.epoch != word.epoch:", ":", TOLD_AGAIN),
    Mutant("keeps_what_is_not_its_own", OWN_BUCKETS, "            bucket.share(time.monotonic())\n", "            pass\n", TOLD_AGAIN),
    Mutant("shares_what_it_has_not_used", OWN_BUCKETS, " and now - bucket.stamp < IN_USE", "", GIVEN_BACK),
    Mutant("what_is_left_in_doubt_stays", OWN_BUCKETS, " and error.outcome_known)", ")", GIVEN_BACK),
    Mutant("gives_back_without_end", OWN_BUCKETS, " and not is_repeated", "", GIVEN_BACK),
    Mutant("takes_from_who_came_back", OWN_BUCKETS, "if self._buckets.get(bucket.key) is None:", "if True:", GIVEN_BACK),
    Mutant("a_farewell_waits_for_ever", OWN_BUCKETS, "timeout=FAREWELL", "timeout=None", GIVEN_BACK),
    Mutant("asks_for_the_script_without_end", LANDLORD, " and not sent.is_repeated", "", ANSWERS),
    Mutant("late_answers_of_others_questions", LANDLORD, " and bucket.question == sent.question", "", ANSWERS),
    Mutant("leases_while_alone", LANDLORD, "left) if not was_alone:", "left):", ANSWERS),
    Mutant("asks_while_in_doubt", LANDLORD, "        if not self._is_there:\n", "        if False:\n", DOUBTS),
    Mutant(
        "each_doubt_is_the_first",
        LANDLORD,
        "        if self._is_there:\n            self._known_before",
        "        if True:\n            self._known_before",
        DOUBTS,
    ),
    Mutant("rejoins_while_in_doubt", LANDLORD, "if not self._is_there or not self._rents", "if not self._rents", DOUBTS),
    Mutant(
        "an_outage_begins_again_each_second", LANDLORD, "self._away_since = min(self._away_since, now)", "self._away_since = now", DOUBTS
    ),
    Mutant(
        "those_who_were_there_before_count_no_more", LANDLORD, "self._known_before if now < self._doubted_at + RETURN else 1", "1", DOUBTS
    ),
    Mutant(
        "those_who_were_there_before_count_for_ever",
        LANDLORD,
        "self._known_before if now < self._doubted_at + RETURN else 1",
        "self._known_before",
        DOUBTS,
    ),
    Mutant("what_was_told_in_vain_is_not_told_again", OWN_BUCKETS, "            self._untold.add(bucket)\n", "", TOLD_AGAIN),
    Mutant("a_confirmed_owner_was_never_heard_of", OWN_BUCKETS, "                bucket.heard = word.number\n", "", TOLD_AGAIN),
    Mutant("timers_outlive_the_end", LANDLORD, "(*self._waits, *self._healing)", "self._waits.copy()", DOUBTS),
    Mutant("knows_less_as_time_goes_by", PROSPECT, "(now - self._most_at + SLACK) * self._rate", "0.0", PROSPECTS),
    Mutant(
        "a_late_answer_makes_it_meter_alone",
        LANDLORD,
        "        if self._rents.is_usable:\n            bucket.unanswered()",
        "        if False:\n            bucket.unanswered()",
        (f"{_LANDLORD}::test_a_late_answer_is_asked_for_again_and_no_more_passes_without_one_than_in_an_outage",),
    ),
    Mutant(
        "nobody_says_that_it_is_not_listed",
        LANDLORD,
        "        self._rents.not_listed(holder)\n        self.late",
        "        self.late",
        (f"{_LANDLORD}::test_after_a_flush_a_first_message_waits_until_the_store_is_told_and_passes",),
    ),
    Mutant(
        "asks_without_what_it_knows",
        RENT_LINK,
        " most=bucket.most(now),",
        "",
        (f"{_WORDS}::test_a_flush_gives_no_first_message_to_those_who_are_known",),
    ),
    Mutant(
        "who_gave_a_bucket_back_takes_itself_for_the_only_one",
        OWN_BUCKETS,
        "            bucket.used_by(max(bucket.sharers, 2), now)\n",
        "            pass\n",
        (f"{_OWN}::test_who_has_just_given_a_bucket_back_goes_alone_at_half_the_rate",),
    ),
    # the wrong key
    Mutant(
        "rent_looks_for_the_holder_in_the_bucket",
        RENT,
        "redis.call('HEXISTS', KEYS[2], ARGV[14])",
        "redis.call('HEXISTS', key, 'l')",
        TROUBLE,
    ),
    Mutant("rent_takes_the_listing_for_the_mark", RENT, "redis.call('PTTL', KEYS[3])", "redis.call('PTTL', KEYS[2])", TROUBLE),
    Mutant(
        "rent_notes_who_waits_elsewhere",
        RENT,
        "redis.call('HSET', key, 'w', '1', unpack",
        "redis.call('HSET', key .. 'w', 'w', '1', unpack",
        OWNERS,
    ),
    Mutant(
        "one_given_back_in_vain_is_alone_for_ever",
        OWN_BUCKETS,
        "            if bucket.mode is Mode.ALONE:\n",
        "            if False:\n",
        DOUBTS,
    ),
    Mutant("the_deaf_go_on_owning", OWN_BUCKETS, "if now - self.deaf_since > DEAF and", "if False and", DEAF),
    Mutant(
        "who_is_deaf_for_a_moment_owns_nothing", OWN_BUCKETS, "if now - self.deaf_since > DEAF and", "if now > self.deaf_since and", DEAF
    ),
    Mutant("deaf_since_the_last_word", REDIS_RATES, "min(self._own.deaf_since, time.monotonic())", "time.monotonic()", DEAF),
    Mutant(
        "a_failure_of_long_ago_prolongs_waits",
        LEASED_BUCKET,
        "        self._ended = inf\n        self.deadline",
        "        self.deadline",
        BUCKET,
    ),
    Mutant("a_larger_share_is_taken_for_saved_up", LEASED_BUCKET, "is_saving=is_saving)", "is_saving=True)", BUCKET),
    Mutant(
        "rent_tells_the_loser_nothing",
        RENT,
        "  tell(owner, 'y')  -- also",
        "  if ARGV[18] ~= name then tell(owner, 'y') end  -- also",
        OWNERS,
    ),
    Mutant("only_the_last_outage_counts", RENT_LINK, "if began < inf and began - one.ended > refill + UNUSED:", "if began < inf:", SAID),
    Mutant("all_outages_count", RENT_LINK, "if began < inf and began - one.ended > refill + UNUSED:", "if False:", SAID),
    Mutant("outages_without_number", RENT_LINK, "self._absences[1 - MOST_ABSENCES :]", "self._absences", SAID),
    Mutant(
        "what_a_bucket_missed_besides_does_not_count",
        RENT_LINK,
        "away + length if absence.began >= ended else max(away, length)",
        "max(away, length)",
        SAID,
    ),
)

MUTANTS = (
    *SHARED,
    *RATES,
)
