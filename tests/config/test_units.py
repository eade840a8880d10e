"""Amounts: what each word means to the last digit, and what is no amount."""

import contextlib
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.units import MAX_NUMBER, parse_byte_rate, parse_count, parse_duration, parse_number, parse_rate, parse_seconds, parse_size

EVERY_UNIT = [parse_count, parse_number, parse_size, parse_rate, parse_byte_rate, parse_duration, parse_seconds]


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("3", 3), ("010", 10), ("2000", 2000), (str(MAX_NUMBER), MAX_NUMBER)])
def test_a_count_is_decimal_whatever_yaml_thinks_of_leading_zeros(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("1KiB", 1024), ("16KiB", 16384), ("1MiB", 1 << 20), ("8GiB", 8 << 30)],
)
def test_sizes_are_bytes_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", 10.0), ("600/min", 10.0), ("5/h", 5 / 3600), ("0.5/s", 0.5), ("0/s", 0.0), ("0/h", 0.0), ("1.25/min", 1.25 / 60)],
)
def test_rates_are_per_second(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("0.5s", 0.5), ("0s", 0.0), ("1.5h", 5400.0)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("1s", 1), ("2000ms", 2), ("0.5m", 30), ("2.05m", 123), ("1h", 3600)])
def test_what_counts_in_seconds_is_whole(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds
    assert isinstance(parse_seconds(text), int)


@pytest.mark.parametrize("text", ["1ms", "1500ms", "0.5s", "1.01m"])
def test_a_part_of_a_second_is_refused_where_seconds_count(text: str) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *(
            (parse, text)
            for parse in EVERY_UNIT
            for text in ["", " ", "-1", "+1", "nan", "inf", "1e3", "1_000", "\u0663", "\uff11", "0x10", "1 ", " 1", "1\n"]
        ),
        *((parse_count, text) for text in ["1.0", "1.", "3KiB", "3/s", "99999999999999999", str(MAX_NUMBER + 1)]),
        *((parse_number, text) for text in [".5", "1.", "1.2.3", "1.0000000001", "9999999999999999"]),
        *((parse_size, text) for text in ["16KB", "16kib", "16 KiB", "1.5KiB", "16K", "1TiB", f"{MAX_NUMBER}KiB"]),
        *(
            (parse_rate, text)
            for text in ["10", "/s", "10/", "10/m", "10/d", "10/ s", "10 /s", "10/S", "10/s/s", "-1/s", "9999999999999999/h"]
        ),
        *((parse_duration, text) for text in ["30", "s", "30 s", "30sec", "1d", "12:30", "1m30s", "9999999999999999s", f"{MAX_NUMBER}h"]),
    ],
)
def test_what_is_not_quite_an_amount_is_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|at most"):
        parse(text)


@given(st.integers(0, MAX_NUMBER))
def test_counts_come_back_as_they_were_written(count: int) -> None:
    assert parse_count(str(count)) == parse_size(str(count)) == parse_number(str(count)) == count


@given(st.integers(0, MAX_NUMBER >> 30), st.sampled_from([("KiB", 10), ("MiB", 20), ("GiB", 30)]))
def test_sizes_come_back_as_they_were_written(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number << unit[1]


@given(st.decimals(0, 10**9, places=6), st.sampled_from([("s", 1), ("min", 60), ("h", 3600)]))
def test_rates_are_the_nearest_float_to_what_was_written(number: Decimal, unit: tuple[str, int]) -> None:
    assert parse_rate(f"{number:f}/{unit[0]}") == pytest.approx(float(number / unit[1]), rel=1e-15)


@given(st.decimals(0, 10**9, places=6), st.sampled_from([("ms", Decimal("0.001")), ("s", 1), ("m", 60), ("h", 3600)]))
def test_durations_are_the_nearest_float_to_what_was_written(number: Decimal, unit: tuple[str, Decimal]) -> None:
    assert parse_duration(f"{number:f}{unit[0]}") == pytest.approx(float(number * unit[1]), rel=1e-15)


@given(st.text(), st.sampled_from(EVERY_UNIT))
def test_any_text_is_an_amount_within_bounds_or_a_value_error(text: str, parse: Callable[[str], float]) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse(text) <= MAX_NUMBER


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0/s", 0), ("4096/s", 4096), ("64KiB/s", 65536), ("60KiB/min", 1024), ("100MiB/h", (100 << 20) / 3600), ("1GiB/s", 1 << 30)],
)
def test_rates_of_bytes_are_per_second(text: str, rate: float) -> None:
    assert parse_byte_rate(text) == rate


@pytest.mark.parametrize("text", ["", "64KiB", "/s", "1.5KiB/s", "64kB/s", "64KiB/d", "64 KiB/s", "64KiB/s ", "-1/s"])
def test_what_is_no_rate_of_bytes_is_told_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="4096/s, 64KiB/s or 100MiB/h"):
        parse_byte_rate(text)
