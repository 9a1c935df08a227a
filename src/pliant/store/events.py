# SPDX-License-Identifier: Apache-2.0
"""What happened on a host: every kind of event is declared here, and nowhere else."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

RARE, FREQUENT = 2_000, 1_000
TRIM_EVERY = 64
COLUMNS = "id, at, kind, sentence, data"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event: when it is written, the names of its data, and how many of it are kept at least."""

    name: str
    meaning: str
    data: tuple[str, ...] = ()
    keep: int = RARE


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("agent-started", "The agent has started on this host.", ("pid", "version", "generation")),
            Kind("agent-reloaded", "The agent was told to read everything again (SIGHUP).", ("pid",)),
            Kind("agent-stopped", "The agent was told to end; everything stays attached.", ("pid",)),
            Kind("generation-applied", "A change is in force.", ("generation", "verb", "actor", "reason")),
            Kind(
                "generation-undone",
                "A change was taken back: a step of it failed, or it was interrupted.",
                ("generation", "verb", "actor"),
            ),
            Kind(
                "service-attached",
                "A service with policies has appeared, and they are in force for its connections.",
                ("service", "cgroup", "generation", "milliseconds"),
                FREQUENT,
            ),
            Kind(
                "service-detached",
                "A service that had policies is gone, or no policy is for it any more; what was left is removed.",
                ("service", "cgroup", "generation"),
                FREQUENT,
            ),
            Kind(
                "service-refused",
                "A service with policies has appeared, and its hook belongs to a program that lets no other "
                "beside it. Its connections stay as they are.",
                ("service", "cgroup", "owner"),
            ),
            Kind(
                "fastpath-followed",
                "The network is configured otherwise, and the fast path is made for that now.",
                ("generation", "milliseconds", "steps"),
                FREQUENT,
            ),
            Kind(
                "fastpath-refused",
                "The kernel has taken no program on an interface, which is left to it until it has changed.",
                ("interface", "mode", "generation"),
            ),
            Kind(
                "sysctl-foreign",
                "Somebody else has set a sysctl that a policy sets. It is left alone, also when the policy goes.",
                ("generation",),
            ),
            Kind(
                "drift-found",
                "The kernel was not as the policies in force ask for, and nobody had asked for that.",
                ("generation", "steps"),
            ),
            Kind(
                "adjusted",
                "The agent has made the kernel what the policies in force ask for.",
                ("generation", "cause", "steps"),
                FREQUENT,
            ),
            Kind(
                "adjustment-failed",
                "The agent could not do that; it tries again, less and less often.",
                ("generation", "cause", "remedy"),
            ),
            Kind(
                "guard-tripped",
                "A policy has passed a limit of its guard for certain, and is taken off until somebody switches it on.",
                (
                    "policy",
                    "generation",
                    "limit",
                    "allowed",
                    "increase",
                    "treated",
                    "heldOut",
                    "treatedCount",
                    "heldOutCount",
                ),
            ),
            Kind(
                "watch-degraded",
                "The user's inotify watches are used up: services are looked for once a second instead.",
                ("services",),
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``at`` is in seconds since the epoch."""

    id: int
    at: float
    kind: str
    sentence: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The event as plain data."""
        return {
            "id": self.id, "at": self.at, "kind": self.kind, "sentence": self.sentence, "data": dict(self.data)
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Event:
        """The event that plain data tells of."""
        return cls(*(document[name] for name in ("id", "at", "kind", "sentence", "data")))


class Events:
    """The events of a journal. Of each kind the newest are kept: :attr:`Kind.keep`, and a few more."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, kind: str, sentence: str, **data: Any) -> int:
        """Record that something happened; the number of the event. Raises KeyError for a kind not declared."""
        keep = KINDS[kind].keep
        row = (time.time(), kind, sentence, json.dumps(data))
        number = self._db.execute(
            "INSERT INTO events (at, kind, sentence, data) VALUES (?, ?, ?, ?)", row
        ).lastrowid
        assert number is not None
        if number % TRIM_EVERY == 0:
            self._db.execute(
                "DELETE FROM events WHERE kind = ?1 AND id <="
                " (SELECT id FROM events WHERE kind = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (kind, keep),
            )
        return number

    def after(self, number: int = 0, *, since: float = 0.0, limit: int = 1000) -> list[Event]:
        """The events after one, from a time on (seconds since the epoch), oldest first."""
        return self._select("id > ? AND at >= ? ORDER BY id LIMIT ?", (number, since, limit))

    def newest(self, count: int) -> list[Event]:
        """The newest events, oldest of them first."""
        return self._select("1 ORDER BY id DESC LIMIT ?", (count,))[::-1]

    def _select(self, condition: str, values: Iterable[Any]) -> list[Event]:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return []  # written by a Pliant that had none, and open for reading
        rows = self._db.execute(f"SELECT {COLUMNS} FROM events WHERE {condition}", tuple(values))
        return [Event(n, at, kind, sentence, json.loads(data)) for n, at, kind, sentence, data in rows]

    def counts(self) -> dict[str, int]:
        """How many events of each kind are kept."""
        return dict(self._db.execute("SELECT kind, count(*) FROM events GROUP BY kind").fetchall())
