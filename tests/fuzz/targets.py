"""What is fuzzed: each target takes any bytes, and raises where the code and an independent reading of the RFCs disagree.

Inputs are laid out so that a mutation of bytes is a meaningful one: settings first, then the stream or the head itself, as on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from proxy.wire.handshake import (
    END_OF_HEAD,
    HandshakeError,
    Header,
    RequestHead,
    ResponseHead,
    UpgradeRequest,
    accept_value,
    build_101,
    build_upgrade_request,
    parse_request_head,
    parse_response_head,
    validate_101,
    validate_upgrade,
    wants_upgrade,
)
from tests.fuzz import heads
from tests.wire.agreement import check_against_the_reference
from tests.wire.streams import cut

Given = TypeVar("Given")
Found = TypeVar("Found")

SETTINGS = 2  # bytes before a stream: flags, and how many bytes of verdicts and of cuts follow
ANSWERS = ("pass", "pass", "drop", "hold", "close", "pass", "drop", "hold")
FORWARDED: list[Header] = [(b"X-Forwarded-For", b"192.0.2.1"), (b"X-Forwarded-Proto", b"http")]
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
ASKED = validate_upgrade(
    parse_request_head(
        b"GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %b\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: one, two" % KEY
    )
)


def walker(data: bytes) -> None:
    """Flags, two counts in one byte, verdicts, places to cut at (a byte each, from the last one on), then the stream."""
    if len(data) < SETTINGS:
        return
    flags, counts = data[:SETTINGS]
    stream_at = SETTINGS + counts // 16 + counts % 16
    verdicts = [ANSWERS[byte % len(ANSWERS)] for byte in data[SETTINGS : SETTINGS + counts // 16]]
    places, at = [], 0
    for step in data[SETTINGS + counts // 16 : stream_at]:
        at += step
        places.append(at)
    stream = data[stream_at:]
    how = {"masked": bool(flags & 1), "rsv1": bool(flags & 2), "lenient": bool(flags & 4)}
    check_against_the_reference(stream, cut(stream, places), verdicts, watched=bool(flags & 8), **how)


def outcome(step: Callable[[Given], Found], given: Given) -> Found | HandshakeError:
    """What a step gives, or its refusal."""
    try:
        return step(given)
    except HandshakeError as error:
        return error


def request(data: bytes) -> None:
    """A request's head, without its empty line."""
    expected = heads.read_request(data)
    head = outcome(parse_request_head, data)
    if isinstance(head, HandshakeError):
        assert head.status == expected
        return
    assert isinstance(expected, heads.Head)
    assert (head.method, head.target, head.version) == expected.line
    assert head.headers == expected.headers
    assert_indexed(head)
    assert wants_upgrade(head) == heads.wants_upgrade(expected)
    refusals = heads.judge_upgrade(expected)
    upgrade = outcome(validate_upgrade, head)
    if isinstance(upgrade, HandshakeError):
        assert upgrade.status in refusals
        return
    assert refusals == set()
    assert list(upgrade.protocols) == expected.tokens(b"sec-websocket-protocol")
    assert_goes_upstream(upgrade)


def assert_indexed(head: RequestHead | ResponseHead) -> None:
    """`fields` says the same as `headers`."""
    assert sum(map(len, head.fields.values())) == len(head.headers)
    for name, values in head.fields.items():
        assert list(values) == [value for other, value in head.headers if other.lower() == name]


def assert_goes_upstream(upgrade: UpgradeRequest) -> None:
    """The head that the backend gets is an upgrade to both readers, for the same target, host and key; the client chose nothing of ours."""
    sent = build_upgrade_request(upgrade, extensions=b"", forwarded=FORWARDED)
    assert sent.count(END_OF_HEAD) == 1
    assert sent.endswith(END_OF_HEAD)
    theirs = heads.read_request(sent.removesuffix(END_OF_HEAD))
    assert isinstance(theirs, heads.Head)
    assert heads.judge_upgrade(theirs) == set()
    assert theirs.line == (b"GET", upgrade.head.target, b"HTTP/1.1")
    assert (theirs.values(b"host"), theirs.values(b"sec-websocket-key")) == ([upgrade.host], [upgrade.key])
    assert theirs.tokens(b"sec-websocket-protocol") == list(upgrade.protocols)
    for name in (b"sec-websocket-extensions", b"transfer-encoding", b"content-length", b"forwarded"):
        assert theirs.values(name) == []
    mine = [(name, value) for name, value in theirs.headers if name.replace(b"_", b"-").lower().startswith(b"x-forwarded-")]
    assert mine == FORWARDED
    counted_by = (b"authorization", b"cookie")
    assert [theirs.values(name) for name in counted_by] == [list(upgrade.head.fields.get(name, ())) for name in counted_by]


def response(data: bytes) -> None:
    """A response's head, without its empty line, as the answer to ASKED."""
    expected = heads.read(data, heads.STATUS_LINE)
    head = outcome(parse_response_head, data)
    if isinstance(head, HandshakeError):
        assert head.status == 502
        assert expected is None
        return
    assert expected is not None
    assert (b"%d" % head.status, head.reason) == expected.line
    assert head.headers == expected.headers
    assert_indexed(head)
    good = (
        [value.lower() for value in expected.values(b"upgrade")] == [b"websocket"]
        and b"upgrade" in [token.lower() for token in expected.tokens(b"connection")]
        and expected.values(b"sec-websocket-accept") == [accept_value(KEY)]
        and expected.values(b"sec-websocket-protocol") in ([], [b"one"], [b"two"])
    )
    refusal = outcome(partial(validate_101, head), ASKED)
    assert (refusal is None) == good
    if refusal is None:
        assert_comes_back(head)
    else:
        assert refusal.status == 502


def assert_comes_back(head: ResponseHead) -> None:
    """The 101 that the client gets is one to an independent reader, and with no extension that we did not choose."""
    sent = build_101(head, ASKED, extensions=b"")
    assert sent.count(END_OF_HEAD) == 1
    theirs = heads.read(sent.removesuffix(END_OF_HEAD), heads.STATUS_LINE)
    assert theirs is not None
    assert theirs.line[0] == b"101"
    assert theirs.values(b"upgrade") == [b"websocket"]
    assert theirs.values(b"connection") == [b"Upgrade"]
    assert theirs.values(b"sec-websocket-accept") == [accept_value(KEY)]
    for name in (b"sec-websocket-extensions", b"content-length", b"transfer-encoding"):
        assert theirs.values(name) == []
    for name, value in theirs.headers:
        assert not re.search(rb"[\r\n\0]", name + value)


TARGETS: dict[str, Callable[[bytes], None]] = {"walker": walker, "request": request, "response": response}
