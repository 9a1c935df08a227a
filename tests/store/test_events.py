# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.observe.pin_tree import Hook
from pliant.plan.steps import Attach
from pliant.store.events import KINDS, TRIM_EVERY, Event
from pliant.store.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


def test_events_come_back_in_order_with_their_data(journal: Journal) -> None:
    first = journal.events.add("agent-started", "the agent runs", pid=7)
    second = journal.events.add("adjusted", "one step", generation=3, steps=["a"])
    assert [e.id for e in journal.events.after(0)] == [first, second]
    [event] = journal.events.after(first)
    assert (event.kind, event.sentence, event.data) == (
        "adjusted",
        "one step",
        {"generation": 3, "steps": ["a"]},
    )
    assert Event.from_document(event.to_document()) == event


def test_events_of_undeclared_kinds_are_refused(journal: Journal) -> None:
    with pytest.raises(KeyError):
        journal.events.add("never-declared", "no")


def test_events_since_a_time_leave_out_the_older_ones(journal: Journal) -> None:
    journal.events.add("agent-started", "one")
    [event] = journal.events.newest(1)
    assert journal.events.after(0, since=event.at) == [event]
    assert journal.events.after(0, since=event.at + 1) == []


def test_a_frequent_kind_is_bounded_and_does_not_push_out_a_rare_one(journal: Journal) -> None:
    journal.events.add("agent-started", "kept")
    keep = KINDS["service-attached"].keep
    for number in range(keep + 3 * TRIM_EVERY):
        journal.events.add("service-attached", f"service {number}")
    counts = journal.events.counts()
    assert keep <= counts["service-attached"] <= keep + TRIM_EVERY
    assert counts["agent-started"] == 1
    assert journal.events.newest(1)[0].sentence == f"service {keep + 3 * TRIM_EVERY - 1}"


def test_a_generation_that_ends_is_an_event(journal: Journal) -> None:
    journal.start("apply", "why", "somebody", {}, 1, 0)
    journal.finish(1)
    journal.start("apply", "why", "somebody", {}, 1, 0)
    journal.abandon(2)
    found = journal.events.newest(2)
    assert [(e.kind, e.data["generation"]) for e in found] == [
        ("generation-applied", 1),
        ("generation-undone", 2),
    ]
    assert found[0].data["reason"] == "why"


def test_a_journal_of_before_there_were_events_is_read_and_gets_them_when_written_to(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    old = sqlite3.connect(tmp_path / "journal.db")
    old.executescript("DROP TABLE events; DROP TABLE adjustments;")
    old.close()
    reader = Journal(tmp_path, read_only=True)
    assert reader.events.after(0) == []
    reader.close()
    writer = Journal(tmp_path)
    writer.events.add("agent-started", "now it can")
    assert len(writer.events.after(0)) == 1
    writer.close()


def test_adjustments_are_recorded_before_and_after(journal: Journal) -> None:
    steps = [Attach("because", Hook("scope", number), f"/{number}") for number in range(30)]
    begun = journal.adjustments.begin(1, "service", steps)
    assert [a.state for a in journal.adjustments.newest(9)] == ["begun"]
    begun.finish()
    [found] = journal.adjustments.newest(9)
    assert (found.state, found.cause, found.steps[-1]) == ("done", "service", "and 10 more")
    journal.adjustments.begin(1, "check", steps).abandon()
    assert [a.state for a in journal.adjustments.newest(9)] == ["done", "undone"]
