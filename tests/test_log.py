"""Lines for the operator."""

from __future__ import annotations

import io
import json
from datetime import datetime

import pytest

from proxy.log import LINES_PER_SECOND, MAX_GROUPS, Level, LineFormat, Log


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


def test_what_is_below_the_level_is_not_written() -> None:
    written = {}
    for level in Level:
        stream = io.StringIO()
        log = Log(stream, level=level)
        log.info("a")
        log.access("b", group=())
        log.warning("c")
        log.error("d")
        written[level.name] = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert written == {"DEBUG": ["a", "b", "c", "d"], "INFO": ["a", "b", "c", "d"], "WARNING": ["c", "d"], "ERROR": ["d"]}


def test_text_is_one_line_for_people_that_nobody_can_break() -> None:
    stream = io.StringIO()
    log = Log(stream, line_format=LineFormat.TEXT)
    log.info("listening", address="127.0.0.1:8080", connections=3, nothing=None)
    log.warning("stopped", why='a "quoted"\nline \u2028')
    first, second = stream.getvalue().splitlines()
    time, _, rest = first.partition(" ")
    assert datetime.fromisoformat(time).utcoffset() is not None
    assert rest == 'INFO    listening address="127.0.0.1:8080" connections=3 nothing=null'
    assert second.partition(" ")[2] == 'WARNING stopped why="a \\"quoted\\"\\nline \\u2028"'


# --- what clients can cause often -----------------------------------------------------------------------------------------------


def told(stream: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "level")} for line in lines]


def test_of_each_group_a_few_lines_are_written_and_the_rest_is_counted() -> None:
    stream = io.StringIO()
    log = Log(stream)
    for number in range(LINES_PER_SECOND + 5):
        log.access("refused", group=("seats",), number=number)
    log.access("refused", group=("another",), number=0)
    log.access("ended", group=("seats",), number=0)
    log.flush()
    events = told(stream)
    assert events[:LINES_PER_SECOND] == [{"event": "refused", "number": number} for number in range(LINES_PER_SECOND)]
    assert events[LINES_PER_SECOND:] == [
        {"event": "refused", "number": 0},
        {"event": "ended", "number": 0},
        {"event": "refused", "group": "seats", "suppressed": 5},
    ]


def test_a_flush_begins_anew_and_says_nothing_where_nothing_was_left_out() -> None:
    stream = io.StringIO()
    log = Log(stream)
    for _ in range(3):
        for number in range(LINES_PER_SECOND):
            log.access("ended", group=("game", 1000, "client"), number=number)
        log.flush()
    log.flush()
    assert len(told(stream)) == 3 * LINES_PER_SECOND
    assert not any("suppressed" in event for event in told(stream))


def test_groups_are_bounded() -> None:
    stream = io.StringIO()
    log = Log(stream)
    for number in range(3 * MAX_GROUPS):
        log.access("ended", group=(number,))
    assert len(log._groups) <= MAX_GROUPS + 1
    log.flush()
    assert not log._groups
    assert told(stream)[-1] == {"event": "ended", "group": "", "suppressed": 2 * MAX_GROUPS - LINES_PER_SECOND}


@pytest.mark.parametrize("log", [Log(access=False), Log(level=Level.WARNING)], ids=["access false", "level warning"])
def test_without_access_lines_nothing_is_counted_either(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(100):
        log.access("refused", group=("seats",))
    log.flush()
    log.warning("but this")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["but this"]
