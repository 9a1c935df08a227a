# SPDX-License-Identifier: Apache-2.0
"""One host alone: its journal is where its policies come from."""

from __future__ import annotations

from pathlib import Path

from pliant.store.contract import EMPTY, RevisionGone, Snapshot
from pliant.store.generations import State
from pliant.store.journal import Journal
from pliant.store.polling import wait_for_revision


class JournalSource:
    """The policies of a journal; a revision is a generation that came into force.

    There is no ``put``: on one host policies come with a plan, an undo and a record of who and why (``pliant apply``).
    See :class:`pliant.store.contract.PolicySource`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._journal = Journal(directory, read_only=True)

    def revision(self) -> int:
        """The generation in force."""
        return self._open().current()

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """The policies of a generation."""
        journal = self._open()
        number = journal.current() if revision is None else revision
        found = journal.generation(number)
        if number != EMPTY and (found is None or found.state is not State.APPLIED):
            raise RevisionGone(number)
        return Snapshot(number, {name: policy.document for name, policy in journal.policies(number).items()})

    def wait(self, after: int, timeout_s: float) -> int:
        """Wait for a generation above ``after`` to come into force."""
        return wait_for_revision(lambda: self._open().data_version, self.revision, after, timeout_s)

    def _open(self) -> Journal:
        """The journal, opened anew for as long as there is no file."""
        if self._journal.is_stand_in:
            self._journal.close()
            self._journal = Journal(self.directory, read_only=True)
        return self._journal

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
