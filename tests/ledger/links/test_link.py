"""Both ways to servers are Links."""

from __future__ import annotations

import asyncio

from proxy.ledger.fallback_store import StoreOptions, open_store
from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.links.link import CommandError, SlotMoved
from tests.ledger.instances import PATIENCE, Heard, address_of, instance
from tests.ledger.store_contract import granted, seat
from tests.support.redis_servers import redis_server
from tests.support.waiting import eventually, until


async def test_keys_of_one_tag_lie_in_one_slot_and_one_server_has_but_one() -> None:
    for topology, apart in ((Topology.SINGLE, False), (Topology.SENTINEL, False), (Topology.CLUSTER, True)):
        store = open_store(StoreOptions(StoreAddress((Endpoint("localhost", 1),), topology)), Heard())
        slot = store._shared._link.slot
        assert slot(b"test:n:{a:x}") == slot(b"test:m:{a:x}")
        assert (slot(b"test:n:{a:x}") != slot(b"test:n:{b:x}")) is apart


def test_an_error_says_whether_the_script_was_missing() -> None:
    assert not CommandError("x").missing_script
    assert CommandError("x", missing_script=True).missing_script


async def test_an_instance_has_two_connections_however_many_ask() -> None:
    async with redis_server() as server, instance(address_of(server)) as one, instance(address_of(server)) as other:
        await until(lambda: one.rates.rents.may_own and other.rates.rents.may_own, PATIENCE)  # both listen
        await asyncio.gather(*(granted(store.store, seat("all", 400)) for store in (one, other) for _ in range(200)))

        async def settled() -> bool:
            found: int = (await server.info("clients"))["connected_clients"]
            return found == 2 * 2 + 1  # and the one who asks

        await eventually(settled)


def test_what_a_slot_that_moves_was_asked_for_is_not_done() -> None:
    assert SlotMoved("ASK").outcome_known
