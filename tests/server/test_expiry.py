"""A timeout on the wheel behaves like asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from proxy.server.expiry import Expiry
from proxy.server.timing_wheel import TimingWheel

SOON = 0.01  # seconds
LATE = 60.0  # seconds


@pytest_asyncio.fixture
async def wheel() -> AsyncIterator[TimingWheel]:
    one = TimingWheel(asyncio.get_running_loop(), tick=0.005)
    yield one
    assert len(one) == 0
    one.stop()


async def test_what_takes_too_long_ends_with_a_timeout(wheel: TimingWheel) -> None:
    with pytest.raises(TimeoutError), Expiry(wheel, SOON):
        await asyncio.sleep(LATE)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_what_is_in_time_leaves_nothing_behind(wheel: TimingWheel) -> None:
    with Expiry(wheel, LATE):
        await asyncio.sleep(0)


async def test_an_error_passes_as_it_is(wheel: TimingWheel) -> None:
    with pytest.raises(ValueError, match="inside"), Expiry(wheel, LATE):
        raise ValueError("inside")


async def test_a_cancellation_by_others_stays_one(wheel: TimingWheel) -> None:
    async def waits() -> None:
        with Expiry(wheel, LATE):
            await asyncio.sleep(LATE)

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_by_others_beats_a_timeout_at_the_same_time(wheel: TimingWheel) -> None:
    caught = []

    async def waits() -> None:
        try:
            with Expiry(wheel, SOON):
                try:
                    await asyncio.sleep(LATE)
                except asyncio.CancelledError:
                    task.cancel()
                    raise
        except asyncio.CancelledError:
            caught.append(True)
            raise

    task = asyncio.ensure_future(waits())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caught == [True]


async def test_it_needs_a_task(wheel: TimingWheel) -> None:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[str] = loop.create_future()

    def without() -> None:
        try:
            Expiry(wheel, LATE)
        except RuntimeError as error:
            outcome.set_result(str(error))

    loop.call_soon(without)
    assert "needs a task" in await outcome
