# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.policy.units import (
    DURATION,
    LARGEST,
    RATE,
    SHARE,
    SIZE,
    Unit,
    UnitError,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)

UNITS = pytest.mark.parametrize("unit", [RATE, DURATION, SIZE, SHARE], ids=lambda unit: unit.noun)


@pytest.mark.parametrize(
    ("text", "bits_per_second"),
    [
        ("0bit", 0),
        ("200Mbit", 200_000_000),
        ("200mbit", 200_000_000),  # tc's m is mega
        ("10KBIT", 10_000),
        ("1.5Gbit", 1_500_000_000),
        ("100 Gbit", 100_000_000_000),
        ("2Tbit", 2_000_000_000_000),
        ("1Kibit", 1024),
        ("1mibit", 1 << 20),
        ("3Gibit", 3 << 30),
        ("18446744073709551615bit", LARGEST),
    ],
)
def test_rates_are_read_as_tc_reads_them(text: str, bits_per_second: int) -> None:
    assert parse_rate(text) == bits_per_second


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("0us", 0), ("30ms", 30_000), ("30.5ms", 30_500), ("2s", 2_000_000), ("5m", 300_000_000), ("7µs", 7)],
)
def test_durations_are_read_in_microseconds(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("65536", 65536), ("4MiB", 4 << 20), ("64KB", 64_000), ("64kb", 64_000), ("1.5KiB", 1536), ("9B", 9)],
)
def test_sizes_are_read_in_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "ppm"), [("0%", 0), ("5%", 50_000), ("0.5%", 5_000), ("0.0001%", 1), ("100%", 1_000_000)]
)
def test_shares_are_read_in_parts_per_million(text: str, ppm: int) -> None:
    assert parse_share(text) == ppm


@pytest.mark.parametrize(
    ("unit", "text", "sentence"),
    [
        (RATE, "200", "'200' has no unit; write for example 200Mbit"),
        (RATE, "200Mbps", "'200Mbps' could mean bits or bytes; write bits, for example 200Mbit"),
        (RATE, "25MB", "'25MB' could mean bits or bytes; write bits, for example 200Mbit"),
        (RATE, "200Mbyte", "'Mbyte' is not a unit of rate; use one of bit, kbit, Mbit"),
        (RATE, "-1Mbit", "'-1Mbit' is negative; write for example 200Mbit"),
        (RATE, "fast", "'fast' is not a rate; write for example 200Mbit"),
        (RATE, "1e9bit", "'1e9bit' is not a rate; write for example 200Mbit"),
        (RATE, "0.5bit", "'0.5bit' is finer than 1bit; write a multiple of 1bit"),
        (RATE, "18446744073709551616bit", "is too large; write a smaller number"),
        (RATE, "9" * 5000 + "bit", "…' is not a rate"),
        (DURATION, "30", "'30' has no unit; write for example 30ms"),
        (DURATION, "5h", "'h' is not a unit of time; use one of us, ms, s, m"),
        (DURATION, "0.5us", "is finer than 1us"),
        (SIZE, "64K", "'64K' could mean powers of 1024 or of 1000; write 64KiB or 64KB"),
        (SIZE, "4Mbit", "'Mbit' is not a unit of size; use one of B, KB, MB"),
        (SIZE, "0.5", "'0.5' is finer than 1B"),
        (SHARE, "5", "'5' has no percent sign; write for example 5%"),
        (SHARE, "101%", "'101%' is more than 100%; write a share from 0% to 100%"),
        (SHARE, "0.00001%", "'0.00001%' is finer than 0.0001%"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(unit: Unit, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        unit.parse(text)


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (format_rate(200_000_000), "200Mbit"),
        (format_rate(1_500_000_000), "1500Mbit"),
        (format_rate(1024), "1Kibit"),
        (format_rate(0), "0bit"),
        (format_duration(30_000), "30ms"),
        (format_duration(90_000_000), "90s"),
        (format_duration(60_000_000), "1m"),
        (format_size(65536), "64KiB"),
        (format_size(64_000), "64KB"),
        (format_size(1500), "1500B"),
        (format_share(50_000), "5%"),
        (format_share(5_000), "0.5%"),
        (format_share(1_000_000), "100%"),
        (format_share(0), "0%"),
    ],
)
def test_values_are_written_in_the_largest_exact_unit(formatted: str, expected: str) -> None:
    assert formatted == expected


@UNITS
@given(data=st.data())
def test_what_is_formatted_reads_back_as_the_same_value(unit: Unit, data: st.DataObject) -> None:
    highest = 1_000_000 if unit is SHARE else LARGEST
    number = st.integers(0, highest) | st.builds(
        lambda base, scale: min(base * scale, highest),
        st.integers(0, 5000),
        st.sampled_from(sorted(unit.scales.values())),
    )
    value = data.draw(number)
    text = unit.format(value)
    assert unit.parse(text) == value
    assert re.search(unit.pattern, text)


@UNITS
@given(data=st.data())
def test_spellings_of_the_pattern_are_read_exactly_or_refused_for_their_value(
    unit: Unit, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(unit.pattern, fullmatch=True))
    if text.endswith("\n"):  # Python's $ also matches before a last newline, ECMAScript's does not
        return
    try:
        value = unit.parse(text)
    except UnitError as error:
        refused = error.message
    else:
        refused = ""
        number, suffix = re.fullmatch(r"([0-9.]+) ?(\D*)", text).groups()  # type: ignore[union-attr]
        scales = {name.lower(): scale for name, scale in unit.scales.items()}
        assert value == Fraction(number) * scales.get(suffix.lower().replace("µ", "u").replace("μ", "u"), 1)
    assert not refused or re.search("finer than|too large|more than 100%", refused)


@UNITS
@given(text=st.text())
def test_any_text_is_read_or_refused_in_a_sentence(unit: Unit, text: str) -> None:
    try:
        value = unit.parse(text)
    except UnitError as error:
        refused = error
    else:
        assert 0 <= value <= LARGEST
        assert re.search(unit.pattern, text)
        return
    assert refused.message
    assert refused.remedy
    assert "\n" not in str(refused)
