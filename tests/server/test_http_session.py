"""One connection and the requests on it: their order, their ends, and an upgrade that comes behind them."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import aiohttp.web
import pytest

from proxy.server.http_session import HttpSession
from proxy.wire.body import MAX_STEPS, RequestBody
from tests.server.test_door import BAD_HEADS
from tests.support.backends import waiting_backend
from tests.support.gate import Running, running
from tests.support.http import Recorder, next_answer, recording_backend
from tests.support.raw import PATIENCE, HttpAnswer, RawClient, raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.test_handshake import BAD_UPGRADES, head

PLAIN = b"GET /before HTTP/1.1\r\nHost: gate.test\r\n\r\n"
GOOD = upgrade_head("/")
CLOSE_1000 = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


def get(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: gate.test", *lines, "", ""]).encode("latin-1")


def post(target: str, body: bytes, *lines: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: gate.test", *lines, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def recorded(yaml: str = "") -> AsyncIterator[tuple[Running, Recorder]]:
    async with recording_backend() as backend, running(yaml, upstream=backend.url) as run:
        yield run, backend


async def used(client: RawClient) -> None:
    """Send an ordinary request first, and read its answer."""
    await client.send(PLAIN)
    assert (await next_answer(client)).status == 200


def sessions(run: Running) -> list[HttpSession]:
    return list(run.gate._passthrough._sessions.open.values())


# --- every bad head, on a first and on a reused connection ----------------------------------------------------------------------

REFUSED = {name: case for name, case in BAD_HEADS.items() if case[1] in (400, 426, 431, 505)}
REFUSED |= {name: (head(**changed) + b"\r\n\r\n", status) for name, status, changed in BAD_UPGRADES}


@pytest.mark.parametrize("reused", [False, True], ids=["first", "reused"])
async def test_every_bad_head_gets_its_answer_wherever_it_comes(reused: bool) -> None:
    async with recorded() as (run, backend):

        async def answer_to(data: bytes) -> HttpAnswer:
            async with raw_client(run.port) as client:
                if reused:
                    await used(client)
                await client.send(data)
                return await client.answer()

        assert len(REFUSED) > 90
        answers = {name: await answer_to(data) for name, (data, _) in REFUSED.items()}
        assert {name: answer.status for name, answer in answers.items()} == {name: status for name, (_, status) in REFUSED.items()}
        for answer in answers.values():
            assert answer.headers["connection"] == "close"
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["content-length"]) == len(answer.body)
            if answer.status == 426:
                assert (answer.headers["upgrade"], answer.headers["sec-websocket-version"]) == ("websocket", "13")
        assert set(backend.targets) <= {"/before"}
        await run.quiet()


# --- a body that costs more than it brings ----------------------------------------------------------------------------------------


async def test_a_body_in_tiny_chunks_leaves_every_turn_of_the_loop_to_others() -> None:
    whole = b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"
    async with recorded() as (run, backend), raw_client(run.port) as client:
        loop = asyncio.get_running_loop()
        turns = 0
        slices: list[int] = []
        receive_data = RequestBody.receive_data

        def watched(body: RequestBody, data: bytes) -> tuple[bytes, bytes]:
            content, rest = receive_data(body, data)
            slices.append(turns)
            return content, rest

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not backend.requests:
                loop.call_soon(turn)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RequestBody, "receive_data", watched)
            turn()
            await client.send(b"POST /slow HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked\r\n\r\n" + whole + PLAIN)
            assert (await next_answer(client)).status == 200
            assert (await next_answer(client)).status == 200
        assert len(slices) >= 60_000 // MAX_STEPS
        assert max(Counter(slices).values()) <= 3  # what was put off, what came, and what is behind the body
        assert backend.requests[0].body == b"x" * 60_000
        assert backend.targets == ["/slow", "/before"]


async def test_an_upgrade_behind_a_body_in_tiny_chunks_finds_its_connection_read() -> None:
    body = b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        backend = await arrived.get()
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await next_answer(client)).status == 200
        await client.send(GOOD)
        backend = await arrived.get()
        await backend.accept()
        assert await client.status() == 101
        await client.send(CLOSE_1000)
        assert await backend.raw_frame() == CLOSE_1000


async def test_a_backend_that_takes_nothing_holds_back_a_body_in_tiny_chunks() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: gate.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        backend = await arrived.get()
        backend.writer.transport.pause_reading()
        (session,) = sessions(run)
        large = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
        sending = asyncio.ensure_future(client.send((large + b"1\r\nx\r\n" * 5_000) * 200))  # 19 MB
        await until(lambda: session._held_back and bool(session._unread))
        for _ in range(100):
            await asyncio.sleep(0)
            assert session._turn is None
            assert len(session._unread) <= 512 * 1024
        client.reset()
        sending.cancel()
        backend.reset()
        await run.quiet()


@pytest.mark.parametrize("size", [16 * 1024 + 1, 100_000])
async def test_a_head_that_is_too_long_is_431_on_a_reused_connection(size: int) -> None:
    async with recorded() as (run, backend), raw_client(run.port) as client:
        await used(client)
        await client.send(get("/", "X: " + "x" * size))
        client.end()
        assert (await client.answer()).status == 431
        assert backend.targets == ["/before"]


async def test_a_head_of_16_kib_is_read_on_a_reused_connection() -> None:
    long = get("/", "X: ")
    long = get("/", "X: " + "x" * (16 * 1024 - len(long) + 4))
    assert len(long) == 16 * 1024 + 4
    async with recorded() as (run, _), raw_client(run.port) as client:
        await used(client)
        await client.send(long)
        assert (await next_answer(client)).status == 200
        await client.send(long[:-1])
        await until(lambda: sessions(run)[0]._received == long[:-1])
        await client.send(long[-1:])
        assert (await next_answer(client)).status == 200


async def test_half_a_head_at_its_deadline_is_408_on_a_reused_connection() -> None:
    async with recorded("limits: {head_timeout: 50ms}") as (run, _), raw_client(run.port) as client:
        await used(client)
        await client.send(GOOD[:-1])
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        client.end()
        await run.quiet()
        assert not run.gate._entrance.capacity


async def test_one_byte_at_a_time_does_not_put_the_deadline_off() -> None:
    async with recorded("limits: {head_timeout: 200ms}") as (run, _), raw_client(run.port) as client:
        await used(client)
        started = asyncio.get_running_loop().time()

        async def drip() -> None:
            for byte in get("/", "X: " + "x" * 1000):
                client.writer.write(bytes((byte,)))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert await client.status() == 408
        assert asyncio.get_running_loop().time() - started < 2
        dripping.cancel()


async def test_heads_that_are_not_whole_are_bounded_on_reused_connections_too() -> None:
    async with recorded("limits: {max_pending_per_ip: 2}") as (run, _), raw_client(run.port) as client, raw_client(run.port) as another:
        await used(client)
        await used(another)
        async with raw_client(run.port):
            await client.send(PLAIN[:-1])
            await until(lambda: run.gate._entrance.capacity.pending == 2)
            await another.send(PLAIN[:-1])
            answer = await another.answer()
            assert answer.status == 503
        assert b'"code": "unavailable"' in answer.body
        await client.send(PLAIN[-1:])
        assert (await next_answer(client)).status == 200
        assert run.gate._entrance.capacity.pending == 0


# --- one request after another ----------------------------------------------------------------------------------------------------


async def test_requests_share_a_connection_on_both_sides() -> None:
    async with recorded() as (run, backend), raw_client(run.port) as client:
        for number in range(20):
            await client.send(get(f"/{number}") if number % 2 else post(f"/{number}", b"x" * number, f"Content-Length: {number}"))
            answer = await next_answer(client)
            assert (answer.status, answer.body) == (200, b"ok")
            assert "connection" not in answer.headers
        assert backend.targets == [f"/{number}" for number in range(20)]
        assert backend.connections == 1
        assert [request.body for request in backend.requests] == [b"" if number % 2 else b"x" * number for number in range(20)]


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async with recorded() as (run, backend), raw_client(run.port) as client:
        ahead = b"".join(
            post(f"/{number}", b"3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked") if number % 3 else get(f"/{number}")
            for number in range(200)
        )
        await client.send(ahead)
        for _ in range(200):
            assert (await next_answer(client)).body == b"ok"
        assert backend.targets == [f"/{number}" for number in range(200)]
        assert backend.connections == 1


@pytest.mark.parametrize("seed", range(8))
async def test_a_stream_of_requests_is_the_same_however_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    bodies = [bytes(chance.randrange(256) for _ in range(chance.choice((0, 1, 5, 700)))) for _ in range(12)]
    stream = b""
    for number, body in enumerate(bodies):
        if number % 2:
            stream += post(f"/{number}", body, f"Content-Length: {len(body)}")
        else:
            cut = chance.randrange(len(body) + 1)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
            stream += post(f"/{number}", chunks + b"0\r\nX-Trailer: 1\r\n\r\n", "Transfer-Encoding: chunked")
    async with recorded() as (run, backend), raw_client(run.port) as client:
        position = 0
        while position < len(stream):
            step = chance.choice((1, 2, 3, 50, 400))
            client.writer.write(stream[position : position + step])
            await asyncio.sleep(0)
            position += step
        for _ in bodies:
            assert (await next_answer(client)).status == 200
        assert [request.body for request in backend.requests] == bodies
        assert backend.targets == [f"/{number}" for number in range(12)]


async def test_what_is_sent_ahead_without_end_is_not_gathered() -> None:
    """The request that is under way gets its answer, and what is behind it does not count."""
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(get("/first"))
        backend = await arrived.get()
        await client.send(get("/ahead", "X: " + "x" * 1000) * 10_000)
        await until(lambda: sessions(run)[0]._overrun)
        assert sessions(run)[0]._received == b""
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await next_answer(client)).body == b"ok"
        client.end()
        assert await client.rest() == b""
        await run.quiet()
        backend.writer.write_eof()
        assert await backend.rest() == b""


async def test_who_leaves_while_it_sends_ahead_is_noticed() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(get("/first"))
        backend = await arrived.get()
        await client.send(get("/ahead", "X: " + "x" * 1000) * 1000)
        client.reset()
        await until(lambda: not run.gate._passthrough)
        assert await backend.rest() == b""


async def test_a_bad_head_behind_good_requests_is_answered_in_its_turn() -> None:
    async with recorded() as (run, backend), raw_client(run.port) as client:
        await client.send(get("/1") + get("/2") + b"GET  / HTTP/1.1\r\n\r\n" + get("/3"))
        assert [(await next_answer(client)).status for _ in range(3)] == [200, 200, 400]
        client.end()
        assert await client.rest() == b""
        assert backend.targets == ["/1", "/2"]


async def test_an_idle_connection_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.passthrough.KEEP_ALIVE", 0.1)
    async with recorded() as (run, _), raw_client(run.port) as client:
        await used(client)
        assert await client.rest() == b""
        await run.quiet()
        assert len(run.gate._passthrough) == 0


# --- an empty line before a request -------------------------------------------------------------------------------------------------


async def test_an_empty_line_behind_a_body_is_passed_over() -> None:
    """RFC 9112 §2.2: some clients send one."""
    async with recorded() as (run, backend), raw_client(run.port) as client:
        for number in range(3):
            await client.send(post(f"/{number}", b"abc", "Content-Length: 3") + b"\r\n")
            assert (await next_answer(client)).status == 200
        await client.send(get("/last"))
        assert (await next_answer(client)).status == 200
        assert backend.targets == ["/0", "/1", "/2", "/last"]
        assert [request.body for request in backend.requests] == [b"abc"] * 3 + [b""]
        assert b"\r\n\r\nPOST" not in backend.received


async def test_an_upgrade_may_come_behind_an_empty_line() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(post("/", b"abc", "Content-Length: 3") + b"\r\n" + GOOD)
        plain = await arrived.get()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await next_answer(client)).status == 200
        backend = await arrived.get()
        assert backend.head.startswith(b"GET / HTTP/1.1\r\n")
        await backend.accept()
        assert await client.status() == 101


@pytest.mark.parametrize("sent", [b"\r", b"\r\n"])
async def test_who_sends_an_empty_line_and_no_request_is_idle(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("proxy.server.passthrough.KEEP_ALIVE", 0.3)
    async with recorded("limits: {head_timeout: 50ms}") as (run, _), raw_client(run.port) as client:
        await client.send(post("/", b"abc", "Content-Length: 3") + sent)
        assert (await next_answer(client)).status == 200
        assert await client.rest() == b""
        await run.quiet()


# --- an upgrade behind ordinary requests ------------------------------------------------------------------------------------------


async def test_an_upgrade_comes_through_a_connection_that_was_used_before() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        for number in range(3):
            await client.send(post(f"/{number}", b"body", "Content-Length: 4"))
            if not number:
                plain = await arrived.get()
            else:
                await plain.reader.readuntil(b"\r\n\r\n")
            assert await plain.exactly(4) == b"body"
            await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert (await next_answer(client)).status == 200
        await client.send(GOOD)
        async with asyncio.timeout(PATIENCE):
            backend = await arrived.get()
        assert backend.fields["x-forwarded-for"] == "127.0.0.1"
        await backend.accept()
        assert await client.status() == 101
        await client.send(b"\x81\x82\x01\x02\x03\x04\x69\x6b")
        assert await backend.raw_frame() == b"\x81\x82\x01\x02\x03\x04\x69\x6b"
        await backend.send(b"\x81\x02ho")
        assert await client.raw_frame() == b"\x81\x02ho"
        assert run.gate.totals.connections == 1
        client.writer.close()
        backend.writer.close()


async def test_nothing_of_aiohttp_stays_behind_a_tunnel() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(PLAIN)
        plain = await arrived.get()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await next_answer(client)
        assert len(run.gate._passthrough) == 1
        await client.send(GOOD)
        backend = await arrived.get()
        await backend.accept()
        assert await client.status() == 101
        ours = {"serve_one", "test_nothing_of_aiohttp_stays_behind_a_tunnel"}
        await until(lambda: all(any(name in repr(task.get_coro()) for name in ours) for task in asyncio.all_tasks()))
        assert len(run.gate._passthrough) == 0
        assert run.gate._passthrough._server.connections == []
        gc.collect()
        of_aiohttp = (aiohttp.web.RequestHandler, aiohttp.web.BaseRequest, HttpSession)
        assert [one for one in gc.get_objects() if isinstance(one, of_aiohttp)] == []
        client.writer.close()
        backend.writer.close()


async def test_an_upgrade_that_is_sent_ahead_waits_for_its_turn() -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(get("/first") + GOOD)
        plain = await arrived.get()
        await until(lambda: sessions(run)[0]._received == GOOD)
        assert arrived.empty()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await next_answer(client)).body == b"ok"
        backend = await arrived.get()
        await backend.accept()
        assert await client.status() == 101
        client.writer.close()
        backend.writer.close()


@pytest.mark.parametrize("behind", [b"x", b"\x81\x80abcd", get("/smuggled"), GOOD], ids=["a byte", "a frame", "a request", "an upgrade"])
@pytest.mark.parametrize("when", ["with the head", "later"])
async def test_bytes_behind_the_head_of_an_upgrade_are_400(behind: bytes, when: str) -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(PLAIN)
        plain = await arrived.get()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await next_answer(client)
        if when == "later":
            await client.send(GOOD)
            await arrived.get()
            await client.send(behind)
        else:
            await client.send(GOOD + behind)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        client.end()
        await run.quiet()
        assert arrived.empty()


async def test_an_upgrade_head_may_come_in_pieces() -> None:
    """The end of the head alone in a chunk is no byte behind it."""
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run:
        for cut in (1, 20, len(GOOD) - 3, len(GOOD) - 2, len(GOOD) - 1):
            async with raw_client(run.port) as client:
                await client.send(PLAIN)
                plain = await arrived.get()
                await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                plain.writer.close()
                await next_answer(client)
                await client.send(GOOD[:cut])
                await until(lambda: sessions(run)[0]._received == GOOD[:cut])  # noqa: B023 -- it is over before the next turn
                await client.send(GOOD[cut:])
                backend = await arrived.get()
                await backend.accept()
                assert await client.status() == 101
                backend.writer.close()
            await run.quiet()


async def test_a_refused_upgrade_on_a_reused_connection_can_be_read() -> None:
    async with recorded("rules: [{name: nobody, per: global, connections: 0}]") as (run, _), raw_client(run.port) as client:
        await used(client)
        await client.send(GOOD)
        assert await client.status() == 101
        opcode, payload = await client.frame()
        assert opcode == 0x81
        assert b"connection_limit_exceeded" in payload
        assert (await client.frame())[0] == 0x88
        await client.send(CLOSE_1000)
        assert await client.rest() == b""


# --- how it ends ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("sent", [b"", PLAIN[:20], PLAIN])
async def test_who_leaves_is_forgotten(sent: bytes, how: str) -> None:
    async with waiting_backend() as (url, arrived), running("", upstream=url) as run, raw_client(run.port) as client:
        await client.send(PLAIN)
        plain = await arrived.get()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await next_answer(client)
        await client.send(sent)
        if sent == PLAIN:
            await plain.reader.readuntil(b"\r\n\r\n")
        getattr(client, how)()
        await until(lambda: not run.gate._passthrough)
        assert run.gate.remembered() == 0
        if sent == PLAIN:
            assert await plain.rest() == b""  # its request is not waited for


async def test_a_stop_closes_idle_connections_and_lets_a_running_request_end() -> None:
    async with (
        waiting_backend() as (url, arrived),
        running("", upstream=url) as run,
        raw_client(run.port) as idle,
        raw_client(run.port) as busy,
    ):
        await idle.send(PLAIN)
        plain = await arrived.get()
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await next_answer(idle)
        await busy.send(get("/busy") + get("/ahead"))
        await plain.reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(run.gate.stop())
        assert await idle.rest() == b""
        await plain.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"], answer.body) == (200, "close", b"ok")
        busy.end()
        await stopping
        assert not run.gate.connections()


def test_the_table_of_bad_heads_has_no_name_twice() -> None:
    names: Mapping[str, object] = {name: None for name, _, _ in BAD_UPGRADES}
    assert not names.keys() & BAD_HEADS.keys()


# --- what is counted and logged of a bad head, wherever it comes --------------------------------------------------------------------

COUNTED = {
    "bytes behind an upgrade": (GOOD + b"x", 400, 1),
    "an upgrade of another version": (GOOD.replace(b"HTTP/1.1", b"HTTP/2.0", 1), 426, 1),
    "a bad header of an upgrade": (GOOD.replace(b"Host:", b"Host :", 1), 400, 1),
    "a bad header of an ordinary request": (b"GET /websocket HTTP/1.1\r\nHost : a\r\n\r\n", 400, 0),
    "a long upgrade": (GOOD[:-4] + b"\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431, 1),
    "a long ordinary request": (get("/", "X: " + "x" * 20_000), 431, 0),
}


@pytest.mark.parametrize("reused", [False, True], ids=["first", "reused"])
@pytest.mark.parametrize(("data", "status", "counted"), COUNTED.values(), ids=COUNTED)
async def test_a_bad_head_is_counted_if_it_is_an_upgrade_and_always_logged(data: bytes, status: int, counted: int, reused: bool) -> None:
    async with recorded() as (run, _), raw_client(run.port) as client:
        if reused:
            await used(client)
        await client.send(data)
        assert (await client.answer()).status == status
        assert run.gate.totals.upgrades["", "bad_request"] == counted
        (line,) = map(json.loads, run.log.getvalue().splitlines())
        assert (line["event"], line["status"], line["route"]) == ("refused", status, "")


@pytest.mark.parametrize("reused", [False, True], ids=["first", "reused"])
async def test_half_a_head_that_is_turned_away_is_counted_and_logged(reused: bool) -> None:
    async with recorded("limits: {max_pending: 1}") as (run, _), raw_client(run.port) as client:
        if reused:
            await used(client)
        else:
            await until(lambda: run.gate._entrance.capacity.pending == 1)
        async with raw_client(run.port) as other:
            if reused:
                await until(lambda: run.gate._entrance.capacity.pending == 1)
                await client.send(GOOD[:10])
            turned_away = client if reused else other
            assert (await turned_away.answer()).status == 503
        assert run.gate.totals.upgrades["", "unavailable"] == 1
        (line,) = map(json.loads, run.log.getvalue().splitlines())
        assert line["event"] == "turned away"
