"""What is known of live tunnels: what they carried, what is told when they end, and whether one address has most of the users."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from proxy.metrics import Traffic
from proxy.server.live import MIN_CROWD
from proxy.server.tunnel import Half, Tunnel
from tests.support.backends import RawConnection, raw_backend
from tests.support.gate import Running, running
from tests.support.pair import pair
from tests.support.raw import RawClient, raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

MASK = b"abcd"
TRUSTED = "identity: {trusted_proxies: [127.0.0.0/8]}\n"


def lines(run: Running, event: str) -> list[dict[str, Any]]:
    """What the gate has logged of this kind."""
    return [line for line in map(json.loads, run.log.getvalue().splitlines()) if line["event"] == event]


# --- one connection -------------------------------------------------------------------------------------------------------------


async def test_the_end_of_a_connection_is_one_line_that_tells_what_it_was() -> None:
    async with pair() as one:
        await one.client.send(encode(0x81, b"hello", MASK) + encode(0x82, bytes(300), MASK))
        assert (await one.backend.frame())[1] == b"hello"
        await one.backend.frame()
        await one.backend.send(encode(0x81, b"hi", None))
        await one.client.frame()
        assert lines(one.run, "connection ended") == []
        for stream, mask in ((one.client, MASK), (one.backend, None)):
            await stream.send(encode(0x88, (4999).to_bytes(2, "big"), mask))
        await one.run.quiet()
        (line,) = lines(one.run, "connection ended")
        assert len(line.pop("id")) == 16
        assert line.pop("time")
        assert 0 <= line.pop("seconds") < 5
        assert line == {
            "level": "info",
            "event": "connection ended",
            "route": "default",
            "code": 4999,
            "initiator": "client",
            "messages_in": 2,
            "bytes_in": 305,
            "messages_out": 1,
            "bytes_out": 2,
        }


async def test_the_id_is_that_of_the_error_message() -> None:
    async with pair("rules: [{name: none, per: user, messages: 0/s, on_excess: close}]") as one:
        await one.client.send(encode(0x81, b"hello", MASK))
        error = json.loads((await one.client.frame())[1])
        assert [line["id"] for line in lines(one.run, "connection ended")] == [error["id"]]


def remains() -> int:
    """Tunnels and halves that are in memory, whether somebody refers to them or not."""
    return sum(isinstance(one, Tunnel | Half) for one in gc.get_objects())


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_tunnel_that_is_over_leaves_memory_without_the_collector(who: str) -> None:
    """A full pass of it comes once in many thousands of tunnels."""
    gc.collect()
    gc.disable()
    try:
        before = remains()
        async with pair("rules: [{name: rate, per: user, messages: 1000/s}]") as one:
            assert remains() == before + 3
            stream, mask = (one.client, MASK) if who == "client" else (one.backend, None)
            await stream.send(encode(0x81, b"hello", mask) + encode(0x88, (1000).to_bytes(2, "big"), mask))
            stream.writer.close()
            await one.run.quiet()
            await until(lambda: remains() == before)
    finally:
        gc.enable()


async def test_traffic_is_that_of_the_living_and_of_those_that_are_gone() -> None:
    async with pair() as one:
        live = one.run.gate.live
        await one.client.send(encode(0x81, b"hello", MASK))
        await one.backend.frame()
        assert live.traffic() == Traffic(1, 5, 0, 0)
        await one.backend.send(encode(0x82, bytes(7), None))
        await one.client.frame()
        assert live.traffic() == Traffic(1, 5, 1, 7)
        one.client.end()
        one.backend.end()
        await one.run.quiet()
        assert not live.held
        assert live.traffic() == live.gone == Traffic(1, 5, 1, 7)


async def test_a_refusal_is_one_line_that_tells_the_rule() -> None:
    async with pair("rules: [{name: one, per: ip, connections: 1}]") as one, raw_client(one.run.port) as refused:
        await refused.send(upgrade_head("/?token=secret-token"))
        assert await refused.status() == 101
        error = json.loads((await refused.frame())[1])
        (line,) = lines(one.run, "upgrade refused")
        assert (line["rule"], line["code"], line["route"]) == ("one", "ip_connection_limit_exceeded", "default")
        assert line["id"] == error["id"]


async def test_a_flood_of_refusals_is_no_flood_of_lines() -> None:
    async with running("rules: [{name: none, per: ip, upgrades: 0/s}]", upstream="ws://127.0.0.1:1") as run:
        for _ in range(60):
            async with raw_client(run.port) as client:
                await client.send(upgrade_head())
                await client.head()
        await until(lambda: not run.gate.connections())
        run.gate._log.flush()
        told = lines(run, "upgrade refused")
        assert sum(line.get("suppressed", 1) for line in told) == 60
        assert len(told) <= 33  # ten a second, and how many were left out, over the few moments that this took
        assert {line["group"] for line in told if "suppressed" in line} == {"none"}


async def test_who_finds_no_room_is_told_of() -> None:
    async with running("limits: {max_pending_per_ip: 1}", upstream="ws://127.0.0.1:1") as run:
        async with raw_client(run.port):
            await until(lambda: run.gate._entrance.doors)
            async with raw_client(run.port) as second:
                assert await second.status() == 503
        assert [line["why"] for line in lines(run, "turned away")] == ["too many connections"]


async def test_no_token_query_path_or_address_of_a_client_is_ever_told() -> None:
    yaml = "rules:\n- {name: one, per: user, connections: 1}\n- {name: none, per: user, messages: 1/min, burst: 1, on_excess: close}\n"
    private = ("secret-token", "secret-query", "secret-room", "secret-cookie", "secret-host", "203.0.113.9", "127.0.0.1")
    head = upgrade_head(
        "/secret-room?token=secret-token&x=secret-query",
        "Cookie: session=secret-cookie",
        "Referer: http://203.0.113.9/secret-query",
        host="secret-host",
    )

    async def accept(connection: RawConnection) -> None:
        await connection.accept()
        await connection.rest()

    async with raw_backend(accept) as url, running(yaml, upstream=url) as run:
        async with raw_client(run.port) as one, raw_client(run.port) as two, raw_client(run.port) as three:
            await one.send(head)
            assert await one.status() == 101
            await two.send(head)
            assert await two.status() == 101
            await three.send(head.replace(b"13", b"14"))
            assert await three.status() == 426
            await one.send(encode(0x81, b"secret-token", MASK) * 2)
            await one.frame()
        await run.quiet()
        for word in private:
            assert word not in run.log.getvalue()
        assert len(run.log.getvalue().splitlines()) == 3  # the end of one, and two refusals


# --- proxies that nobody listed -------------------------------------------------------------------------------------------------

FORWARDED = ("X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9")
UNLISTED = "a private peer sends forwarding headers but is not in identity.trusted_proxies"


@pytest.mark.parametrize("header", FORWARDED)
async def test_a_private_peer_that_speaks_for_others_is_warned_of_once(header: str) -> None:
    async with running("", upstream="ws://127.0.0.1:1") as run:
        for _ in range(3):
            async with raw_client(run.port) as client:
                await client.send(upgrade_head("/", header))
                assert await client.status() == 502
        async with raw_client(run.port, local="127.0.0.2") as client:
            await client.send(upgrade_head("/", header))
            assert await client.status() == 502
        assert [(line["level"], line["peer"]) for line in lines(run, UNLISTED)] == [("warning", "127.0.0.1"), ("warning", "127.0.0.2")]


async def test_peers_are_not_warned_of_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.upgrade.MAX_WARNED", 1)
    async with running("", upstream="ws://127.0.0.1:1") as run:
        for local in ("127.0.0.1", "127.0.0.2"):
            async with raw_client(run.port, local=local) as client:
                await client.send(upgrade_head("/", FORWARDED[0]))
                assert await client.status() == 502
        assert len(lines(run, UNLISTED)) == len(run.gate._path.warned) == 1


@pytest.mark.parametrize(("yaml", "header"), [(TRUSTED, FORWARDED[0]), ("", "X-Real-IP: 203.0.113.9")], ids=["listed", "silent"])
async def test_who_is_listed_or_speaks_for_nobody_is_not_warned_of(yaml: str, header: str) -> None:
    async with running(yaml, upstream="ws://127.0.0.1:1") as run, raw_client(run.port) as client:
        await client.send(upgrade_head("/", header))
        assert await client.status() == 502
        assert lines(run, UNLISTED) == []


# --- a crowd --------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def crowded(heads: list[bytes]) -> AsyncIterator[Running]:
    """A gate that trusts its peers, with a tunnel for each of these heads."""

    async def accept(connection: RawConnection) -> None:
        await connection.accept()
        await connection.rest()

    async with raw_backend(accept) as url, running(TRUSTED, upstream=url) as run:
        async with AsyncExitStack() as stack:
            clients: list[RawClient] = []
            for head in heads:
                client = await stack.enter_async_context(raw_client(run.port))
                await client.send(head)
                clients.append(client)
            for client in clients:
                assert await client.status() == 101
            yield run
        await run.quiet()


def users(count: int, address: str, first: int = 0) -> list[bytes]:
    return [upgrade_head(f"/?token=user{number}", f"X-Forwarded-For: {address}") for number in range(first, first + count)]


async def test_an_address_with_most_of_the_users_is_a_crowd() -> None:
    async with crowded(users(MIN_CROWD + 1, "203.0.113.9") + users(MIN_CROWD, "203.0.113.10", 100)) as run:
        assert run.gate.live.crowded_address() == ("203.0.113.9", MIN_CROWD + 1, 2 * MIN_CROWD + 1)


async def test_half_of_the_users_is_not_most_of_them() -> None:
    async with crowded(users(MIN_CROWD, "203.0.113.9") + users(MIN_CROWD, "203.0.113.10", 100)) as run:
        assert run.gate.live.crowded_address() is None


async def test_a_few_users_are_no_crowd() -> None:
    async with crowded(users(MIN_CROWD - 1, "203.0.113.9")) as run:
        assert run.gate.live.crowded_address() is None
    async with crowded(users(MIN_CROWD - 1, "203.0.113.9") + users(3, "203.0.113.10", 100)) as run:
        assert run.gate.live.crowded_address() is None


async def test_one_user_with_many_connections_is_no_crowd() -> None:
    async with crowded(users(1, "203.0.113.9") * (MIN_CROWD + 5)) as run:
        assert run.gate.live.crowded_address() is None


async def test_without_a_token_each_connection_is_a_user_and_an_ipv6_network_is_one_address() -> None:
    heads = [upgrade_head("/", f"X-Forwarded-For: 2001:db8::{number:x}") for number in range(1, MIN_CROWD + 1)]
    async with crowded(heads) as run:
        crowd = run.gate.live.crowded_address()
        assert crowd is not None
        assert crowd[0].startswith("2001:db8::")
        assert crowd[1:] == (MIN_CROWD, MIN_CROWD)


async def test_a_crowd_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr("proxy.app.CROWD_INTERVAL", 2)
    async with crowded(users(MIN_CROWD, "203.0.113.9")) as run:
        event = "one address holds most of the users: if it is a proxy, list it in identity.trusted_proxies"
        await until(lambda: lines(run, event))
        sweeps = run.gate._sweeps
        await until(lambda: run.gate._sweeps > sweeps + 5)
        (line,) = lines(run, event)
        assert (line["level"], line["address"], line["users"], line["of"]) == ("warning", "203.0.113.9", MIN_CROWD, MIN_CROWD)
