"""A Redis Cluster as one link: a RedisLink to each master, chosen by the slot of a command's first key.

It is usable while every slot has a master and all masters answer. That is strict: an upgrade asks for keys in several slots, so with
a third of them away most of them could not be decided anyway, and one state for all is what can be healed and reasoned about. When
a master is lost, or says that a slot is elsewhere, the Cluster is asked for its slots again, until all is well. A slot that is moved
between masters that are all there is no such loss: only what was asked about it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import CONNECT_TIMEOUT, build_connection, close, one_line
from proxy.ledger.links.redis_link import SAFE, RedisLink
from proxy.ledger.links.slot_map import SLOTS, SlotMap, read_slots
from proxy.ledger.scripts import Command
from proxy.ledger.store import StoreDown, StoreEvents

LOOK_TIMEOUT: Final = 0.5  # seconds for one node to say who has which slots
LOOK_PAUSE: Final = 0.25  # seconds between two looks while not all is well
PATIENCE: Final = CONNECT_TIMEOUT + 2 * LOOK_PAUSE  # seconds in which what a node said must have helped; else another one is asked first
MAX_KNOWN: Final = 64  # nodes that are remembered, to be asked


class ClusterLink:
    """A Link to all masters. `timeout`: seconds that a command may take, from `call` on."""

    def __init__(self, address: StoreAddress, timeout: float, events: StoreEvents) -> None:
        self._address = address
        self.timeout = timeout
        self._events = events
        self._known = list(address.endpoints)  # to be asked for the slots, in this order
        self._is_misled = False  # what the first of them has said does not help ...
        self._knows_better: Endpoint | None = None  # ... but what this one says may
        self._believed_at = 0.0  # when that began, or the last look while all was well (loop's clock)
        self._nodes: dict[Endpoint, RedisLink] = {}
        self._added: set[Endpoint] = set()  # of these, those to which there was no connection yet and that nobody was lost for
        self._owners: list[RedisLink | None] = [None] * SLOTS
        self._covered = False
        self._anew = False  # a connection was made since `up` was told
        self._was_up = False
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.reason = "not connected yet"
        self.up: Callable[[bool], None] = lambda _: None
        self.down: Callable[[str], None] = lambda _: None

    @property
    def commands(self) -> int:
        return sum(node.commands for node in self._nodes.values())

    @property
    def is_usable(self) -> bool:
        return self._covered and all(node.is_usable for node in self._nodes.values())

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for node in self._nodes.values():
            await node.stop()

    def slot(self, key: bytes) -> int:
        from redis.crc import key_slot

        return key_slot(key)

    def call(self, command: Command) -> asyncio.Future[object]:
        key = command[3] if command[0] == b"EVALSHA" else command[1]
        owner = self._owners[self.slot(key)]
        if owner is None or not self.is_usable:
            raise StoreDown(self.reason, outcome_known=True)
        return owner.call(command)

    # --- what the masters say

    def _node_up(self, endpoint: Endpoint, anew: bool) -> None:  # noqa: FBT001 -- a callback
        if endpoint in self._added:
            self._added.discard(endpoint)
        else:
            self._anew = self._anew or anew
        self._tell_up()

    def _tell_up(self) -> None:
        if self.is_usable and (self._anew or not self._was_up):
            anew, self._anew, self._was_up = self._anew, False, True
            self.up(anew)

    def _node_down(self, endpoint: Endpoint, why: str) -> None:
        self._added.discard(endpoint)
        self._stale.set()
        self._tell_down(f"{endpoint}: {why}")

    def _tell_down(self, why: str) -> None:
        self.reason = why
        self._was_up = False
        self.down(why)

    def _moved(self, endpoint: Endpoint) -> None:
        self._knows_better = endpoint
        self._stale.set()

    def _isolated(self) -> None:
        """A master is cut off from the others, and so may be whoever told us of it."""
        self._is_misled = True
        self._stale.set()

    # --- who has which slots

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._believed_at = loop.time()
        while True:
            self._stale.clear()
            looked_at = loop.time()
            slots = await self._look()
            if slots is not None:
                await self._adopt(slots)
            elif not self._covered:
                self._tell_down(self.reason)
            if self.is_usable:
                self._tell_up()
                await self._stale.wait()
                self._believed_at = loop.time()
            elif loop.time() - self._believed_at > PATIENCE:
                self._is_misled = True
            await asyncio.sleep(looked_at + LOOK_PAUSE - loop.time())

    async def _look(self) -> SlotMap | None:
        """From the first node that knows a master for each slot, or else from the one that knows most. Nobody is believed for ever: who was
        of no use is asked last the next time."""
        known = self._in_order()
        best: SlotMap | None = None
        first = 0
        for index, endpoint in enumerate(known):
            slots = await self._ask(endpoint)
            if slots is not None and (best is None or slots.covered > best.covered):
                best, first = slots, index
                if slots.is_whole:
                    break
        if best is not None:
            order = [*known[first:], *(master for _, master in best.shares), *known[:first]]
            self._known = list(dict.fromkeys(order))[:MAX_KNOWN]
        return best

    def _in_order(self) -> list[Endpoint]:
        """Nodes to be asked. Whoever said that a slot is elsewhere knows where."""
        known = self._known
        if self._is_misled:
            self._is_misled = False
            self._believed_at = asyncio.get_running_loop().time()
            known = [*known[1:], known[0]]
        if self._knows_better is not None:
            known = list(dict.fromkeys([self._knows_better, *known]))
            self._knows_better = None
        return known

    async def _ask(self, endpoint: Endpoint) -> SlotMap | None:
        connection = build_connection(self._address, endpoint)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]  # of the library
                await connection.send_command("CLUSTER", "SLOTS")
                return read_slots(await connection.read_response(), endpoint.host)
        except Exception as error:  # noqa: BLE001 -- over bytes of no Redis the library raises whatever comes up
            why = "no answer" if isinstance(error, TimeoutError) else one_line(error)
            self.reason = f"{endpoint}: {why}"
            return None
        finally:
            await close(connection)

    async def _adopt(self, slots: SlotMap) -> None:
        masters = slots.masters
        gone, new = self._nodes.keys() - masters, masters - self._nodes.keys()
        was_well = self.is_usable
        for endpoint in gone:
            await self._close(endpoint)
        if was_well and not gone:
            self._added |= new  # slots are shared out anew, and no master was lost
        elif not was_well and gone:
            self._anew = True  # what a lost master had is with another one, who may have nothing of it
        for endpoint in new:
            self._nodes[endpoint] = self._open(endpoint)
        self._owners = [None] * SLOTS
        for share, master in slots.shares:
            self._owners[share.start : share.stop] = [self._nodes[master]] * len(share)
        self._covered = slots.is_whole
        if not self._covered:
            self._anew = True  # whoever gets what nobody has now begins with nothing
            self._tell_down("some slots have no master")
        elif not self.is_usable:
            self._was_up = False

    async def _close(self, endpoint: Endpoint) -> None:
        node = self._nodes.pop(endpoint)
        self._added.discard(endpoint)
        node.down = lambda _: None
        await node.stop()
        self._events.memory_policy(str(endpoint), SAFE)  # whatever it does, it has nothing of ours any more

    def _open(self, endpoint: Endpoint) -> RedisLink:
        async def locate() -> Endpoint:
            return endpoint

        node = RedisLink(self._address, locate, self.timeout, self._events, str(endpoint))
        node.up = partial(self._node_up, endpoint)
        node.down = partial(self._node_down, endpoint)
        node.moved = partial(self._moved, endpoint)
        node.isolated = self._isolated
        node.start()
        return node
