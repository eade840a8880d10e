"""Programs in Node, with the package `ws`: clients that tell what they read as one JSON line, and a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
PATIENCE = 60.0  # seconds, on a machine that is busy


async def run_script(script: str, **settings: object) -> Any:
    """Run a script of this folder on `settings`; what it printed. `dev.py test` puts Node on the path."""
    process = await asyncio.create_subprocess_exec(
        "node", SCRIPTS / script, json.dumps(settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


@asynccontextmanager
async def node_server(script: str = "ws_server.js") -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """Run a server whose first line of output is its port; yields its URL, and its further output. It ends with its input."""
    process = await asyncio.create_subprocess_exec("node", SCRIPTS / script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        yield f"ws://127.0.0.1:{port}", process.stdout
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE)
