"""The `rules` section: every kind with every `per`, and mistakes that would leave a rule without effect."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from proxy.config import Config, Overrides
from proxy.config.reading import any_of
from proxy.policy.rules import (
    LEGAL_ON_EXCESS,
    LEGAL_PER,
    LISTS_ALLOWED,
    CloseAfter,
    Direction,
    Mode,
    OnExcess,
    Per,
    Quantity,
    Rule,
    Scope,
    When,
)

Read = Callable[..., Config]
Mistakes = Callable[..., list[str]]

ROOMS = 'routes: [{name: rooms, path: "/{room}", upstream: game}, {name: rest, path: "/{rest*}", upstream: game}]\n'  # line 2
LIMITS = {"connections": "3", "members": "2000", "upgrades": "5/s", "messages": "10/s", "message_size": "16KiB"}
LIMITS |= {"bytes": "64KiB/s", "control_frames": "2/s", "fragments": "64"}
NUMBERS = {"connections": 3, "members": 2000, "upgrades": 5.0, "messages": 10.0, "message_size": 16384}
NUMBERS |= {"bytes": 65536.0, "control_frames": 2.0, "fragments": 64}
NAME = "a name of at most 64 letters, digits, - _ or ., beginning with a letter or digit"
QUANTITIES = "connections, members, upgrades, messages, message_size, bytes, control_frames"
KEYS = f"name, per, {QUANTITIES}, fragments, burst, when, on_excess, notify, close_code, mode, direction, max_delay, close_after, penalty or scope"
RATE = "a rate such as 10/s, 600/min, 5/h or 0.5/s"
BYTE_RATE = "a rate of bytes such as 4096/s, 64KiB/s or 100MiB/h"
SIZE = "a size such as 512, 16KiB or 1MiB"
FRAGMENTS = "a whole number of frames such as 64, at least 1"
CLOSE_CODE = "a close code: 1008, 1009, 1013, or one from 3000 to 4999"


@pytest.mark.parametrize("text", ["", "rules: []", "rules:\n"])
def test_there_may_be_no_rules(text: str, config: Read) -> None:
    assert config(text).rules == ()


@pytest.mark.parametrize(("quantity", "per"), [(quantity, per) for quantity in Quantity for per in Per])
def test_each_quantity_takes_its_legal_per_and_no_other(quantity: Quantity, per: Per, config: Read, mistakes: Mistakes) -> None:
    text = f"{ROOMS}rules: [{{name: r, per: {per.value}, {quantity.value}: {LIMITS[quantity.value]}}}]"
    if per in LEGAL_PER[quantity]:
        rule = config(text).rules[0]
        assert (rule.quantity, rule.per, rule.limit) == (quantity, (per,), NUMBERS[quantity.value])
        assert rule.on_excess is LEGAL_ON_EXCESS[quantity][0]
    else:
        (mistake,) = mistakes(text)
        assert mistake.startswith("3:24: rules[0].per: expected ")
        assert f" for {quantity.value}" in mistake
        assert mistake.endswith(f'found "{per.value}"')


@pytest.mark.parametrize("quantity", Quantity)
def test_lists_of_per_are_for_what_can_be_counted_so(quantity: Quantity, config: Read, mistakes: Mistakes) -> None:
    legal = [per for per in Per if per in LEGAL_PER[quantity]]
    text = f"{ROOMS}rules: [{{name: r, per: [{', '.join(per.value for per in legal)}], {quantity.value}: {LIMITS[quantity.value]}}}]"
    if quantity in LISTS_ALLOWED:
        assert config(text).rules[0].per == tuple(legal)
    else:
        assert mistakes(text) == [f"3:24: rules[0].per: expected {any_of(one.value for one in legal)} for {quantity.value}, found a list"]


def test_the_order_of_a_list_of_per_is_kept(config: Read) -> None:
    assert config("rules: [{name: r, per: [ip, user], messages: 1/s}]").rules[0].per == (Per.IP, Per.USER)


@pytest.mark.parametrize(
    ("rule", "close_code"),
    [
        ("per: user, connections: 3", 4008),
        ("per: room, connections: 3", 4010),
        ("per: [room, user], connections: 3", 4008),
        ("per: room, members: 3", 4010),
        ("per: ip, upgrades: 3/s", 4008),
        ("per: ip, messages: 3/s", 4008),
        ("per: connection, message_size: 3", 4009),
        *((f"per: user, messages: 3/s, close_code: {code}", code) for code in [1008, 1009, 1013, 3000, 4999]),
    ],
)
def test_close_codes_are_those_of_the_contract_unless_the_rule_names_one(rule: str, close_code: int, config: Read) -> None:
    assert config(f"{ROOMS}rules: [{{name: r, {rule}}}]").rules[0].close_code == close_code


@pytest.mark.parametrize(
    ("rule", "burst"),
    [
        ("messages: 10/s", 10.0),
        ("messages: 30/min", 1.0),
        ("messages: 10/s, burst: 20", 20.0),
        ("messages: 10/s, burst: 1.5", 1.5),
        ("messages: 10/s, burst: 1", 1.0),
        ("messages: 0/s", 0.0),
        ("messages: 0/s, burst: 0", 0.0),
        ("messages: 0/h, burst: 20", 0.0),
        ("connections: 3", 0.0),
        ("bytes: 64KiB/s", 65536.0),
        ("bytes: 1MiB/h", (1 << 20) / 3600),
        ("bytes: 60/h", 1.0),
        ("bytes: 64KiB/s, burst: 1MiB", 1048576.0),
        ("bytes: 0/s, burst: 1MiB", 0.0),
        ("control_frames: 2/s, burst: 5", 5.0),
    ],
)
def test_a_burst_is_one_seconds_worth_unless_the_rule_names_one(rule: str, burst: float, config: Read) -> None:
    assert config(f"rules: [{{name: r, per: user, {rule}}}]").rules[0].burst == burst


@pytest.mark.parametrize(("quantity", "on_excess"), [(quantity, on_excess) for quantity in Quantity for on_excess in OnExcess])
def test_each_quantity_takes_its_legal_on_excess_and_no_other(
    quantity: Quantity, on_excess: OnExcess, config: Read, mistakes: Mistakes
) -> None:
    per = next(per for per in Per if per in LEGAL_PER[quantity]).value
    text = f"{ROOMS}rules: [{{on_excess: {on_excess.value}, name: r, per: {per}, {quantity.value}: {LIMITS[quantity.value]}}}]"
    if on_excess in LEGAL_ON_EXCESS[quantity]:
        assert config(text).rules[0].on_excess is on_excess
    else:
        assert mistakes(text)[0].startswith("3:21: rules[0].on_excess: expected ")


def test_every_key_is_read(config: Read) -> None:
    text = (
        ROOMS
        + """
rules:
  - name: r
    per: [user, room]
    messages: 600/min
    burst: 12.5
    on_excess: drop
    direction: out
    close_after: {breaches: 20, within: 10s}
    notify: false
    close_code: 4321
    mode: shadow
    when: {route: [rooms, rest], room: "vip-*", anonymous: false, ip: [10.0.0.0/8, "2001:db8::/32"]}
  - {name: s, per: ip, connections: 0, when: {route: rest, ip: 127.0.0.1, anonymous: true}}
  - {name: t, per: user, bytes: 1KiB/s, burst: 2KiB, on_excess: delay, max_delay: 200ms, direction: in, penalty: 5m}
"""
    )
    assert config(text).rules == (
        Rule(
            "r",
            (Per.USER, Per.ROOM),
            Quantity.MESSAGES,
            10.0,
            12.5,
            OnExcess.DROP,
            4321,
            notify=False,
            mode=Mode.SHADOW,
            when=When(
                frozenset({"rooms", "rest"}), "vip-*", anonymous=False, networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
            ),
            direction=Direction.OUT,
            close_after=CloseAfter(20, 10.0),
        ),
        Rule(
            "s",
            (Per.IP,),
            Quantity.CONNECTIONS,
            0,
            0.0,
            OnExcess.REFUSE,
            4008,
            when=When(frozenset({"rest"}), anonymous=True, networks=(ip_network("127.0.0.1"),)),
        ),
        Rule("t", (Per.USER,), Quantity.BYTES, 1024.0, 2048.0, OnExcess.DELAY, 4008, max_delay=0.2, penalty=300.0),
    )


def test_shadow_at_the_top_makes_every_rule_a_shadow(config: Read) -> None:
    text = "rules: [{name: a, per: ip, connections: 1}, {name: b, per: ip, connections: 2, mode: enforce}]\n"
    enforced = config(text).rules
    shadows = tuple(replace(rule, mode=Mode.SHADOW) for rule in enforced)
    assert config(text + "mode: shadow").rules == config(text, overrides=Overrides(shadow=True)).rules == shadows
    assert config(text + "mode: enforce").rules == enforced


def test_a_scope_is_read_and_is_the_cluster_by_default(config: Read) -> None:
    text = "rules: [{name: a, per: ip, connections: 1}, {name: b, per: ip, connections: 1, scope: instance}, {name: c, per: ip, upgrades: 1/s, scope: cluster}]"
    assert [rule.scope for rule in config(text).rules] == [Scope.CLUSTER, Scope.INSTANCE, Scope.CLUSTER]


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        ("per: ip, connections: 1, scope: local", '2:51: rules[0].scope: expected cluster or instance, found "local"'),
        ("per: ip, connections: 1, scope:", "2:50: rules[0].scope: expected cluster or instance, found nothing"),
        (
            "per: connection, messages: 1/s, scope: instance",
            "2:51: rules[0].scope: expected no scope: a connection is on one instance anyway, found one for per: connection",
        ),
    ],
)
def test_a_wrong_scope_is_told_where_it_stands(rule: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(f"rules: [{{name: r, {rule}}}]") == [mistake]


@pytest.mark.parametrize(
    ("rules", "mistake"),
    [
        ("x", "3:8: rules: expected a list of rules, found text"),
        ("{a: b}", "3:8: rules: expected a list of rules, found a mapping"),
        ("[x]", "3:9: rules[0]: expected a mapping such as {name: user-messages, per: user, messages: 10/s}, found text"),
        ("[{per: ip, connections: 1}]", f"3:9: rules[0].name: expected {NAME}, found nothing"),
        ("[{name: 'a\n\n  b', per: ip, connections: 1}]", f'3:16: rules[0].name: expected {NAME}, found "a\\nb"'),
        (
            "[{name: r, per: ip}]",
            (
                "3:9: rules[0]: expected one of connections, members, upgrades, messages, message_size, bytes, control_frames or fragments, "
                "found none of them"
            ),
        ),
        (
            "[{name: r, connections: 1}]",
            "3:9: rules[0].per: expected user, ip, room, route or global for connections, or a list of them, found nothing",
        ),
        (
            "[{name: r, per: ip, connections: 1, upgrades: 1/s}]",
            "3:44: rules[0].upgrades: expected one quantity a rule; connections is there already, found upgrades",
        ),
        (
            "[{name: r, per: , connections: 1}]",
            "3:23: rules[0].per: expected user, ip, room, route or global for connections, or a list of them, found nothing",
        ),
        (
            "[{name: r, per: [], connections: 1}]",
            "3:24: rules[0].per: expected user, ip, room, route or global for connections, or a list of them, found an empty list",
        ),
        ("[{name: r, per: [ip, ip], connections: 1}]", "3:29: rules[0].per[1]: expected each of them once, found ip again"),
        (
            "[{name: r, per: {ip: x}, connections: 1}]",
            "3:24: rules[0].per: expected user, ip, room, route or global for connections, or a list of them, found a mapping",
        ),
        (
            "[{name: r, per: users, connections: 1}]",
            '3:24: rules[0].per: expected user, ip, room, route or global for connections (did you mean user?), found "users"',
        ),
        ("[{name: r, per: ip, connections: 1/s}]", '3:41: rules[0].connections: expected a whole number such as 0, 3 or 2000, found "1/s"'),
        ("[{name: r, per: ip, messages: 10}]", f'3:38: rules[0].messages: expected {RATE}, found "10"'),
        ("[{name: r, per: ip, messages: }]", f"3:37: rules[0].messages: expected {RATE}, found nothing"),
        (
            "[{name: r, per: connection, message_size: 1/s}]",
            '3:50: rules[0].message_size: expected a size such as 512, 16KiB or 1MiB, found "1/s"',
        ),
        (
            "[{name: r, per: ip, connections: 1, burst: 2}]",
            "3:44: rules[0].burst: expected no burst: only rates have one (upgrades, messages, bytes or control_frames), found one",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, burst: 0}]",
            '3:50: rules[0].burst: expected a number such as 20 or 2.5, at least 1, found "0"',
        ),
        (
            "[{name: r, per: ip, messages: 1/s, burst: 0.99}]",
            '3:50: rules[0].burst: expected a number such as 20 or 2.5, at least 1, found "0.99"',
        ),
        ("[{name: r, per: ip, messages: 1/s, burst: 5/s}]", '3:50: rules[0].burst: expected a number such as 20 or 2.5, found "5/s"'),
        ("[{name: r, per: ip, messages: 0/s, burst: x}]", '3:50: rules[0].burst: expected a number such as 20 or 2.5, found "x"'),
        (
            "[{name: r, per: ip, messages: 1/s, on_excess: delays}]",
            '3:54: rules[0].on_excess: expected drop, close or delay (did you mean delay?), found "delays"',
        ),
        ("[{name: r, per: ip, bytes: 10}]", f'3:35: rules[0].bytes: expected {BYTE_RATE}, found "10"'),
        ("[{name: r, per: ip, bytes: 1.5KiB/s}]", f'3:35: rules[0].bytes: expected {BYTE_RATE}, found "1.5KiB/s"'),
        ("[{name: r, per: ip, bytes: 1KiB/s, burst: 1.5}]", f'3:50: rules[0].burst: expected {SIZE}, found "1.5"'),
        ("[{name: r, per: ip, bytes: 1KiB/s, burst: 0}]", f'3:50: rules[0].burst: expected {SIZE}, at least 1, found "0"'),
        ("[{name: r, per: ip, bytes: 0/s, burst: x}]", f'3:47: rules[0].burst: expected {SIZE}, found "x"'),
        ("[{name: r, per: connection, fragments: 0}]", f'3:47: rules[0].fragments: expected {FRAGMENTS}, found "0"'),
        (
            "[{name: r, per: connection, fragments: 5/s}]",
            '3:47: rules[0].fragments: expected a whole number such as 0, 3 or 2000, found "5/s"',
        ),
        ("[{name: r, per: ip, control_frames: 5}]", f'3:44: rules[0].control_frames: expected {RATE}, found "5"'),
        (
            "[{name: r, per: ip, messages: 1/s, direction: both}]",
            '3:54: rules[0].direction: expected in or out, found "both"',
        ),
        *(
            (
                f"[{{name: r, per: ip, {quantity}: {LIMITS[quantity]}, direction: in}}]",
                (
                    f"3:{32 + len(quantity) + len(LIMITS[quantity])}: rules[0].direction: expected no direction: "
                    f"only messages or bytes have one, found one for {quantity}"
                ),
            )
            for quantity in ["connections", "upgrades", "control_frames"]
        ),
        *(
            (
                f"[{{name: r, per: ip, messages: 1/s, on_excess: {on_excess}, max_delay: 1s}}]",
                f"3:{56 + len(on_excess)}: rules[0].max_delay: expected no max_delay: only on_excess: delay has one, found one for {on_excess}",
            )
            for on_excess in ["drop", "close"]
        ),
        (
            "[{name: r, per: ip, messages: 1/s, max_delay: 1s}]",
            "3:43: rules[0].max_delay: expected no max_delay: only on_excess: delay has one, found one for drop",
        ),
        *(
            (
                f"[{{name: r, per: ip, bytes: 1/s, max_delay: {told}}}]",
                f'3:51: rules[0].max_delay: expected a time to wait from 1ms to 1h, found "{told}"',
            )
            for told in ["0s", "2h", "5", "off"]
        ),
        *(
            (
                f"[{{name: r, per: ip, messages: 1/s, on_excess: {on_excess}, close_after: {{breaches: 5, within: 1s}}}}]",
                (
                    f"3:{56 + len(on_excess)}: rules[0].close_after: expected no close_after: only on_excess: drop goes on to close, "
                    f"found one for {on_excess}"
                ),
            )
            for on_excess in ["close", "delay"]
        ),
        (
            "[{name: r, per: ip, connections: 1, close_after: {breaches: 5, within: 1s}}]",
            "3:44: rules[0].close_after: expected no close_after: only on_excess: drop goes on to close, found one for refuse",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, close_after: 5}]",
            "3:56: rules[0].close_after: expected a mapping such as {breaches: 20, within: 10s}, found text",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, close_after: {breaches: 5}}]",
            "3:56: rules[0].close_after.within: expected a time from 1ms to 24h, found nothing",
        ),
        *(
            (
                f"[{{name: r, per: ip, messages: 1/s, close_after: {{within: 1s, breaches: {told}}}}}]",
                f'3:79: rules[0].close_after.breaches: expected a number of breaches from 1 to 1000, found "{told}"',
            )
            for told in ["0", "1001", "x"]
        ),
        (
            "[{name: r, per: ip, messages: 1/s, close_after: {within: 25h, breaches: 3}}]",
            '3:65: rules[0].close_after.within: expected a time from 1ms to 24h, found "25h"',
        ),
        *(
            (
                f"[{{name: r, per: ip, {rule}, penalty: 30s}}]",
                (
                    f"3:{30 + len(rule)}: rules[0].penalty: expected no penalty: only a rule that closes has one "
                    "(on_excess: close or delay, or close_after), found one"
                ),
            )
            for rule in ["connections: 1", "upgrades: 1/s", "messages: 1/s", "bytes: 1/s, on_excess: drop"]
        ),
        (
            "[{name: r, per: ip, bytes: 1/s, direction: out, penalty: 30s}]",
            "3:56: rules[0].penalty: expected no penalty: with direction: out it is the server that sends too much, found one",
        ),
        *(
            (
                f"[{{name: r, per: ip, bytes: 1/s, penalty: {told}}}]",
                f'3:49: rules[0].penalty: expected a time from 1ms to 24h, found "{told}"',
            )
            for told in ["0s", "25h", "30"]
        ),
        ("[{name: r, per: ip, messages: 1/s, notify: yes}]", '3:51: rules[0].notify: expected true or false, found "yes"'),
        ("[{name: r, per: ip, messages: 1/s, notify: True}]", '3:51: rules[0].notify: expected true or false, found "True"'),
        ("[{name: r, per: ip, messages: 1/s, mode: off}]", '3:49: rules[0].mode: expected enforce or shadow, found "off"'),
        *(
            (
                f"[{{name: r, per: ip, messages: 1/s, close_code: {code}}}]",
                f'3:55: rules[0].close_code: expected {CLOSE_CODE}, found "{code}"',
            )
            for code in ["0", "1000", "1001", "1010", "1011", "2999", "5000"]
        ),
        (
            "[{name: r, per: ip, messages: 1/s}, {name: r, per: ip, messages: 2/s}]",
            "3:51: rules[1].name: expected another name than the one on line 3, found the same again",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: x}]",
            "3:49: rules[0].when: expected conditions: route, room, anonymous or ip, found text",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {}}]",
            "3:49: rules[0].when: expected conditions: route, room, anonymous or ip, found none",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {user: x}}]",
            "3:50: rules[0].when.user: expected route, room, anonymous or ip, found the unknown key user",
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {route: room}}]",
            '3:57: rules[0].when.route: expected the name of a route: rooms or rest (did you mean rooms?), found "room"',
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {route: [rest, x]}}]",
            '3:64: rules[0].when.route[1]: expected the name of a route: rooms or rest, found "x"',
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {route: []}}]",
            "3:57: rules[0].when.route: expected the name of a route, or a list of them, found an empty list",
        ),
        ("[{name: r, per: ip, messages: 1/s, when: {room: ''}}]", '3:56: rules[0].when.room: expected text, found ""'),
        ("[{name: r, per: ip, messages: 1/s, when: {anonymous: 1}}]", '3:61: rules[0].when.anonymous: expected true or false, found "1"'),
        (
            "[{name: r, per: ip, messages: 1/s, when: {ip: 10.1.2.3/8}}]",
            '3:54: rules[0].when.ip: expected 10.0.0.0/8, or 10.1.2.3 for the one address, found "10.1.2.3/8"',
        ),
        (
            "[{name: r, per: ip, messages: 1/s, when: {ip: []}}]",
            "3:54: rules[0].when.ip: expected an address or a network such as 10.1.2.0/24 or 2001:db8::/32, or a list of them, found an empty list",
        ),
    ],
)
def test_each_mistake_is_told_where_it_stands(rules: str, mistake: str, mistakes: Mistakes) -> None:
    assert mistakes(f"{ROOMS}rules: {rules}") == [mistake]


@pytest.mark.parametrize(
    ("section", "rule", "mistake"),
    [
        ("", "per: room, members: 5", "23: rules[0].per: {}no route has a room"),
        ("", "per: [user, room], messages: 5/s", "23: rules[0].per: {}no route has a room"),
        ("", "per: ip, messages: 5/s, when: {room: x}", "48: rules[0].when: {}no route has a room"),
        (ROOMS, "per: room, members: 5, when: {route: rest}", "23: rules[0].per: {}none of its routes has a room"),
        (ROOMS, "per: ip, messages: 5/s, when: {room: x, route: [rest]}", "48: rules[0].when: {}none of its routes has a room"),
        (
            "identity: {user: []}\n",
            "per: user, messages: 5/s",
            "23: rules[0].per: {}identity.user is an empty list, so that each connection is its own user",
        ),
        (
            "identity: {user: []}\n",
            "per: [ip, user], connections: 5",
            "23: rules[0].per: {}identity.user is an empty list, so that each connection is its own user",
        ),
        (
            "identity: {user: []}\n",
            "per: ip, messages: 5/s, when: {anonymous: false}",
            "48: rules[0].when: {}identity.user is an empty list, so that everybody is anonymous",
        ),
        ("", "per: user, connections: 5, when: {anonymous: true}", "23: rules[0].per: {}each anonymous connection is its own user"),
        ("", "per: user, upgrades: 5/s, when: {anonymous: true}", "23: rules[0].per: {}each anonymous connection is its own user"),
    ],
)
def test_a_rule_that_never_applies_is_a_mistake(section: str, rule: str, mistake: str, mistakes: Mistakes) -> None:
    expected = "expected a rule that can apply, found one that never applies: "
    line = 3 if section else 2
    assert mistakes(f"{section}rules: [{{name: r,{rule}}}]") == [f"{line}:{mistake.format(expected)}"]


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        (ROOMS, "per: room, members: 5"),
        (ROOMS, "per: room, members: 5, when: {route: [rest, rooms]}"),
        (ROOMS, "per: ip, messages: 5/s, when: {room: x}"),
        ("", "per: user, messages: 5/s, when: {anonymous: true}"),
        ("", "per: user, connections: 0, when: {anonymous: true}"),
        ("", "per: user, upgrades: 0/s, when: {anonymous: true}"),
        ("", "per: ip, connections: 5, when: {anonymous: true}"),
        ("identity: {user: []}\n", "per: ip, connections: 5, when: {anonymous: true}"),
    ],
)
def test_a_rule_that_applies_to_somebody_is_none(section: str, rule: str, config: Read) -> None:
    assert len(config(f"{section}rules: [{{name: r, {rule}}}]").rules) == 1


def test_a_rule_with_a_mistake_is_still_looked_at_as_a_whole(mistakes: Mistakes) -> None:
    told = mistakes(
        "rules: [{name: ' ', per: room, members: x, burst: -1, on_excess: x, notify: x, close_code: x, mode: x, when: {ip: x}, zzz: x}]"
    )
    assert [one.split(": ")[1] for one in told] == [
        *("rules[0].name", "rules[0].members", "rules[0].burst", "rules[0].on_excess", "rules[0].notify"),
        *("rules[0].close_code", "rules[0].mode", "rules[0].when.ip", "rules[0].zzz"),
    ]


def test_a_route_that_could_not_be_read_does_not_make_rules_wrong(mistakes: Mistakes) -> None:
    text = "routes: [{name: ' ', path: /, upstream: game}, x]\nrules: [{name: r, per: room, members: 1, when: {route: other}}]"
    assert [one.split(": ")[1] for one in mistakes(text)] == ["routes[0].name", "routes[1]"]
