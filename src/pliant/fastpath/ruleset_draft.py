# SPDX-License-Identifier: Apache-2.0
"""Rows while they are written: places that are not known yet have labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pliant.fastpath.ruleset_rows import (
    COUNTERS_MAX,
    KEY_WORDS,
    MEMBERS_MAX,
    PREFIXES_MAX,
    ROWS_MAX,
    UNDECIDED,
    WINDOW_WORDS,
    Kind,
    Left,
    Member,
    Prefix,
    Row,
    Rows,
)
from pliant.kernel.nftables_counts import RuleCounter

_MOST_REASONS = 0xFFFF


@dataclass(eq=False, slots=True)
class Label:
    """A row that may not have been written yet."""

    row: int = -1


NEXT = Label(0)
"""Of an element of a set: the row after the one that has found it."""


@dataclass(frozen=True, slots=True)
class _Line:
    row: Row
    otherwise: Label | None
    target: Label | None


class Draft:
    """What a ruleset becomes, as far as it has been written."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._outlined: list[tuple[Label, tuple[_Line, ...]]] = []
        self._members: dict[Member, Label] = {}
        self._prefixes: dict[Prefix, Label] = {}
        self._left: dict[Left, int] = {}
        self._counters: dict[RuleCounter, int] = {}
        self._sets = 0

    def write(self, row: Row, *, otherwise: Label | None = None, target: Label | None = None) -> None:
        """Add a row."""
        self._lines.append(_Line(row, otherwise, target))

    def mark(self, label: Label) -> None:
        """The next row is that of a label."""
        label.row = len(self._lines)

    def go(self, label: Label) -> None:
        """Go on elsewhere."""
        self.write(Row(Kind.GOTO), target=label)

    def leave(self, left: Left, how: int = UNDECIDED) -> None:
        """Packets that come here are the kernel's."""
        self._lines.append(self._leaving(left, how))

    def _leaving(self, left: Left, how: int) -> _Line:
        why = self._left.setdefault(left, len(self._left))
        return _Line(Row(Kind.LEAVE, target=how, why=why), None, None)

    def count(self, counter: RuleCounter) -> bool:
        """Packets that come here are counted; False where there are more counters than there is room for."""
        if counter not in self._counters and len(self._counters) >= COUNTERS_MAX:
            return False
        self.write(Row(Kind.COUNT, target=self._counters.setdefault(counter, len(self._counters))))
        return True

    def left_elsewhere(self, left: Left, how: int = UNDECIDED) -> Label:
        """A row that leaves packets to the kernel, out of the way."""
        label = Label()
        self._outlined.append((label, (self._leaving(left, how),)))
        return label

    def gone_elsewhere(self, row: Row, target: Label | None, following: Label) -> Label:
        """A row out of the way, after which it goes on where it is told."""
        label = Label()
        self._outlined.append((label, (_Line(row, None, target), _Line(Row(Kind.GOTO), None, following))))
        return label

    def write_outlined(self) -> None:
        """Write what is out of the way here, where nothing falls into it."""
        for label, lines in self._outlined:
            self.mark(label)
            self._lines += lines
        self._outlined.clear()

    def guard(self, start: Label, guard: int) -> None:
        """What the rows from one on decide is not for all packets of a flow."""
        for number, line in enumerate(self._lines[start.row :], start.row):
            if line.row.kind in (Kind.DONE, Kind.LEAVE):
                self._lines[number] = replace(line, row=replace(line.row, otherwise=guard))

    def new_set(self) -> int:
        """A number for a set."""
        self._sets += 1
        return self._sets

    def add_members(self, number: int, members: Iterable[tuple[bytes, Label]]) -> None:
        """Elements of a set that are looked up as a whole."""
        for key, label in members:
            self._members[Member(number, key.ljust(4 * KEY_WORDS, b"\0"))] = label

    def add_prefixes(self, number: int, members: Iterable[tuple[bytes, int, Label]]) -> None:
        """Elements of a set that are looked up by their first bits."""
        for key, bits, label in members:
            self._prefixes[Prefix(number, key.ljust(4 * WINDOW_WORDS, b"\0"), bits)] = label

    def finished(self, generation: int) -> Rows:
        """The rows with numbers in the place of labels; if they are too many, such as leave everything."""
        if (
            len(self._lines) > ROWS_MAX
            or len(self._members) > MEMBERS_MAX
            or len(self._prefixes) > PREFIXES_MAX
            or len(self._left) > _MOST_REASONS
            or self._sets > _MOST_REASONS
        ):
            return nothing(generation)
        rows = tuple(
            replace(
                line.row,
                otherwise=line.otherwise.row if line.otherwise else line.row.otherwise,
                target=line.target.row if line.target else line.row.target,
            )
            for line in self._lines
        )
        members = {member: label.row for member, label in self._members.items()}
        prefixes = {prefix: label.row for prefix, label in self._prefixes.items()}
        return Rows(generation, rows, members, prefixes, tuple(self._left), counters=tuple(self._counters))


def nothing(generation: int) -> Rows:
    """Rows that leave everything to the kernel."""
    left = (Left("", "", "the ruleset", None, "is larger than the fast path has room for"),)
    begin = Row(Kind.BEGIN, target=2)
    return Rows(generation, (begin, begin, Row(Kind.LEAVE)), left=left)
