"""A way to a server at whose other end is the test: it sees what is sent, and answers what it wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.ledger.rates.leased_bucket import LeasedBucket
from proxy.ledger.rates.rent import RentCommands
from proxy.ledger.rates.rent_link import RentLink
from proxy.ledger.scripts import Command
from proxy.ledger.store import StoreDown
from tests.ledger.instances import Heard

NOW = 1_000.0
WORDS = (
    "verb",
    "rate",
    "burst",
    "epoch",
    "level",
    "need",
    "want",
    "may_own",
    "known",
    "kept",
    "most",
    "holder",
    "number",
    "heard",
    "away",
    "waited_for",
)


class RecordingLink:
    """A Link. `sent`: commands and their answers to be. `is_usable` is the test's."""

    def __init__(self) -> None:
        self.sent: list[tuple[Command, asyncio.Future[object]]] = []
        self.is_usable = True
        self.up: Callable[[bool], None] = lambda _: None
        self.down: Callable[[str], None] = lambda _: None
        self.reason = "the test says so"
        self.timeout = 0.2

    @property
    def commands(self) -> int:
        return len(self.sent)

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def slot(self, key: bytes) -> int:
        return 0

    def call(self, command: Command) -> asyncio.Future[object]:
        if not self.is_usable:
            raise StoreDown(self.reason, outcome_known=True)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.sent.append((command, answer))
        return answer

    def words(self) -> list[dict[str, bytes]]:
        """What was said of buckets, as lua/rent.lua has its arguments from the third one on."""
        return [dict(zip(WORDS, command[-len(WORDS) :], strict=True)) for command, _ in self.sent if command[0] == b"EVALSHA"]

    async def answer(self, *replies: bytes | Exception) -> None:
        """The questions that are open, the oldest first."""
        open_ones = [answer for _, answer in self.sent if not answer.done()]
        for answer, reply in zip(open_ones, replies, strict=False):
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        for _ in range(3):  # callbacks, whoever waits for several, and what he does then
            await asyncio.sleep(0)


def recorded() -> tuple[RentLink, RecordingLink, Heard]:
    link, heard = RecordingLink(), Heard()
    return RentLink(link, RentCommands("test:", b"me", (b"test:holders",)), heard), link, heard


class Alone:
    """A Landlord of buckets that ask for nothing. There is no other instance, and since NOW no store."""

    instances = 1
    away_since = NOW

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        raise AssertionError

    def late(self, bucket: LeasedBucket, now: float) -> None:
        raise AssertionError
