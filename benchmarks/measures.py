"""What is measured: one run of the load generator each, and what its line of JSON says.

A measure is a question, a quantity and a load. The answer is worth something only if the load came through whole; `Measure.value`
raises otherwise, so that no refusal or error is ever counted as speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.subjects import BenchmarkError

PATH = "/ws/tournament/{i%50}"
REFUSED_PATH = "/refused/{i}"
USER = "Authorization: Bearer user-{i%1000}"  # many rooms, many users, many addresses: as a gate has them
ADDRESSES = 100
WARM_UP_MESSAGES = 3000
WARM_UP_UPGRADES = 300

Answer = Mapping[str, Any]  # the line of wsload


@dataclass(frozen=True)
class Measure:
    """`key` names it in results, `title` in tables. `read`: the number in the answer, in `unit`."""

    key: str
    title: str
    unit: str
    load: tuple[str, ...]
    read: Callable[[Answer], float]
    connections: int
    status: int = 101
    on_direct: bool = False  # means something without a proxy too

    def value(self, answer: Answer) -> float:
        """The number, after a look at all that may have gone wrong. Raises BenchmarkError."""
        wrong = {name: answer[name] for name in COUNTS_OF_TROUBLE if answer.get(name)}
        wrong |= {f"HTTP {status}": count for status, count in answer["http"].items() if int(status) != self.status}
        if answer["timed_out"]:
            wrong["timed out"] = 1
        if "sent" in answer and answer["echoed"] < answer["sent"]:
            wrong["not echoed"] = answer["sent"] - answer["echoed"]
        if not answer["http"].get(str(self.status)):
            wrong["no answer with status"] = self.status
        if wrong:
            raise BenchmarkError(f"{self.key}: " + ", ".join(f"{name} {count}" for name, count in wrong.items()))
        value = self.read(answer)
        if value <= 0:
            raise BenchmarkError(f"{self.key}: {value} {self.unit} is no measurement")
        return value


COUNTS_OF_TROUBLE = ("bad", "bad_accept", "connect_errors", "timeouts", "lost", "closed_by_server", "gets_refused")


def arguments(measure: Measure, port: int, pid: int) -> list[str]:
    path = REFUSED_PATH if measure.status == 429 else PATH
    return [*measure.load, "-p", str(port), "-i", str(pid), "-u", path, "-H", USER, "-S", str(ADDRESSES)]


def warm_up(measure: Measure) -> Measure:
    """A small load of the same kind: code and memory are then as in a server that has been there for a while."""
    if "handshake" in measure.load:
        again = ("-g",) if "-g" in measure.load else ()
        return replace(measure, load=("-m", "handshake", "-n", str(WARM_UP_UPGRADES), "-P", "20", *again))
    return replace(measure, load=("-m", "throughput", "-c", "20", "-n", str(WARM_UP_MESSAGES)))


def cpu(answer: Answer) -> float:
    """Microseconds of the proxy's CPU per round trip or upgrade: seconds per million."""
    return float(answer["cpu_s_per_1m"])


def memory(answer: Answer) -> float:
    return float(answer["rss_kb_per_conn"])


def latency(quantile: str) -> Callable[[Answer], float]:
    return lambda answer: float(answer["rtt_us"][quantile])


def round_trip(connections: int, size: int, messages: int) -> Measure:
    sizes = f"{size} B" if size < 1024 else f"{size // 1024} KiB"
    load = ("-m", "throughput", "-c", str(connections), "-w", "1", "-s", str(size), "-n", str(messages))
    title = f"round trip, {sizes}, {connections:,} connections"
    return Measure(f"round-trip-{size}-{connections}", title, "µs CPU", load, cpu, connections)


def upgrades(count: int) -> list[Measure]:
    load = ("-m", "handshake", "-n", str(count), "-P", "50")
    return [
        Measure("admitted", "admitted upgrade, to its close", "µs CPU", load, cpu, 50),
        Measure("refused", "refused upgrade (429)", "µs CPU", load, cpu, 50, status=429),
    ]


def reused(count: int) -> list[Measure]:
    """An ordinary GET and then the upgrade on the same connection."""
    load = ("-m", "handshake", "-n", str(count), "-P", "50", "-g")
    return [
        Measure("admitted-reused", "GET, then admitted upgrade on the same connection", "µs CPU", load, cpu, 50),
        Measure("refused-reused", "GET, then refused upgrade (429) on the same connection", "µs CPU", load, cpu, 50, status=429),
    ]


def idle(connections: int, seconds: float) -> Measure:
    load = ("-m", "idle", "-c", str(connections), "-T", str(seconds))
    return Measure("idle", f"idle tunnel, at {connections:,}", "KiB RSS", load, memory, connections)


def paced(connections: int, rate: int, seconds: float) -> list[Measure]:
    """Two readings of one load; measures with the same load share one run."""
    load = ("-m", "paced", "-c", str(connections), "-r", str(rate), "-T", str(seconds))
    where = f"{connections:,} connections at {rate}/s"
    return [
        Measure(f"latency-{quantile}", f"latency {quantile}, {where}", "µs", load, latency(quantile), connections, on_direct=True)
        for quantile in ("p50", "p99")
    ]


def full_plan() -> list[Measure]:
    small = [round_trip(connections, 64, 100_000) for connections in (100, 1000, 5000)]
    large = [round_trip(connections, 65536, messages) for connections, messages in ((100, 5000), (1000, 5000), (5000, 10_000))]
    return [*small, *large, *upgrades(10_000), *reused(10_000), idle(5000, 2), *paced(1000, 10, 5)]


def quick_plan() -> list[Measure]:
    return [round_trip(100, 64, 20_000), round_trip(100, 65536, 1000), *upgrades(2000), *reused(2000), idle(1000, 0.5), *paced(200, 20, 1)]
