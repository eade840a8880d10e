"""Waiting for a condition, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Return as soon as the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 -- what it waits for is not told by an event
            await asyncio.sleep(0.002)
