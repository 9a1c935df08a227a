# SPDX-License-Identifier: Apache-2.0
"""Compiling while some of the policies and services are switched off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.features.encoding import encode
from pliant.features.layout import shipped_layout
from pliant.policy.compile import compile_policies
from pliant.policy.conflicts import PolicyConflict
from pliant.policy.desired import NOTHING
from pliant.policy.explain import Connection, Reason, explain
from pliant.policy.model import Policy
from pliant.policy.services import ancestors, lying_within
from pliant.policy.switches import ALL_ON, HOST, Switch, Switches, named
from tests.policy.scope_model import judge
from tests.policy.strategies import CGROUPS, SERVICES, connections, policy, policy_sets, unhurried

many_connections = st.lists(connections, min_size=1, max_size=12)
service_sets = st.lists(st.sampled_from(SERVICES), max_size=3, unique=True)


def off(names: list[str], services: list[str]) -> Switches:
    things = named(names, services) if names or services else ()
    return ALL_ON.turned_off(Switch(what, "why", "me", 1.0) for what in things)


@unhurried
@given(policy_sets(), many_connections, service_sets, st.data())
def test_what_is_off_takes_no_part_for_scope_and_explain_alike(
    policies: list[Policy], met: list[Connection], services: list[str], data: st.DataObject
) -> None:
    names = [p.name for p in policies if data.draw(st.booleans())]
    switched = off(names, services)
    compiled = compile_policies(policies, CGROUPS, off=switched)
    layout = shipped_layout()
    tables = encode(compiled.desired, layout)
    excluded = lying_within(services, CGROUPS)
    on = [policy for policy in policies if policy.name not in names]
    for connection in met:
        verdict = judge(tables, layout, CGROUPS, connection)
        found = {option: compiled.desired.versions[number].name for option, number in verdict.items()}
        judged = explain(policies, connection, off=switched)
        assert found == {option: j.policy for j in judged for option in j.won}
        without = [] if connection.cgroup in excluded else explain(on, connection)
        assert found == {option: j.policy for j in without for option in j.won}
        assert {j.policy for j in judged if j.reason is Reason.OFF}.isdisjoint(found.values())


@unhurried
@given(policy_sets(), service_sets)
def test_scope_is_attached_nowhere_for_a_service_that_is_off_alone(
    policies: list[Policy], services: list[str]
) -> None:
    desired = compile_policies(policies, CGROUPS, off=off([], services)).desired
    excluded = lying_within(services, CGROUPS)
    assert not {a.cgroup for a in desired.attachments} & excluded
    for path in excluded:
        entry = next(
            (
                desired.services[CGROUPS[p]]
                for p in (path, *ancestors(path))
                if CGROUPS[p] in desired.services
            ),
            None,
        )
        assert entry is None or not entry.shapes


@unhurried
@given(policy_sets(), st.data())
def test_numbers_do_not_depend_on_what_is_off(policies: list[Policy], data: st.DataObject) -> None:
    names = [p.name for p in policies if data.draw(st.booleans())]
    compiled = compile_policies(policies, CGROUPS)
    assert compile_policies(policies, CGROUPS, off=off(names, [])).numbering == compiled.numbering


@unhurried
@given(policy_sets())
def test_with_everything_off_nothing_is_wanted(policies: list[Policy]) -> None:
    switched = ALL_ON.turned_off([Switch(HOST, "", "me", 1.0)])
    assert compile_policies(policies, CGROUPS, off=switched).desired == NOTHING


def test_a_conflict_with_a_policy_that_is_off_is_refused_so_that_it_can_be_switched_on() -> None:
    clashing = [policy(name, tune={"initial_cwnd": 20}) for name in "ab"]
    with pytest.raises(PolicyConflict):
        compile_policies(clashing, CGROUPS, off=off(["a"], []))
    compile_policies(clashing, CGROUPS, off=off(["a"], []), strict=False)
