# SPDX-License-Identifier: Apache-2.0
"""The journal of one host, in SQLite.

A process may be killed at any moment: everything written is then either there or not (WAL). Records of steps are not
synced to disk one by one, for a crash of the whole machine takes the kernel's state with it; the end of a generation
is, because from then on the policies are promised to be kept.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

from pliant.errors import PliantError
from pliant.plan.steps import Step
from pliant.policy.numbering import Numbered, Numbering
from pliant.policy.switches import Switches
from pliant.store.adjustments import Adjustments
from pliant.store.audit import Head
from pliant.store.events import Events
from pliant.store.generations import NOTHING_YET, Generation, State, StepRecord, StoredPolicy
from pliant.store.switch_table import SwitchTable

SCHEMA_VERSION = 1
ADDITIONS = {"events.sql": "adjustments", "switches.sql": "switches"}
"""Tables that came later: made where they are missing, in a journal of the same version. By file,
with the last table it makes. Older builds ignore them."""

BUSY_TIMEOUT_S = 5.0
COLUMNS = "number, parent, verb, reason, actor, state, started, finished, steps"
IN_FORCE = "since <= :at AND (until IS NULL OR until > :at)"


class Journal:
    """The journal in a state directory; made at first use unless ``read_only``.

    Raises :class:`PliantError` when the file cannot be opened, is damaged or was written by a newer Pliant.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.path = directory / "journal.db"
        self.writable = not read_only
        try:
            self._db = self._open(read_only)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except (sqlite3.OperationalError, OSError) as error:
            raise PliantError(
                f"cannot open the journal {self.path}: {error}",
                remedy="run as root, or name another --state directory",
            ) from error
        except sqlite3.Error as error:
            raise PliantError(
                f"the journal {self.path} is damaged: {error}",
                remedy="move it away; 'pliant doctor' says what is on the host",
            ) from error
        if version != SCHEMA_VERSION:
            self.close()
            raise PliantError(
                f"the journal {self.path} has format {version}, this Pliant reads {SCHEMA_VERSION}",
                remedy="use the version of Pliant that wrote it",
            )

    def _open(self, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return self._open_to_read()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = self._connect()
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._create(db)
        self._add(db)
        return db

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    def _open_to_read(self) -> sqlite3.Connection:
        """The file, or an empty journal in memory where there is none, or one that is only being made."""
        if self.path.exists():
            db = self._connect()
            db.execute("PRAGMA query_only = ON")
            if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                return db
            db.close()
        db = sqlite3.connect(":memory:", isolation_level=None)
        self._create(db)
        self._add(db)
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        schema = resources.files("pliant.store").joinpath("schema.sql").read_text()
        db.executescript(f"BEGIN IMMEDIATE;{schema}PRAGMA user_version = {SCHEMA_VERSION};")
        key = secrets.randbits(63)
        db.execute("INSERT INTO meta VALUES ('holdout_key', ?), ('next_number', '1')", (str(key),))
        db.execute("COMMIT")

    def _add(self, db: sqlite3.Connection) -> None:
        there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for name in (name for name, last in ADDITIONS.items() if last not in there):
            db.executescript(resources.files("pliant.store").joinpath(name).read_text())

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- what is known

    @property
    def events(self) -> Events:
        """What happened on the host."""
        return Events(self._db)

    @property
    def adjustments(self) -> Adjustments:
        """What was done to keep the kernel as the policies in force ask for."""
        return Adjustments(self._db)

    @property
    def is_stand_in(self) -> bool:
        """Whether there was no file when this was opened to read: it is then empty and stays so."""
        return not self._db.execute("PRAGMA database_list").fetchone()[2]

    @property
    def data_version(self) -> int:
        """A number that changes when another process has written (PRAGMA data_version); cheap to look at."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    @property
    def holdout_key(self) -> int:
        """This host's secret for choosing held-out connections, 63 bits, drawn when the journal was made."""
        return int(self._meta("holdout_key"))

    @property
    def audit_head(self) -> Head | None:
        """The newest record of the audit log; None when there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'audit_head'").fetchone()
        if row is None:
            return None
        seq, _, digest = str(row[0]).partition(":")
        return Head(int(seq), digest)

    def _meta(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def generations(self) -> list[Generation]:
        """All generations, oldest first."""
        rows = self._db.execute(f"SELECT {COLUMNS} FROM generations ORDER BY number")
        return [_generation(row) for row in rows]

    def generation(self, number: int) -> Generation | None:
        """One generation, or None."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM generations WHERE number = ?", (number,)).fetchone()
        return _generation(row) if row else None

    def current(self) -> int:
        """The number of the generation in force; 0 when nothing was ever applied."""
        row = self._db.execute("SELECT max(number) FROM generations WHERE state = 'applied'").fetchone()
        return int(row[0] or NOTHING_YET)

    def next_generation(self) -> int:
        """The number that the next generation will have."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM generations").fetchone()[0])

    def interrupted(self) -> Generation | None:
        """The generation that is being applied; with the host's lock in hand: whose process died."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM generations WHERE state = 'applying'").fetchone()
        return _generation(row) if row else None

    def policies(self, generation: int) -> dict[str, StoredPolicy]:
        """The policies of a generation by name."""
        rows = self._db.execute(
            f"SELECT name, number, digest, document FROM policies WHERE {IN_FORCE} ORDER BY name",
            {"at": generation},
        )
        return {row[0]: StoredPolicy(*row) for row in rows}

    def switches(self, generation: int) -> Switches:
        """What was switched off in a generation."""
        return SwitchTable(self._db).at(generation)

    def since(self, name: str) -> Generation:
        """The generation that brought a policy into force as it is now. Raises KeyError when it is not in force."""
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM generations WHERE number ="
            " (SELECT since FROM policies WHERE name = ? AND until IS NULL)",
            (name,),
        ).fetchone()
        if row is None:
            raise KeyError(name)
        return _generation(row)

    def in_force_since(self, generation: int) -> dict[str, float]:
        """When each policy of a generation came into force as it was then, in seconds since the epoch."""
        rows = self._db.execute(
            "SELECT p.name, g.started FROM policies AS p JOIN generations AS g ON g.number = p.since"
            f" WHERE {IN_FORCE}",
            {"at": generation},
        )
        return dict(rows.fetchall())

    def numbering(self, generation: int) -> Numbering:
        """The numbers of a generation's policies, and the next number that was never given out."""
        rows = self._db.execute(
            f"SELECT name, number, digest FROM policies WHERE {IN_FORCE}", {"at": generation}
        )
        numbers = {name: Numbered(number, digest) for name, number, digest in rows}
        return Numbering(numbers, int(self._meta("next_number")))

    def steps(self, generation: int) -> list[StepRecord]:
        """What was done for a generation, in order of time: its plan, the plan's undoing, what settled it later."""
        rows = self._db.execute(
            "SELECT s.position, s.undo, s.kind, s.sentence, s.reason, s.state, s.at"
            " FROM steps AS s JOIN generations AS g ON g.number = s.generation WHERE g.number = ?"
            " ORDER BY s.position >= g.steps, s.undo,"
            " CASE WHEN s.undo AND s.position < g.steps THEN -s.position ELSE s.position END",
            (generation,),
        )
        return [StepRecord(row[0], bool(row[1]), *row[2:]) for row in rows]

    # -- what happens

    def keep_audit_head(self, head: Head) -> None:
        """Keep the number and hash of the newest record of the audit log."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('audit_head', ?)", (f"{head.seq}:{head.hash}",))

    def start(
        self,
        verb: str,
        reason: str,
        actor: str,
        policies: Mapping[str, StoredPolicy],
        next_number: int,
        steps: int,
        switches: Switches | None = None,
    ) -> GenerationJournal:
        """Open a generation with the policies it is to bring into force, in one transaction.

        ``switches`` is what is off from then on; as before when none are given.
        """
        parent = self.current()
        before = self.policies(parent)
        with self._transaction() as db:
            number = self.next_generation()
            db.execute(
                f"INSERT INTO generations ({COLUMNS}) VALUES (?, ?, ?, ?, ?, 'applying', ?, NULL, ?)",
                (number, parent, verb, reason, actor, time.time(), steps),
            )
            db.executemany(
                "UPDATE policies SET until = ? WHERE name = ? AND until IS NULL",
                [(number, name) for name in before if before[name] != policies.get(name)],
            )
            db.executemany(
                "INSERT INTO policies (name, since, until, number, digest, document) VALUES (?, ?, NULL, ?, ?, ?)",
                [(p.name, number, p.number, p.digest, p.document) for p in _changed(policies, before)],
            )
            if switches is not None:
                SwitchTable(db).put(number, self.switches(parent), switches)
            self.reserve_numbers(next_number)
        return GenerationJournal(self, number)

    def reserve_numbers(self, next_number: int) -> None:
        """Never again give out a policy number below this one."""
        self._db.execute(
            "UPDATE meta SET value = ?1 WHERE key = 'next_number' AND CAST(value AS INTEGER) < ?1",
            (next_number,),
        )

    def finish(self, number: int) -> None:
        """The generation is in force; synced to disk before this returns."""
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction():
                self._end(number, State.APPLIED)
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    def abandon(self, number: int) -> None:
        """The generation was taken back: its policies and switches go, those it had ended are in force again."""
        with self._transaction() as db:
            db.execute("DELETE FROM policies WHERE since = ?", (number,))
            db.execute("UPDATE policies SET until = NULL WHERE until = ?", (number,))
            SwitchTable(db).abandon(number)
            self._end(number, State.UNDONE)

    def _end(self, number: int, state: State) -> None:
        self._db.execute(
            "UPDATE generations SET state = ?, finished = ? WHERE number = ?",
            (state.value, time.time(), number),
        )
        ended = self.generation(number)
        if ended is None:
            return
        said = {"generation": number, "verb": ended.verb, "actor": ended.actor}
        if state is State.APPLIED:
            sentence = f"generation {number} is in force ({ended.verb} by {ended.actor})"
            self.events.add("generation-applied", sentence, **said, reason=ended.reason)
        else:
            sentence = f"generation {number} was taken back ({ended.verb} by {ended.actor})"
            self.events.add("generation-undone", sentence, **said)

    def record(self, generation: int, position: int, step: Step, *, undo: bool) -> None:
        """Record that a step is about to be taken."""
        self._db.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, 'begun', ?)",
            (generation, position, undo, step.kind, step.sentence, step.reason, time.time()),
        )

    def record_done(self, generation: int, position: int, *, undo: bool) -> None:
        """Record that a step was taken and read back."""
        self._db.execute(
            "UPDATE steps SET state = 'done', at = ? WHERE generation = ? AND position = ? AND undo = ?",
            (time.time(), generation, position, undo),
        )


class GenerationJournal:
    """The journal of one generation being applied; see :class:`pliant.plan.executor.Journal`."""

    def __init__(self, journal: Journal, number: int) -> None:
        self._journal = journal
        self.number = number

    def begin(self, position: int, step: Step, *, undo: bool = False) -> None:
        """Record that the step is about to be taken."""
        self._journal.record(self.number, position, step, undo=undo)

    def done(self, position: int, *, undo: bool = False) -> None:
        """Record that the step was taken and read back."""
        self._journal.record_done(self.number, position, undo=undo)


def _changed(
    policies: Mapping[str, StoredPolicy], before: Mapping[str, StoredPolicy]
) -> Iterable[StoredPolicy]:
    return (policy for name, policy in policies.items() if before.get(name) != policy)


def _generation(row: tuple[int, int, str, str, str, str, float, float | None, int]) -> Generation:
    number, parent, verb, reason, actor, state, started, finished, steps = row
    return Generation(number, parent, verb, reason, actor, State(state), started, finished, steps)
