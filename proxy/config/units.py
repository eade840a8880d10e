"""The words for amounts: `3`, `2.5`, `16KiB`, `10/s`, `200ms`.

ASCII digits only, no signs, no exponents, no underscores, nothing beyond 2**53, so that every number is exact as a float too.
Every ValueError says what is expected.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

Amount = TypeVar("Amount", int, float)

MAX_NUMBER: Final = 1 << 53  # beyond it a float skips whole numbers

_NUMBER: Final = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)")
_COUNT: Final = re.compile(r"[0-9]{1,16}")
_SIZE: Final = re.compile(r"([0-9]{1,16})(KiB|MiB|GiB)?")
_RATE: Final = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)/(s|min|h)")
_BYTE_RATE: Final = re.compile(r"([0-9]{1,16})(KiB|MiB|GiB)?/(s|min|h)")
_DURATION: Final = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)(ms|s|m|h)")

_BYTES: Final = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SECONDS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

COUNT_WORDS: Final = "a whole number such as 0, 3 or 2000"
NUMBER_WORDS: Final = "a number such as 20 or 2.5"
SIZE_WORDS: Final = "a size such as 512, 16KiB or 1MiB"
RATE_WORDS: Final = "a rate such as 10/s, 600/min, 5/h or 0.5/s"
BYTE_RATE_WORDS: Final = "a rate of bytes such as 4096/s, 64KiB/s or 100MiB/h"
DURATION_WORDS: Final = "a duration such as 200ms, 30s, 5m or 1h"
SECONDS_WORDS: Final = "a duration of whole seconds such as 30s, 5m or 1h"


def parse_count(text: str) -> int:
    """A whole number from 0 to 2**53; `010` is ten. Raises ValueError."""
    if not _COUNT.fullmatch(text):
        raise ValueError(COUNT_WORDS)
    return _bounded(int(text))


def parse_number(text: str) -> float:
    """A number from 0 to 2**53, at most nine digits behind the point. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(NUMBER_WORDS)
    return _bounded(float(text))


def parse_size(text: str) -> int:
    """Bytes: 16KiB is 16384. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(SIZE_WORDS)
    return _bounded(int(match[1]) * _BYTES[match[2]])


def parse_rate(text: str) -> float:
    """Per second: 600/min is 10.0; 0/s is never. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(RATE_WORDS)
    return _bounded(float(match[1])) / _SECONDS[match[2]]


def parse_byte_rate(text: str) -> float:
    """Bytes per second: 64KiB/s is 65536.0, 60KiB/min is 1024.0; 0/s is never. Raises ValueError."""
    match = _BYTE_RATE.fullmatch(text)
    if not match:
        raise ValueError(BYTE_RATE_WORDS)
    return _bounded(int(match[1]) * _BYTES[match[2]]) / _SECONDS[match[3]]


def parse_duration(text: str) -> float:
    """Seconds: 200ms is 0.2. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(DURATION_WORDS)
    number = _bounded(float(match[1]))
    return number / 1000 if match[2] == "ms" else _bounded(number * _SECONDS[match[2]])


def parse_seconds(text: str) -> int:
    """A duration of whole seconds, for what counts in them: 2m is 120. Raises ValueError."""
    seconds = round(parse_duration(text), 6)  # 2.05 * 60 is a little less than 123
    if not seconds.is_integer():
        raise ValueError(SECONDS_WORDS)
    return int(seconds)


def _bounded(number: Amount) -> Amount:
    if number > MAX_NUMBER:
        raise ValueError(f"a number of at most {MAX_NUMBER}")
    return number
