"""The admin port."""

from __future__ import annotations

import aiohttp

from tests.support.gate import Running, running

NOWHERE = "ws://127.0.0.1:1"


async def ask(run: Running, path: str, method: str = "GET") -> tuple[int, str, str]:
    """(status, body, content type)"""
    url = f"http://127.0.0.1:{run.gate.admin.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        return response.status, await response.text(), response.headers["Content-Type"]


async def test_it_is_alive_and_ready_though_the_backend_is_down() -> None:
    async with running("", upstream=NOWHERE) as run:
        assert (await ask(run, "/livez"))[:2] == (200, "ok\n")
        assert (await ask(run, "/readyz"))[:2] == (200, "ready\n")


async def test_it_is_not_ready_once_the_public_port_is_closed() -> None:
    async with running("", upstream=NOWHERE) as run:
        for server in run.gate._servers:
            server.close()
        assert (await ask(run, "/readyz"))[:2] == (503, "not ready\n")
        assert (await ask(run, "/livez"))[0] == 200


async def test_metrics_are_text_that_prometheus_reads() -> None:
    async with running("", upstream=NOWHERE) as run:
        status, text, content_type = await ask(run, "/metrics")
        assert status == 200
        assert content_type.startswith("text/plain; version=")
        assert "# TYPE wsgate_connections gauge" in text


async def test_nothing_else_is_served() -> None:
    async with running("", upstream=NOWHERE) as run:
        assert (await ask(run, "/"))[0] == 404
        assert (await ask(run, "/metrics", "POST"))[0] == 405
