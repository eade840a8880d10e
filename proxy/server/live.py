"""The tunnels that are there: what each holds, what it has carried, and what is told when it ends."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.ledger.store import Grant, Store
from proxy.log import Log
from proxy.metrics import Totals, Traffic
from proxy.policy.identity import Principal
from proxy.server.tunnel import Initiator, Tunnel

MIN_CROWD = 20  # users; fewer on one address are no sign of a proxy
CROWD_SHARE = 0.5  # of all users: more on one address is one


class Held(NamedTuple):
    """What a live connection holds, and since when (seconds of the monotonic clock)."""

    grant: Grant
    principal: Principal
    since: float


@dataclass(slots=True)
class Live:
    """All live tunnels of this instance: the truth about itself. `gone`: what those that are over have carried."""

    totals: Totals
    store: Store
    log: Log
    held: dict[Tunnel, Held] = field(default_factory=dict)
    gone: Traffic = field(default_factory=Traffic)

    def add(self, tunnel: Tunnel, grant: Grant, principal: Principal) -> None:
        self.held[tunnel] = Held(grant, principal, time.monotonic())
        self.totals.connections += 1

    def ended(self, tunnel: Tunnel, code: int, initiator: Initiator) -> None:
        held = self.held[tunnel]
        self.totals.connections -= 1
        self.totals.count_close(code, initiator.value)
        self.store.release(held.grant)
        if tunnel.meters is not None:
            tunnel.meters.penalize(self.store, time.monotonic())
        if not self.log.is_due("connection ended", (held.principal.route, code, initiator.value)):
            return
        self.log.info(
            "connection ended",
            id=tunnel.connection,
            route=held.principal.route,
            code=code,
            initiator=initiator.value,
            seconds=round(time.monotonic() - held.since, 3),
            messages_in=tunnel.client.walker.messages,
            bytes_in=tunnel.client.walker.received_bytes,
            messages_out=tunnel.upstream.walker.messages,
            bytes_out=tunnel.upstream.walker.received_bytes,
            **({"why": tunnel.why} if tunnel.why else {}),
        )

    def over(self, tunnel: Tunnel) -> None:
        del self.held[tunnel]
        if tunnel.meters is not None:
            tunnel.meters.release(self.store, time.monotonic())
        _add_traffic(self.gone, tunnel)
        # A tunnel and its halves stand in a circle, and so do what they hold: transports, walkers, the meter. It is opened here, or all
        # of it would stay until a full pass of the collector, which comes once in many thousands of tunnels.
        for half in (tunnel.client, tunnel.upstream):
            del half.tunnel, half.peer
        del tunnel.vigil

    def traffic(self) -> Traffic:
        """All that was carried until now."""
        gone = self.gone
        traffic = Traffic(gone.messages_in, gone.bytes_in, gone.messages_out, gone.bytes_out)
        for tunnel in self.held:
            _add_traffic(traffic, tunnel)
        return traffic

    def crowded_address(self) -> tuple[str, int, int] | None:
        """(address, its users, all users) where one address has most of the users: probably a proxy that nobody listed."""
        users = {(held.principal.ip, held.principal.user): held.principal.address for held in self.held.values()}
        if len(users) < MIN_CROWD:
            return None
        ((ip, count),) = Counter(ip for ip, _ in users).most_common(1)
        if count < MIN_CROWD or count <= len(users) * CROWD_SHARE:
            return None
        address = next(address for (one, _), address in users.items() if one == ip)
        return str(address or "unix socket"), count, len(users)


def _add_traffic(traffic: Traffic, tunnel: Tunnel) -> None:
    traffic.messages_in += tunnel.client.walker.messages
    traffic.bytes_in += tunnel.client.walker.received_bytes
    traffic.messages_out += tunnel.upstream.walker.messages
    traffic.bytes_out += tunnel.upstream.walker.received_bytes
