"""The gate as a program: what an operator starts, sees and stops."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import Gate, connections_for, open_files
from proxy.config import parse
from proxy.log import Log
from tests.support.backends import RawConnection, raw_backend, waiting_backend
from tests.support.gate import Running, running
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
    async with started(sys.executable, "-m", "proxy", "run", *arguments, **environment) as gate:
        yield gate


@asynccontextmanager
async def started(*command: str, **environment: str) -> AsyncIterator[Program]:
    """A program that is, or becomes, `wsgate run`."""
    process = await asyncio.create_subprocess_exec(
        *command,
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
            assert [json.loads(line)["event"] for line in log.splitlines()] == ["stopping", "connection ended", "stopped"]


@asynccontextmanager
async def draining_program(tmp_path: Path, url: str, drain: str) -> AsyncIterator[tuple[Program, int, int]]:
    """(the program, public port, admin port) of a gate with this `drain`."""
    file = tmp_path / "gate.yaml"
    file.write_text(f"upstreams: {{game: {{url: '{url}'}}}}\nidentity: {{secret: 'a secret of 32 bytes, or a bit more'}}\ndrain: {drain}\n")
    async with program("--config", str(file), *LOOPBACK) as gate:
        port, admin = await gate.listening()
        yield gate, port, admin


async def readiness(admin: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin}/readyz") as ready:
        return ready.status


async def test_while_it_drains_it_is_not_ready_and_lets_nobody_in_and_a_download_finishes(tmp_path: Path) -> None:
    async with (
        waiting_backend() as (url, arrived),
        draining_program(tmp_path, url, "20s") as (gate, port, admin),
        raw_client(port) as idle,
        raw_client(port) as loading,
        raw_client(port) as player,
    ):
        await idle.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await (await arrived.get()).send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert await idle.status() == 200
        await player.send(upgrade_head())
        game = await arrived.get()
        await game.accept()
        assert await player.status() == 101
        await loading.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        download = await arrived.get()
        await download.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert await loading.status() == 200

        gate.process.send_signal(signal.SIGTERM)
        assert (await gate.event())["event"] == "stopping"
        assert await idle.rest() == b""
        assert await readiness(admin) == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        for stream, mask in ((player, MASK), (game, None)):
            first, payload = await stream.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            await stream.send(encode(0x88, payload[:2], mask))
        assert await readiness(admin) == 503  # the download is waited for
        await download.send(b"world")
        assert await loading.rest() == b"helloworld"
        code, log = await gate.ended()  # long before the 20 s: nobody is there any more
        assert (code, json.loads(log.splitlines()[-1])["event"]) == (0, "stopped")


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with (
        waiting_backend() as (url, arrived),
        draining_program(tmp_path, url, "1h") as (gate, port, admin),
        raw_client(port) as player,
        raw_client(port) as loading,
    ):
        await player.send(upgrade_head())
        await (await arrived.get()).accept()
        assert await player.status() == 101
        await loading.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await (await arrived.get()).send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert await loading.status() == 200
        gate.process.send_signal(signal.SIGTERM)
        stopping = await gate.event()
        assert (stopping["event"], stopping["connections"], stopping["drain"]) == ("stopping", 1, 3600)
        assert await readiness(admin) == 503
        gate.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            code, log = await gate.ended()
        assert code == 0
        events = [json.loads(line)["event"] for line in log.splitlines()]
        assert [event for event in events if event != "connection ended"] == ["stopped at once, by a second signal", "stopped"]
        await player.rest()
        await loading.rest()


async def test_what_hangs_in_a_thread_holds_no_stop_up() -> None:
    """Such as a resolver: the ordinary end of a process waits for it."""
    hanging = """
import asyncio, sys, time
from proxy import app, cli
start = app.Gate.start
async def start_and_hang(gate):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
    await start(gate)
app.Gate.start = start_and_hang
cli.main(sys.argv[1:])
"""
    async with started(sys.executable, "-c", hanging, "run", "--upstream", NOWHERE, *LOOPBACK) as gate:
        await gate.listening()
        gate.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            code, log = await gate.ended()
        assert (code, json.loads(log.splitlines()[-1])["event"]) == (0, "stopped")


async def test_what_goes_wrong_in_nobodys_hands_is_a_line_of_the_log() -> None:
    failing = """
import asyncio, sys
from proxy import app, cli
start = app.Gate.start
async def start_and_fail(gate):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await start(gate)
app.Gate.start = start_and_fail
cli.main(sys.argv[1:])
"""
    async with started(sys.executable, "-c", failing, "run", "--upstream", NOWHERE, *LOOPBACK) as gate:
        while (event := await gate.event())["event"] != "unhandled":
            assert event["event"] != "listening"
        assert event["error"] == "ZeroDivisionError"


async def test_it_says_what_it_has_room_for(tmp_path: Path) -> None:
    shell = f'ulimit -n 1000; exec "{sys.executable}" -m proxy run --upstream {NOWHERE} --listen 127.0.0.1:0 --admin 127.0.0.1:0'
    async with started("sh", "-c", shell) as gate:
        await gate.event()
        listening = await gate.event()
        assert (listening["open_files"], listening["max_connections"]) == (1000, (1000 - 128) // 2)


async def test_it_goes_on_accepting_when_files_have_run_out(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(f"upstreams: {{game: {{url: '{NOWHERE}'}}}}\nlimits: {{max_connections: 10000, max_pending_per_ip: 1000}}\n")
    shell = f'ulimit -n 64; exec "{sys.executable}" -m proxy run --config "{file}" --listen 127.0.0.1:0 --admin 127.0.0.1:0'
    async with started("sh", "-c", shell) as gate:
        port, _ = await gate.listening()
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _, writer in crowd:
            writer.close()
        async with asyncio.timeout(5):
            while not await answered(port):  # until all of them are gone
                pass


async def answered(port: int) -> bool:
    async with raw_client(port) as client:
        client.writer.write(upgrade_head())
        return (await client.rest()).startswith(b"HTTP/1.1 502 ")


async def test_the_log_is_as_configured(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(f"upstreams: {{game: {{url: '{NOWHERE}'}}}}\nlog: {{format: text, level: warning}}\n")
    async with program("--config", str(file), *LOOPBACK) as gate:
        assert gate.process.stderr is not None
        async with asyncio.timeout(20):
            line = (await gate.process.stderr.readline()).decode()
        assert line.partition(" ")[2] == "WARNING no identity.secret: tokens are digested under a key that everybody knows\n"
        await asyncio.sleep(0.2)  # the port is opened now, and nothing says so
        gate.process.send_signal(signal.SIGTERM)
        assert await gate.ended() == (0, "")


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


async def test_without_the_c_extensions_of_aiohttp_it_warns() -> None:
    async with program(*LOOPBACK, "--upstream", NOWHERE, AIOHTTP_NO_EXTENSIONS="1") as gate:
        await gate.event()  # no secret is configured
        warning = await gate.event()
        assert warning["level"] == "warning"
        assert "C extensions" in warning["event"]
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


async def test_a_drain_is_spread_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.LINGER", 0.1)
    count, drain = 12, 0.7

    async def play(run: Running) -> float:
        """When the Close came: seconds from now on."""
        async with raw_client(run.port) as client:
            await client.send(upgrade_head())
            assert await client.status() == 101
            first, payload = await client.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            came = asyncio.get_running_loop().time()
            await client.send(encode(0x88, payload[:2], MASK))
            return came

    async def serve(connection: RawConnection) -> None:
        await connection.accept()
        first, payload = await connection.frame()
        assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
        await connection.send(encode(0x88, payload[:2], None))

    async with raw_backend(serve) as url, running("", upstream=url) as run:
        players = [asyncio.create_task(play(run)) for _ in range(count)]
        await until(lambda: len(run.gate.live.held) == count)
        began = asyncio.get_running_loop().time()
        await run.gate.stop(drain)
        times = sorted(await asyncio.gather(*players))
        assert times[-1] - began < drain
        assert times[-1] - times[0] > 0.4
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.3
        assert run.gate.totals.closes == {("1001", "gate"): count}


async def test_a_drain_without_tunnels_is_over_at_once() -> None:
    async with running("", upstream=NOWHERE) as run:
        async with asyncio.timeout(0.5):
            await run.gate.stop(60.0)


async def test_who_comes_in_while_it_drains_is_let_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that was on its way when the drain began."""
    monkeypatch.setattr("proxy.app.LINGER", 0.0)
    async with (
        waiting_backend() as (url, arrived),
        running("", upstream=url) as run,
        raw_client(run.port) as early,
        raw_client(run.port) as late,
    ):
        await early.send(upgrade_head())
        one = await arrived.get()
        await one.accept()
        assert await early.status() == 101
        await late.send(upgrade_head())
        two = await arrived.get()
        stopping = asyncio.create_task(run.gate.stop(0.3))
        await two.accept()
        assert await late.status() == 101
        for stream, mask in ((early, MASK), (one, None), (late, MASK), (two, None)):
            first, payload = await stream.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            await stream.send(encode(0x88, payload[:2], mask))
        await stopping
        assert run.gate.remembered() == 0


async def test_an_upgrade_that_is_still_under_way_when_the_drain_ends_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.LINGER", 0.0)
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        backend = await arrived.get()
        began = asyncio.get_running_loop().time()
        stopping = asyncio.create_task(run.gate.stop(0.3))
        answer = await client.answer()
        assert asyncio.get_running_loop().time() - began >= 0.29
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "unavailable")
        assert await backend.rest() == b""
        await stopping
        assert run.gate.totals.upgrades["default", "unavailable"] == 1


@pytest.mark.parametrize(
    "asked",
    [b"GET /metr", b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx"],
    ids=["half a head", "a body that does not come"],
)
async def test_what_hangs_on_the_admin_port_holds_no_stop_up(asked: bytes) -> None:
    async with running("", upstream=NOWHERE) as run, raw_client(run.gate.admin.port) as client:
        await client.send(asked)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):  # aiohttp by itself: 10 s and more
            await run.gate.stop()
        await client.rest()


@pytest.mark.parametrize(("files", "fit"), [(1128, 500), (128, 1), (1, 1), (1_048_576, 524_224)])
def test_each_client_may_need_two_files(files: int, fit: int) -> None:
    assert connections_for(files) == fit


@pytest.mark.parametrize(("hard", "files"), [(4096, 4096), (resource.RLIM_INFINITY, 1 << 20)])
def test_the_soft_limit_of_files_is_raised_to_the_hard_one(hard: int, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert open_files() == files
    assert raised == [(files, hard)]


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


async def test_a_unix_socket_that_somebody_listens_on_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    yaml = f"listen: 'unix:{path}'\nadmin: 127.0.0.1:0\nupstreams: {{game: {{url: 'ws://127.0.0.1:9'}}}}\n"
    first, second = (Gate(parse(yaml, "test.yaml", {}), Log(io.StringIO())) for _ in range(2))
    await first.start()
    try:
        with pytest.raises(OSError, match=r"cannot listen on unix:.*in use"):
            await second.start()
        await asyncio.sleep(0.1)  # the look at whether somebody listens was a connection, too: let it come and go
        await until(lambda: not first.remembered())
    finally:
        await second.stop()
        await first.stop()
    third = Gate(parse(yaml, "test.yaml", {}), Log(io.StringIO()))
    await third.start()  # what the first one left behind is nobody's
    await third.stop()
