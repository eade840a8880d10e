"""Addresses of stores, as people read them; without their passwords."""

from __future__ import annotations

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology


@pytest.mark.parametrize(("host", "text"), [("redis.example", "redis.example:6379"), ("10.0.0.1", "10.0.0.1:6379"), ("::1", "[::1]:6379")])
def test_an_endpoint_reads_as_in_a_url(host: str, text: str) -> None:
    assert str(Endpoint(host, 6379)) == text


def test_a_store_names_its_endpoints_and_its_service() -> None:
    both = (Endpoint("a", 1), Endpoint("b", 2))
    assert str(StoreAddress(both)) == "a:1,b:2"
    assert str(StoreAddress(both, Topology.SENTINEL, "gate")) == "a:1,b:2/gate"


def test_no_text_of_a_store_has_its_password() -> None:
    address = StoreAddress((Endpoint("a", 1),), username="ann", password="s3cret")
    assert "s3cret" not in f"{address} {address!r}"
