"""Totals as plain ints, made into Prometheus families at scrape time: counting costs an addition, and nobody waits for a scrape.

Labels are rules, routes, directions, actions, modes, codes, results and initiators: all of them bounded by the configuration or the
program, never a user, an address or a room. The registry is our own; nothing is registered globally.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

OWN_CLOSE_CODES: Final = frozenset((4008, 4009, 4010))
STORE_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds
UPGRADE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

Labels = TypeVar("Labels", bound=tuple[str, ...])

Breaches = Iterable[tuple[str, str, str, int]]
"""(rule, action, mode, count)"""


@dataclass(slots=True)
class Traffic:
    """Messages begun and payload bytes, as received: `in` from clients, `out` from upstreams."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0


class Histogram:
    """Counts of observations in seconds, by bucket."""

    def __init__(self, bounds: Sequence[float] = UPGRADE_BUCKETS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        buckets = []
        total = 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else str(bound), float(total)))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self._sum)


@dataclass(slots=True)
class StoreTotals:
    """The store: does it answer, and does this instance decide alone? As it stands here for the memory of this process."""

    up: bool = True
    degraded: bool = False
    may_evict: bool = False  # its server throws keys away when its memory is full
    request_duration: Histogram = field(default_factory=lambda: Histogram(STORE_BUCKETS))
    conflicts: Counter[tuple[str]] = field(default_factory=Counter)  # (rule,)


@dataclass(slots=True)
class Totals:
    """What the gate counts while it runs. Keys are label values; whoever counts knows them to be bounded."""

    connections: int = 0
    upgrades: Counter[tuple[str, str]] = field(default_factory=Counter)  # (route, result)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)  # (rule, mode)
    closes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (code, initiator)
    upstream_up: dict[str, bool] = field(default_factory=dict)  # by route: did the last dial reach it
    upgrade_duration: Histogram = field(default_factory=Histogram)
    store: StoreTotals = field(default_factory=StoreTotals)
    close_codes: frozenset[int] = OWN_CLOSE_CODES  # those of our own that are told apart

    def count_close(self, code: int, initiator: str) -> None:
        """Count one end of a connection. Codes that only others define count as `other`."""
        known = 1000 <= code <= 1014 or code in self.close_codes
        self.closes[str(code) if known else "other", initiator] += 1


class GateCollector(Collector):
    """All families of the gate. The callables give what others keep: breaches, seats and traffic as of now."""

    def __init__(
        self,
        totals: Totals,
        version: str,
        *,
        breaches: Callable[[], Breaches],
        seats: Callable[[], Mapping[str, int]],
        over_limit: Callable[[], Mapping[str, int]],
        traffic: Callable[[], Traffic],
    ) -> None:
        self._totals = totals
        self._version = version
        self._breaches = breaches
        self._seats = seats
        self._over_limit = over_limit
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        totals = self._totals
        traffic = self._traffic()
        yield InfoMetricFamily("wsgate_build", "The version that runs.", {"version": self._version})
        yield GaugeMetricFamily("wsgate_connections", "WebSocket connections open now.", totals.connections)
        yield _counter("wsgate_upgrades", "Upgrades by what became of them.", ("route", "result"), totals.upgrades)
        yield _counter("wsgate_refusals", "Upgrades beyond a rule; of mode shadow, let in all the same.", ("rule", "mode"), totals.refusals)
        yield _counter(
            "wsgate_messages",
            "Messages received, whatever became of them.",
            ("direction",),
            {("in",): traffic.messages_in, ("out",): traffic.messages_out},
        )
        yield _counter(
            "wsgate_bytes",
            "Payload bytes of messages received, as on the wire.",
            ("direction",),
            {("in",): traffic.bytes_in, ("out",): traffic.bytes_out},
        )
        breaches = {(rule, action, mode): count for rule, action, mode, count in self._breaches()}
        yield _counter("wsgate_breaches", "Frames beyond a rule.", ("rule", "action", "mode"), breaches)
        yield _counter("wsgate_closes", "Connections ended, by the first close code.", ("code", "initiator"), totals.closes)
        yield _gauge("wsgate_seats", "Seats held on this instance.", ("rule",), _by_one(self._seats()))
        text = "Seats beyond the limits of their keys, as far as this instance knows (over several take the maximum): shadow, outages."
        yield _gauge("wsgate_seats_over_limit", text, ("rule",), _by_one(self._over_limit()))
        yield from self._store()
        text = "Did the last dial of this route reach its upstream?"
        yield _gauge("wsgate_upstream_up", text, ("route",), _by_one(totals.upstream_up))
        yield totals.upgrade_duration.family("wsgate_upgrade_duration_seconds", "From the head of an admitted upgrade to its 101.")

    def _store(self) -> Iterator[Metric]:
        store = self._totals.store
        yield GaugeMetricFamily("wsgate_store_up", "Does the store answer?", store.up)
        yield GaugeMetricFamily("wsgate_store_degraded", "Does this instance decide alone, for want of the store?", store.degraded)
        text = "Does the store's server throw keys away when its memory is full (maxmemory-policy)?"
        yield GaugeMetricFamily("wsgate_store_may_evict", text, store.may_evict)
        text = "Upgrades that met a key in the store which is not ours."
        yield _counter("wsgate_store_conflicts", text, ("rule",), store.conflicts)
        yield store.request_duration.family("wsgate_store_request_duration_seconds", "From a question to the store to its answer.")


def _by_one(values: Mapping[str, int]) -> Mapping[tuple[str, ...], int]:
    """The same, by a label set of one."""
    return {(label,): value for label, value in values.items()}


def _gauge(name: str, documentation: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _counter(name: str, documentation: str, labels: tuple[str, ...], counts: Mapping[Labels, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


class Exposition:
    """The text that Prometheus scrapes: our own collectors and nothing of the process-wide default registry."""

    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self._registry.register(collector)

    def text(self) -> bytes:
        return generate_latest(self._registry)
