"""What the names of upstreams stand for, and that a resolver that hangs is nobody else's trouble."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from proxy.server import names
from proxy.server.names import HostAddress, Names
from tests.support.backends import echo_backend
from tests.support.gate import running
from tests.support.raw import raw_client, upgrade_head
from tests.support.waiting import until

V4, V6 = socket.AF_INET, socket.AF_INET6


class Resolver:
    """Stands in for the system's, of which a test can have none that hangs or changes its mind. `asked`: the names, in order."""

    def __init__(self, real: Callable[..., object]) -> None:
        self._real = real
        self.asked: list[str] = []
        self.hosts: dict[str, list[str] | OSError] = {}
        self.hanging: dict[str, threading.Event] = {}

    def __call__(self, host: object, *rest: object, **keys: object) -> object:
        if host not in self.hosts and host not in self.hanging:
            return self._real(host, *rest, **keys)
        assert isinstance(host, str)
        self.asked.append(host)
        if host in self.hanging:
            self.hanging[host].wait(30)
        found = self.hosts.get(host, OSError("none"))
        if isinstance(found, OSError):
            raise found
        tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(V6, *tcp, (ip, 0, 0, 0)) if ":" in ip else (V4, *tcp, (ip, 0)) for ip in found]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    for event in resolver.hanging.values():
        event.set()


def texts(found: list[HostAddress]) -> list[str]:
    return [address.text for address in found]


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", V4), ("::1", V6)])
async def test_an_address_stands_for_itself(host: str, family: int) -> None:
    assert await Names().addresses(host) == [HostAddress(family, host)]


async def test_a_name_is_looked_up_by_the_system() -> None:
    found = await Names().addresses("localhost")
    assert set(texts(found)) <= {"127.0.0.1", "::1"}
    assert found


async def test_one_lookup_serves_all_who_come_meanwhile_and_for_a_while_after(resolver: Resolver) -> None:
    resolver.hosts["game.test"] = ["10.0.0.1"]
    looked_up = Names()
    assert [texts(found) for found in await asyncio.gather(*(looked_up.addresses("game.test") for _ in range(5)))] == [["10.0.0.1"]] * 5
    assert texts(await looked_up.addresses("game.test")) == ["10.0.0.1"]
    assert resolver.asked == ["game.test"]


async def test_dials_go_to_one_address_after_another_and_to_the_other_family_last(resolver: Resolver) -> None:
    resolver.hosts["game.test"] = ["::1", "::2", "10.0.0.1", "::2"]
    looked_up = Names()
    await looked_up.addresses("game.test")
    found = [texts(await looked_up.addresses("game.test")) for _ in range(3)]
    assert found == [["::2", "::1", "10.0.0.1"], ["::1", "::2", "10.0.0.1"], ["::2", "::1", "10.0.0.1"]]


async def test_an_old_answer_is_used_until_there_is_a_new_one(resolver: Resolver) -> None:
    resolver.hosts["game.test"] = ["10.0.0.1"]
    looked_up = Names(kept=0.0)
    await looked_up.addresses("game.test")
    resolver.hosts["game.test"] = ["10.0.0.2"]
    assert texts(await looked_up.addresses("game.test")) == ["10.0.0.1"]
    await until(lambda: not looked_up._lookups)
    assert texts(await looked_up.addresses("game.test")) == ["10.0.0.2"]


async def test_an_old_answer_outlasts_a_resolver_that_is_away_but_not_for_ever(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver.hosts["game.test"] = ["10.0.0.1"]
    looked_up = Names(kept=0.0)
    await looked_up.addresses("game.test")
    resolver.hosts["game.test"] = socket.gaierror(socket.EAI_AGAIN, "away")
    for _ in range(3):
        assert texts(await looked_up.addresses("game.test")) == ["10.0.0.1"]
        await until(lambda: not looked_up._lookups)
    monkeypatch.setattr(names, "STALE", 0.0)
    with pytest.raises(socket.gaierror, match="away"):
        await looked_up.addresses("game.test")


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test", ".test"])
async def test_what_can_be_no_name_does_not_resolve(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await Names().addresses(host)


async def test_a_name_that_hangs_has_one_lookup_and_holds_up_no_other(resolver: Resolver) -> None:
    resolver.hanging["slow.test"] = threading.Event()
    looked_up = Names()
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(looked_up.addresses("slow.test"), 0.01)
    resolver.hosts["game.test"] = ["10.0.0.1"]
    assert texts(await looked_up.addresses("game.test")) == ["10.0.0.1"]
    assert resolver.asked == ["slow.test", "game.test"]
    resolver.hosts["slow.test"] = ["10.0.0.2"]
    resolver.hanging.pop("slow.test").set()
    assert texts(await looked_up.addresses("slow.test")) == ["10.0.0.2"]


async def test_a_loop_that_is_closed_hears_of_no_answer(resolver: Resolver, recwarn: pytest.WarningsRecorder) -> None:
    resolver.hanging["slow.test"] = threading.Event()

    def of_a_loop_of_its_own() -> None:
        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(Names().addresses("slow.test"), 0.01)

        asyncio.run(give_up())

    await asyncio.to_thread(of_a_loop_of_its_own)
    resolver.hanging["slow.test"].set()
    await until(lambda: not any(thread.name == "lookup of slow.test" for thread in threading.enumerate()))


@pytest.mark.parametrize("wanted", ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""], ids=["request", "upgrade"])
async def test_upstreams_with_names_do_not_wait_for_one_that_hangs(resolver: Resolver, wanted: str) -> None:
    resolver.hanging["slow.test"] = threading.Event()
    resolver.hosts["game.test"] = ["127.0.0.2", "127.0.0.1"]  # nobody listens on the first
    async with echo_backend() as url:
        port = url.rpartition(":")[2]
        yaml = f"""
upstreams:
  slow: {{url: "ws://slow.test:9", connect_timeout: 100ms}}
  game: {{url: "ws://game.test:{port}"}}
routes:
  - {{name: slow, path: "/slow", upstream: slow}}
  - {{name: game, path: "/{{rest*}}", upstream: game}}
"""
        async with running(yaml) as run:
            for _ in range(6):
                async with raw_client(run.port) as client:
                    await client.send(wanted.replace("/ ", "/slow ", 1).encode() or upgrade_head("/slow"))
                    assert await client.status() == 504
            async with raw_client(run.port) as client:
                await client.send(wanted.encode() or upgrade_head())
                assert await client.status() == (426 if wanted else 101)
                client.end()
