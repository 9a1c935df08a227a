# SPDX-License-Identifier: Apache-2.0
"""What every store of policies promises, whatever keeps the data."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pliant.errors import PliantError
from pliant.store.contract import (
    EMPTY,
    HostReport,
    PolicySource,
    PolicyStore,
    RevisionChanged,
    RevisionGone,
    Snapshot,
)
from pliant.store.database import DatabaseStore
from pliant.store.generations import StoredPolicy
from pliant.store.journal import Journal
from pliant.store.journal_source import JournalSource
from pliant.store.memory import MemoryStore

SOON_S, LONG_S = 0.01, 20.0

Changes = Mapping[str, str | None]
Put = Callable[[Changes], int]


class Engine:
    """A store to be opened several times, and a way to put policies into it that is not one of those."""

    def __init__(
        self, kind: str, directory: Path, stack: ExitStack, memory: MemoryStore | None = None
    ) -> None:
        self.kind, self.directory, self._stack = kind, directory, stack
        self._memory = memory or MemoryStore()

    def elsewhere(self, stack: ExitStack) -> Engine:
        return Engine(self.kind, self.directory, stack, self._memory)

    def source(self) -> PolicySource:
        if self.kind == "journal":
            return self._stack.enter_context(closing(JournalSource(self.directory)))
        return self.store()

    def store(self) -> PolicyStore:
        if self.kind == "memory":
            return self._memory
        return self._stack.enter_context(closing(DatabaseStore(self.directory / "policies.db")))

    def put(self, changes: Changes) -> int:
        return self._put_in_journal(changes) if self.kind == "journal" else self.store().put(changes)

    def _put_in_journal(self, changes: Changes) -> int:
        """Bring policies into force, as the change of a host does."""
        with closing(Journal(self.directory)) as journal:
            held = {name: p.document for name, p in journal.policies(journal.current()).items()}
            after = {name: text for name, text in {**held, **changes}.items() if text is not None}
            policies = {name: StoredPolicy(name, 1, "digest", text) for name, text in after.items()}
            number = journal.start("apply", "", "", policies, 2, 0).number
            journal.finish(number)
            return number


ENGINES = ("memory", "database")


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with ExitStack() as stack:
        yield Engine(request.param, tmp_path, stack)


of_sources = pytest.mark.parametrize("engine", [*ENGINES, "journal"], indirect=True)
of_stores = pytest.mark.parametrize("engine", ENGINES, indirect=True)


@of_sources
def test_a_store_that_nothing_was_put_into_is_empty(engine: Engine) -> None:
    source = engine.source()
    assert source.revision() == EMPTY
    assert source.snapshot() == Snapshot(EMPTY, {})
    assert source.wait(EMPTY, SOON_S) == EMPTY


@of_sources
def test_every_change_makes_a_higher_revision_and_earlier_ones_stay_as_they_were(engine: Engine) -> None:
    source = engine.source()
    first = engine.put({"a": "1", "b": "1"})
    second = engine.put({"a": "2", "c": "1"})
    third = engine.put({"b": None})
    assert EMPTY < first < second < third == source.revision()
    assert source.snapshot(first).documents == {"a": "1", "b": "1"}
    assert source.snapshot(second).documents == {"a": "2", "b": "1", "c": "1"}
    assert source.snapshot() == source.snapshot(third) == Snapshot(third, {"a": "2", "c": "1"})
    assert source.snapshot(EMPTY).documents == {}


@of_sources
def test_a_revision_that_is_not_there_is_told(engine: Engine) -> None:
    source = engine.source()
    newest = engine.put({"a": "1"})
    for revision in (newest + 1, -1):
        with pytest.raises(RevisionGone, match=f"no revision {revision}"):
            source.snapshot(revision)


@of_sources
def test_waiting_ends_at_once_for_what_is_there_already(engine: Engine) -> None:
    source = engine.source()
    newest = engine.put({"a": "1"})
    assert source.wait(EMPTY, LONG_S) == newest
    assert source.wait(newest, SOON_S) == newest


@of_sources
def test_waiting_ends_when_somebody_puts_something(engine: Engine) -> None:
    """Also the first thing ever: a host may be followed before anything was applied on it."""
    for text in ("first", "second"):
        before, waiting = engine.source().revision(), threading.Event()

        def follow(after: int = before, waiting: threading.Event = waiting) -> int:
            with ExitStack() as stack:  # SQLite's connections belong to the thread that made them
                source = engine.elsewhere(stack).source()
                assert source.wait(after, SOON_S) == after
                waiting.set()
                return source.wait(after, LONG_S)

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(follow)
            assert waiting.wait(LONG_S)
            put = engine.put({"a": text})
            assert following.result(LONG_S) == put


@of_stores
def test_putting_what_is_there_makes_no_revision(engine: Engine) -> None:
    store = engine.store()
    first = store.put({"a": "1"})
    assert store.put({"a": "1", "not there": None}) == first
    assert store.put({}) == first
    assert store.revision() == first


@of_stores
def test_of_two_who_decide_on_the_same_revision_one_is_told_to_decide_anew(engine: Engine) -> None:
    store, other = engine.store(), engine.store()
    read = store.put({"a": "1"})
    newest = other.put({"a": "2"}, expected=read)
    with pytest.raises(RevisionChanged, match=f"revision {newest}, not {read}") as caught:
        store.put({"a": "3", "b": "1"}, expected=read)
    assert caught.value.remedy
    assert store.snapshot() == Snapshot(newest, {"a": "2"})


@of_stores
def test_a_deleted_policy_can_come_back(engine: Engine) -> None:
    store = engine.store()
    revisions = [store.put({"a": text}) for text in ("1", None, "1")]
    assert [store.snapshot(r).documents for r in revisions] == [{"a": "1"}, {}, {"a": "1"}]


@of_stores
def test_a_host_reports_back_and_its_last_word_counts(engine: Engine) -> None:
    store = engine.store()
    assert store.reports() == {}
    said = [
        HostReport("one", 1, "failed", "no service 'x'", 10.0),
        HostReport("two", 1, "applied", "", 11.0),
        HostReport("one", 2, "applied", "", 12.0),
    ]
    for report in said:
        store.report(report)
    assert engine.store().reports() == {"one": said[2], "two": said[1]}


def test_a_policy_store_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "policies.db"
    path.write_text("this is not a database, and long enough to be taken for one" * 20)
    with pytest.raises(PliantError, match=r"policies\.db cannot be used"):
        DatabaseStore(path)


def test_a_policy_store_survives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "policies.db"
    with closing(DatabaseStore(path)) as store:
        revision = store.put({"a": "1"})
    with closing(DatabaseStore(path)) as store:
        assert store.snapshot() == Snapshot(revision, {"a": "1"})
