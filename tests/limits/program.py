"""The gate as a program of its own: another process, on the core that the tests leave free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST = -20  # priority of a gate that has a core of its own, as far as others let it
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Program:
    """A gate that listens."""

    process: subprocess.Popen[str]
    port: int
    admin: str

    def scrape(self) -> dict[str, float]:
        """All samples of /metrics."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def counts(self) -> dict[str, int]:
        """`keys` in all tables that clients can grow, and `tasks` of the event loop."""
        counted: dict[str, int] = self._ask(signal.SIGUSR1)
        return counted

    def longest_turn(self) -> float:
        """Milliseconds of CPU time that the longest turn of the event loop took since this was last asked; the first question begins."""
        return round(float(self._ask(signal.SIGUSR2)["turn_ms"]), 2)

    def _ask(self, number: signal.Signals) -> dict[str, Any]:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def remembered(self) -> int:
        """Keys in all tables that clients can grow."""
        return self.counts()["keys"]

    def descriptors(self) -> int:
        """Open files, sockets among them."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu(self) -> float:
        """Seconds of CPU time so far, of all threads. proc(5): in ticks, behind the name, which may hold anything."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited(self) -> float:
        """Seconds that the thread of the event loop could have run so far, while others had its core. proc(5): in nanoseconds."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def resident(self) -> int:
        """Bytes of memory in use. proc(5): the second number of statm is resident pages."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def program(
    folder: Path, yaml: str, upstream: str, *, options: str = "", files: int | None = None, core: int | None = None
) -> Iterator[Program]:
    """Run `wsgate run` on `yaml` (without listen, admin and upstreams), and end it with SIGTERM.

    `options`: further keys of the upstream, as YAML. `files`: how many it may have open, its hard limit. `core`: the only one that it
    runs on.
    """
    config, log = folder / "wsgate.yaml", folder / "log"
    config.write_text(f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstreams: {{game: {{url: '{upstream}'{options}}}}}\n{yaml}")
    command = [sys.executable, "-m", "tests.limits.counted_gate", "run", "--config", str(config)]
    if files is not None:
        command = ["/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command]
    with log.open("w") as stderr, subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
                with suppress(PermissionError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, FIRST)
            wait_until(lambda: '"listening"' in log.read_text() or process.poll() is not None, 10)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            ready = next(line for line in lines if line["event"] == "listening")
            yield Program(process, int(ready["address"].rpartition(":")[2]), ready["admin"])
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


def wait_until(is_so: Callable[[], bool], seconds: float) -> float:
    """How long it took, in seconds. Raises TimeoutError."""
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > seconds:
            raise TimeoutError
        time.sleep(0.01)
    return time.monotonic() - started
