"""Several instances, one real server, users who talk through all of them, and whatever may befall them, in any order: rates hold.

What may pass beyond `burst + rate * (t + 0.25 s)` is accounted for trouble by trouble, as docs/store.md says: while the server is away or has
forgotten everything, at most one burst and the rate once more; while an instance cannot be reached, what it may have owned besides. A crash allows
nothing, and an answer that is late what an instance owes until it comes. When all is whole again it is counted anew, and then nothing is excused: in the calm
that follows the bound is exact. Half of the stories have no partitions, which would excuse too much.

There are keys of a large burst and a low rate, which show a burst that comes twice, and some of a high rate and a small burst, which show
who meters beside the owner; several of each, so that one instance has one alone now and then.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import proxy.ledger.links.redis_link
import proxy.ledger.links.subscription
from proxy.ledger.rates.leased_bucket import Mode
from tests.ledger.instances import Instance, address_of, instance
from tests.ledger.talkers import LATE, User, excess, hears
from tests.support.cuttable import Cuttable, cuttable
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually, until

TTL: Final = 1.5  # seconds; a heartbeat is 0.3
DEADLINE: Final = 0.2
HEALED: Final = 5.0  # seconds after which all is well again
NOTICED: Final = 2.0  # seconds until everybody has found out that something has begun, or that it is over
INSTANCES: Final = 3


@dataclass(frozen=True)
class Limit:
    """`rate` per second."""

    rate: float
    burst: float


LIMITS: Final = {key: limit for n in b"abc" for key, limit in ((b"large:%c" % n, Limit(2.0, 60.0)), (b"small:%c" % n, Limit(50.0, 5.0)))}

WHO = st.integers(0, INSTANCES - 1)
TALKS = st.lists(st.tuples(WHO, st.sampled_from(sorted(LIMITS)), st.booleans()), max_size=5, unique_by=lambda talk: talk[:2])
TIMES = st.sampled_from([0.05, 0.2, 0.5])  # seconds
Talk = tuple[int, bytes, bool]
"""Who talks at which instance, and leaves it then or does not."""

Event = tuple[str, int, float]
"""What befalls whom, and for how many seconds; either may mean nothing."""

PARTITIONS: Final = {"cut": "crash", "lose_replies": "slow", "stand_still": "nothing"}
"""What happens instead, in stories without."""

EVENTS: st.SearchStrategy[Event] = st.tuples(
    st.sampled_from([*PARTITIONS, *["crash", "freeze", "flush"] * 2, "restart_empty", "slow", "mend", "nothing", "heal"]),
    WHO,
    st.sampled_from([0.1, 1.0]),
)


@dataclass(eq=False)
class Site:
    """One instance, its way to the server, and who talks there. `silent_since`: when it was cut off or stood still."""

    one: Instance
    link: Cuttable
    life: AsyncExitStack
    users: dict[bytes, User] = field(default_factory=dict)
    silent_since: float | None = None
    stands_still: bool = False

    def user(self, key: bytes) -> User:
        if key not in self.users:
            self.users[key] = User(self.one, LIMITS[key].rate, LIMITS[key].burst, key)
        return self.users[key]

    def forget_what_was_said(self) -> None:
        """What passes from now on is not counted, until it is asked for again."""
        for user in self.users.values():
            user.times = []

    def leave(self, key: bytes) -> None:
        user = self.users.pop(key, None)
        if user is not None:
            user.leave()


class RatesStory(RuleBasedStateMachine):
    """Every rule is a coroutine that runs to its end; the instances live on in the loop between them."""

    @initialize(has_partitions=st.booleans())
    def begin(self, has_partitions: bool) -> None:
        self.has_partitions = has_partitions
        self.runner = asyncio.Runner()
        self.life = AsyncExitStack()
        self.sites: list[Site] = []
        self.said: list[tuple[bytes, list[float]]] = []  # (key, when something passed) since all was whole last
        self.talkers: set[User] = set()  # since then
        self.seconds_excused = 0.0  # of the rate
        self.bursts_excused = 0
        self.tokens_excused = 0.0
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.server: RedisServer = await self.life.enter_async_context(redis_server())
        for _ in range(INSTANCES):
            self.sites.append(await self._come())
        await self._talk([(number % INSTANCES, key, False) for number, key in enumerate(LIMITS)], 0.5)  # each has some alone

    async def _come(self) -> Site:
        life = AsyncExitStack()
        link = await life.enter_async_context(cuttable(self.server.port))
        one = await life.enter_async_context(instance(address_of(self.server, link.port), ttl=TTL, deadline=DEADLINE))
        return Site(one, link, life)

    @rule(event=EVENTS, talks=TALKS, seconds=TIMES, move=st.booleans())
    def turn(self, event: Event, talks: list[Talk], seconds: float, move: bool) -> None:
        """Something befalls somebody; some talk much more than they may; some of them leave, or go to another instance."""
        self.runner.run(self._turn(event, talks, seconds, self._moved() if move else []))

    async def _turn(self, event: Event, talks: list[Talk], seconds: float, moved: list[Talk]) -> None:
        what, who, lasting = event
        if not self.has_partitions:
            what = PARTITIONS.get(what, what)
        await asyncio.gather(getattr(self, what)(who, lasting), self._talk(talks, seconds + lasting))
        await self._talk([*talks, *moved], seconds)
        for who, key, leaves in talks:
            if leaves and not self.sites[who].stands_still:
                self.sites[who].leave(key)
        self.check()

    def _moved(self) -> list[Talk]:
        """Each key that one instance has alone is talked about at the next one."""
        return [
            ((who + 1) % INSTANCES, key, False)
            for who, site in enumerate(self.sites)
            for key, user in site.users.items()
            if user.bucket.mode is Mode.OWNED
        ]

    # --- what people do

    async def _talk(self, talks: list[Talk], seconds: float) -> None:
        talking = []
        for who, key, _ in talks:
            site = self.sites[who]
            if not site.stands_still:
                user = site.user(key)
                if not any(times is user.times for _, times in self.said):
                    self.said.append((key, user.times))
                self.talkers.add(user)
                talking.append(user.flood(seconds, 0.004))
        await asyncio.gather(*talking)

    async def nothing(self, _: int, __: float) -> None:
        pass

    # --- what befalls an instance

    async def crash(self, who: int, _: float = 0.0) -> None:
        """Nothing is given back, nobody is told; another one takes its place."""
        site = self.sites[who]
        self._end_silence(site)
        site.stands_still = True
        site.forget_what_was_said()
        await site.one.store._subscription.stop()
        await site.one.crash()
        site.link.shut()
        self.sites[who] = await self._come()
        await site.life.aclose()

    async def cut(self, who: int, _: float = 0.0) -> None:
        site = self.sites[who]
        site.link.hold()
        self._begin_silence(site)

    async def lose_replies(self, who: int, _: float = 0.0) -> None:
        """What it asks is done, and it hears of nothing."""
        site = self.sites[who]
        if site.silent_since is None:
            site.link.lose_replies()
            self._begin_silence(site)

    async def slow(self, who: int, _: float = 0.0) -> None:
        """As far away as a question may take."""
        self.sites[who].link.delay = 0.4 * DEADLINE

    async def stand_still(self, who: int, _: float = 0.0) -> None:
        """As a frozen process: it does nothing, and nobody talks there."""
        site = self.sites[who]
        if not site.stands_still:
            site.stands_still = True
            site.forget_what_was_said()
            await site.one.store._shared.keeper.halt()
            await self.cut(who)

    async def mend(self, who: int, _: float = 0.0) -> None:
        site = self.sites[who]
        self._end_silence(site)
        await site.link.forward()
        if site.stands_still:
            site.stands_still = False
            keeper = site.one.store._shared.keeper
            keeper._task = asyncio.get_running_loop().create_task(keeper._keep())

    def _begin_silence(self, site: Site) -> None:
        if site.silent_since is None:
            site.silent_since = time.monotonic()
            self.bursts_excused += 1
            self._excuse(NOTICED)

    def _end_silence(self, site: Site) -> None:
        if site.silent_since is not None:
            self._excuse(time.monotonic() - site.silent_since)
            site.silent_since = None

    def _excuse(self, seconds: float) -> None:
        """Somebody had the rate once more for so long, and each instance a share of what it took to be left."""
        self.seconds_excused += seconds
        self.bursts_excused += 1
        self.tokens_excused += len(self.sites)

    # --- what befalls the server

    async def flush(self, _: int, __: float) -> None:
        self._excuse(NOTICED)
        self.tokens_excused += 1  # of the first message of somebody who is not known where he comes to
        await self.server.ask("FLUSHALL")

    async def restart_empty(self, _: int, seconds: float) -> None:
        self._excuse(NOTICED)
        self.tokens_excused += 1
        began = time.monotonic()
        self.server.kill()
        await asyncio.sleep(seconds)
        await self.server.start()
        self.seconds_excused += time.monotonic() - began

    async def freeze(self, _: int, seconds: float) -> None:
        self._excuse(NOTICED + seconds)
        self.server.freeze()
        await asyncio.sleep(seconds)
        self.server.thaw()

    # --- what must be true

    def check(self) -> None:
        now = time.monotonic()
        silence = sum(now - site.silent_since for site in self.sites if site.silent_since is not None)
        for key, limit in LIMITS.items():
            said = [times for name, times in self.said if name == key]
            allowed = limit.burst + limit.rate * (LATE + self.seconds_excused + silence)
            allowed += self.bursts_excused * limit.burst + self.tokens_excused
            allowed += sum(user.most_owed for user in self.talkers if user.bucket.key == key)
            assert excess(said, limit.rate) <= allowed + 1e-6, (key, allowed)

    async def heal(self, _: int, __: float) -> None:
        """All is whole again: every bucket has one owner or is shared, and the bound is exact."""
        for who in range(INSTANCES):
            await self.mend(who)
        for site in self.sites:
            await until(lambda site=site: site.one.store.state.value == "up" and hears(site.one), HEALED)  # type: ignore[misc]  # a default
        await eventually(self._is_whole, HEALED)
        self.said.clear()
        for site in self.sites:
            site.forget_what_was_said()
        for user in self.talkers:
            user.most_owed = user.bucket.owes
        self.talkers.clear()
        self.seconds_excused = self.tokens_excused = 0.0
        self.bursts_excused = 0
        await self._talk([(who, key, False) for who in range(INSTANCES) for key in LIMITS if key.startswith(b"small") or not who], 1.0)
        self.check()
        for key in LIMITS:
            if key.startswith(b"small"):
                assert sum(len(times) for name, times in self.said if name == key) >= 0.2 * LIMITS[key].rate, "it is blocked"

    async def _is_whole(self) -> bool:
        for site in self.sites:
            site.one.store.sweep(time.monotonic())
        await asyncio.sleep(0.05)
        return all([await self._agrees(key) for key in LIMITS])

    async def _agrees(self, key: bytes) -> bool:
        """Nobody is alone, and who takes itself for the owner is the one that the server names."""
        buckets = {site: site.one.rates.buckets.get(key) for site in self.sites}
        modes = [bucket.mode for bucket in buckets.values() if bucket is not None]
        owners = [site for site, bucket in buckets.items() if bucket is not None and bucket.mode is Mode.OWNED]
        if Mode.ALONE in modes or len(owners) > 1:
            return False
        named = await self.server.ask("HGET", f"test:b:{{{key.decode()}}}", "o")
        return not owners or named == owners[0].one.name.decode()

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._end())
        finally:
            self.runner.run(self._close())
            self.runner.close()

    async def _end(self) -> None:
        """All is healed, all leave, and nothing is left that anybody owns or remembers."""
        await self.heal(0, 0.0)
        for site in self.sites:
            for key in list(site.users):
                site.leave(key)
        await eventually(self._is_left, HEALED)

    async def _is_left(self) -> bool:
        for site in self.sites:
            site.one.store.sweep(time.monotonic())
        await asyncio.sleep(0.05)
        owners = [await self.server.ask("HGET", f"test:b:{{{key.decode()}}}", "o") for key in LIMITS]
        rates = [site.one.rates for site in self.sites]
        kept = [bucket for one in rates for key in LIMITS if (bucket := one.buckets.get(key)) is not None]
        are_right = all(bucket.mode is Mode.SHARED and bucket.owes > 0 and not bucket.users for bucket in kept)
        return owners == [None] * len(LIMITS) and are_right and not any(one.landlord.waiting for one in rates)

    async def _close(self) -> None:
        for site in self.sites:
            await site.life.aclose()
        await self.life.aclose()


@pytest.fixture(autouse=True, scope="module")
def short_times() -> object:
    """Of the connections; those of the store follow from the ttl."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.ledger.links.redis_link, "PAUSES", (0.02, 0.05, 0.1))
        patch.setattr(proxy.ledger.links.redis_link, "STALL", 0.3)
        patch.setattr(proxy.ledger.links.subscription, "PAUSES", (0.02, 0.05, 0.1))
        patch.setattr(proxy.ledger.links.subscription, "INTERVAL", 0.4)
        yield


ANY_TIME = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
)  # a story is told in real time: it is not told again to make it shorter


class TestRatesStory(RatesStory.TestCase):
    settings = settings(ANY_TIME, max_examples=1, stateful_step_count=6)


@pytest.mark.long
@pytest.mark.timeout(300)
class TestLongRatesStory(RatesStory.TestCase):
    settings = settings(ANY_TIME, max_examples=5, stateful_step_count=12)
