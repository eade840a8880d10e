"""The tables of DESIGN, "What the user writes" and "Codes and messages", and the conditions of a rule."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from proxy.policy.rules import (
    DIRECTED_QUANTITIES,
    FRAME_QUANTITIES,
    LEGAL_ON_EXCESS,
    LEGAL_PER,
    LISTS_ALLOWED,
    RATE_QUANTITIES,
    SEAT_QUANTITIES,
    Direction,
    Mode,
    OnExcess,
    Per,
    Quantity,
    RefuseWith,
    When,
    default_burst,
    default_close_code,
    error_code,
    penalty_rule,
)
from tests.policy.principals import legal_pers, rule

CONNECTIONS, MEMBERS, UPGRADES, MESSAGES, MESSAGE_SIZE, BYTES, CONTROL_FRAMES, FRAGMENTS = Quantity
CONNECTION, USER, IP, ROOM, ROUTE, GLOBAL = Per


class TestTables:
    def test_the_yaml_words_are_those_of_the_design(self) -> None:
        assert [one.value for one in Quantity] == [
            *("connections", "members", "upgrades"),
            *("messages", "message_size", "bytes", "control_frames", "fragments"),
        ]
        assert [one.value for one in Per] == ["connection", "user", "ip", "room", "route", "global"]
        assert [one.value for one in OnExcess] == ["refuse", "drop", "close", "delay"]
        assert [one.value for one in Direction] == ["in", "out"]
        assert [one.value for one in Mode] == ["enforce", "shadow"]
        assert [one.value for one in RefuseWith] == ["close", "http"]

    def test_every_quantity_is_decided_at_the_upgrade_or_at_the_frame(self) -> None:
        assert set(LEGAL_PER) == set(LEGAL_ON_EXCESS) == set(Quantity)
        assert {CONNECTIONS, MEMBERS} == SEAT_QUANTITIES
        assert {UPGRADES, MESSAGES, BYTES, CONTROL_FRAMES} == RATE_QUANTITIES
        assert {MESSAGES, MESSAGE_SIZE, BYTES, CONTROL_FRAMES, FRAGMENTS} == FRAME_QUANTITIES
        assert {MESSAGES, BYTES} == DIRECTED_QUANTITIES

    def test_legal_pers(self) -> None:
        principals = {USER, IP, ROOM, ROUTE, GLOBAL}
        assert LEGAL_PER[CONNECTIONS] == LEGAL_PER[UPGRADES] == principals
        assert LEGAL_PER[MESSAGES] == LEGAL_PER[BYTES] == {CONNECTION, *principals}
        assert LEGAL_PER[MEMBERS] == {ROOM}
        assert LEGAL_PER[MESSAGE_SIZE] == LEGAL_PER[FRAGMENTS] == {CONNECTION}
        assert LEGAL_PER[CONTROL_FRAMES] == {CONNECTION, USER, IP}
        assert {CONNECTIONS, UPGRADES, MESSAGES, BYTES} == LISTS_ALLOWED

    @pytest.mark.parametrize(
        ("quantity", "default"),
        [
            *((CONNECTIONS, "refuse"), (MEMBERS, "refuse"), (UPGRADES, "refuse")),
            *((MESSAGES, "drop"), (MESSAGE_SIZE, "close"), (BYTES, "delay"), (CONTROL_FRAMES, "close"), (FRAGMENTS, "close")),
        ],
    )
    def test_the_default_of_on_excess_stands_first(self, quantity: Quantity, default: str) -> None:
        assert LEGAL_ON_EXCESS[quantity][0].value == default
        assert all((OnExcess.CLOSE in ways) is (one in FRAME_QUANTITIES) for one, ways in LEGAL_ON_EXCESS.items())
        assert (OnExcess.REFUSE in LEGAL_ON_EXCESS[quantity]) is (quantity not in FRAME_QUANTITIES)


CODES = {
    (CONNECTIONS, IP): ("ip_connection_limit_exceeded", 4008),
    (CONNECTIONS, ROOM): ("room_full", 4010),
    (CONNECTIONS, None): ("connection_limit_exceeded", 4008),
    (MEMBERS, None): ("room_full", 4010),
    (UPGRADES, None): ("upgrade_rate_limit_exceeded", 4008),
    (MESSAGES, IP): ("ip_rate_limit_exceeded", 4008),
    (MESSAGES, None): ("message_rate_limit_exceeded", 4008),
    (MESSAGE_SIZE, None): ("payload_too_large", 4009),
    (BYTES, None): ("byte_rate_limit_exceeded", 4008),
    (CONTROL_FRAMES, None): ("control_rate_limit_exceeded", 4008),
    (FRAGMENTS, None): ("too_many_fragments", 4009),
}
"""The table of DESIGN; None: any other `per`, lists too."""


@pytest.mark.parametrize(("quantity", "per"), [(quantity, per) for quantity in Quantity for per in legal_pers(quantity)])
def test_codes_and_close_codes(quantity: Quantity, per: tuple[Per, ...]) -> None:
    alone = per[0] if len(per) == 1 else None
    code, close_code = CODES.get((quantity, alone), CODES[quantity, None])
    assert error_code(quantity, per) == rule(quantity, *per).code == code
    assert default_close_code(quantity, per) == close_code


@pytest.mark.parametrize("quantity", [MESSAGES, MESSAGE_SIZE, FRAGMENTS])
def test_a_penalty_has_its_own_code_and_close_code_and_the_name_of_its_rule(quantity: Quantity) -> None:
    one = penalty_rule(replace(rule(quantity, CONNECTION, name="limit"), penalty=30.0, close_code=3456))
    assert (one.name, one.code, one.close_code, one.penalty) == ("limit", "penalized", 4008, 30.0)


class TestDefaultBurst:
    @pytest.mark.parametrize(("rate", "burst"), [(10, 10), (1, 1), (0.5, 1), (0.001, 1), (2.5, 2.5), (0, 0)])
    def test_is_one_seconds_worth_but_at_least_a_token(self, rate: float, burst: float) -> None:
        assert default_burst(rate) == burst


def holds(when: When, *, route: str = "r", room: str | None = "lobby", anonymous: bool = False, ip: str | None = "203.0.113.7") -> bool:
    return when.holds(route=route, room=room, anonymous=anonymous, address=None if ip is None else ip_address(ip))


class TestWhen:
    def test_nothing_said_is_everybody(self) -> None:
        assert holds(When())
        assert holds(When(), room=None, anonymous=True, ip=None)

    def test_routes(self) -> None:
        when = When(routes=frozenset(("a", "b")))
        assert [holds(when, route=route) for route in "abc"] == [True, True, False]

    @pytest.mark.parametrize(
        ("glob", "room", "expected"),
        [
            ("lobby", "lobby", True),
            ("lobby", "Lobby", False),
            ("vip-*", "vip-1", True),
            ("vip-*", "vip-", True),
            ("vip-*", "xvip-1", False),
            ("*", "", True),
            ("r?", "r1", True),
            ("r?", "r12", False),
            ("r[0-9]", "r5", True),
            ("r[!0-9]", "r5", False),
            ("a.b", "axb", False),
            ("a*", "a\nb", True),
        ],
    )
    def test_rooms_by_glob(self, glob: str, room: str, expected: bool) -> None:
        assert holds(When(room=glob), room=room) is expected

    def test_a_room_that_is_not_there_matches_no_glob(self) -> None:
        assert not holds(When(room="*"), room=None)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_anonymous(self, wanted: bool) -> None:
        assert holds(When(anonymous=wanted), anonymous=wanted)
        assert not holds(When(anonymous=wanted), anonymous=not wanted)

    def test_networks(self) -> None:
        when = When(networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))
        assert holds(when, ip="10.255.255.255")
        assert holds(when, ip="2001:db8:ffff::1")
        assert not holds(when, ip="11.0.0.0")
        assert not holds(when, ip="2001:db9::")
        assert not holds(when, ip=None)

    def test_every_condition_must_hold(self) -> None:
        when = When(frozenset("r"), "lobby", anonymous=False, networks=(ip_network("203.0.113.0/24"),))
        assert holds(when)
        assert not holds(when, route="s")
        assert not holds(when, room="arena")
        assert not holds(when, anonymous=True)
        assert not holds(when, ip="198.51.100.1")


def test_a_rule_enforces_unless_it_is_a_shadow() -> None:
    assert not rule(CONNECTIONS, USER).shadow
    assert rule(CONNECTIONS, USER, shadow=True).shadow
