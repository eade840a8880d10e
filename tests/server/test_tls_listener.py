"""Before the door: who gets through a TLS handshake, who does not, and that neither costs more than is allowed."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.gate import running
from tests.support.raw import RawClient, raw_client, upgrade_head
from tests.support.tls import LISTENING, client_tls
from tests.support.waiting import until

NOWHERE = "ws://127.0.0.1:1"


@pytest.fixture(autouse=True)
def nothing_is_complained_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio and uvloop tell by a log line when they are used wrongly."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", upgrade_head(), b"\x16\x03\x01\x00\x05rubbish", b""])
async def test_who_does_not_speak_tls_is_left_without_noise(sent: bytes) -> None:
    async with running(LISTENING + "limits: {head_timeout: 100ms}", upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(sent)
        received = await client.rest()
        assert not received or received[0] == 21  # an alert of TLS
        await until(lambda: not run.gate.connections())
        assert len(run.gate._entrance.capacity) == 0


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_who_leaves_during_the_handshake_is_forgotten(how: str) -> None:
    async with running(LISTENING, upstream=NOWHERE) as run, raw_client(run.port) as client:
        await client.send(b"\x16\x03\x01")
        await until(lambda: run.gate._entrance.handshakes)
        getattr(client, how)()
        await until(lambda: not run.gate._entrance.handshakes)
        assert run.gate.remembered() == 0


async def test_who_distrusts_us_is_forgotten() -> None:
    async with running(LISTENING, upstream=NOWHERE) as run:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with raw_client(run.port, tls=ssl.create_default_context()):
                pass
        await until(lambda: not run.gate.connections())


async def test_handshakes_from_one_address_are_bounded_and_others_come_in() -> None:
    async with running(LISTENING + "limits: {max_pending_per_ip: 3}", upstream=NOWHERE) as run:
        entrance = run.gate._entrance
        crowd = [RawClient(*await asyncio.open_connection("127.0.0.1", run.port)) for _ in range(20)]
        for late in crowd[3:]:
            assert await late.rest() == b""
        assert len(entrance.handshakes) == entrance.capacity.pending == 3
        async with raw_client(run.port, local="127.0.0.2", tls=client_tls()) as client:
            await client.send(upgrade_head())
            assert await client.status() == 502
        for one in crowd:
            one.writer.close()
        await until(lambda: not entrance.handshakes)


async def test_a_stop_ends_handshakes() -> None:
    async with running(LISTENING, upstream=NOWHERE) as run, raw_client(run.port) as client:
        await until(lambda: run.gate._entrance.handshakes)
        async with asyncio.timeout(1):
            await run.gate.stop()
        assert await client.rest() == b""


async def test_who_says_nothing_behind_the_handshake_is_left() -> None:
    yaml = LISTENING + "limits: {head_timeout: 100ms}"
    async with running(yaml, upstream=NOWHERE) as run, raw_client(run.port, tls=client_tls()) as client:
        assert await client.rest() == b""
        await until(lambda: not run.gate.connections())


async def test_a_place_is_given_back_when_the_door_takes_over() -> None:
    """Otherwise a client with one place could not have a handshake and a head."""
    yaml = LISTENING + "limits: {max_pending: 1, max_pending_per_ip: 1}"
    async with running(yaml, upstream=NOWHERE) as run:
        for _ in range(3):
            async with raw_client(run.port, tls=client_tls()) as client:
                await client.send(upgrade_head())
                assert await client.status() == 502
            await until(lambda: not run.gate.connections())


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    for _ in range(2):  # the second time there is a socket that nobody listens on any more
        async with running(LISTENING, upstream=NOWHERE, listen=f"unix:{path}"):
            streams = await asyncio.open_unix_connection(str(path), ssl=client_tls(), server_hostname="game.test")
            client = RawClient(*streams)
            await client.send(upgrade_head())
            assert await client.status() == 502
            client.writer.close()


async def test_it_is_not_ready_once_it_is_closed() -> None:
    async with running(LISTENING, upstream=NOWHERE) as run:
        assert run.gate.is_ready()
        for server in run.gate._servers:
            server.close()
            server.close()  # twice is no harm
        assert not run.gate.is_ready()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", run.port)


async def test_it_goes_on_accepting_when_files_have_run_out() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(LISTENING, upstream=NOWHERE) as run:
        waiting = socket.socket()
        waiting.setblocking(False)
        with closing(waiting):
            lowest = os.dup(0)  # from here on there are none
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                with suppress(BlockingIOError):
                    waiting.connect(("127.0.0.1", run.port))
                (listener,) = run.gate._servers
                await until(lambda: listener._rest is not None)
                assert not run.gate._entrance.handshakes
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: run.gate._entrance.handshakes)
        await until(lambda: not run.gate.connections())


async def test_who_finds_no_place_is_counted_and_logged() -> None:
    yaml = LISTENING + "limits: {max_pending: 1, max_pending_per_ip: 1}"
    async with running(yaml, upstream=NOWHERE) as run, raw_client(run.port) as silent, raw_client(run.port) as late:
        assert await late.rest() == b""
        assert run.gate.totals.upgrades["", "unavailable"] == 1
        assert '"event": "turned away"' in run.log.getvalue()
        silent.reset()
