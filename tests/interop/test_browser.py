"""A real Chromium before the gate: the page of the demo, and what a page can read of refusals, drops and closes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.chromium import DevTools, Tab, chromium, devtools
from tests.support.backends import echo_backend
from tests.support.gate import Running, running
from tests.support.provided import provided
from tests.support.tls import LISTENING

REPOSITORY = Path(__file__).parents[2]
ROUTES = """
routes:
  - {name: tournament, path: "/ws/tournament/{room}", upstream: game}
  - {name: rest, path: "/{rest*}", upstream: game}
"""
RULES = """
rules:
  - {name: user-connections, per: user, connections: 3}
  - {name: room-seats, per: room, members: 2, when: {room: small}}
  - {name: user-messages, per: user, messages: 10/s, burst: 20, on_excess: drop}
  - {name: payload, per: connection, message_size: 16KiB}
"""

pytestmark = pytest.mark.timeout(120)  # the first time it is fetched


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium(provided("chromium")) as address:
        yield address


@pytest.fixture
async def tools(browser: str) -> AsyncIterator[DevTools]:
    async with devtools(browser) as found:
        yield found


# --- the demo, all of it through the gate -------------------------------------------------------------------------------------------


@contextmanager
def game() -> Iterator[str]:
    """The server of the demo, as dev.py starts it; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, REPOSITORY / "deploy" / "demo" / "game.py", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url
    finally:
        process.kill()
        process.communicate()


@dataclass
class Demo:
    """A gate before the game, whose page is served through it."""

    gate: Running
    tools: DevTools
    secure: bool
    tabs: AsyncExitStack

    @property
    def socket_url(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://127.0.0.1:{self.gate.port}"

    async def visitor(self) -> Tab:
        """Somebody who has opened the page."""
        page = f"{'https' if self.secure else 'http'}://127.0.0.1:{self.gate.port}/?gate={self.socket_url}"
        return await self.tabs.enter_async_context(self.tools.tab(page))

    async def player(self, name: str, room: str = "lobby") -> Tab:
        """Somebody who has asked to join."""
        tab = await self.visitor()
        await tab.fill("#name", name)
        await tab.fill("#room", room)
        await tab.click("#enter")
        return tab


@asynccontextmanager
async def demo(tools: DevTools, *, secure: bool = False) -> AsyncIterator[Demo]:
    yaml = ROUTES + RULES + (LISTENING if secure else "")
    with game() as url:
        async with running(yaml, upstream=url) as gate, AsyncExitStack() as tabs:
            yield Demo(gate, tools, secure, tabs)


OPEN = "$('state').dataset.state === 'open'"


async def is_logged(tab: Tab, text: str) -> None:
    await tab.until(f"$('log').textContent.includes({json.dumps(text)})")


async def counted(tab: Tab) -> dict[str, int]:
    return {what: int(await tab.text(f"#{what}")) for what in ("sent", "accepted", "dropped")}


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_the_page_comes_through_the_gate_and_plays_through_it(tools: DevTools, secure: bool) -> None:
    async with demo(tools, secure=secure) as play:
        ann, bob = await play.player("ann"), await play.player("bob")
        for tab in (ann, bob):
            await tab.until(OPEN)
            assert await tab.do("isSecureContext")
        await ann.until("players.size === 2")
        await ann.fill("#text", "hello <b>Bob</b>")
        await ann.do("$('say').requestSubmit()")
        await ann.until("$('accepted').textContent === '1'")
        await bob.until("$('chat').textContent.includes('hello <b>Bob</b>')")
        await bob.click("#board button:first-child")
        await ann.until("[...players.values()].some(({name, x, y}) => name === 'bob' && x === 0 && y === 0)")
        assert await counted(ann) == {"sent": 1, "accepted": 1, "dropped": 0}
        assert await ann.text("#log") == ""
        assert (await ann.do("link.extensions")).startswith("permessage-deflate")
        totals = play.gate.gate.totals
        assert totals.upgrades["tournament", "admitted"] == 2
        await bob.click("#quit")
        await ann.until("players.size === 1")
        assert totals.closes["1000", "client"] == 1


async def test_a_flood_is_dropped_told_of_and_survived(tools: DevTools) -> None:
    async with demo(tools) as play:
        ann = await play.player("ann")
        await ann.until(OPEN)
        await ann.click("#flood")
        await is_logged(ann, "message_rate_limit_exceeded")
        await ann.until("unanswered.size === 0")
        counts = await counted(ann)
        assert counts["sent"] == 100
        assert 20 <= counts["accepted"] <= 40
        assert counts["accepted"] + counts["dropped"] == 100
        await ann.do("send({type: 'chat', text: 'after the flood'})")  # compressed, and its context knows nothing of what was dropped
        await ann.until("$('chat').textContent.includes('after the flood')")
        assert await ann.do(OPEN)
        assert "client_no_context_takeover" in await ann.do("link.extensions")


async def test_the_fourth_tab_of_a_user_reads_why_it_may_not_come_in(tools: DevTools) -> None:
    async with demo(tools) as play:
        for _ in range(3):
            await (await play.player("ann")).until(OPEN)
        fourth = await play.player("ann")
        await is_logged(fourth, "connection_limit_exceeded")
        await is_logged(fourth, "closed with 4008")
        await is_logged(fourth, "user-connections")
        stranger = await play.player("bob")
        await stranger.until(OPEN)
        end = await ends(stranger, f"{play.socket_url}/ws/tournament/lobby?token=ann")
        assert (end["code"], end["clean"]) == (4008, True)
        assert "user-connections" in end["reason"]
        assert "retry_after_ms=1000" in end["reason"]
        (error,) = [json.loads(text) for text in end["texts"]]
        assert (error["code"], error["rule"]) == ("connection_limit_exceeded", "user-connections")


async def test_who_finds_a_room_full_reads_4010(tools: DevTools) -> None:
    async with demo(tools) as play:
        for name in ("ann", "bob"):
            await (await play.player(name, "small")).until(OPEN)
        late = await play.player("cid", "small")
        await is_logged(late, "room_full")
        await is_logged(late, "closed with 4010")
        await (await play.player("ann", "small")).until(OPEN)  # a second tab of who is inside


async def test_who_sends_too_much_at_once_reads_4009_and_comes_back(tools: DevTools) -> None:
    async with demo(tools) as play:
        ann = await play.player("ann")
        await ann.until(OPEN)
        await ann.click("#huge")
        await is_logged(ann, "payload_too_large")
        await is_logged(ann, "closed with 4009")
        await ann.until(OPEN)


async def test_tabs_that_are_closed_give_their_seats_back(tools: DevTools) -> None:
    async with demo(tools) as play:
        for _ in range(2):
            for _ in range(3):
                await (await play.player("ann")).until(OPEN)
            await play.tabs.aclose()
            async with asyncio.timeout(5):
                while (await play.gate.scrape())['wsgate_seats{rule="user-connections"}']:  # noqa: ASYNC110 -- no event tells it
                    await asyncio.sleep(0.01)


# --- sockets of a page -----------------------------------------------------------------------------------------------------------------

END = """
new Promise(resolve => {
  const socket = new WebSocket(%s);
  const texts = [];
  socket.onmessage = event => texts.push(event.data);
  socket.onclose = event => resolve({code: event.code, reason: event.reason, clean: event.wasClean, texts});
})
"""
TALK = """
new Promise(resolve => {
  const socket = new WebSocket(%s);
  const texts = [];
  const move = number => JSON.stringify({move: number, from: "the square in the corner", to: "the square in the middle"});
  const noise = () => Array.from(crypto.getRandomValues(new Uint8Array(%d)), byte => byte.toString(16)).join("");
  socket.onopen = () => {
    for (let number = 0; number < 40; number++) {
      socket.send(move(number));
      if (number %% 2) socket.send(noise());
    }
    socket.send("last");
  };
  socket.onmessage = event => {
    texts.push(event.data);
    if (event.data === "last") socket.close(1000);
  };
  socket.onclose = event => resolve({code: event.code, reason: event.reason, texts, extensions: socket.extensions});
})
"""


async def ends(tab: Tab, url: str) -> dict[str, Any]:
    """How a socket of the page ends by itself, and what it read before."""
    found: dict[str, Any] = await tab.do(END % json.dumps(url))
    return found


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_messages_between_dropped_ones_stay_readable(tools: DevTools, secure: bool) -> None:
    """Chromium compresses with context takeover unless it is told not to: every message after a drop would be garbage."""
    rules = "rules: [{name: size, per: connection, message_size: 1KiB, on_excess: drop}]\n"
    yaml = rules + (LISTENING if secure else "")
    async with echo_backend() as url, running(yaml, upstream=url) as gate, tools.tab() as tab:
        address = f"{'wss' if secure else 'ws'}://127.0.0.1:{gate.port}/"
        found = await tab.do(TALK % (json.dumps(address), 4000))
        assert found["code"] == 1000, found
        texts = [text for text in found["texts"] if not text.startswith('{"type":"error"')]
        assert [json.loads(text)["move"] for text in texts[:-1]] == list(range(40))
        assert texts[-1] == "last"
        assert found["extensions"].startswith("permessage-deflate")
        assert "client_no_context_takeover" in found["extensions"]
        assert any("payload_too_large" in text for text in found["texts"])
        samples = await gate.scrape()
        assert samples['wsgate_breaches_total{action="drop",mode="enforce",rule="size"}'] == 20


async def test_a_page_that_floods_reads_the_close_that_ends_it(tools: DevTools) -> None:
    """What it still had on the way is read and thrown away: with a reset it would read 1006."""
    rules = "rules: [{name: rate, per: user, messages: 5/s, on_excess: close}]\n"
    async with echo_backend() as url, running(rules, upstream=url) as gate, tools.tab() as tab:
        for _ in range(5):
            script = (END % json.dumps(gate.ws())).replace(
                "const texts = [];",
                "const texts = []; socket.onopen = () => { for (let i = 0; i < 3000; i++) socket.send('x'.repeat(1000)); };",
            )
            found = await tab.do(script)
            assert found["code"] == 4008  # clean it is only if all was sent
            assert "rule=rate " in found["reason"]


@pytest.mark.parametrize("subprotocols", [["bearer.ann", "chat.v2"], ["bearer.ann"]], ids=["another", "only-the-token"])
async def test_a_refusal_of_a_page_with_subprotocols_is_readable(tools: DevTools, subprotocols: list[str]) -> None:
    """Browsers fail a connection whose 101 chooses none of what they offered."""
    rules = "rules: [{name: nobody, per: user, connections: 0}]\n"
    async with echo_backend() as url, running(rules, upstream=url) as gate, tools.tab() as tab:
        script = (END % json.dumps(gate.ws())).replace(json.dumps(gate.ws()), f"{json.dumps(gate.ws())}, {json.dumps(subprotocols)}")
        found = await tab.do(script)
        assert (found["code"], found["clean"]) == (4008, True)
        assert json.loads(found["texts"][0])["rule"] == "nobody"
