"""One ordered connection to one server: commands go out in the order of `call`, each is run at most once, each is answered in time.

All commands of a turn of the loop go out in one write. A command is never repeated here; what is not answered by its deadline fails
as StoreDown, and an answer that comes later is thrown away. The connection itself is kept (so whatever is sent next runs after the
late command), unless nothing comes for STALL seconds: packets may be lost on a dead path, and TCP would go on trying for minutes.

`up` is told when a connection is made or the breaker closes, `down` when it is lost or the breaker opens. Errors of the library and
of the server end here: callers see StoreDown or CommandError. The library is imported when the first connection is made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.ledger.links.addresses import StoreAddress
from proxy.ledger.links.breaker import PROBE_INTERVAL, Breaker
from proxy.ledger.links.connecting import CONNECT_TIMEOUT, as_told, build_connection, close, one_line, why_not
from proxy.ledger.links.link import CommandError, Locate, SlotMoved
from proxy.ledger.scripts import SCRIPTS, Command
from proxy.ledger.store import StoreDown, StoreEvents

if TYPE_CHECKING:
    from redis.asyncio import Connection
    from redis.exceptions import ResponseError

STALL: Final = 1.0  # seconds without an answer, and the connection is given up
PAUSES: Final = (0.1, 0.2, 0.5, 1.0)  # seconds before the next attempts to connect; the last one again and again
STOOD_STILL: Final = 0.05  # seconds that a timer may be late
GRACE: Final = 0.02  # seconds to read what has come meanwhile
BATCH: Final = 128  # commands per write
MAX_QUEUED: Final = 10_000  # commands that wait to be written; more are refused at once
LOOK_AGAIN: Final = 30.0  # seconds until a server that throws keys away is asked whether it still does
MEMORY: Final[Command] = (b"INFO", b"memory")
SAFE: Final = "noeviction"


class _Sizes(dict[int, bytes]):
    """What stands before a word of so many bytes."""

    def __missing__(self, size: int) -> bytes:
        return b"$%d" % size


_SIZES: Final = _Sizes((size, b"$%d" % size) for size in range(128))


class _Call:
    __slots__ = ("answer", "command", "heard", "probe", "sent")

    def __init__(self, command: Command, answer: asyncio.Future[object], *, probe: bool = False) -> None:
        self.command = command
        self.answer = answer
        self.probe = probe
        self.sent = False
        self.heard = False


class RedisLink:
    """A Link to one server. `timeout`: seconds that a command may take, from `call` on.

    `name`: of the server, where there are several. `moved` is told when it says that a slot is elsewhere, `isolated` when it says that the
    Cluster is down; they must neither raise nor wait. Who has set no `moved` expects no Cluster: there a redirection is a CommandError.
    """

    def __init__(
        self,
        address: StoreAddress,
        locate: Locate,
        timeout: float,
        events: StoreEvents,
        name: str = "",
    ) -> None:
        self._address = address
        self._name = name
        self._locate = locate
        self.timeout = timeout
        self._events = events
        self._breaker = Breaker()
        self._queue: deque[_Call] = deque()
        self._turn: list[_Call] = []  # calls of this turn of the loop, which share a deadline
        self._in_flight: deque[_Call] = deque()
        self._wanted = asyncio.Event()
        self._lost: asyncio.Future[str] | None = None  # of the connection that is there
        self._task: asyncio.Task[None] | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._policy_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.reason = "not connected yet"
        self.up: Callable[[bool], None] = lambda _: None  # argument: over a new connection
        self.down: Callable[[str], None] = lambda _: None
        self.moved: Callable[[], None] | None = None
        self.isolated: Callable[[], None] = lambda: None
        self._commands = 0

    @property
    def commands(self) -> int:
        return self._commands

    @property
    def is_connected(self) -> bool:
        return self._lost is not None and not self._lost.done()

    @property
    def is_usable(self) -> bool:
        return self.is_connected and not self._breaker.is_open

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        for timer in (self._probe_timer, self._policy_timer):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def slot(self, key: bytes) -> int:  # noqa: ARG002 -- it has them all
        return 0

    def call(self, command: Command) -> asyncio.Future[object]:
        if not self.is_usable or len(self._queue) >= MAX_QUEUED:
            raise StoreDown(self.reason, outcome_known=True)
        return self._enqueue(command).answer

    def _enqueue(self, command: Command, *, probe: bool = False) -> _Call:
        call = _Call(command, self._loop.create_future(), probe=probe)
        if not self._turn:
            self._turn = [call]
            self._loop.call_soon(self._end_turn)
        else:
            self._turn.append(call)
        self._queue.append(call)
        return call

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, []
        self._wanted.set()
        began = self._loop.time()
        self._loop.call_at(began + self.timeout, self._expire, turn, began)

    def _expire(self, turn: list[_Call], began: float) -> None:
        """The deadline of the calls of one turn. If the loop itself stood still, answers may have come that nobody could read yet."""
        if self._loop.time() - began > self.timeout + STOOD_STILL:
            self._loop.call_later(GRACE, self._give_up, turn, began)
        else:
            self._give_up(turn, began)

    def _give_up(self, turn: list[_Call], began: float) -> None:
        late = [call for call in turn if not call.heard and not call.answer.done()]
        for call in late:
            call.answer.set_exception(StoreDown("no answer in time", outcome_known=not call.sent))
            call.answer.exception()  # nobody may be waiting any more
        unheard = [call for call in turn if not call.heard]
        if unheard:
            self._loop.call_at(began + max(STALL, self.timeout), self._check_stall, unheard[-1])
        if late and self._breaker.failed(self._loop.time()):
            self.reason = "it does not answer in time"
            self._schedule_probe()
            self.down(self.reason)

    def _check_stall(self, call: _Call) -> None:
        if not call.heard and call in self._in_flight:
            self._lose("no answer")

    def _lose(self, why: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)

    # --- probes, while the breaker is open over a connection that is there

    def _schedule_probe(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._probe_timer = self._loop.call_later(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        if not self._breaker.is_open:
            return
        if self.is_connected and self._breaker.may_probe(self._loop.time()):
            self._enqueue((b"PING",), probe=True).answer.add_done_callback(_look_away)
        self._schedule_probe()

    # --- the connection

    async def _run(self) -> None:
        attempts = 0
        while True:
            try:
                connection = await self._connect()
            except StoreDown as error:
                self._report_down(str(error))
                await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
                attempts += 1
                continue
            attempts = 0
            try:
                self._report_down(await self._serve(connection))
            finally:
                self._fail_all()
                await close(connection)
            await asyncio.sleep(PAUSES[0])

    def _report_down(self, why: str) -> None:
        self.reason = why
        self.down(why)

    async def _connect(self) -> Connection:
        """A connection that has answered, with the scripts loaded. Raises StoreDown with the reason, in one line."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = build_connection(self._address, await self._locate())
                await connection.connect()  # type: ignore[no-untyped-call]  # of the library
                await self._prepare(connection)
            return connection
        except Exception as error:  # noqa: BLE001 -- over bytes of no Redis the library raises whatever comes up
            why = why_not(error, tls=self._address.tls)
        except BaseException:
            if connection is not None:
                await close(connection)
            raise
        if connection is not None:
            await close(connection)
        raise StoreDown(why, outcome_known=True)

    async def _prepare(self, connection: Connection) -> None:
        """Load the scripts, and look whether the server may throw keys away. Raises StoreDown if it answers what no Redis would."""
        from redis.exceptions import ResponseError

        commands: list[Command] = [(b"SCRIPT", b"LOAD", script.source) for script in SCRIPTS]
        await connection.send_packed_command([pack([*commands, MEMORY])], check_health=False)
        for script in SCRIPTS:
            if await connection.read_response() != script.digest:
                raise StoreDown("it does not answer as Redis does", outcome_known=True)
        try:
            memory = await connection.read_response()
        except ResponseError:
            return  # whoever may not ask is not warned
        self._judge_policy(memory)

    def _judge_policy(self, memory: object) -> None:
        """As the server says of its memory. One that throws keys away is asked again and again until it does no more."""
        for line in memory.splitlines() if isinstance(memory, bytes) else ():
            name, _, policy = line.decode(errors="replace").partition(":")
            if name == "maxmemory_policy":
                self._events.memory_policy(self._name, policy)
                if policy != SAFE:
                    self._look_again()

    def _look_again(self) -> None:
        if self._policy_timer is not None:
            self._policy_timer.cancel()
        self._policy_timer = self._loop.call_later(LOOK_AGAIN, self._ask_policy)

    def _ask_policy(self) -> None:
        if self.is_usable:
            self._enqueue(MEMORY).answer.add_done_callback(self._hear_policy)
        else:
            self._look_again()

    def _hear_policy(self, answer: asyncio.Future[object]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._look_again()
        else:
            self._judge_policy(answer.result())

    async def _serve(self, connection: Connection) -> str:
        """Until the connection is lost. Returns why."""
        self._lost = self._loop.create_future()
        self._breaker.succeeded()
        self._wanted.set()
        self.up(True)
        writing = self._loop.create_task(self._write(connection))
        reading = self._loop.create_task(self._read(connection))
        try:
            return await self._lost
        finally:
            self._lost = None
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    def _fail_all(self) -> None:
        for call in (*self._in_flight, *self._queue):
            if not call.answer.done():
                call.answer.set_exception(StoreDown("the connection is lost", outcome_known=not call.sent))
                call.answer.exception()
        self._in_flight.clear()
        self._queue.clear()

    async def _write(self, connection: Connection) -> None:
        queue = self._queue
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while queue:
                    batch = self._next_batch()
                    self._commands += len(batch)
                    await connection.send_packed_command([pack(call.command for call in batch)], check_health=False)
        except Exception as error:  # noqa: BLE001 -- whatever it is, this connection is of no use any more
            self._lose(one_line(error))

    def _next_batch(self) -> list[_Call]:
        """What is written next. Calls whose deadline passed while they waited are not."""
        batch: list[_Call] = []
        while self._queue and len(batch) < BATCH:
            call = self._queue.popleft()
            if not call.answer.done():
                call.sent = True
                batch.append(call)
        self._in_flight.extend(batch)
        return batch

    async def _read(self, connection: Connection) -> None:
        from redis.exceptions import (
            AskError,
            ClusterCrossSlotError,
            ClusterDownError,
            MasterDownError,
            NoScriptError,
            ReadOnlyError,
            ResponseError,
            TryAgainError,
        )

        read = connection.read_response
        reply: object
        try:
            while True:
                try:
                    reply = as_told(await read(timeout=inf, disconnect_on_error=False))
                except (ReadOnlyError, MasterDownError):  # the latter of one that has lost its master
                    reply = StoreDown("it is a replica", outcome_known=True)
                    self._lose("it is a replica")
                except NoScriptError:
                    reply = CommandError("missing script", missing_script=True)
                    self._reload()
                except (AskError, TryAgainError) as error:  # MOVED is an AskError
                    reply = self._redirected(error)
                except (ClusterDownError, ClusterCrossSlotError) as error:
                    reply = CommandError(f"a Cluster: {one_line(error)}")
                    if isinstance(error, ClusterDownError):
                        self.isolated()
                except ResponseError as error:
                    reply = CommandError(one_line(error))
                if not self._in_flight:
                    self._lose("an answer to nothing")
                    return
                self._settle(self._in_flight.popleft(), reply)
        except Exception as error:  # noqa: BLE001 -- over bytes of no Redis the library raises whatever comes up
            self._lose(one_line(error))

    def _redirected(self, error: ResponseError) -> Exception:
        """While a slot is being moved (ASK, TRYAGAIN) its owner is who it was."""
        from redis.exceptions import MovedError

        if self.moved is None:
            return CommandError(f"a Cluster: {one_line(error)}")
        if isinstance(error, MovedError):
            self.moved()
        return SlotMoved(f"a slot is being moved: {one_line(error)}")

    def _settle(self, call: _Call, reply: object) -> None:
        call.heard = True
        if call.answer.done():
            return  # too late, or nobody waits for it
        if self._breaker.succeeded() and self.is_connected:
            self.up(False)
        if isinstance(reply, Exception):
            call.answer.set_exception(reply)
            call.answer.exception()
        else:
            call.answer.set_result(reply)

    def _reload(self) -> None:
        """The scripts are gone. Whoever asks from now on finds them."""
        if not any(call.command[0] == b"SCRIPT" for call in (*self._queue, *self._in_flight)):
            for script in SCRIPTS:
                self._enqueue((b"SCRIPT", b"LOAD", script.source)).answer.add_done_callback(_look_away)


def pack(commands: Iterable[Command]) -> bytes:
    """Commands as the server reads them (RESP). The library's own packing costs three times as much."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d" % len(command))
        pieces += chain.from_iterable(zip(map(_SIZES.__getitem__, map(len, command)), command, strict=True))
    pieces.append(b"")
    return b"\r\n".join(pieces)


def _look_away(answer: asyncio.Future[object]) -> None:
    """Nobody waits for this one."""
    if not answer.cancelled():
        answer.exception()
