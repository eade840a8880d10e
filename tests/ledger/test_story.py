"""Several instances and one real server, and whatever may befall them, in any order: caps hold, and in the end the copy is the truth.

What may be admitted beyond a cap is accounted for seat by seat. A seat is *excused* if it was granted by an instance alone, or if its
instance could not be heard when others had to count it: cut off or standing still for most of a ttl, or when the server forgot
everything. Whoever is in a room only by excused seats has his place there, so each further tab of his is excused too, until the copy has
heard that he is gone. All others never are more than the cap. When all is whole again the excuses end wherever the cap is kept.

The times are those of production, ten times as short.
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
from proxy.ledger.store import Ask, Claim, Denial, Grant, SeatClaim
from tests.ledger.instances import Instance, address_of, instance, the_server_has
from tests.ledger.store_contract import NOW, member, seat
from tests.support.cuttable import Cuttable, cuttable
from tests.support.redis_servers import RedisServer, redis_server

TTL: Final = 1.5  # seconds; a heartbeat is 0.3
DEADLINE: Final = 0.15
SILENT: Final = 0.6 * TTL  # whoever was silent for so long may be taken for dead soon: it was so long since its last heartbeat
HEALED: Final = 5.0  # seconds from when all is whole until all is well
PATIENCE: Final = 20.0  # seconds until what the dead had is free
INSTANCES: Final = 3
LAST: Final = 0.15  # seconds that one comes back after the others: less than the time that they give it
BETWEEN_WAVES: Final = 0.03  # seconds: less than a heartbeat
CAPS: Final = {"seats": 4, "room": 3}
USERS: Final = "abcde"

SEATS = st.just(seat("seats", CAPS["seats"]))
MEMBERS = st.sampled_from(USERS).map(lambda who: member(who, "room", CAPS["room"]))
CLAIMS = st.lists(st.one_of(SEATS, MEMBERS), min_size=1, max_size=2, unique_by=lambda claim: claim.key)
WHO = st.integers(0, INSTANCES - 1)
ALL_OVER = st.lists(st.tuples(WHO, CLAIMS), max_size=8)
AT_ONE = st.tuples(WHO, st.lists(CLAIMS, max_size=8)).map(lambda drawn: [(drawn[0], claims) for claims in drawn[1]])
CROWDS = st.one_of(ALL_OVER, AT_ONE)
LEAVERS = st.lists(st.tuples(WHO, st.integers(0, 20)), max_size=2)
PAUSES = st.sampled_from([0.0, 0.01, 0.1, 0.4, TTL])  # seconds

Event = tuple[str, float]
"""What befalls whom, or for how many seconds."""

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.tuples(st.sampled_from(["crash", "cut", "lose_replies", "stand_still", "mend", "mend"]), WHO),
    st.tuples(
        st.sampled_from(["restart_empty", "save", "restart_saved", "freeze", "flush", "nothing", "heal"]),
        st.sampled_from([0.0, 0.05, 0.3, TTL]),
    ),
)


@dataclass(eq=False)
class Held:
    """One connection that is open."""

    grant: Grant
    claims: Ask
    excused: set[bytes]  # keys

    def members(self) -> set[tuple[bytes, bytes]]:
        """(key, who)"""
        return {(claim.key, claim.member) for claim in self.claims if isinstance(claim, SeatClaim) and claim.member is not None}


@dataclass(eq=False)
class Site:
    """One instance, its way to the server, and its connections. `silent_since`: when it was cut off or stood still.
    `parting`: members (key, who) of excused seats that ended, until the server has heard of it."""

    one: Instance
    link: Cuttable
    life: AsyncExitStack
    held: list[Held] = field(default_factory=list)
    alone: list[Grant] = field(default_factory=list)
    silent_since: float | None = None
    stands_still: bool = False
    parting: set[tuple[bytes, bytes]] = field(default_factory=set)

    def watch(self) -> None:
        """Note which grants it gives alone."""
        decide = self.one.store._decide_alone

        def watched(ask: Ask, now: float) -> Grant | Denial:
            answer = decide(ask, now)
            if isinstance(answer, Grant):
                self.alone.append(answer)
            return answer

        self.one.store._decide_alone = watched  # type: ignore[method-assign]  # it only looks

    def excuse(self) -> None:
        for held in self.held:
            held.excused = {claim.key for claim in held.claims}

    def excused_members(self) -> set[tuple[bytes, bytes]]:
        """Whom the server may have from here though there was no place for him: (key, who)."""
        if not self.one.store._own.untold and not self.one.store._shared.keeper.teller._unheard:
            self.parting.clear()
        return self.parting | {one for held in self.held for one in held.members() if one[0] in held.excused}

    def end(self, which: int) -> Held:
        """One connection is over."""
        held = self.held.pop(which)
        self.parting |= {one for one in held.members() if one[0] in held.excused}
        return held

    @property
    def heard_at(self) -> float:
        return self.one.store._shared.keeper.holders.heard_at

    @property
    def is_whole(self) -> bool:
        return self.silent_since is None and not self.link_is_deaf

    @property
    def link_is_deaf(self) -> bool:
        return any(pair.deaf or pair.held for pair in self.link._pairs)


@dataclass
class Saved:
    """What the server had on its disk at some time, `at`: who had seats, and which members (key, who) were there."""

    at: float
    holders: set[bytes]
    members: set[tuple[bytes, bytes]]


def people(sites: list[Site], key: str, *, excused: bool = True) -> int:
    """Seats of a key that are taken in truth."""
    found: list[SeatClaim] = [
        claim
        for site in sites
        for held in site.held
        for claim in held.claims
        if isinstance(claim, SeatClaim) and claim.key == key.encode() and (excused or claim.key not in held.excused)
    ]
    return len(found if key == "seats" else {claim.member for claim in found})


class Story(RuleBasedStateMachine):
    """Every rule is a coroutine that runs to its end; the instances live on in the loop between them."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.life = AsyncExitStack()
        self.sites: list[Site] = []
        self.dead: set[bytes] = set()
        self.ghosts: set[tuple[bytes, bytes]] = set()  # whom the dead had excused: the server may have them until they are in the way
        self.saved: Saved | None = None
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.server: RedisServer = await self.life.enter_async_context(redis_server())
        for _ in range(INSTANCES):
            self.sites.append(await self._come())
        for number in range(max(CAPS.values())):  # the house is full
            site = self.sites[number % INSTANCES]
            await self._ask(site, [seat("seats", CAPS["seats"])])
            await self._ask(site, [member(USERS[number], "room", CAPS["room"])])

    async def _come(self) -> Site:
        life = AsyncExitStack()
        link = await life.enter_async_context(cuttable(self.server.port))
        one = await life.enter_async_context(instance(address_of(self.server, link.port), ttl=TTL, deadline=DEADLINE))
        site = Site(one, link, life)
        site.watch()
        return site

    @rule(event=EVENTS, crowd=CROWDS, leavers=LEAVERS, seconds=PAUSES)
    def turn(self, event: Event, crowd: list[tuple[int, list[Claim]]], leavers: list[tuple[int, int]], seconds: float) -> None:
        """Something befalls somebody; some leave, and others knock: one, then two, then all the others at once; time passes."""
        self.runner.run(self._turn(event, crowd, leavers, seconds))

    async def _turn(self, event: Event, crowd: list[tuple[int, list[Claim]]], leavers: list[tuple[int, int]], seconds: float) -> None:
        what, argument = event
        await getattr(self, what)(argument)
        for who, which in leavers:
            self._leave(self.sites[who], which)
        for wave in (crowd[:1], crowd[1:3], crowd[3:]):
            await asyncio.gather(*(self._ask(self.sites[who], claims) for who, claims in wave))
            self.check()
            await asyncio.sleep(BETWEEN_WAVES)
        await asyncio.sleep(seconds)
        self.check()

    # --- what people do

    async def _ask(self, site: Site, claims: Ask) -> bool:
        if site.stands_still:
            return False
        has_his_place = self._only_excused()
        (answer,) = await site.one.store.admit([claims], NOW)
        if isinstance(answer, Grant):
            was_alone = any(answer is one for one in site.alone)
            held = Held(answer, claims, {claim.key for claim in claims} if was_alone else set())
            held.excused |= {key for key, who in held.members() & (has_his_place | self._only_excused())}
            site.held.append(held)
        return isinstance(answer, Grant)

    def _only_excused(self) -> set[tuple[bytes, bytes]]:
        """Members whom the server may have, by excused seats alone: it asks no more whether there is a place for them."""
        excused = self.ghosts.union(*(site.excused_members() for site in self.sites))
        return excused - {one for site in self.sites for held in site.held for one in held.members() if one[0] not in held.excused}

    def _leave(self, site: Site, which: int) -> None:
        if site.held and not site.stands_still:
            site.one.store.release(site.end(which % len(site.held)).grant)

    async def nothing(self, _: float) -> None:
        pass

    # --- what befalls an instance

    async def crash(self, who: int) -> None:
        """Its connections are gone, nobody is told; another one takes its place."""
        site = self.sites[who]
        keeper = site.one.store._shared.keeper
        await site.one.crash()
        site.link.shut()
        self.dead |= {*keeper.holders.former, *keeper.teller.former} | ({keeper.holders.own} if keeper.holders.own else set())
        self.ghosts |= site.excused_members()
        self.sites[who] = await self._come()
        await site.life.aclose()

    async def cut(self, who: int) -> None:
        site = self.sites[who]
        site.link.hold()
        site.silent_since = site.silent_since or time.monotonic()

    async def lose_replies(self, who: int) -> None:
        """What it asks is done, and it never hears of it."""
        if self.sites[who].silent_since is None:
            self.sites[who].link.lose_replies()

    async def stand_still(self, who: int) -> None:
        site = self.sites[who]
        if not site.stands_still:
            site.stands_still = True
            await site.one.store._shared.keeper.halt()
            await self.cut(who)

    async def mend(self, who: int) -> None:
        site = self.sites[who]
        self._note_silence()
        site.silent_since = None
        await site.link.forward()
        if site.stands_still:
            site.stands_still = False
            keeper = site.one.store._shared.keeper
            keeper._task = asyncio.get_running_loop().create_task(keeper._keep())

    # --- what befalls the server

    async def flush(self, _: float) -> None:
        self._forgets()
        await self.server.ask("FLUSHALL")

    async def restart_empty(self, seconds: float) -> None:
        self._forgets()
        self.server.kill()
        await asyncio.sleep(seconds)
        self._forgets()
        await self.server.restart()

    async def save(self, _: float) -> None:
        async with self.server.client(decode_responses=False) as client, client.pipeline(transaction=False) as together:  # SAVE needs none
            together.hkeys("test:n:{seats}")
            together.hkeys("test:n:{room}")
            together.hkeys("test:m:{room}")
            together.save()
            *holders, members, _ = await together.execute()
        self.saved = Saved(time.monotonic(), {one for some in holders for one in some}, {(b"room", one) for one in members})

    async def restart_saved(self, seconds: float) -> None:
        """With what it had on its disk, if all can see that this is of the past. Whoever holds most is the last to be back.

        Seats that were given back since are there again until they are in the way, under ids that are nobody's any more.
        """
        saved = self.saved
        if saved is None or not all(site.is_whole and site.heard_at > saved.at for site in self.sites):
            return
        last = max(self.sites, key=lambda site: len(site.held))
        last.link.refuse()
        self.server.kill()
        await asyncio.sleep(seconds)
        await self.server.start()
        await asyncio.sleep(LAST)
        await last.link.forward()
        self.dead |= saved.holders
        self.ghosts |= saved.members

    async def freeze(self, seconds: float) -> None:
        self.server.freeze()
        await asyncio.sleep(seconds)
        self.server.thaw()

    def _forgets(self) -> None:
        """Whoever cannot tell it again counts no more."""
        for site in self.sites:
            if not site.is_whole:
                site.excuse()

    # --- what must be true

    def _note_silence(self) -> None:
        for site in self.sites:
            if site.silent_since is not None and time.monotonic() - site.silent_since > SILENT:
                site.excuse()

    def check(self) -> None:
        """Caps hold but for what is excused."""
        self._note_silence()
        for key, cap in CAPS.items():
            assert people(self.sites, key, excused=False) <= cap, key

    async def heal(self, _: float) -> None:
        """All is whole again, and soon the copy is the truth."""
        for who in range(INSTANCES):
            await self.mend(who)
        whole = time.monotonic()
        for site in self.sites:
            await site.one.up(HEALED)
        await the_server_has(self.server, self._truth(), whole + HEALED - time.monotonic(), self.dead)
        for key, cap in CAPS.items():
            if people(self.sites, key) <= cap:
                self._pardon(key)

    def _truth(self) -> dict[str, int]:
        return {key: people(self.sites, key) for key in CAPS if people(self.sites, key)}

    def _pardon(self, key: str) -> None:
        for site in self.sites:
            for held in site.held:
                held.excused.discard(key.encode())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._end())
        finally:
            self.runner.run(self._close())
            self.runner.close()

    async def _end(self) -> None:
        """All is healed, every seat that is free is given, and no more; then all leave, and nothing is left."""
        await self.heal(0)
        for key, cap in CAPS.items():
            await self._fill(key, cap)
        for site in self.sites:
            while site.held:
                self._leave(site, 0)
        await the_server_has(self.server, {}, HEALED, self.dead)
        assert [len(site.one.store._own) for site in self.sites] == [0] * INSTANCES

    async def _fill(self, key: str, cap: int) -> None:
        """What a dead instance had comes free when it has been dead for a ttl, so this may take as long."""
        deadline = time.monotonic() + PATIENCE
        newcomers = iter(range(1000))
        while (there := people(self.sites, key)) < cap:
            assert time.monotonic() < deadline, f"{key}: {there} of {cap}, and no more are let in"
            number = next(newcomers)
            site = self.sites[number % INSTANCES]
            await self._ask(site, [seat(key, cap) if key == "seats" else member(f"late {number}", key, cap)])
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # a refusal may be repeated for so long, and so may be what was granted alone
        for number, site in enumerate(self.sites):
            await site.one.up(PATIENCE)
            assert not await self._ask(site, [seat(key, cap) if key == "seats" else member(f"too late {number}", key, cap)])

    async def _close(self) -> None:
        for site in self.sites:
            await site.life.aclose()
        await self.life.aclose()


@pytest.fixture(autouse=True, scope="module")
def short_times() -> object:
    """Of the connection; those of the store follow from the ttl."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.ledger.links.redis_link, "PAUSES", (0.02, 0.05, 0.1))
        patch.setattr(proxy.ledger.links.redis_link, "STALL", 0.3)
        yield


ANY_TIME = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
)  # a story is told in real time: it is not told again to make it shorter


class TestStory(Story.TestCase):
    settings = settings(ANY_TIME, max_examples=2, stateful_step_count=8)


@pytest.mark.long
@pytest.mark.timeout(60)
def test_who_came_in_by_an_outage_may_come_with_a_second_tab() -> None:
    story = Story()
    story.begin()
    try:
        there = [(1, [member(who, "room", CAPS["room"])]) for who in "db"]
        story.turn(crowd=there, event=("freeze", TTL), leavers=[], seconds=TTL)
        story.turn(crowd=there[:1], event=("nothing", 0.0), leavers=[], seconds=0.0)
    finally:
        story.teardown()


@pytest.mark.long
@pytest.mark.timeout(60)
def test_who_came_after_what_was_saved_counts_when_that_comes_back() -> None:
    story = Story()
    story.begin()
    try:
        house = [seat("seats", CAPS["seats"]), member("d", "room", CAPS["room"])]
        story.turn(crowd=[], event=("save", 0.0), leavers=[], seconds=0.0)
        story.turn(crowd=[], event=("nothing", 0.0), leavers=[(0, 0), (0, 0)], seconds=0.1)
        story.turn(crowd=[(2, house)], event=("nothing", 0.0), leavers=[], seconds=0.5)
        assert len(story.sites[2].held) == 3
        others = [(0, [seat("seats", CAPS["seats"])]), (1, [member("e", "room", CAPS["room"])])]
        story.turn(crowd=others, event=("restart_saved", 0.0), leavers=[], seconds=0.0)
        assert story.saved is not None
        assert story.saved.holders <= story.dead
    finally:
        story.teardown()


@pytest.mark.long
@pytest.mark.timeout(300)
class TestLongStory(Story.TestCase):
    settings = settings(ANY_TIME, max_examples=5, stateful_step_count=15)
