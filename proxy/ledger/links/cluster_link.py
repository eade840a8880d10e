"""A Redis Cluster as one link: a RedisLink to each master, chosen by the slot of a command's first key.

It is usable while every slot has a master and all masters answer. That is strict: an upgrade asks for keys in several slots, so with
a third of them away most of them could not be decided anyway, and one state for all is what can be healed and reasoned about. When
a master is lost, or says that a slot is elsewhere, the Cluster is asked for its slots again, until all is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.connecting import build_connection, close, one_line
from proxy.ledger.links.redis_link import SAFE, RedisLink
from proxy.ledger.scripts import Command
from proxy.ledger.store import StoreDown, StoreEvents

SLOTS: Final = 16_384
LOOK_TIMEOUT: Final = 0.5  # seconds for one node to say who has which slots
LOOK_PAUSE: Final = 0.25  # seconds between two looks while not all is well


class ClusterLink:
    """A Link to all masters. `timeout`: seconds that a command may take, from `call` on."""

    def __init__(self, address: StoreAddress, timeout: float, events: StoreEvents) -> None:
        self._address = address
        self.timeout = timeout
        self._events = events
        self._nodes: dict[Endpoint, RedisLink] = {}
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

    def _node_up(self, anew: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        self._anew = self._anew or anew
        self._tell_up()

    def _tell_up(self) -> None:
        if self.is_usable and (self._anew or not self._was_up):
            anew, self._anew, self._was_up = self._anew, False, True
            self.up(anew)

    def _node_down(self, endpoint: Endpoint, why: str) -> None:
        self.reason = f"{endpoint}: {why}"
        self._stale.set()
        self._was_up = False
        self.down(self.reason)

    # --- who has which slots

    async def _run(self) -> None:
        known = list(self._address.endpoints)
        while True:
            self._stale.clear()
            owners = await self._look(known)
            if owners is not None:
                known = list(dict.fromkeys([*owners.values(), *known]))[:64]
                await self._adopt(owners)
            if self.is_usable:
                self._tell_up()
                await self._stale.wait()
            await asyncio.sleep(LOOK_PAUSE)

    async def _look(self, known: list[Endpoint]) -> Mapping[int, Endpoint] | None:
        """Masters by slot, from the first node that says so."""
        for endpoint in known:
            connection = build_connection(self._address, endpoint)
            try:
                async with asyncio.timeout(LOOK_TIMEOUT):
                    await connection.connect()  # type: ignore[no-untyped-call]  # of the library
                    await connection.send_command("CLUSTER", "SLOTS")
                    return read_slots(await connection.read_response(), endpoint.host)
            except Exception as error:  # noqa: BLE001 -- over bytes of no Redis the library raises whatever comes up
                why = "no answer" if isinstance(error, TimeoutError) else one_line(error)
                self.reason = f"{endpoint}: {why}"
            finally:
                await close(connection)
        if not self._covered:
            self.down(self.reason)
        return None

    async def _adopt(self, owners: Mapping[int, Endpoint]) -> None:
        masters = set(owners.values())
        for endpoint in self._nodes.keys() - masters:
            node = self._nodes.pop(endpoint)
            node.down = lambda _: None
            await node.stop()
            self._events.memory_policy(str(endpoint), SAFE)  # whatever it does, it has nothing of ours any more
        for endpoint in masters - self._nodes.keys():
            self._nodes[endpoint] = self._open(endpoint)
        self._owners = [self._nodes[owners[slot]] if slot in owners else None for slot in range(SLOTS)]
        self._covered = len(owners) == SLOTS
        if not self._covered:
            self.reason = "some slots have no master"

    def _open(self, endpoint: Endpoint) -> RedisLink:
        async def locate() -> Endpoint:
            return endpoint

        node = RedisLink(self._address, locate, self.timeout, self._events, str(endpoint))
        node.up = self._node_up
        node.down = partial(self._node_down, endpoint)
        node.moved = self._stale.set
        node.start()
        return node


def read_slots(reply: object, asked: str) -> Mapping[int, Endpoint]:
    """The answer to CLUSTER SLOTS: slot -> its master. A master that does not know its own address is where we asked.

    Raises ValueError for anything else.
    """
    owners: dict[int, Endpoint] = {}
    if not isinstance(reply, list):
        raise ValueError("no answer to CLUSTER SLOTS")  # noqa: TRY004 -- what came over the wire is a value, not a type
    for entry in reply:
        first, last, (host, port, *_) = entry[:3]
        if not 0 <= first <= last < SLOTS:
            raise ValueError("no such slots")
        endpoint = Endpoint(host.decode() if host else asked, port)
        for slot in range(first, last + 1):
            owners[slot] = endpoint
    return owners
