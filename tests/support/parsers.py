"""The two parsers of the Redis library: hiredis, which it takes by itself where that is installed, and its own.

The tests run with hiredis, as users do who follow the lock; what depends on the parser is run with both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial

import pytest
import redis.asyncio
from redis._parsers import _AsyncHiredisParser, _AsyncRESP2Parser


class Parser(Enum):
    """By the library's class."""

    HIREDIS = _AsyncHiredisParser
    PYTHON = _AsyncRESP2Parser


@contextmanager
def parsed_by(parser: Parser) -> Iterator[None]:
    """By this one are connections read that proxy.ledger.links makes meanwhile. Without hiredis installed, its own raise RedisError."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Connection", "SSLConnection"):
            patch.setattr(redis.asyncio, name, partial(getattr(redis.asyncio, name), parser_class=parser.value))
        yield
