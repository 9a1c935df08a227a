# SPDX-License-Identifier: Apache-2.0
"""The audit log: what was done to a host, by whom and why, in a file that is only ever appended to.

A line is a record: canonical JSON (keys sorted, no blanks, ASCII) with its number ``seq``, its ``time``, the hash of
the record before it in ``prev`` and its own in ``hash``, SHA-256 over the record without that field. The journal keeps
the number and hash of the newest one, the head. So a line that was altered, taken out, moved or cut off is found
(:mod:`pliant.store.audit_check`); one who can write both files and keeps at it is found by a head kept elsewhere.

A full file becomes a segment, ``audit-<number of its last record>.log``; the chain goes on in a new file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pliant.errors import PliantError
from pliant.kernel.reserve import reserve_space

NAME = "audit.log"
SEGMENT_BYTES = 64 * 2**20
RESERVED_BYTES = 16 * 2**10  # for the end of the change that a record announces
LOCK_TIMEOUT_S = 2.0
RETRY_S = 0.01


class Head(NamedTuple):
    """The newest record: its number and its hash."""

    seq: int
    hash: str


GENESIS = Head(0, "0" * 64)
"""What the first record of all follows."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record, as it is on its line."""

    body: Mapping[str, Any]

    @property
    def head(self) -> Head:
        """Its number and hash."""
        return Head(self.body["seq"], self.body["hash"])

    @property
    def prev(self) -> str:
        """The hash of the record that it was written after."""
        return str(self.body["prev"])

    @property
    def line(self) -> bytes:
        """The line, with its end."""
        return canonical(self.body) + b"\n"


class AlteredRecord(Exception):
    """A line that is not a record as it was written; the text says what is wrong."""


def canonical(body: Mapping[str, Any]) -> bytes:
    """The one spelling of a record: every byte of it counts."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def digest(body: Mapping[str, Any]) -> str:
    """The hash of a record, over everything but the field that holds it."""
    return hashlib.sha256(canonical({k: v for k, v in body.items() if k != "hash"})).hexdigest()


def seal(body: Mapping[str, Any], after: Head) -> Record:
    """The record that follows another."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    numbered = {"seq": after.seq + 1, "time": now, "prev": after.hash, **body}
    return Record({**numbered, "hash": digest(numbered)})


def parse(line: bytes) -> Record:
    """Read a line with its end; raises :class:`AlteredRecord` unless it is, byte by byte, what was written."""
    try:
        body = json.loads(line)
        record = Record(body)
        known = (
            isinstance(body["seq"], int) and isinstance(body["prev"], str) and isinstance(body["hash"], str)
        )
        spelled = record.line
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AlteredRecord("it is not a record") from None
    if not known or digest(body) != body["hash"]:
        raise AlteredRecord("its hash is not that of what it says")
    if spelled != line:
        raise AlteredRecord("it is not spelled as it was written")
    return record


class AuditLog:
    """The audit log in a state directory. Appending is for those who hold the host's lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME

    def segments(self) -> list[Path]:
        """The files of the chain, oldest first; empty when nothing was recorded yet."""
        full = sorted(self.directory.glob("audit-*.log"))
        return [*full, self.path] if self.path.exists() else full

    def last(self) -> Record | None:
        """The newest record; None when there is none, or when the last line is not one."""
        with _told(self.path, "read"):
            for path in reversed(self.segments()):
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size:
                        return _last(file.fileno())
        return None

    def append(
        self, body: Mapping[str, Any], known: Head | None, *, durable: bool, reserve: bool = False
    ) -> Record:
        """Append a record that follows the newest one, or ``known`` where the file was tampered with, and return it.

        ``durable`` has it on disk before this returns, ``reserve`` sets room aside for one that is to follow. Raises
        :class:`PliantError` when it cannot be written; the file is then as it was.
        """
        with _told(self.path, "written"):
            self._start_segment()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(descriptor)
                _mend(descriptor, known)
                record = seal(body, _newest(self.last(), known))
                _write(descriptor, record.line, RESERVED_BYTES if reserve else 0)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return record

    def _start_segment(self) -> None:
        with contextlib.suppress(OSError):  # there is no file yet; or chattr +a keeps it one file
            if self.path.stat().st_size >= SEGMENT_BYTES and (last := self.last()):
                self.path.rename(self.directory / f"audit-{last.head.seq:012}.log")


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends; raises :class:`PliantError` when it cannot be read."""
    with _told(path, "read"), path.open("rb") as file:
        yield from file


@contextlib.contextmanager
def _told(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PliantError(
            f"the audit log {path} cannot be {done}: {(error.strerror or str(error)).lower()}",
            remedy="run as root, and see that the file is there and its disk not full: "
            "what cannot be recorded is not done",
        ) from error


def _lock(descriptor: int) -> None:
    """One writer at a time, also when somebody has to go past the host's lock."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)


def _newest(last: Record | None, known: Head | None) -> Head:
    """What the next record follows.

    Where the file does not end in the record that the journal knows, or in a later one, the chain goes on from what
    the journal knows: the gap stays to be found.
    """
    if last is None:
        return known or GENESIS
    return known if known and known.seq >= last.head.seq else last.head


def _mend(descriptor: int, known: Head | None) -> None:
    """Take away the beginning of a line that was being written when the machine stopped: nobody was told of it.

    One that the journal knows was whole before: it is left as it is, to be found.
    """
    size = os.fstat(descriptor).st_size
    tail = _tail(descriptor, size)
    if not tail or tail.endswith(b"\n"):
        return
    torn = len(tail) - tail.rfind(b"\n") - 1
    before = _last(descriptor, size - torn)
    if known and (before is None or before.head.seq < known.seq):
        os.write(descriptor, b"\n")
        return
    try:
        os.ftruncate(descriptor, size - torn)
    except PermissionError:  # chattr +a
        os.write(descriptor, b"\n")


def _last(descriptor: int, size: int | None = None) -> Record | None:
    """The record on the last line of what is before ``size``."""
    tail = _tail(descriptor, os.fstat(descriptor).st_size if size is None else size)
    if not tail.endswith(b"\n"):
        return None
    try:
        return parse(tail[tail.rfind(b"\n", 0, -1) + 1 :])
    except AlteredRecord:
        return None


def _tail(descriptor: int, size: int) -> bytes:
    """The end of a file up to ``size``: its last line, and some of what is before it."""
    tail = b""
    while len(tail) < size and b"\n" not in tail[:-1]:
        length = min(size, max(4096, 4 * len(tail)))
        tail = os.pread(descriptor, length, size - length)
    return tail


def _write(descriptor: int, line: bytes, reserved: int) -> None:
    size = os.fstat(descriptor).st_size
    try:
        reserve_space(descriptor, size, len(line) + reserved)
        written = os.write(descriptor, line)
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
