"""A second connection to the store, on which it tells us things: one channel of our own, and nothing else.

It is silent unless it is tried: a path that died without a word would make us deaf for ever, so a ping goes out when nothing was heard for
INTERVAL seconds. Errors of the library end here; whoever wants to know whether we hear is told, and why the server does not let us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from proxy.ledger.links.addresses import StoreAddress
from proxy.ledger.links.connecting import CONNECT_TIMEOUT, build_connection, close, one_line
from proxy.ledger.links.link import Locate
from proxy.ledger.links.redis_link import PAUSES, pack
from proxy.ledger.store import StoreDown

if TYPE_CHECKING:
    from redis.asyncio import Connection

INTERVAL: Final = 2.0  # seconds without a word, and it is asked for one; as much again, and it is gone


class Subscription:
    """`hear` gets every message; `listening` is told when it begins to hear, and when it does no more; `denied` why the server refuses
    it, in one line. They must neither raise nor wait."""

    def __init__(
        self,
        address: StoreAddress,
        locate: Locate,
        channel: bytes,
        hear: Callable[[bytes], None],
        listening: Callable[[bool], None],
        denied: Callable[[str], None],
    ) -> None:
        self._address = address
        self._locate = locate
        self._channel = channel
        self._hear = hear
        self._listening = listening
        self._denied = denied
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """A second call does nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        attempts = 0
        while True:
            connection: Connection | None = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = build_connection(self._address, await self._locate())
                    await _plainly(connection.connect())  # type: ignore[no-untyped-call]  # of the library
                    await _plainly(self._subscribe(connection))
                attempts = 0
                self._listening(True)
                await self._listen(connection)
            except (OSError, StoreDown):
                pass
            finally:
                self._listening(False)
                if connection is not None:
                    await close(connection)
            await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
            attempts += 1

    async def _subscribe(self, connection: Connection) -> None:
        from redis.exceptions import ResponseError

        await connection.send_packed_command([pack([(b"SUBSCRIBE", self._channel)])], check_health=False)
        try:
            await connection.read_response()
        except ResponseError as error:
            self._denied(one_line(error))
            raise

    async def _listen(self, connection: Connection) -> None:
        """Until the connection is lost. Raises StoreDown, or TimeoutError if it is silent."""
        was_asked = False
        while True:
            word = await _plainly(connection.read_response(timeout=INTERVAL, disconnect_on_error=False))
            if word is None:  # the time is over
                if was_asked:
                    raise TimeoutError
                was_asked = True
                await _plainly(connection.send_packed_command([pack([(b"PING",)])], check_health=False))
                continue
            was_asked = False
            if isinstance(word, list) and len(word) == 3 and word[0] == b"message" and isinstance(word[2], bytes):
                self._hear(word[2])


async def _plainly(doing: Awaitable[Any]) -> object:
    """What the library does. Raises StoreDown: over bytes of no Redis it raises whatever comes up."""
    try:
        return await doing
    except Exception as error:
        raise StoreDown(one_line(error), outcome_known=True) from error
