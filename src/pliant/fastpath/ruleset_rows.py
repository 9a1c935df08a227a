# SPDX-License-Identifier: Apache-2.0
"""nftables' rules as rows that the fast path goes through: what bpf/include/pliant/fastpath/filter.h has, as data."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from hashlib import blake2b

from pliant.kernel.nftables_counts import RuleCounter

ROWS_MAX = 8192
STEPS_MAX = 1024
MEMBERS_MAX, PREFIXES_MAX = 60_000, 500_000
"""How many of each a half has room for."""
VIEW_WORDS, KEY_WORDS, WINDOW_WORDS = 32, 10, 4
_ROW = struct.Struct("=BBBxHH48s")
_MEMBER, _PREFIX = struct.Struct("=II40s"), struct.Struct("=IHH16s")
_JUMPS_MAX = 16
COUNTED_MAX = 12
"""How many rules may count the packets of one flow."""
COUNTERS_MAX = 2047
"""How many rules may count: fewer than half of the slots, since a ruleset that is made anew needs others at first."""
_SET_BITS = 32


class View(IntEnum):
    """Words of what a packet is at the hook (``enum view``)."""

    FROM = 0
    TO = 4
    PORT_FROM = 8
    PORT_TO = 9
    PROTOCOL = 10
    CLASS = 11
    IN = 12
    OUT = 13
    CT_STATE = 14
    CT_STATUS = 15
    CT_MARK = 16
    CT_DIRECTION = 17
    HAS_PORTS = 18
    IN_NAME = 20
    OUT_NAME = 24


class Kind(IntEnum):
    """What a row does (``enum row_kind``)."""

    LEAVE = 0
    EQUAL = 1
    RANGE = 2
    MEMBER = 3
    PREFIX = 4
    GOTO = 5
    CALL = 6
    RETURN = 7
    ENTER = 8
    ACCEPT = 9
    DONE = 10
    BEGIN = 11
    COUNT = 12


class Begins(IntFlag):
    """What is known of all rows of a family (``enum begins``)."""

    EMPTY = 1
    TRACKED = 2


UNDECIDED, DROPPED, REFUSED = 0, 1, 2
"""Targets of rows that leave a packet to the kernel (``enum leave``): it comes to a rule that is not understood, or
nftables drops it, and the fast path may or may not do so in its place."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; ``mask``, ``value`` and ``last`` are four words as bytes, ``words`` are those of a key.

    ``at`` is the first word looked at. ``otherwise`` is where what does not apply goes on, and of a row that decides
    what that is not for (``enum guard``). ``why`` is, of a row that leaves packets to the kernel, the number of the
    reason.
    """

    kind: Kind
    at: int = 0
    inverted: bool = False
    otherwise: int = 0
    target: int = 0
    mask: bytes = bytes(16)
    value: bytes = bytes(16)
    last: bytes = bytes(16)
    words: tuple[int, ...] = ()
    why: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """Why some packets are left to the kernel: a rule that they come to."""

    family: str
    table: str
    chain: str
    handle: int | None
    what: str

    def __str__(self) -> str:
        place = f"{self.family} {self.table} {self.chain}"
        return f"rule {self.handle} of {place} {self.what}" if self.handle else f"{place} {self.what}"


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a set that is looked up as a whole: its words, one after the other."""

    set: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Prefix:
    """An element of a set that is looked up by its first ``bits``."""

    set: int
    key: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Rows:
    """A ruleset of one generation, compiled.

    Row 0 begins IPv4, row 1 IPv6. ``members`` and ``prefixes`` say at which row it goes on, 0 means the next. ``left``
    says why rows leave packets to the kernel. ``digest`` tells rows from others, whatever their generation.

    ``counters`` are those that rows count for: a row has the number of one there, and once it is :func:`numbered` its
    slot. ``living`` are those whose rules are there, whether packets come to them or not: what was counted for them is
    kept, as is all where that is not known (None).
    """

    generation: int
    rows: tuple[Row, ...]
    members: Mapping[Member, int] = field(default_factory=dict)
    prefixes: Mapping[Prefix, int] = field(default_factory=dict)
    left: tuple[Left, ...] = ()
    digest: int = 0
    counters: tuple[RuleCounter, ...] = ()
    living: frozenset[RuleCounter] | None = frozenset()

    def begins(self, family: int) -> Begins:
        """What is known of all rows of IPv4 (4) or IPv6 (6)."""
        return Begins(self.rows[0 if family == 4 else 1].otherwise)


def encode_row(row: Row) -> bytes:
    """``struct row``."""
    rest = bytes(row.words) if row.kind in (Kind.MEMBER, Kind.PREFIX) else row.mask + row.value + row.last
    return _ROW.pack(row.kind, row.at, row.inverted, row.otherwise, row.target, rest)


def encode_member(half: int, member: Member) -> bytes:
    """``struct member_key``."""
    return _MEMBER.pack(half, member.set, member.key)


def encode_prefix(half: int, prefix: Prefix) -> bytes:
    """``struct prefix_key``."""
    return _PREFIX.pack(_SET_BITS + prefix.bits, half, prefix.set, prefix.key)


def digested(rows: Rows) -> Rows:
    """The same with its digest, which is never 0."""
    digest = blake2b(digest_size=7)
    for row in rows.rows:
        digest.update(encode_row(row))
    members = sorted((encode_member(0, member), target) for member, target in rows.members.items())
    prefixes = sorted((encode_prefix(0, prefix), target) for prefix, target in rows.prefixes.items())
    for key, target in (*members, *prefixes):
        digest.update(key + target.to_bytes(4, "little"))
    if rows.counters:
        digest.update(repr(tuple(map(tuple, rows.counters))).encode())
    return replace(rows, digest=int.from_bytes(digest.digest(), "little") | 1)


def numbered(rows: Rows, slots: Mapping[RuleCounter, int]) -> Rows:
    """The same with slots in the place of counters; what comes to one that has none is the kernel's."""
    if not rows.counters:
        return rows

    def with_slot(row: Row) -> Row:
        if row.kind is not Kind.COUNT:
            return row
        slot = slots.get(rows.counters[row.target])
        if slot is None:
            return Row(Kind.LEAVE, target=UNDECIDED, why=len(rows.left))
        return replace(row, target=slot)

    left = Left("", "", "the ruleset", None, "has more rules that count than there is room for")
    return digested(replace(rows, rows=tuple(map(with_slot, rows.rows)), left=(*rows.left, left)))


@dataclass(frozen=True, slots=True)
class Decision:
    """What rows say of a packet: ``accept``, ``refuse`` or ``leave``, and why it is left.

    ``guarded``: that holds for TCP without SYN, FIN and RST only. ``counted`` are the targets of the rows that
    count it.
    """

    verdict: str
    left: Left | None = None
    guarded: bool = False
    counted: tuple[int, ...] = ()


def decide(rows: Rows, family: int, view: bytes) -> Decision:
    """What the program makes of a packet whose view is given, row by row: for tests, and to explain it."""
    at = 0 if family == 4 else 1
    if rows.begins(family) & Begins.EMPTY:
        return Decision("accept")
    at, calls, accepted, policy = rows.rows[at].target, list[int](), 0, 0
    counted: list[int] = []
    for _ in range(STEPS_MAX):
        row = rows.rows[at]
        match row.kind:
            case Kind.EQUAL | Kind.RANGE | Kind.MEMBER | Kind.PREFIX:
                at = _tested(rows, row, view, at)
            case Kind.GOTO:
                at = row.target
            case Kind.CALL:
                if len(calls) >= _JUMPS_MAX:
                    return Decision("leave")
                calls.append(at + 1)
                at = row.target
            case Kind.RETURN:
                at = calls.pop() if calls else policy
            case Kind.ENTER:
                calls, accepted, policy, at = [], row.target, row.otherwise, at + 1
            case Kind.ACCEPT:
                calls, at = [], accepted
            case Kind.COUNT:
                if len(counted) >= COUNTED_MAX:
                    return Decision("leave")
                counted.append(row.target)
                at += 1
            case Kind.DONE:
                return Decision("accept", None, bool(row.otherwise), tuple(counted))
            case _:
                verdict = "leave" if row.target == UNDECIDED else "refuse"
                return Decision(verdict, rows.left[row.why], bool(row.otherwise), tuple(counted))
    return Decision("leave")


def _tested(rows: Rows, row: Row, view: bytes, at: int) -> int:
    window = view[4 * row.at : 4 * row.at + 16].ljust(16, b"\0")
    masked = bytes(a & b for a, b in zip(window, row.mask, strict=True))
    found: int | None
    if row.kind is Kind.EQUAL:
        found = 0 if masked == row.value else None
    elif row.kind is Kind.RANGE:
        found = 0 if row.value <= masked <= row.last else None
    elif row.kind is Kind.MEMBER:
        key = b"".join(view[4 * word : 4 * word + 4] for word in row.words[: row.at])
        found = rows.members.get(Member(row.target, key.ljust(4 * KEY_WORDS, b"\0")))
    else:
        found = _longest(rows, row.target, window[: row.words[1]])
    if found:
        return found
    return at + 1 if (found is not None) != row.inverted else row.otherwise


def _longest(rows: Rows, number: int, key: bytes) -> int | None:
    whole = int.from_bytes(key.ljust(16, b"\0"), "big")
    for bits in range(8 * len(key), -1, -1):
        masked = whole >> (128 - bits) << (128 - bits) if bits else 0
        found = rows.prefixes.get(Prefix(number, masked.to_bytes(16, "big"), bits))
        if found is not None:
            return found
    return None
