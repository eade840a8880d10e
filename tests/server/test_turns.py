"""One line for all who have more to do than a turn of the loop may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.server.turns import Turns
from tests.support.waiting import until


class Clerk:
    """Notes who went on in which turn of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns = Turns(self.loop)
        self.turn = 0
        self.seen: list[tuple[str, int]] = []

    def wait(self, name: str, times: int = 1) -> Callable[[], None]:
        """Let it stand in line so many times. Returns how to cancel the first."""
        return self.turns.wait(lambda: self._go_on(name, times)).cancel

    def _go_on(self, name: str, times: int) -> None:
        self.seen.append((name, self.turn))
        if times > 1:
            self.wait(name, times - 1)

    async def work(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.turn += 1


async def test_in_each_turn_of_the_loop_one_goes_on_and_each_in_its_time() -> None:
    clerk = Clerk()
    for name in "abc":
        clerk.wait(name, 2)
    await clerk.work(10)
    assert [name for name, _ in clerk.seen] == list("abcabc")
    turns = [turn for _, turn in clerk.seen]
    assert len(set(turns)) == len(turns)
    assert turns[-1] - turns[0] == len(turns) - 1  # and none is lost


async def test_nobody_goes_on_at_once_and_one_alone_in_the_next_turn() -> None:
    clerk = Clerk()
    clerk.wait("a", 3)
    assert clerk.seen == []
    await clerk.work(4)
    assert [turn for _, turn in clerk.seen] == [0, 1, 2]


async def test_who_has_nothing_more_to_do_takes_nobodys_turn() -> None:
    clerk = Clerk()
    cancels = [clerk.wait(name) for name in "abcd"]
    for cancel in cancels[:2]:
        cancel()
    await clerk.work(3)
    assert clerk.seen == [("c", 0), ("d", 1)]
    cancels[2]()  # too late: nothing


async def test_after_all_were_cancelled_the_next_one_still_goes_on() -> None:
    clerk = Clerk()
    clerk.wait("a")()
    await clerk.work(2)
    clerk.wait("b")
    await clerk.work(2)
    assert [name for name, _ in clerk.seen] == ["b"]


async def test_one_that_fails_stands_in_nobodys_way() -> None:
    clerk = Clerk()
    told: list[object] = []
    clerk.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail() -> None:
        raise RuntimeError

    clerk.turns.wait(fail)
    clerk.wait("b")
    await until(lambda: clerk.seen)
    assert [type(one) for one in told] == [RuntimeError]


@pytest.mark.parametrize("others", [0, 1, 50])
async def test_sockets_are_served_between_two_turns(others: int) -> None:
    """However many stand in line, a turn of the loop holds one of them, so a message that comes meanwhile waits for one."""
    clerk = Clerk()
    for number in range(others + 1):
        clerk.wait(str(number), 1000)
    served: list[int] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            served.append(len(clerk.seen))
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(5):
            before = len(clerk.seen)
            writer.write(b"?")
            assert await reader.read(100) == b"?"
            assert len(clerk.seen) - before <= 12  # turns of the loop that a round trip takes, both ends in it
        writer.close()
        await writer.wait_closed()
    assert len(served) == 5
