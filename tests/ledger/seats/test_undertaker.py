"""What becomes of the dead, and of what they had."""

from __future__ import annotations

from tests.ledger.instances import address_of, instance
from tests.support.redis_servers import redis_server


async def test_whoever_moved_meanwhile_is_not_buried() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        keeper = one.store._shared.keeper
        other = b"0" * 16
        await server.ask("HSET", "test:h", other, 8)
        assert await keeper.do(keeper._keys.bury(other, 7)) == 0
        assert await server.ask("HGET", "test:h", other) == "8"
        assert await keeper.do(keeper._keys.bury(other, 8)) == 1
        assert await server.ask("HEXISTS", "test:h", other) == 0
