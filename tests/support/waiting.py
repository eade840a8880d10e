"""Waiting for a condition, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

PATIENCE = float(os.environ.get("WSGATE_TEST_PATIENCE", "30"))  # seconds, on a machine that is busy


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Return as soon as the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 -- what it waits for is not told by an event
            await asyncio.sleep(0.002)


async def eventually(holds: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    """The same where somebody else must be asked. An error of the question is the caller's. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
