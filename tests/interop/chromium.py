"""A real Chromium, driven over its DevTools protocol: JSON over a WebSocket. Debian's own, which is fetched.

Every tab is a private window of its own. Certificates are not looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PATIENCE = 20.0  # seconds
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # it is small in containers
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)


class PageError(Exception):
    """What a script in a page has thrown."""


@contextmanager
def chromium(program: Path) -> Iterator[str]:
    """Run it on an empty profile; yields the address of its DevTools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile, errors = Path(folder) / "profile", Path(folder) / "errors"
        with errors.open("w") as stderr:  # in a session of its own: its children end with it
            browser = subprocess.Popen([program, *FLAGS, f"--user-data-dir={profile}"], stderr=stderr, start_new_session=True)
        try:
            yield _address(browser, profile / "DevToolsActivePort", errors)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


def _address(browser: subprocess.Popen[bytes], port: Path, errors: Path) -> str:
    """The file has two lines: port and path."""
    deadline = time.monotonic() + PATIENCE
    while not port.exists() or len(lines := port.read_text().splitlines()) < 2:
        assert browser.poll() is None, errors.read_text()
        assert time.monotonic() < deadline, errors.read_text()
        time.sleep(0.01)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


class DevTools:
    """One connection to the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Hand every answer to who waits for it; events are not looked at."""
        async for text in self._socket:
            message = json.loads(text)
            waiting = self._waiting.pop(message.get("id"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        call: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            call["sessionId"] = session
        await self._socket.send(json.dumps(call))
        message = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    @asynccontextmanager
    async def tab(self, url: str | None = None) -> AsyncIterator[Tab]:
        """Open a page, and wait until it is loaded; None: an empty one, which is there at once."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, session)
        try:
            if url is not None:
                await tab.go(url)
            yield tab
        finally:
            await self.call("Target.disposeBrowserContext", browserContextId=context)


class Tab:
    """One page."""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools = tools
        self._session = session

    async def go(self, url: str) -> None:
        found = await self._tools.call("Page.navigate", self._session, url=url)
        assert not found.get("errorText"), found
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    async def do(self, script: str) -> Any:
        """The value of an expression in the page, of a promise what it comes to. Raises PageError."""
        found = await self._tools.call(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression holds in the page. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not await self.do(condition):  # noqa: ASYNC110 -- the browser tells no event of it
                await asyncio.sleep(0.02)

    async def text(self, selector: str) -> str:
        found: str = await self.do(f"document.querySelector({json.dumps(selector)}).textContent")
        return found

    async def fill(self, selector: str, value: str) -> None:
        await self.do(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")

    async def click(self, selector: str) -> None:
        await self.do(f"document.querySelector({json.dumps(selector)}).click()")


@asynccontextmanager
async def devtools(address: str) -> AsyncIterator[DevTools]:
    async with connect(address, max_size=None) as socket:
        tools = DevTools(socket)
        reading = asyncio.create_task(tools.read())
        try:
            yield tools
        finally:
            reading.cancel()
            socket.transport.abort()  # no closing handshake with who is ended next
            await socket.wait_closed()
