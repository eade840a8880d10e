"""What Prometheus scrapes: which families and labels there are, from the start, and what they never tell."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import Exposition, GateCollector, Histogram, Totals, Traffic
from tests.support.backends import RawConnection, raw_backend
from tests.support.gate import Running, running
from tests.support.raw import raw_client, upgrade_head
from tests.support.waiting import until
from tests.wire.streams import encode

MASK = b"abcd"
NOWHERE = "ws://127.0.0.1:1"
YAML = """
routes:
  - {name: hall, path: "/hall/{room}", upstream: game}
  - {name: rest, path: "/{rest*}", upstream: game}
rules:
  - {name: seats, per: ip, connections: 2}
  - {name: members, per: room, members: 5}
  - {name: up, per: ip, upgrades: 100/s, mode: shadow}
  - {name: slow, per: user, messages: 1/s, burst: 1}
  - {name: payload, per: connection, message_size: 1KiB, close_code: 4321}
"""
RESULTS = (
    "admitted",
    "refused",
    "bad_request",
    "no_route",
    "upstream_rejected",
    "upstream_error",
    "upstream_timeout",
    "abandoned",
    "unavailable",
    "failed",
)


async def echoless(connection: RawConnection) -> None:
    """A backend that reads all and answers a Close."""
    await connection.accept()
    while (frame := await connection.frame())[0] != 0x88:
        pass
    await connection.send(encode(0x88, frame[1], None))


async def test_every_series_that_can_come_to_be_is_there_from_the_start() -> None:
    async with running(YAML, upstream=NOWHERE) as run:
        samples = await run.scrape()
    zeros = {
        "wsgate_connections",
        *(f'wsgate_upgrades_total{{result="{result}",route="{route}"}}' for result in RESULTS for route in ("hall", "rest")),
        'wsgate_upgrades_total{result="no_route",route=""}',
        'wsgate_upgrades_total{result="unavailable",route=""}',
        'wsgate_upgrades_total{result="bad_request",route=""}',
        'wsgate_refusals_total{mode="enforce",rule="seats"}',
        'wsgate_refusals_total{mode="enforce",rule="members"}',
        'wsgate_refusals_total{mode="shadow",rule="up"}',
        'wsgate_messages_total{direction="in"}',
        'wsgate_messages_total{direction="out"}',
        'wsgate_bytes_total{direction="in"}',
        'wsgate_bytes_total{direction="out"}',
        *(
            f'wsgate_breaches_total{{action="{action}",mode="enforce",rule="{rule}"}}'
            for action in ("drop", "close")
            for rule in ("slow", "payload")
        ),
        'wsgate_seats{rule="seats"}',
        'wsgate_seats{rule="members"}',
        'wsgate_seats_over_limit{rule="seats"}',
        'wsgate_seats_over_limit{rule="members"}',
        "wsgate_store_degraded",
        "wsgate_store_may_evict",
        'wsgate_store_conflicts_total{rule="seats"}',
        'wsgate_store_conflicts_total{rule="members"}',
        'wsgate_store_conflicts_total{rule="up"}',
        "wsgate_store_request_duration_seconds_count",
        "wsgate_store_request_duration_seconds_sum",
        "wsgate_upgrade_duration_seconds_count",
        "wsgate_upgrade_duration_seconds_sum",
    }
    found = {name for name, value in samples.items() if not value and "_bucket" not in name}
    assert {normal(name) for name in found} == {normal(name) for name in zeros}
    assert {name for name, value in samples.items() if value} == {'wsgate_build_info{version="0.1.0"}', "wsgate_store_up"}


def normal(name: str) -> tuple[str, ...]:
    """A sample's name and labels, the labels in order."""
    family, _, labels = name.rstrip("}").partition("{")
    return (family, *sorted(labels.split(",")))


async def play(run: Running, target: str, frames: bytes, *headers: str) -> None:
    async with raw_client(run.port) as client:
        await client.send(upgrade_head(target, *headers) if frames else upgrade_head("/a;b"))
        if await client.status() == 101:
            await client.send(frames)
            client.end()
        await client.rest()


async def test_what_happened_is_counted_under_rules_and_routes_and_nothing_that_clients_choose() -> None:
    async with raw_backend(echoless) as url, running(YAML, upstream=url) as run:
        text = encode(0x81, b"hello", MASK)
        await play(run, "/hall/secret-room?token=secret-token", text * 3 + encode(0x88, (4999).to_bytes(2, "big"), MASK))
        await play(run, "/x", encode(0x82, bytes(2000), MASK), "Authorization: Bearer secret-token", "Referer: http://203.0.113.7/")
        await play(run, "/x", encode(0x88, (4321).to_bytes(2, "big"), MASK))
        await play(run, "/x", b"")
        await until(lambda: not run.gate.live.held)
        samples = {normal(name): value for name, value in (await run.scrape()).items()}

        def value(name: str) -> float:
            return samples[normal(name)]

        assert value('wsgate_upgrades_total{route="hall",result="admitted"}') == 1
        assert value('wsgate_upgrades_total{route="rest",result="admitted"}') == 2
        assert value('wsgate_upgrades_total{route="",result="bad_request"}') == 1
        assert value('wsgate_messages_total{direction="in"}') == 4  # the refused one too
        assert value('wsgate_bytes_total{direction="in"}') == 15 + 2000
        assert value('wsgate_breaches_total{rule="slow",action="drop",mode="enforce"}') == 2
        assert value('wsgate_breaches_total{rule="payload",action="close",mode="enforce"}') == 1
        assert value('wsgate_closes_total{code="other",initiator="client"}') == 1  # 4999 is the client's own idea
        assert value('wsgate_closes_total{code="4321",initiator="gate"}') == 1
        assert value('wsgate_closes_total{code="4321",initiator="client"}') == 1
        assert value('wsgate_upstream_up{route="hall"}') == 1
        assert value("wsgate_upgrade_duration_seconds_count") == 3
        assert value("wsgate_connections") == value('wsgate_seats{rule="seats"}') == value('wsgate_seats{rule="members"}') == 0
        everything = run.gate._exposition.text().decode() + run.log.getvalue()
        for private in ("secret", "203.0.113.7", "127.0.0.1"):
            assert private not in everything


LABELS = {
    "wsgate_build": {"version"},
    "wsgate_connections": set(),
    "wsgate_upgrades": {"route", "result"},
    "wsgate_refusals": {"rule", "mode"},
    "wsgate_messages": {"direction"},
    "wsgate_bytes": {"direction"},
    "wsgate_breaches": {"rule", "action", "mode"},
    "wsgate_closes": {"code", "initiator"},
    "wsgate_seats": {"rule"},
    "wsgate_seats_over_limit": {"rule"},
    "wsgate_store_up": set(),
    "wsgate_store_degraded": set(),
    "wsgate_store_may_evict": set(),
    "wsgate_store_conflicts": {"rule"},
    "wsgate_store_request_duration_seconds": {"le"},
    "wsgate_upstream_up": {"route"},
    "wsgate_upgrade_duration_seconds": {"le"},
}


def exposition() -> str:
    totals = Totals(connections=2, upstream_up={"rest": True, "hall": False}, close_codes=frozenset({4008, 3001}))
    totals.upgrades["rest", "admitted"] += 1
    totals.refusals["seats", "enforce"] += 1
    for code in (1000, 1014, 1015, 3001, 3000, 4008, 4999):
        totals.count_close(code, "client")
    totals.upgrade_duration.observe(0.003)
    totals.store.conflicts[("seats",)] += 1
    totals.store.request_duration.observe(0.2)
    collector = GateCollector(
        totals,
        "9",
        breaches=lambda: [("slow", "drop", "enforce", 4)],
        seats=lambda: {"seats": 2},
        over_limit=lambda: {"seats": 1},
        traffic=lambda: Traffic(1, 2, 3, 4),
    )
    return Exposition(collector).text().decode()


def test_the_families_and_their_labels() -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition())}
    found = {name: set().union(*(sample.labels for sample in family.samples)) for name, family in families.items()}
    assert {name.removesuffix("_info"): labels for name, labels in found.items()} == LABELS
    assert all(family.documentation for family in families.values())


@pytest.mark.parametrize(
    "line",
    [
        "wsgate_connections 2.0",
        "wsgate_store_up 1.0",
        "wsgate_store_degraded 0.0",
        'wsgate_seats_over_limit{rule="seats"} 1.0',
        'wsgate_store_conflicts_total{rule="seats"} 1.0',
        'wsgate_store_request_duration_seconds_bucket{le="0.1"} 0.0',
        'wsgate_store_request_duration_seconds_bucket{le="0.2"} 1.0',
        'wsgate_closes_total{code="1000",initiator="client"} 1.0',
        'wsgate_closes_total{code="1014",initiator="client"} 1.0',
        'wsgate_closes_total{code="3001",initiator="client"} 1.0',
        'wsgate_closes_total{code="4008",initiator="client"} 1.0',
        'wsgate_closes_total{code="other",initiator="client"} 3.0',
        'wsgate_messages_total{direction="out"} 3.0',
        'wsgate_bytes_total{direction="in"} 2.0',
        'wsgate_breaches_total{action="drop",mode="enforce",rule="slow"} 4.0',
        'wsgate_seats{rule="seats"} 2.0',
        'wsgate_upstream_up{route="hall"} 0.0',
        'wsgate_upstream_up{route="rest"} 1.0',
        'wsgate_upgrade_duration_seconds_bucket{le="0.0025"} 0.0',
        'wsgate_upgrade_duration_seconds_bucket{le="0.005"} 1.0',
        'wsgate_upgrade_duration_seconds_bucket{le="+Inf"} 1.0',
        "wsgate_upgrade_duration_seconds_sum 0.003",
        'wsgate_build_info{version="9"} 1.0',
    ],
)
def test_a_sample_as_prometheus_reads_it(line: str) -> None:
    assert line in exposition().splitlines()


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(seconds)
    samples = {sample.labels.get("le", sample.name): sample.value for sample in histogram.family("x", "help").samples}
    assert samples == {"1.0": 2.0, "2.0": 3.0, "+Inf": 4.0, "x_count": 4.0, "x_sum": 5.5}
