"""What the operator hears of a shared store: a line for each change of its state, and the numbers that are scraped.

What clients can cause again and again, a key that holds another program's data, is told once for each rule until the store has been
away; the rest is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.ledger.store import Grant, StoreState
from proxy.log import Log
from proxy.metrics import StoreTotals

SAFE = "noeviction"  # the policy with which Redis refuses to write rather than to throw keys away
UP = "the store is up, and limits are shared"
HEALING = "the store is back and is told what it has missed; until then limits are this instance's own"
DOWN = "the store is down, and limits are not shared"
CONFLICT = "a key in the store is not ours: another program or version uses the same store_prefix"
DEAF = "the store does not let this instance listen on its channel: shared rates of frames cost more questions"
EVICTS = "the store may throw seats away when its memory is full: set its maxmemory-policy to noeviction"


class StoreWatch:
    """The listener of one shared store (ledger.store.StoreEvents)."""

    def __init__(self, totals: StoreTotals, log: Log) -> None:
        self._totals = totals
        self._log = log
        self._state: StoreState | None = None
        self._conflicts: set[str] = set()  # rules that were told of
        self._evicting: dict[str, str] = {}  # server -> policy
        self._deaf_why: str | None = None

    def begin(self) -> None:
        """The store is going to be started."""
        self._totals.up, self._totals.degraded = False, True

    def state_changed(self, state: StoreState, why: str) -> None:
        if state is self._state:
            return
        self._state = state
        self._totals.up = state is not StoreState.DOWN
        self._totals.degraded = state is not StoreState.UP
        match state:
            case StoreState.UP:
                self._log.info(UP)
            case StoreState.HEALING:
                self._log.warning(HEALING, why=why or None)
            case StoreState.DOWN:
                self._conflicts.clear()
                self._log.warning(DOWN, why=why or None)

    def answered(self, seconds: float) -> None:
        self._totals.request_duration.observe(seconds)

    def conflict(self, rule: str) -> None:
        self._totals.conflicts[(rule,)] += 1
        if rule not in self._conflicts:
            self._conflicts.add(rule)
            self._log.error(CONFLICT, rule=rule or None)

    def memory_policy(self, server: str, policy: str) -> None:
        if policy == SAFE:
            self._evicting.pop(server, None)
        elif policy != self._evicting.get(server):
            self._evicting[server] = policy
            self._log.warning(EVICTS, policy=policy, server=server or None)
        self._totals.may_evict = bool(self._evicting)

    def deaf(self, why: str) -> None:
        if why != self._deaf_why:
            self._deaf_why = why
            self._log.warning(DEAF, why=why)


def over_limit(grants: Iterable[Grant], others: Callable[[bytes], int]) -> Mapping[str, int]:
    """Seats beyond the limit of their key, by rule, for the keys of which seats are held here.

    `others`: the seats of a key that other instances were last seen to have.
    """
    held: dict[bytes, int] = {}
    limits: dict[bytes, tuple[str, int]] = {}
    members: set[tuple[bytes, bytes]] = set()
    for grant in grants:
        for claim in grant.seats:
            if claim.member is not None:
                if (claim.key, claim.member) in members:
                    continue
                members.add((claim.key, claim.member))
            held[claim.key] = held.get(claim.key, 0) + 1
            limits[claim.key] = (claim.rule, claim.limit)
    over: dict[str, int] = {}
    for key, count in held.items():
        rule, limit = limits[key]
        beyond = count + others(key) - limit
        if beyond > 0:
            over[rule] = over.get(rule, 0) + beyond
    return over
