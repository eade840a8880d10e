"""What a gate does about a store that is not as it should be when it starts: one clear line, and it starts or it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.gates import PATIENCE, GateProcess, gates, seats_in
from tests.cluster.guests import game, party, statuses
from tests.support.raw import upgrade_head
from tests.support.redis_servers import FLAVOURS, ROOT, Flavour, RedisServer, free_port, redis_server
from tests.support.tls import AUTHORITY
from tests.support.waiting import eventually, until

RULES = """
refuse_with: http
routes: [{name: room, path: "/{room}", upstream: game}]
rules: [{name: seats, per: room, connections: 2}]
"""
TRUSTING = {"SSL_CERT_FILE": str(AUTHORITY)}
SECRET = "s3cret p@ss/word"


@asynccontextmanager
async def a_gate(folder: Path, store: str, more: str = "", environ: dict[str, str] | None = None) -> AsyncIterator[GateProcess]:
    async with game() as url, gates(folder, RULES + more, url, [store], environ) as (gate,):
        yield gate


async def fails_to_start(folder: Path, store: str, more: str = "", environ: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The errors that it logs before it ends with exit status 1."""
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
    assert "Traceback" not in gate.text()
    return [event for event in gate.events() if event["level"] == "error"]


async def admits(gate: GateProcess, count: int) -> dict[int, int]:
    async with party() as people:
        return statuses(await people.knock(*((gate.port, upgrade_head("/room")) for _ in range(count))))


async def is_up(gate: GateProcess) -> bool:
    samples = await gate.scrape()
    return (samples["wsgate_store_up"], samples["wsgate_store_degraded"]) == (1, 0)


# --- a store that is there ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_with_its_store_a_gate_is_up_before_the_public_port_opens(flavour: Flavour, tmp_path: Path) -> None:
    async with redis_server(flavour, password=SECRET) as server, a_gate(tmp_path, server.url, "store_prefix: 'game:'\n") as gate:
        events = [event["event"] for event in gate.events()]
        assert events.index("the store is up, and limits are shared") < events.index("listening")
        assert await is_up(gate)
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


async def test_tls_is_spoken_and_the_certificate_is_judged(tmp_path: Path) -> None:
    async with redis_server(tls=True, password=SECRET) as server:
        async with a_gate(tmp_path / "trusting", server.url, "store_required: true\n", TRUSTING) as gate:
            assert await is_up(gate)
        errors = await fails_to_start(tmp_path / "not trusting", server.url)
        assert len(errors) == 1
        assert "certificate" in errors[0]["event"].lower()
        errors = await fails_to_start(tmp_path / "plain", server.url.replace("rediss", "redis"))
        assert len(errors) == 1
        assert "want TLS" in errors[0]["event"]


# --- a store that is not as it should be ------------------------------------------------------------------------------------------


def with_password(server: RedisServer, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:s3cret-wrong@127.0.0.1:{port}", "password"),
        ("redis://me:s3cret-wrong@127.0.0.1:{port}", "password"),
        ("redis://127.0.0.1:{port}", "auth"),
        ("redis://:s3cret%20p%40ss%2Fword@127.0.0.1:{port}/99", "index"),
        ("rediss://:s3cret-wrong@127.0.0.1:{port}", "speak tls"),
        ("redis://:s3cret-wrong@127.0.0.1:{nobody}", "refused"),
        ("redis://:s3cret-wrong@name.invalid:6379", "name"),
    ],
)
async def test_a_required_store_that_cannot_be_used_is_one_line_and_exit_1(url: str, words: str, tmp_path: Path) -> None:
    async with redis_server(password=SECRET) as server:
        text = url.format(port=server.port, nobody=free_port())
        errors = await fails_to_start(tmp_path, text)
        assert len(errors) == 1, errors
        assert errors[0]["event"].startswith("store_required, but ")
        assert words in errors[0]["event"].lower()
        address = text.rpartition("@")[2].removeprefix("redis://")
        assert address.partition("/")[0] in errors[0]["event"]


async def test_a_required_store_that_is_silent_is_given_up(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.freeze()
        errors = await fails_to_start(tmp_path, server.url)
        assert len(errors) == 1


async def test_a_wrong_password_is_a_degraded_start_where_the_store_is_not_required(tmp_path: Path) -> None:
    async with redis_server(password=SECRET) as server, a_gate(tmp_path, with_password(server, "s3cret-wrong")) as gate:
        downs = gate.told("the store is down, and limits are not shared")
        assert len(downs) == 1
        assert "password" in downs[0]["why"]
        assert await gate.ready() == 200
        samples = await gate.scrape()
        assert (samples["wsgate_store_up"], samples["wsgate_store_degraded"]) == (0, 1)
        assert await admits(gate, 5) == {101: 2, 429: 3}
        assert "s3cret" not in gate.text()
        assert await gate.stop() == 0


async def test_a_store_that_comes_later_is_used_from_then_on(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.kill()
        async with a_gate(tmp_path, server.url) as gate, party() as people:
            assert statuses(await people.knock((gate.port, upgrade_head("/room")))) == {101: 1}
            await server.start()
            await eventually(lambda: is_up(gate))
            assert [list(counts.values()) for counts in (await seats_in([server])).values()] == [[1]]
            assert statuses(await people.knock(*[(gate.port, upgrade_head("/room"))] * 3)) == {101: 1, 429: 2}
            events = [event["event"] for event in gate.events() if event["event"].startswith("the store is")]
            assert events[0].startswith("the store is down")
            assert events[-1].startswith("the store is up")


async def test_a_silent_store_holds_up_the_start_for_its_deadline_only(tmp_path: Path) -> None:
    async with redis_server() as server:
        server.freeze()
        started = asyncio.get_running_loop().time()
        async with a_gate(tmp_path, server.url) as gate:
            assert asyncio.get_running_loop().time() - started < PATIENCE
            assert await admits(gate, 3) == {101: 2, 429: 1}
            server.thaw()
            await eventually(lambda: is_up(gate))


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
            await eventually(lambda: is_up(gate))
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
        await until(lambda: gate.told("the store is down, and limits are not shared"))
        await server.start()
        await eventually(lambda: is_up(gate))
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
