"""Where a shared store is and who we are there, as values. Nothing here is ever written to a log with its password."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379


class Topology(Enum):
    """What the endpoints of an address are."""

    SINGLE = "single"  # one server
    SENTINEL = "sentinel"  # sentinels, which know where the master is
    CLUSTER = "cluster"  # some nodes of a Redis Cluster, which know the others


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address. `host` is a name or an IP address, IPv6 without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A shared store. `service`: the master's name at the sentinels. `ca`: a file of authorities to trust instead of the system's."""

    endpoints: tuple[Endpoint, ...]
    topology: Topology = Topology.SINGLE
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    def __str__(self) -> str:
        where = ",".join(map(str, self.endpoints))
        return f"{where}/{self.service}" if self.service else where
