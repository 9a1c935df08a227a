# SPDX-License-Identifier: Apache-2.0
"""What the journal holds: generations, their steps, and the versions of policies in force."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NOTHING_YET = 0


class State(Enum):
    """How far a generation got."""

    APPLYING = "applying"
    APPLIED = "applied"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Generation:
    """One change of a host. Times are seconds since the epoch; ``finished`` is None while it is being applied."""

    number: int
    parent: int
    verb: str
    reason: str
    actor: str
    state: State
    started: float
    finished: float | None
    steps: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as the journal has it; ``undo`` marks steps taken backwards."""

    position: int
    undo: bool
    kind: str
    sentence: str
    reason: str
    state: str
    at: float


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A version of a policy: its number in the kernel, what the number stands for, and its document as JSON."""

    name: str
    number: int
    digest: str
    document: str
