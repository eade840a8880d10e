"""CONTROL PATH: one straight coroutine per upgrade, from a head to a tunnel or an answer.

Validated head -> who asks -> claims -> `store.admit`, all or none -> dial -> check the 101 -> two halves on two transports. While it
runs the client's protocol is `AwaitingUpgrade`, which keeps reading: a client that leaves cancels the dial. Seats go back on every
way out but the tunnel, which gives them back when it ends; the upgrade token stays spent.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from proxy.ledger.store import Denial, Grant, Store, StoreDown
from proxy.log import Log
from proxy.metrics import Totals
from proxy.policy.admission import AdmissionRules, Excess, RefusalHistory, refusal
from proxy.policy.forwarding import Address, Peer, forwarding_headers
from proxy.policy.identity import Identifier, Principal
from proxy.policy.meter import MeterRules, Meters
from proxy.policy.routes import Compression, Match, PathError, RouteTable, split_target
from proxy.policy.rules import Direction, Mode, RefuseWith, Rule
from proxy.policy.tokens import IdentityError, TokenSource, echoed_subprotocol
from proxy.policy.upstreams import Upstream
from proxy.server import eager
from proxy.server.answers import problem, too_many, unavailable
from proxy.server.capacity import Capacity, Place
from proxy.server.linger import Lingering
from proxy.server.live import Live
from proxy.server.sockets import hand_over
from proxy.server.timing_wheel import TimingWheel
from proxy.server.tunnel import Surroundings, Tunnel
from proxy.server.upstream import SWITCHING_PROTOCOLS, Answer, AnswerRelay, Dialer, UpstreamError
from proxy.wire.extensions import Agreed, Extension, join_offers, select_offers, settle, without_server_context
from proxy.wire.frames import FrameWalker, Opcode, build_close, build_frame
from proxy.wire.handshake import (
    HandshakeError,
    RequestHead,
    UpgradeRequest,
    build_101,
    build_own_101,
    build_upgrade_request,
    looks_like_upgrade,
    validate_101,
    validate_upgrade,
)

MAX_WARNED: Final = 100  # addresses that the log warns of
ID_SIZE: Final = 8  # bytes of randomness in a connection's id
NOTHING_AGREED: Final = Agreed(rsv1=False, lenient=False, header=b"")
GOING_DOWN: Final = "the gate is going down"
NO_SUCH_ROUTE: Final = "no route matches this path"
STORE_DOWN: Final = "limits cannot be looked up at the moment"
NO_ROUTE: Final = ""  # the route label of an upgrade that never came to one


class Result(Enum):
    """What became of an upgrade; the values are metric labels."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    BAD_REQUEST = "bad_request"
    NO_ROUTE = "no_route"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    ABANDONED = "abandoned"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


_RESULT_OF_STATUS: Final = {502: Result.UPSTREAM_ERROR, 503: Result.UNAVAILABLE, 504: Result.UPSTREAM_TIMEOUT}


class CutShort(Enum):
    """Why an upgrade that was under way did not come to its end."""

    BY_LEAVING = 0  # the client is gone
    BY_SPEAKING = 1  # the client spoke before it was answered
    BY_US = 2  # we are going down


@dataclass(slots=True)
class Connection:
    """One upgrade on its way: what it holds, until a tunnel holds it."""

    id: bytes
    route: str = NO_ROUTE
    grant: Grant | None = None
    meters: Meters | None = None
    result: Result = Result.FAILED
    cut_short: CutShort = CutShort.BY_LEAVING

    @property
    def text(self) -> str:
        return self.id.hex()


class AwaitingUpgrade(asyncio.Protocol):
    """The client while we decide and dial. It has nothing to say before our 101 (DESIGN, "The door" 7)."""

    __slots__ = ("_connection", "_task", "_transport")

    def __init__(self, transport: asyncio.Transport, connection: Connection, task: asyncio.Task[None]) -> None:
        self._transport = transport
        self._connection = connection
        self._task = task

    def data_received(self, data: bytes) -> None:
        self._connection.cut_short = CutShort.BY_SPEAKING
        self._task.cancel()

    def eof_received(self) -> bool:
        self._task.cancel()
        return self._transport.can_write_eof()  # not on TLS, which knows no half-open stream

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()


@dataclass(frozen=True, slots=True)
class UpgradePath:
    """Everything an upgrade needs on its way."""

    routes: RouteTable
    upstreams: Mapping[str, Upstream]
    identifier: Identifier
    sources: Sequence[TokenSource]
    admission: AdmissionRules
    meters: MeterRules
    store: Store
    history: RefusalHistory
    refuse_with: RefuseWith
    totals: Totals
    live: Live
    loop: asyncio.AbstractEventLoop
    wheel: TimingWheel
    lingering: Lingering
    capacity: Capacity
    log: Log
    dialer: Dialer
    surroundings: Surroundings  # of tunnels
    buffer: int  # bytes per direction of a tunnel
    scheme: bytes  # of the public port, as the upstream is told: http or https
    tasks: dict[asyncio.Task[None], Connection] = field(default_factory=dict)
    relays: set[AnswerRelay] = field(default_factory=set)
    warned: set[Address] = field(default_factory=set)  # peers that a warning was written about

    def begin(self, transport: asyncio.Transport, head: RequestHead, peer: Peer) -> None:
        """Take over a transport from which a head was read that wants to be an upgrade. What is refused at once needs no task."""
        name = peer.name if not peer.trusted else self.identifier.vouched_name(peer, head.fields)
        if not self.capacity.has_room(name):
            self.turn_away(transport, "too many upgrades are under way")
            return
        connection = Connection(os.urandom(ID_SIZE))
        task = eager.start(self.loop, self._run(transport, head, peer, connection))
        if task is None:
            return
        place = self.capacity.enter(name)
        assert place is not None  # there was one, and nobody else has come meanwhile
        self.tasks[task] = connection
        task.add_done_callback(lambda done: self._done(done, place))
        hand_over(transport, AwaitingUpgrade(transport, connection, task))

    def _done(self, task: asyncio.Task[None], place: Place) -> None:
        place.leave()
        del self.tasks[task]

    def stop(self) -> None:
        """Give up every upgrade that is under way; its client is told."""
        for task, connection in list(self.tasks.items()):
            connection.cut_short = CutShort.BY_US
            task.cancel()

    def turn_away(self, transport: asyncio.Transport, detail: str) -> None:
        """There is no room for one more."""
        self._answer(transport, self.no_room(detail))

    def no_room(self, detail: str) -> bytes:
        """Count and log one that is turned away. Returns what it is told, where it can be told."""
        self.totals.upgrades[NO_ROUTE, Result.UNAVAILABLE.value] += 1
        self.log.access("turned away", group=(detail,), why=detail)
        return unavailable(detail)

    def bad_head(self, error: HandshakeError, received: bytes) -> bytes:
        """Count, as an upgrade if it is meant as one, and log a head that is refused, be it whole or not. Returns the answer."""
        if looks_like_upgrade(received):
            self.totals.upgrades[NO_ROUTE, Result.BAD_REQUEST.value] += 1
        return self.refusal(error)

    def refusal(self, error: HandshakeError | PathError | IdentityError | UpstreamError, route: str = NO_ROUTE) -> bytes:
        """Log a refusal that no rule asked for. Returns the answer."""
        status, detail = error.status, str(error)
        self.log_refusal(status, detail, route)
        if status == 503:
            return unavailable(detail)
        return problem(status, detail, error.headers if isinstance(error, HandshakeError) else ())

    def log_refusal(self, status: int, why: str, route: str = NO_ROUTE) -> None:
        """An answer of ours. `why`: a text of the program, which quotes nothing of the client's."""
        self.log.access("refused", group=(route, status), route=route, status=status, why=why)

    def note_dial(self, route: str, error: UpstreamError | None = None) -> None:
        """An upstream was asked for something, and answered or (`error`) did not. 503 was no dial."""
        if error is None or error.status != 503:
            self.totals.upstream_up[route] = error is None

    async def _run(self, transport: asyncio.Transport, head: RequestHead, peer: Peer, connection: Connection) -> None:
        started = time.monotonic()
        try:
            await self._decide(transport, head, peer, connection)
        except (HandshakeError, PathError, IdentityError) as error:
            connection.result = Result.UPSTREAM_ERROR if error.status == 502 else Result.BAD_REQUEST
            self._answer(transport, self.refusal(error, connection.route))
        except UpstreamError as error:
            connection.result = _RESULT_OF_STATUS[error.status]
            self._answer(transport, self.refusal(error, connection.route))
        except StoreDown:
            connection.result = Result.UNAVAILABLE
            self._answer(transport, self.refusal(UpstreamError(STORE_DOWN, 503), connection.route))
        except asyncio.CancelledError:
            self._cut_short(transport, connection)
        except BaseException:
            transport.abort()
            raise
        finally:
            if connection.result is Result.ADMITTED:
                self.totals.upgrade_duration.observe(time.monotonic() - started)
            else:
                self._give_back(connection)
            self.totals.upgrades[connection.route, connection.result.value] += 1

    def _cut_short(self, transport: asyncio.Transport, connection: Connection) -> None:
        match connection.cut_short:
            case CutShort.BY_LEAVING:
                connection.result = Result.ABANDONED
                transport.abort()
            case CutShort.BY_SPEAKING:
                connection.result = Result.BAD_REQUEST
                self._answer(transport, self.refusal(HandshakeError("bytes came before the upgrade was answered"), connection.route))
            case CutShort.BY_US:
                connection.result = Result.UNAVAILABLE
                self._answer(transport, self.refusal(UpstreamError(GOING_DOWN, 503), connection.route))

    def _give_back(self, connection: Connection) -> None:
        if connection.grant is not None:
            self.store.release(connection.grant)
        if connection.meters is not None:
            connection.meters.release(self.store, time.monotonic())
        connection.grant = connection.meters = None

    async def _decide(self, transport: asyncio.Transport, head: RequestHead, peer: Peer, connection: Connection) -> None:
        request = validate_upgrade(head)
        path, query = split_target(head.target)
        match = self.routes.match(path)
        if match is None:
            connection.result = Result.NO_ROUTE
            self._answer(transport, self.refusal(HandshakeError(NO_SUCH_ROUTE, 404)))
            return
        connection.route = match.route.name
        self.warn_of_unlisted_proxy(peer, head)
        principal = self._principal(match, query, head, peer, connection.id)
        rules, claims = self.admission.claims(principal)
        (decision,) = await self.store.admit([claims], time.monotonic())
        for index in decision.over:
            self.totals.refusals[rules[index].name, Mode.SHADOW.value] += 1
        if isinstance(decision, Denial):
            connection.result = Result.REFUSED
            self._refuse(transport, request, principal, rules[decision.broken], decision, connection.text)
            return
        connection.grant = decision
        connection.meters = self.meters.compile(principal, self.store, time.monotonic())
        await self._relay(transport, request, principal, match, peer, connection)

    def warn_of_unlisted_proxy(self, peer: Peer, head: RequestHead) -> None:
        """A private address that speaks for others, and whose word does not count: once for each, and not for endless many."""
        address = peer.address
        if peer.trusted or address is None or (b"x-forwarded-for" not in head.fields and b"forwarded" not in head.fields):
            return
        if address.is_private and address not in self.warned and len(self.warned) < MAX_WARNED:
            self.warned.add(address)
            self.log.warning("a private peer sends forwarding headers but is not in identity.trusted_proxies", peer=str(address))

    def _principal(self, match: Match, query: bytes, head: RequestHead, peer: Peer, connection: bytes) -> Principal:
        user, anonymous = self.identifier.user(query, head.fields, connection)
        address = self.identifier.client_address(peer, head.fields)
        ip = self.identifier.ip(address)
        return Principal(user, anonymous, address, ip, match.route.name, match.room, connection)

    async def _relay(
        self,
        transport: asyncio.Transport,
        request: UpgradeRequest,
        principal: Principal,
        match: Match,
        peer: Peer,
        connection: Connection,
    ) -> None:
        head = request.head
        offered = head.fields.get(b"sec-websocket-extensions", ()) if match.route.compression is Compression.PASS else ()
        offers = select_offers(offered, metered=connection.meters is not None)
        if self.meters.may_drop(principal, Direction.OUT):
            offers = without_server_context(offers)
        forwarded = forwarding_headers(peer, head.fields, host=request.host, proto=self.scheme)
        handshake = build_upgrade_request(request, extensions=join_offers(offers), forwarded=forwarded, trusted=peer.trusted)
        answer = await self._dial(match, handshake)
        try:
            if answer.head.status != SWITCHING_PROTOCOLS:
                connection.result = Result.UPSTREAM_REJECTED
                relay = AnswerRelay(answer, transport, self.wheel, self._relayed)
                self.relays.add(relay)
                relay.begin()
            else:
                self._open(transport, request, principal, answer, offers, connection)
        except HandshakeError:
            answer.transport.abort()
            raise

    def _relayed(self, relay: AnswerRelay) -> None:
        self.relays.discard(relay)
        if not relay.left:
            self.lingering.adopt(relay.client, heard=relay.heard)

    async def _dial(self, match: Match, handshake: bytes) -> Answer:
        route = match.route
        await eager.in_task()  # a dial waits with a timeout
        try:
            answer = await self.dialer.dial(self.upstreams[route.upstream], handshake)
        except UpstreamError as error:
            self.note_dial(route.name, error)
            raise
        self.note_dial(route.name)
        return answer

    def _open(
        self,
        transport: asyncio.Transport,
        request: UpgradeRequest,
        principal: Principal,
        answer: Answer,
        offers: Sequence[Extension],
        connection: Connection,
    ) -> None:
        validate_101(answer.head, request)
        answered = answer.head.fields.get(b"sec-websocket-extensions")
        agreed = settle(answered, offers, may_drop=self.meters.may_drop(principal)) if answered else NOTHING_AGREED
        assert connection.grant is not None
        for side in (transport, answer.transport):
            side.set_write_buffer_limits(high=self.buffer)
        self.dialer.keepalive.scatter(transport)
        inward, outward = connection.meters or (None, None)
        if outward is not None:
            outward.can_drop = agreed.is_droppable_outward
        tunnel = Tunnel(
            (
                transport,
                FrameWalker(masked=True, rsv1=agreed.rsv1, lenient=agreed.lenient, judge=None if inward is None else inward.charge),
            ),
            (
                answer.transport,
                FrameWalker(masked=False, rsv1=agreed.rsv1, lenient=agreed.lenient, judge=None if outward is None else outward.charge),
            ),
            connection=connection.text,
            meters=connection.meters,
            surroundings=self.surroundings,
        )
        self.live.add(tunnel, connection.grant, principal)
        connection.result = Result.ADMITTED
        tunnel.begin(build_101(answer.head, request, extensions=agreed.header), answer.rest)

    def _refuse(
        self,
        transport: asyncio.Transport,
        request: UpgradeRequest,
        principal: Principal,
        rule: Rule,
        denial: Denial,
        connection: str,
    ) -> None:
        self.totals.refusals[rule.name, Mode.ENFORCE.value] += 1
        excess = refusal(rule, denial.retry_after)
        if self.log.is_due("upgrade refused", (rule.name,)):
            self.log.info("upgrade refused", id=connection, route=principal.route, rule=rule.name, code=rule.code)
        often = self.history.note(principal, time.monotonic())
        if often or self.refuse_with is RefuseWith.HTTP:
            self._answer(transport, too_many(excess, connection))
        else:
            self._answer(transport, self._readable_refusal(request, excess, connection), FrameWalker(masked=True))

    def _readable_refusal(self, request: UpgradeRequest, excess: Excess, connection: str) -> bytes:
        """A 101, the error, and a Close: the only refusal of which a browser shows its script more than "failed"."""
        subprotocol = echoed_subprotocol(self.sources, request.protocols)
        return (
            build_own_101(request, subprotocol=subprotocol)
            + build_frame(Opcode.TEXT, excess.error_message(connection))
            + build_close(excess.rule.close_code, excess.close_reason(connection))
        )

    def _answer(self, transport: asyncio.Transport, answer: bytes, walker: FrameWalker | None = None) -> None:
        """Write our last word to a client and let it leave."""
        if not transport.is_closing():
            transport.write(answer)
        self.lingering.adopt(transport, walker)
