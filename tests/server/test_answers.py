"""Our own plain HTTP answers, in bytes."""

from __future__ import annotations

import json

import pytest

from proxy.policy.admission import Excess
from proxy.policy.rules import OnExcess, Per, Quantity, Rule
from proxy.server.answers import problem, too_many

RULE = Rule("seats", (Per.ROOM,), Quantity.MEMBERS, 5, 0.0, OnExcess.REFUSE, 4010)


def split(answer: bytes) -> tuple[list[bytes], dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head.split(b"\r\n")
    return head.split(b"\r\n"), json.loads(body)


def test_a_problem_says_what_was_wrong_and_ends_its_connection() -> None:
    head, body = split(problem(426, "the reason", ((b"Upgrade", b"websocket"),)))
    assert head[0] == b"HTTP/1.1 426 Upgrade Required"
    assert b"Upgrade: websocket" in head
    assert b"Connection: close" in head
    assert b"Content-Type: application/problem+json" in head
    assert body == {"type": "about:blank", "title": "Upgrade Required", "status": 426, "detail": "the reason"}


@pytest.mark.parametrize(
    ("seconds", "header", "milliseconds"), [(0.2, b"1", 200), (1.0, b"1", 1000), (1.2, b"2", 1200), (61, b"61", 61_000)]
)
def test_a_refusal_says_when_to_come_back_in_whole_seconds_rounded_up(seconds: float, header: bytes, milliseconds: int) -> None:
    head, body = split(too_many(Excess(RULE, seconds), "0123"))
    assert head[0] == b"HTTP/1.1 429 Too Many Requests"
    assert b"Retry-After: " + header in head
    assert body["retry_after_ms"] == milliseconds
    assert {name: body[name] for name in ("status", "code", "rule", "id")} == {
        "status": 429,
        "code": "room_full",
        "rule": "seats",
        "id": "0123",
    }
    assert body["detail"] == "the room is full"


def test_a_refusal_for_good_has_no_retry_after() -> None:
    head, body = split(too_many(Excess(RULE, None), "0123"))
    assert not any(line.startswith(b"Retry-After") for line in head)
    assert body["retry_after_ms"] is None
