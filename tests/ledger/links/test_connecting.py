"""Connections of the library as we want them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import build_connection, close, one_line, why_not
from tests.support.redis_servers import HOST, redis_server
from tests.support.tls import AUTHORITY

pytestmark = pytest.mark.usefixtures("any_parser")


def test_the_library_is_imported_only_when_a_connection_is_made() -> None:
    code = "import sys, proxy.ledger.fallback_store; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_nothing_is_repeated_by_itself_and_nothing_is_sent_unasked() -> None:
    async with redis_server() as server:
        connection = build_connection(StoreAddress(()), Endpoint(HOST, server.port))
        assert connection.retry.get_retries() == 0
        before = (await server.info("stats"))["total_commands_processed"]
        await connection.connect()
        await close(connection)
        assert (await server.info("stats"))["total_commands_processed"] - before <= 3  # of the one who looks


async def test_tls_is_verified() -> None:
    async with redis_server(tls=True) as server:
        endpoint = Endpoint(HOST, server.port)
        trusting = build_connection(StoreAddress((), tls=True, ca=str(AUTHORITY)), endpoint)
        await trusting.connect()
        await close(trusting)
        strict = build_connection(StoreAddress((), tls=True), endpoint)
        with pytest.raises(Exception, match="certificate verify failed"):
            await strict.connect()
        await close(strict)


def test_reasons_are_one_short_line() -> None:
    assert one_line(ValueError("a\nb  c")) == "a b c"
    assert len(one_line(ValueError("x" * 1000))) == 200
    assert one_line(TimeoutError()) == "TimeoutError"


def test_the_other_kind_of_url_is_named_where_it_may_be_the_cure() -> None:
    assert why_not(TimeoutError(), tls=True).endswith("does the server speak TLS (rediss://)?")
    assert why_not(TimeoutError(), tls=False) == "no answer while connecting"
    assert why_not(OSError("Connection reset by peer"), tls=False).endswith("does the server want TLS (rediss://)?")
    assert why_not(OSError("Connection reset by peer"), tls=True) == "Connection reset by peer"
