# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import PliantError
from pliant.features.encoding import encode
from pliant.features.layout import shipped_layout
from pliant.policy.compile import MAX_RULE_POLICIES, Compiled, Compiler, compile_policies
from pliant.policy.conflicts import Conflict, PolicyConflict
from pliant.policy.desired import SCOPE, Attachment, DesiredState, PolicyVersion, Service
from pliant.policy.explain import Connection, explain
from pliant.policy.model import Policy
from pliant.policy.numbering import Numbering
from pliant.policy.services import ancestors, classify, matching_cgroups
from tests.policy.scope_model import holds_out, judge
from tests.policy.strategies import CGROUPS, connections, policy, policy_sets, unhurried

many_connections = st.lists(connections, min_size=1, max_size=12)


def winners(
    compiled: Compiled, connection: Connection, cgroups: Mapping[str, int] = CGROUPS
) -> dict[str, str]:
    layout = shipped_layout()
    verdict = judge(encode(compiled.desired, layout), layout, cgroups, connection)
    return {option: compiled.desired.versions[number].name for option, number in verdict.items()}


def service_entry(desired: DesiredState, path: str, cgroups: Mapping[str, int] = CGROUPS) -> Service | None:
    """The entry of the cgroup or of the nearest one above that has one."""
    line = (cgroups[cgroup] for cgroup in (path, *ancestors(path)))
    return next((desired.services[number] for number in line if number in desired.services), None)


def explained(policies: list[Policy], connection: Connection) -> dict[str, str]:
    return {option: judged.policy for judged in explain(policies, connection) for option in judged.won}


def matches(policy: Policy, path: str) -> bool:
    return bool(matching_cgroups({policy.spec.match.service}, [path, *ancestors(path)]))


@unhurried
@given(policy_sets(), many_connections)
def test_each_option_goes_to_the_policy_that_explain_names(
    policies: list[Policy], met: list[Connection]
) -> None:
    compiled = compile_policies(policies, CGROUPS)
    for connection in met:
        assert winners(compiled, connection) == explained(policies, connection)


@unhurried
@given(policy_sets(holdouts=("0%", "50%", "100%")), many_connections)
def test_a_connection_held_out_of_a_policy_is_judged_as_if_that_policy_were_not_there(
    policies: list[Policy], met: list[Connection]
) -> None:
    compiled = compile_policies(policies, CGROUPS)
    for connection in met:
        treating = [
            policy
            for policy in policies
            if not holds_out(
                min(policy.holdout_ppm * 2**32 // 1_000_000, 2**32 - 1),
                compiled.numbering.numbers[policy.name].number,
                connection,
            )
        ]
        assert winners(compiled, connection) == explained(treating, connection)


@unhurried
@given(policy_sets())
def test_a_services_shapes_are_exactly_those_of_its_class_s_rules(policies: list[Policy]) -> None:
    desired = compile_policies(policies, CGROUPS).desired
    for path in CGROUPS:
        service = service_entry(desired, path)
        wanted = {bool(p.local_ports) | bool(p.remote_ports) << 1 for p in policies if matches(p, path)}
        assert (service is None) == (not wanted)
        if service is None:
            continue
        in_rules = {key.shape for key in desired.rules if key.service_class == service.service_class}
        assert service.shapes == sum(1 << shape for shape in in_rules) == sum(1 << shape for shape in wanted)


@unhurried
@given(policy_sets())
def test_a_cgroup_has_a_services_entry_exactly_where_its_class_is_not_that_of_the_cgroups_above(
    policies: list[Policy],
) -> None:
    desired = compile_policies(policies, CGROUPS).desired
    classes = classify(matching_cgroups({p.spec.match.service for p in policies}, CGROUPS))
    for path in CGROUPS:
        line = [p for p in (path, *ancestors(path)) if p in classes]
        entry = service_entry(desired, path)
        assert (entry and entry.service_class) == (classes[line[0]].number if line else None)
        above = next((service_entry(desired, parent) for parent in ancestors(path)), None)
        assert (CGROUPS[path] in desired.services) == (entry != above)


@unhurried
@given(policy_sets())
def test_scope_runs_exactly_once_for_every_cgroup_that_policies_match_and_for_no_other(
    policies: list[Policy],
) -> None:
    attached = compile_policies(policies, CGROUPS).desired.attachments
    for path in CGROUPS:
        runs = sum(a.cgroup in (path, *ancestors(path)) for a in attached)
        assert runs == any(matches(p, path) for p in policies)
    assert all(CGROUPS[a.cgroup] == a.cgroup_id for a in attached)


@unhurried
@given(policy_sets())
def test_scope_and_exactly_the_features_that_policies_set_are_loaded(policies: list[Policy]) -> None:
    desired = compile_policies(policies, CGROUPS).desired
    present = [p for p in policies if any(matches(p, path) for path in CGROUPS)]
    options = {option for p in policies for option in p.tune_values}
    assert desired.programs == ({SCOPE} | options if policies else set())
    assert bool(desired.attachments) == bool(present)


@unhurried
@given(policy_sets(), st.randoms(use_true_random=False))
def test_the_order_in_which_policies_are_given_does_not_matter(
    policies: list[Policy], chance: random.Random
) -> None:
    compiled = compile_policies(policies, CGROUPS)
    shuffled = chance.sample(policies, len(policies))
    assert compile_policies(shuffled, CGROUPS, compiled.numbering).desired == compiled.desired


@unhurried
@given(policy_sets())
def test_everything_that_rules_name_is_among_the_versions(policies: list[Policy]) -> None:
    compiled = compile_policies(policies, CGROUPS)
    named = {number for numbers in compiled.desired.rules.values() for number in numbers}
    assert named <= compiled.desired.versions.keys()
    absent = {p.name for p in policies if not any(matches(p, path) for path in CGROUPS)}
    assert set(compiled.unmatched) == absent
    assert {v.name for v in compiled.desired.versions.values()} == {p.name for p in policies}


def test_no_policies_need_nothing() -> None:
    assert compile_policies([], CGROUPS).desired == DesiredState()


def test_a_policy_without_a_service_on_this_host_is_ready_for_it_and_attached_to_nothing() -> None:
    waiting = policy("waiting", "absent.service")
    compiled = compile_policies([waiting], CGROUPS)
    assert compiled.desired.options == {"initial_cwnd"}
    assert not compiled.desired.services
    assert not compiled.desired.attachments
    there = compile_policies([waiting], {**CGROUPS, "/absent.service": 99}, compiled.numbering)
    assert there.desired.versions == compiled.desired.versions
    assert there.desired.rules == compiled.desired.rules
    assert list(there.desired.services) == [99]
    assert compiled.unmatched == ("waiting",)
    assert "waiting" in compiled.numbering.numbers


@unhurried
@given(policy_sets(), st.lists(st.sets(st.sampled_from(sorted(CGROUPS))), max_size=4))
def test_compiling_again_for_other_cgroups_gives_what_compiling_anew_does(
    policies: list[Policy], sets: list[set[str]]
) -> None:
    compiler = Compiler(policies, strict=False)
    for paths in [*sets, set(CGROUPS)]:
        cgroups = {path: CGROUPS[path] for path in CGROUPS if path in paths}
        assert compiler.compile(cgroups) == compile_policies(policies, cgroups, strict=False)


def test_a_version_carries_what_the_kernel_keeps_of_its_policy() -> None:
    compiled = compile_policies(
        [policy("web", priority=7, holdout="5%", tune={"initial_cwnd": 40, "pacing_rate": "200Mbit"})],
        CGROUPS,
    )
    settings = {"initial_cwnd": 40, "pacing_rate": 200_000_000}
    assert compiled.desired.versions == {1: PolicyVersion(1, "web", 7, 50_000, settings, measured=True)}


def test_scope_on_a_slice_is_not_attached_again_to_the_services_in_it() -> None:
    policies = [
        policy("all", "system.slice", priority=1, tune={"dscp": 8}),
        policy("web", "nginx.service", priority=2, tune={"dscp": 46, "initial_cwnd": 40}),
    ]
    desired = compile_policies(policies, CGROUPS).desired
    assert desired.attachments == {
        Attachment(CGROUPS["/system.slice"], "/system.slice"),
        Attachment(CGROUPS["/user.slice/nginx.service"], "/user.slice/nginx.service"),
    }
    assert desired.programs == {SCOPE, "dscp", "initial_cwnd"}


def test_a_service_in_the_class_of_its_slice_is_left_to_the_entry_of_the_slice() -> None:
    everything = policy("all", "/system.slice*", priority=1, tune={"dscp": 8})
    web = policy("web", "/system.slice/nginx.service", priority=2)
    desired = compile_policies([everything, web], CGROUPS).desired
    assert desired.services.keys() == {CGROUPS["/system.slice"], CGROUPS["/system.slice/nginx.service"]}
    pool = service_entry(desired, "/system.slice/nginx.service/pool/0")
    assert pool == desired.services[CGROUPS["/system.slice/nginx.service"]]


def nested(count: int, holdout: str) -> list[Policy]:
    return [
        policy(f"p{index}", peers=[f"10.0.0.0/{8 + index}"], priority=index, holdout=holdout)
        for index in range(count)
    ]


def test_more_policies_for_one_connection_than_a_rule_holds_are_refused_by_name() -> None:
    compile_policies(nested(MAX_RULE_POLICIES, "1%"), CGROUPS)
    with pytest.raises(PliantError, match=f"{MAX_RULE_POLICIES + 1} policies match the same") as caught:
        compile_policies(nested(MAX_RULE_POLICIES + 1, "1%"), CGROUPS)
    assert all(f"'p{index}'" in caught.value.message for index in range(MAX_RULE_POLICIES + 1))
    assert caught.value.remedy


def test_of_more_policies_accepted_earlier_than_a_rule_holds_the_best_are_kept() -> None:
    policies = nested(MAX_RULE_POLICIES + 2, "1%")
    compiled = compile_policies(policies, CGROUPS, strict=False)
    assert compiled.conflicts == ()
    best = tuple(compiled.numbering.numbers[f"p{index}"].number for index in range(9, 1, -1))
    assert len(best) == MAX_RULE_POLICIES
    assert max(compiled.desired.rules.items(), key=lambda rule: rule[0].peer_bits)[1] == best
    assert max(map(len, compiled.desired.rules.values())) == MAX_RULE_POLICIES


APPEARED = {**CGROUPS, "/system.slice/worker@3.service": 99}
CROWD = policy("crowd", "worker@*.service", tune={"initial_cwnd": 20, "dscp": 8})
THIRD = policy("third", "worker@3.service", tune={"initial_cwnd": 40, "pacing_rate": "10Mbit"})
ON_THIRD = Connection("/system.slice/worker@3.service", "server", 443, ip_address("10.2.3.4"), 9)


@pytest.mark.parametrize(("older", "newer"), [(CROWD, THIRD), (THIRD, CROWD)])
def test_policies_that_meet_when_a_service_appears_are_reported_and_the_older_wins(
    older: Policy, newer: Policy
) -> None:
    numbering = compile_policies([older], CGROUPS).numbering
    accepted = compile_policies([newer, older], CGROUPS, numbering)
    assert accepted.conflicts == ()
    compiled = compile_policies([newer, older], APPEARED, accepted.numbering, strict=False)
    assert compiled.conflicts == (Conflict("crowd", "third", "initial_cwnd", 100),)
    assert compiled.numbering == accepted.numbering
    first, second = (compiled.numbering.numbers[p.name].number for p in (older, newer))
    assert first < second
    met = service_entry(compiled.desired, ON_THIRD.cgroup, APPEARED)
    assert met is not None
    of_third = {n for key, n in compiled.desired.rules.items() if key.service_class == met.service_class}
    assert of_third == {(first, second)}
    assert winners(compiled, ON_THIRD, APPEARED) == {
        "initial_cwnd": older.name,
        "dscp": "crowd",
        "pacing_rate": "third",
    }


def test_policies_that_meet_when_a_service_appears_are_refused_by_name_where_they_are_new() -> None:
    compile_policies([CROWD, THIRD], CGROUPS)
    with pytest.raises(PolicyConflict, match="'crowd' and 'third' both set initial_cwnd") as caught:
        compile_policies([CROWD, THIRD], APPEARED)
    assert caught.value.conflicts == (Conflict("crowd", "third", "initial_cwnd", 100),)


@unhurried
@given(policy_sets())
def test_policies_without_conflict_are_compiled_the_same_when_accepted_earlier(
    policies: list[Policy],
) -> None:
    assert compile_policies(policies, CGROUPS, strict=False) == compile_policies(policies, CGROUPS)


def test_policies_that_can_win_no_option_take_no_room_in_a_rule() -> None:
    compiled = compile_policies(nested(MAX_RULE_POLICIES + 4, "0%"), CGROUPS)
    assert {len(numbers) for numbers in compiled.desired.rules.values()} == {1}


def test_a_policy_below_a_partly_held_out_one_stays_in_the_rule_for_the_connections_held_out() -> None:
    policies = [policy("better", priority=2, holdout="50%"), policy("worse", priority=1)]
    compiled = compile_policies(policies, CGROUPS)
    assert set(compiled.desired.rules.values()) == {(1, 2)}


def test_the_numbering_given_is_kept() -> None:
    policies = [policy("web"), policy("api", "worker@1.service")]
    first = compile_policies(policies, CGROUPS, Numbering(next_number=41))
    assert sorted(first.desired.versions) == [41, 42]
    again = compile_policies(policies, CGROUPS, first.numbering)
    assert again == first
