"""What the Redis store needs of a way to its servers, whatever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.ledger.links.addresses import Endpoint
from proxy.ledger.scripts import Command
from proxy.ledger.store import StoreDown

Locate = Callable[[], Awaitable[Endpoint]]
"""Where the server is now. Raises OSError or StoreDown."""


class CommandError(Exception):
    """The server did not do it, and said why. `missing_script`: it does not know the script, and now does."""

    def __init__(self, text: str, *, missing_script: bool = False) -> None:
        super().__init__(text)
        self.missing_script = missing_script

    @property
    def wrong_type(self) -> bool:
        """The key holds something else."""
        return str(self).startswith("WRONGTYPE")


class SlotMoved(StoreDown):
    """A node of a Cluster has given a slot away, or is about to. This one thing was certainly not done; the store is there.

    Nothing is sent on to where the slot is now: of two truths about a seat the older one could come last.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, outcome_known=True)


class Link(Protocol):
    """The way to a server, or to all of a Cluster. Keys of one slot lie on one server; commands for one slot keep their order.

    `up` (with whether a connection is new) and `down` (with the reason) are set by whoever uses it, and must neither raise nor wait.
    """

    up: Callable[[bool], None]
    down: Callable[[str], None]
    reason: str  # why it is down, or was
    timeout: float  # seconds that a command may take, from `call` on

    @property
    def commands(self) -> int:
        """Sent so far."""

    @property
    def is_usable(self) -> bool:
        """Is it worth asking?"""

    def start(self) -> None:
        """Begin to connect, and never stop trying."""

    async def stop(self) -> None:
        """Cut it. What was asked fails."""

    def slot(self, key: bytes) -> int:
        """Which keys may be in one command."""

    def call(self, command: Command) -> asyncio.Future[object]:
        """Send a command. Raises StoreDown at once if there is nobody to send it to.

        What comes back is the reply: bytes, int, None or a list of those. Or it raises StoreDown (SlotMoved is one) or CommandError.
        """
