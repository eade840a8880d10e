"""The command `wsgate`, but for one thing: on SIGUSR1 it prints how many keys its tables remember."""

from __future__ import annotations

import asyncio
import signal
import sys

from proxy import app, cli


class CountedGate(app.Gate):
    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)

    def _tell(self) -> None:
        sys.stdout.write(f"{self.remembered()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    app.Gate = CountedGate  # type: ignore[misc]  # the command builds what stands under this name
    sys.exit(cli.main())
