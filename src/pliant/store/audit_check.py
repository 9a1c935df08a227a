# SPDX-License-Identifier: Apache-2.0
"""Whether the audit log is what was written: every record in its place, none missing, none changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pliant.store.audit import GENESIS, AlteredRecord, Head, Record, parse, read_lines


class Fault(Enum):
    """What can be wrong with an audit log."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    HEAD = "head differs"
    UNKNOWN = "end unknown"


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first thing that is wrong, and where: ``line`` is counted from 1, 0 where no line is at fault."""

    fault: Fault
    file: Path | None
    line: int
    sentence: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else ""
        return f"{where}{self.fault.value}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: how many records were read, the head of the sound part, and what is wrong, if anything."""

    records: int
    head: Head
    flaw: Flaw | None

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.flaw is None


def verify(segments: Sequence[Path], kept: Head | None, expected: str | None = None) -> Verdict:
    """Check a log: every line, the chain, and its end against ``kept``, the head that the journal has.

    ``expected`` is the hash of a record that is known to have been written, noted elsewhere. Raises
    :class:`pliant.errors.PliantError` when a file cannot be read.
    """
    head, count = GENESIS, 0
    seen_kept, seen_expected = kept in (None, GENESIS), expected in (None, GENESIS.hash)
    for file, number, line in _lines(segments):
        flaw, record = _look(file, number, line, head, segments)
        if flaw or record is None:
            return Verdict(count, head, flaw)
        if kept and record.head.seq == kept.seq and record.head != kept:
            sentence = f"record {kept.seq} is another than the journal knows: the log was written anew"
            return Verdict(count, head, Flaw(Fault.HEAD, file, number, sentence))
        head, count = record.head, count + 1
        seen_kept |= head == kept
        seen_expected |= head.hash == expected
    return Verdict(count, head, _at_the_end(head, kept, seen_kept, seen_expected))


def _lines(segments: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for path in segments:
        for number, line in enumerate(read_lines(path), 1):
            yield path, number, line


def _look(
    file: Path, number: int, line: bytes, head: Head, segments: Sequence[Path]
) -> tuple[Flaw | None, Record | None]:
    try:
        record = parse(line)
    except AlteredRecord as error:
        sentence = str(error) if line.endswith(b"\n") else "the last line is not whole"
        return Flaw(Fault.ALTERED, file, number, sentence), None
    seq, wanted = record.head.seq, head.seq + 1
    if seq == wanted:
        if record.prev == head.hash:
            return None, record
        sentence = f"record {seq} was written after another record {head.seq} than the one there"
        return Flaw(Fault.ALTERED, file, number, sentence), None
    if seq < wanted or _is_elsewhere(wanted, segments):
        sentence = f"record {seq} is where record {wanted} should be"
        return Flaw(Fault.REORDERED, file, number, sentence), None
    gone = f"record {wanted} is" if seq == wanted + 1 else f"records {wanted} to {seq - 1} are"
    return Flaw(Fault.MISSING, file, number, f"{gone} not there"), None


def _is_elsewhere(seq: int, segments: Sequence[Path]) -> bool:
    """Whether a record that is not in its place is in another."""
    for _, _, line in _lines(segments):
        with contextlib.suppress(AlteredRecord):
            if parse(line).head.seq == seq:
                return True
    return False


def _at_the_end(head: Head, kept: Head | None, seen_kept: bool, seen_expected: bool) -> Flaw | None:
    if kept and not seen_kept:
        sentence = f"the log ends with record {head.seq}, the journal knows of {kept.seq}"
        return Flaw(Fault.TRUNCATED, None, 0, sentence)
    if not seen_expected:
        sentence = "no record has the hash given: what it belonged to was cut off or written anew"
        return Flaw(Fault.HEAD, None, 0, sentence)
    if kept is None and head != GENESIS:
        sentence = "the journal keeps no head, so records may be missing at the end; was it replaced?"
        return Flaw(Fault.UNKNOWN, None, 0, sentence)
    return None
