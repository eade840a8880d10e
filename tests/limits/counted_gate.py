"""The command `wsgate`, but for one thing: on SIGUSR1 it prints, as a JSON line, how many keys its tables remember, and its tasks."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from proxy import app, cli


class CountedGate(app.Gate):
    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)

    def _tell(self) -> None:
        sys.stdout.write(json.dumps({"keys": self.remembered(), "tasks": len(asyncio.all_tasks())}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    app.Gate = CountedGate  # type: ignore[misc]  # the command builds what stands under this name
    sys.exit(cli.main())
