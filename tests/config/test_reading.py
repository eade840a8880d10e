"""The questions a schema asks: typed answers, or a problem and None."""

from enum import Enum
from pathlib import Path

import pytest

from proxy.config.problems import Place, Problem
from proxy.config.reading import (
    FILE,
    FLAG,
    MAX_NAMED,
    NAME,
    Kind,
    Reading,
    any_of,
    beside,
    choice,
    names_of,
    parse_name,
    suggestion,
    whole,
    within,
)
from proxy.config.units import parse_size
from proxy.config.yaml_nodes import Broken, Listing, Node, Table, Text

HERE = Place("", 0, 0, "k")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def text(value: str, *, plain: bool = True, from_environment: bool = False) -> Text:
    return Text(HERE, value, f'"{value}"', plain, from_environment)


def ask() -> tuple[Reading, list[Problem]]:
    problems: list[Problem] = []
    return Reading(problems), problems


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "9", "a" * 64])
def test_names_are_short_and_plain(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a\n", "ä", "a/b", "a" * 65, "a{b}"])
def test_what_would_not_do_as_a_label_or_in_a_close_reason_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="a name of at most 64"):
        parse_name(name)


def test_a_choice_is_one_of_its_words_spelled_exactly() -> None:
    kind = choice(Colour, later=("green",), where=" for walls")
    assert kind.parse("red") is Colour.RED
    for word, expected in [
        ("Red", "red or blue for walls (did you mean red?)"),
        ("reed", "red or blue for walls (did you mean red?)"),
        ("xyz", "red or blue for walls"),
        ("green", "red or blue for walls (green is not supported yet)"),
    ]:
        with pytest.raises(ValueError, match="red or blue") as error:
            kind.parse(word)
        assert str(error.value) == expected


def test_a_flag_is_true_or_false() -> None:
    assert (FLAG.parse("true"), FLAG.parse("false")) == (True, False)
    for word in ("", "True", "yes", "on", "1"):
        with pytest.raises(ValueError, match=r"^true or false$"):
            FLAG.parse(word)


def test_an_amount_lies_within_its_bounds_both_included() -> None:
    kind = within("a size", parse_size, "1KiB", "2KiB", " (of paper)")
    assert [kind.parse(word) for word in ("1024", "1KiB", "1500", "2KiB")] == [1024, 1024, 1500, 2048]
    for word in ("1023", "2049", "0", "3KiB", "1kib", ""):
        with pytest.raises(ValueError, match="a size") as error:
            kind.parse(word)
        assert str(error.value) == kind.expected == "a size from 1KiB to 2KiB (of paper)"


def test_relative_paths_start_where_the_configuration_lies() -> None:
    assert beside(Place("/etc/wsgate/gate.yaml", 1, 1, ""), "gate.pem") == Path("/etc/wsgate/gate.pem")
    assert beside(Place("/etc/wsgate/gate.yaml", 1, 1, ""), "/run/gate.pem") == Path("/run/gate.pem")
    assert beside(Place("gate.yaml", 1, 1, ""), "gate.pem") == Path("gate.pem")


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "\udcff"])
def test_what_cannot_be_printed_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="the path of a file"):
        FILE.parse(path)


def test_lists_of_words_are_english() -> None:
    assert [any_of("a"), any_of("ab"), any_of("abc")] == ["a", "a or b", "a, b or c"]


def test_many_names_are_cut_short_and_odd_ones_are_not_repeated() -> None:
    assert names_of(["a", "b c"]) == "a or ?"
    assert names_of([f"n{number}" for number in range(MAX_NAMED + 5)]) == "n0, n1, n2, n3, n4, n5, n6, n7 or 5 others"
    assert suggestion("b d", ["b c"]) == ""


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (text(""), "nothing"),
        (text("", plain=False), "text"),
        (text("hunter2"), "text"),
        (Listing(HERE, ()), "a list"),
        (Table(HERE), "a mapping"),
    ],
)
def test_another_kind_of_value_is_named_by_its_kind_and_not_repeated(node: Node, found: str) -> None:
    reading, problems = ask()
    answers: list[object] = []
    if not isinstance(node, Table):
        answers.append(reading.table(node, "x"))
    if not isinstance(node, Listing) and found != "nothing":
        answers.append(reading.items(node, "x"))
    if not isinstance(node, Text):
        answers += [reading.scalar(node, NAME), reading.text(node, "x"), reading.one_or_more(node, "x") if found != "a list" else None]
    assert set(answers) == {None}
    assert {problem.found for problem in problems} == {found}


def test_what_is_broken_already_gives_no_second_problem() -> None:
    reading, problems = ask()
    broken = Broken(HERE)
    assert (
        reading.scalar(broken, NAME) is reading.table(broken, "x") is reading.items(broken, "x") is reading.one_or_more(broken, "x") is None
    )
    assert not problems


def test_a_key_without_a_value_is_an_empty_list_but_not_one_or_more() -> None:
    reading, problems = ask()
    assert reading.items(text(""), "x") == ()
    assert reading.one_or_more(text(""), "x") is None
    assert reading.one_or_more(Listing(HERE, ()), "x") is None
    assert [problem.found for problem in problems] == ["nothing", "an empty list"]


def test_the_words_of_an_error_are_not_trusted_with_a_value_from_the_environment() -> None:
    def parse(value: str) -> str:
        raise ValueError(f"not {value}")

    reading, problems = ask()
    reading.scalar(text("hunter2", from_environment=True), Kind("something", parse))
    reading.scalar(text("plain"), Kind("something", parse))
    assert [problem.expected for problem in problems] == ["something", "not plain"]


def test_a_missing_key_is_told_at_the_table_under_the_path_of_the_key() -> None:
    reading, problems = ask()
    assert reading.required(Table(Place("f", 2, 3, "rules[0]")), "name", NAME) is None
    assert reading.optional(Table(HERE), "name", NAME, "default") == "default"
    assert list(map(str, problems)) == [f"f:2:3: rules[0].name: expected {NAME.expected}, found nothing"]


def test_unknown_keys_are_told_each_with_its_nearest_match_and_later_ones_as_such() -> None:
    reading, problems = ask()
    entries = dict.fromkeys(("name", "nmae", "draim", "drain", "zzz"), text("x"))
    keys = {key: HERE.key(key) for key in entries}
    assert reading.fields(Table(HERE, entries, keys), "x", ("name", "per"), ("drain",))
    assert list(map(str, problems)) == [
        "k.nmae: expected name or per (did you mean name?), found the unknown key nmae",
        "k.draim: expected name or per (did you mean drain?), found the unknown key draim",
        "k.drain: expected name or per, found drain, which is not supported yet",
        "k.zzz: expected name or per, found the unknown key zzz",
    ]


def test_whole_is_all_or_nothing() -> None:
    assert whole([1, 2]) == (1, 2)
    assert whole([1, None]) is None
    assert whole([]) == ()
