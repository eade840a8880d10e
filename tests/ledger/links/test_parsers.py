"""Two parsers of the library, one meaning: hiredis, which it takes where that is installed, and its own.

What the server says, good and bad, is answered in bytes by something that began as Redis does; then the contract of the store over the
parser that no other test has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import build_connection
from proxy.ledger.links.link import CommandError
from proxy.ledger.links.redis_link import MEMORY, RedisLink, pack
from proxy.ledger.scripts import SCRIPTS
from proxy.ledger.store import Store, StoreDown, StoreState
from tests.ledger.instances import PATIENCE, Heard, address_of, instance
from tests.ledger.penalty_contract import PenaltyContract
from tests.ledger.store_contract import StoreContract
from tests.support.parsers import Parser, parsed_by
from tests.support.redis_servers import HOST, ROOT, redis_server
from tests.support.waiting import until

GREETING = b"".join(b"$40\r\n%b\r\n" % script.digest for script in SCRIPTS) + b"$-1\r\n"  # the scripts are loaded; nothing of its memory
LARGEST_QUESTION = 1 << 20  # bytes: all scripts together
PIECE = 0.01  # seconds between two pieces of an answer

LOST = "the connection is lost"


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[StoreAddress]:
    """Something that begins as Redis does, and answers the first questions with these words, piece by piece."""

    talks: set[asyncio.Task[None] | None] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(pack([MEMORY]))
            writer.write(GREETING)
            await reader.readuntil(b"PING\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(PIECE)
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(talk, HOST, 0, limit=LARGEST_QUESTION)
    try:
        yield StoreAddress((Endpoint(HOST, server.sockets[0].getsockname()[1]),))
    finally:
        server.close()
        await asyncio.gather(*filter(None, talks))  # they end with the link's connections


@asynccontextmanager
async def linked(address: StoreAddress) -> AsyncIterator[RedisLink]:
    async def locate() -> Endpoint:
        return address.endpoints[0]

    link = RedisLink(address, locate, 10.0, Heard())
    link.start()
    try:
        await until(lambda: link.is_usable, PATIENCE)
        yield link
    finally:
        await link.stop()


async def heard(*pieces: bytes, questions: int = 1) -> list[object]:
    """What questions of one turn are answered: replies, texts of errors in a tuple, LOST."""
    async with answering(*pieces) as address, linked(address) as link:
        asked = [link.call((b"PING",)) for _ in range(questions)]
        return [_meaning(answer) for answer in await asyncio.gather(*asked, return_exceptions=True)]


def _meaning(answer: object) -> object:
    if isinstance(answer, CommandError):
        return ("missing script",) if answer.missing_script else (str(answer),)
    if isinstance(answer, BaseException):
        assert isinstance(answer, StoreDown)
        return str(answer)
    return answer


def test_each_is_the_one_that_reads(any_parser: Parser) -> None:
    assert type(build_connection(StoreAddress(()), Endpoint(HOST, 1))._parser) is any_parser.value


def test_users_of_the_lock_have_the_compiled_one() -> None:
    assert "\nhiredis==" in (ROOT / "deploy" / "lock" / "runtime.txt").read_text(encoding="utf-8")
    assert type(build_connection(StoreAddress(()), Endpoint(HOST, 1))._parser) is Parser.HIREDIS.value


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        # replies
        (b"+OK\r\n", b"OK"),
        (b"+\r\n", b""),
        (b":-7\r\n", -7),
        (b":9223372036854775807\r\n", 2**63 - 1),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$6\r\na\r\n\x00\xff:\r\n", b"a\r\n\x00\xff:"),
        (b"*0\r\n", []),
        (b"*3\r\n*1\r\n:1\r\n$1\r\nx\r\n$-1\r\n", [[1], b"x", None]),
        # errors of a command
        (b"-ERR no such thing\r\n", ("no such thing",)),
        (b"-WRONGTYPE Operation against a key\r\n", ("WRONGTYPE Operation against a key",)),
        (b"-OOM command not allowed\r\n", ("command not allowed",)),
        (b"-NOPERM this user\r\n", ("this user",)),
        (b"-ERR \xff\r\n", ("\ufffd",)),
        (b"-\r\n", ("ResponseError",)),
        (b"-NOSCRIPT No matching script\r\n", ("missing script",)),
        (b"-CLUSTERDOWN Hash slot not served\r\n", ("a Cluster: Hash slot not served",)),
        (b"*2\r\n:1\r\n-ERR nested\r\n", ("nested",)),
        (b"*1\r\n*2\r\n-ERR deep\r\n:1\r\n", ("deep",)),
        (b"*2\r\n$40\r\n" + b"x" * 40 + b"\r\n-NOSCRIPT nested\r\n", ("missing script",)),
        # errors of the server
        (b"-READONLY You can't write against a read only replica.\r\n", "it is a replica"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", LOST),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "it is a replica"),
        (b"-NOAUTH Authentication required.\r\n", LOST),
        (b"*1\r\n-LOADING nested\r\n", LOST),
        (b"*2\r\n:1\r\n-LOADING nested\r\n", LOST),
        # no Redis
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", LOST),
        (b"\x00\xff" * 100 + b"\r\n", LOST),
        (b"$zz\r\n", LOST),
        (b"*zz\r\n", LOST),
        (b":x\r\n", LOST),
        (b":1e400\r\n", LOST),
        (b"*1\r\n" * 5000, LOST),
        # RESP3, which nobody asked for
        (b"#t\r\n", LOST),
        (b",1.5\r\n", LOST),
        (b"%1\r\n+a\r\n:1\r\n", LOST),
        (b"%1\r\n*0\r\n:1\r\n", LOST),
        (b"*2\r\n:1\r\n#f\r\n", LOST),
        (b">1\r\n+x\r\n" * 5000, LOST),
    ],
    ids=lambda one: ascii(one)[:40],
)
async def test_what_the_server_says_means_the_same(any_parser: Parser, words: bytes, meaning: object) -> None:
    [answer] = await heard(words)
    assert answer == meaning
    assert type(answer) is type(meaning)


async def test_an_error_in_the_middle_of_a_pipeline_is_its_own(any_parser: Parser) -> None:
    words = b":0\r\n-ERR one\r\n*2\r\n-ERR two\r\n$3\r\nabc\r\n*0\r\n$-1\r\n:5\r\n"
    assert await heard(words, questions=6) == [0, ("one",), ("two",), [], None, 5]


async def test_what_was_said_before_the_end_counts(any_parser: Parser) -> None:
    assert await heard(b":0\r\n-ERR one\r\nHTTP/1.1\r\n:3\r\n", questions=4) == [0, ("one",), LOST, LOST]


async def test_an_answer_in_pieces_is_one(any_parser: Parser) -> None:
    pieces = [b"*", b"2\r\n$4\r\na", b"b\r", b"\n\r", b"\n-ER", b"R no\r", b"\n:1", b"2\r\n", b"-ERR x\r\n:"]
    assert await heard(*pieces, b"3\r\n", questions=4) == [("no",), 12, ("x",), 3]


async def test_nothing_that_is_pushed_is_an_answer(any_parser: Parser) -> None:
    """hiredis passes over it, the library's own parser takes it for no Redis."""
    assert (await heard(b">2\r\n+message\r\n+x\r\n:7\r\n"))[0] in (7, LOST)


async def test_large_answers_come_whole(any_parser: Parser) -> None:
    large = bytes(range(256)) * 20_000
    async with redis_server() as server, server.client(decode_responses=False) as client:
        await client.set("large", large)
        await client.rpush("many", *range(20_000))
        async with linked(address_of(server)) as link:
            text, words, last = await asyncio.gather(
                link.call((b"GET", b"large")), link.call((b"LRANGE", b"many", b"0", b"-1")), link.call((b"LLEN", b"many"))
            )
            assert text == large
            assert words == [b"%d" % number for number in range(20_000)]
            assert last == 20_000


class TestContractOverTheLibrarysOwnParser(StoreContract):
    @pytest.fixture
    async def store(self, own_parser: None) -> AsyncIterator[Store]:
        async with redis_server() as server, instance(address_of(server)) as one:
            yield one.store
            assert one.heard.states == [StoreState.UP]  # it was the server that decided


class TestPenaltiesOverTheLibrarysOwnParser(PenaltyContract):
    @pytest.fixture
    async def store(self, own_parser: None) -> AsyncIterator[Store]:
        async with redis_server() as server, instance(address_of(server)) as one:
            yield one.store


@pytest.fixture
def own_parser() -> Iterator[None]:
    with parsed_by(Parser.PYTHON):
        yield
