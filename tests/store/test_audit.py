# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.errors import PliantError
from pliant.store import audit
from pliant.store.audit import GENESIS, AuditLog, Head, canonical, digest, parse, seal
from pliant.store.audit_check import Fault, Verdict, verify


def written(directory: Path, count: int) -> tuple[AuditLog, list[Head]]:
    log, heads = AuditLog(directory), [GENESIS]
    for number in range(count):
        body = {"event": "note", "verb": "test", "reason": f"because é {number}"}
        heads.append(log.append(body, heads[-1], durable=False).head)
    return log, heads


def check(log: AuditLog, kept: Head | None, expected: str | None = None) -> Verdict:
    return verify(log.segments(), kept, expected)


def fault(verdict: Verdict) -> tuple[Fault, int] | None:
    return (verdict.flaw.fault, verdict.flaw.line) if verdict.flaw else None


def test_records_are_chained_and_found_sound(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 5)
    assert check(log, heads[-1]) == Verdict(5, heads[-1], None)
    lines = log.path.read_bytes().splitlines(keepends=True)
    assert [parse(line).prev for line in lines] == [head.hash for head in heads[:-1]]
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_no_log_and_no_head_is_sound(tmp_path: Path) -> None:
    assert check(AuditLog(tmp_path), None) == Verdict(0, GENESIS, None)


# -- tampering


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_single_byte_that_was_changed_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log, heads = written(Path(directory), 3)
        content = bytearray(log.path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[position]))
        log.path.write_bytes(content)
        assert not check(log, heads[-1]).is_sound


@settings(deadline=None, max_examples=200)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_any_other_order_or_choice_of_the_lines_is_found(order: list[int], count: int) -> None:
    chosen = order[:count]
    with tempfile.TemporaryDirectory() as directory:
        log, heads = written(Path(directory), 6)
        lines = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(b"".join(lines[i] for i in chosen))
        assert check(log, heads[-1]).is_sound == (chosen == list(range(6)))


def rewritten(line: bytes, **fields: Any) -> bytes:
    """A line that says something else, with the hash of that."""
    body = json.loads(line) | fields
    return canonical(body | {"hash": digest(body)}) + b"\n"


Tamper = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("says", "tamper", "found", "sentence"),
    [
        ("a word was changed", lambda x: [x[0], x[1].replace(b"because", b"Because"), *x[2:]],
         (Fault.ALTERED, 2), "its hash is not that of what it says"),
        ("a record was changed with its hash", lambda x: [x[0], rewritten(x[1], reason="no reason"), *x[2:]],
         (Fault.ALTERED, 3), "was written after another record 2"),
        ("the newest was changed with its hash", lambda x: [*x[:3], rewritten(x[3], reason="no reason")],
         (Fault.HEAD, 4), "written anew"),
        ("a blank was added", lambda x: [x[0], x[1].replace(b'":"', b'": "', 1), *x[2:]],
         (Fault.ALTERED, 2), "not spelled as it was written"),
        ("a line is no record", lambda x: [x[0], b"hello\n", *x[2:]], (Fault.ALTERED, 2), "not a record"),
        ("a record was taken out", lambda x: [x[0], *x[2:]], (Fault.MISSING, 2), "record 2 is not there"),
        ("two records were taken out", lambda x: [x[0], x[3]], (Fault.MISSING, 2), "records 2 to 3 are not there"),
        ("the first was taken out", lambda x: x[1:], (Fault.MISSING, 1), "record 1 is not there"),
        ("two changed places", lambda x: [x[0], x[2], x[1], x[3]],
         (Fault.REORDERED, 2), "record 3 is where record 2 should be"),
        ("a record is there twice", lambda x: [x[0], x[0], *x[1:]],
         (Fault.REORDERED, 2), "record 1 is where record 2 should be"),
        ("the newest was cut off", lambda x: x[:3], (Fault.TRUNCATED, 0), "ends with record 3, the journal knows of 4"),
        ("everything was cut off", lambda x: [], (Fault.TRUNCATED, 0), "ends with record 0"),
        ("half a line was cut off", lambda x: [*x[:3], x[3][:40]], (Fault.ALTERED, 4), "not whole"),
    ],
)  # fmt: skip
def test_tampering_is_named_with_its_line(
    tmp_path: Path, says: str, tamper: Tamper, found: tuple[Fault, int], sentence: str
) -> None:
    log, heads = written(tmp_path, 4)
    log.path.write_bytes(b"".join(tamper(log.path.read_bytes().splitlines(keepends=True))))
    verdict = check(log, heads[-1])
    assert fault(verdict) == found
    assert verdict.flaw is not None
    assert sentence in str(verdict.flaw)


def forged(directory: Path, count: int) -> tuple[AuditLog, Head]:
    """A whole log of somebody else's, in itself sound."""
    log, head = AuditLog(directory), GENESIS
    log.path.unlink()
    for _ in range(count):
        head = log.append({"event": "note", "reason": "all is well"}, head, durable=False).head
    return log, head


def test_a_log_written_anew_is_found_by_the_head_in_the_journal(tmp_path: Path) -> None:
    _, heads = written(tmp_path, 3)
    log, _ = forged(tmp_path, 5)
    assert fault(check(log, heads[-1])) == (Fault.HEAD, 3)


def test_a_log_and_a_journal_written_anew_are_found_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    _, heads = written(tmp_path, 3)
    log, head = forged(tmp_path, 5)
    assert check(log, head).is_sound
    assert fault(check(log, head, heads[2].hash)) == (Fault.HEAD, 0)


def test_a_head_kept_elsewhere_stays_good_while_the_log_grows(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 4)
    assert all(check(log, heads[-1], head.hash).is_sound for head in heads)


def test_records_that_the_journal_was_not_told_of_are_sound(tmp_path: Path) -> None:
    """The process was killed between the two."""
    log, heads = written(tmp_path, 4)
    assert check(log, heads[3]).is_sound


def test_a_journal_that_keeps_no_head_leaves_the_end_unknown(tmp_path: Path) -> None:
    log, _ = written(tmp_path, 4)
    assert fault(check(log, None)) == (Fault.UNKNOWN, 0)


# -- going on


def test_appending_goes_on_from_what_the_journal_knows_and_leaves_the_gap_to_be_found(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 4)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:2]))
    record = log.append({"event": "note"}, heads[-1], durable=True)
    assert record.head.seq == 5
    assert fault(check(log, record.head)) == (Fault.MISSING, 3)


def test_appending_after_a_change_of_the_newest_record_leaves_it_to_be_found(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 4)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([*lines[:3], rewritten(lines[3], reason="no reason")]))
    record = log.append({"event": "note"}, heads[-1], durable=True)
    assert fault(check(log, record.head)) == (Fault.ALTERED, 5)


def test_a_line_that_was_being_written_when_the_machine_stopped_goes(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 3)
    with log.path.open("ab") as file:
        file.write(seal({"event": "note"}, heads[-1]).line[:50])
    record = log.append({"event": "note"}, heads[-1], durable=True)
    assert record.head.seq == 4
    assert check(log, record.head) == Verdict(4, record.head, None)


def test_a_known_line_that_was_cut_stays_to_be_found(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 3)
    os.truncate(log.path, log.path.stat().st_size - 20)
    record = log.append({"event": "note"}, heads[-1], durable=True)
    assert fault(check(log, record.head)) == (Fault.ALTERED, 3)


def test_a_record_longer_than_a_read_is_found_again(tmp_path: Path) -> None:
    log, heads = written(tmp_path, 1)
    record = log.append({"event": "note", "plan": ["a step"] * 5000}, heads[-1], durable=False)
    assert log.last() == record
    assert log.append({"event": "note"}, None, durable=False).prev == record.head.hash


def _append_some(directory: Path) -> None:
    for _ in range(25):
        AuditLog(directory).append({"event": "note", "pid": os.getpid()}, None, durable=False)


def test_processes_that_append_at_once_make_one_chain(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_append_some, [tmp_path] * 4))
    log = AuditLog(tmp_path)
    last = log.last()
    assert last is not None
    assert check(log, last.head) == Verdict(100, last.head, None)


def test_a_full_file_becomes_a_segment_and_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SEGMENT_BYTES", 1000)
    log, heads = written(tmp_path, 30)
    assert len(log.segments()) > 3
    assert check(log, heads[-1]) == Verdict(30, heads[-1], None)
    middle = log.segments()[1]
    middle.unlink()
    assert fault(check(log, heads[-1])) == (Fault.MISSING, 1)


# -- what cannot be written


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.path.symlink_to("/dev/full")
    with pytest.raises(PliantError, match="cannot be written: no space left on device") as caught:
        log.append({"event": "note"}, None, durable=True)
    assert caught.value.remedy
