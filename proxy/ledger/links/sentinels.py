"""Where the master is: where most of the Sentinels say that it is.

One of them may be wrong, and never find out: it was started anew with what it was first configured with, or is cut off from the others.
So all are asked at once, and no one's word counts more than another's. Where as many say one thing as another, each address is tried in
its turn: whoever asks again could not use the last one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import build_connection, one_line
from proxy.ledger.store import StoreDown

SENTINEL_TIMEOUT: Final = 0.3  # seconds for an answer


class Sentinels:
    """They are asked without a password, and with the master's if they want one."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._last: Endpoint | None = None  # what was said last

    async def locate(self) -> Endpoint:
        """As soon as no further answer could change it. Raises StoreDown with the reason, in one line."""
        votes: Counter[Endpoint] = Counter()
        why = "no Sentinel answers"
        asked = [asyncio.create_task(self._ask_in_time(endpoint)) for endpoint in self._address.endpoints]
        try:
            for left, answer in zip(reversed(range(len(asked))), asyncio.as_completed(asked), strict=True):
                try:
                    votes[await answer] += 1
                except StoreDown as error:
                    why = str(error)
                if _is_decided(votes, left):
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not votes:
            raise StoreDown(why, outcome_known=True)
        self._last = self._choose(votes)
        return self._last

    def _choose(self, votes: Counter[Endpoint]) -> Endpoint:
        most = max(votes.values())
        equals = sorted((one for one, count in votes.items() if count == most), key=str)
        place = equals.index(self._last) + 1 if self._last in equals else 0
        return equals[place % len(equals)]

    async def _ask_in_time(self, endpoint: Endpoint) -> Endpoint:
        try:
            async with asyncio.timeout(SENTINEL_TIMEOUT):
                return await self._ask(endpoint)
        except TimeoutError as error:
            raise StoreDown(f"the Sentinel at {endpoint} does not answer", outcome_known=True) from error

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


def _is_decided(votes: Counter[Endpoint], left: int) -> bool:
    """Will the leader stay the leader, whatever those that are left say?"""
    (_, most), (_, second) = [*votes.most_common(2), (None, 0), (None, 0)][:2]
    return most > second + left
