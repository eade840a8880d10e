"""Connections of the Redis library, as we want them: plain, repeating nothing by themselves. The library is imported when it is used."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress

if TYPE_CHECKING:
    from redis.asyncio import Connection

CONNECT_TIMEOUT: Final = 1.0  # seconds for TCP, TLS, the password and the scripts
_SCALARS: Final = (bytes, int)  # and no bool, which is an int to isinstance


def build_connection(address: StoreAddress, endpoint: Endpoint) -> Connection:
    """A connection of the library that repeats nothing by itself. Not connected yet."""
    from redis.asyncio import Connection, SSLConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    common = partial(
        SSLConnection if address.tls else Connection,
        host=endpoint.host,
        port=endpoint.port,
        db=address.database,
        username=address.username,
        password=address.password,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # RESP3 brings nothing that we read, and costs a round trip
        driver_info=None,
    )
    if address.tls:
        return common(ssl_cert_reqs=ssl.CERT_REQUIRED, ssl_check_hostname=True, ssl_ca_certs=address.ca)
    return common()


async def close(connection: Connection) -> None:
    from redis.exceptions import RedisError

    with suppress(OSError, RedisError):
        await connection.disconnect(nowait=True)


def as_told(reply: object) -> object:
    """The same: bytes, int, None, or a list of those, which is all that RESP2 has.

    The library's two parsers take more than that for a reply, and each something else: hiredis also knows words of RESP3, and hands out
    errors within a list that its own one raises. Raises such an error, and redis.InvalidResponse for a word of RESP3.
    """
    from redis.exceptions import InvalidResponse

    waiting = [reply]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, Exception):
            raise one
        elif one is not None and type(one) not in _SCALARS:
            raise InvalidResponse(f"a {type(one).__name__}, which RESP2 has not")
    return reply


def one_line(error: BaseException) -> str:
    """What went wrong, without what we sent: passwords are in no message of the library, and messages have one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def why_not(error: BaseException, *, tls: bool) -> str:
    """Why a connection could not be made, in one line. Where the server ended it or said nothing, the other kind of URL may be the cure."""
    why = "no answer while connecting" if isinstance(error, TimeoutError) else one_line(error)
    if tls and isinstance(error, TimeoutError):
        return f"{why}: does the server speak TLS (rediss://)?"
    if not tls and ("reset by peer" in why or "closed by server" in why):
        return f"{why}: does the server want TLS (rediss://)?"
    return why
