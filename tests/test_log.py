"""Lines for the operator."""

from __future__ import annotations

import io
import json
from datetime import datetime

import pytest

from proxy.log import Log


def test_an_event_is_one_line_of_json_with_its_time() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.info("listening", address="127.0.0.1:8080", connections=3, share=0.5, nothing=None)
    log.warning("two\nlines \u2028 and \ud800")
    log.error("bad")
    lines = stream.getvalue().splitlines()
    first, second, third = (json.loads(line) for line in lines)
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    assert first == {"level": "info", "event": "listening", "address": "127.0.0.1:8080", "connections": 3, "share": 0.5, "nothing": None}
    assert (second["level"], second["event"]) == ("warning", "two\nlines \u2028 and \ud800")
    assert third["level"] == "error"


def test_it_goes_to_the_standard_error_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    Log().info("hello")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "hello"
    assert captured.out == ""


class BrokenPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_is_gone_stops_nothing() -> None:
    Log(BrokenPipe()).info("stopping")
