# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pliant.policy.explain import Reason
from pliant.top.frame import Frame, Rates, Watch
from pliant.top.tables import CONNECTIONS, POLICIES, TABLES, caveats, summary
from tests.top.conftest import CONNECTIONS as OPEN

if TYPE_CHECKING:
    from tests.conftest import Eventually, Pliant
    from tests.top.conftest import Work

pytestmark = pytest.mark.root


def policy(frame: Frame, name: str) -> tuple[Rates, int, int, int]:
    [line] = (line for line in frame.policies if line.status.policy.name == name)
    return line.rates, line.status.arms.treated, line.status.arms.held_out, line.winning


def test_a_look_agrees_with_the_counters_and_the_open_connections(work: Work) -> None:
    frame = work.watch.look()
    rates, treated, held_out, winning = policy(frame, "fast")
    assert rates == Rates(None, None)
    assert (treated, held_out) == work.pliant.arms("fast")
    assert treated + held_out == OPEN
    assert winning == treated
    assert policy(frame, "marked")[1:] == (OPEN, 0, OPEN)
    assert len(frame.connections) == frame.survey.total == OPEN
    assert [(line.status.name, line.connections) for line in frame.services] == [("web.service", OPEN)]
    assert frame.drift == 0
    assert caveats(frame) == []
    assert "kernel as the journal says  2 policies  1 services  6 connections" in summary(frame)


def test_rates_are_what_came_between_two_looks(work: Work) -> None:
    first = work.watch.look()
    assert policy(work.watch.look(), "marked")[0] == Rates(0.0, 0.0)
    work.connect(4)
    second = work.watch.look()
    rates = policy(second, "marked")[0]
    assert rates.treated is not None
    assert 0 < rates.treated * (second.at - first.at) < 4 * 10
    assert rates.held_out == 0
    assert policy(second, "marked")[3] == OPEN + 4


def test_a_new_generation_is_seen(work: Work) -> None:
    assert len(work.watch.look().policies) == 2
    work.pliant.delete("marked")
    frame = work.watch.look()
    assert [line.status.policy.name for line in frame.policies] == ["fast"]
    assert all("marked" not in seen.winners for seen in frame.connections)


def test_what_is_switched_off_is_shown_as_that(work: Work) -> None:
    with work.pliant.host() as host:
        host.carry_out(host.change_to_off(["marked"], actor="test"), actor="test")
    frame = work.watch.look()
    assert {line.status.policy.name: line.status.state for line in frame.policies} == {
        "fast": "active",
        "marked": "off",
    }
    assert {name for seen in frame.connections for name in seen.winners} == {"fast"}
    reasons = {j.policy: j.reason for j in work.watch.judged_whole(frame.connections[0]).judged}
    assert reasons["marked"] is Reason.OFF


def test_of_many_connections_some_are_read_and_that_is_said(work: Work) -> None:
    frame = Watch(work.pliant.places, at_most=2).look()
    assert len(frame.connections) == 2
    assert caveats(frame) == ["2 of 6 connections were read, taken as the kernel has them"]


def test_rows_are_chosen_by_any_of_their_cells(work: Work) -> None:
    frame = work.watch.look()
    assert [line.status.policy.name for line in POLICIES.chosen(frame, "DSCP=ef")] == ["marked"]
    assert len(CONNECTIONS.chosen(frame, "[")) == OPEN // 2
    assert CONNECTIONS.chosen(frame, "nothing like it") == []


def test_keys_of_rows_are_unique_and_stay(work: Work) -> None:
    first, second = work.watch.look(), work.watch.look()
    for table in TABLES:
        keys = [table.key(row) for row in table.rows(first)]
        assert len(keys) == len(set(keys))
        assert set(keys) == {table.key(row) for row in table.rows(second)}


def test_arms_are_compared_once_connections_were_measured(work: Work, eventually: Eventually) -> None:
    measured, failures = work.watch.look().arms[0].comparison, work.watch.look().arms[-1].comparison
    assert (measured.treated_count, measured.held_out_count) == (0, 0)
    assert (measured.question.metric, failures.question.metric) == ("completion_time", "connection_failures")
    treated, held_out = work.pliant.arms("fast")
    work.client.disconnect()

    def are_counted() -> bool:
        now = work.watch.look().arms[-1].comparison
        return (now.treated_count, now.held_out_count) == (treated, held_out)

    eventually(are_counted)
    assert {line.policy for line in work.watch.look().arms} == {"fast"}  # the one with a holdout


def test_host_without_policies_is_an_empty_frame(pliant: Pliant) -> None:
    frame = Watch(pliant.places).look()
    assert (frame.policies, frame.services, frame.connections, frame.arms) == ((), (), (), ())
    assert frame.drift == 0
