"""A Cluster as one link: who has which slots, a master that dies, slots that move."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle, islice
from pathlib import Path

import pytest
from redis.crc import key_slot

from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.links.link import CommandError, SlotMoved
from proxy.ledger.links.slot_map import SLOTS
from proxy.ledger.store import Claim, Denial, Grant, StoreDown, StoreState
from tests.ledger.instances import PATIENCE, Instance, instance, seats_in
from tests.ledger.instances import address_of as address_of_one
from tests.ledger.links.test_redis_link import linked
from tests.ledger.penalty_contract import penalty
from tests.ledger.store_contract import NOW, ask, denied, granted, held, member, seat, token
from tests.support.redis_servers import HOST, Cluster, RedisServer, cluster
from tests.support.waiting import eventually, until


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


def keys_in(slot: int) -> Iterator[str]:
    return (key for key in map(str, count()) if key_slot(key.encode()) == slot)


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


@pytest.mark.long  # six nodes take their time to form a Cluster
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


@pytest.mark.long  # six nodes take their time to form a Cluster
@pytest.mark.parametrize("flushed", ["the seat's", "the token's", "all"])
async def test_scripts_that_a_node_has_forgotten_cost_no_token_of_another_one(two: Two, six: Cluster, flushed: str) -> None:
    one, _ = two
    nodes = await six.masters()
    before = (list(one.heard.states), one.holder)
    for turn in range(5):
        key = f"seat {turn}"
        theirs = await six.owner(f"test:n:{{{key}}}")
        bucket = await elsewhere(six, theirs, turn)
        others = await six.owner(bucket)
        for node in {"the seat's": [theirs], "the token's": [others], "all": nodes}[flushed]:
            await node.ask("SCRIPT", "FLUSH")
        await granted(one.store, seat(key), token(bucket[8:-1], 1e-9))
        assert (await others.ask("GET", bucket)).startswith("0 ")
        assert isinstance(await ask(one.store, seat(f"{key} again"), token(bucket[8:-1], 1e-9)), Denial)
    await the_cluster_has(six, {f"seat {turn}": 1 for turn in range(5)})
    assert (one.heard.states, one.holder) == before
    assert held(one.store) == {f"rule-seat {turn}": 1 for turn in range(5)}


async def elsewhere(six: Cluster, node: RedisServer, turn: int) -> str:
    """A bucket that another node has."""
    for number in count():
        bucket = f"test:u:{{bucket {turn} {number}}}"
        if await six.owner(bucket) is not node:
            return bucket
    raise AssertionError


@pytest.mark.long  # six nodes take their time to form a Cluster
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


@pytest.mark.long  # six nodes take their time to form a Cluster
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


@pytest.mark.long  # six nodes take their time to form a Cluster
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


@pytest.mark.long  # six nodes take their time to form a Cluster
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

    await eventually(moved)
    for _ in range(3):
        await granted(one.store, seat("all", 30))
    await the_cluster_has(six, {"all": 4})
    await one.up()


# --- Clusters of few nodes without replicas


SHORT = 300  # milliseconds of silence that are a failure: so a node finds fast that all is well, or is not


class Pool:
    """Nodes that were used and know nobody any more: one that was just started serves nothing for two seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[RedisServer] = []
        self._idle: list[RedisServer] = []

    async def node(self) -> RedisServer:
        if self._idle:
            return self._idle.pop()
        settings = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": SHORT}
        node = RedisServer(self._folder / str(len(self._made)), settings=settings)
        self._made.append(node)
        await node.start()
        return node

    async def take_back(self, nodes: Iterable[RedisServer]) -> None:
        for node in nodes:
            if node.is_running:
                node.thaw()
                await node.ask("FLUSHALL")
                await node.ask("CLUSTER", "RESET", "HARD")
                await node.ask("CONFIG", "RESETSTAT")
                await node.ask("CONFIG", "SET", "cluster-node-timeout", SHORT)
                self._idle.append(node)

    def close(self) -> None:
        for node in self._made:
            node.kill()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    found = Pool(tmp_path_factory.mktemp("cluster"))
    yield found
    found.close()


@asynccontextmanager
async def masters(pool: Pool, *slots: int) -> AsyncIterator[Cluster]:
    """One that has the first so many slots, one that has the next ones, and so on; 0: a node that knows no other one."""
    nodes: list[RedisServer] = []
    try:
        first = 0
        for epoch, count in enumerate(slots, 1):
            node = await pool.node()
            nodes.append(node)
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            if count:
                await node.ask("CLUSTER", "ADDSLOTSRANGE", first, first + count - 1)
                await meet(node, nodes[0])
            first += count
        if first == SLOTS:
            await settle([node for node, count in zip(nodes, slots, strict=True) if count])
        yield Cluster(nodes)
    finally:
        await pool.take_back(nodes)


async def meet(node: RedisServer, other: RedisServer) -> None:
    if node is not other:
        await node.ask("CLUSTER", "MEET", HOST, other.port, str(other.settings["cluster-port"]))


async def settle(nodes: Sequence[RedisServer]) -> None:
    """Each of them says that all is well; and from now on they may be silent for long, as they are on a busy machine."""
    await eventually(lambda: agree(nodes))
    if len(nodes) > 1:
        for node in nodes:
            await node.ask("CONFIG", "SET", "cluster-node-timeout", 30_000)


async def agree(nodes: Iterable[RedisServer]) -> bool:
    return all(["cluster_state:ok" in await node.ask("CLUSTER", "INFO") for node in nodes])


def addresses(*nodes: RedisServer) -> StoreAddress:
    return StoreAddress(tuple(Endpoint(HOST, node.port) for node in nodes), Topology.CLUSTER)


class Move:
    """A slot on its way from one master to another, as an operator's tool moves it."""

    def __init__(self, key: str, source: RedisServer, target: RedisServer) -> None:
        """`key`: a whole one, or what is in its braces."""
        self._slot = key_slot(key.encode())
        self._source = source
        self._target = target
        self._owner = ""

    async def open(self) -> None:
        """From now on the source serves what it has, and the target what is new."""
        self._owner = await self._target.ask("CLUSTER", "MYID")
        await self._target.ask("CLUSTER", "SETSLOT", self._slot, "IMPORTING", await self._source.ask("CLUSTER", "MYID"))
        await self._source.ask("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._owner)

    async def carry(self) -> None:
        """All keys."""
        while keys := await self._source.ask("CLUSTER", "GETKEYSINSLOT", self._slot, 100):
            await self._source.ask("MIGRATE", HOST, self._target.port, "", 0, 5000, "KEYS", *keys)

    async def close(self) -> None:
        for node in (self._target, self._source):
            await node.ask("CLUSTER", "SETSLOT", self._slot, "NODE", self._owner)


async def by_the_store(one: Instance, *claims: Claim) -> Grant | Denial:
    """As it decides. Raises StoreDown if it does not."""
    store = one.store._shared
    return await store.finish(store.begin(claims, NOW))


async def test_a_slot_on_its_way_is_decided_alone_and_nothing_else_is(pool: Pool) -> None:
    async with masters(pool, SLOTS - 1, 1) as few, instance(addresses(few.nodes[0])) as one:
        await one.up()
        await eventually(lambda: was_looked_at(few.nodes[0], 2))  # at first, and when all was well: the next look needs a reason
        holder, states = one.holder, list(one.heard.states)
        await by_the_store(one, seat("k", 9))
        move = Move("k", *few.nodes)
        await move.open()
        await move.carry()
        with pytest.raises(SlotMoved):  # ASK
            await by_the_store(one, seat("k", 9))
        with pytest.raises(SlotMoved):
            await by_the_store(one, seat("else", 9), seat("k", 9))
        await granted(one.store, seat("k", 9))
        await by_the_store(one, seat("else", 9))
        await move.close()
        with pytest.raises(SlotMoved):  # MOVED
            await by_the_store(one, seat("k", 9))
        await eventually(lambda: is_decided(one, seat("k", 9)))
        await the_cluster_has(few, {"k": 3, "else": 1})
        assert (one.heard.states, one.holder) == (states, holder)


async def was_looked_at(node: RedisServer, times: int) -> bool:
    return bool((await node.info("commandstats")).get("cmdstat_cluster|slots", {}).get("calls") == times)


async def is_decided(one: Instance, *claims: Claim) -> bool:
    with suppress(SlotMoved):
        return isinstance(await by_the_store(one, *claims), Grant)
    return False


async def test_a_master_that_is_added_is_no_doubt(pool: Pool) -> None:
    async with masters(pool, SLOTS, 0) as few, instance(addresses(few.nodes[0])) as one:
        await one.up()
        holder, states = one.holder, list(one.heard.states)
        link, told = one.store._shared._link, list[bool]()
        keeper = link.up

        def up(anew: bool) -> None:
            told.append(anew)
            keeper(anew)

        link.up = up
        await granted(one.store, seat("k", 9))
        old, new = few.nodes
        await meet(new, old)
        await settle(few.nodes)
        move = Move("k", old, new)
        await move.open()
        await move.carry()
        await move.close()
        await granted(one.store, seat("k", 9))
        await eventually(lambda: is_known(one, seat("k", 9)))
        await by_the_store(one, seat("k", 9))
        await the_cluster_has(few, {"k": 4})
        assert (one.heard.states, one.holder) == (states, holder)
        assert told == [False]  # whoever found it unusable meanwhile need not wait
        new.kill()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)


async def test_an_added_master_that_was_lost_before_we_knew_it_is_one(pool: Pool) -> None:
    """What it had been given is gone, and is told again."""
    async with masters(pool, SLOTS, 0) as few, instance(addresses(few.nodes[0]), ttl=60.0) as one:
        await one.up()
        key, other = islice(keys_in(7), 2)
        await granted(one.store, seat(key, 9))
        old, new = few.nodes
        await meet(new, old)
        await settle(few.nodes)
        move = Move(key, old, new)
        await move.open()
        await move.carry()
        await move.close()
        new.kill()
        await granted(one.store, seat(other, 9))  # which is moved
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await new.start()
        await one.up()
        await the_cluster_has(few, {key: 1, other: 1})


async def is_known(one: Instance, *claims: Claim) -> bool:
    """The same while there may be no connection to a master yet."""
    with suppress(StoreDown):
        return isinstance(await by_the_store(one, *claims), Grant)
    return False


async def test_a_gap_in_the_slots_is_an_outage_that_ends(pool: Pool) -> None:
    async with masters(pool, SLOTS) as few, instance(addresses(few.nodes[0])) as one:
        await one.up()
        node, holder = few.nodes[0], one.holder
        await granted(one.store, seat("k", 9))
        await node.ask("CLUSTER", "DELSLOTS", 0)
        await granted(one.store, seat("k", 9))
        await until(lambda: one.store._shared._link.reason == "some slots have no master", PATIENCE)
        assert one.store.state is StoreState.DOWN
        await node.ask("CLUSTER", "ADDSLOTS", 0)
        await one.up()
        await the_cluster_has(few, {"k": 2})
        assert one.holder != holder  # everything was told again: the slot may have come back empty


async def test_a_node_that_knows_no_slots_is_not_believed(pool: Pool) -> None:
    async with masters(pool, SLOTS, 0) as few, instance(addresses(few.nodes[1], few.nodes[0])) as one:
        assert one.reason != "some slots have no master"
        await one.up()
        await by_the_store(one, seat())


async def test_a_node_that_knows_some_slots_is_believed_if_nobody_knows_more(pool: Pool) -> None:
    async with masters(pool, 100) as some, masters(pool, 9000) as most, masters(pool, 99) as few:
        nodes = [*some.nodes, *most.nodes, *few.nodes]
        async with instance(addresses(*nodes)) as one:
            assert one.reason == "some slots have no master"
            assert one.store._shared._link._nodes.keys() == {Endpoint(HOST, nodes[1].port)}
            await nodes[1].ask("CLUSTER", "ADDSLOTSRANGE", 9000, SLOTS - 1)
            await one.up()


async def test_a_master_that_is_cut_off_from_the_others_and_its_map_are_not_believed_for_ever(pool: Pool) -> None:
    async with (
        masters(pool, SLOTS - 1, 1) as isolated,
        masters(pool, SLOTS) as well,
        instance(addresses(isolated.nodes[0], well.nodes[0])) as one,
    ):
        await one.up()
        await isolated.nodes[0].ask("CONFIG", "SET", "cluster-node-timeout", SHORT)
        isolated.nodes[1].freeze()  # nobody asks it for anything: for us it is there
        await until(lambda: one.store._shared._link._nodes.keys() == {Endpoint(HOST, well.nodes[0].port)}, PATIENCE)
        await one.up()
        await by_the_store(one, seat())
        assert "a Cluster: The cluster is down" in one.heard.reasons


async def test_a_map_with_a_master_that_is_gone_is_not_believed_for_ever(pool: Pool) -> None:
    async with masters(pool, SLOTS - 1, 1) as old, masters(pool, SLOTS) as new:
        old.nodes[1].kill()
        async with instance(addresses(old.nodes[0], new.nodes[0])) as one:
            assert one.reason is not None
            await one.up()
            await by_the_store(one, seat())


async def test_a_node_that_is_taken_for_a_single_server_is_not_believed(pool: Pool) -> None:
    async with masters(pool, 8_000, SLOTS - 8_000) as few, instance(address_of_one(few.nodes[0])) as one:
        for i in range(20):
            await granted(one.store, seat(f"k{i}"), member("ann", f"room {i}"))
        for i in range(20):
            await denied(one.store, seat(f"k{i}"))
        assert StoreState.DOWN in one.heard.states or one.store.state is StoreState.DOWN
        assert "Cluster" in one.store._shared.keeper.reason


async def test_whoever_expects_no_cluster_takes_a_redirection_for_an_error(pool: Pool) -> None:
    async with masters(pool, SLOTS - 1, 1) as few, linked(address_of_one(few.nodes[0])) as link:
        await until(lambda: link.is_usable, PATIENCE)
        with pytest.raises(CommandError, match="a Cluster: "):
            await link.call((b"GET", next(keys_in(SLOTS - 1)).encode()))


async def test_what_a_lost_master_had_is_told_to_the_one_who_has_its_slots_now(pool: Pool) -> None:
    """It was given them by hand, without the data. With heartbeats so far apart nobody doubts that he is listed."""
    async with masters(pool, SLOTS - 1, 1) as few, instance(addresses(*few.nodes), ttl=60.0) as one:
        await one.up()
        left, lost = few.nodes
        key = next(keys_in(SLOTS - 1))
        await by_the_store(one, seat(key, 9))
        lost.kill()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await left.ask("CLUSTER", "SETSLOT", SLOTS - 1, "NODE", await left.ask("CLUSTER", "MYID"))
        await one.up()
        await the_cluster_has(few, {key: 1})


async def test_a_redirection_ends_an_outage_too(pool: Pool) -> None:
    async with masters(pool, SLOTS - 1, 1) as few, linked(addresses(*few.nodes), deadline=0.6) as link:
        moved = next(keys_in(SLOTS - 1)).encode()
        link.moved = lambda: None
        await until(lambda: link.is_usable, PATIENCE)
        told: list[object] = []
        link.up = told.append
        link.down = told.append
        few.nodes[0].freeze()
        silent = []
        for _ in range(3):
            silent.append(link.call((b"GET", b"key")))
            await asyncio.sleep(0.01)  # in one turn they were one failure
        await asyncio.sleep(0.3)
        elsewhere = link.call((b"GET", moved))
        await asyncio.wait(silent)
        assert not link.is_usable
        few.nodes[0].thaw()
        with pytest.raises(StoreDown):  # moved, in time; or on a busy machine the connection is new
            await elsewhere
        await until(lambda: link.is_usable, PATIENCE)
        assert told[-1] in (True, False)


@asynccontextmanager
async def both_of(few: Cluster) -> AsyncIterator[Two]:
    """Two instances that doubt nothing because of a heartbeat that is missing."""
    where = addresses(*few.nodes)
    async with instance(where, ttl=20.0) as one, instance(where, ttl=20.0) as other:
        yield one, other


async def has_redirected(node: RedisServer) -> bool:
    return "errorstat_ASK" in await node.info("errorstats")


class Crowd:
    """Comes to one instance, by all of these keys, and goes again. `held`: keys and seats of those who are there. `alone`: how often the
    instance had to decide alone."""

    def __init__(self, one: Instance, keys: Sequence[str]) -> None:
        self._one = one
        self._keys = keys
        self.held: list[tuple[str, Grant]] = []
        self.alone = 0

    async def come_and_go(self) -> None:
        """Raises StoreDown if anything but a slot that moves is in the way."""
        for key in cycle(self._keys):
            claims = (seat("crowd", 999), seat(key, 999))
            try:
                answer = await by_the_store(self._one, *claims)
            except SlotMoved:
                self.alone += 1
                answer = await ask(self._one.store, *claims)
            assert isinstance(answer, Grant)
            self.held.append((key, answer))
            if len(self.held) > 20:
                self._one.store.release(self.held.pop(random.randrange(20))[1])
            await asyncio.sleep(0.001)


@pytest.mark.long  # some seconds
async def test_slots_that_move_under_load_take_nothing_else_with_them(pool: Pool) -> None:
    """One after the other, some to and fro, while two instances fill and empty the keys in them; and the listing of the instances."""
    moving = [f"k{number}" for number in range(6)]
    async with masters(pool, 5_000, 6_000, 5_384) as few, both_of(few) as (one, other):
        crowds = [Crowd(each, moving) for each in (one, other)]
        for each in (one, other):
            await each.up()
        before = [(list(each.heard.states), each.holder) for each in (one, other)]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(crowd.come_and_go()) for crowd in crowds]
            for key in (*moving, *moving[:3]):
                source = await few.owner(key)
                move = Move(key, source, few.nodes[few.nodes.index(source) - 1])
                await move.open()
                await move.carry()
                for crowd in crowds:
                    alone = crowd.alone
                    await until(lambda crowd=crowd, alone=alone: crowd.alone > alone, PATIENCE)  # type: ignore[misc]  # of this turn
                await move.close()
            source = await few.owner("test:h")
            move = Move("test:h", source, few.nodes[few.nodes.index(source) - 1])
            await move.open()
            await move.carry()
            await source.ask("CONFIG", "RESETSTAT")
            await eventually(lambda: has_redirected(source))  # a heartbeat
            await move.close()
            for task in running:
                task.cancel()
        there = Counter(key for crowd in crowds for key, _ in crowd.held)
        await the_cluster_has(few, {**there, "crowd": there.total()})
        assert [(each.heard.states, each.holder) for each in (one, other)] == before
