"""Several instances and one real server, and whatever may befall them, in any order: caps hold, and in the end the copy is the truth.

What may be admitted beyond a cap is accounted for seat by seat. A seat is *excused* if it was granted by an instance alone, or if its
instance could not be heard when others had to count it: cut off or standing still for most of a ttl, or when the server forgot
everything. Whoever is in a room only by excused seats has his place there, so each further tab of his is excused too, until the copy has
heard that he is gone. All others never are more than the cap. When all is whole again the excuses end wherever the cap is kept.

What an instance gives alone is no free gift either: it has a reason (trouble of its own or of the server, or an answer that was late),
and leaves what the instance last heard that others have (`witness`). So it is with upgrade tokens: the server never gives more than one
bucket, a loss of its data brings back no more than what somebody there may believe in, and nobody alone takes more than that.

Each kind of trouble comes as often in a story as `TROUBLES` has it. The times are those of production, ten times as short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import proxy.ledger.links.redis_link
from proxy.ledger.store import Ask, Denial, Grant, SeatClaim, StoreState
from tests.ledger.instances import Instance, address_of, instance, the_server_has, the_server_has_now
from tests.ledger.store_contract import member, seat, token
from tests.ledger.witness import Answered, Level, Moment, Witness
from tests.support.cuttable import Cuttable, cuttable
from tests.support.redis_servers import Flavour, RedisServer, redis_server
from tests.support.waiting import eventually, until

TTL: Final = 1.5  # seconds; a heartbeat is 0.3
DEADLINE: Final = 0.15
SILENT: Final = 0.6 * TTL  # whoever was silent for so long may be taken for dead soon: it was so long since its last heartbeat
HEALED: Final = 5.0  # seconds from when all is whole until all is well
FREED: Final = TTL + HEALED  # seconds from when all is whole until what the dead had is free
INSTANCES: Final = 3
LAST: Final = 0.15  # seconds that one comes back after the others: less than the time that they give it
BETWEEN_WAVES: Final = 0.03  # seconds: less than a heartbeat
REPEATED: Final = 0.3  # seconds: a refusal may be repeated for so long
CAPS: Final = {"seats": 4, "room": 3}
RATE: Final = 1.0  # tokens per second
BURST: Final = 5.0  # tokens
USERS: Final = "abcde"

SEATS = st.just(seat("seats", CAPS["seats"]))
MEMBERS = st.sampled_from(USERS).map(lambda who: member(who, "room", CAPS["room"]))
TOKEN: Final = token("upgrades", RATE, BURST)
PLACES = st.lists(st.one_of(SEATS, MEMBERS), min_size=1, max_size=2, unique_by=lambda claim: claim.key)
CLAIMS = st.one_of(PLACES, PLACES, PLACES.map(lambda places: [*places, TOKEN]), st.just([TOKEN]))
WHO = st.integers(0, INSTANCES - 1)
ALL_OVER = st.lists(st.tuples(WHO, CLAIMS), max_size=8)
AT_ONE = st.tuples(WHO, st.lists(CLAIMS, max_size=8)).map(lambda drawn: [(drawn[0], claims) for claims in drawn[1]])
CROWDS = st.one_of(ALL_OVER, AT_ONE)
LEAVERS = st.lists(st.tuples(WHO, st.integers(0, 20)), max_size=2)
PAUSES = st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.1, 0.1, 0.4, TTL])  # seconds
LASTING = st.sampled_from([0.0, 0.0, 0.05, 0.3, TTL])  # seconds
NUMBERS = st.integers(0, 1_000_000).filter(bool)  # hypothesis begins with what is simplest: a story in which nobody knocks

TROUBLES: Final = (
    *("crash", "cut", "lose_replies", "stand_still", "mend", "mend"),
    *("restart_empty", "the_past", "the_past", "freeze", "flush", "heal"),
)
"""Names of methods. The past is kept at first, and comes back then."""

Crowd = Sequence[tuple[int, Ask]]
"""Who knocks where, and what for."""


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
    """One instance, its way to the server, and its connections. `alone`: what it decided so. `silent_since`: when it was cut off or stood
    still. `parting`: members (key, who) of excused seats that ended, until the server has heard of it. `is_alarmed`: something has befallen
    it or the server since all was well last; until then it had told of so many states."""

    one: Instance
    link: Cuttable
    life: AsyncExitStack
    witness: Witness
    held: list[Held] = field(default_factory=list)
    alone: list[Grant | Denial] = field(default_factory=list)
    silent_since: float | None = None
    stands_still: bool = False
    parting: set[tuple[bytes, bytes]] = field(default_factory=set)
    is_alarmed: bool = True
    states_told: int = 0

    def watch(self) -> None:
        """Note what it decides alone."""
        decide = self.one.store._decide_alone

        def watched(ask: Ask, now: float) -> Grant | Denial:
            self.alone.append(decide(ask, now))
            return self.alone[-1]

        self.one.store._decide_alone = watched  # type: ignore[method-assign]  # it only looks

    def excuse(self) -> None:
        for held in self.held:
            held.excused = {claim.key for claim in held.claims}

    def excused_members(self) -> set[tuple[bytes, bytes]]:
        """Whom the server may have from here though there was no place for him: (key, who)."""
        if self.has_told_all:
            self.parting.clear()
        return self.parting | {one for held in self.held for one in held.members() if one[0] in held.excused}

    def end(self, which: int) -> Held:
        """One connection is over."""
        held = self.held.pop(which)
        self.parting |= {one for one in held.members() if one[0] in held.excused}
        return held

    @property
    def has_told_all(self) -> bool:
        return not self.one.store._own.untold and not self.one.store._shared.keeper.teller._unheard

    def has(self, key: bytes) -> set[object]:
        """Who holds seats of a key: members, or connections."""
        return {claim.member or held for held in self.held for claim in held.claims if isinstance(claim, SeatClaim) and claim.key == key}

    def calm(self) -> None:
        """All is well: from now on nothing is decided alone without a reason."""
        self.is_alarmed = False
        self.states_told = len(self.one.heard.states)

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
    data: bytes  # of its file


def newcomer(key: str, cap: int, who: str) -> SeatClaim:
    """Whom nobody knows yet wants a seat of a key."""
    return seat(key, cap) if key == "seats" else member(who, key, cap)


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

    flavour: ClassVar[Flavour] = Flavour.REDIS

    @initialize(troubles=st.permutations(TROUBLES), number=NUMBERS)
    def begin(self, troubles: Sequence[str], number: int) -> None:
        self.runner = asyncio.Runner()
        self.life = AsyncExitStack()
        self.troubles = troubles
        self.turns = 0
        self.sites: list[Site] = []
        self.dead: set[bytes] = set()
        self.ghosts: set[tuple[bytes, bytes]] = set()  # whom the dead had excused: the server may have them until they are in the way
        self.forgotten: set[bytes] = set()  # ids under which the server may have nothing, though somebody speaks under them
        self.tokens = Level(RATE, BURST, time.monotonic(), BURST)  # what the server has at most
        self.are_tokens_lost = False
        self.saved: Saved | None = None
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.server: RedisServer = await self.life.enter_async_context(redis_server(self.flavour))
        for _ in range(INSTANCES):
            self.sites.append(await self._come())
        for number in range(max(CAPS.values())):  # the house is full
            site = self.sites[number % INSTANCES]
            await self._knock([(site, [seat("seats", CAPS["seats"])])])
            await self._knock([(site, [member(USERS[number], "room", CAPS["room"])])])
        for site in self.sites * 3:
            await self._knock([(site, [TOKEN])])  # and the bucket is empty, as all know
        for site in self.sites:
            if site.one.store.state is StoreState.UP:
                site.calm()

    async def _come(self) -> Site:
        life = AsyncExitStack()
        link = await life.enter_async_context(cuttable(self.server.port))
        one = await life.enter_async_context(instance(address_of(self.server, link.port), ttl=TTL, deadline=DEADLINE))
        site = Site(one, link, life, Witness(Level(RATE, BURST, time.monotonic(), BURST)))
        site.watch()
        return site

    @rule(who=WHO, lasting=LASTING, crowd=CROWDS, leavers=LEAVERS, seconds=PAUSES)
    def turn(self, who: int, lasting: float, crowd: Crowd, leavers: list[tuple[int, int]], seconds: float) -> None:
        """The next trouble befalls somebody; some leave, and others knock: one, then two, then all the others at once; time passes."""
        trouble = self.troubles[self.turns % len(self.troubles)]
        self.turns += 1
        self.tell(trouble, who, lasting, crowd=crowd, leavers=leavers, seconds=seconds)

    def tell(
        self,
        trouble: str,
        who: int = 0,
        lasting: float = 0.0,
        *,
        crowd: Crowd = (),
        leavers: Sequence[tuple[int, int]] = (),
        seconds: float = 0.0,
    ) -> None:
        self.runner.run(self._turn(getattr(self, trouble)(who, lasting), crowd, leavers, seconds))

    async def _turn(self, trouble: Coroutine[None, None, None], crowd: Crowd, leavers: Sequence[tuple[int, int]], seconds: float) -> None:
        await trouble
        for who, which in leavers:
            self._leave(self.sites[who], which)
        for wave in (crowd[:1], crowd[1:3], crowd[3:]):
            await self._knock([(self.sites[who], claims) for who, claims in wave])
            self.check()
            await asyncio.sleep(BETWEEN_WAVES)
        await asyncio.sleep(seconds)
        self.check()

    # --- what people do

    async def _knock(self, wave: Sequence[tuple[Site, Ask]]) -> list[Answered]:
        """All at once. What each instance makes of it must be what it may."""
        wave = [(site, claims) for site, claims in wave if not site.stands_still]
        asking = list(dict.fromkeys(site for site, _ in wave))
        began = time.monotonic()
        here = {site: {key.encode(): site.has(key.encode()) for key in CAPS} for site in asking}
        self._may_look()
        before = {site: self._told_of_others(site) for site in asking}
        answers = await asyncio.gather(*(self._ask(site, claims) for site, claims in wave))
        now = time.monotonic()
        left = self.tokens.most(now)
        self._count_tokens(answers, began, now)
        for site in asking:
            of_site = [answer for answer, (where, _) in zip(answers, wave, strict=True) if where is site]
            came = {claim.member for one in of_site for claim in one.seats}
            after = self._told_of_others(site)
            elsewhere = {key: len((before[site][key] & after[key]) - here[site][key] - came) for key in after}
            moment = Moment(began, now, here[site], elsewhere, bool(self.dead))
            site.witness.hear(of_site, moment)
            site.witness.count(of_site, left, moment)
            self._look_for_reasons(site, of_site)
        return answers

    async def _ask(self, site: Site, claims: Ask) -> Answered:
        has_his_place = self._only_excused()
        began = time.monotonic()
        (answer,) = await site.one.store.admit([claims], began)
        turn = next((number for number, one in enumerate(site.alone) if one is answer), None)
        if isinstance(answer, Grant) and answer.seats:
            held = Held(answer, claims, {claim.key for claim in claims} if turn is not None else set())
            held.excused |= {key for key, who in held.members() & (has_his_place | self._only_excused())}
            site.held.append(held)
        return Answered(claims, answer, turn, time.monotonic() - began)

    def _told_of_others(self, site: Site) -> dict[bytes, set[object]]:
        """What the server has of the other instances for sure."""
        others = [one for one in self.sites if one is not site and one.is_whole and one.has_told_all]
        sure = [one for one in others if one.one.store.state is StoreState.UP and one.one.holder not in self.forgotten]
        return {key.encode(): {who for one in sure for who in one.has(key.encode())} for key in CAPS}

    def _may_look(self) -> None:
        """Called whenever the server may have less of somebody."""
        for site in self.sites:
            site.witness.may_look({key: len(there - site.has(key)) for key, there in self._told_of_others(site).items()})

    def _count_tokens(self, answers: Sequence[Answered], began: float, now: float) -> None:
        given = sum(one.tokens for one in answers if one.is_granted and not one.is_alone)
        self.tokens.take(given, began, now)
        self.are_tokens_lost = self.are_tokens_lost and not given

    def _look_for_reasons(self, site: Site, answers: Sequence[Answered]) -> None:
        """Is it alone because of what befell it? Else it has said that it is, or it waited for an answer until its deadline."""
        if not site.is_alarmed and len(site.one.heard.states) == site.states_told:
            assert all(one.seconds > 0.9 * DEADLINE for one in answers if one.is_alone), "decided alone, and nobody knows why"

    def _only_excused(self) -> set[tuple[bytes, bytes]]:
        """Members whom the server may have, by excused seats alone: it asks no more whether there is a place for them."""
        excused = self.ghosts.union(*(site.excused_members() for site in self.sites))
        return excused - {one for site in self.sites for held in site.held for one in held.members() if one[0] not in held.excused}

    def _leave(self, site: Site, which: int) -> None:
        if site.held and not site.stands_still:
            site.one.store.release(site.end(which % len(site.held)).grant)
            self._may_look()

    async def nothing(self, who: int, lasting: float) -> None:
        pass

    # --- what befalls an instance

    async def crash(self, who: int, _: float = 0.0) -> None:
        """Its connections are gone, nobody is told; another one takes its place."""
        site = self.sites[who]
        keeper = site.one.store._shared.keeper
        await site.one.crash()
        site.link.shut()
        self.dead |= {*keeper.holders.former, *keeper.teller.former} | ({keeper.holders.own} if keeper.holders.own else set())
        self.ghosts |= site.excused_members()
        self.sites[who] = await self._come()
        if self.are_tokens_lost:
            self.tokens.have(BURST, time.monotonic())  # nobody tells it that there were fewer
        await site.life.aclose()

    async def cut(self, who: int, _: float = 0.0) -> None:
        site = self.sites[who]
        site.is_alarmed = True
        site.link.hold()
        site.silent_since = site.silent_since or time.monotonic()

    async def lose_replies(self, who: int, _: float = 0.0) -> None:
        """What it asks is done, and it never hears of it; so it gives its connections up, one after the other, and asks no more."""
        site = self.sites[who]
        if site.silent_since is None:
            site.is_alarmed = True
            site.link.lose_replies()
            site.silent_since = time.monotonic()

    async def stand_still(self, who: int, _: float = 0.0) -> None:
        site = self.sites[who]
        if not site.stands_still:
            site.stands_still = True
            await site.one.store._shared.keeper.halt()
            await self.cut(who)

    async def mend(self, who: int, _: float = 0.0) -> None:
        """One of those that are not whole."""
        broken = [site for site in self.sites if not site.is_whole]
        if broken:
            await self._mend(broken[who % len(broken)])

    async def _mend(self, site: Site) -> None:
        self._note_silence()
        if site.one.holder is not None and not site.is_whole:
            self.forgotten.add(site.one.holder)  # it may have been taken for dead
        site.silent_since = None
        await site.link.forward()
        if site.stands_still:
            site.stands_still = False
            keeper = site.one.store._shared.keeper
            keeper._task = asyncio.get_running_loop().create_task(keeper._keep())

    # --- what befalls the server

    async def flush(self, _: int, __: float = 0.0) -> None:
        self._forgets()
        await self.server.ask("FLUSHALL")
        self._forgets()

    async def restart_empty(self, _: int, seconds: float = 0.0) -> None:
        self._forgets()
        self.server.kill()
        await asyncio.sleep(seconds)
        self._forgets()
        await self.server.restart()
        self._forgets()

    async def the_past(self, who: int, seconds: float = 0.0) -> None:
        """What the server has goes to its disk; the next time it comes back with that."""
        if self.saved is None:
            await self.save(who)
        else:
            await self.restart_saved(who, seconds)

    async def save(self, _: int, __: float = 0.0) -> None:
        async with self.server.client(decode_responses=False) as client, client.pipeline(transaction=False) as together:  # SAVE needs none
            together.hkeys("test:n:{seats}")
            together.hkeys("test:n:{room}")
            together.hkeys("test:m:{room}")
            together.save()
            *holders, members, _ = await together.execute()
        data = (self.server.folder / "dump.rdb").read_bytes()
        self.saved = Saved(time.monotonic(), {one for some in holders for one in some}, {(b"room", one) for one in members}, data)

    async def restart_saved(self, _: int, seconds: float = 0.0) -> None:
        """With what it had on its disk, when all can see that this is of the past. Whoever holds most is the last to be back.

        Seats that were given back since are there again until they are in the way, under ids that are nobody's any more.
        """
        saved = self.saved
        assert saved is not None
        await self._all_whole()
        await until(lambda: all(site.heard_at > saved.at for site in self.sites), HEALED)
        self._forgets()
        last = max(self.sites, key=lambda site: len(site.held))
        last.link.refuse()
        self.server.kill()
        (self.server.folder / "dump.rdb").write_bytes(saved.data)
        await asyncio.sleep(seconds)
        await self.server.start()
        await asyncio.sleep(LAST)
        await last.link.forward()
        self._forgets()
        self.dead |= saved.holders
        self.ghosts |= saved.members
        self.saved = None

    async def freeze(self, _: int, seconds: float = 0.0) -> None:
        self._alarm()
        self.server.freeze()
        await asyncio.sleep(seconds)
        self.server.thaw()

    def _alarm(self) -> None:
        for site in self.sites:
            site.is_alarmed = True

    def _forgets(self) -> None:
        """Whoever cannot tell it again counts no more. Of tokens there are what somebody believes in."""
        self._alarm()
        now = time.monotonic()
        for site in self.sites:
            if not site.is_whole:
                site.excuse()
            if site.one.holder is not None:
                self.forgotten.add(site.one.holder)
        self._may_look()
        self.tokens.have(max(site.witness.tokens.most(now) for site in self.sites), now)
        self.are_tokens_lost = True

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

    async def _all_whole(self) -> float:
        """Returns since when."""
        for site in self.sites:
            await self._mend(site)
        whole = time.monotonic()
        for site in self.sites:
            await site.one.up(HEALED)
        return whole

    async def heal(self, _: int = 0, __: float = 0.0) -> None:
        """All is whole again, and soon the copy is the truth."""
        whole = await self._all_whole()
        await the_server_has(self.server, self._truth(), whole + HEALED - time.monotonic(), self.dead)
        for key, cap in CAPS.items():
            if people(self.sites, key) <= cap:
                self._pardon(key)
        for site in self.sites:
            if site.one.store.state is StoreState.UP and site.is_whole:
                site.calm()

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
        """One more is killed, all is healed, every seat that is free is given, and no more, and the dead have nothing; then all leave, and
        nothing is left."""
        if self.troubles:
            await self.crash(max(range(INSTANCES), key=lambda who: len(self.sites[who].has(b"room"))))
        await self.heal()
        deadline = time.monotonic() + FREED
        for key, cap in CAPS.items():
            await self._fill(key, cap, deadline)
        await self._bury(deadline)
        await eventually(self._gets_a_token, HEALED)
        for site in self.sites:
            while site.held:
                self._leave(site, 0)
        await the_server_has(self.server, {}, HEALED)
        assert await self.server.ask("KEYS", "test:[nm]:*") == []
        await until(lambda: not any(len(site.one.store._own) for site in self.sites), HEALED)

    async def _fill(self, key: str, cap: int, deadline: float) -> None:
        """What a dead instance had comes free when it has been dead for a ttl, so this may take as long."""
        newcomers = 0
        while (there := people(self.sites, key)) < cap:
            assert time.monotonic() < deadline, f"{key}: {there} of {cap}, and no more are let in"
            await self._knock([(self.sites[newcomers % INSTANCES], [newcomer(key, cap, f"late {newcomers}")])])
            newcomers += 1
            await asyncio.sleep(0.02)

    async def _bury(self, deadline: float) -> None:
        """While all is full whoever knocks is refused, and finds what the dead have left, until it is gone from server and listing."""
        number = 0
        while True:
            await asyncio.sleep(REPEATED)  # so may be what was granted alone
            for site in self.sites:
                await site.one.up(HEALED)
                for key, cap in CAPS.items():
                    number += 1
                    (answer,) = await self._knock([(site, [newcomer(key, cap, f"too late {number}")])])
                    assert answer.is_alone or not answer.is_granted, f"{key}: beyond the cap"
            listed = set(await self.server.ask("HKEYS", "test:h"))
            if listed == {(site.one.holder or b"").decode() for site in self.sites} and await the_server_has_now(
                self.server, self._truth()
            ):
                return
            assert time.monotonic() < deadline, f"{listed} are listed, and {self.dead} have something left"

    async def _gets_a_token(self) -> bool:
        (answer,) = await self._knock([(self.sites[0], [TOKEN])])
        return answer.is_granted

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
    settings = settings(ANY_TIME, max_examples=1, stateful_step_count=1 + len(TROUBLES))  # the first step is how it begins


@contextmanager
def told() -> Iterator[Story]:
    """One that a test tells."""
    story = Story()
    story.begin(troubles=(), number=1)
    try:
        yield story
    finally:
        story.teardown()


@pytest.mark.timeout(60)
def test_who_is_alone_leaves_what_the_others_had_when_he_last_heard() -> None:
    with told() as story:
        place, stranger = [seat("seats", CAPS["seats"])], [member("e", "room", CAPS["room"])]
        before = len(story.sites[0].held)
        story.tell("cut", who=0, crowd=[(0, place), (0, stranger), (0, stranger), (0, place), (0, place)])
        assert len(story.sites[0].alone) == 5
        assert len(story.sites[0].held) == before


@pytest.mark.timeout(60)
def test_a_loss_of_data_brings_back_no_upgrades_that_all_know_to_be_spent() -> None:
    with told() as story:
        story.tell("cut", who=0, crowd=[(0, [TOKEN])] * 3)
        story.tell("mend")
        story.tell("flush", crowd=[(who, [TOKEN]) for who in range(INSTANCES)])
        story.tell("heal", crowd=[(who % INSTANCES, [TOKEN]) for who in range(12)])


@pytest.mark.long
@pytest.mark.timeout(60)
def test_who_came_in_by_an_outage_may_come_with_a_second_tab() -> None:
    with told() as story:
        there = [(1, [member(who, "room", CAPS["room"])]) for who in "db"]
        story.tell("freeze", lasting=TTL, crowd=there, seconds=TTL)
        story.tell("nothing", crowd=there[:1])


@pytest.mark.long
@pytest.mark.timeout(60)
def test_who_came_after_what_was_saved_counts_when_that_comes_back() -> None:
    with told() as story:
        house = [seat("seats", CAPS["seats"]), member("d", "room", CAPS["room"])]
        story.tell("save")
        story.tell("nothing", leavers=[(0, 0), (0, 0)], seconds=0.1)
        story.tell("nothing", crowd=[(2, house)], seconds=0.5)
        assert len(story.sites[2].held) == 3
        others = [(0, [seat("seats", CAPS["seats"])]), (1, [member("e", "room", CAPS["room"])])]
        holders = story.saved.holders if story.saved is not None else set()
        story.tell("restart_saved", crowd=others)
        assert holders
        assert holders <= story.dead


@pytest.mark.long
@pytest.mark.timeout(300)
class TestLongStory(Story.TestCase):
    settings = settings(ANY_TIME, max_examples=3, stateful_step_count=1 + 2 * len(TROUBLES))


class StoryOnValkey(Story):
    flavour = Flavour.VALKEY


@pytest.mark.long
@pytest.mark.timeout(300)
class TestStoryOnValkey(StoryOnValkey.TestCase):
    settings = settings(ANY_TIME, max_examples=2, stateful_step_count=1 + 2 * len(TROUBLES))
