"""Names of upstreams, looked up: once for all who dial at a moment, and anew after KEPT seconds.

A resolver may hang for a minute. The lookups of the event loop share four threads, so four clients of one such name would hold up every
other name for as long; and whoever waits for threads at the end of the process waits for these. Here no name has more than one
lookup under way, each in a thread of its own that nobody waits for. How many names there are is bounded by the configuration.

Who dials again and again is sent to one address after another, as by nginx; those of the other family are for when all these fail.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Final

KEPT: Final = 10.0  # seconds that an answer is used: longer than a burst of clients, shorter than anybody waits for a change of DNS
STALE: Final = 60.0  # seconds more in which it is used while another is awaited, so that a resolver may be away for so long


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One address of a host, as text, and its family."""

    family: int
    text: str


class Names:
    """What the names of upstreams stand for. To be made where an event loop runs."""

    def __init__(self, kept: float = KEPT) -> None:
        self._loop = asyncio.get_running_loop()
        self._kept = kept
        self._found: dict[str, tuple[float, list[HostAddress]]] = {}  # until when, and what
        self._lookups: dict[str, asyncio.Future[list[HostAddress]]] = {}

    async def addresses(self, host: str) -> list[HostAddress]:
        """At least one, in the order in which to try them. An address stands for itself. Raises OSError (socket.gaierror)."""
        literal = _literal(host)
        if literal is not None:
            return [literal]
        now = self._loop.time()
        until, found = self._found.get(host, (-STALE, []))
        if now >= until + STALE:
            return await asyncio.shield(self._lookup(host))
        if now >= until:
            self._lookup(host)
        found = _rotated(found)
        self._found[host] = (until, found)
        return found

    def _lookup(self, host: str) -> asyncio.Future[list[HostAddress]]:
        """The one that is under way, or a new one."""
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = self._loop.create_future()
            lookup.add_done_callback(lambda done: self._end(host, done))
            threading.Thread(target=self._ask, args=(host, lookup), name=f"lookup of {host}", daemon=True).start()
        return lookup

    def _end(self, host: str, lookup: asyncio.Future[list[HostAddress]]) -> None:
        del self._lookups[host]
        if not lookup.cancelled() and lookup.exception() is None:
            self._found[host] = (self._loop.time() + self._kept, lookup.result())

    def _ask(self, host: str, lookup: asyncio.Future[list[HostAddress]]) -> None:
        """In a thread of its own."""
        answer: list[HostAddress] | OSError
        try:
            answer = _resolve(host)
        except OSError as error:
            answer = error
        except UnicodeError:  # a label that is empty or too long
            answer = socket.gaierror(socket.EAI_NONAME, "no such name")
        with suppress(RuntimeError):  # the loop is closed by now
            self._loop.call_soon_threadsafe(_tell, lookup, answer)


def _tell(lookup: asyncio.Future[list[HostAddress]], answer: list[HostAddress] | OSError) -> None:
    if lookup.done():
        return
    if isinstance(answer, OSError):
        lookup.set_exception(answer)
    else:
        lookup.set_result(answer)


@cache  # of a few hosts
def _literal(host: str) -> HostAddress | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return HostAddress(socket.AF_INET if address.version == 4 else socket.AF_INET6, host)


def _resolve(host: str) -> list[HostAddress]:
    """As getaddrinfo sorts them (RFC 6724). A link-local address keeps its zone."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [HostAddress(family, str(socket.getnameinfo(at, socket.NI_NUMERICHOST)[0])) for family, _, _, _, at in found]
    return list(dict.fromkeys(addresses))


def _rotated(addresses: list[HostAddress]) -> list[HostAddress]:
    """The first one goes behind the others of its family."""
    first, *others = addresses
    same = [other for other in others if other.family == first.family]
    return [*same, first, *(other for other in others if other.family != first.family)]
