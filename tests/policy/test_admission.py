"""From a principal to claims, over a real store, and from its answers to what a refused client is told."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.store import Denial, Grant, SeatClaim, TokenClaim
from proxy.policy import admission
from proxy.policy.admission import (
    CLAIMS,
    MAX_REFUSED,
    MAX_RETRY_MS,
    REFUSAL_WINDOW,
    REFUSALS,
    SEAT_RETRY,
    AdmissionRules,
    Excess,
    RefusalHistory,
    applies,
    refusal,
)
from proxy.policy.identity import Identifier, IdentityRules, Principal
from proxy.policy.rules import FRAME_QUANTITIES, Per, Quantity, Rule, When
from proxy.wire.frames import MAX_CLOSE_REASON
from tests.policy.principals import ANN, IDENTIFIER, NOW, beside, legal_pers, rule, unlike

CONNECTIONS, MEMBERS, UPGRADES, MESSAGES, MESSAGE_SIZE, BYTES, CONTROL_FRAMES, FRAGMENTS = Quantity
CONNECTION, USER, IP, ROOM, ROUTE, GLOBAL = Per
ID = "0123456789abcdef"

AT_THE_UPGRADE = [(quantity, per) for quantity in Quantity if quantity not in FRAME_QUANTITIES for per in legal_pers(quantity)]


async def admit(store: MemoryStore, rules: list[Rule], who: Principal, now: float = NOW) -> Grant | Denial:
    _, claims = AdmissionRules(rules, IDENTIFIER).claims(who)
    [answer] = await store.admit([claims], now)
    return answer


async def admitted(store: MemoryStore, rules: list[Rule], who: Principal, now: float = NOW) -> bool:
    return isinstance(await admit(store, rules, who, now), Grant)


def guest(connection: bytes) -> Principal:
    """A client without a token."""
    user, anonymous = IDENTIFIER.user(b"", {}, connection)
    return replace(ANN, user=user, anonymous=anonymous, connection=connection)


class TestEveryRuleFires:
    """For the one over the limit, and not for the one beside."""

    @pytest.mark.parametrize(("quantity", "per"), AT_THE_UPGRADE)
    async def test_for_whoever_shares_all_that_it_counts_by(self, quantity: Quantity, per: tuple[Per, ...]) -> None:
        store = MemoryStore()
        rules = [rule(quantity, *per, limit=2, burst=2)]
        members = [replace(unlike(per), user=b"user %d" % i) if quantity is MEMBERS else unlike(per) for i in range(3)]
        assert [await admitted(store, rules, who) for who in members] == [True, True, False]

    @pytest.mark.parametrize(
        ("quantity", "per", "differs"), [(*case, one) for case in AT_THE_UPGRADE for one in case[1] if one is not GLOBAL]
    )
    async def test_but_not_for_the_one_beside(self, quantity: Quantity, per: tuple[Per, ...], differs: Per) -> None:
        store = MemoryStore()
        rules = [rule(quantity, *per, limit=1)]
        assert await admitted(store, rules, ANN)
        assert not await admitted(store, rules, beside(USER) if quantity is MEMBERS else ANN)
        assert await admitted(store, rules, beside(differs))

    async def test_frame_rules_have_no_claims(self) -> None:
        rules = [rule(MESSAGES, USER, limit=0), rule(MESSAGE_SIZE, CONNECTION, limit=0)]
        assert AdmissionRules(rules, IDENTIFIER).claims(ANN) == ([], [])

    @pytest.mark.parametrize(("quantity", "per"), AT_THE_UPGRADE)
    async def test_a_limit_of_0_admits_nobody(self, quantity: Quantity, per: tuple[Per, ...]) -> None:
        assert not await admitted(MemoryStore(), [rule(quantity, *per, limit=0)], ANN)


class TestClaims:
    def test_are_in_the_order_of_the_file_with_their_rules(self) -> None:
        rules = [
            rule(UPGRADES, IP, name="a", limit=5, burst=20),
            rule(MESSAGES, IP, name="b"),
            rule(MEMBERS, ROOM, name="c", limit=2000, shadow=True),
            rule(CONNECTIONS, USER, name="d", limit=3),
        ]
        theirs, claims = AdmissionRules(rules, IDENTIFIER).claims(ANN)
        assert [one.name for one in theirs] == ["a", "c", "d"]
        assert claims == [
            TokenClaim("a", IDENTIFIER.key(rules[0], ANN, (IP,)), 5, 20),
            SeatClaim("c", IDENTIFIER.key(rules[2], ANN, (ROOM,)), 2000, True, ANN.user),
            SeatClaim("d", IDENTIFIER.key(rules[3], ANN, (USER,)), 3),
        ]

    def test_mistake_three_round_trips_per_check(self) -> None:
        """All that a connection asks for is one ask of one call."""
        rules = [rule(quantity, *per, name=f"{quantity.value} {per}") for quantity, per in AT_THE_UPGRADE]
        _, claims = AdmissionRules(rules, IDENTIFIER).claims(ANN)
        assert len(claims) == len(rules)
        assert len({claim.key for claim in claims}) == len(rules)

    async def test_the_first_broken_rule_in_the_file_is_named(self) -> None:
        rules = [rule(CONNECTIONS, GLOBAL, name="wide", limit=9), rule(UPGRADES, IP, name="first"), rule(CONNECTIONS, USER, name="second")]
        store = MemoryStore()
        assert await admitted(store, rules, ANN)
        theirs, claims = AdmissionRules(rules, IDENTIFIER).claims(ANN)
        [answer] = await store.admit([claims], NOW)
        assert isinstance(answer, Denial)
        assert theirs[answer.broken].name == "first"

    async def test_a_refusal_by_the_last_rule_takes_nothing_under_the_first(self) -> None:
        store = MemoryStore()
        rules = [
            rule(CONNECTIONS, GLOBAL, name="wide", limit=2),
            rule(UPGRADES, IP, name="rate", burst=2),
            rule(CONNECTIONS, USER, name="user"),
        ]
        assert await admitted(store, rules, ANN)
        for _ in range(5):
            assert not await admitted(store, rules, ANN)
        assert await admitted(store, rules, beside(USER))  # the second seat and the second token are still there


class TestAnonymous:
    async def test_each_connection_without_a_token_is_its_own_user(self) -> None:
        store = MemoryStore()
        rules = [rule(CONNECTIONS, USER, limit=1)]
        assert await admitted(store, rules, guest(b"one"))
        assert await admitted(store, rules, guest(b"two"))

    async def test_mistake_all_anonymous_users_share_one_member_id(self) -> None:
        store = MemoryStore()
        rules = [rule(MEMBERS, ROOM, limit=2)]
        assert await admitted(store, rules, guest(b"one"))
        assert await admitted(store, rules, guest(b"two"))
        assert not await admitted(store, rules, guest(b"three"))

    async def test_two_tabs_of_one_user_take_one_seat_of_a_room(self) -> None:
        store = MemoryStore()
        rules = [rule(MEMBERS, ROOM, limit=1)]
        assert await admitted(store, rules, ANN)
        assert await admitted(store, rules, beside(CONNECTION))
        assert not await admitted(store, rules, beside(USER))


class TestApplies:
    @pytest.mark.parametrize(
        "one", [rule(MEMBERS, ROOM), rule(CONNECTIONS, ROOM), rule(CONNECTIONS, USER, ROOM), rule(UPGRADES, ROOM), rule(MESSAGES, ROOM)]
    )
    def test_not_per_room_where_the_route_has_none(self, one: Rule) -> None:
        assert applies(one, ANN)
        assert not applies(one, replace(ANN, room=None))

    def test_a_room_with_an_empty_name_is_a_room(self) -> None:
        assert applies(rule(MEMBERS, ROOM), replace(ANN, room=""))

    def test_others_do_where_there_is_no_room(self) -> None:
        assert applies(rule(CONNECTIONS, USER, IP, ROUTE, GLOBAL), replace(ANN, room=None))

    @pytest.mark.parametrize(
        ("when", "others"),
        [
            (When(routes=frozenset(("tournament",))), [beside(ROUTE)]),
            (When(room="lob*"), [beside(ROOM), replace(ANN, room=None)]),
            (When(anonymous=False), [guest(b"one")]),
            (When(networks=(ip_network("203.0.113.7/32"),)), [beside(IP), replace(ANN, address=None)]),
        ],
    )
    async def test_only_to_whom_when_names(self, when: When, others: list[Principal]) -> None:
        store = MemoryStore()
        rules = [rule(CONNECTIONS, GLOBAL, limit=0, when=when)]
        assert not await admitted(store, rules, ANN)
        for other in others:
            assert await admitted(store, rules, other)


class TestShadow:
    @pytest.mark.parametrize(("quantity", "per"), AT_THE_UPGRADE)
    async def test_counts_and_never_refuses(self, quantity: Quantity, per: tuple[Per, ...]) -> None:
        store = MemoryStore()
        rules = [rule(quantity, *per, limit=1, shadow=True)]
        people = [ANN, beside(USER) if quantity is MEMBERS else ANN]
        answers = [await admit(store, rules, who) for who in people]
        assert [answer.over for answer in answers] == [(), (0,)]
        assert all(isinstance(answer, Grant) for answer in answers)

    async def test_seats_of_a_shadow_are_seats(self) -> None:
        store = MemoryStore()
        for _ in range(3):
            await admit(store, [rule(CONNECTIONS, USER, limit=1, shadow=True)], ANN)
        assert store.seats() == {"rule": 3}


class TestRefusal:
    def test_when_a_seat_is_free_cannot_be_known(self) -> None:
        one = rule(CONNECTIONS, USER, limit=3)
        assert refusal(one, None) == Excess(one, SEAT_RETRY)
        assert refusal(one, None).retry_after_ms == 1000

    def test_a_limit_of_0_is_never(self) -> None:
        assert refusal(rule(CONNECTIONS, USER, limit=0), None).retry_after is None
        assert refusal(rule(UPGRADES, USER, limit=0), inf).retry_after is None

    async def test_a_token_is_there_when_the_bucket_says(self) -> None:
        store = MemoryStore()
        one = rule(UPGRADES, USER, limit=0.5)
        await admit(store, [one], ANN)
        answer = await admit(store, [one], ANN, NOW + 0.25)
        assert isinstance(answer, Denial)
        excess = refusal(one, answer.retry_after)
        assert excess.retry_after_ms == 1750
        assert await admitted(store, [one], ANN, NOW + 2)


class TestWhatTheClientIsTold:
    def test_is_the_json_of_the_design(self) -> None:
        excess = Excess(rule(MESSAGES, USER, name="user-messages"), 0.5)
        told = json.loads(excess.error_message(ID))
        assert list(told) == ["type", "code", "message", "retry_after_ms", "rule", "suppressed", "id"]
        assert told.pop("message")
        assert told == {
            "type": "error",
            "code": "message_rate_limit_exceeded",
            "retry_after_ms": 500,
            "rule": "user-messages",
            "suppressed": 0,
            "id": ID,
        }
        assert json.loads(excess.error_message(ID, 7))["suppressed"] == 7

    @pytest.mark.parametrize(("quantity", "per"), [(quantity, per) for quantity in Quantity for per in legal_pers(quantity)])
    def test_has_a_text_for_every_code(self, quantity: Quantity, per: tuple[Per, ...]) -> None:
        one = rule(quantity, *per)
        told = json.loads(Excess(one, None).error_message(ID))
        assert told["code"] == one.code
        assert told["retry_after_ms"] is None
        assert told["message"]

    @pytest.mark.parametrize(
        ("seconds", "milliseconds"),
        [(0.0, 0), (0.5, 500), (0.0001, 1), (1.0001, 1001), (1e300, MAX_RETRY_MS), (1.7e308, MAX_RETRY_MS), (inf, MAX_RETRY_MS)],
    )
    def test_a_wait_is_rounded_up_and_never_more_than_a_timer_can_wait(self, seconds: float, milliseconds: int) -> None:
        assert MAX_RETRY_MS == 2**31 - 1
        assert Excess(rule(MESSAGES, USER), seconds).retry_after_ms == milliseconds

    @given(st.text("abcXYZ019_.-", min_size=1, max_size=64), st.one_of(st.none(), st.floats(0, 1e308)), st.binary(min_size=1, max_size=12))
    @settings(max_examples=100, deadline=None)
    def test_the_close_reason_repeats_rule_wait_and_id_in_at_most_123_bytes(
        self, name: str, retry: float | None, connection: bytes
    ) -> None:
        excess = Excess(rule(MESSAGES, USER, name=name), retry)
        reason = excess.close_reason(connection.hex())
        wait = "never" if retry is None else str(excess.retry_after_ms)
        assert reason == f"rule={name} retry_after_ms={wait} id={connection.hex()}"
        assert len(reason.encode()) <= MAX_CLOSE_REASON == 123

    def test_the_longest_close_reason_fits(self) -> None:
        assert len(Excess(rule(MESSAGES, USER, name="n" * 64), 1e9).close_reason("i" * 24)) == 123


class TestRefusalHistory:
    def test_ten_refusals_in_ten_seconds_are_friendly_and_one_more(self) -> None:
        """More than 10 times: the eleventh makes it so, and further ones are plain."""
        assert (REFUSALS, REFUSAL_WINDOW) == (10, 10.0)
        history = RefusalHistory()
        assert [history.note(ANN, NOW + i / 10) for i in range(13)] == [False] * 11 + [True] * 2

    def test_a_slow_one_stays_friendly(self) -> None:
        history = RefusalHistory()
        assert not any(history.note(ANN, NOW + i) for i in range(100))

    def test_the_window_is_ten_seconds_to_the_tick(self) -> None:
        for gap, often in ((9.99, True), (10.0, False)):
            history = RefusalHistory()
            for _ in range(11):
                history.note(ANN, NOW)
            assert history.note(ANN, NOW + gap) is often

    def test_it_is_forgiven_when_the_window_is_over(self) -> None:
        history = RefusalHistory()
        for i in range(20):
            history.note(ANN, NOW + i / 10)
        assert not history.note(ANN, NOW + 20)

    def test_is_counted_per_user(self) -> None:
        history = RefusalHistory()
        for _ in range(20):
            history.note(ANN, NOW)
        assert history.note(beside(IP, ROOM, ROUTE, CONNECTION), NOW)
        assert not history.note(beside(USER), NOW)

    def test_is_counted_per_asking_ip_for_who_has_no_token(self) -> None:
        history = RefusalHistory()
        for i in range(20):
            history.note(guest(b"%d" % i), NOW)
        assert history.note(guest(b"another"), NOW)
        assert not history.note(replace(guest(b"x"), ip=b"\xcb\x00\x71\x09"), NOW)
        assert not history.note(ANN, NOW)  # at the same address, but somebody

    def test_is_bounded_and_forgets_who_was_refused_longest_ago(self) -> None:
        assert MAX_REFUSED == 100_000
        history = RefusalHistory(most=3)
        people = [replace(ANN, user=b"%d" % i) for i in range(4)]
        for who in people[:3]:
            for _ in range(11):
                history.note(who, NOW)
        history.note(people[0], NOW)  # the last one refused now
        history.note(people[3], NOW)
        assert len(history) == 3
        assert history.note(people[0], NOW)
        assert not history.note(people[1], NOW)

    def test_one_principal_is_remembered_in_bounded_space(self) -> None:
        history = RefusalHistory()
        for i in range(10_000):
            history.note(ANN, NOW + i / 1000)
        assert len(history) == 1
        assert max(map(len, history._times.values())) == REFUSALS + 1

    def test_a_sweep_forgets_whose_last_refusal_is_out_of_the_window(self) -> None:
        history = RefusalHistory()
        history.note(ANN, NOW)
        history.note(beside(USER), NOW + 5)
        history.sweep(NOW + 9.99)
        assert len(history) == 2
        history.sweep(NOW + 10)
        assert len(history) == 1
        history.note(beside(USER), NOW + 14)
        history.sweep(NOW + 23)
        assert len(history) == 1
        history.sweep(NOW + 24)
        assert len(history) == 0
        history.sweep(NOW + 25)


@pytest.mark.parametrize("remembered", [2, CLAIMS])
@pytest.mark.parametrize("particular", [True, False])
def test_what_is_remembered_of_one_principal_is_nobody_elses(remembered: int, particular: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules asked again and again, in any order, say what new ones would say."""
    monkeypatch.setattr(admission, "CLAIMS", remembered)
    rules = [rule(quantity, *per, name=f"{quantity.value}{number}") for number, (quantity, per) in enumerate(AT_THE_UPGRADE)]
    rules += [
        rule(CONNECTIONS, USER, name="on-a-route", when=When(routes=frozenset(("chat",)))),
        rule(CONNECTIONS, USER, name="guests", when=When(anonymous=True)),
    ]
    if particular:
        rules.append(rule(CONNECTIONS, USER, name="in-a-room", when=When(room="lob*")))
        rules.append(rule(CONNECTIONS, USER, name="from-a-network", when=When(networks=(ip_network("203.0.113.7/32"),))))
    everybody = [ANN, replace(ANN, room=None), guest(b"1"), guest(b"2"), *(beside(per) for per in Per), *(unlike((per,)) for per in Per)]
    shared = AdmissionRules(rules, IDENTIFIER)
    for who in (*everybody, *reversed(everybody)):
        assert shared.claims(who) == AdmissionRules(rules, Identifier(IdentityRules())).claims(who)
