# SPDX-License-Identifier: Apache-2.0
"""Rates, durations, sizes and shares: from the spelling people use to base units, and back.

Base units are bits per second, microseconds, bytes and parts per million. Parsing is exact: a text that
is not a whole number of base units is an error, never rounded. Formatting picks the largest unit that
divides the value, so ``parse(format(n)) == n`` for every ``n`` up to ``LARGEST``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

LARGEST = 2**64 - 1
"""The largest value any unit may have: what fits the 64-bit integers the data plane is given."""

WHOLE_SHARE_PPM = 1_000_000


class UnitError(ValueError):
    """A quantity that cannot be read: ``message`` says why, ``remedy`` gives an example."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy


class Unit(NamedTuple):
    """One kind of quantity: how to read it, how to write it and how to talk about it."""

    noun: str
    example: str
    scales: Mapping[str, int]
    parse: Callable[[str], int]
    format: Callable[[int], str]
    pattern: str
    """The spellings accepted, as a regular expression that Python and ECMAScript read alike."""


_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

_RATE = {f"{prefix}bit": scale for prefix, scale in (_DECIMAL | _BINARY).items()}
_DURATION = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000}
_SIZE = {f"{prefix.replace('k', 'K')}B": scale for prefix, scale in (_DECIMAL | _BINARY).items()}
_SHARE = {"%": WHOLE_SHARE_PPM // 100}
_POINTS = {"pp": WHOLE_SHARE_PPM // 100}

_QUANTITY = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))? ?([A-Za-z%]*)", re.ASCII)
_WRITTEN = r"^[0-9]{1,20}(\.[0-9]{1,20})? ?"


def _split(text: str, noun: str, example: str) -> tuple[int, int, str]:
    """Return numerator, denominator and unit of ``text``; no float touches the number."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        if text.startswith("-"):
            raise UnitError(f"{quote(text)} is negative", f"write for example {example}")
        raise UnitError(f"{quote(text)} is not a {noun}", f"write for example {example}")
    whole, fraction, unit = found.groups(default="")
    return int(whole + fraction), 10 ** len(fraction), unit


def _scaled(text: str, numerator: int, denominator: int, scale: int, finest: str) -> int:
    value, rest = divmod(numerator * scale, denominator)
    if rest:
        raise UnitError(f"{quote(text)} is finer than {finest}", f"write a multiple of {finest}")
    if value > LARGEST:
        raise UnitError(f"{quote(text)} is too large", "write a smaller number")
    return value


@lru_cache(maxsize=4096)
def parse_rate(text: str) -> int:
    """Return the bits per second of ``"200Mbit"``.

    Units are those of tc(8): bit, kbit, Mbit, Gbit, Tbit (powers of 1000) and Kibit ... Tibit (powers of
    1024), in any case. tc's ``bps`` means bytes where most people mean bits, so it is refused. Raises
    UnitError.
    """
    numerator, denominator, unit = _split(text, "rate", "200Mbit")
    scale = _RATE_ANY_CASE.get(unit.lower())
    if scale is not None:
        return _scaled(text, numerator, denominator, scale, "1bit")
    if not unit:
        raise UnitError(f"{quote(text)} has no unit", f"write for example {text.rstrip()}Mbit")
    if unit.lower().endswith(("bps", "b/s", "b")):
        raise UnitError(f"{quote(text)} could mean bits or bytes", "write bits, for example 200Mbit")
    raise UnitError(f"{quote(unit)} is not a unit of rate", f"use one of {_choices(_RATE)}")


@lru_cache(maxsize=4096)
def parse_duration(text: str) -> int:
    """Return the microseconds of ``"30ms"``; units are us, ms, s and m (minutes). Raises UnitError."""
    numerator, denominator, unit = _split(text.replace("µs", "us").replace("μs", "us"), "duration", "30ms")
    if not unit:
        raise UnitError(f"{quote(text)} has no unit", f"write for example {text.rstrip()}ms")
    scale = _DURATION.get(unit)
    if scale is None:
        raise UnitError(f"{quote(unit)} is not a unit of time", f"use one of {_choices(_DURATION)}")
    return _scaled(text, numerator, denominator, scale, "1us")


@lru_cache(maxsize=4096)
def parse_size(text: str) -> int:
    """Return the bytes of ``"4MiB"`` (powers of 1024), ``"64KB"`` (powers of 1000) or ``"65536"``.

    A bare prefix as in ``64K`` is refused, because tools disagree about what it means. Raises UnitError.
    """
    numerator, denominator, unit = _split(text, "size", "4MiB")
    scale = _SIZE_ANY_CASE.get(unit.lower())
    if scale is not None:
        return _scaled(text, numerator, denominator, scale, "1B")
    if unit.upper() in ("K", "M", "G", "T"):
        number, prefix = text.removesuffix(unit).rstrip(), unit.upper()
        raise UnitError(
            f"{quote(text)} could mean powers of 1024 or of 1000",
            f"write {number}{prefix}iB or {number}{prefix}B",
        )
    raise UnitError(f"{quote(unit)} is not a unit of size", f"use one of {_choices(_SIZE)}")


@lru_cache(maxsize=4096)
def parse_share(text: str) -> int:
    """Return the parts per million of ``"5%"``, from 0% to 100%. Raises UnitError."""
    numerator, denominator, unit = _split(text, "share", "5%")
    if unit != "%":
        raise UnitError(f"{quote(text)} has no percent sign", "write for example 5%")
    value = _scaled(text, numerator, denominator, _SHARE["%"], "0.0001%")
    if value > WHOLE_SHARE_PPM:
        raise UnitError(f"{quote(text)} is more than 100%", "write a share from 0% to 100%")
    return value


@lru_cache(maxsize=4096)
def parse_points(text: str) -> int:
    """Return the parts per million of ``"2pp"``, percentage points between two shares. Raises UnitError."""
    numerator, denominator, unit = _split(text, "number of percentage points", "2pp")
    if unit == "%":
        number = text.removesuffix("%").rstrip()
        raise UnitError(
            f"{quote(text)} could mean percentage points or a share of the other value",
            f"write {number}pp for percentage points",
        )
    if unit != "pp":
        raise UnitError(f"{quote(text)} has no unit of percentage points", "write for example 2pp")
    return _scaled(text, numerator, denominator, _POINTS["pp"], "0.0001pp")


@lru_cache(maxsize=4096)
def parse_increase(text: str) -> int:
    """Return the parts per million of ``"10%"`` more than another value; may be more than 100%. Raises UnitError."""
    numerator, denominator, unit = _split(text, "relative increase", "10%")
    if unit != "%":
        raise UnitError(f"{quote(text)} has no percent sign", "write for example 10%")
    return _scaled(text, numerator, denominator, _SHARE["%"], "0.0001%")


def format_rate(bits_per_second: int) -> str:
    """Return the exact spelling of a rate: ``200_000_000`` is ``"200Mbit"``."""
    return _format(bits_per_second, _RATE_LARGEST_FIRST, "bit")


def format_duration(microseconds: int) -> str:
    """Return the exact spelling of a duration: ``30_000`` is ``"30ms"``."""
    return _format(microseconds, _DURATION_LARGEST_FIRST, "us")


def format_size(size_bytes: int) -> str:
    """Return the exact spelling of a size: ``65536`` is ``"64KiB"``."""
    return _format(size_bytes, _SIZE_LARGEST_FIRST, "B")


def format_share(parts_per_million: int) -> str:
    """Return a share as a percentage: ``5_000`` is ``"0.5%"``."""
    whole, rest = divmod(parts_per_million, _SHARE["%"])
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".") + "%"


def format_points(parts_per_million: int) -> str:
    """Return a difference of shares in percentage points: ``5_000`` is ``"0.5pp"``."""
    return format_share(parts_per_million).removesuffix("%") + "pp"


def quote(text: str) -> str:
    """Return ``text`` in quotes on one line, shortened to what is readable in a message."""
    return repr(shorten(text))


def shorten(text: str, length: int = 60) -> str:
    """Return ``text`` cut to ``length`` characters, with an ellipsis when something was cut."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _format(value: int, scales: list[tuple[str, int]], base: str) -> str:
    for unit, scale in scales:
        if value and value % scale == 0:
            return f"{value // scale}{unit}"
    return f"{value}{base}"


def _choices(scales: Mapping[str, int]) -> str:
    return ", ".join(scales)


def _any_case(scales: Mapping[str, int]) -> dict[str, int]:
    return {unit.lower(): scale for unit, scale in scales.items()}


def _largest_first(scales: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(scales.items(), key=lambda item: -item[1])


_RATE_ANY_CASE = _any_case(_RATE)
_SIZE_ANY_CASE = {"": 1} | _any_case(_SIZE)
_RATE_LARGEST_FIRST = _largest_first(_RATE)
_DURATION_LARGEST_FIRST = _largest_first(_DURATION)
_SIZE_LARGEST_FIRST = _largest_first(_SIZE)

RATE = Unit("rate", "200Mbit", _RATE, parse_rate, format_rate, rf"{_WRITTEN}([kKmMgGtT][iI]?)?[bB][iI][tT]$")
DURATION = Unit("duration", "30ms", _DURATION, parse_duration, format_duration, rf"{_WRITTEN}([uµμm]s|s|m)$")
SIZE = Unit("size", "4MiB", _SIZE, parse_size, format_size, rf"{_WRITTEN}(([kKmMgGtT][iI]?)?[bB])?$")
SHARE = Unit("share", "5%", _SHARE, parse_share, format_share, rf"{_WRITTEN}%$")
POINTS = Unit("number of percentage points", "2pp", _POINTS, parse_points, format_points, rf"{_WRITTEN}pp$")
INCREASE = Unit("relative increase", "10%", _SHARE, parse_increase, format_share, rf"{_WRITTEN}%$")
