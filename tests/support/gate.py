"""A whole gate in the process of the test, on free ports of the loopback, from YAML as a user writes it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from proxy.app import Gate
from proxy.config import Config, parse
from proxy.log import Log
from proxy.policy.upstreams import TcpAddress


@dataclass
class Running:
    """A gate that is open. `log` is what it has written so far."""

    gate: Gate
    config: Config
    log: io.StringIO

    @property
    def port(self) -> int:
        assert isinstance(self.gate.listen, TcpAddress)
        return self.gate.listen.port

    def ws(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def scrape(self) -> dict[str, float]:
        """All samples of /metrics, by name and labels as Prometheus spells them."""
        url = f"http://127.0.0.1:{self.gate.admin.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 200
            text = await response.text()
        samples = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    async def quiet(self, seconds: float = 5.0) -> None:
        """Wait until nothing is open or lingering any more."""
        async with asyncio.timeout(seconds):
            while self.gate.live.held or self.gate.totals.connections or self.gate.lingering_connections:  # noqa: ASYNC110 -- no event tells it
                await asyncio.sleep(0.005)


def upstreams(url: str, **keys: str) -> str:
    """The section of YAML with one upstream, `game`. `keys`: further ones of it, as YAML."""
    further = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"upstreams: {{game: {{url: '{url}'{further}}}}}\n"


@asynccontextmanager
async def running(yaml: str, *, upstream: str | None = None, listen: str = "127.0.0.1:0") -> AsyncIterator[Running]:
    """Run a gate on `yaml` (without listen, admin and upstreams: they are filled in; `upstream`: a URL)."""
    text = f"listen: '{listen}'\nadmin: 127.0.0.1:0\n"
    if upstream is not None:
        text += upstreams(upstream)
    config = parse(text + yaml, "test.yaml", {})
    log = io.StringIO()
    gate = Gate(config, Log(log))
    try:
        await gate.start()
        yield Running(gate, config, log)
    finally:
        await gate.stop()
