"""A client and a backend, raw on both sides, and a gate between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.backends import RawConnection, waiting_backend
from tests.support.gate import Running, running
from tests.support.raw import PATIENCE, RawClient, raw_client, upgrade_head


@dataclass
class Pair:
    """An open tunnel: what `client` sends comes out at `backend`, and the other way round. `answer`: the head of the client's 101."""

    client: RawClient
    backend: RawConnection
    run: Running
    answer: bytes


@asynccontextmanager
async def pair(
    yaml: str = "", *headers: str, offers: tuple[str, ...] = (), behind: bytes = b"", receive_buffer: int | None = None
) -> AsyncIterator[Pair]:
    """Open a tunnel through a gate on `yaml`.

    `headers` go into the backend's 101, `offers` into the client's request; `behind` comes right behind the 101; `receive_buffer`
    is the client's, in bytes. At the end both sides are closed, and the gate is stopped.
    """
    async with (
        waiting_backend() as (url, arrived),
        running(yaml, upstream=url) as run,
        raw_client(run.port, receive_buffer=receive_buffer) as client,
    ):
        await client.send(upgrade_head("/", *offers))
        async with asyncio.timeout(PATIENCE):
            backend = await arrived.get()
        await backend.accept(*headers, behind=behind)
        try:
            yield Pair(client, backend, run, await client.head())
        finally:  # while the gate is there: it has not to wait for them
            client.writer.close()
            backend.writer.close()
