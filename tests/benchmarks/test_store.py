"""What an admission through Redis costs: the measure itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from benchmarks.store import NEVER, four_rules, main, one_cap
from proxy.ledger.store import Claim, SeatClaim
from tests.support.redis_servers import Flavour


@pytest.mark.parametrize("others", [0, 2])
async def test_it_prints_a_row_for_each_set_of_claims(others: int, capsys: pytest.CaptureFixture[str]) -> None:
    await main(Flavour.REDIS, waves=2, others=others)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| one cap", "| four rules"]
    assert all(re.fullmatch(r"\|[a-z ]+(\| -?[\d.]+ ){4}\|", row) for row in rows)


@pytest.mark.parametrize("claims_of", [one_cap, four_rules])
def test_nobody_is_refused_and_no_two_clients_are_one(claims_of: object) -> None:
    asks: list[Sequence[Claim]] = [claims_of(number) for number in range(100)]  # type: ignore[operator]  # it is a function
    assert all(claim.limit == NEVER for ask in asks for claim in ask if isinstance(claim, SeatClaim))
    assert all(one[0] != other[0] for one, other in pairwise(asks))
