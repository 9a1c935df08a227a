# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.observe.pin_tree import Hook
from pliant.observe.tables import Table
from pliant.plan.steps import (
    Attach,
    Detach,
    ForgetProgram,
    LoadObject,
    ReplaceProgram,
    RestoreProgram,
    RetireLayout,
    Step,
    UnloadObject,
    WriteTable,
)
from pliant.policy.desired import SCOPE

SETTINGS = Table("dscp", "settings")


@pytest.mark.parametrize(
    ("step", "kind", "sentence"),
    [
        (LoadObject("", "dscp", "b1"), "load-object", "load the program dscp"),
        (UnloadObject("", "dscp", "b1"), "unload-object", "unload the program dscp"),
        (
            ReplaceProgram("", "dscp", "b2", "b1"),
            "replace-program",
            "replace the program dscp by this build's",
        ),
        (
            RestoreProgram("", "dscp", "b1", "b2"),
            "restore-program",
            "put the other build's program dscp back",
        ),
        (ForgetProgram("", "dscp", "b1"), "forget-program", "forget the other build's program dscp"),
        (Attach("", Hook(SCOPE, 3), "/a"), "attach", "attach scope to /a"),
        (Detach("", Hook(SCOPE, 3), "/a"), "detach", "detach scope from /a"),
        (
            RetireLayout("", "0123456789ab"),
            "retire-layout",
            "retire the programs of another build (layout 0123456789ab)",
        ),
        (
            WriteTable("", SETTINGS, {b"a": b"1"}, frozenset(), {b"a": None}),
            "write-table",
            "write 1 entry of dscp.settings",
        ),
        (
            WriteTable("", SETTINGS, {}, frozenset({b"a", b"b"}), {b"a": b"1", b"b": b"2"}),
            "write-table",
            "delete 2 entries of dscp.settings",
        ),
        (
            WriteTable("", SETTINGS, {b"a": b"1"}, frozenset({b"b"}), {b"a": None, b"b": b"2"}),
            "write-table",
            "write 1 entry and delete 1 entry of dscp.settings",
        ),
    ],
)
def test_a_step_has_a_kind_and_a_sentence(step: Step, kind: str, sentence: str) -> None:
    assert (step.kind, step.sentence) == (kind, sentence)


@pytest.mark.parametrize(
    "step",
    [
        LoadObject("why", "dscp", "b1"),
        UnloadObject("why", "dscp", "b1"),
        Attach("why", Hook(SCOPE, 3), "/a"),
        Detach("why", Hook(SCOPE, 3), "/a"),
        WriteTable("why", SETTINGS, {b"a": b"1"}, frozenset({b"b"}), {b"a": b"0", b"b": b"2"}),
    ],
    ids=lambda step: step.kind,
)
def test_undoing_an_undo_takes_the_step_again(step: Step) -> None:
    undo = step.undo()
    assert undo is not None
    assert undo.reason == f"undo: {step.sentence}"
    again = undo.undo()
    assert again is not None
    assert again.sentence == step.sentence
    assert type(again) is type(step)


@pytest.mark.parametrize(
    "step",
    [
        ForgetProgram("", "dscp", "b1"),
        RetireLayout("", "0123456789ab"),
        UnloadObject("", "dscp", ""),
        Detach("", Hook(SCOPE, 3), "cgroup 3 (gone)", lost=True),
    ],
    ids=lambda step: step.kind,
)
def test_what_cannot_be_brought_back_has_no_undo(step: Step) -> None:
    assert step.undo() is None


entries = st.dictionaries(st.sampled_from((b"a", b"b", b"c")), st.sampled_from((b"1", b"2")))


@given(entries, entries, st.sets(st.sampled_from((b"a", b"b", b"c"))))
def test_undoing_a_write_restores_every_entry_it_touched_and_no_other(
    held: dict[bytes, bytes], puts: dict[bytes, bytes], keys: set[bytes]
) -> None:
    deletes = frozenset(keys - puts.keys())
    touched = puts.keys() | deletes
    step = WriteTable("", SETTINGS, puts, deletes, {key: held.get(key) for key in touched})
    undo = step.undo()
    table = {key: value for key, value in (held | puts).items() if key not in deletes}
    assert undo.before == {key: table.get(key) for key in touched}
    restored = {key: value for key, value in {**table, **undo.puts}.items() if key not in undo.deletes}
    assert restored == held
