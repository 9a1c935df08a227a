# SPDX-License-Identifier: Apache-2.0
"""A policy store in a SQLite file, which the processes of one machine share."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from pliant.errors import PliantError
from pliant.store.contract import EMPTY, HostReport, RevisionChanged, RevisionGone, Snapshot
from pliant.store.polling import wait_for_revision

FORMAT = 1
BUSY_TIMEOUT_S = 5.0

SCHEMA = """
CREATE TABLE revisions (number INTEGER PRIMARY KEY AUTOINCREMENT);
-- A document was in the store from revision `since` until just before revision `until`.
CREATE TABLE documents (
    name     TEXT NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER,
    document TEXT NOT NULL,
    PRIMARY KEY (name, since)
) WITHOUT ROWID;
CREATE INDEX documents_held ON documents (until, since);
CREATE TABLE reports (
    host     TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state    TEXT NOT NULL,
    detail   TEXT NOT NULL,
    at       REAL NOT NULL
) WITHOUT ROWID;
"""


class DatabaseStore:
    """Policies in a file, made at first use. See :class:`pliant.store.contract.PolicyStore`.

    For several hosts in namespaces of one machine; one host alone needs none, see
    :class:`pliant.store.journal_source.JournalSource`. Raises :class:`PliantError` when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            self.close()
            raise PliantError(
                f"the policy store {path} has format {version}, this Pliant reads {FORMAT}",
                remedy="use the version of Pliant that wrote it",
            )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise PliantError(
                f"the policy store {self.path} cannot be used: {error}",
                remedy="see that its disk is there, writable and not full",
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def revision(self) -> int:
        """The newest revision."""
        with self._told():
            return self._newest()

    def _newest(self) -> int:
        row = self._db.execute("SELECT max(number) FROM revisions").fetchone()
        return int(row[0] or EMPTY)

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """The policies of a revision."""
        with self._told():
            number = self._newest() if revision is None else revision
            if not EMPTY <= number <= self._newest():
                raise RevisionGone(number)
            return Snapshot(number, self._documents(number))

    def _documents(self, revision: int) -> dict[str, str]:
        rows = self._db.execute(
            "SELECT name, document FROM documents WHERE since <= :at AND (until IS NULL OR until > :at)",
            {"at": revision},
        )
        return dict(rows.fetchall())

    def wait(self, after: int, timeout_s: float) -> int:
        """Wait for a revision above ``after``."""
        with self._told():
            return wait_for_revision(self._writes, self._newest, after, timeout_s)

    def _writes(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def put(self, changes: Mapping[str, str | None], *, expected: int | None = None) -> int:
        """Put and delete documents in one revision."""
        with self._told(), self._transaction():
            newest = self._newest()
            if expected is not None and expected != newest:
                raise RevisionChanged(expected, newest)
            held = self._documents(newest)
            changed = {name: text for name, text in changes.items() if held.get(name) != text}
            if not changed:
                return newest
            number = int(self._db.execute("INSERT INTO revisions DEFAULT VALUES").lastrowid or EMPTY)
            self._db.executemany(
                "UPDATE documents SET until = ? WHERE name = ? AND until IS NULL",
                [(number, name) for name in changed],
            )
            self._db.executemany(
                "INSERT INTO documents VALUES (?, ?, NULL, ?)",
                [(name, number, text) for name, text in changed.items() if text is not None],
            )
            return number

    def report(self, report: HostReport) -> None:
        """Keep what a host said."""
        row = (report.host, report.revision, report.state, report.detail, report.at)
        with self._told():
            self._db.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?)", row)

    def reports(self) -> Mapping[str, HostReport]:
        """What each host said last."""
        with self._told():
            rows = self._db.execute("SELECT host, revision, state, detail, at FROM reports ORDER BY host")
            return {row[0]: HostReport(*row) for row in rows}
