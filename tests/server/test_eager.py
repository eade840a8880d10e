"""A first step without a task, and what is different afterwards: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.server.eager import in_task, start


async def test_what_never_waits_needs_no_task() -> None:
    done = []

    async def at_once() -> None:
        done.append(True)

    assert start(asyncio.get_running_loop(), at_once()) is None
    assert done == [True]


async def test_what_waits_goes_on_as_a_task() -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    steps: list[object] = []

    async def waits() -> None:
        steps.extend([await future for future in futures])
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        steps.append(asyncio.current_task())

    task = start(loop, waits())
    assert task is not None
    assert steps == []
    for number, future in enumerate(futures):
        future.set_result(number)
    await task
    assert steps == [0, 1, 2, task]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancellation_comes_where_the_coroutine_waits(turns: int) -> None:
    loop = asyncio.get_running_loop()
    caught = []

    async def waits() -> None:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            caught.append(True)
            await in_task()  # there may be something to do yet
            await asyncio.sleep(0)
            caught.append(True)
            raise

    task = start(loop, waits())
    assert task is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caught == [True, True]


async def test_whoever_needs_a_task_gets_one() -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any] | None] = []

    async def needs_one() -> None:
        await in_task()
        tasks.append(asyncio.current_task())
        await in_task()  # at once: there is one
        await asyncio.sleep(0)
        await in_task()
        tasks.append(asyncio.current_task())

    task = start(loop, needs_one())
    assert task is not None
    assert tasks == []
    await task
    assert tasks == [task, task]


async def test_what_fails_later_fails_its_task() -> None:
    async def fails() -> None:
        await in_task()
        raise ValueError("later")

    task = start(asyncio.get_running_loop(), fails())
    assert task is not None
    with pytest.raises(ValueError, match="later"):
        await task


async def test_what_fails_at_once_is_told_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))

    async def fails() -> None:
        raise ValueError("at once")

    assert start(loop, fails()) is None
    loop.set_exception_handler(before)
    assert [str(context["exception"]) for context in told] == ["at once"]


async def test_it_is_not_to_be_awaited() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def waits() -> None:
        await future

    task = start(loop, waits())
    assert task is not None
    with pytest.raises(TypeError):
        await task.get_coro()  # type: ignore[misc]  # that is the test
    future.set_result(None)
    await task
