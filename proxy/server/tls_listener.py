"""Accepts connections that begin with a TLS handshake. Handshakes are pending like heads, and bounded like them.

asyncio's own server tells nobody of a connection before its handshake is done, so nobody could count it. Who finds no room is left
without a word: an answer would cost us the handshake. When there are no file descriptors left, accepting rests for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from typing import Final

from proxy.server.capacity import Place
from proxy.server.door import Door, Entrance
from proxy.server.tls import SHUTDOWN_TIMEOUT, keep_the_end

BATCH: Final = 64  # connections accepted at once, before others have their turn
REST: Final = 0.1  # seconds
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class TlsListener:
    """Serves one listening socket, from now on until it is closed."""

    def __init__(self, sock: socket.socket, entrance: Entrance, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._entrance = entrance
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._begin()

    def is_serving(self) -> bool:
        return self._sock.fileno() >= 0

    def close(self) -> None:
        """Accept no more, and end the handshakes that are under way."""
        if self._rest is not None:
            self._rest.cancel()
        if self.is_serving():
            self._loop.remove_reader(self._sock)
            self._sock.close()
        for accepted in self._entrance.handshakes.values():
            with contextlib.suppress(OSError):  # it is closed already
                accepted.shutdown(socket.SHUT_RDWR)

    def _begin(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                accepted, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._sock)
                    self._rest = self._loop.call_later(REST, self._begin)
                    return
                continue  # that one was gone before we came, accept(2)
            self._receive(accepted, address[0] if isinstance(address, tuple) else "")

    def _receive(self, accepted: socket.socket, address: str) -> None:
        """`address`: empty for the peer of a Unix socket."""
        entrance = self._entrance
        place = entrance.capacity.enter(entrance.identifier.peer(address).name)
        if place is None:
            entrance.upgrades.no_room("too many handshakes and heads are under way")
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._shake_hands(accepted, place))
        entrance.handshakes[task] = accepted
        task.add_done_callback(lambda done: self._done(done, place))

    async def _shake_hands(self, accepted: socket.socket, place: Place) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError among them: whoever does not speak TLS has nothing to read either
            await self._loop.connect_accepted_socket(
                lambda: _SecureDoor(self._entrance, place),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._entrance.head_timeout,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )

    def _done(self, task: asyncio.Task[None], place: Place) -> None:
        del self._entrance.handshakes[task]
        place.leave()


class _SecureDoor(Door):
    """A door behind a handshake; `pending` is the place that the handshake had."""

    __slots__ = ("_pending",)

    def __init__(self, entrance: Entrance, pending: Place) -> None:
        super().__init__(entrance)
        self._pending = pending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pending.leave()
        keep_the_end(transport)
        super().connection_made(transport)
