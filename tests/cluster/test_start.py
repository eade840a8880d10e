"""What a gate does about a store that is not as it should be when it starts: one clear line, and it starts or it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from proxy.server.store_watch import DOWN
from tests.cluster.gates import PATIENCE, GateProcess, gates, seats_in
from tests.cluster.guests import game, party, statuses
from tests.support.cuttable import cuttable
from tests.support.raw import upgrade_head
from tests.support.redis_servers import FLAVOURS, ROOT, Flavour, free_port, redis_server
from tests.support.tls import AUTHORITY
from tests.support.waiting import eventually, until

RULES = """
refuse_with: http
routes: [{name: room, path: "/{room}", upstream: game}]
rules: [{name: seats, per: room, connections: 2}]
"""
TRUSTING = {"SSL_CERT_FILE": str(AUTHORITY)}
SECRET = "s3cret p@ss/word"
OPENS_WITHIN = 2.0 + 2.0  # seconds without the store (START_PATIENCE), and what a busy machine may add


@asynccontextmanager
async def a_gate(folder: Path, store: str, more: str = "", environ: dict[str, str] | None = None) -> AsyncIterator[GateProcess]:
    async with game() as url, gates(folder, RULES + more, url, [store], environ) as (gate,):
        yield gate


async def fails_to_start(folder: Path, store: str, more: str = "", environ: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The errors that it logs, soon, before it ends with exit status 1."""
    head = (
        f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstreams: {{game: {{url: ws://127.0.0.1:9}}}}\nstore: '{store}'\nstore_required: true\n"
    )
    gate = GateProcess(folder, head + RULES + more, environ or {})
    gate.spawn()
    try:
        await until(lambda: not gate.is_running, PATIENCE)
    finally:
        gate.kill()
    assert gate.process.returncode == 1, gate.text()
    assert SECRET not in gate.text()
    assert "s3cret" not in gate.text()
    assert not gate.complaints()
    errors = [event for event in gate.events() if event["level"] == "error"]
    assert all(gate.seconds_until(error) < OPENS_WITHIN for error in errors)
    return errors


async def admits(gate: GateProcess, count: int) -> dict[int, int]:
    async with party() as people:
        return statuses(await people.knock(*((gate.port, upgrade_head("/room")) for _ in range(count))))


# --- a store that is there ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_with_its_store_a_gate_is_up_before_the_public_port_opens(flavour: Flavour, tmp_path: Path) -> None:
    async with redis_server(flavour, password=SECRET) as server, a_gate(tmp_path, server.url, "store_prefix: 'game:'\n") as gate:
        events = [event["event"] for event in gate.events()]
        assert events.index("the store is up, and limits are shared") < events.index("listening")
        assert await gate.is_shared()
        async with party() as people:
            asks = [(gate.port, upgrade_head("/room"))] * 5
            assert statuses(await people.knock(*asks)) == {101: 2, 429: 3}
            samples = await gate.scrape()
            assert samples["wsgate_store_request_duration_seconds_count"] >= 3
            assert samples['wsgate_seats{rule="seats"}'] == 2
            assert [list(counts.values()) for counts in (await seats_in([server], "game:")).values()] == [[2]]
            async with server.client(decode_responses=False) as client:
                assert all(name.startswith(b"game:") for name in await client.keys())
        assert "s3cret" not in gate.text()
        assert await gate.stop() == 0


async def test_tls_is_spoken_where_the_authority_is_trusted(tmp_path: Path) -> None:
    async with (
        redis_server(tls=True, password=SECRET) as server,
        a_gate(tmp_path, server.url, "store_required: true\n", TRUSTING) as gate,
    ):
        assert await gate.is_shared()


# --- a store that is not as it should be ------------------------------------------------------------------------------------------

UNUSABLE = [  # (its URL, words of the line that tells why)
    ("redis://:s3cret-wrong@127.0.0.1:{port}", "password"),
    ("redis://:s3cret%20p%40ss%2Fword@127.0.0.1:{port}/99", "index"),
    ("rediss://:s3cret-wrong@127.0.0.1:{port}", "speak tls"),
    ("redis://:s3cret%20p%40ss%2Fword@127.0.0.1:{secure}", "want tls"),
    ("rediss://:s3cret%20p%40ss%2Fword@127.0.0.1:{secure}", "certificate"),
    ("redis://:s3cret-wrong@name.invalid:6379", "name"),
]
ALIKE = [
    ("redis://me:s3cret-wrong@127.0.0.1:{port}", "password"),
    ("redis://127.0.0.1:{port}", "auth"),
    ("redis://:s3cret-wrong@127.0.0.1:{nobody}", "refused"),
]
ELSEWHERE = [
    ("redis+cluster://:s3cret%20p%40ss%2Fword@127.0.0.1:{port}", "cluster support disabled"),
    ("redis+sentinel://:s3cret%20p%40ss%2Fword@127.0.0.1:{port}/game", "sentinel"),
]


def seldom(rows: list[tuple[str, str]]) -> list[ParameterSet]:
    return [pytest.param(*row, marks=pytest.mark.long) for row in rows]


@asynccontextmanager
async def unusable(url: str) -> AsyncIterator[str]:
    """The whole URL, and the servers that it may name."""
    async with redis_server(password=SECRET) as server, redis_server(tls=True, password=SECRET) as secure:
        yield url.format(port=server.port, secure=secure.port, nobody=free_port())


@pytest.mark.parametrize(("url", "words"), [*UNUSABLE, *ALIKE, *seldom(ELSEWHERE)])
async def test_a_required_store_that_cannot_be_used_is_one_line_and_exit_1(url: str, words: str, tmp_path: Path) -> None:
    async with unusable(url) as store:
        (error,) = await fails_to_start(tmp_path, store)
        assert error["event"].startswith("store_required, but ")
        assert words in error["event"].lower()
        address = store.rpartition("@")[2].removeprefix("redis://")
        assert address.partition("/")[0] in error["event"]


@pytest.mark.parametrize(("url", "words"), [*UNUSABLE, *seldom(ALIKE + ELSEWHERE)])
async def test_a_store_that_cannot_be_used_is_one_line_and_a_degraded_start_where_it_is_not_required(
    url: str, words: str, tmp_path: Path
) -> None:
    async with unusable(url) as store, a_gate(tmp_path, store) as gate:
        (down,) = gate.told(DOWN)
        assert words in down["why"].lower()
        assert gate.seconds_until(gate.told("listening")[0]) < OPENS_WITHIN
        assert await gate.ready() == 200
        samples = await gate.scrape()
        assert (samples["wsgate_store_up"], samples["wsgate_store_degraded"]) == (0, 1)
        assert await admits(gate, 5) == {101: 2, 429: 3}
        assert await gate.stop() == 0
        assert gate.told(DOWN) == [down]  # however often it was tried
        assert "s3cret" not in gate.text()
        assert not gate.complaints()


NODES = 12  # to ask so many silent ones, one after the other, takes longer than anybody is to wait


@asynccontextmanager
async def silent_nodes() -> AsyncIterator[str]:
    """The URL of a Cluster whose nodes take connections and say nothing."""
    async with redis_server() as server, AsyncExitStack() as stack:
        server.freeze()
        links = [await stack.enter_async_context(cuttable(server.port)) for _ in range(NODES)]
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{link.port}" for link in links)


async def test_a_required_store_that_is_silent_is_given_up(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.freeze()
        (error,) = await fails_to_start(tmp_path, server.url)
        assert error["event"] == f"store_required, but 127.0.0.1:{server.port} cannot be used: no answer while connecting"


@pytest.mark.long
async def test_a_required_cluster_of_silent_nodes_is_given_up(tmp_path: Path) -> None:
    async with silent_nodes() as store:
        (error,) = await fails_to_start(tmp_path, store)
        assert error["event"].startswith("store_required, but 127.0.0.1:")
        assert error["event"].endswith(": no answer")


async def test_a_silent_store_holds_up_the_start_for_its_deadline_only(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.freeze()
        async with a_gate(tmp_path, server.url) as gate:
            assert gate.seconds_until(gate.told("listening")[0]) < OPENS_WITHIN
            assert [down["why"] for down in gate.told(DOWN)] == ["no answer while connecting"]
            assert await admits(gate, 3) == {101: 2, 429: 1}
            server.thaw()
            await eventually(gate.is_shared)
            assert not gate.complaints()


async def test_silent_nodes_of_a_cluster_hold_up_the_start_no_longer(tmp_path: Path) -> None:
    async with silent_nodes() as store, a_gate(tmp_path, store) as gate:
        assert gate.seconds_until(gate.told("listening")[0]) < OPENS_WITHIN
        (down,) = gate.told(DOWN)
        assert down["why"].endswith("no answer")
        assert await admits(gate, 3) == {101: 2, 429: 1}
        assert not gate.complaints()


async def test_a_store_that_comes_later_is_used_from_then_on(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.kill()
        async with a_gate(tmp_path, server.url) as gate, party() as people:
            assert statuses(await people.knock((gate.port, upgrade_head("/room")))) == {101: 1}
            await server.start()
            await eventually(gate.is_shared)
            assert [list(counts.values()) for counts in (await seats_in([server])).values()] == [[1]]
            assert statuses(await people.knock(*[(gate.port, upgrade_head("/room"))] * 3)) == {101: 1, 429: 2}
            events = [event["event"] for event in gate.events() if event["event"].startswith("the store is")]
            assert events[0].startswith("the store is down")
            assert events[-1].startswith("the store is up")


# --- a store with something else in it --------------------------------------------------------------------------------------------


async def test_a_key_of_another_program_refuses_whom_it_is_about_and_is_told_once(tmp_path: Path) -> None:
    async with redis_server() as server, a_gate(tmp_path, server.url) as gate, party() as people:
        await people.knock((gate.port, upgrade_head("/room")))
        async with server.client(decode_responses=False) as client:
            (name,) = [key async for key in client.scan_iter(match="wsgate:n:*")]
            await people.leave()
            await client.set(name, "something else")
        for _ in range(3):
            assert statuses(await people.knock((gate.port, upgrade_head("/room")))) == {429: 1}
            await asyncio.sleep(0.3)
        assert statuses(await people.knock((gate.port, upgrade_head("/another")))) == {101: 1}
        async with server.client() as client:
            assert await client.get(name) == "something else"
        told = gate.told("a key in the store is not ours: another program or version uses the same store_prefix")
        assert [one["rule"] for one in told] == ["seats"]
        assert (await gate.scrape())['wsgate_store_conflicts_total{rule="seats"}'] >= 2
        assert await gate.stop() == 0


async def test_a_listing_of_another_program_is_told_and_limits_stay_local(tmp_path: Path) -> None:
    async with redis_server() as server:
        await server.ask("SET", "wsgate:h", "something else")
        async with a_gate(tmp_path, server.url) as gate:
            assert await admits(gate, 3) == {101: 2, 429: 1}
            assert await server.ask("GET", "wsgate:h") == "something else"
            await server.ask("DEL", "wsgate:h")
            await eventually(gate.is_shared)
            assert "Traceback" not in gate.text()


async def test_a_store_that_may_throw_keys_away_is_told_and_measured(tmp_path: Path) -> None:
    settings: dict[str, object] = {"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}
    async with redis_server(**settings) as server, a_gate(tmp_path, server.url) as gate:  # type: ignore[arg-type]  # settings of the server
        (told,) = gate.told("the store may throw seats away when its memory is full: set its maxmemory-policy to noeviction")
        assert told["policy"] == "allkeys-lru"
        assert (await gate.scrape())["wsgate_store_may_evict"] == 1


async def test_the_log_has_no_line_that_is_not_json(tmp_path: Path) -> None:
    """Nothing of the library comes out beside the log, whatever becomes of the store."""
    async with redis_server() as server, a_gate(tmp_path, server.url) as gate:
        server.kill()
        await until(lambda: gate.told(DOWN))
        await server.start()
        await eventually(gate.is_shared)
        assert await gate.stop() == 0
        for line in gate.text().splitlines():
            json.loads(line)


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['redis'] = None; from proxy.cli import main; sys.exit(main())"
    arguments = [
        "run",
        "--upstream",
        "ws://127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--store",
        "redis://127.0.0.1",
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "the store needs the package redis: pip install 'wsgate[redis]'"
