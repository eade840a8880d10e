"""How big a server a shared store takes: the measure itself."""

from __future__ import annotations

import re

import pytest

from benchmarks import store_size
from tests.support.redis_servers import Flavour


async def test_it_prints_what_each_thing_takes_and_what_comes_back_at_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_size, "SETTLE", 0.05)
    await store_size.main(Flavour.REDIS, number=40)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.count("|") == 6
    assert len(rows) == 2 * len(store_size.KINDS) + 4
    assert all(re.fullmatch(r"\|[a-z0-9`, ]+(\| -?\d+ ){4}\|", row) for row in rows)
