# SPDX-License-Identifier: Apache-2.0
"""Comparisons of symbolic bytes with values, as rows that test words of a packet's view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pliant.fastpath.ruleset_rows import KEY_WORDS, WINDOW_WORDS, Kind, Row
from pliant.fastpath.ruleset_symbols import Byte, Bytes, possible

_WINDOW_BYTES = 4 * WINDOW_WORDS


@dataclass(frozen=True, slots=True)
class Equality:
    """When bytes are equal to a value: never, or when all ``rows`` apply; ``is_whole``: and then they are."""

    never: bool
    rows: tuple[Row, ...] = ()
    is_whole: bool = True


def equality(held: Bytes, value: bytes) -> Equality:
    """When symbolic bytes are a value."""
    wanted: dict[int, tuple[int, int]] = {}
    is_whole = True
    for byte, given in zip(held, value, strict=True):
        differs = byte.flip ^ given
        if differs & byte.constant:
            return Equality(never=True)
        if byte.mask:
            mask, bits = wanted.get(byte.source, (0, 0))
            if (bits ^ differs) & mask & byte.mask:
                return Equality(never=True)
            wanted[byte.source] = (mask | byte.mask, bits | differs & byte.mask)
        is_whole = is_whole and not byte.unknown
    return Equality(False, tuple(_equal_rows(wanted)), is_whole)


def _equal_rows(wanted: dict[int, tuple[int, int]]) -> Iterator[Row]:
    while wanted:
        start = min(wanted) & ~3
        inside = [source for source in wanted if source < start + _WINDOW_BYTES]
        mask, value = bytearray(_WINDOW_BYTES), bytearray(_WINDOW_BYTES)
        for source in inside:
            mask[source - start], value[source - start] = wanted.pop(source)
        yield Row(Kind.EQUAL, start // 4, mask=bytes(mask), value=bytes(value))


def known_number(held: Bytes) -> bytes | None:
    """What bytes always are; None when that is not so."""
    if any(byte.constant != 0xFF for byte in held):
        return None
    return bytes(byte.flip for byte in held)


def range_row(held: Bytes, first: bytes, last: bytes) -> Row | None:
    """A row for "from first to last", as strings of bytes; None where no row can tell."""
    at = [(i, byte.source) for i, byte in enumerate(held) if byte.mask]
    if not at or any(byte.flip or byte.unknown for byte in held):
        return None
    offset = at[0][1] - at[0][0]  # of the first byte, were it in the view
    start = max(offset, 0) & ~3
    fits = offset >= 0 and offset + len(held) <= start + _WINDOW_BYTES
    if not fits or any(source != offset + i for i, source in at):
        return None
    before, after = offset - start, start + _WINDOW_BYTES - offset - len(held)

    def placed(value: bytes) -> bytes:
        return bytes(before) + value + bytes(after)

    mask = placed(bytes(byte.mask for byte in held))
    return Row(Kind.RANGE, start // 4, mask=mask, value=placed(first), last=placed(last))


def key_words(held: Bytes, fields: Sequence[int]) -> tuple[int, ...] | None:
    """The words of the view that a key is of, field by field; None where it is not just these."""
    words: list[int] = []
    at = 0
    for length in fields:
        field = held[at : at + length]
        first = field[0].source
        if first % 4 or not all(_is_plain(byte, first + i) for i, byte in enumerate(field)):
            return None
        words += range(first // 4, first // 4 + (length + 3) // 4)
        at += (length + 3) & ~3
    return tuple(words) if len(words) <= KEY_WORDS else None


def _is_plain(byte: Byte, source: int) -> bool:
    wanted = possible(source)
    return byte.source == source and byte.mask & wanted == wanted and not byte.flip and not byte.unknown


def prefixes(first: bytes, last: bytes) -> Iterator[tuple[bytes, int]]:
    """The prefixes that make up a range of values of the same length: each with its number of bits."""
    width = 8 * len(first)
    at, end = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    while at <= end:
        size = at & -at or 1 << width
        while size > end - at + 1:
            size >>= 1
        yield at.to_bytes(len(first), "big"), width - size.bit_length() + 1
        at += size
