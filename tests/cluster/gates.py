"""Gates as processes of their own, several before one game: started, killed, frozen, and asked what they count."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from proxy.server.store_watch import DOWN
from proxy.unhandled import EVENT as UNHANDLED
from tests.support.redis_servers import ROOT, RedisServer, mortal
from tests.support.waiting import until

PATIENCE = 20.0  # seconds


class GateProcess:
    """One `wsgate run`. `port` and `admin` are known once it listens."""

    def __init__(self, folder: Path, yaml: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self.port = 0
        self.admin = ""
        self._yaml = yaml
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "gate.yaml"
        config.write_text(self._yaml)
        command = mortal([sys.executable, "-m", "proxy", "run", "--config", config])
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **self._environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def listens(self) -> None:
        """Wait until the public port is open. Raises TimeoutError."""
        await until(lambda: self.told("listening") or not self.is_running, PATIENCE)
        ready = next(iter(self.told("listening")), None)
        assert ready is not None, self.text()
        self.port = int(ready["address"].rpartition(":")[2])
        self.admin = ready["admin"]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- what it says ---

    def text(self) -> str:
        """All that it has written."""
        return (self.folder / "log").read_text()

    def events(self) -> list[dict[str, Any]]:
        """The whole lines of its log."""
        return [json.loads(line) for line in self.text().splitlines(keepends=True) if line.endswith("\n") and line.startswith("{")]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events() if one["event"] == event]

    def complaints(self) -> list[str]:
        """Lines that there must never be: of errors that nobody took."""
        return [line for line in self.text().splitlines() if "Traceback" in line or f'"event": "{UNHANDLED}"' in line]

    def seconds_until(self, event: dict[str, Any]) -> float:
        """From the first line of its log, that it has no identity.secret, to this one; so without what a process takes to begin."""
        began, came = (datetime.fromisoformat(one["time"]) for one in (self.events()[0], event))
        return (came - began).total_seconds()

    async def is_shared(self) -> bool:
        """The store is there and decides."""
        samples = await self.scrape()
        return (samples["wsgate_store_up"], samples["wsgate_store_degraded"]) == (1, 0)

    async def scrape(self) -> dict[str, float]:
        """All samples of /metrics, by name and labels."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def decided_alone(self) -> float:
        """Questions to which the store had no answer in its 200 ms, so far, and outages."""
        samples = await self.scrape()
        name = "wsgate_store_request_duration_seconds"
        return samples[f"{name}_count"] - samples[f'{name}_bucket{{le="0.2"}}'] + len(self.told(DOWN))

    async def ready(self) -> int:
        """The status of /readyz."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}/readyz") as response:
            return response.status

    # --- what is done to it ---

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        await until(lambda: not self.is_running, PATIENCE)
        return self.process.returncode


@asynccontextmanager
async def gates(
    folder: Path, yaml: str, upstream: str, stores: Sequence[str], environ: dict[str, str] | None = None
) -> AsyncIterator[list[GateProcess]]:
    """A gate for each URL of a store, all on the same rules. `yaml`: without listen, admin, upstreams, store and drain."""
    async with AsyncExitStack() as stack:
        started = []
        for number, store in enumerate(stores):
            head = f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstreams: {{game: {{url: '{upstream}'}}}}\nstore: '{store}'\ndrain: 0s\n"
            gate = GateProcess(folder / f"gate-{number}", head + yaml, environ or {})
            stack.callback(gate.kill)
            gate.spawn()
            started.append(gate)
        for gate in started:
            await gate.listens()
        yield started


async def seats_in(servers: Sequence[RedisServer], prefix: str = "wsgate:") -> dict[str, dict[str, int]]:
    """What the store's copy says: key -> holder -> seats, keys without seats left out. See docs/store.md."""
    found: dict[str, dict[str, int]] = {}
    for server in servers:
        async with server.client(decode_responses=False) as client:
            async for name in client.scan_iter(match=f"{prefix}n:*", count=1000):
                counts = {holder.hex(): int(count) for holder, count in (await client.hgetall(name)).items()}
                if counts:
                    found[name.decode("latin-1")] = counts
    return found


async def total_in(servers: Sequence[RedisServer], rule: str) -> int:
    """Seats of a rule, over all keys and holders."""
    pattern = re.compile(rf"n:\{{{re.escape(rule)}:", re.DOTALL)
    return sum(sum(counts.values()) for name, counts in (await seats_in(servers)).items() if pattern.search(name))


async def gather(*awaitables: Any) -> list[Any]:
    """All at once; the first error is raised when all are done."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
