"""A Cluster as one link: who has which slots, a master that dies, slots that move."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.links.cluster_link import SLOTS, read_slots
from proxy.ledger.store import Denial, Grant, StoreState
from tests.ledger.instances import PATIENCE, Instance, instance, seats_in
from tests.ledger.penalty_contract import penalty
from tests.ledger.store_contract import NOW, ask, denied, granted, held, member, seat, token
from tests.support.redis_servers import HOST, Cluster, cluster
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.long  # a Cluster takes its time to form


@pytest.fixture
async def six() -> AsyncIterator[Cluster]:
    async with cluster() as one:
        yield one


def address_of(six: Cluster) -> StoreAddress:
    return StoreAddress(tuple(Endpoint(HOST, node.port) for node in six.nodes[:2]), Topology.CLUSTER)


@pytest.fixture
async def two(six: Cluster) -> AsyncIterator[tuple[Instance, Instance]]:
    async with instance(address_of(six)) as one, instance(address_of(six)) as other:
        await one.up()
        await other.up()
        yield one, other


Two = tuple[Instance, Instance]


async def the_cluster_has(six: Cluster, wanted: dict[str, int], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while True:
        masters = await six.masters()
        found: Counter[str] = Counter()
        for node in masters:
            found.update(await seats_in(node))
        if found == wanted:
            return
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        await asyncio.sleep(0.05)


async def test_claims_in_several_slots_are_granted_together_or_not_at_all(two: Two, six: Cluster) -> None:
    one, other = two
    full = await granted(one.store, seat("full"))
    claims = [seat("a"), member("ann", "b"), token("c", 0.001), seat("full"), seat("d")]
    for _ in range(3):
        assert (await denied(other.store, *claims)).broken == 3
    await the_cluster_has(six, {"full": 1})
    one.store.release(full)
    await asyncio.sleep(0.3)
    grant = await granted(other.store, *claims)  # the token was given back
    await the_cluster_has(six, {"a": 1, "b": 1, "full": 1, "d": 1})
    other.store.release(grant)
    await the_cluster_has(six, {})
    assert held(other.store) == {}


async def test_parallel_upgrades_never_go_beyond_the_cap_and_fill_it(two: Two, six: Cluster) -> None:
    answers = await asyncio.gather(*(ask(two[i % 2].store, seat("all", 20), member(f"user {i}", "room", 20)) for i in range(60)))
    kinds = Counter(map(type, answers))
    assert kinds[Grant] <= 20
    await the_cluster_has(six, {"all": kinds[Grant], "room": kinds[Grant]})
    await asyncio.sleep(0.3)
    while kinds[Grant] < 20:
        await granted(two[0].store, seat("all", 20), member(f"later {kinds[Grant]}", "room", 20))
        kinds[Grant] += 1
    assert isinstance(await ask(two[1].store, seat("all", 20), member("one more", "room", 20)), Denial)


async def test_a_penalty_keeps_its_key_out_of_every_instance(two: Two) -> None:
    one, other = two
    keys = [str(number) for number in range(8)]  # in several slots
    for key in keys:
        one.store.penalize(b"rule:" + key.encode(), 100.0, NOW)

    async def is_out(key: str) -> bool:
        return isinstance(await ask(other.store, seat("all", 20), penalty(key)), Denial)

    for key in keys:
        await eventually(lambda key=key: is_out(key))  # type: ignore[misc]  # a default binds the loop's variable
        assert (await denied(one.store, seat("all", 20), token("t", 100.0, 100.0), penalty(key))).broken == 2
    await granted(other.store, seat("free"), penalty("nobody"))


async def test_a_master_that_dies_is_replaced_and_nothing_is_leaked(two: Two, six: Cluster) -> None:
    for i in range(30):
        await granted(two[i % 2].store, seat("all", 30), seat(f"k{i}"), member(f"user {i}", "room", 30))
    wanted = {"all": 30, "room": 30} | {f"k{i}": 1 for i in range(30)}
    victim = await six.owner("test:n:{all}")
    victim.kill()
    await until(lambda: all(one.store.state is not StoreState.UP for one in two), PATIENCE)
    alone = await granted(two[0].store, seat("k99"))
    await six.whole()
    back = time.monotonic()
    for one in two:
        await one.up()
    assert time.monotonic() - back < 5.0
    await the_cluster_has(six, wanted | {"k99": 1}, 5.0)
    two[0].store.release(alone)
    await the_cluster_has(six, wanted)


async def test_slots_that_move_by_a_failover_on_purpose_are_found(two: Two, six: Cluster) -> None:
    one, _ = two
    await granted(one.store, seat("all", 30))
    before = await six.owner("test:n:{all}")
    for node in six.nodes:
        told = await node.ask("ROLE")
        if told[0] == "slave" and int(told[2]) == before.port:
            await node.ask("CLUSTER", "FAILOVER")
            break

    async def moved() -> bool:
        return (await six.owner("test:n:{all}")).port != before.port

    async with asyncio.timeout(PATIENCE):
        while not await moved():  # noqa: ASYNC110 -- the Cluster tells nobody
            await asyncio.sleep(0.05)
    for _ in range(3):
        await granted(one.store, seat("all", 30))
    await the_cluster_has(six, {"all": 4})
    await one.up()


async def test_a_node_that_is_taken_for_a_single_server_is_not_believed(six: Cluster) -> None:
    async with instance(StoreAddress((Endpoint(HOST, six.nodes[0].port),))) as one:
        for i in range(20):
            await granted(one.store, seat(f"k{i}"), member("ann", f"room {i}"))
        for i in range(20):
            await denied(one.store, seat(f"k{i}"))
        assert StoreState.DOWN in one.heard.states or one.store.state is StoreState.DOWN
        assert "Cluster" in one.store._shared.keeper.reason


def test_slots_are_read_and_a_node_without_an_address_is_where_we_asked() -> None:
    nodes = read_slots([[0, 5460, [b"10.0.0.1", 7000, b"id"]], [5461, 16383, [b"", 7001, b"id"], [b"10.0.0.3", 7002, b"id"]]], "seed")
    assert len(nodes) == SLOTS
    assert nodes[5460] == Endpoint("10.0.0.1", 7000)
    assert nodes[5461] == Endpoint("seed", 7001)


@pytest.mark.parametrize("reply", [b"OK", [[0, 16384, [b"h", 1, b"id"]]], [[5, 4, [b"h", 1, b"id"]]]])
def test_what_are_no_slots_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match=r"slots|SLOTS"):
        read_slots(reply, "seed")
