"""Whatever reads a server's words is tested with both parsers of the library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.parsers import Parser, parsed_by


@pytest.fixture(params=Parser, ids=lambda parser: parser.name.lower())
def any_parser(request: pytest.FixtureRequest) -> Iterator[Parser]:
    parser: Parser = request.param
    with parsed_by(parser):
        yield parser
