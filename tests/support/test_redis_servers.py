"""The servers that other tests rely on are what they say: they start, die, freeze, forget and fail over."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis.exceptions import (
    AuthenticationError,
    OutOfMemoryError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from tests.support.redis_servers import FLAVOURS, ROOT, Flavour, cluster, redis_server, sentinels
from tests.support.waiting import until


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_it_answers_and_a_killed_one_comes_back_empty_on_the_same_port(flavour: Flavour) -> None:
    async with redis_server(flavour) as server:
        await server.ask("SET", "a", "1")
        server.kill()
        with pytest.raises(RedisConnectionError):
            await server.ask("GET", "a")
        await server.start()
        assert await server.ask("GET", "a") is None
        assert (await server.info("server"))["redis_version"].startswith("7.")


async def test_it_keeps_its_data_when_told_to() -> None:
    async with redis_server() as server:
        await server.ask("SET", "a", "1")
        await server.restart(keep_data=True)
        assert await server.ask("GET", "a") == "1"
        await server.restart(maxmemory="1mb")
        assert await server.ask("GET", "a") is None
        with pytest.raises(OutOfMemoryError):
            await server.ask("SET", "a", "1" * 900_000)


async def test_a_frozen_one_is_silent_and_goes_on_afterwards() -> None:
    async with redis_server() as server, server.client(socket_timeout=0.1) as client:
        await client.set("a", "1")
        server.freeze()
        with pytest.raises(RedisTimeoutError):
            await client.get("a")
        server.thaw()
        assert await server.ask("GET", "a") == "1"


async def test_a_password_is_asked_for() -> None:
    async with redis_server(password="p@ss w:rd") as server:
        assert await server.ask("PING")
        with pytest.raises(AuthenticationError):
            async with server.client(password="another") as client:
                await client.ping()


async def test_tls_and_nothing_else_is_spoken() -> None:
    async with redis_server(tls=True) as server:
        assert server.url.startswith("rediss://")
        assert await server.ask("PING")
        with pytest.raises(RedisConnectionError):
            async with server.client(ssl=False) as client:
                await client.ping()


def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """A kill -9 of the tests, while a server is frozen."""
    code = """
import asyncio, sys
from tests.support.redis_servers import redis_server
async def main():
    async with redis_server() as server:
        server.freeze()
        print(server.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.send_signal(signal.SIGKILL)
    asyncio.run(until(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_sentinels_make_the_replica_the_master_when_it_is_killed(flavour: Flavour) -> None:
    async with sentinels(flavour, password="secret") as trio:
        old = await trio.master()
        await old.ask("SET", "a", "1")
        await old.ask("WAIT", 1, 5000)
        old.kill()
        new = await trio.new_master(old)
        assert new is not old
        assert await new.ask("GET", "a") == "1"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_a_cluster_goes_on_when_a_master_is_killed(flavour: Flavour) -> None:
    async with cluster(flavour) as six:
        old = await six.owner("a")
        await old.ask("SET", "a", "1")
        await old.ask("WAIT", 1, 5000)
        old.kill()
        await six.whole()
        new = await six.owner("a")
        assert new is not old
        assert await new.ask("GET", "a") == "1"
