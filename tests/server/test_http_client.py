"""The client of pass-through: its connections to the backend, how many are opened, kept, and what ends them."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict

from proxy.policy.upstreams import TcpAddress, UnixAddress, Upstream, UpstreamTls, parse_upstream_url
from proxy.server import http_client
from proxy.server.capacity import Dials
from proxy.server.http_client import BodyLostError, HttpClient, is_compiled
from proxy.server.names import Names
from proxy.server.sockets import Keepalive
from proxy.server.upstream import UpstreamError
from tests.support.backends import waiting_backend
from tests.support.http import recording_backend
from tests.support.raw import PATIENCE
from tests.support.waiting import until

CERTIFICATES = Path(__file__).parents[1] / "config" / "certificates"


@asynccontextmanager
async def client_of(url: str, keepalive: Keepalive | None = None, **options: object) -> AsyncIterator[HttpClient]:
    upstream = Upstream("game", parse_upstream_url(url).address, **options)  # type: ignore[arg-type]  # fields by name
    client = HttpClient(upstream, keepalive or Keepalive(), Dials(), Names())
    try:
        yield client
    finally:
        await client.close()


async def ask(client: HttpClient, target: str = "/") -> tuple[int, bytes]:
    headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
    async with asyncio.timeout(PATIENCE), await client.ask("GET", target, headers, None, expects=False) as answer:
        return answer.status, await answer.read()


async def failure(client: HttpClient) -> tuple[int, str]:
    with pytest.raises(UpstreamError) as caught:
        await ask(client)
    return caught.value.status, caught.value.detail


async def test_a_connection_is_used_again_and_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_ALIVE", 0.1)
    async with recording_backend() as backend, client_of(backend.url) as client:
        for _ in range(5):
            assert await ask(client) == (200, b"ok")
        assert backend.connections == 1
        (connector,) = [client._session.connector]
        assert connector is not None
        await until(lambda: not connector._conns)
        assert await ask(client) == (200, b"ok")
        assert backend.connections == 2


async def test_a_connection_that_the_backend_closed_meanwhile_is_not_used_again() -> None:
    async with recording_backend() as backend, client_of(backend.url) as client:
        backend.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        for _ in range(3):
            assert await ask(client) == (200, b"ok")
        assert backend.connections == 3


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"], ids=["silently", "with a last word"])
@pytest.mark.parametrize("body", [None, b"hello"])
async def test_a_connection_that_was_closed_unannounced_is_not_used_again(body: bytes | None, last: bytes) -> None:
    """Also not when the event loop has not heard of its end yet, and not for a request that may not be repeated."""

    async def told() -> AsyncIterator[bytes]:
        assert body is not None
        yield body

    async def post() -> tuple[int, bytes]:
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test", "Content-Length": str(len(body or b""))})
        asking = client.ask("POST", "/", headers, None if body is None else told(), expects=False)
        async with asyncio.timeout(PATIENCE), await asking as answer:
            return answer.status, await answer.read()

    async def serve() -> socket.socket:
        async with asyncio.timeout(PATIENCE):
            connection, _ = await loop.sock_accept(listener)
            received = b""
            while not received.endswith(b"\r\n\r\n" + (body or b"")):
                received += await loop.sock_recv(connection, 4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return connection

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            for _ in range(3):
                serving = asyncio.create_task(serve())
                assert await post() == (200, b"ok")
                connection = await serving
                connection.sendall(last)
                connection.close()  # and the loop has no turn before the next request


async def test_options_of_its_sockets_are_set() -> None:
    keepalive = Keepalive(idle=11, interval=7, count=2, user_timeout=13.0)
    async with waiting_backend() as (url, arrived), client_of(url, keepalive) as client:
        asking = asyncio.create_task(ask(client))
        await arrived.get()
        assert client._session.connector is not None
        (handler,) = client._session.connector._acquired
        sock = handler.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 11
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 13_000
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@asynccontextmanager
async def deaf_listener() -> AsyncIterator[int]:
    """A port whose queue of connections is full: nobody gets an answer to its SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.05)
        try:
            yield port
        finally:
            for sock in filling:
                sock.close()


async def test_more_connections_at_once_than_allowed_are_503() -> None:
    async with deaf_listener() as port, client_of(f"http://127.0.0.1:{port}", max_pending=3, connect_timeout=0.3) as client:
        asking = [asyncio.create_task(failure(client)) for _ in range(3)]
        await until(lambda: client._session.connector._dials.pending["game"] == 3)  # type: ignore[union-attr]
        assert await failure(client) == (503, "too many connections to the upstream are under way")
        assert [status for status, _ in await asyncio.gather(*asking)] == [504] * 3
        assert client._session.connector._dials.pending["game"] == 0  # type: ignore[union-attr]


async def test_requests_under_way_do_not_count_as_connections_that_are_opened() -> None:
    async with waiting_backend() as (url, arrived), client_of(url, max_pending=1) as client:
        asking = []
        for _ in range(5):
            asking.append(asyncio.create_task(ask(client)))
            await arrived.get()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_request_that_is_cancelled_takes_its_connection_with_it() -> None:
    async with waiting_backend() as (url, arrived), client_of(url) as client:
        asking = asyncio.create_task(ask(client))
        backend = await arrived.get()
        asking.cancel()
        assert await backend.rest() == b""
        await asyncio.gather(asking, return_exceptions=True)


async def test_nobody_there_is_502_and_no_address_is_told() -> None:
    async with client_of("http://127.0.0.1:1") as client:
        assert await failure(client) == (502, "the upstream cannot be reached")
    async with client_of("http://nowhere.invalid") as client:
        assert await failure(client) == (502, "the upstream cannot be reached")
    async with client_of("unix:/nowhere/at/all") as client:
        assert await failure(client) == (502, "the upstream cannot be reached")


async def test_only_what_may_be_repeated_is_asked_again() -> None:
    """A backend that closes its connections without an answer."""
    async with waiting_backend() as (url, arrived), client_of(url) as client:

        async def hang_up() -> list[str]:
            heads = []
            while True:
                backend = await arrived.get()
                heads.append(backend.head.split(b" ")[0].decode())
                backend.writer.close()
                if heads == ["POST"] or len(heads) == 3:
                    return heads

        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
        hanging = asyncio.create_task(hang_up())
        with pytest.raises(UpstreamError, match="does not answer as it should"):
            await client.ask("POST", "/", headers, None, expects=False)
        assert await hanging == ["POST"]
        hanging = asyncio.create_task(hang_up())
        with pytest.raises(UpstreamError, match="does not answer as it should"):
            await client.ask("GET", "/", headers, None, expects=False)
        hanging.cancel()
        assert arrived.empty()


async def test_the_head_does_not_wait_for_the_body() -> None:
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"late"

    async with waiting_backend() as (url, arrived), client_of(url) as client:
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test", "Content-Length": "4"})
        asking = asyncio.create_task(client.ask("POST", "/", headers, body(), expects=False))
        async with asyncio.timeout(PATIENCE):
            backend = await arrived.get()
        gate.set()
        assert await backend.exactly(4) == b"late"
        await backend.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        async with await asking as answer:
            assert answer.status == 204


@pytest.mark.parametrize("part", [b"", b"5\r\nhello\r\n"])
async def test_a_body_whose_chunks_turn_out_wrong_does_not_leave_its_reader_waiting(part: bytes) -> None:
    async with waiting_backend() as (url, arrived), client_of(url) as client:
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
        asking = asyncio.create_task(client.ask("GET", "/", headers, None, expects=False))
        backend = await arrived.get()
        await backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + part)
        async with await asking as answer:
            reading = asyncio.create_task(answer.read())
            await asyncio.sleep(0)
            await backend.send(b"what?\r\n")
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(reading, PATIENCE)


# --- bodies that are not taken --------------------------------------------------------------------------------------------------


@contextmanager
def blocking_backend() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A backend that does nothing by itself, and a function that says something on its one connection and closes it, with unread bytes:
    all of that is there when it returns, and no event loop has seen it yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def answer_and_close(answer: bytes) -> None:
            connection, _ = listener.accept()
            connection.settimeout(PATIENCE)
            assert connection.recv(1) == b"P"
            connection.sendall(answer)
            connection.close()

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", answer_and_close


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_an_answer_counts_though_the_body_is_not_taken_any_more(
    monkeypatch: pytest.MonkeyPatch, size: int, interim: bytes, seen: bool
) -> None:
    if not seen:  # as if it came right behind the look before the write
        monkeypatch.setattr(http_client, "_has_spoken", lambda _: False)
    with blocking_backend() as (url, answer_and_close):

        async def body() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            head = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
            answer_and_close(interim + head + b"y" * size)
            for _ in range(100):  # what is written now meets a connection that was reset
                yield b"x" * 100_000

        async with client_of(url) as client:
            headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
            async with asyncio.timeout(PATIENCE), await client.ask("POST", "/", headers, body(), expects=False) as answer:
                assert (answer.status, await answer.read()) == (413, b"y" * size)


async def test_a_connection_whose_upload_broke_off_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backend would take for the next request is the rest of this one."""

    class _Breaking(http_client._Attentive):
        async def write(self, chunk: bytes) -> None:
            await super().write(chunk)
            raise ConnectionResetError

    monkeypatch.setattr(http_client, "_Attentive", _Breaking)

    async def body() -> AsyncIterator[bytes]:
        yield b"hel"

    async with waiting_backend() as (url, arrived), client_of(url) as client:
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test", "Content-Length": "5"})
        asking = asyncio.create_task(client.ask("POST", "/", headers, body(), expects=False))
        backend = await arrived.get()
        assert await backend.exactly(3) == b"hel"
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        async with await asking as answer:
            assert await answer.read() == b"ok"
        asking = asyncio.create_task(client.ask("GET", "/next", headers, None, expects=False))
        async with asyncio.timeout(PATIENCE):
            another = await arrived.get()
        await another.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        async with await asking as answer:
            assert answer.status == 204


@pytest.mark.parametrize("told", [0, 1_000_000], ids=["chunks", "length"])
async def test_a_connection_that_ends_in_an_upload_leaves_no_error_behind(told: int) -> None:
    """The address of a request stands in aiohttp's errors, query and all: what nobody takes, the event loop prints."""
    left: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    for parts in (0, 1, 3):
        with blocking_backend() as (url, answer_and_close):

            async def body(answer_and_close: Callable[[bytes], None] = answer_and_close, parts: int = parts) -> AsyncIterator[bytes]:
                yield b"x" * 100_000
                answer_and_close(b"")
                for _ in range(parts):
                    yield b"x" * 100_000

            async with client_of(url) as client:
                headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
                if told:
                    headers["Content-Length"] = str(told)
                with pytest.raises(UpstreamError, match="does not answer as it should"):
                    await client.ask("POST", "/?token=secret", headers, body(), expects=False)
    await asyncio.sleep(0)
    gc.collect()
    assert not left


async def test_a_body_that_is_given_up_is_cut_off_and_leaves_no_error_behind() -> None:
    left: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise BodyLostError

    async with waiting_backend() as (url, arrived), client_of(url) as client:
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
        with pytest.raises(UpstreamError):
            await client.ask("POST", "/", headers, body(), expects=False)
        backend = await arrived.get()
        assert not (await backend.rest()).endswith(b"0\r\n\r\n")
    gc.collect()
    assert not left


# --- heads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [126, 127, 128, 1000, 10_000])
async def test_an_answer_may_have_any_number_of_header_fields(fields: int) -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(fields))
    async with recording_backend() as backend, client_of(backend.url) as client:
        backend.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + lines + b"\r\nok"
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
        async with asyncio.timeout(PATIENCE), await client.ask("GET", "/", headers, None, expects=False) as answer:
            assert len(answer.raw_headers) == fields + 1
            assert await answer.read() == b"ok"


@pytest.mark.parametrize(
    "part", [b"X: " + b"x" * 1000 + b"\r\n", b"\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"], ids=["fields", "interim"]
)
async def test_a_head_that_does_not_end_is_502(part: bytes) -> None:
    async with waiting_backend() as (url, arrived), client_of(url) as client:
        asking = asyncio.create_task(failure(client))
        backend = await arrived.get()
        await backend.send(b"HTTP/1.1 103 Early Hints\r\n")
        sent = 0
        while not asking.done() and sent < 4 * http_client.MAX_HEAD:
            sent += len(part)
            try:
                await backend.send(part)
            except ConnectionError:
                break
            await asyncio.sleep(0)
        assert await asyncio.wait_for(asking, PATIENCE) == (502, "the upstream does not answer as it should")


# --- TLS ------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_backend() -> AsyncIterator[tuple[int, list[ssl.SSLObject]]]:
    """Answers every connection once, under the certificate of the tests; tells what was agreed on."""
    seen: list[ssl.SSLObject] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "gate.pem", CERTIFICATES / "gate.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.append(writer.get_extra_info("ssl_object"))
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_backend_under_tls_is_asked_by_the_name_in_its_certificate() -> None:
    tls = UpstreamTls(ca=str(CERTIFICATES / "gate.pem"), server_name="gate.test")
    async with tls_backend() as (port, seen):
        client = HttpClient(Upstream("game", TcpAddress("127.0.0.1", port), tls=tls), Keepalive(), Dials(), Names())
        assert await ask(client) == (200, b"ok")
        assert seen[0].selected_alpn_protocol() == "http/1.1"
        await client.close()


@pytest.mark.parametrize(
    "tls", [UpstreamTls(), UpstreamTls(ca=str(CERTIFICATES / "gate.pem"), server_name="other.test")], ids=["ca", "name"]
)
async def test_a_backend_that_cannot_prove_who_it_is_is_502(tls: UpstreamTls) -> None:
    async with tls_backend() as (port, _):
        client = HttpClient(Upstream("game", TcpAddress("127.0.0.1", port), tls=tls), Keepalive(), Dials(), Names())
        assert await failure(client) == (502, "the upstream cannot be reached")
        await client.close()


async def test_an_answer_under_tls_counts_though_the_body_is_not_taken_any_more() -> None:
    """Often: what the kernel throws away with a reset before we read nobody can decrypt, and on a busy machine that is most of it."""
    came = [await _answer_that_is_cut_off_under_tls() for _ in range(20)]
    assert came.count((413, b"big")) >= 2
    assert set(came) <= {(413, b"big"), 502}


async def _answer_that_is_cut_off_under_tls() -> tuple[int, bytes] | int:
    """(status, body), or the status of the error."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "gate.pem", CERTIFICATES / "gate.key")

    def accept() -> ssl.SSLSocket:
        plain, _ = listener.accept()
        plain.settimeout(PATIENCE)
        encrypted = context.wrap_socket(plain, server_side=True)
        assert encrypted.recv(1) == b"P"
        return encrypted

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 500_000
        backend = await accepting
        backend.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
        backend.close()  # and the loop has no turn before more is written
        for _ in range(100):
            yield b"x" * 100_000

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        accepting = asyncio.create_task(asyncio.to_thread(accept))
        upstream = Upstream("game", TcpAddress("127.0.0.1", listener.getsockname()[1]), tls=UpstreamTls(verify=False))
        client = HttpClient(upstream, Keepalive(), Dials(), Names())
        headers: CIMultiDict[str] = CIMultiDict({"Host": "gate.test"})
        try:
            async with asyncio.timeout(PATIENCE), await client.ask("POST", "/", headers, body(), expects=False) as answer:
                return answer.status, await answer.read()
        except UpstreamError as error:
            return error.status
        finally:
            await client.close()


async def test_who_is_not_to_be_verified_is_believed() -> None:
    async with tls_backend() as (port, _):
        client = HttpClient(Upstream("game", TcpAddress("127.0.0.1", port), tls=UpstreamTls(verify=False)), Keepalive(), Dials(), Names())
        assert await ask(client) == (200, b"ok")
        await client.close()


async def test_a_unix_socket_has_no_options_of_tcp(tmp_path: Path) -> None:
    path = str(tmp_path / "backend.sock")
    async with waiting_backend(path) as (_, arrived):
        client = HttpClient(Upstream("game", UnixAddress(path)), Keepalive(), Dials(), Names())
        asking = asyncio.create_task(ask(client, "/a?"))
        backend = await arrived.get()
        assert backend.target == "/a?"
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert await asking == (200, b"ok")
        await client.close()


def test_aiohttp_is_here_with_its_c_extensions() -> None:
    assert is_compiled()
