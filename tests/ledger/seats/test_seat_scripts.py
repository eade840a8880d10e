"""The scripts of holders and seats on a real server: what single words find there, and what they leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from proxy.ledger.scripts import ADMIT, BEAT, BURY, JOIN, LOSS_TTL, PENALIZE, REAP, TELL, Command, Keys
from proxy.ledger.seats.own_seats import Seat
from proxy.ledger.store import Claim, PenaltyClaim
from tests.ledger.penalty_contract import ANN as KEPT_OUT
from tests.ledger.store_contract import member, seat, token
from tests.support.redis_servers import RedisServer, redis_server

KEYS = Keys("test:", listed=False)
LISTED = Keys("test:", listed=True)
ME, ANN, BOB = (letter.encode() * 16 for letter in "eab")
DAY = range(86_000, 86_401)  # seconds that are left of a key that was just spoken of
PENALTY = b"test:p:{%b}" % KEPT_OUT
NOT_OURS = [("cafe", "7"), ("visits of a page", "7"), (ANN.decode(), "many")]


class Server:
    """One whose answers are bytes, as the scripts give them."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.user: dict[str, str] = {}

    async def run(self, command: Command) -> object:
        async with self._server.client(decode_responses=False) as client:
            for script in (ADMIT, BEAT, BURY, JOIN, PENALIZE, REAP, TELL):
                await client.script_load(script.source)
        async with self._server.client(decode_responses=False, **self.user) as client:
            return await client.execute_command(*command)

    async def ask(self, *words: str | float | bytes) -> object:
        return await self._server.ask(*words)

    async def admit(self, *claims: Claim) -> object:
        return await self.run(KEYS.admit(ME, claims))

    async def tell(self, *seats: Seat, former: Sequence[bytes] = ()) -> object:
        return await self.run(KEYS.tell(ME, former, seats))

    async def may_not(self, command: str) -> None:
        """From now on scripts run for somebody without this right."""
        await self.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "&test:*", "+@all", f"-{command}")
        self.user = {"username": "gate", "password": "secret"}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with redis_server() as one:
        yield Server(one)


def truth(held: int, who: str | None = None) -> Seat:
    """Of connections, or of one member."""
    found = Seat(seat() if who is None else member(who))
    found.taken = held
    return found


class TestListing:
    async def test_a_heartbeat_renews_it(self, server: Server) -> None:
        await server.ask("HSET", "test:h", ME, 1)
        await server.ask("EXPIRE", "test:h", 60)
        assert await server.run(KEYS.beat(ME)) == [ME, b"2"]
        assert await server.ask("TTL", "test:h") in DAY

    async def test_so_does_a_newcomer(self, server: Server) -> None:
        await server.ask("HSET", "test:h", ANN, 1)
        assert await server.run(KEYS.join(ME, ())) == [-1, [ANN, b"1", ME, b"1"]]
        assert await server.ask("TTL", "test:h") in DAY

    async def test_whoever_comes_without_memory_is_listed(self, server: Server) -> None:
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        assert await server.run(KEYS.join(ME, ())) == [-1, [ME, b"1"]]

    async def test_whom_somebody_else_has_buried_is_dead(self, server: Server) -> None:
        assert await server.run(KEYS.bury(ANN, 7)) == 1

    @pytest.mark.parametrize("fields", NOT_OURS, ids=" ".join)
    async def test_one_that_is_not_ours_gets_nothing_added(self, server: Server, fields: tuple[str, ...]) -> None:
        await server.ask("HSET", "test:h", *fields)
        assert await server.run(KEYS.join(ME, ())) == b"C"
        assert await server.ask("HGETALL", "test:h") == dict([fields])

    async def test_a_list_is_none(self, server: Server) -> None:
        await server.ask("RPUSH", "test:h", "x")
        assert await server.run(KEYS.join(ME, ())) == b"C"

    @pytest.mark.parametrize(("command", "known"), [("set", (BOB,)), ("pttl", (BOB,)), ("pubsub", ())])
    async def test_whoever_may_not_ask_for_all_of_it_is_listed(self, server: Server, command: str, known: tuple[bytes, ...]) -> None:
        await server.may_not(command)
        assert await server.run(LISTED.join(ME, known)) == [-1, [ME, b"1"]]

    async def test_a_mark_that_lives_longer_than_ours_is_new(self, server: Server) -> None:
        await server.ask("SET", "test:l", "1", "PX", 2 * LOSS_TTL)
        assert await server.run(LISTED.join(ME, ())) == [0, [ME, b"1"]]


class TestTold:
    async def test_keys_of_seats_live_for_a_day_from_then_on(self, server: Server) -> None:
        assert await server.tell(truth(2), truth(1, "ann")) == b""
        for name in ("test:n:{seats}", "test:n:{room}", "test:m:{room}"):
            assert await server.ask("TTL", name) in DAY

    async def test_former_ids_have_nothing_of_what_was_given_back(self, server: Server) -> None:
        await server.ask("HSET", "test:n:{seats}", ANN, 1, BOB, 2)
        assert await server.tell(truth(0), former=[ANN]) == b""
        assert await server.ask("HGETALL", "test:n:{seats}") == {BOB.decode(): "2"}

    async def test_a_member_who_is_told_twice_counts_once(self, server: Server) -> None:
        for _ in range(2):
            assert await server.tell(truth(1, "ann")) == b""
        assert await server.ask("HGETALL", "test:n:{room}") == {ME.decode(): "1"}
        for _ in range(2):
            assert await server.tell(truth(0, "ann")) == b""
        assert await server.ask("KEYS", "*") == []

    @pytest.mark.parametrize("fields", NOT_OURS, ids=" ".join)
    async def test_counts_that_are_not_ours_get_nothing_added(self, server: Server, fields: tuple[str, ...]) -> None:
        await server.ask("HSET", "test:n:{seats}", *fields)
        await server.ask("HSET", "test:n:{room}", *fields)
        assert await server.tell(truth(1), truth(1, "ann")) == b"0,1"
        for name in ("test:n:{seats}", "test:n:{room}"):
            assert await server.ask("HGETALL", name) == dict([fields])
        assert await server.ask("EXISTS", "test:m:{room}") == 0

    async def test_beside_such_counts_a_member_is_given_back(self, server: Server) -> None:
        await server.tell(truth(1, "ann"))
        await server.ask("HSET", "test:n:{room}", "visits", "7")
        assert await server.tell(truth(0, "ann")) == b""
        assert await server.ask("HGETALL", "test:n:{room}") == {"visits": "7"}
        assert await server.ask("EXISTS", "test:m:{room}") == 0

    @pytest.mark.parametrize("value", ["7", "visits of a page "])
    async def test_a_member_who_is_not_ours_stays_as_he_is(self, server: Server, value: str) -> None:
        await server.ask("HSET", "test:m:{room}", "ann", value)
        assert await server.tell(truth(1, "ann"), truth(1)) == b"0"
        assert await server.ask("HGETALL", "test:m:{room}") == {"ann": value}
        assert await server.ask("HGETALL", "test:n:{seats}") == {ME.decode(): "1"}

    async def test_our_own_count_that_is_none_is_told(self, server: Server) -> None:
        await server.tell(truth(1, "ann"))
        await server.ask("HSET", "test:n:{room}", ME, "many")
        assert await server.tell(truth(0, "ann")) == b"0"

    @pytest.mark.parametrize("held", [0, 1])
    async def test_keys_of_another_type_are_told(self, server: Server, held: int) -> None:
        await server.ask("SET", "test:n:{seats}", "x")
        await server.ask("SET", "test:m:{room}", "x")
        assert await server.tell(truth(held), truth(held, "ann")) == b"0,1"


class TestDead:
    async def test_what_he_has_in_a_large_room_is_free_after_several_looks(self, server: Server) -> None:
        """Larger than what a server keeps as a list, which is looked through at once."""
        who = [word for number in range(600) for word in (f"user {number}", ANN + b";")]
        await server.ask("HSET", "test:m:{room}", *who)
        await server.ask("HSET", "test:n:{room}", ANN, 600)
        looks, cursor = 0, b"0"
        while looks == 0 or cursor != b"0":
            answer = await server.run(REAP.call((b"test:n:{room}", b"test:m:{room}"), ANN, cursor, b"300"))
            assert isinstance(answer, bytes)
            looks, cursor = looks + 1, answer
            assert looks < 10
        assert looks > 1
        assert await server.ask("KEYS", "*") == []

    @pytest.mark.parametrize("name", ["test:n:{room}", "test:m:{room}"])
    async def test_keys_of_another_type_are_told_and_nothing_is_freed(self, server: Server, name: str) -> None:
        await server.ask("HSET", "test:n:{room}", ANN, 1)
        await server.ask("HSET", "test:m:{room}", "zoe", ANN + b";")
        await server.ask("SET", name, "x")
        assert await server.run(KEYS.reap(member("zoe"), ANN, b"0")) == b"C"
        assert await server.ask("DBSIZE") == 2

    async def test_what_he_has_is_freed_without_memory(self, server: Server) -> None:
        await server.ask("HSET", "test:n:{room}", ANN, 1, BOB, 1)
        await server.ask("HSET", "test:m:{room}", "zoe", ANN + b";" + BOB + b";")
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        assert await server.run(KEYS.reap(member("zoe"), ANN, b"0")) == b"0"
        assert await server.ask("HGETALL", "test:m:{room}") == {"zoe": BOB.decode() + ";"}
        assert await server.ask("HGETALL", "test:n:{room}") == {BOB.decode(): "1"}


class TestAsked:
    async def test_a_member_who_is_here_already_is_noted_once(self, server: Server) -> None:
        for _ in range(2):
            assert await server.admit(member("ann")) == b"G - 0"
        assert await server.ask("HGETALL", "test:n:{room}") == {ME.decode(): "1"}
        assert await server.ask("HGETALL", "test:m:{room}") == {"ann": ME.decode() + ";"}

    async def test_a_member_of_the_right_length_may_not_be_ours(self, server: Server) -> None:
        await server.ask("HSET", "test:n:{room}", ANN, 1)
        await server.ask("HSET", "test:m:{room}", "ann", "visits of a page ")
        assert await server.admit(member("ann", limit=9)) == b"C 0"

    async def test_a_penalty_without_an_end_is_not_ours(self, server: Server) -> None:
        await server.ask("SET", PENALTY, "")
        assert await server.admit(PenaltyClaim("rule", KEPT_OUT)) == b"C 0"
        assert await server.run(KEYS.penalize(KEPT_OUT, 30.0)) == b"C"
        assert await server.ask("PTTL", PENALTY) == -1

    async def test_nor_is_a_list_that_has_one(self, server: Server) -> None:
        await server.ask("RPUSH", PENALTY, "x")
        await server.ask("EXPIRE", PENALTY, 60)
        assert await server.admit(PenaltyClaim("rule", KEPT_OUT)) == b"C 0"
        assert await server.run(KEYS.penalize(KEPT_OUT, 30.0)) == b"C"

    async def test_a_bucket_that_takes_ages_to_fill_lives_for_a_year(self, server: Server) -> None:
        assert await server.admit(token(rate=1e-15)) == b"G - t 0"
        assert 364 * 86_400 < int(str(await server.ask("TTL", "test:u:{tokens}"))) <= 365 * 86_400

    async def test_a_shadow_rate_of_0_leaves_a_bucket_of_the_future_as_it_is(self, server: Server) -> None:
        await server.ask("SET", "test:u:{tokens}", "1 9999999999")
        assert await server.admit(token(rate=0.0, shadow=True), seat()) == b"G 0 0 t 1"
        assert await server.ask("GET", "test:u:{tokens}") == "1 9999999999"

    async def test_without_memory_a_bucket_of_the_future_refuses_all_the_same(self, server: Server) -> None:
        await server.ask("SET", "test:u:{tokens}", "0 9999999999")
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        assert await server.admit(token(rate=2.0)) == b"D 0 0.5 -"
        assert await server.ask("GET", "test:u:{tokens}") == "0 9999999999"
