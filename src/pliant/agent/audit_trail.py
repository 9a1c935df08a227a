# SPDX-License-Identifier: Apache-2.0
"""Writes the audit log of a host: a record before every change, one after it, and what became of interrupted ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pliant.agent.change import Change, Fate
from pliant.agent.origin import Origin
from pliant.errors import PliantError
from pliant.store.audit import AuditLog, Record
from pliant.store.generations import State, StoredPolicy
from pliant.store.journal import Journal

MOST_DIFFERENCES = 20  # told of one policy
LONGEST_VALUE = 80

RESULTS = {State.APPLIED: "applied", State.UNDONE: "undone", State.APPLYING: "failed"}


class AuditTrail:
    """The audit log of one host, for a process that holds its lock and has its journal open for writing."""

    def __init__(self, journal: Journal, directory: Path) -> None:
        self.journal = journal
        self.log = AuditLog(directory)

    @contextlib.contextmanager
    def change(self, change: Change, actor: str, origin: Origin) -> Iterator[None]:
        """Record that a change is about to be made and, when the block is left, what came of it.

        Raises :class:`PliantError` before the block when it cannot be recorded. The room for the second record is set
        aside with the first; should it be impossible to write all the same, the next change writes it.
        """
        begun = self._append(describe(change, self.journal, actor) | {"who": origin.as_data()}, reserve=True)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(PliantError, sqlite3.Error):
                self._end(begun, error=_sentence(error))
            raise
        with contextlib.suppress(PliantError, sqlite3.Error):
            self._end(begun)

    def settle(self, origin: Origin) -> None:
        """Record what became of a change whose process died before it could say so; nothing when all have ended."""
        last = self.log.last()
        if last and last.body.get("event") == "begin":
            self._end(last, settled=True, who=origin.as_data())

    def note(self, verb: str, reason: str, origin: Origin, details: Mapping[str, Any]) -> None:
        """Record something that is no change of policies in one record: many small adjustments, summed up."""
        body = {"event": "note", "host": os.uname().nodename, "verb": verb, "reason": reason}
        self._append(body | {"who": origin.as_data(), "details": dict(details)}, durable=True)

    def _end(self, begun: Record, **more: Any) -> None:
        number = begun.body["generation"]
        found = self.journal.generation(number)
        if found is None and self.journal.audit_head is None:
            result = "unknown"  # the journal is another than it was
        else:
            result = RESULTS[found.state] if found else "undone"
        body = {"event": "end", "of": begun.head.seq, "verb": begun.body["verb"], "generation": number}
        self._append(body | {"result": result, **more}, durable=True)

    def _append(self, body: Mapping[str, Any], *, durable: bool = False, reserve: bool = False) -> Record:
        record = self.log.append(body, self.journal.audit_head, durable=durable, reserve=reserve)
        self.journal.keep_audit_head(record.head)
        return record


def describe(change: Change, journal: Journal, actor: str) -> dict[str, Any]:
    """The record of a change that is about to be made, but for who asks."""
    return {
        "event": "begin",
        "host": os.uname().nodename,
        "actor": actor,
        "verb": change.verb,
        "reason": change.reason,
        "generation": journal.next_generation(),
        "parent": journal.current(),
        "policies": [
            _policy(name, fate, change.before.get(name), change.after.get(name))
            for name, fate in change.fates.items()
            if fate is not Fate.UNCHANGED
        ],
        "switched": [{"what": str(what), "result": fate.value} for what, fate in change.switched],
        "plan": [step.sentence for step in change.plan],
    }


def _policy(name: str, fate: Fate, before: StoredPolicy | None, after: StoredPolicy | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "result": fate.value}
    if before:
        told["before"] = _digest(before.document)
    if after:
        told["after"] = _digest(after.document)
    if before and after:
        told["diff"] = differences(json.loads(before.document), json.loads(after.document))
    return told


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two documents, a field a line; cut short where it is much."""
    was, now = dict(_fields(before)), dict(_fields(after))
    lines = [
        f"{path}: {was.get(path, 'absent')} -> {now.get(path, 'absent')}"
        for path in sorted(was.keys() | now.keys())
        if was.get(path) != now.get(path)
    ]
    more = len(lines) - MOST_DIFFERENCES
    return [*lines[:MOST_DIFFERENCES], f"and {more} more"] if more > 0 else lines


def _fields(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            spelled = json.dumps(value)
            yield prefix + name, spelled if len(spelled) <= LONGEST_VALUE else spelled[:LONGEST_VALUE] + "..."


def _sentence(error: BaseException) -> str:
    text = error.message if isinstance(error, PliantError) else str(error)
    return text or type(error).__name__
