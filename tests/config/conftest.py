"""What the tests of the configuration share: a text in, a Config or the printed mistakes out."""

from collections.abc import Callable, Mapping

import pytest

from proxy.config import Config, ConfigError, Overrides, parse

BACKEND = "upstreams: {game: {url: ws://h}}\n"  # line 1 of most texts here


def read(text: str, environ: Mapping[str, str] | None = None, overrides: Overrides | None = None) -> Config:
    return parse(BACKEND + text, "f", environ or {}, overrides or Overrides())


def list_mistakes(text: str, environ: Mapping[str, str] | None = None, overrides: Overrides | None = None) -> list[str]:
    """Every mistake of a text under BACKEND, so that its own lines count from 2; without the name of the file."""
    with pytest.raises(ConfigError) as error:
        read(text, environ, overrides)
    return [str(problem).removeprefix("f:") for problem in error.value.problems]


@pytest.fixture
def config() -> Callable[..., Config]:
    return read


@pytest.fixture
def mistakes() -> Callable[..., list[str]]:
    return list_mistakes
