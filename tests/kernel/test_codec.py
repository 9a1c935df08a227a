# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.kernel.codec import Array, Bytes, Codec, Field, Integer, Layout, Member, Record

U8, U16, U32, S64 = Integer(1), Integer(2), Integer(4), Integer(8, signed=True)
INNER = Record(8, (Member("flag", 0, U8), Member("number", 4, U32)))
OUTER = Record(
    56,
    (
        Member("total", 0, S64),
        Member("inner", 8, INNER),
        Member("pairs", 16, Array(INNER, 2)),
        Member("name", 32, Bytes(8, text=True)),
        Member("mac", 40, Bytes(6)),
        Member("ports", 46, Array(U16, 2)),
    ),
)
CODEC = Codec("outer", OUTER)
PAIR = {"flag": 1, "number": 2}
VALUE: dict[str, Any] = {
    "total": -5,
    "inner": PAIR,
    "pairs": [PAIR, {"flag": 255, "number": 2**32 - 1}],
    "name": b"eth0",
    "mac": b"\1\2\3\4\5\6",
    "ports": [80, 443],
}


def changed(**changes: object) -> dict[str, Any]:
    return VALUE | changes


def values_of(layout: Layout) -> st.SearchStrategy[Any]:
    match layout:
        case Integer(boolean=True):
            return st.booleans()
        case Integer():
            bits = layout.size * 8
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if layout.signed else (0, (1 << bits) - 1)
            return st.integers(low, high)
        case Bytes():
            return st.binary(min_size=layout.size, max_size=layout.size)
        case Array():
            return st.lists(values_of(layout.element), min_size=layout.count, max_size=layout.count)
        case Record():
            return st.fixed_dictionaries({m.name: values_of(m.layout) for m in layout.members})


@given(values_of(OUTER))
def test_what_is_packed_is_unpacked_the_same(value: dict[str, Any]) -> None:
    data = CODEC.pack(value)
    assert len(data) == CODEC.size
    assert CODEC.unpack(data) == value


def test_padding_is_zero_and_fields_lie_where_the_layout_says() -> None:
    data = CODEC.pack(VALUE)
    assert data[8:16] == b"\1\0\0\0\2\0\0\0"
    assert data[32:40] == b"eth0\0\0\0\0"
    assert data[50:56] == bytes(6)
    assert CODEC.fields[3:] == (Field("name", 32, 8), Field("mac", 40, 6), Field("ports", 46, 4))


def test_values_can_be_given_flat() -> None:
    flat = Codec("pair", INNER)
    assert flat.pack_values(7, 8) == flat.pack({"flag": 7, "number": 8})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(total=2**63), r"outer\.total: 9223372036854775808 is not in -9223372036854775808 to"),
        (changed(inner={"flag": 256, "number": 0}), r"outer\.inner\.flag: 256 is not in 0 to 255"),
        (changed(inner={"flag": 1}), r"outer\.inner\.number is missing"),
        (changed(pairs=[PAIR, PAIR | {"colour": 1}]), r"outer\.pairs\[1\]\.colour is not a field"),
        (changed(pairs=[PAIR]), r"outer\.pairs: a list of 2 needed"),
        (changed(name=b"far too long"), r"outer\.name: 12 bytes given, 8 needed"),
        (changed(mac=b"short"), r"outer\.mac: 5 bytes given, 6 needed"),
        (changed(mac=6), r"outer\.mac: 6 is not bytes"),
        (changed(total="many"), r"outer\.total: 'many' is not an integer"),
        (changed(total=1.5), r"outer\.total: 1\.5 is not an integer"),
        (changed(inner=3), r"outer\.inner: a mapping needed"),
        (changed(extra=3), r"outer\.extra is not a field"),
    ],
)
def test_a_value_that_does_not_fit_is_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CODEC.pack(value)


def test_a_wrong_number_of_bytes_or_values_is_refused() -> None:
    with pytest.raises(ValueError, match="55 bytes given, 56 needed"):
        CODEC.unpack(bytes(55))
    with pytest.raises(ValueError, match="1 values given, 2 needed"):
        Codec("pair", INNER).pack_values(1)


def test_a_single_integer_has_a_codec_too() -> None:
    codec = Codec("int", Integer(4, signed=True))
    assert codec.unpack(codec.pack(-2)) == -2
    assert codec.fields == ()
