# SPDX-License-Identifier: Apache-2.0
"""What is switched off, as the journal keeps it: by interval of generations, like the policies."""

from __future__ import annotations

import sqlite3

from pliant.policy.switches import ALL_ON, Kind, Switch, Switched, Switches


class SwitchTable:
    """The switches in a journal."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def at(self, generation: int) -> Switches:
        """What was off in a generation."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'switches'").fetchone():
            return ALL_ON  # written by a Pliant that had none, and open for reading
        rows = self._db.execute(
            "SELECT kind, name, reason, actor, at FROM switches"
            " WHERE since <= :at AND (until IS NULL OR until > :at)",
            {"at": generation},
        )
        return ALL_ON.turned_off(
            Switch(Switched(Kind(kind), name), reason, actor, at) for kind, name, reason, actor, at in rows
        )

    def put(self, number: int, before: Switches, after: Switches) -> None:
        """Bring what is off from what it was to what it is from generation ``number`` on."""
        self._db.executemany(
            "UPDATE switches SET until = ? WHERE kind = ? AND name = ? AND until IS NULL",
            [(number, s.what.kind.value, s.what.name) for s in before.off if s not in after.off],
        )
        self._db.executemany(
            "INSERT INTO switches (kind, name, since, until, reason, actor, at) VALUES (?, ?, ?, NULL, ?, ?, ?)",
            [
                (s.what.kind.value, s.what.name, number, s.reason, s.actor, s.at)
                for s in after.off
                if s not in before.off
            ],
        )

    def abandon(self, number: int) -> None:
        """Take back what generation ``number`` switched."""
        self._db.execute("DELETE FROM switches WHERE since = ?", (number,))
        self._db.execute("UPDATE switches SET until = NULL WHERE until = ?", (number,))
