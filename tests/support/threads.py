"""A backend in a thread and an event loop of its own: it outlives the tests of a module, and does not slow the gate's loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager


@contextmanager
def threaded(backend: Callable[[], AbstractAsyncContextManager[str]]) -> Iterator[str]:
    """Run `backend` in a thread; yields what it yields. Its errors are raised here."""
    url: Future[str] = Future()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with backend() as address:
            url.set_result(address)
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(serve())
            except BaseException as error:
                if url.done():
                    raise
                url.set_exception(error)

    thread = threading.Thread(target=run, name="backend")
    thread.start()
    try:
        yield url.result(10)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
