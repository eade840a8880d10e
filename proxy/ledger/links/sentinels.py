"""Where the master is, asked of the Sentinels that watch it, one after the other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import build_connection, one_line
from proxy.ledger.store import StoreDown

SENTINEL_TIMEOUT: Final = 0.3  # seconds for one of them; the next one may know as well


class Sentinels:
    """Whoever answered last is asked first. They are asked without a password, and with the master's if they want one."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._endpoints = list(address.endpoints)

    async def locate(self) -> Endpoint:
        """Raises StoreDown with the reason, in one line."""
        why = "no Sentinel answers"
        for endpoint in list(self._endpoints):
            try:
                async with asyncio.timeout(SENTINEL_TIMEOUT):
                    found = await self._ask(endpoint)
            except StoreDown as error:
                why = str(error)
            except TimeoutError:
                why = f"the Sentinel at {endpoint} does not answer"
            else:
                self._endpoints.remove(endpoint)
                self._endpoints.insert(0, endpoint)
                return found
        raise StoreDown(why, outcome_known=True)

    async def _ask(self, endpoint: Endpoint) -> Endpoint:
        from redis.exceptions import AuthenticationError

        try:
            try:
                reply = await self._query(endpoint, None)
            except AuthenticationError:
                reply = await self._query(endpoint, self._address.password)
            if isinstance(reply, list) and len(reply) == 2:
                return Endpoint(reply[0].decode(), int(reply[1]))
        except Exception as error:  # over bytes of no Redis the library raises whatever comes up
            raise StoreDown(f"the Sentinel at {endpoint}: {one_line(error)}", outcome_known=True) from error
        raise StoreDown(f"the Sentinel at {endpoint} knows no master {self._address.service}", outcome_known=True)

    async def _query(self, endpoint: Endpoint, password: str | None) -> object:
        connection = build_connection(replace(self._address, database=0, username=None, password=password), endpoint)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # of the library
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            reply: object = await connection.read_response()
            return reply
        finally:
            with suppress(OSError):
                await connection.disconnect(nowait=True)
