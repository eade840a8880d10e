"""After a minute of everything at once, nothing is left: no seat, no bucket, no task, no socket, no file."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.limits.program import REPOSITORY, Program, program
from tests.limits.soak import SEAT_RULES, WANTED, YAML, Crowd, table
from tests.support.waiting import until

CLIENTS = 2_000
LENGTH = 60.0  # seconds
OPEN_AT_ONCE = 1_000  # tunnels at least, at some time
AT_LEAST = 20  # of each end that a life can have
TROUBLE_EVERY = 4.0  # seconds
DEAD, HANGING = 0.5, 3.0  # seconds; the latter above the handshake_timeout
GONE_WITHIN = 30.0  # seconds: a Close may be unanswered for 10 s, and a linger is 2 s
GROWTH = 1.10  # from the peak of the first half to the peak of the second
SLACK = 4 << 20  # bytes, beside that: pages that a peak of one moment takes


class Backend:
    """A server that dies and hangs. Its port lies below those that the kernel gives to clients: while it is dead, a client that was
    given this very port would connect to itself."""

    def __init__(self, errors: IO[str]) -> None:
        self.errors = errors
        self.port = free_port()
        self.deaths = self.hangs = 0
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.limits.soak_backend", str(self.port)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listening\n"

    async def die(self) -> None:
        self.end()
        self.deaths += 1
        await asyncio.sleep(DEAD)
        await asyncio.to_thread(self._start)

    async def hang(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.hangs += 1
        await asyncio.sleep(HANGING)
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_port() -> int:
    """One that nobody listens on, outside of what `net.ipv4.ip_local_port_range` usually is."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@asynccontextmanager
async def trouble(backend: Backend) -> AsyncIterator[None]:
    """The backend dies and hangs in turn."""

    async def make() -> None:
        while True:
            for harm in (backend.die, backend.hang):
                await asyncio.sleep(TROUBLE_EVERY)
                await harm()

    making = asyncio.create_task(make())
    try:
        yield
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        backend.process.send_signal(signal.SIGCONT)


class Watch:
    """The most that was seen of the gate, in the first half of a time and in the second."""

    def __init__(self, gate: Program) -> None:
        self.gate = gate
        self.tunnels = 0.0
        self.resident = [0, 0]

    async def look(self, half: Callable[[], int]) -> None:
        while True:
            samples = await asyncio.to_thread(self.gate.scrape)
            self.tunnels = max(self.tunnels, samples["wsgate_connections"])
            self.resident[half()] = max(self.resident[half()], self.gate.resident())
            await asyncio.sleep(0.2)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nothing_is_left_of_two_thousand_clients_of_all_kinds(tmp_path: Path) -> None:
    """Clients that close, vanish, flood and lie, before a backend that is killed and hangs, each life followed by another.

    A run counts only if everything happened: how the lives ended is counted, printed, and each way must be there.
    """
    with (tmp_path / "backend.log").open("w") as errors:
        backend = Backend(errors)
        try:
            options = ", connect_timeout: 2s, handshake_timeout: 2s"
            with program(tmp_path, YAML, f"ws://127.0.0.1:{backend.port}", options=options) as gate:
                await soak(gate, backend)
        finally:
            backend.end()


async def soak(gate: Program, backend: Backend) -> None:
    before = gate.descriptors(), gate.counts()
    crowd, watch = Crowd(gate.port, random.Random(5)), Watch(gate)
    started = asyncio.get_running_loop().time()
    over = started + LENGTH
    looking = asyncio.create_task(watch.look(lambda: int(asyncio.get_running_loop().time() > started + LENGTH / 2)))
    async with trouble(backend):
        await asyncio.gather(*(crowd.live(over) for _ in range(CLIENTS)))
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    sys.stdout.write("\n".join((*table(crowd.ends), f"waited in vain: {crowd.unanswered}", *facts(backend, watch), "")))

    missing = [end for end in WANTED if crowd.ends[end] < AT_LEAST]
    assert not missing, crowd.ends
    assert backend.deaths >= 5
    assert backend.hangs >= 5
    assert watch.tunnels >= OPEN_AT_ONCE
    assert crowd.wrong_echoes == 0
    assert len(crowd.unanswered) <= crowd.ends.total() / 200  # a machine that is busy may make somebody wait

    def seats() -> float:
        samples = gate.scrape()
        return samples["wsgate_connections"] + sum(samples[f'wsgate_seats{{rule="{rule}"}}'] for rule in SEAT_RULES)

    await until(lambda: not seats(), GONE_WITHIN)
    await until(lambda: gate.descriptors() == before[0], GONE_WITHIN)
    await until(lambda: gate.counts() == before[1], GONE_WITHIN)
    assert watch.resident[1] <= watch.resident[0] * GROWTH + SLACK


def facts(backend: Backend, watch: Watch) -> tuple[str, str]:
    return (
        f"{backend.deaths} deaths and {backend.hangs} hangs of the backend",
        f"at most {watch.tunnels:.0f} tunnels at once; peaks of memory in MiB: {[size >> 20 for size in watch.resident]}",
    )
