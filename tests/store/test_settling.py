# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.observe.pin_tree import Hook
from pliant.plan.steps import Attach
from pliant.store.journal import Journal

STEP = Attach("why", Hook("scope", 3), "/a")
PARENT, INTERRUPTED = 1, 2

Record = tuple[int, bool, bool]  # position, undo, done


@pytest.mark.parametrize(
    ("says", "steps", "records", "settled_to"),
    [
        ("no step was begun", 2, [], PARENT),
        ("a step was begun", 2, [(0, False, False)], PARENT),
        ("some steps were done", 2, [(0, False, True)], PARENT),
        ("the last was begun", 2, [(0, False, True), (1, False, False)], PARENT),
        ("every step was done", 2, [(0, False, True), (1, False, True)], INTERRUPTED),
        ("there was nothing to do but to keep the policies", 0, [], INTERRUPTED),
        (
            "undoing was begun after the last step",
            2,
            [(0, False, True), (1, False, True), (1, True, False)],
            PARENT,
        ),
        ("a step was undone", 2, [(0, False, True), (1, False, True), (1, True, True)], PARENT),
        ("settling it was interrupted too", 1, [(0, False, False), (1, True, True)], PARENT),
    ],
)
def test_an_interrupted_change_goes_forward_only_when_every_step_was_done_and_none_taken_back(
    tmp_path: Path, says: str, steps: int, records: Sequence[Record], settled_to: int
) -> None:
    with closing(Journal(tmp_path)) as journal:
        journal.finish(journal.start("apply", "", "", {}, 1, 0).number)
        generation = journal.start("apply", "", "", {}, 1, steps)
        for position, undo, done in records:
            generation.begin(position, STEP, undo=undo)
            if done:
                generation.done(position, undo=undo)
    with Host(Places(state=tmp_path)) as host:
        interrupted = host.journal.interrupted()
        assert interrupted is not None
        assert interrupted.number == INTERRUPTED
        assert host.settled_to(interrupted) == settled_to
