"""The command `wsgate`, but for two things: it tells of itself what cannot be seen from outside.

On SIGUSR1 it prints, as a JSON line, how many keys its tables remember, and its tasks. On SIGUSR2 the longest turn of its event loop since
the SIGUSR2 before, in milliseconds; it watches itself from the first one on.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any, Final

from proxy import app, cli

PAUSE: Final = 0.001  # seconds between two looks


class Watch:
    """The longest turn of the event loop, in seconds of its thread's CPU time: what others take of the core is not in it.

    Told from a timer. Between two looks a loop that is never idle works for PAUSE, and then for the rest of the turn that it is in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._longest = 0.0
        self._before = 0.0

    def take(self) -> float:
        """Since it was last called; the first call only begins."""
        if self._timer is None:
            self._pause()
        longest, self._longest = self._longest, 0.0
        return longest

    def _look(self) -> None:
        self._longest = max(self._longest, time.thread_time() - self._before - PAUSE)
        self._pause()

    def _pause(self) -> None:
        self._before = time.thread_time()
        self._timer = self._loop.call_later(PAUSE, self._look)


class CountedGate(app.Gate):
    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        watch = Watch(loop)
        loop.add_signal_handler(signal.SIGUSR1, lambda: _tell({"keys": self.remembered(), "tasks": len(asyncio.all_tasks())}))
        loop.add_signal_handler(signal.SIGUSR2, lambda: _tell({"turn_ms": watch.take() * 1000}))


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app.Gate = CountedGate  # type: ignore[misc]  # the command builds what stands under this name
    sys.exit(cli.main())
