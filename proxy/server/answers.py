"""Plain HTTP answers of ours: problem documents (RFC 9457) that end their connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from typing import Final

from proxy.policy.admission import Excess
from proxy.wire.handshake import Header, build_response

PROBLEM_JSON: Final = (b"Content-Type", b"application/problem+json")


def problem(status: int, detail: str, headers: Sequence[Header] = ()) -> bytes:
    """A whole answer that says what was wrong."""
    return _problem(status, {"detail": detail}, headers)


def too_many(excess: Excess, connection: str) -> bytes:
    """429 for a refused upgrade, with what its error message would have said."""
    members = {
        "detail": excess.text,
        "code": excess.rule.code,
        "rule": excess.rule.name,
        "retry_after_ms": excess.retry_after_ms,
        "id": connection,
    }
    retry: tuple[Header, ...] = ()
    if excess.retry_after is not None:
        retry = ((b"Retry-After", b"%d" % max(1, ceil(excess.retry_after))),)  # RFC 9110 §10.2.3: whole seconds
    return _problem(429, members, retry)


def unavailable(detail: str) -> bytes:
    """503: there is no room, here or on the way to the upstream."""
    retry: tuple[Header, ...] = ((b"Retry-After", b"1"),)
    return _problem(503, {"detail": detail, "code": "unavailable", "retry_after_ms": 1000}, retry)


def problem_body(status: int, detail: str) -> bytes:
    """The problem document alone, for whoever frames it otherwise."""
    return _document(status, {"detail": detail})


def _problem(status: int, members: dict[str, str | int | None], headers: Sequence[Header]) -> bytes:
    return build_response(status, (*headers, PROBLEM_JSON), _document(status, members))


def _document(status: int, members: dict[str, str | int | None]) -> bytes:
    return json.dumps({"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, **members}).encode()
