"""Mutants of proxy/ledger over a shared server: its scripts, who lives, what is told, rates."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

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

RENT = "proxy/ledger/lua/rent.lua"
LEASED_BUCKET = "proxy/ledger/leased_bucket.py"
REDIS_RATES = "proxy/ledger/redis_rates.py"

_SCRIPT = "tests/ledger/test_rent.py"
_TRAFFIC = "tests/ledger/test_redis_rates.py"
OWNERS = (f"{_SCRIPT}::TestOwner",)
LEASES = (f"{_SCRIPT}::TestLeases",)
TROUBLE = (f"{_SCRIPT}::TestTrouble",)
BUCKET = ("tests/ledger/test_leased_bucket.py",)

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
    Mutant(
        "admit_counts_the_wrong_key", ADMIT, "local count = redis.call('HLEN', members)", "local count = redis.call('HLEN', name)", CONTRACT
    ),
    Mutant(
        "admit_writes_the_wrong_key",
        ADMIT,
        "redis.call('HINCRBY', name, holder, 1)",
        "redis.call('HINCRBY', KEYS[#KEYS], holder, 1)",
        CONTRACT,
    ),
    Mutant("admit_shadows_refuse", ADMIT, "if not shadow then", "if true then", CONTRACT),
    Mutant("admit_asks_no_listing", ADMIT, "redis.call('HEXISTS', KEYS[1], holder) == 0", "false", FLUSH),
    Mutant("admit_seats_live_for_ever", ADMIT, "      redis.call('EXPIRE', name, ttl)\n", "", EXPIRY),
    Mutant("admit_members_live_for_ever", ADMIT, "if kind == 'm' then redis.call('EXPIRE', write[4], ttl) end", "", EXPIRY),
    Mutant("admit_tokens_are_not_taken", ADMIT, "level = level - 1\n", "\n", CONTRACT),
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
    Mutant("admit_believes_foreign_numbers", ADMIT, "    if not count then return nil end\n", "    count = count or 0\n", CONFLICTS),
    Mutant(
        "admit_believes_foreign_buckets",
        ADMIT,
        "if not level or not stamp then return nil end",
        "level, stamp = level or burst, stamp or now",
        CONFLICTS,
    ),
    Mutant(
        "tell_asks_no_listing",
        TELL,
        "redis.call('HEXISTS', KEYS[1], holder) == 0",
        "false",
        ("tests/ledger/test_teller.py::test_whoever_is_not_listed_any_more_tells_everything_anew",),
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
        (f"{_REDIS}::test_what_could_not_be_told_for_want_of_memory_is_no_conflict_and_is_told_later",),
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
        "if left == -1 or",
        "if",
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
    Mutant("reap_takes_the_living_too", REAP, "if one ~= ARGV[1] then", "if false then", DEATH),
    Mutant("reap_frees_no_members", REAP, "redis.call('HDEL', KEYS[2], found[2][i])", "", DEATH),
    Mutant("reap_frees_no_seats", REAP, "if cursor == '0' then redis.call('HDEL', KEYS[1], ARGV[1]) end", "", DEATH),
    Mutant(
        "bury_the_living",
        BURY,
        "if counter and counter ~= ARGV[2] then return 0 end",
        "",
        ("tests/ledger/test_keeper.py::test_whoever_moved_meanwhile_is_not_buried",),
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
        ("tests/ledger/test_teller.py::test_what_was_not_heard_is_told_again",),
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
        "            self._own.leave(claim)\n            self._full.pop(claim.key, None)\n",
        "            self._own.leave(claim)\n",
        CONTRACT,
    ),
    Mutant(
        "late_answers_are_believed",
        REDIS_LINK,
        "        self._in_flight.extend(batch)\n",
        '        self._in_flight.extend(one for one in batch if one.command[0] != b"PING")\n',
        ("tests/ledger/test_redis_link.py",),
    ),
)

RATES = (
    # the script
    Mutant("rent_leases_are_not_taken", RENT, "level = math.max(0, level - granted)", "level = math.max(0, level)", LEASES),
    Mutant("rent_two_owners", RENT, "ARGV[10] == '1' and sharers == 1 and", "ARGV[10] == '1' and", LEASES),
    Mutant("rent_silent_owner_is_believed_for_ever", RENT, "if now - wanted < PATIENCE then", "if true then", OWNERS),
    Mutant(
        "rent_silent_owner_leaves_a_full_bucket", RENT, "  release(0)\nelseif owner then", "  release(burst)\nelseif owner then", OWNERS
    ),
    Mutant("rent_anybody_gives_back", RENT, "owner == id and ARGV[6] == epoch and ARGV[6] ~= ''", "ARGV[6] ~= '' and owner", OWNERS),
    Mutant("rent_tells_nobody_that_it_is_free", RENT, "tell(other.id, 'f')", "local _ = other", OWNERS),
    Mutant("rent_tells_no_owner", RENT, "    tell(owner, 'y')\n", "", OWNERS),
    Mutant("rent_forgets_what_is_not_full", RENT, "if level >= burst and sharers == 1", "if sharers == 1", OWNERS),
    Mutant("rent_overtakes", RENT, "level - ahead + 0.000001 >= need", "level + 0.000001 >= need", LEASES),
    Mutant("rent_beyond_the_burst", RENT, "level = math.min(capacity, level + elapsed", "level = math.max(0, level + elapsed", LEASES),
    Mutant("rent_takes_time_backwards", RENT, "local elapsed = math.max(0, now - stamp)", "local elapsed = now - stamp", TROUBLE),
    Mutant("rent_believes_the_future", RENT, "if at > now or at + FORGET", "if at + FORGET", TROUBLE),
    Mutant("rent_refills_an_outage", RENT, "if known >= 0 then elapsed = math.min(elapsed, known) end", "", TROUBLE),
    Mutant("rent_fresh_burst_after_a_flush", RENT, "elseif kept < 0 then level = burst", "elseif true then level = burst", TROUBLE),
    Mutant("rent_believes_foreign_fields", RENT, "  else return 'C' end\nend", "  end\nend", TROUBLE),
    # one instance
    Mutant("lease_lives_from_its_answer", LEASED_BUCKET, "self._expires = asked_at + LEASE", "self._expires = now + LEASE", BUCKET),
    Mutant("lease_never_ends", LEASED_BUCKET, "leases[0].expires <= now", "False", BUCKET),
    Mutant("leases_stay_under_an_owner", LEASED_BUCKET, "        self._leases.clear()\n", "", BUCKET),
    Mutant("alone_at_the_whole_rate", LEASED_BUCKET, "rate = self.full_rate / max(1, sharers)", "rate = self.full_rate", BUCKET),
    Mutant("alone_with_a_fresh_burst", LEASED_BUCKET, "min(self.burst, self._available(now) + self._left + grown)", "self.burst", BUCKET),
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
        (f"{_TRAFFIC}::test_a_store_that_comes_back_empty_gives_no_fresh_burst_to_those_who_shared_either",),
    ),
)

MUTANTS = (
    *SHARED,
    *RATES,
)
