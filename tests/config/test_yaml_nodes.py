"""Strict YAML: texts with places, and a located mistake for everything that YAML would rather guess."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.problems import Problem
from proxy.config.yaml_nodes import MAX_DEPTH, MAX_FILE, Broken, Listing, Node, Table, Text, read


def tree(text: str, **environ: str) -> tuple[Node, list[str]]:
    problems: list[Problem] = []
    node = read(text, "f", environ, problems)
    return node, [str(problem).removeprefix("f:") for problem in problems]


def value(text: str, **environ: str) -> str:
    node, problems = tree(text, **environ)
    assert isinstance(node, Text), problems
    return node.value


@pytest.mark.parametrize("word", ["off", "yes", "12:30", "010", "1_000", "0x10", "null", "~", "1e3", "2024-01-01", ".inf", "16KiB"])
def test_every_scalar_is_the_text_that_stands_there(word: str) -> None:
    assert value(word) == word
    assert value(f'"{word}"') == word


def test_places_count_lines_and_columns_from_1() -> None:
    node, _ = tree("a:\n  - b\n  - c: d\n")
    assert isinstance(node, Table)
    listing = node.entries["a"]
    assert isinstance(listing, Listing)
    table = listing.items[1]
    assert isinstance(table, Table)
    places = [node.place, node.keys["a"], listing.place, listing.items[0].place, table.keys["c"], table.entries["c"].place]
    assert [(one.line, one.column, one.path) for one in places] == [
        (1, 1, ""),
        (1, 1, "a"),
        (2, 3, "a"),
        (2, 5, "a[0]"),
        (3, 5, "a[1].c"),
        (3, 8, "a[1].c"),
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "1:1: expected a mapping with at least upstreams, found an empty file"),
        ("# only words\n\n", "1:1: expected a mapping with at least upstreams, found an empty file"),
        ("---\n...\n", None),
        ("a: b\n---\nc: d", "2:1: expected one document, found a second one"),
        ("a:\n\tb: c", "2:1: expected spaces between the words and before them, found a tab"),
        ("a:\tb", "1:3: expected spaces between the words and before them, found a tab"),
        ("a: b\na: c", "2:1: a: expected each key once, found a again (first on line 1)"),
        ("a: {x: 1, y: 2, x: 3}", "1:17: a.x: expected each key once, found x again (first on line 1)"),
        ("? [a]\n: b", "1:3: expected a key of plain text, found something else"),
        ("? {a: b}\n: b", "1:3: expected a key of plain text, found something else"),
        ("!!int 1: b", "1:1: expected a key of plain text, found something else"),
        ('"\\ud800": b', "1:1: expected a key of plain text, found something else"),
        ("a: !!int 3", "1:4: a: expected a value without a tag (!), found one with a tag"),
        ("a: !!python/object:os.system {}", "1:4: a: expected a value without a tag (!), found one with a tag"),
        ("a: !mine [b]", "1:4: a: expected a value without a tag (!), found one with a tag"),
        ('a: "\\ud800"', "1:4: a: expected text, found an escape that is only half a character"),
        ('a: "\\UFFFFFFFF"', "1:7: expected valid YAML, found a number that YAML cannot mean here"),
        ("%YAML " + "9" * 5000 + ".1\n---\na", "1:7: expected valid YAML, found a number that YAML cannot mean here"),
        ("a: \x07", "1:4: expected text, found the control character U+0007"),
        ("a: b\r\nc: d\ne\0", "3:2: expected text, found the control character U+0000"),
        ("a: \ud800", "1:4: expected text, found the control character U+D800"),
        (
            "a: [b, c",
            "1:9: expected valid YAML, found a mistake: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
        ),
        ("a: b: c", "1:5: expected valid YAML, found a mistake: mapping values are not allowed here"),
        ("a: 'b", "1:6: expected valid YAML, found a mistake: found unexpected end of stream (while scanning a quoted scalar)"),
        ("&x [*x]", "1:1: [0]: expected a value that does not hold itself, found an alias of what it stands in"),
        ("&x {a: {b: *x}}", "1:1: a.b: expected a value that does not hold itself, found an alias of what it stands in"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"1:{MAX_DEPTH}: expected at most 16 levels of lists and mappings, found more"),
        ("[" * 100_000, f"1:{MAX_DEPTH}: expected at most 16 levels of lists and mappings, found more"),
        ("- a\n" * 20_001, "1:1: expected at most 20000 values in all, aliases expanded, found more"),
        (" " * (MAX_FILE + 1), " expected a file of at most 1024 KiB, found a larger one"),
    ],
)
def test_what_yaml_would_guess_or_drop_is_a_located_mistake(text: str, mistake: str | None) -> None:
    assert tree(text)[1] == ([] if mistake is None else [mistake])


def test_a_file_may_begin_with_a_byte_order_mark_and_end_its_document() -> None:
    assert value("\ufeff---\nword\n...\n") == "word"


def test_an_alias_repeats_a_value() -> None:
    node, problems = tree("a: &x [b, c]\nd: *x\n")
    assert isinstance(node, Table)
    assert not problems
    second = node.entries["d"]
    assert isinstance(second, Listing)
    assert [item.value for item in second.items if isinstance(item, Text)] == ["b", "c"]


def test_a_merge_key_is_a_key_like_any_other() -> None:
    node, problems = tree("a: &x {b: c}\nd: {<<: *x}\n")
    assert isinstance(node, Table)
    assert not problems
    assert isinstance(node.entries["d"], Table)
    assert list(node.entries["d"].entries) == ["<<"]


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    bomb = "- &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    assert tree(bomb)[1] == ["1:3: expected at most 20000 values in all, aliases expanded, found more"]  # the value that was one too many


@pytest.mark.parametrize(
    "password",
    ["*hunter2", "&hunter2", "!hunter2", "!hunter2!x", "@hunter2", "%hunter2", "`hunter2", "{hunter2", "hunter2: x", "&hunter2 &hunter2"],
)
def test_an_unquoted_password_that_yaml_stumbles_over_is_not_repeated(password: str) -> None:
    _, problems = tree(f"identity:\n  secret: {password}\n  other: &hunter2 b\n")
    assert all("hunter2" not in problem for problem in problems)


def test_variables_are_replaced_in_values_of_any_style() -> None:
    assert value("ws://${HOST}:${PORT_2}", HOST="h", PORT_2="1") == "ws://h:1"
    assert value("'${A}'", A="x") == value('"${A}"', A="x") == "x"
    assert value("|-\n  ${A}", A="x") == "x"


def test_what_a_variable_holds_is_neither_yaml_nor_read_again() -> None:
    assert value("${A}", A="[b, ${B}]") == "[b, ${B}]"


@pytest.mark.parametrize(
    ("text", "meant"), [("$${A}", "${A}"), ("$$${A}", "$${A}"), ("a$b$", "a$b$"), ("$$", "$$"), ("$A", "$A"), ("$${A}${A}", "${A}x")]
)
def test_a_dollar_before_the_dollar_keeps_it_as_it_is(text: str, meant: str) -> None:
    assert value(text, A="x") == meant


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a: ${NOPE}", "1:4: a: expected the environment variable NOPE, found it unset"),
        ("a: [b, 'x${NOPE}']", "1:8: a[1]: expected the environment variable NOPE, found it unset"),
        ("a: ${}", "1:4: a: expected ${NAME}, or $${ for a plain ${, found ${ without a name and }"),
        ("a: ${A", "1:4: a: expected ${NAME}, or $${ for a plain ${, found ${ without a name and }"),
        ("a: ${A:-hunter2}", "1:4: a: expected ${NAME}, or $${ for a plain ${, found ${ without a name and }"),
        ("a: ${1A}", "1:4: a: expected ${NAME}, or $${ for a plain ${, found ${ without a name and }"),
        ("a: ${BYTES}", "1:4: a: expected UTF-8 in the environment variable BYTES, found other bytes"),
    ],
)
def test_a_variable_that_cannot_be_replaced_is_named_and_nothing_else(text: str, mistake: str) -> None:
    assert tree(text, A="hunter2", BYTES="hunter2\udcff")[1] == [mistake]


def test_every_variable_that_is_unset_is_told() -> None:
    assert len(tree("a: ${B}${C}\nd: ${E}")[1]) == 3


def test_keys_are_not_replaced() -> None:
    node, problems = tree("${A}: b", A="x")
    assert isinstance(node, Table)
    assert list(node.entries) == ["${A}"]
    assert not problems


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab:-?[]{}&*!|>'\"%@`#,.$~<= \n\t\\\r\x85\u2028\ufeff0x\0") | st.characters(), max_size=60))
def test_any_text_gives_a_tree_or_a_mistake(text: str) -> None:
    node, problems = tree(text, a="b")
    if isinstance(node, Broken):
        assert problems
