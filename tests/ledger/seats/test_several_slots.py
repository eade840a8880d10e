"""An upgrade whose claims lie in several slots, of which one does not decide: what the others took for it is given back."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.crc import key_slot

from proxy.ledger.links.link import CommandError, SlotMoved
from proxy.ledger.scripts import Command, Keys
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.seats.redis_store import RedisStore
from proxy.ledger.store import Denial, Grant, StoreDown, StoreState
from tests.ledger.instances import TTL, Heard
from tests.ledger.recording_link import RecordingLink
from tests.ledger.store_contract import NOW, member, seat, token

KEYS = Keys("test:", listed=False)
US = b"0123456789abcdef"
SEAT, TOKEN = seat("a"), token("b", 0.001)
TAKEN, SPENT, NOT_TAKEN = b"G - 0", b"G - t 0", b"D 0 - -"
ASKS = [KEYS.admit(US, [SEAT]), KEYS.admit(US, [TOKEN])]
REFUND = KEYS.refund(TOKEN)


def no_script() -> CommandError:
    return CommandError("missing script", missing_script=True)


class SlottedLink(RecordingLink):
    """To a Cluster."""

    def slot(self, key: bytes) -> int:
        return key_slot(key)

    def commands_from(self, first: int) -> list[Command]:
        return [command for command, _ in self.sent[first:]]


Up = tuple[RedisStore, SlottedLink]


@pytest.fixture
async def up() -> Up:
    """A store that decides."""
    link = SlottedLink()
    store = RedisStore(link, KEYS, OwnSeats(), TTL, Heard())
    store.keeper.holders.joined(US, {US: 1}, time.monotonic())
    store.keeper.teller.open(US)
    store.keeper.state = StoreState.UP
    return store, link


def asking(store: RedisStore, *claims: object) -> asyncio.Future[Grant | Denial]:
    return asyncio.ensure_future(store.finish(store.begin(claims or (SEAT, TOKEN), NOW)))  # type: ignore[arg-type]


def told(store: RedisStore) -> Command:
    """That nobody has the seat."""
    own = OwnSeats()
    own.reserve(SEAT)
    own.asked(SEAT)
    own.abandon(SEAT)
    return KEYS.tell(US, [], own.take_marked(1))


@pytest.mark.parametrize(
    "error",
    [
        CommandError("OOM command not allowed when used memory > 'maxmemory'"),
        CommandError("NOPERM no permissions"),
        SlotMoved("a slot is being moved"),
        StoreDown("no answer in time", outcome_known=False),
        b"nonsense",
    ],
    ids=str,
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_if_one_part_fails_the_token_of_another_one_is_given_back(up: Up, error: Exception | bytes, is_first: bool) -> None:
    store, link = up
    answer = asking(store) if is_first else asking(store, TOKEN, SEAT)
    await link.answer(*((error, SPENT) if is_first else (SPENT, error)))
    with pytest.raises(StoreDown):
        await answer
    assert link.commands_from(2)[:1] == [REFUND]
    assert store._own.count(SEAT) == 0


async def test_a_missing_script_of_one_part_is_asked_anew_after_the_token_of_another_one_came_back(up: Up) -> None:
    store, link = up
    answer = asking(store)
    await link.answer(no_script())
    assert link.commands_from(0) == ASKS  # the other one may have taken a token: nobody knows
    await link.answer(SPENT)
    assert link.commands_from(2) == [REFUND, told(store), *ASKS]
    await link.answer(b"1", b"", TAKEN, SPENT)
    assert isinstance(await answer, Grant)
    assert link.commands_from(6) == []
    assert store._own.by_rule() == {SEAT.rule: 1}


@pytest.mark.parametrize("spent", [NOT_TAKEN, b"G 0 t 0.5", no_script()], ids=["refused", "a shadow beyond its limit", "missing too"])
async def test_what_was_not_taken_is_not_given_back(up: Up, spent: bytes | Exception) -> None:
    store, link = up
    answer = asking(store)
    await link.answer(no_script(), spent)
    assert link.commands_from(2) == [told(store), *ASKS]
    await link.answer(b"", TAKEN, SPENT)
    assert isinstance(await answer, Grant)


async def test_a_server_that_fails_is_not_asked_anew_because_another_one_has_no_script(up: Up) -> None:
    store, link = up
    answer = asking(store, SEAT, TOKEN, member("ann", "c"))
    await link.answer(no_script(), SPENT, CommandError("OOM command not allowed"))
    with pytest.raises(StoreDown):
        await answer
    assert link.commands_from(3)[:1] == [REFUND]
    assert KEYS.admit(US, [TOKEN]) not in link.commands_from(3)
    assert store.state is StoreState.DOWN


async def test_what_is_given_back_as_the_scripts_are_forgotten_is_given_back_once_more(up: Up) -> None:
    store, link = up
    refused = asking(store)
    await link.answer(NOT_TAKEN, SPENT)
    assert await refused == Denial(0, None, ())
    assert link.commands_from(2).count(REFUND) == 1
    for _ in range(2):
        await link.answer(no_script(), no_script())
        assert link.commands_from(2).count(REFUND) == 2
