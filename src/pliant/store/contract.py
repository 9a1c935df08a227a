# SPDX-License-Identifier: Apache-2.0
"""Where policies come from: the contract that every store keeps, whatever keeps the data.

A store is a set of policy documents with a revision, a whole number that grows with every change and never comes
twice. It is what an etcd cluster gives (a range at a revision, a transaction that compares, a watch), and no more:
whoever follows a store reads a snapshot, waits for a revision after it, and reads the next one. Changes in between may
be skipped, since a snapshot is whole. The tests of the contract run over every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pliant.errors import PliantError

EMPTY = 0
"""The revision of a store that nothing was ever put into."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All policies of one revision: documents as JSON, by the policy's name."""

    revision: int
    documents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host has made of a revision. ``at`` is in seconds since the epoch.

    ``state`` is ``applied``, ``failed`` (``detail`` is then the sentence of the error, and the host has kept what it
    had) or ``off``.
    """

    host: str
    revision: int
    state: str
    detail: str
    at: float


class RevisionChanged(PliantError):
    """Somebody else has put something since the revision that a change was worked out from."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"the policies were changed meanwhile: revision {found}, not {expected}",
            remedy="read them again and decide anew",
        )


class RevisionGone(PliantError):
    """A revision that the store never had, or no longer has: an engine may forget old ones."""

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"the store has no revision {revision}", remedy="read the newest, by naming no revision"
        )


class PolicySource(Protocol):
    """What the agent of a host needs: to read policies, and to learn that they changed.

    Every method raises :class:`PliantError` when the store cannot be reached. Whoever follows a store then keeps what
    he has and tries again: without its store a host keeps working.
    """

    def revision(self) -> int:
        """The newest revision; :data:`EMPTY` for a store that nothing was put into."""

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """The policies of a revision, of the newest when none is given. Raises :class:`RevisionGone`."""

    def wait(self, after: int, timeout_s: float) -> int:
        """Return the newest revision as soon as it is above ``after``, or as it is when the time is up."""

    def close(self) -> None:
        """Let go of files and connections."""


class PolicyStore(PolicySource, Protocol):
    """A store that policies are put into for hosts to follow, and that hosts report back to."""

    def put(self, changes: Mapping[str, str | None], *, expected: int | None = None) -> int:
        """Put and (None) delete documents, all in one revision or none; return the revision.

        With ``expected`` this is done only if it is the newest revision; otherwise :class:`RevisionChanged` is raised
        and nothing is changed. Changes that change nothing make no revision.
        """

    def report(self, report: HostReport) -> None:
        """Say what a host made of a revision; replaces what it said before."""

    def reports(self) -> Mapping[str, HostReport]:
        """What each host said last, by host."""
