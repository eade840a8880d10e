"""Every kind of rule, for every `per` that it may have, against a client that is over its limit and one beside it that is not.

The tables of DESIGN ("What the user writes", "Codes and messages") stand here once more, as a user would read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import combinations

import pytest
from _pytest.mark.structures import ParameterSet
from websockets.asyncio.server import ServerConnection, serve

from proxy.wire.frames import Opcode
from tests.limits.players import IDENTITY, ROUTES, TEXT, Lobby, Player, Way, Who, Words, lobby
from tests.support.backends import echo_backend
from tests.support.gate import Running, running
from tests.support.threads import threaded

ANN = Who()
PARTS = ("user", "ip", "room", "route")
LISTS = [*combinations(PARTS, 2), PARTS]
PRINCIPALS = [*((part,) for part in PARTS), *LISTS]
MINUTE = (59_000, 60_000)  # ms that a rate of one a minute makes us wait, right after its last token is gone
SEAT = (1000, 1000)  # ms: when a seat becomes free cannot be known

CODES = {
    ("connections", "ip"): Words("ip_connection_limit_exceeded", 4008, retry=SEAT),
    ("connections", "room"): Words("room_full", 4010, retry=SEAT),
    ("connections", ""): Words("connection_limit_exceeded", 4008, retry=SEAT),
    ("members", "room"): Words("room_full", 4010, retry=SEAT),
    ("upgrades", ""): Words("upgrade_rate_limit_exceeded", 4008, retry=MINUTE),
    ("messages", "ip"): Words("ip_rate_limit_exceeded", 4008, retry=MINUTE),
    ("messages", ""): Words("message_rate_limit_exceeded", 4008, retry=MINUTE),
    ("message_size", ""): Words("payload_too_large", 4009, retry=None),
}
LIMITS = {
    "connections": "connections: 2",
    "members": "members: 2",
    "upgrades": "upgrades: 1/min, burst: 2",
    "messages": "messages: 1/min, burst: 2",
    "message_size": "message_size: 16",
}


def words(quantity: str, per: tuple[str, ...]) -> Words:
    """What DESIGN's table says."""
    return CODES.get((quantity, "+".join(per))) or CODES[quantity, ""]


def ways(pers: Iterable[tuple[str, ...]]) -> list[ParameterSet]:
    """(per, way): where addresses count, both ways in which they come."""
    return [pytest.param(per, way, id=f"{'+'.join(per)}-{way.value}") for per in pers for way in (Way if "ip" in per else [Way.DIRECT])]


def stranger(per: tuple[str, ...]) -> Who:
    """Who has nothing in common with Ann but what `per` counts by."""
    return ANN.other(*(part for part in PARTS if part not in per))


def neighbours(per: tuple[str, ...]) -> list[Who]:
    """Who have everything in common with Ann but one of the things that `per` counts by."""
    return [ANN.other(part) for part in per if part in PARTS]


def rule(quantity: str, per: tuple[str, ...], more: str = "") -> str:
    keyed_by = per[0] if len(per) == 1 else f"[{', '.join(per)}]"
    return f"rules: [{{name: limit, per: {keyed_by}, {LIMITS[quantity]}{more}}}]\n"


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    """One server that echoes, for all tests; in a thread of its own, since each test has an event loop of its own."""
    with threaded(echo_backend) as url:
        yield url


def gate_with(backend: str, rules: str, more: str = "") -> AbstractAsyncContextManager[Running]:
    return running(IDENTITY + ROUTES + rules + more, upstream=backend)


# --- upgrades: connections, members, upgrades ------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuse_with", ["close", "http"])
@pytest.mark.parametrize("quantity", ["connections", "upgrades"])
@pytest.mark.parametrize(("per", "way"), ways(PRINCIPALS))
async def test_upgrades_beyond_the_limit_are_refused_and_others_are_not(
    backend: str, quantity: str, per: tuple[str, ...], way: Way, refuse_with: str
) -> None:
    async with gate_with(backend, rule(quantity, per), f"refuse_with: {refuse_with}\n") as gate, lobby(gate, way) as players:
        inside = [await players.enter(ANN), await players.enter(stranger(per))]
        refused = await players.knock(ANN)
        assert refused.status == (101 if refuse_with == "close" else 429)
        beside = [await players.enter(who) for who in neighbours(per)]
        await words(quantity, per).refuse(refused)
        for player in (*inside, *beside):
            assert await player.is_echoed(b"unhindered")
        samples = await gate.scrape()
        assert samples['wsgate_refusals_total{mode="enforce",rule="limit"}'] == 1
        assert samples['wsgate_upgrades_total{result="refused",route="arena"}'] == 1
        assert samples["wsgate_connections"] == len(inside) + len(beside)
        if quantity == "connections":
            assert samples['wsgate_seats{rule="limit"}'] == len(inside) + len(beside)


@pytest.mark.parametrize("refuse_with", ["close", "http"])
@pytest.mark.parametrize("per", [("global",), ("user", "global")], ids="+".join)
@pytest.mark.parametrize("quantity", ["connections", "upgrades"])
async def test_a_global_limit_counts_everybody_whom_its_rule_is_about(
    backend: str, quantity: str, per: tuple[str, ...], refuse_with: str
) -> None:
    about = ", when: {route: arena}"
    async with gate_with(backend, rule(quantity, per, about), f"refuse_with: {refuse_with}\n") as gate, lobby(gate) as players:
        everybody_else = ANN.other("ip", "room") if "user" in per else ANN.other("user", "ip", "room")
        await players.enter(ANN)
        await players.enter(everybody_else)
        refused = await players.knock(ANN)
        beside = await players.enter(ANN.other("route"))
        await words(quantity, per).refuse(refused)
        assert await beside.is_echoed(b"unhindered")


@pytest.mark.parametrize("refuse_with", ["close", "http"])
async def test_members_of_a_full_room_come_again_and_newcomers_do_not(backend: str, refuse_with: str) -> None:
    """Two tabs of a user are one member; each client without a token is a member of its own."""
    async with gate_with(backend, rule("members", ("room",)), f"refuse_with: {refuse_with}\n") as gate, lobby(gate) as players:
        await players.enter(ANN)
        anonymous = replace(ANN, user=None)
        await players.enter(anonymous)
        second_tab = await players.enter(ANN.other("ip", "route"))
        refused = [await players.knock(who) for who in (ANN.other("user"), anonymous)]
        beside = await players.enter(ANN.other("user", "room"))
        for player in refused:
            await words("members", ("room",)).refuse(player)
        assert await second_tab.is_echoed(b"unhindered")
        assert await beside.is_echoed(b"unhindered")
        samples = await gate.scrape()
        assert samples['wsgate_refusals_total{mode="enforce",rule="limit"}'] == 2
        assert samples['wsgate_seats{rule="limit"}'] == 3
        assert samples["wsgate_connections"] == 4


@pytest.mark.parametrize("quantity", ["connections", "upgrades", "members"])
async def test_per_room_is_not_about_connections_without_a_room(backend: str, quantity: str) -> None:
    async with gate_with(backend, rule(quantity, ("room",))) as gate, lobby(gate) as players:
        for _ in range(4):
            await players.enter(replace(ANN, user=None, route="lobby", room=None))


@pytest.mark.parametrize("quantity", ["connections", "upgrades"])
async def test_per_user_takes_each_connection_without_a_token_for_a_user_of_its_own(backend: str, quantity: str) -> None:
    async with gate_with(backend, rule(quantity, ("user",))) as gate, lobby(gate) as players:
        for _ in range(4):
            await players.enter(replace(ANN, user=None))


@pytest.mark.parametrize("limit", ["connections: 0", "members: 0", "upgrades: 0/s"])
@pytest.mark.parametrize("refuse_with", ["close", "http"])
async def test_a_limit_of_zero_is_never_and_no_time_to_retry_is_told(backend: str, limit: str, refuse_with: str) -> None:
    rules = f"rules: [{{name: limit, per: room, {limit}, when: {{room: red}}}}]\n"
    async with gate_with(backend, rules, f"refuse_with: {refuse_with}\n") as gate, lobby(gate) as players:
        refused = await players.knock(ANN)
        await players.enter(ANN.other("room"))
        await replace(words(limit.partition(":")[0], ("room",)), retry=None).refuse(refused)


async def test_upgrades_come_in_again_when_their_time_has_come(backend: str) -> None:
    """Who waits as long as he was told to gets in."""
    async with gate_with(backend, "rules: [{name: limit, per: user, upgrades: 5/s, burst: 1}]\n") as gate, lobby(gate) as players:
        await players.enter(ANN)
        refused = await players.knock(ANN)
        told = await refused.notice()
        assert 0 < told["retry_after_ms"] <= 200
        await asyncio.sleep(told["retry_after_ms"] / 1000)
        await players.enter(ANN)


async def test_the_first_broken_rule_of_the_file_is_named_and_a_refusal_spends_nothing(backend: str) -> None:
    rules = """
rules:
  - {name: seats, per: user, connections: 1}
  - {name: tokens, per: ip, upgrades: 1/min, burst: 2}
  - {name: members, per: room, members: 1}
"""
    async with gate_with(backend, rules) as gate, lobby(gate) as players:
        await players.enter(ANN)
        for _ in range(3):
            await Words("connection_limit_exceeded", 4008, "seats", SEAT).refuse(await players.knock(ANN))
        await players.enter(ANN.other("user", "room"))  # the address' last token: the refusals took none
        refused = await players.knock(replace(ANN, user="cat"))
        await Words("upgrade_rate_limit_exceeded", 4008, "tokens", MINUTE).refuse(refused)
        refused = await players.knock(replace(ANN, user="cat", number=12))
        await Words("room_full", 4010, "members", SEAT).refuse(refused)


# --- messages ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("per", "way"), ways([*PRINCIPALS, ("connection",), ("connection", "user")]))
async def test_messages_beyond_the_rate_are_dropped_and_those_of_others_are_not(backend: str, per: tuple[str, ...], way: Way) -> None:
    async with gate_with(backend, rule("messages", per)) as gate, lobby(gate, way) as players:
        ann, sharer, beside = await join_for_messages(players, per)
        assert await sharer.is_echoed(b"one")
        assert await ann.is_echoed(b"two")
        await ann.say(b"three")
        for player in beside:
            assert await player.is_echoed(b"unhindered")
        words("messages", per).fit_error(await ann.notice())
        assert await ann.is_alive()
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 1
        assert samples['wsgate_breaches_total{action="close",mode="enforce",rule="limit"}'] == 0
        assert samples['wsgate_messages_total{direction="in"}'] == 3 + len(beside)


@pytest.mark.parametrize(("per", "way"), ways([*PRINCIPALS, ("connection",), ("connection", "user")]))
async def test_messages_beyond_the_rate_close_and_others_stay(backend: str, per: tuple[str, ...], way: Way) -> None:
    async with gate_with(backend, rule("messages", per, ", on_excess: close")) as gate, lobby(gate, way) as players:
        ann, sharer, beside = await join_for_messages(players, per)
        assert await sharer.is_echoed(b"one")
        assert await ann.is_echoed(b"two")
        await ann.say(b"three")
        for player in beside:
            assert await player.is_echoed(b"unhindered")
        await words("messages", per).end(ann)
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="close",mode="enforce",rule="limit"}'] == 1
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 0
        assert samples['wsgate_closes_total{code="4008",initiator="gate"}'] == 1


async def join_for_messages(players: Lobby, per: tuple[str, ...]) -> tuple[Player, Player, list[Player]]:
    """(Ann, who shares her bucket, who do not)."""
    ann = await players.enter(ANN)
    if "connection" in per:
        return ann, ann, [await players.enter(ANN)]
    return ann, await players.enter(stranger(per)), [await players.enter(who) for who in neighbours(per)]


@pytest.mark.parametrize("on_excess", ["drop", "close"])
async def test_a_global_rate_is_shared_by_all_whom_its_rule_is_about(backend: str, on_excess: str) -> None:
    more = f", on_excess: {on_excess}, when: {{route: arena}}"
    async with gate_with(backend, rule("messages", ("global",), more)) as gate, lobby(gate) as players:
        ann, other, beside = [await players.enter(who) for who in (ANN, ANN.other("user", "ip", "room"), ANN.other("route"))]
        assert await other.is_echoed(b"one")
        assert await ann.is_echoed(b"two")
        await ann.say(b"three")
        for _ in range(3):
            assert await beside.is_echoed(b"unhindered")
        if on_excess == "close":
            await words("messages", ("global",)).end(ann)
        else:
            words("messages", ("global",)).fit_error(await ann.notice())


async def test_a_bucket_is_found_as_it_was_left_by_who_comes_again(backend: str) -> None:
    async with gate_with(backend, rule("messages", ("user",))) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        assert await ann.is_echoed(b"one")
        assert await ann.is_echoed(b"two")
        await ann.leave()
        again = await players.enter(ANN)
        await again.say(b"three")
        words("messages", ("user",)).fit_error(await again.notice())


async def test_a_rate_of_zero_drops_all_and_tells_of_no_retry(backend: str) -> None:
    async with gate_with(backend, "rules: [{name: limit, per: user, messages: 0/s}]\n") as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        await ann.say(b"one")
        replace(words("messages", ("user",)), retry=None).fit_error(await ann.notice())
        assert await ann.is_alive()


async def test_a_flood_is_told_of_once_a_second_and_the_rest_is_counted(backend: str) -> None:
    async with gate_with(backend, rule("messages", ("user",))) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        for _ in range(2):
            assert await ann.is_echoed(b"passes")
        for _ in range(100):
            await ann.say(b"flood")
        first = await ann.notice()
        assert await ann.is_alive()  # so the other drops had no notice
        await asyncio.sleep(1.0)
        await ann.say(b"flood")
        second = await ann.notice()
        assert first["suppressed"] + second["suppressed"] == 99  # of 101 drops two were told of
        assert (await gate.scrape())['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 101


# --- sizes -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
async def test_a_message_beyond_the_size_closes(backend: str, opcode: Opcode) -> None:
    async with gate_with(backend, rule("message_size", ("connection",))) as gate, lobby(gate) as players:
        ann, beside = await players.enter(ANN), await players.enter(ANN)
        assert await ann.is_echoed(b"*" * 16)
        await ann.say(b"*" * 17, opcode)
        assert await beside.is_echoed(b"unhindered")
        await words("message_size", ("connection",)).end(ann)
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="close",mode="enforce",rule="limit"}'] == 1
        assert samples['wsgate_closes_total{code="4009",initiator="gate"}'] == 1


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
async def test_a_message_beyond_the_size_is_dropped_whole(backend: str, opcode: Opcode) -> None:
    async with gate_with(backend, rule("message_size", ("connection",), ", on_excess: drop")) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        await ann.say(b"*" * 70_000, opcode)
        words("message_size", ("connection",)).fit_error(await ann.notice())
        assert await ann.is_echoed(b"still here")
        assert (await gate.scrape())['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 1


@pytest.mark.parametrize("on_excess", ["drop", "close"])
async def test_a_message_that_grows_beyond_the_size_by_its_fragments_closes(backend: str, on_excess: str) -> None:
    """It is half forwarded by then, so that it cannot be dropped any more."""
    more = f", on_excess: {on_excess}"
    async with gate_with(backend, rule("message_size", ("connection",), more)) as gate, lobby(gate) as players:
        ann, beside = await players.enter(ANN), await players.enter(ANN)
        for first, size in ((0x01, 8), (0x00, 8), (0x80, 1)):
            await ann.client.send(bytes((first, 0x80 | size)) + bytes(4) + b"*" * size)
        assert await beside.is_echoed(b"unhindered")
        await words("message_size", ("connection",)).end(ann)


# --- what the backend gets to know -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantity", "code"), [("messages", 1008), ("message_size", 1009)])
async def test_the_backend_is_told_1008_for_a_rate_and_1009_for_a_size(quantity: str, code: int) -> None:
    closes: asyncio.Queue[int | None] = asyncio.Queue()

    async def listen(socket: ServerConnection) -> None:
        await socket.wait_closed()
        closes.put_nowait(socket.close_code)

    async with serve(listen, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with gate_with(url, rule(quantity, ("connection",), ", on_excess: close")) as gate, lobby(gate) as players:
            ann = await players.enter(ANN)
            for _ in range(3):
                await ann.say(b"*" * 17)
            await words(quantity, ("connection",)).end(ann)
            assert await asyncio.wait_for(closes.get(), 5) == code


# --- shadow, when, notify, close_code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_gate", [False, True], ids=["rule", "gate"])
@pytest.mark.parametrize("quantity", ["connections", "members", "upgrades"])
async def test_in_shadow_upgrades_are_counted_and_let_in(backend: str, quantity: str, whole_gate: bool) -> None:
    one, all_of_them = ("", "mode: shadow\n") if whole_gate else (", mode: shadow", "")
    async with gate_with(backend, rule(quantity, ("room",), one), all_of_them) as gate, lobby(gate) as players:
        for number in range(5):
            player = await players.enter(replace(ANN, user=f"user{number}"))
            assert await player.is_echoed(b"unhindered")
        samples = await gate.scrape()
        assert samples['wsgate_refusals_total{mode="shadow",rule="limit"}'] == 3
        assert samples['wsgate_upgrades_total{result="refused",route="arena"}'] == 0
        if quantity != "upgrades":
            assert samples['wsgate_seats{rule="limit"}'] == 5


@pytest.mark.parametrize("whole_gate", [False, True], ids=["rule", "gate"])
@pytest.mark.parametrize("on_excess", ["drop", "close"])
@pytest.mark.parametrize("quantity", ["messages", "message_size"])
async def test_in_shadow_messages_are_counted_and_pass(backend: str, quantity: str, on_excess: str, whole_gate: bool) -> None:
    one, all_of_them = ("", "mode: shadow\n") if whole_gate else (", mode: shadow", "")
    rules = rule(quantity, ("connection",), f", on_excess: {on_excess}{one}")
    async with gate_with(backend, rules, all_of_them) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        for payload in (b"short", b"short", b"a message of 22 bytes."):
            assert await ann.is_echoed(payload)
        samples = await gate.scrape()
        assert samples[f'wsgate_breaches_total{{action="{on_excess}",mode="shadow",rule="limit"}}'] == 1


WHEN = [
    pytest.param("route: arena", ANN, ANN.other("route"), id="route"),
    pytest.param("route: [arena, lobby]", ANN, ANN.other("route"), id="routes"),
    pytest.param("room: r*d", ANN, ANN.other("room"), id="room"),
    pytest.param("room: '*'", ANN, replace(ANN, route="lobby", room=None), id="any-room"),
    pytest.param("anonymous: true", replace(ANN, user=None), ANN, id="anonymous"),
    pytest.param("anonymous: false", ANN, replace(ANN, user=None), id="known"),
    pytest.param("ip: [127.0.0.11, 127.0.0.64/26]", ANN, ANN.other("ip"), id="address"),
    pytest.param("ip: 127.0.0.64/26", replace(ANN, number=70), ANN, id="network"),
    pytest.param("ip: [127.0.0.11], room: red, route: arena, anonymous: false", ANN, ANN.other("room"), id="all"),
]


@pytest.mark.parametrize("limit", ["connections: 0", "upgrades: 0/s", "messages: 0/s, on_excess: close", "message_size: 0"])
@pytest.mark.parametrize(("when", "about", "beside"), WHEN)
async def test_a_rule_is_only_about_those_whom_when_selects(backend: str, limit: str, when: str, about: Who, beside: Who) -> None:
    quantity = limit.partition(":")[0]
    per = "connection" if quantity == "message_size" else "global"
    rules = f"rules: [{{name: limit, per: {per}, {limit}, when: {{{when}}}}}]\n"
    async with gate_with(backend, rules) as gate, lobby(gate) as players:
        assert await (await players.enter(beside)).is_echoed(b"unhindered")
        player = await players.knock(about)
        if quantity in ("messages", "message_size"):
            await player.say(b"too much")
        await replace(words(quantity, (per,)), retry=None).end(player)


@pytest.mark.parametrize("quantity", ["messages", "message_size"])
async def test_without_notify_drops_are_silent(backend: str, quantity: str) -> None:
    rules = rule(quantity, ("connection",), ", on_excess: drop, notify: false")
    async with gate_with(backend, rules) as gate, lobby(gate) as players:
        ann = await players.enter(ANN)
        for _ in range(5):
            await ann.say(b"*" * 17)
        echoes = 2 if quantity == "messages" else 0
        for _ in range(echoes):
            assert await ann.client.frame() == (TEXT, b"*" * 17)
        assert await ann.is_alive()
        assert (await gate.scrape())['wsgate_breaches_total{action="drop",mode="enforce",rule="limit"}'] == 5 - echoes


@pytest.mark.parametrize("quantity", ["connections", "upgrades", "messages", "message_size"])
async def test_notify_is_about_drops_so_that_closes_and_refusals_are_told_all_the_same(backend: str, quantity: str) -> None:
    on_frames = quantity in ("messages", "message_size")
    per = ("connection",) if on_frames else ("user",)
    rules = rule(quantity, per, ", notify: false" + (", on_excess: close" if on_frames else ""))
    async with gate_with(backend, rules) as gate, lobby(gate) as players:
        if on_frames:
            ann = await players.enter(ANN)
            for _ in range(2 if quantity == "messages" else 0):
                assert await ann.is_echoed(b"passes")
            await ann.say(b"*" * 17)
            await words(quantity, per).end(ann)
        else:
            await players.enter(ANN)
            await players.enter(ANN)
            await words(quantity, per).refuse(await players.knock(ANN))


@pytest.mark.parametrize("close_code", [1008, 1013, 3000, 4999])
@pytest.mark.parametrize("quantity", ["connections", "members", "upgrades", "messages", "message_size"])
async def test_a_close_code_of_the_rule_wins(backend: str, quantity: str, close_code: int) -> None:
    on_frames = quantity in ("messages", "message_size")
    per = ("connection",) if quantity == "message_size" else ("room",)
    rules = rule(quantity, per, f", close_code: {close_code}" + (", on_excess: close" if on_frames else ""))
    expected = replace(words(quantity, per), close_code=close_code)
    async with gate_with(backend, rules) as gate, lobby(gate) as players:
        ann, bob = await players.enter(ANN), await players.enter(ANN.other("user"))
        if on_frames:
            for player in (bob, bob):
                if quantity == "messages":
                    assert await player.is_echoed(b"one")
            await ann.say(b"*" * 17)
            await expected.end(ann)
            assert (await gate.scrape())[f'wsgate_closes_total{{code="{close_code}",initiator="gate"}}'] == 1
        else:
            await expected.refuse(await players.knock(replace(ANN, user="cat")))
