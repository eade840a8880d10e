"""When there are no file descriptors left, the gate does not stop accepting, does not spin, and serves again as soon as clients leave.

The configuration promises more connections than the files allow, so that accepting itself fails. Who comes then is accepted and
closed at once in plain TCP (libuv keeps one descriptor in reserve for that), and waits in the backlog before TLS.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.limits.crowd import crowd
from tests.limits.program import Program, program, wait_until
from tests.support.raw import upgrade_head
from tests.support.tls import LISTENING, client_tls

FILES = 200
LATE = 10  # clients for whom there is no descriptor
LEAVING = 40  # clients
SPIN = 0.5  # seconds of CPU time in a second
SERVED_WITHIN = 5.0  # seconds
PROMISES = """
drain: 100ms
limits: {max_connections: 10000, max_pending: 10000, max_pending_per_ip: 10000, head_timeout: 60s}
"""


@contextmanager
def full(gate: Program) -> Iterator[list[socket.socket]]:
    """As many silent clients as it takes until every file of the gate is open, and a few more."""
    with ExitStack() as leaving:

        def come(count: int) -> list[socket.socket]:
            return [leaving.enter_context(socket.create_connection(("127.0.0.1", gate.port), 5)) for _ in range(count)]

        clients = come(FILES - gate.descriptors())
        wait_until(lambda: gate.descriptors() >= FILES, 5)
        yield clients + come(LATE)


def cpu_of_a_second(gate: Program) -> float:
    before = gate.cpu()
    time.sleep(1)  # what is measured is a length of time
    return gate.cpu() - before


def asks(port: int, tls: ssl.SSLContext | None) -> bool:
    """Whether an ordinary request is answered: by anybody, so 502 will do where there is no backend."""
    try:
        with ExitStack() as ending:
            client = ending.enter_context(socket.create_connection(("127.0.0.1", port), 1))
            if tls is not None:
                client = ending.enter_context(tls.wrap_socket(client, server_hostname="game.test"))
            client.sendall(b"GET / HTTP/1.1\r\nHost: game.test\r\nConnection: close\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


@pytest.mark.parametrize("tls", [None, client_tls()], ids=["tcp", "tls"])
def test_a_gate_without_descriptors_rests_and_serves_again_when_clients_leave(tls: ssl.SSLContext | None, tmp_path: Path) -> None:
    yaml = PROMISES if tls is None else PROMISES + LISTENING
    with program(tmp_path, yaml, "ws://127.0.0.1:9", files=FILES) as gate:
        at_first = gate.descriptors()
        with full(gate) as clients:
            assert cpu_of_a_second(gate) < SPIN
            assert not asks(gate.port, tls)
            for client in clients[:LEAVING]:
                client.close()
            wait_until(lambda: asks(gate.port, tls), SERVED_WITHIN)
            assert cpu_of_a_second(gate) < SPIN
        wait_until(lambda: gate.descriptors() <= at_first, 10)
        assert asks(gate.port, tls)


def test_those_who_come_when_no_descriptor_is_left_are_not_kept_waiting(tmp_path: Path) -> None:
    with program(tmp_path, PROMISES, "ws://127.0.0.1:9", files=FILES) as gate, full(gate):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", gate.port), 5) as late, suppress(ConnectionResetError):
                assert late.recv(1) == b""


def test_upgrades_whose_upstream_gets_no_descriptor_are_answered_and_give_all_back(tmp_path: Path) -> None:
    yaml = PROMISES + "refuse_with: http\nrules: [{name: seats, per: global, connections: 1000}]\n"
    with crowd() as people, program(tmp_path, yaml, people.url, files=FILES) as gate:
        before = gate.descriptors()
        for _ in range(3):
            statuses = people.knock(gate.port, [upgrade_head("/")] * 150)
            assert set(statuses) <= {0, 101, 502, 503}
            assert statuses.count(101) >= (FILES - before - 150) // 2
            assert statuses.count(502) + statuses.count(503) > 0
            people.leave()
            wait_until(lambda: gate.descriptors() <= before, 5)
            assert gate.scrape()['wsgate_seats{rule="seats"}'] == 0
        assert people.knock(gate.port, [upgrade_head("/")] * 20) == [101] * 20
        people.leave()
