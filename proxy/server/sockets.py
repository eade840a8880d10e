"""The sockets that tunnels run on: small frames go at once, and peers that vanished without a word are noticed.

`TCP_USER_TIMEOUT` bounds how long written bytes may stay unacknowledged, and overrides `keepalive.count` (tcp(7)). Accepted sockets
inherit all of it from the listening one. But connections that came at one moment would be probed at one moment: of 4,000 probes at once a
kernel loses hundreds (its backlog holds 1,000 packets), and of those at once again, and two lost ones end a living peer. So whatever
becomes a tunnel has an idle time of its own, up to a half shorter than the one that was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import stat
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keepalive:
    """`idle`, `interval`: whole seconds; `count`: probes; `user_timeout`: seconds."""

    idle: int = 20
    interval: int = 5
    count: int = 3
    user_timeout: float = 30.0

    def apply_to_transport(self, transport: asyncio.BaseTransport) -> None:
        """Set the options on a TCP transport. Through one socket object of our own: uvloop's makes another for each option.

        One that is lost already is left as it is.
        """
        pseudo = transport.get_extra_info("socket")
        if pseudo is None or transport.is_closing():
            return
        # All is said of it, so that it need not ask the kernel; event loops set TCP_NODELAY themselves.
        sock = socket.socket(pseudo.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=pseudo.fileno())
        try:
            self._apply_keepalive(sock, self._scattered_idle())
        finally:
            sock.detach()

    def scatter(self, transport: asyncio.BaseTransport) -> None:
        """Give an accepted connection an idle time of its own. One that is lost already, or not of TCP, is left as it is."""
        pseudo = transport.get_extra_info("socket")
        if pseudo is None or transport.is_closing() or pseudo.family == socket.AF_UNIX or not hasattr(socket, "TCP_KEEPIDLE"):
            return
        sock = socket.socket(pseudo.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=pseudo.fileno())
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, self._scattered_idle())
        finally:
            sock.detach()

    def _scattered_idle(self) -> int:
        """Whole seconds, of which `idle` is the most and half of it the least."""
        return self.idle - int(random.random() * (self.idle // 2 + 1))

    def apply(self, sock: socket.socket) -> None:
        """Set the options on a TCP socket."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._apply_keepalive(sock, self.idle)

    def _apply_keepalive(self, sock: socket.socket, idle: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, self.interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, self.count)
        if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.user_timeout * 1000))


def hand_over(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """Give a stream to another protocol, which hears of its loss also where that came first.

    Over TLS the loss is told to the protocol that was there when it was seen, a turn of the loop later. So `connection_lost` may be called
    for both, and twice.
    """
    transport.set_protocol(protocol)
    if transport.is_closing():
        asyncio.get_running_loop().call_soon(protocol.connection_lost, None)


def reset_at_close(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a connection with RST instead of FIN once it is closed, where there is such a thing."""
    sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        sock.detach()


def listen_tcp(host: str, port: int, keepalive: Keepalive, backlog: int) -> list[socket.socket]:
    """Open listening sockets on all addresses of a host, their options set; `::` takes IPv4 too (RFC 3493 §5.3). Raises OSError."""
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, asked in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, asked[0] != "::" or len(found) > 1)
            keepalive.apply(sock)
            # Where a free port was asked for, it is the same one on every address.
            free = opened[0].getsockname()[1] if not port and len(opened) > 1 else port
            sock.bind((asked[0], free, *asked[2:]))
            sock.listen(backlog)
            sock.setblocking(False)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def listen_unix(path: str, backlog: int) -> socket.socket:
    """Open a listening Unix socket; one that somebody has left behind is replaced, one that somebody listens on is his. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            _refuse_live_socket(path)
            os.remove(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_live_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
