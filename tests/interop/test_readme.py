"""The client snippet of the README, as it stands there, in a real WebSocket client of JavaScript."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.support.backends import echo_backend
from tests.support.gate import running

README = Path(__file__).resolve().parents[2] / "README.md"
HARNESS = """
const began = Date.now();
const say = (what) => console.log(JSON.stringify({ at: Date.now() - began, ...what }));
const handle = (data) => say({ handled: data });
const slowDown = (error) => say({ slow: error.code });
const report = (code, reason) => say({ reported: code, reason });
const Real = globalThis.WebSocket;
globalThis.WebSocket = function (url) { say({ tried: url }); return new Real(url); };
connect(process.argv[1]);
setTimeout(() => process.exit(0), Number(process.argv[2]));
"""


async def play(url: str, milliseconds: int) -> list[dict[str, Any]]:
    """What the snippet did, in order."""
    snippet = re.search(r"```js\n(.*?)```", README.read_text(), re.DOTALL)
    assert snippet is not None
    node = shutil.which("node")
    assert node is not None
    arguments = ["-e", snippet[1] + HARNESS, "--", url, str(milliseconds)]
    environment = {"PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(node, *arguments, stdout=asyncio.subprocess.PIPE, env=environment)
    output, _ = await process.communicate()
    return [json.loads(line) for line in output.splitlines()]


async def test_at_the_cap_it_comes_back_ever_more_seldom() -> None:
    async with (
        echo_backend() as upstream,
        running("rules: [{name: one, per: user, connections: 1}]\n", upstream=upstream) as gate,
        connect(gate.ws("/?token=a")),
    ):
        events = await play(gate.ws("/?token=a"), 5000)
    tried = [event["at"] for event in events if "tried" in event]
    assert 2 <= len(tried) <= 6
    assert all(later - earlier >= 1000 for earlier, later in itertools.pairwise(tried))
    assert next(event["slow"] for event in events if "slow" in event) == "connection_limit_exceeded"


async def test_where_waiting_does_not_help_it_reports_and_stays_away() -> None:
    async with (
        echo_backend() as upstream,
        running("rules: [{name: never, per: user, connections: 0}]\n", upstream=upstream) as gate,
    ):
        events = await play(gate.ws("/?token=a"), 1500)
    assert [event["reported"] for event in events if "reported" in event] == [4008]
    assert len([event for event in events if "tried" in event]) == 1
