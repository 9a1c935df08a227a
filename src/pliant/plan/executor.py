# SPDX-License-Identifier: Apache-2.0
"""Carries out a plan: journal, act, read back, and on failure take back what was done, last step first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pliant.errors import PliantError
from pliant.plan.steps import Step

Progress = Callable[[int, int, Step], None]


class Actuator(Protocol):
    """The only thing that changes a host."""

    def act(self, step: Step) -> None:
        """Make the change. Raises :class:`PliantError` when it cannot be made."""

    def read_back(self, step: Step) -> None:
        """Check in the kernel that the change is there. Raises :class:`PliantError` when it is not."""


class Journal(Protocol):
    """Where the executor says what it is about to do and what it has done, so that a crash can be resolved."""

    def begin(self, position: int, step: Step, *, undo: bool = False) -> None:
        """Record, durably for a killed process, that the step is about to be taken."""

    def done(self, position: int, *, undo: bool = False) -> None:
        """Record that the step was taken and read back."""


class PlanFailed(PliantError):
    """A step failed and everything before it was taken back (or could not be: ``left`` says what is left).

    ``cause`` is what went wrong with ``step``.
    """

    def __init__(self, step: Step, cause: PliantError, left: Sequence[str]) -> None:
        self.step, self.cause = step, cause
        self.left = tuple(left)
        outcome = _what_is_left(left) if left else "the host is as it was before"
        super().__init__(f"could not {step.sentence}: {cause.message}; {outcome}", remedy=cause.remedy)


def _what_is_left(left: Sequence[str]) -> str:
    return f"could not be taken back: {'; '.join(left)}"


def execute(
    steps: Sequence[Step], actuator: Actuator, journal: Journal, progress: Progress | None = None
) -> None:
    """Take every step in order. Raises :class:`PlanFailed` after undoing.

    Whatever else is raised, an interrupt for one, is passed on after undoing, with a note of what is left.
    """
    taken: list[tuple[int, Step]] = []
    for position, step in enumerate(steps):
        try:
            if progress:
                progress(position, len(steps), step)
            taken.append((position, step))
            _take(position, step, actuator, journal)
        except PliantError as error:
            raise PlanFailed(step, error, _undo(taken, actuator, journal)) from error
        except BaseException as error:
            left = _undo(taken, actuator, journal)
            if left:
                error.add_note(_what_is_left(left))
            raise


def _take(position: int, step: Step, actuator: Actuator, journal: Journal) -> None:
    journal.begin(position, step)
    actuator.act(step)
    actuator.read_back(step)
    journal.done(position)


def _undo(taken: list[tuple[int, Step]], actuator: Actuator, journal: Journal) -> list[str]:
    """Undo in reverse, the step that failed included (it may have been half done); what could not be undone."""
    left = []
    for position, step in reversed(taken):
        undo = step.undo()
        if undo is None:
            continue
        try:
            journal.begin(position, undo, undo=True)
            actuator.act(undo)
            actuator.read_back(undo)
            journal.done(position, undo=True)
        except Exception as error:  # of whatever kind: the steps before it are to be taken back all the same
            left.append(f"{step.sentence} ({error.message if isinstance(error, PliantError) else error})")
    return left
