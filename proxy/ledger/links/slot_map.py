"""Who has which slots of a Redis Cluster, as one of its nodes says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.ledger.links.addresses import Endpoint

SLOTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class SlotMap:
    """`shares`: slots and the master that has them. `covered`: how many slots have one."""

    shares: tuple[tuple[range, Endpoint], ...]
    covered: int

    @property
    def is_whole(self) -> bool:
        return self.covered == SLOTS

    @property
    def masters(self) -> frozenset[Endpoint]:
        return frozenset(master for _, master in self.shares)


def read_slots(reply: object, asked: str) -> SlotMap:
    """The answer to CLUSTER SLOTS. A master that does not know its own address is where we asked.

    Raises ValueError for anything else.
    """
    if not isinstance(reply, list):
        raise ValueError("no answer to CLUSTER SLOTS")  # noqa: TRY004 -- what came over the wire is a value, not a type
    shares: list[tuple[range, Endpoint]] = []
    has_master = bytearray(SLOTS)
    for entry in reply:
        first, last, (host, port, *_) = entry[:3]
        if not 0 <= first <= last < SLOTS:
            raise ValueError("no such slots")
        slots = range(first, last + 1)
        shares.append((slots, Endpoint(host.decode() if host else asked, port)))
        has_master[first : last + 1] = b"\1" * len(slots)
    return SlotMap(tuple(shares), sum(has_master))
