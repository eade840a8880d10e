"""Plain HTTP answers of ours: problem documents (RFC 9457) that end their connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from typing import Final

from proxy.policy.admission import Excess
from proxy.wire.handshake import Header, build_response

REFUSALS: Final = 1024  # rules whose problem documents are remembered
PROBLEM_JSON: Final = (b"Content-Type", b"application/problem+json")

_REFUSAL_HEAD: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\n%bContent-Type: application/problem+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
)


def problem(status: int, detail: str, headers: Sequence[Header] = ()) -> bytes:
    """A whole answer that says what was wrong."""
    return _problem(status, {"detail": detail}, headers)


def too_many(excess: Excess, connection: str) -> bytes:
    """429 for a refused upgrade, with what its error message would have said. `connection`: hexadecimal digits.

    Whoever is refused a thousand times a second must cost little, so all but the numbers and the id is there already.
    """
    rule = excess.rule
    body = _refusal_without_numbers(excess.text, rule.code, rule.name)
    retry = b""
    if excess.retry_after is not None:
        retry = b"Retry-After: %d\r\n" % max(1, ceil(excess.retry_after))  # RFC 9110 §10.2.3: whole seconds
    milliseconds = b"null" if excess.retry_after_ms is None else b"%d" % excess.retry_after_ms
    body += b'%b, "id": "%b"}' % (milliseconds, connection.encode())
    return _REFUSAL_HEAD % (retry, len(body)) + body


@lru_cache(REFUSALS)
def _refusal_without_numbers(text: str, code: str, rule: str) -> bytes:
    """The problem document of a rule's refusals up to the milliseconds."""
    members: dict[str, str | int | None] = {"detail": text, "code": code, "rule": rule, "retry_after_ms": None}
    return _document(429, members).removesuffix(b"null}")


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
