# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.errors import PliantError
from pliant.observe.pin_tree import Hook
from pliant.plan.steps import Attach, LoadObject
from pliant.policy.numbering import Numbered
from pliant.store.generations import NOTHING_YET, State, StoredPolicy
from pliant.store.journal import SCHEMA_VERSION, GenerationJournal, Journal

NOBODY = 65534

Policies = dict[str, StoredPolicy]


def stored(name: str, number: int = 1, document: str = "{}") -> StoredPolicy:
    return StoredPolicy(name, number, f"digest of {number}", document)


def start(journal: Journal, policies: Mapping[str, StoredPolicy], *, steps: int = 1) -> GenerationJournal:
    following = max((p.number for p in policies.values()), default=0) + 1
    return journal.start("apply", "why", "somebody", policies, following, steps)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path)) as made:
        yield made


# -- policies over generations

policy_dicts = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(1, 3), st.sampled_from(("{}", '{"x":1}'))), max_size=4
).map(lambda chosen: {name: stored(name, *rest) for name, rest in chosen.items()})


@settings(deadline=None)
@given(st.lists(st.tuples(policy_dicts, st.booleans()), max_size=8))
def test_each_generation_keeps_its_policies_whatever_is_applied_or_abandoned_after_it(
    story: list[tuple[Policies, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(Journal(Path(directory))) as journal:
        applied: dict[int, Policies] = {NOTHING_YET: {}}
        for number, (policies, succeeds) in enumerate(story, start=1):
            parent = max(applied)
            generation = start(journal, policies)
            assert generation.number == number
            assert journal.current() == parent
            assert journal.policies(parent) == applied[parent]
            assert journal.policies(number) == policies
            if succeeds:
                journal.finish(number)
                applied[number] = policies
            else:
                journal.abandon(number)
            found = journal.generation(number)
            assert found is not None
            assert (found.parent, found.state) == (parent, State.APPLIED if succeeds else State.UNDONE)
            assert journal.interrupted() is None
            assert journal.current() == max(applied)
            assert {at: journal.policies(at) for at in applied} == applied
        assert [g.number for g in journal.generations()] == list(range(1, len(story) + 1))


def test_policies_are_told_by_name_and_with_their_numbering(journal: Journal) -> None:
    policies = {"b": stored("b", 2), "a": stored("a", 1)}
    journal.finish(start(journal, policies).number)
    assert list(journal.policies(1)) == ["a", "b"]
    numbering = journal.numbering(1)
    assert numbering.numbers == {"a": Numbered(1, "digest of 1"), "b": Numbered(2, "digest of 2")}
    assert numbering.next_number == 3


def test_numbers_given_out_by_an_abandoned_generation_are_not_given_out_again(journal: Journal) -> None:
    journal.abandon(start(journal, {"a": stored("a", 7)}).number)
    assert journal.numbering(journal.current()).numbers == {}
    assert journal.numbering(journal.current()).next_number == 8


def test_a_policy_is_in_force_since_the_generation_that_last_changed_it(journal: Journal) -> None:
    for policies in ({"a": stored("a")}, {"a": stored("a"), "b": stored("b")}, {"a": stored("a", 3)}):
        journal.finish(start(journal, policies).number)
    assert journal.since("a").number == 3
    with pytest.raises(KeyError):
        journal.since("b")


def test_a_generation_says_who_did_what_when_and_why(journal: Journal) -> None:
    generation = journal.start("rollback", "it was slow", "ops", {}, 1, 5)
    opened = journal.generation(generation.number)
    assert opened is not None
    assert (opened.verb, opened.reason, opened.actor, opened.steps) == ("rollback", "it was slow", "ops", 5)
    assert (opened.state, opened.finished) == (State.APPLYING, None)
    journal.finish(generation.number)
    finished = journal.generation(generation.number)
    assert finished is not None
    assert finished.finished is not None
    assert finished.finished >= finished.started


def test_there_is_no_generation_before_the_first(journal: Journal) -> None:
    assert journal.current() == NOTHING_YET
    assert journal.generation(1) is None
    assert journal.generations() == []
    assert journal.policies(NOTHING_YET) == {}


def test_a_generation_that_was_neither_finished_nor_abandoned_is_interrupted(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as first:
        first.finish(start(first, {"a": stored("a")}).number)
        start(first, {"b": stored("b", 2)})
    with closing(Journal(tmp_path)) as again:
        interrupted = again.interrupted()
        assert interrupted is not None
        assert (interrupted.number, interrupted.state) == (2, State.APPLYING)
        assert again.current() == 1
        assert set(again.policies(1)) == {"a"}
        assert set(again.policies(2)) == {"b"}
        again.abandon(2)
        assert again.interrupted() is None


def test_a_generation_that_cannot_be_started_leaves_no_trace(journal: Journal) -> None:
    twice = {"a": stored("a"), "alias": stored("a")}
    with pytest.raises(sqlite3.IntegrityError):
        start(journal, twice)
    assert journal.generations() == []
    assert journal.numbering(NOTHING_YET).next_number == 1
    journal.finish(start(journal, {"a": stored("a")}).number)


# -- steps

LOAD = LoadObject("it decides", "scope", "b1")
ATTACH = Attach("policies match here", Hook("scope", 3), "/a")


def test_a_step_is_recorded_before_it_is_taken_and_again_after_it_was_read_back(journal: Journal) -> None:
    generation = start(journal, {})
    generation.begin(0, LOAD)
    (begun,) = journal.steps(1)
    assert (begun.position, begun.undo, begun.kind, begun.state) == (0, False, "load-object", "begun")
    assert (begun.sentence, begun.reason) == ("load the program scope", "it decides")
    generation.done(0)
    (done,) = journal.steps(1)
    assert done.state == "done"
    assert done.at >= begun.at


def test_steps_are_told_in_the_order_in_which_they_were_taken(journal: Journal) -> None:
    generation = start(journal, {}, steps=3)
    taken = [(0, False), (1, False), (2, False), (2, True), (1, True), (3, True), (4, True)]
    for position, undo in taken:  # the plan, its undoing up to a kill, and what settled it afterwards
        generation.begin(position, ATTACH, undo=undo)
        generation.done(position, undo=undo)
    assert [(step.position, step.undo) for step in journal.steps(1)] == taken


def test_undoing_a_step_leaves_the_record_of_the_step(journal: Journal) -> None:
    generation = start(journal, {})
    generation.begin(0, ATTACH)
    undo = ATTACH.undo()
    generation.begin(0, undo, undo=True)
    assert [(s.undo, s.kind, s.state) for s in journal.steps(1)] == [
        (False, "attach", "begun"),
        (True, "detach", "begun"),
    ]


def test_generations_do_not_share_steps(journal: Journal) -> None:
    first = start(journal, {})
    first.begin(0, LOAD)
    journal.finish(first.number)
    start(journal, {}).begin(0, ATTACH)
    assert [s.kind for s in journal.steps(1)] == ["load-object"]
    assert [s.kind for s in journal.steps(2)] == ["attach"]


# -- the file


def test_reading_a_journal_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with closing(Journal(directory, read_only=True)) as empty:
        assert empty.current() == NOTHING_YET
        assert empty.policies(0) == {}
        assert empty.interrupted() is None
    assert list(tmp_path.iterdir()) == []


def test_reading_a_journal_that_is_being_made_finds_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    with closing(Journal(tmp_path, read_only=True)) as empty:
        assert empty.generations() == []


def test_a_journal_opened_to_read_cannot_be_written(journal: Journal, tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path, read_only=True)) as reading,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        start(reading, {})
    assert journal.generations() == []


def test_a_reader_sees_what_a_writer_has_written(journal: Journal, tmp_path: Path) -> None:
    with closing(Journal(tmp_path, read_only=True)) as reading:
        generation = start(journal, {"a": stored("a")})
        generation.begin(0, LOAD)
        assert reading.interrupted() is not None
        assert len(reading.steps(1)) == 1
        journal.finish(1)
        assert reading.current() == 1
        assert reading.holdout_key == journal.holdout_key


def test_the_holdout_key_is_drawn_once_and_differs_between_hosts(tmp_path: Path) -> None:
    keys = []
    for state in ("one", "one", "other"):
        with closing(Journal(tmp_path / state)) as journal:
            keys.append(journal.holdout_key)
    assert keys[0] == keys[1] != keys[2]
    assert all(0 <= key < 2**63 for key in keys)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_journal_is_told_as_such(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(PliantError, match=r"journal\.db is damaged: file is not a database") as caught:
        Journal(tmp_path, read_only=read_only)
    assert caught.value.remedy.startswith("move it away")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path, read_only: bool) -> None:
    Journal(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    expected = f"has format {SCHEMA_VERSION + 1}, this Pliant reads {SCHEMA_VERSION}"
    with pytest.raises(PliantError, match=expected) as caught:
        Journal(tmp_path, read_only=read_only)
    assert caught.value.remedy
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


@contextmanager
def as_nobody() -> Iterator[None]:
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_directory_without_permission_is_told_with_a_remedy(tmp_path: Path, read_only: bool) -> None:
    directory = tmp_path / "state"
    Journal(directory).close()
    directory.chmod(0)
    try:
        with (
            as_nobody(),
            pytest.raises(PliantError, match=r"cannot open the journal .*journal\.db") as caught,
        ):
            Journal(directory, read_only=read_only)
    finally:
        directory.chmod(0o700)
    assert "--state" in caught.value.remedy


def test_a_state_directory_that_is_a_file_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(PliantError, match="cannot open the journal") as caught:
        Journal(tmp_path / "state")
    assert "--state" in caught.value.remedy
