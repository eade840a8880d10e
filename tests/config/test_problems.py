"""How a mistake is told: where, what, and never a secret."""

import pytest

from proxy.config import ConfigError, Problem
from proxy.config.problems import MAX_SHOWN, Place, show, show_key


def test_a_mistake_in_a_file_names_line_column_path_and_both_sides() -> None:
    assert str(Problem("gate.yaml", 3, 9, "rules[2].per", "user", "usr")) == "gate.yaml:3:9: rules[2].per: expected user, found usr"


def test_a_mistake_of_a_whole_file_has_no_line() -> None:
    assert str(Place("gate.yaml", 0, 0, "").problem("a file", "none")) == "gate.yaml: expected a file, found none"


def test_a_mistake_in_a_flag_begins_with_the_flag() -> None:
    assert str(Place("", 0, 0, "--listen").problem("host:port", "x")) == "--listen: expected host:port, found x"


def test_mistakes_come_in_the_order_of_the_file_flags_first_and_each_once() -> None:
    late, early, flag = Problem("f", 9, 1, "b", "x", "y"), Problem("f", 2, 5, "a", "x", "y"), Problem("", 0, 0, "--store", "x", "y")
    assert ConfigError([late, early, late, flag]).problems == (flag, early, late)
    assert str(ConfigError([late, early])) == f"{early}\n{late}"


def test_paths_are_dotted_and_items_are_counted_from_0() -> None:
    top = Place("f", 1, 1, "")
    assert top.key("rules").item(2).key("per").path == "rules[2].per"


@pytest.mark.parametrize("key", ["secret hunter2", "secret:hunter2", "", "a\nb", "k" * 65])
def test_a_key_that_is_no_name_may_be_a_secret_out_of_place_and_is_not_repeated(key: str) -> None:
    assert show_key(key) == "?"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", '"plain"'),
        ("two\nlines", '"two\\nlines"'),
        ("\x1b[31m\u202e\udcff", '"\\x1b[31m\\u202e\\udcff"'),
        ("redis://user:pass@host", '"redis://...@host"'),
        ("redis://user:p@ss/word@host", '"redis://...@host"'),
        ("ws://host/a@b", '"ws://...@b"'),
        ("a" * (MAX_SHOWN + 1), f'"{"a" * MAX_SHOWN}..."'),
        (f"ws://{'p' * 100}@host", '"ws://...@host"'),
    ],
)
def test_values_are_shown_on_one_short_line_without_passwords(text: str, shown: str) -> None:
    assert show(text) == shown
