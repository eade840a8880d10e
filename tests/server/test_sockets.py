"""Options of the sockets, as the kernel has them, on both sides of a tunnel; and how listening sockets are opened."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.server.sockets import Keepalive, listen_tcp, listen_unix
from tests.server.conftest import open_sockets
from tests.server.test_tls import secured
from tests.support.backends import waiting_backend
from tests.support.gate import running
from tests.support.pair import pair
from tests.support.raw import RawClient, upgrade_head

DEFAULTS = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 20,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 5,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 30_000,
}
IDLE = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
CONFIGURED = "tunnel: {keepalive: {idle: 7s, interval: 2s, count: 9}, user_timeout: 45500ms}"


def options(transport: asyncio.BaseTransport, idle: int = 20) -> dict[tuple[int, int], int]:
    """Those of a tunnel's side. `idle`: what was asked for; each side has its own, of which this is the most and its half the least."""
    sock = transport.get_extra_info("socket")
    found = {key: sock.getsockopt(*key) for key in DEFAULTS}
    assert idle // 2 <= found[IDLE] <= idle
    return found | {IDLE: idle}


async def test_connections_of_one_moment_are_not_all_probed_at_one_moment() -> None:
    keepalive = Keepalive(idle=20)
    async with pair() as one:
        (tunnel,) = one.run.gate.live.held
        for half in (tunnel.client, tunnel.upstream):
            sock = half.transport.get_extra_info("socket")
            idles = set()
            for _ in range(300):
                keepalive.scatter(half.transport)
                idles.add(sock.getsockopt(*IDLE))
            assert idles == set(range(10, 21))


async def test_of_a_tunnel_both_sides_have_them() -> None:
    async with pair() as one:
        (tunnel,) = one.run.gate.live.held
        assert options(tunnel.client.transport) == DEFAULTS
        assert options(tunnel.upstream.transport) == DEFAULTS


async def test_they_are_those_of_the_configuration() -> None:
    async with pair(CONFIGURED) as one:
        (tunnel,) = one.run.gate.live.held
        for half in (tunnel.client, tunnel.upstream):
            assert list(options(half.transport, idle=7).values()) == [1, 1, 7, 2, 9, 45_500]


async def test_over_tls_both_sides_have_them() -> None:
    async with secured() as (client, backend, run):
        await backend.accept()
        assert await client.status() == 101
        (tunnel,) = run.gate.live.held
        assert options(tunnel.client.transport) == options(tunnel.upstream.transport) == DEFAULTS


async def test_a_connection_at_the_door_has_them_already() -> None:
    async with running("", upstream="ws://127.0.0.1:1", listen="localhost:0") as run:
        _, writer = await asyncio.open_connection("127.0.0.1", run.port)
        while not run.gate._entrance.doors:  # noqa: ASYNC110 -- a turn of the loop is all that it takes
            await asyncio.sleep(0)
        (door,) = run.gate._entrance.doors
        assert options(door._transport) == DEFAULTS
        writer.close()


async def test_unix_sockets_have_none_and_need_none(tmp_path: Path) -> None:
    front, back = tmp_path / "gate.sock", tmp_path / "game.sock"
    async with waiting_backend(str(back)) as (url, arrived), running("", upstream=url, listen=f"unix:{front}"):
        client = RawClient(*await asyncio.open_unix_connection(str(front)))
        await client.send(upgrade_head())
        backend = await arrived.get()
        await backend.accept()
        assert await client.status() == 101
        client.writer.close()
        backend.writer.close()


async def test_a_connection_that_is_lost_already_is_left_as_it_is() -> None:
    async with running("", upstream="ws://127.0.0.1:1") as run:
        _, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.transport.abort()
        Keepalive().apply_to_transport(writer.transport)


# --- listening ------------------------------------------------------------------------------------------------------------------


def close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_the_queue_is_as_long_as_asked_and_nothing_blocks() -> None:
    (sock,) = listen_tcp("127.0.0.1", 0, Keepalive(), 7)
    with closing(sock):
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


def test_a_free_port_is_the_same_on_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: object, **__: object) -> list[tuple[object, ...]]:
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*tcp, ("127.0.0.1", 0)), (*tcp, ("127.0.0.2", 0)), (*tcp, ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    sockets = listen_tcp("two.test", 0, Keepalive(), 7)
    names = [sock.getsockname() for sock in sockets]
    close_all(sockets)
    assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]  # once, though named twice
    assert names[0][1] == names[1][1] != 0


@pytest.mark.parametrize(("host", "both"), [("::", True), ("::1", False)])
def test_all_addresses_are_those_of_ipv4_too(host: str, both: bool) -> None:
    for address in [host] if os.path.exists("/proc/net/if_inet6") else []:  # a machine may have no IPv6
        (sock,) = listen_tcp(address, 0, Keepalive(), 7)
        with closing(sock):
            port = sock.getsockname()[1]
            socket.create_connection(("::1", port)).close()
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert not both
            else:
                assert both


def test_a_port_that_is_taken_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_sockets()
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*tcp, ("127.0.0.1", port)), (*tcp, ("127.0.0.2", port))])
        with pytest.raises(OSError, match="in use"):
            listen_tcp("two.test", port, Keepalive(), 7)
    assert open_sockets() == before


def test_a_unix_socket_that_was_left_behind_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    listen_unix(str(path), 7).close()
    assert path.exists()
    with closing(listen_unix(str(path), 7)) as sock:
        assert sock.gettimeout() == 0
    path.unlink()
    path.write_text("precious")
    before = open_sockets()
    with pytest.raises(OSError, match="in use"):
        listen_unix(str(path), 7)
    assert path.read_text() == "precious"
    assert open_sockets() == before
