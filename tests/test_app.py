"""The gate as a program: what an operator starts, sees and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.backends import RawConnection, raw_backend, waiting_backend
from tests.support.gate import running
from tests.support.pair import pair
from tests.support.raw import raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

ROOT = Path(__file__).parent.parent
NOWHERE = "ws://127.0.0.1:1"
MASK = b"abcd"


class Program:
    """A `wsgate run` of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def event(self) -> dict[str, Any]:
        """The next line of its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            return dict(json.loads(await self.process.stderr.readline()))

    async def listening(self) -> tuple[int, int]:
        """(public port, admin port), once it says so."""
        while (event := await self.event())["event"] != "listening":
            assert event["level"] != "error", event
        return int(str(event["address"]).rpartition(":")[2]), int(str(event["admin"]).rpartition(":")[2])

    async def ended(self) -> tuple[int, str]:
        """(exit status, the rest of its log)"""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            rest = await self.process.stderr.read()
            return await self.process.wait(), rest.decode()


@asynccontextmanager
async def program(*arguments: str, **environment: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


LOOPBACK = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_open_tunnels_with_1001_and_exits_0(number: int) -> None:
    async with waiting_backend() as (url, arrived), program(*LOOPBACK, "--upstream", url) as gate:
        port, admin = await gate.listening()
        async with raw_client(port) as client, raw_client(port) as silent:
            await client.send(upgrade_head())
            backend = await arrived.get()
            await backend.accept()
            await client.head()
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{admin}/readyz") as ready:
                    assert ready.status == 200
                async with session.get(f"http://127.0.0.1:{admin}/metrics") as metrics:
                    assert "wsgate_connections 1.0" in await metrics.text()
            gate.process.send_signal(number)
            first, payload = await client.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            first, payload = await backend.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            await client.send(encode(0x88, payload[:2], MASK))
            await backend.send(encode(0x88, payload[:2], None))
            assert await client.rest() == await silent.rest() == b""
            code, log = await gate.ended()
            assert code == 0
            assert [json.loads(line)["event"] for line in log.splitlines()] == ["stopping", "stopped"]


@pytest.mark.parametrize("which", ["--listen", "--admin"])
async def test_a_port_that_is_taken_is_one_clear_line_and_exit_1(which: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        secret = ROOT / "config" / "minimal.yaml"
        async with program("--config", str(secret), *LOOPBACK, which, address) as gate:
            code, log = await gate.ended()
    assert code == 1
    errors = [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"]
    (error,) = errors
    assert error["event"].startswith(f"cannot listen on {address}: ")
    assert "in use" in error["event"]
    assert error["event"].count(address.rpartition(":")[2]) == 1
    assert "listening" not in log


async def test_a_socket_in_a_folder_that_is_not_there_is_exit_1(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "gate.sock"
    async with program("--upstream", NOWHERE, "--listen", f"unix:{path}", "--admin", "127.0.0.1:0") as gate:
        code, log = await gate.ended()
    assert code == 1
    assert f"cannot listen on unix:{path}: No such file" in log
    assert "Traceback" not in log


async def test_a_configuration_with_mistakes_tells_all_of_them_and_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("listen: nonsense\nupstreams: {game: {url: 'ftp://x'}}\nrules: [{name: a, per: user}]\nunknown: 1\n")
    async with program("--config", str(file), "--admin", "127.0.0.1:0") as gate:
        code, log = await gate.ended()
    assert code == 1
    for line in (1, 2, 3, 4):
        assert f"{file}:{line}:" in log
    assert "listening" not in log
    assert "Traceback" not in log


async def test_the_configuration_that_we_ship_runs() -> None:
    async def accept(connection: RawConnection) -> None:
        await connection.accept()
        await connection.rest()

    async with raw_backend(accept) as url, program("--config", "config/wsgate.yaml", *LOOPBACK, "--upstream", url, "--shadow") as gate:
        assert (await gate.event())["level"] == "warning"  # no secret is configured
        port, _ = await gate.listening()
        async with raw_client(port) as client:
            await client.send(upgrade_head("/ws/tournament/a?token=x"))
            assert await client.status() == 101


async def test_with_a_secret_there_is_nothing_to_warn_of(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(f"upstreams: {{game: {{url: '{NOWHERE}'}}}}\nidentity: {{secret: '${{WSGATE_SECRET}}'}}\n")
    async with program("--config", str(file), *LOOPBACK, WSGATE_SECRET="a secret of 32 bytes, or a bit more") as gate:
        assert (await gate.event())["event"] == "listening"


# --- the same in this process ---------------------------------------------------------------------------------------------------


async def test_the_admin_port_opens_before_the_public_one() -> None:
    async with running("", upstream=NOWHERE) as taken:
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1"):
            async with running("", upstream=NOWHERE, listen=f"127.0.0.1:{taken.port}"):
                pass


async def test_a_stop_closes_both_sides_with_1001_and_leaves_nothing() -> None:
    async with pair("rules: [{name: seats, per: ip, connections: 5}]") as one:
        stopping = asyncio.create_task(one.run.gate.stop())
        for stream, mask in ((one.client, MASK), (one.backend, None)):
            first, payload = await stream.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            await stream.send(encode(0x88, payload[:2], mask))
            assert await stream.rest() == b""
        await stopping
        assert one.run.gate.remembered() == 0
        assert one.run.gate.totals.closes == {("1001", "gate"): 1}
        assert not one.run.gate.is_ready()


async def test_a_stop_does_not_wait_for_the_answer_to_a_close() -> None:
    async with pair() as one:
        await one.client.send(encode(0x88, (1000).to_bytes(2, "big"), MASK))
        assert (await one.backend.frame())[0] == 0x88
        stopping = asyncio.create_task(one.run.gate.stop())
        assert (await one.client.frame())[1] == (1000).to_bytes(2, "big")
        await one.backend.send(encode(0x88, (1000).to_bytes(2, "big"), None))
        async with asyncio.timeout(1):
            await stopping
        assert not one.run.gate.live.held


async def test_a_stop_waits_no_longer_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.STOP_TIMEOUT", 0.1)
    async with pair() as one:
        await one.run.gate.stop()  # nobody answers
        assert one.run.gate.remembered() == 0
        assert (await one.client.frame())[0] == 0x88
        assert await one.client.rest() == b""


async def test_a_stop_in_the_middle_of_a_frame_waits_for_its_end() -> None:
    async with pair() as one:
        frame = encode(0x82, bytes(1000), None)
        await one.backend.send(frame[:500])
        assert await one.client.exactly(500) == frame[:500]
        stopping = asyncio.create_task(one.run.gate.stop())
        assert (await one.backend.frame())[0] == 0x88
        await asyncio.sleep(0.05)  # some more of the stop's rounds
        await one.backend.send(frame[500:])
        assert await one.client.exactly(len(frame) - 500) == frame[500:]
        assert (await one.client.frame())[0] == 0x88
        one.client.end()
        one.backend.end()
        await stopping


async def test_an_address_that_does_not_resolve_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on nobody\.invalid:80: .*known"):
        async with running("", upstream=NOWHERE, listen="nobody.invalid:80"):
            pass


async def test_tables_are_swept_while_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr("proxy.policy.admission.REFUSAL_WINDOW", 0.05)
    async with running("rules: [{name: up, per: ip, upgrades: 50/s, burst: 1}]", upstream=NOWHERE) as run:
        for _ in range(2):
            async with raw_client(run.port) as client:
                await client.send(upgrade_head())
                await client.head()
        assert run.gate.remembered() > 0
        await until(lambda: run.gate.remembered() == 0)
