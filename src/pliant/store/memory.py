# SPDX-License-Identifier: Apache-2.0
"""A policy store in the memory of one process."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Condition

from pliant.store.contract import EMPTY, HostReport, RevisionChanged, RevisionGone, Snapshot


class MemoryStore:
    """Policies that live as long as the process; every revision is kept. Threads may share it.

    See :class:`pliant.store.contract.PolicyStore`.
    """

    def __init__(self) -> None:
        self._revisions: list[Mapping[str, str]] = [{}]  # at the index of their number
        self._reports: dict[str, HostReport] = {}
        self._changed = Condition()

    def revision(self) -> int:
        """The newest revision."""
        with self._changed:
            return self._newest()

    def _newest(self) -> int:
        return EMPTY + len(self._revisions) - 1

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """The policies of a revision."""
        with self._changed:
            number = self._newest() if revision is None else revision
            if not EMPTY <= number <= self._newest():
                raise RevisionGone(number)
            return Snapshot(number, dict(self._revisions[number - EMPTY]))

    def wait(self, after: int, timeout_s: float) -> int:
        """Wait for a revision above ``after``."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest() > after, timeout_s)
            return self._newest()

    def put(self, changes: Mapping[str, str | None], *, expected: int | None = None) -> int:
        """Put and delete documents in one revision."""
        with self._changed:
            if expected is not None and expected != self._newest():
                raise RevisionChanged(expected, self._newest())
            before = self._revisions[-1]
            after = {name: text for name, text in {**before, **changes}.items() if text is not None}
            if after != before:
                self._revisions.append(after)
                self._changed.notify_all()
            return self._newest()

    def report(self, report: HostReport) -> None:
        """Keep what a host said."""
        with self._changed:
            self._reports[report.host] = report

    def reports(self) -> Mapping[str, HostReport]:
        """What each host said last."""
        with self._changed:
            return dict(self._reports)

    def close(self) -> None:
        """Nothing to let go of."""
