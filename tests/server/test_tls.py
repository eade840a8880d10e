"""TLS on both sides: who is believed, tunnels and last words over it, and who never gets through a handshake."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from proxy.policy.upstreams import TcpAddress, UnixAddress, Upstream, UpstreamTls
from proxy.server.tls import server_context, server_name, upstream_context
from proxy.server.upstream import _AwaitingAnswer
from tests.server.test_upgrade import GOOD_101
from tests.support.backends import RawConnection, echo_backend, waiting_backend
from tests.support.gate import Running, running, upstreams
from tests.support.raw import PATIENCE, RawClient, raw_client, upgrade_head
from tests.support.tls import AUTHORITY, CERTIFICATE, KEY, LISTENING, TRUSTING, backend_tls, client_tls
from tests.support.waiting import until
from tests.wire.streams import encode

NOWHERE = "ws://127.0.0.1:1"
MASK = b"abcd"
FRAME = b"\x82\x7e\x03\xe8" + bytes(1000)
OTHERS = Path(__file__).parent.parent / "config" / "certificates"


@pytest.fixture(autouse=True)
def nothing_is_complained_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio and uvloop tell by a log line when they are used wrongly."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@asynccontextmanager
async def secured(yaml: str = "", **keys: str) -> AsyncIterator[tuple[RawClient, RawConnection, Running]]:
    """A client whose upgrade came over TLS, and the backend that has it, over TLS too, and has not answered."""
    async with (
        waiting_backend(tls=backend_tls()) as (url, arrived),
        running(upstreams(url, tls=TRUSTING, **keys) + LISTENING + yaml) as run,
        raw_client(run.port, tls=client_tls()) as client,
    ):
        await client.send(upgrade_head())
        async with asyncio.timeout(PATIENCE):
            backend = await arrived.get()
        try:
            yield client, backend, run
        finally:
            client.writer.close()
            backend.writer.close()


def connect_safely(run: Running) -> connect:
    """A client that is not ours, over TLS."""
    return connect(run.ws().replace("ws:", "wss:"), ssl=client_tls(), server_hostname="game.test", max_size=None)


# --- contexts -------------------------------------------------------------------------------------------------------------------


def test_neither_side_speaks_what_is_older_than_1_2() -> None:
    secure = Upstream("game", TcpAddress("game.test", 443), tls=UpstreamTls())
    for context in (server_context(str(CERTIFICATE), str(KEY)), upstream_context(secure)):
        assert context is not None
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_plain_upstream_has_no_context() -> None:
    assert upstream_context(Upstream("game", TcpAddress("127.0.0.1", 80))) is None
    assert upstream_context(Upstream("game", UnixAddress("/run/game.sock"))) is None


@pytest.mark.parametrize(("configured", "asked"), [(None, "10.1.2.3"), ("game.test", "game.test")])
def test_the_name_asked_for_is_the_host_or_what_is_configured(configured: str | None, asked: str) -> None:
    assert server_name(Upstream("game", TcpAddress("10.1.2.3", 443), tls=UpstreamTls(server_name=configured))) == asked


def test_files_that_cannot_be_used_are_an_oserror() -> None:
    with pytest.raises(OSError, match="No such file"):
        server_context("/nowhere.pem", str(KEY))
    with pytest.raises(ssl.SSLError):
        server_context(str(CERTIFICATE), str(AUTHORITY))


# --- listening ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [("h2", "http/1.1"), ("http/1.1",), ()])
async def test_http_1_1_is_agreed_on(offered: tuple[str, ...]) -> None:
    async with running(LISTENING, upstream=NOWHERE) as run, raw_client(run.port, tls=client_tls(*offered)) as client:
        agreed = client.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert agreed == ("http/1.1" if offered else None)


async def test_a_head_that_comes_with_the_handshake_is_not_lost() -> None:
    """Of TLS 1.3 the client's last message and its first bytes come in one piece."""
    async with running(LISTENING, upstream=NOWHERE) as run:
        for _ in range(20):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_tls().wrap_bio(incoming, outgoing, server_hostname="game.test")
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            tls.write(upgrade_head("/a;b"))
            writer.write(outgoing.read())
            answer = b""
            async with asyncio.timeout(PATIENCE):
                while not answer:
                    incoming.write(await reader.read(65536))
                    try:
                        answer = tls.read()
                    except ssl.SSLWantReadError:
                        continue
            assert answer.startswith(b"HTTP/1.1 400 ")
            writer.close()


# --- tunnels --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["plain", "tls"])
@pytest.mark.parametrize("above", ["plain", "tls"])
async def test_a_tunnel_over(below: str, above: str) -> None:
    async with echo_backend() if above == "plain" else echo_backend(ssl=backend_tls()) as url:
        upstream = upstreams(url) if above == "plain" else upstreams(url.replace("ws:", "wss:"), tls=TRUSTING)
        async with running(upstream + (LISTENING if below == "tls" else "")) as run:
            async with connect(run.ws(), max_size=None) if below == "plain" else connect_safely(run) as game:
                for message in ("hello", b"", bytes(range(256)) * 8192):
                    await game.send(message)
                    assert await game.recv() == message
            await run.quiet()
            assert run.gate.totals.closes == {("1000", "client"): 1}


async def test_the_backend_is_told_that_the_client_came_over_tls() -> None:
    async with secured() as (_, backend, _):
        assert backend.fields["x-forwarded-proto"] == "https"
        assert backend.fields["forwarded"].endswith(";proto=https")


async def test_a_backend_that_says_its_last_behind_its_101_and_leaves() -> None:
    async with secured() as (client, backend, run):
        await backend.accept(behind=FRAME + b"\x88\x02\x03\xe9")
        backend.writer.close()
        assert await client.status() == 101
        assert await client.raw_frame() == FRAME
        assert await client.raw_frame() == b"\x88\x02\x03\xe9"
        await until(lambda: not run.gate.totals.connections)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_backend_that_leaves_right_behind_its_101(how: str) -> None:
    for _ in range(10):
        async with secured() as (client, backend, run):
            await backend.accept()
            getattr(backend.writer.transport, how)()
            if await client.status() == 101:
                assert (await client.frame())[1][:2] == (1011).to_bytes(2, "big")
            client.writer.close()
            await until(lambda run=run: not run.gate.live.held)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_leaves_is_told_to_the_backend(how: str) -> None:
    async with secured() as (client, backend, run):
        await backend.accept()
        assert await client.status() == 101
        await client.send(encode(0x82, b"last", MASK))
        getattr(client.writer.transport, how)()
        if how == "close":
            assert await backend.frame() == (0x82, b"last")
        first, payload = await backend.frame()
        if first == 0x82:  # of an abort it is chance whether what came before it was read
            first, payload = await backend.frame()
        assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
        backend.writer.close()
        await until(lambda: not run.gate.totals.connections)


@asynccontextmanager
async def abrupt_backend(answer: bytes) -> AsyncIterator[str]:
    """A backend, for one connection, that answers and closes its socket at once, as most programs do: no close_notify is waited for.

    What is left at its end comes in one piece: data, close_notify and FIN.
    """

    def serve() -> None:
        with listening.accept()[0] as plain, backend_tls().wrap_socket(plain, server_side=True) as secure:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += secure.recv(65536)
            secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            secure.sendall(answer)
            secure.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                secure.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        yield f"wss://127.0.0.1:{listening.getsockname()[1]}"
        await serving


@pytest.mark.parametrize("behind", [b"", FRAME, FRAME + b"\x88\x02\x03\xe9"], ids=["nothing", "a frame", "a frame and a close"])
async def test_a_backend_that_closes_its_socket_right_behind_its_101(behind: bytes) -> None:
    for _ in range(10):
        async with abrupt_backend(GOOD_101 + behind) as url, running(upstreams(url, tls=TRUSTING)) as run, raw_client(run.port) as client:
            await client.send(upgrade_head())
            assert await client.status() == 101
            if behind:
                assert await client.raw_frame() == FRAME
            assert (await client.frame())[1][:2] == ((1001 if behind.endswith(b"\xe9") else 1011).to_bytes(2, "big"))
            await until(lambda run=run: not run.gate.live.held)


# The kernel takes so much of what a client does not read, more or less, and our buffers a bit more: for some of these sizes the end of
# the stream comes while its last bytes wait in the upstream's transport.
SIZES = range(2_400_000, 4_000_000, 200_000)


@pytest.mark.parametrize("whom", ["101", "403"])
@pytest.mark.parametrize("size", SIZES)
async def test_a_slow_client_loses_nothing_of_who_closes_his_socket(whom: str, size: int) -> None:
    """What a TLS transport has decrypted while its protocol does not read must not go down with the stream."""
    if whom == "101":
        answer = GOOD_101 + b"\x82\x7f" + size.to_bytes(8, "big") + bytes(size) + b"\x88\x02\x03\xe8"
    else:
        answer = b"HTTP/1.1 403 Forbidden\r\n\r\n" + bytes(size)
    async with (
        abrupt_backend(answer) as url,
        running(upstreams(url, tls=TRUSTING)) as run,
        raw_client(run.port, receive_buffer=4096) as client,
    ):
        client.writer.transport.pause_reading()
        await client.send(upgrade_head())
        for _ in range(20):  # as long as nobody reads, nothing tells that it goes no further
            await asyncio.sleep(0.005)
        client.writer.transport.resume_reading()
        assert str(await client.status()) == whom
        left = size + (10 if whom == "101" else 0)
        while left:
            left -= len(await client.exactly(min(left, 1 << 16)))
        if whom == "101":
            assert await client.raw_frame() == b"\x88\x02\x03\xe8"
        else:
            assert await client.rest() == b""


# --- ordinary requests ----------------------------------------------------------------------------------------------------------


async def test_an_ordinary_request_goes_over_tls_on_both_sides_again_and_again() -> None:
    async with (
        waiting_backend(tls=backend_tls()) as (url, arrived),
        running(upstreams(url, tls=TRUSTING) + LISTENING) as run,
        raw_client(run.port, tls=client_tls()) as client,
    ):
        backend: RawConnection | None = None
        for _ in range(2):
            await client.send(b"POST /a?b HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 5\r\n\r\nhello")
            if backend is None:
                backend = await arrived.get()
                head = backend.head
            else:
                head = await backend.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST /a?b HTTP/1.1\r\nHost: gate.test\r\n")
            assert b"X-Forwarded-Proto: https\r\n" in head
            assert await backend.exactly(5) == b"hello"
            await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nworld")
            assert await client.status() == 200
            assert await client.exactly(5) == b"world"
        await client.send(upgrade_head())  # and then an upgrade
        game = await arrived.get()
        await game.accept(behind=FRAME)
        assert await client.status() == 101
        assert await client.raw_frame() == FRAME
        for one in (client, backend, game):
            one.writer.close()
        await run.quiet()


@pytest.mark.parametrize("size", SIZES)
async def test_a_slow_client_gets_all_of_a_download_whose_server_closes_its_socket(size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with (
        abrupt_backend(answer) as url,
        running(upstreams(url, tls=TRUSTING)) as run,
        raw_client(run.port, receive_buffer=4096) as client,
    ):
        client.writer.transport.pause_reading()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0.005)
        client.writer.transport.resume_reading()
        assert await client.status() == 200
        left = size
        while left:
            left -= len(await client.exactly(min(left, 1 << 16)))


# --- last words -----------------------------------------------------------------------------------------------------------------


async def test_a_refusal_of_ours_can_be_read() -> None:
    yaml = "rules: [{name: one, per: ip, upgrades: 1/min, burst: 1, close_code: 4321}]"
    async with secured(yaml) as (_, _, run):
        async with connect_safely(run) as refused:
            assert json.loads(await refused.recv())["code"] == "upgrade_rate_limit_exceeded"
            with pytest.raises(ConnectionClosed):
                await refused.recv()
            assert refused.close_code == 4321
        await until(lambda: not run.gate.lingering_connections)


async def test_a_refusal_as_plain_http_can_be_read() -> None:
    yaml = "refuse_with: http\nrules: [{name: none, per: ip, upgrades: 0/s}]"
    async with running(LISTENING + yaml, upstream=NOWHERE) as run, raw_client(run.port, tls=client_tls()) as client:
        await client.send(upgrade_head())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 429 ")
        body = await client.exactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        assert json.loads(body)["rule"] == "none"
        client.writer.close()
        await until(lambda: not run.gate.lingering_connections)


async def test_who_floods_still_reads_why_it_was_closed() -> None:
    yaml = "rules: [{name: payload, per: connection, message_size: 1KiB}]"
    flood = encode(0x82, bytes(2000), MASK) + encode(0x82, bytes(1000), MASK) * 500
    for _ in range(10):
        async with secured(yaml) as (client, backend, run):
            await backend.accept()
            assert await client.status() == 101
            for _ in range(4):
                client.writer.write(flood)
            assert (await client.frame())[0] == 0x81
            first, payload = await client.frame()
            assert (first, payload[:2]) == (0x88, (4009).to_bytes(2, "big"))
            assert (await backend.frame())[1][:2] == (1009).to_bytes(2, "big")
            client.writer.transport.abort()
            backend.writer.close()
            await run.quiet()


async def test_a_stop_closes_with_1001() -> None:
    async with secured() as (client, backend, run):
        await backend.accept()
        assert await client.status() == 101
        stopping = asyncio.create_task(run.gate.stop())
        for stream, mask in ((client, MASK), (backend, None)):
            first, payload = await stream.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            await stream.send(encode(0x88, payload[:2], mask))
        async with asyncio.timeout(1.5):  # less than a linger: the answers end it
            await stopping


# --- dialing --------------------------------------------------------------------------------------------------------------------


async def dialed(upstream: str) -> tuple[int, bytes]:
    """(status, body) of an upgrade to this upstream, in YAML."""
    async with running(upstream) as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        answer = await client.answer()
        assert not run.gate._path.dialer.dials.pending["game"]
        return answer.status, answer.body


async def test_the_name_that_is_configured_is_asked_for() -> None:
    asked: list[str | None] = []
    async with waiting_backend(tls=backend_tls(asked)) as (url, arrived):
        tls = f"{{ca: '{AUTHORITY}', server_name: game.test}}"
        async with running(upstreams(url, tls=tls)) as run, raw_client(run.port) as client:
            await client.send(upgrade_head())
            backend = await arrived.get()
            assert asked == ["game.test"]
            assert backend.fields["host"] == "gate.test"  # the client's own
            backend.writer.close()


@pytest.mark.parametrize(
    "tls",
    ["{}", f"{{ca: '{OTHERS}/gate.pem'}}", f"{{ca: '{AUTHORITY}', server_name: other.test}}", "{server_name: game.test}"],
    ids=["an authority that nobody knows", "another authority", "another name", "the name alone"],
)
async def test_a_certificate_that_is_not_trusted_is_502(tls: str) -> None:
    async with waiting_backend(tls=backend_tls()) as (url, arrived):
        status, body = await dialed(upstreams(url, tls=tls))
        assert (status, json.loads(body)["detail"]) == (502, "the upstream cannot be reached: its certificate is not trusted")
        assert arrived.empty()


@pytest.mark.parametrize("key", ["verify: false", "verify: false, server_name: whoever.test"])
async def test_without_verify_anybody_is_believed(key: str) -> None:
    async with waiting_backend(tls=backend_tls()) as (url, arrived):
        tls = f"{{{key}}}"
        async with running(upstreams(url, tls=tls)) as run, raw_client(run.port) as client:
            await client.send(upgrade_head())
            backend = await arrived.get()
            await backend.accept()
            assert await client.status() == 101
            backend.writer.close()


async def test_a_backend_that_does_not_speak_tls_is_502() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        status, body = await dialed(upstreams(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert (status, json.loads(body)["detail"]) == (502, "the upstream cannot be reached: it does not speak TLS as it should")


async def test_a_backend_that_says_nothing_to_our_hello_is_504() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"wss://127.0.0.1:{silent.getsockname()[1]}"
        status, _ = await dialed(upstreams(url, connect_timeout="100ms"))
        assert status == 504


async def test_a_backend_that_hangs_up_on_our_hello_is_502() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(5)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        status, _ = await dialed(upstreams(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert status == 502


# --- losses that are told late ---------------------------------------------------------------------------------------------------


def leave_at_once(sock: socket.socket) -> None:
    """With RST, and no word of TLS."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("answer", [GOOD_101, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx"], ids=["101", "200"])
async def test_who_is_lost_in_the_moment_of_the_answer_leaves_no_seat(answer: bytes) -> None:
    """Over TLS the loss is told to the protocol that was there before, and a tunnel would wait for it for ever."""
    yaml = LISTENING + "tunnel: {ping_interval: off}\nrules: [{name: one, per: user, connections: 1}]\n"
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with running(upstreams(f"ws://127.0.0.1:{listener.getsockname()[1]}") + yaml) as run:
                plain = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", run.port))
                client = await asyncio.to_thread(client_tls().wrap_socket, plain, server_hostname="game.test")
                await asyncio.to_thread(client.sendall, upgrade_head())
                backend, _ = await asyncio.to_thread(listener.accept)
                assert (await asyncio.to_thread(backend.recv, 65536)).startswith(b"GET / ")
                leave_at_once(client)
                backend.sendall(answer)
                await until(lambda: not run.gate.connections())
                assert not any(run.gate._store.seats().values())
                backend.close()


async def test_a_backend_that_is_lost_behind_its_101_ends_the_tunnel() -> None:
    """The same on the other side."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"wss://127.0.0.1:{listener.getsockname()[1]}"
        async with running(upstreams(url, tls=TRUSTING) + "tunnel: {ping_interval: off}\n") as run, raw_client(run.port) as client:
            await client.send(upgrade_head())
            plain, _ = await asyncio.to_thread(listener.accept)
            backend = await asyncio.to_thread(backend_tls().wrap_socket, plain, server_side=True)
            assert (await asyncio.to_thread(backend.recv, 65536)).startswith(b"GET / ")
            backend.sendall(GOOD_101)
            leave_at_once(backend)
            await client.rest()
            await run.quiet()


async def test_a_dial_that_is_given_up_in_the_moment_of_its_success_leaves_nothing_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its protocol hears afterwards is nobody's business any more; the fixture sees to it that nothing is complained of."""
    dialed = []
    connection_made = _AwaitingAnswer.connection_made

    def give_up(protocol: _AwaitingAnswer, transport: asyncio.BaseTransport) -> None:
        connection_made(protocol, transport)
        dialed.append(transport)
        run.gate._path.stop()

    monkeypatch.setattr(_AwaitingAnswer, "connection_made", give_up)
    async with waiting_backend(tls=backend_tls()) as (url, _), running(upstreams(url, tls=TRUSTING)) as run, raw_client(run.port) as client:
        await client.send(upgrade_head())
        assert (await client.answer()).status == 503
        await until(lambda: not run.gate.connections())
        await until(dialed[0].is_closing)
        dialed.clear()
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
