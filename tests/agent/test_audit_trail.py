# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.audit_trail import AuditTrail, differences
from pliant.agent.host import Host
from pliant.agent.origin import Origin
from pliant.errors import PliantError
from pliant.plan.executor import PlanFailed
from pliant.plan.steps import Step
from pliant.store.audit import AuditLog, parse, read_lines
from pliant.store.audit_check import verify
from pliant.store.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant

pytestmark = pytest.mark.root


def records(pliant: Pliant) -> list[Any]:
    return [parse(line).body for line in read_lines(AuditLog(pliant.places.state).path)]


def is_sound(pliant: Pliant) -> bool:
    with closing(Journal(pliant.places.state, read_only=True)) as journal:
        return verify(AuditLog(pliant.places.state).segments(), journal.audit_head).is_sound


@pytest.fixture
def service(pair: Pair) -> str:
    return pair.service(pair.server, "web.service")


@pytest.fixture(autouse=True)
def sound(pliant: Pliant) -> Iterator[None]:
    yield
    assert is_sound(pliant)


def test_a_change_is_recorded_before_and_after_with_who_what_why_and_plan(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    pliant.apply(make_policy("a", service, {"initial_cwnd": 20}))
    with pliant.host() as host:
        change = host.change_to_apply([make_policy("a", service, {"initial_cwnd": 40})], reason="too slow")
        applied = host.carry_out(change, actor="test")
        document = host.journal.policies(applied.generation)["a"].document
    begin, end = records(pliant)[-2:]
    assert (begin["event"], begin["verb"], begin["reason"], begin["actor"]) == (
        "begin",
        "apply",
        "too slow",
        "test",
    )
    assert begin["who"]["pid"] == os.getpid()
    assert begin["who"]["uid"] == 0
    assert shlex.split(begin["who"]["command"])[0] == sys.orig_argv[0]
    assert begin["plan"] == [step.sentence for step in change.plan]
    [told] = begin["policies"]
    assert told["diff"] == ["spec.tune.initial_cwnd: 20 -> 40"]
    assert told["after"] == hashlib.sha256(document.encode()).hexdigest() != told["before"]
    assert (end["event"], end["of"], end["result"]) == ("end", begin["seq"], "applied")
    assert end["generation"] == begin["generation"] == applied.generation


def test_every_kind_of_change_is_recorded(pliant: Pliant, service: str, make_policy: MakePolicy) -> None:
    pliant.apply(make_policy("a", service, {"initial_cwnd": 20}))
    pliant.delete("a")
    pliant.rollback()
    next(pliant.places.pins.rglob("links/*")).unlink()
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
    told = [(r["verb"], r.get("result")) for r in records(pliant)]
    verbs = ("apply", "delete", "rollback", "repair")
    assert told == [pair for verb in verbs for pair in ((verb, None), (verb, "applied"))]


def test_what_changes_nothing_is_not_recorded(pliant: Pliant, service: str, make_policy: MakePolicy) -> None:
    for _ in range(2):
        pliant.apply(make_policy("a", service, {"initial_cwnd": 20}))
    assert len(records(pliant)) == 2


def test_a_change_that_failed_and_was_taken_back_is_recorded_with_its_error(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    def fail(position: int, count: int, step: Step) -> None:
        if position == count - 1:
            raise PliantError("somebody pulled the plug")

    with pytest.raises(PlanFailed, match="pulled the plug"):
        pliant.apply(make_policy("a", service, {"initial_cwnd": 20}), progress=fail)
    end = records(pliant)[-1]
    assert end["result"] == "undone"
    assert "somebody pulled the plug" in end["error"]


@pytest.mark.parametrize("where", ["in the first step", "after the last step"])
def test_what_became_of_a_killed_change_is_recorded_by_the_next(
    pliant: Pliant, service: str, make_policy: MakePolicy, where: str
) -> None:
    policy = make_policy("a", service, {"initial_cwnd": 20})
    child = os.fork()
    if child == 0:
        try:
            _die(pliant, policy, where)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [r["event"] for r in records(pliant)] == ["begin"]
    assert is_sound(pliant)
    with pliant.host() as host:
        in_force = list(host.policies())
    begin, end = records(pliant)
    assert (end["event"], end["of"], end["settled"]) == ("end", begin["seq"], True)
    assert begin["who"]["pid"] == child
    assert end["who"]["pid"] == os.getpid()
    assert (end["result"], in_force) == {"in the first step": ("undone", [])}.get(where, ("applied", ["a"]))


def _die(pliant: Pliant, policy: Any, where: str) -> None:
    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "in the first step":
        pliant.apply(policy, progress=kill)
    AuditTrail._end = kill  # type: ignore[method-assign, assignment]
    pliant.apply(policy)


@pytest.mark.parametrize("what", ["a full disk", "a directory in its place"])
def test_a_change_that_cannot_be_recorded_is_not_made(
    pliant: Pliant, service: str, make_policy: MakePolicy, what: str
) -> None:
    state = pliant.places.state
    pliant.apply(make_policy("a", service, {"initial_cwnd": 20}))
    before, listing = records(pliant), pliant.listing()
    log = AuditLog(state).path
    aside = log.rename(state / "aside")
    if what == "a full disk":
        log.symlink_to("/dev/full")
    else:
        log.mkdir()
    with pytest.raises(PliantError, match=r"the audit log .* cannot be"):
        pliant.apply(make_policy("a", service, {"initial_cwnd": 40}))
    with Host(pliant.places) as host:
        assert host.journal.current() == host.journal.next_generation() - 1 == 1
    assert pliant.listing() == listing
    log.unlink() if what == "a full disk" else log.rmdir()
    aside.rename(log)
    assert records(pliant) == before


def test_a_new_journal_does_not_say_what_became_of_a_change_it_does_not_know(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    state = pliant.places.state
    with closing(Journal(state)) as journal:
        body = {"event": "begin", "verb": "apply", "generation": 7}
        AuditLog(state).append(body, journal.audit_head, durable=True)
        AuditTrail(journal, state).settle(Origin.of_this_process())
    assert records(pliant)[-1]["result"] == "unknown"


def test_small_adjustments_are_noted_in_one_record(pliant: Pliant) -> None:
    with pliant.host() as host:
        trail = AuditTrail(host.journal, pliant.places.state)
        trail.note("adjust", "services came and went", Origin.of_peer(os.getpid(), 0), {"attached": 12})
    [note] = records(pliant)
    assert (note["event"], note["details"], note["who"]["via"]) == ("note", {"attached": 12}, "socket")


# -- what is told of policies


def test_differences_of_documents_are_told_by_field() -> None:
    before = {"spec": {"tune": {"a": 1, "b": "x"}, "match": {"peers": ["10.0.0.0/8"]}}}
    after = {"spec": {"tune": {"a": 2, "c": True}, "match": {"peers": ["10.0.0.0/8"]}}}
    assert differences(before, after) == [
        "spec.tune.a: 1 -> 2",
        'spec.tune.b: "x" -> absent',
        "spec.tune.c: absent -> true",
    ]


def test_long_differences_are_cut_short() -> None:
    told = differences({}, {f"field{n:02}": "x" * 500 for n in range(30)})
    assert len(told) == 21
    assert told[-1] == "and 10 more"
    assert all(len(line) < 120 for line in told)
    assert len(json.dumps(differences({"a": "x"}, {"a": list(range(10_000))}))) < 200


def test_who_asked_is_read_from_the_kernel() -> None:
    me = Origin.of_this_process()
    assert (me.pid, me.uid, me.user) == (os.getpid(), 0, "root")
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    assert words[0].decode() in me.command
    assert Origin.of_peer(2**22 + 1, 12345).as_data() == {
        "via": "socket",
        "pid": 2**22 + 1,
        "uid": 12345,
        "user": "12345",
    }
