# SPDX-License-Identifier: Apache-2.0
"""What was done to keep the kernel as the policies in force ask for: no generation, for no policy changes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pliant.plan.steps import Step

KEEP = 1_000
TELL_STEPS = 20


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One adjustment as the journal has it; ``steps`` are sentences, the first twenty of them."""

    id: int
    at: float
    generation: int
    cause: str
    steps: tuple[str, ...]
    state: str


class Adjustments:
    """The adjustments in a journal, the newest thousand."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def begin(self, generation: int, cause: str, steps: Sequence[Step]) -> AdjustmentJournal:
        """Record that steps are about to be taken."""
        told = [step.sentence for step in steps[:TELL_STEPS]]
        if len(steps) > TELL_STEPS:
            told.append(f"and {len(steps) - TELL_STEPS:,} more")
        row = (time.time(), generation, cause, json.dumps(told))
        number = self._db.execute(
            "INSERT INTO adjustments (at, generation, cause, steps, state) VALUES (?, ?, ?, ?, 'begun')", row
        ).lastrowid
        assert number is not None
        if number % 64 == 0:
            self._db.execute("DELETE FROM adjustments WHERE id <= ?", (number - KEEP,))
        return AdjustmentJournal(self, number)

    def end(self, number: int, state: str) -> None:
        """Record how it ended: ``done`` or ``undone``."""
        self._db.execute("UPDATE adjustments SET state = ? WHERE id = ?", (state, number))

    def newest(self, count: int) -> list[Adjustment]:
        """The newest adjustments, oldest of them first."""
        rows = self._db.execute(
            "SELECT id, at, generation, cause, steps, state FROM adjustments ORDER BY id DESC LIMIT ?",
            (count,),
        )
        return [
            Adjustment(n, at, generation, cause, tuple(json.loads(steps)), state)
            for n, at, generation, cause, steps, state in rows
        ][::-1]


class AdjustmentJournal:
    """The journal of one adjustment: its plan was recorded as a whole. See :class:`pliant.plan.executor.Journal`.

    That is enough, for it is not settled step by step: the next look at the kernel starts from what is found.
    """

    def __init__(self, adjustments: Adjustments, number: int) -> None:
        self._adjustments = adjustments
        self.number = number

    def begin(self, position: int, step: Step, *, undo: bool = False) -> None:
        """Nothing: the step is in the record already."""

    def done(self, position: int, *, undo: bool = False) -> None:
        """Nothing: the record is completed at the end."""

    def finish(self) -> None:
        """Record that every step was taken and read back."""
        self._adjustments.end(self.number, "done")

    def abandon(self) -> None:
        """Record that what was done has been taken back."""
        self._adjustments.end(self.number, "undone")
