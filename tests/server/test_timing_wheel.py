"""Deadlines on one timer: never early, at most a tick late, gone when cancelled. The loop's clock is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.server.timing_wheel import Deadline, TimingWheel

TICK = 0.05


class Handle:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock(asyncio.AbstractEventLoop):
    """The clock and the timers of a loop, and nothing else of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: object, **_: object) -> Any:
        handle = Handle(when, callback)
        self.handles.append(handle)
        return handle

    def call_soon(self, callback: Callable[..., Any], *args: object, **_: object) -> Any:
        return self.call_at(self.now, callback)

    def armed(self) -> list[Handle]:
        self.handles = [one for one in self.handles if one.callback is not None]
        return self.handles

    def advance(self, seconds: float) -> None:
        """Move on, stopping at each timer that is due, as a loop would."""
        end = self.now + seconds
        while due := sorted((one for one in self.armed() if one.due <= end), key=lambda one: one.due):
            self.now = max(self.now, due[0].due)
            callback = due[0].callback
            due[0].callback = None
            assert callback is not None
            callback()
        self.now = end


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wheel(clock: Clock) -> TimingWheel:
    return TimingWheel(clock, TICK)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.049, 0.05, 0.051, 0.5, 2.0, 30.0, 3600.0])
def test_a_call_is_made_once_not_early_and_at_most_a_tick_late(clock: Clock, wheel: TimingWheel, seconds: float) -> None:
    calls: list[float] = []
    start = clock.now
    wheel.call_later(seconds, lambda: calls.append(clock.now - start))
    clock.advance(seconds + TICK)
    clock.advance(10.0)
    (made,) = calls
    assert seconds - 1e-9 <= made <= seconds + TICK + 1e-9
    assert len(wheel) == 0
    assert not clock.armed()


def test_calls_are_made_in_the_order_of_their_ticks_whatever_the_order_of_arming(clock: Clock, wheel: TimingWheel) -> None:
    calls: list[int] = []
    for seconds in (3, 1, 2, 1):
        wheel.call_later(float(seconds), lambda seconds=seconds: calls.append(seconds))  # type: ignore[misc]
    clock.advance(1.1)
    assert calls == [1, 1]
    clock.advance(5.0)
    assert calls == [1, 1, 2, 3]


def test_one_timer_of_the_loop_serves_all(clock: Clock, wheel: TimingWheel) -> None:
    for number in range(1000):
        wheel.call_later(number / 100, lambda: None)
    assert len(clock.armed()) == 1
    assert len(wheel) == 1000


def test_a_cancelled_call_is_not_made_and_not_kept(clock: Clock, wheel: TimingWheel) -> None:
    calls: list[str] = []
    kept = wheel.call_later(1.0, lambda: calls.append("kept"))
    gone = wheel.call_later(1.0, lambda: calls.append("gone"))
    gone.cancel()
    gone.cancel()
    assert len(wheel) == 1
    clock.advance(2.0)
    kept.cancel()  # too late, and harmless
    assert calls == ["kept"]


def test_a_call_may_cancel_another_of_the_same_tick(clock: Clock, wheel: TimingWheel) -> None:
    calls: list[str] = []
    others: list[Deadline] = []
    wheel.call_later(1.0, lambda: [one.cancel() for one in others] and None)
    others.append(wheel.call_later(1.0, lambda: calls.append("second")))
    clock.advance(2.0)
    assert calls == []


def _again(wheel: TimingWheel, clock: Clock, calls: list[float]) -> None:
    wheel.call_later(0.0, lambda: calls.append(clock.now))


def test_a_call_may_arm_another_even_for_now(clock: Clock, wheel: TimingWheel) -> None:
    calls: list[float] = []
    wheel.call_later(1.0, lambda: _again(wheel, clock, calls))
    clock.advance(1.2)
    assert len(calls) == 1


def test_stop_makes_no_more_calls(clock: Clock, wheel: TimingWheel) -> None:
    wheel.call_later(1.0, lambda: pytest.fail("called"))
    wheel.stop()
    assert len(wheel) == 0
    assert not clock.armed()
    clock.advance(2.0)


async def test_on_the_real_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel = TimingWheel(loop)
    made: asyncio.Future[float] = loop.create_future()
    start = loop.time()
    wheel.call_later(0.12, lambda: made.set_result(loop.time() - start))
    assert await made >= 0.12
    wheel.stop()
