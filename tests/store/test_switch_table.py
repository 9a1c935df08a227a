# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from importlib import resources
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.policy.switches import ALL_ON, HOST, Kind, Switch, Switched, Switches
from pliant.store.generations import NOTHING_YET
from pliant.store.journal import SCHEMA_VERSION, Journal

THINGS = (HOST, Switched(Kind.POLICY, "a"), Switched(Kind.POLICY, "b"), Switched(Kind.SERVICE, "a"))

switches = st.sets(st.builds(Switch, st.sampled_from(THINGS), st.sampled_from(("", "why")), st.just("me"), st.just(1.0))
).map(lambda chosen: ALL_ON.turned_off(sorted(chosen, key=str)))  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | switches, st.booleans()), max_size=8))
def test_each_generation_keeps_what_was_off_whatever_is_switched_or_abandoned_after_it(
    story: list[tuple[Switches | None, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(Journal(Path(directory))) as journal:
        off = {NOTHING_YET: ALL_ON}
        for switched, succeeds in story:
            before = off[max(off)]
            after = before if switched is None else switched
            number = journal.start("off", "", "me", {}, 1, 0, switched).number
            assert journal.switches(number) == after
            if succeeds:
                journal.finish(number)
                off[number] = after
            else:
                journal.abandon(number)
                assert journal.switches(number) == before
        assert {number: journal.switches(number) for number in off} == off


def first_format(directory: Path) -> None:
    """A journal as the first builds wrote it."""
    with closing(sqlite3.connect(directory / "journal.db")) as db:
        schema = resources.files("pliant.store").joinpath("schema.sql").read_text()
        db.executescript(f"BEGIN;{schema}PRAGMA user_version = 1;")
        db.execute("INSERT INTO meta VALUES ('holdout_key', '7'), ('next_number', '2')")
        db.execute("INSERT INTO generations VALUES (1, 0, 'apply', '', 'me', 'applied', 1.0, 2.0, 3)")
        db.execute("INSERT INTO policies VALUES ('a', 1, NULL, 1, 'digest', '{}')")
        db.execute("COMMIT")


def test_a_journal_of_the_first_format_is_read_and_used_in_place(tmp_path: Path) -> None:
    assert SCHEMA_VERSION == 1
    first_format(tmp_path)
    with closing(Journal(tmp_path, read_only=True)) as journal:
        assert journal.switches(1) == ALL_ON
        assert journal.audit_head is None
    off = ALL_ON.turned_off([Switch(HOST, "fire", "me", 1.0)])
    with closing(Journal(tmp_path)) as journal:
        journal.finish(journal.start("off", "", "me", journal.policies(1), 2, 0, off).number)
    with closing(Journal(tmp_path, read_only=True)) as journal:
        assert journal.switches(journal.current()) == off
        assert list(journal.policies(2)) == ["a"]
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:  # and an earlier build still reads it
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
