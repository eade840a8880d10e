"""The files for running the gate: what real tools, and the gate itself, say of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from websockets.asyncio.client import connect

from proxy.config import load
from tests.support.backends import echo_backend
from tests.support.gate import running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    names = ["promtool", "prometheus"]
    done = subprocess.run([sys.executable, ROOT / "deploy" / "dev.py", "fetch", *names], capture_output=True, text=True, check=True)
    return dict(zip(names, (Path(line) for line in done.stdout.split()), strict=True))


def test_prometheus_configuration_and_rules_are_right(programs: dict[str, Path]) -> None:
    folder = ROOT / "deploy" / "prometheus"
    done = subprocess.run([programs["promtool"], "check", "config", folder / "prometheus.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 rules found" in done.stdout


def test_what_is_exposed_is_as_prometheus_wants_it(programs: dict[str, Path]) -> None:
    async def scrape() -> str:
        async with running("rules: [{name: m, per: user, messages: 1/s}]\n", upstream="ws://127.0.0.1:9") as gate:
            url = f"http://127.0.0.1:{gate.gate.admin.port}/metrics"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return await response.text()

    done = subprocess.run(
        [programs["promtool"], "check", "metrics"], input=asyncio.run(scrape()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_real_prometheus_scrapes_the_gate(programs: dict[str, Path], tmp_path: Path, unused_tcp_port: int) -> None:
    async with (
        echo_backend() as upstream,
        running("rules: [{name: m, per: user, messages: 1/s, burst: 2}]\n", upstream=upstream) as gate,
    ):
        target = f"127.0.0.1:{gate.gate.admin.port}"
        config = {"scrape_configs": [{"job_name": "wsgate", "scrape_interval": "200ms", "static_configs": [{"targets": [target]}]}]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{unused_tcp_port}"
        prometheus = await asyncio.create_subprocess_exec(
            programs["prometheus"],
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with connect(gate.ws("/?token=a"), compression=None) as socket:
                for _ in range(5):
                    await socket.send("x")
                await _until(address, "wsgate_connections", "1")
                await _until(address, 'wsgate_breaches_total{rule="m",action="drop",mode="enforce"}', "3")
                await _until(address, 'wsgate_messages_total{direction="in"}', "5")
        finally:
            prometheus.terminate()
            await prometheus.wait()


async def _until(address: str, query: str, expected: str) -> None:
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://{address}/api/v1/query", params={"query": query}) as response:
                    found: dict[str, Any] = json.loads(await response.text())
                    if [one["value"][1] for one in found["data"]["result"]] == [expected]:
                        return
            except (aiohttp.ClientError, json.JSONDecodeError, KeyError):
                pass  # it is not up yet
            await asyncio.sleep(0.05)


COMPOSE_ENVIRON = {"WSGATE_SECRET": "x", "REDIS_PASSWORD": "y"}


def test_the_gate_of_compose_is_a_good_configuration_and_shares_its_limits() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert compose["services"]["gate"]["environment"].keys() == COMPOSE_ENVIRON.keys()
    store = load(str(ROOT / "deploy" / "compose" / "gate.yaml"), COMPOSE_ENVIRON).store
    assert store.address is not None
    assert (store.address.password, store.address.endpoints[0].host) == ("y", "redis")


def test_the_front_that_the_gate_of_compose_trusts_comes_from_this_machine_alone() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    (network,) = compose["networks"]["default"]["ipam"]["config"]
    trusted = load(str(ROOT / "deploy" / "compose" / "gate.yaml"), COMPOSE_ENVIRON).identity.trusted_proxies
    assert trusted == (ip_network(network["gateway"]),)
    assert ip_address(network["gateway"]) in ip_network(network["subnet"])
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["gate"]["ports"])


def test_compose_names_files_that_are_there_and_stops_no_sooner_than_the_gate_drains() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"gate", "redis", "prometheus"}
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            assert (ROOT / "deploy" / volume.split(":")[0]).is_file()
    drain = load(str(ROOT / "deploy" / "compose" / "gate.yaml"), COMPOSE_ENVIRON).drain
    assert drain < float(compose["services"]["gate"]["stop_grace_period"].removesuffix("s"))


def test_the_image_has_what_the_gate_imports_and_what_it_copies_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]]
    assert copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists()
        assert any(path.startswith(line[1:]) for line in ignored if line.startswith("!"))
    assert "USER 10001" in lines
