"""Mutants of proxy/ledger within one process: buckets, penalties, the store in memory."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BUCKET = "proxy/ledger/token_bucket.py"
PENALTIES = "proxy/ledger/penalties.py"
MEMORY_STORE = "proxy/ledger/memory_store.py"

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

MUTANTS = (*LEDGER,)
