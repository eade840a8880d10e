"""Compression in the handshake (DESIGN, "The wire" 4): what is offered upstream, and what the client is told."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from proxy.wire.extensions import Agreed, Extension, join_offers, parse_extensions, select_offers, settle, without_server_context
from proxy.wire.handshake import HandshakeError

DEFLATE = b"permessage-deflate"
NO_TAKEOVER = b"client_no_context_takeover"
BROWSER = b"permessage-deflate; client_max_window_bits"  # what Chrome and Firefox send


def offers(*values: bytes, metered: bool = True) -> list[Extension]:
    return select_offers(values, metered=metered)


# --- reading --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], []),
        ([b""], []),
        ([b" ,\t, "], []),
        ([DEFLATE], [Extension(DEFLATE, (), DEFLATE)]),
        ([b"PerMessage-Deflate ; X=1;y"], [Extension(DEFLATE, (b"x", b"y"), b"PerMessage-Deflate ; X=1;y")]),
        ([b"a;b=c, \t d"], [Extension(b"a", (b"b",), b"a;b=c"), Extension(b"d", (), b"d")]),
        ([b"a", b"b; c"], [Extension(b"a", (), b"a"), Extension(b"b", (b"c",), b"b; c")]),
        ([b'a; b="c"'], [Extension(b"a", (b"b",), b'a; b="c"')]),
        ([b"a; b = c  "], [Extension(b"a", (b"b",), b"a; b = c")]),
        ([b"a;b;b;b"], [Extension(b"a", (b"b", b"b", b"b"), b"a;b;b;b")]),
    ],
)
def test_elements_are_read_over_all_lines(values: list[bytes], found: list[Extension]) -> None:
    assert parse_extensions(values) == found


@pytest.mark.parametrize(
    "value",
    [
        b";",
        b"a;",
        b"a;;b",
        b"a b",
        b"a;b=",
        b"a;=c",
        b'a;b="',
        b'a;b="c d"',
        b'a;b=""',
        b'a;b="c',
        b"a=b",
        b'"a"',
        b"a;b=c=d",
        b"a/b",
        b"\xc3\xa9",
        b"a\n",
    ],
)
def test_what_is_no_extension_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse_extensions([value])
    with pytest.raises(HandshakeError) as offered:
        offers(DEFLATE, value)
    assert offered.value.status == 400
    with pytest.raises(HandshakeError, match="upstream") as answered:
        settle([value], offers(DEFLATE), may_drop=True)
    assert answered.value.status == 502


@given(st.lists(st.text(alphabet='ab;=," \t-_1', max_size=30).map(str.encode), max_size=3))
@example([b"a" * 5000 + b";" + b" " * 5000 + b"="])
@example([b"a;b" * 3000 + b"!\x00"])
@settings(max_examples=300, deadline=1000)
def test_what_is_read_is_read_in_the_same_way_by_websockets(values: list[bytes]) -> None:
    try:
        found = parse_extensions(values)
    except ValueError:
        return
    theirs = parse_extension(b",".join(values).decode().strip(" \t")) if found else []
    assert [(name.encode().lower(), tuple(key.encode().lower() for key, _ in parameters)) for name, parameters in theirs] == [
        (one.name, one.parameters) for one in found
    ]
    assert parse_extensions([join_offers(found)]) == found


# --- what goes upstream ---------------------------------------------------------------------------------------------------------


def test_without_frame_rules_all_offers_go_upstream_as_they_are() -> None:
    assert join_offers(offers(b"x-other; Y=1,  " + BROWSER, b"x-third", metered=False)) == b"x-other; Y=1, " + BROWSER + b", x-third"


def test_under_frame_rules_only_permessage_deflate_goes_upstream() -> None:
    assert (
        join_offers(offers(b"x-other; y=1, " + BROWSER, b"x-webkit-deflate-frame, Permessage-Deflate")) == BROWSER + b", Permessage-Deflate"
    )
    assert offers(b"x-other") == []
    assert join_offers(offers(b"x-other")) == b""


@pytest.mark.parametrize("metered", [True, False])
def test_no_offers(metered: bool) -> None:
    assert offers(metered=metered) == []
    assert offers(b"", metered=metered) == []


# --- what the upstream settled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("may_drop", [True, False])
@pytest.mark.parametrize("offered", [(), (BROWSER,)])
@pytest.mark.parametrize("answer", [(), (b"",)])
def test_declined_nothing_is_added_and_rsv1_is_a_fault(answer: tuple[bytes, ...], offered: tuple[bytes, ...], may_drop: bool) -> None:
    assert settle(answer, offers(*offered), may_drop=may_drop) == Agreed(rsv1=False, lenient=False, header=b"")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (DEFLATE, DEFLATE + b"; " + NO_TAKEOVER),
        (b"Permessage-Deflate;  server_no_context_takeover", b"Permessage-Deflate;  server_no_context_takeover; " + NO_TAKEOVER),
        (DEFLATE + b"; client_max_window_bits=12", DEFLATE + b"; client_max_window_bits=12; " + NO_TAKEOVER),
        (DEFLATE + b"; " + NO_TAKEOVER, DEFLATE + b"; " + NO_TAKEOVER),
        (
            DEFLATE + b"; Client_No_Context_Takeover; server_max_window_bits=9",
            DEFLATE + b"; Client_No_Context_Takeover; server_max_window_bits=9",
        ),
    ],
)
def test_where_messages_may_be_dropped_the_client_compresses_each_on_its_own(answer: bytes, told: bytes) -> None:
    assert settle([answer], offers(BROWSER), may_drop=True) == Agreed(rsv1=True, lenient=False, header=told)
    assert settle([answer], offers(BROWSER), may_drop=False) == Agreed(rsv1=True, lenient=False, header=answer)


def test_the_clients_library_takes_what_was_added_unasked() -> None:
    told = settle([DEFLATE], offers(BROWSER), may_drop=True).header.decode()
    ((name, parameters),) = parse_extension(told)
    client = ClientPerMessageDeflateFactory(client_max_window_bits=True)
    assert build_extension([(client.name, client.get_request_params())]).encode() == BROWSER
    assert name == client.name
    assert client.process_response_params(parameters, []).local_no_context_takeover


@pytest.mark.parametrize("may_drop", [True, False])
@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ((), [DEFLATE]),
        ((b"x-other",), [b"x-other"]),  # not forwarded under frame rules
        ((b"x-other, " + DEFLATE,), [b"x-other"]),
        ((DEFLATE,), [DEFLATE, DEFLATE]),
        ((DEFLATE,), [DEFLATE + b", " + DEFLATE]),
        ((DEFLATE,), [DEFLATE + b", x-other"]),
        ((DEFLATE,), [b"x-other, " + DEFLATE]),
    ],
)
def test_an_answer_that_was_not_offered_or_two_is_502(offered: tuple[bytes, ...], answer: list[bytes], may_drop: bool) -> None:
    with pytest.raises(HandshakeError, match="upstream") as caught:
        settle(answer, offers(*offered), may_drop=may_drop)
    assert caught.value.status == 502


@pytest.mark.parametrize("answer", [b"x-other", b"X-Other; y=1"])
def test_an_extension_that_we_do_not_know_may_use_any_bit(answer: bytes) -> None:
    offered = offers(b"x-other; y, " + BROWSER, metered=False)
    assert settle([answer], offered, may_drop=False) == Agreed(rsv1=True, lenient=True, header=answer)


def test_two_answers_are_502_without_frame_rules_too() -> None:
    with pytest.raises(HandshakeError, match="two"):
        settle([b"x-other", DEFLATE], offers(b"x-other", DEFLATE, metered=False), may_drop=False)


# --- where messages of the server may be dropped ----------------------------------------------------------------------------------


def test_the_server_is_asked_to_compress_each_message_on_its_own() -> None:
    asked = without_server_context(offers(BROWSER, DEFLATE + b"; Server_No_Context_Takeover", b"x-other; y", metered=False))
    assert join_offers(asked) == (BROWSER + b"; server_no_context_takeover, " + DEFLATE + b"; Server_No_Context_Takeover, x-other; y")
    assert parse_extensions([join_offers(asked)]) == asked
    assert without_server_context([]) == []


@pytest.mark.parametrize(
    ("answer", "is_droppable"),
    [
        (b"", True),  # nothing is compressed
        (DEFLATE, False),
        (DEFLATE + b"; client_no_context_takeover", False),
        (DEFLATE + b"; server_no_context_takeover", True),
        (b"Permessage-Deflate; client_max_window_bits=12; Server_No_Context_Takeover", True),
    ],
)
def test_a_message_of_the_server_may_be_left_out_where_it_agreed(answer: bytes, is_droppable: bool) -> None:
    agreed = settle([answer], without_server_context(offers(BROWSER)), may_drop=True)
    assert agreed.is_droppable_outward is is_droppable
