# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.policy.compile import compile_policies, mapped_prefix
from pliant.policy.conflicts import MAX_REPORTED, Claim, Conflict, PolicyConflict, contains, find_conflicts
from pliant.policy.model import Policy
from pliant.policy.services import ancestors, matching_cgroups
from tests.policy.strategies import CGROUPS, policy, policy_sets, unhurried

OPTIONS = ("dscp", "initial_cwnd", "pacing_rate")

Ports = tuple[int, ...]


def conflicts_of(policies: list[Policy]) -> set[Conflict]:
    try:
        compile_policies(policies, CGROUPS)
    except PolicyConflict as refused:
        return set(refused.conflicts)
    return set()


def by_comparing_all(policies: list[Policy]) -> set[Conflict]:
    """The definition: every pair, every option."""
    return {
        conflict(left.name, right.name, option, left.priority)
        for left, right in combinations(policies, 2)
        if left.priority == right.priority
        if set(left.roles) & set(right.roles)
        if ports_meet(left.local_ports, right.local_ports)
        if ports_meet(left.remote_ports, right.remote_ports)
        if peers_meet(left, right)
        if services_meet(left.spec.match.service, right.spec.match.service)
        for option in left.tune_values.keys() & right.tune_values.keys()
    }


def conflict(left: str, right: str, option: str, priority: int) -> Conflict:
    return Conflict(min(left, right), max(left, right), option, priority)


def ports_meet(left: Ports, right: Ports) -> bool:
    return not left or not right or bool(set(left) & set(right))


def peers_meet(left: Policy, right: Policy) -> bool:
    if not left.prefixes or not right.prefixes:
        return True
    return any(
        contains(*a, *b) or contains(*b, *a)
        for a in map(mapped_prefix, left.prefixes)
        for b in map(mapped_prefix, right.prefixes)
    )


def services_meet(left: str, right: str) -> bool:
    return left == right or any(matched_by(left, path) and matched_by(right, path) for path in CGROUPS)


def matched_by(pattern: str, path: str) -> bool:
    return bool(matching_cgroups({pattern}, [path, *ancestors(path)]))


@unhurried
@given(policy_sets(equal_priorities=True, most=7))
def test_policies_are_refused_for_exactly_the_conflicts_that_comparing_all_pairs_finds(
    policies: list[Policy],
) -> None:
    expected = by_comparing_all(policies)
    found = conflicts_of(policies)
    assert found == expected if len(expected) <= MAX_REPORTED else found < expected


claims = st.builds(
    lambda peer, bits, *rest: Claim(peer >> (128 - bits) << (128 - bits), bits, *rest),
    st.sampled_from((0, 1 << 127, 3 << 126, 1)),
    st.sampled_from((0, 1, 2, 128)),
    st.sampled_from((0, 80, 443)),
    st.sampled_from((0, 80, 443)),
    st.sampled_from(("a", "b", "c", "d")),
    st.sampled_from((1, 2)),
    st.lists(st.sampled_from(OPTIONS), min_size=1, unique=True).map(tuple),
)


@unhurried
@given(st.lists(claims, max_size=12))
def test_claims_conflict_exactly_where_prefixes_and_ports_overlap(given_claims: list[Claim]) -> None:
    expected = {
        conflict(a.policy, b.policy, option, a.priority)
        for a, b in combinations(given_claims, 2)
        if a.policy != b.policy and a.priority == b.priority
        if contains(*a[:2], *b[:2]) or contains(*b[:2], *a[:2])
        if 0 in (a.local_port, b.local_port) or a.local_port == b.local_port
        if 0 in (a.remote_port, b.remote_port) or a.remote_port == b.remote_port
        for option in set(a.options) & set(b.options)
    }
    found = find_conflicts(given_claims)
    assert len(found) == len(set(found)) == min(len(expected), MAX_REPORTED)
    assert set(found) <= expected


@pytest.mark.parametrize(
    ("says", "first", "second"),
    [
        ("the same match", policy("a"), policy("b")),
        ("one prefix in the other", policy("a", peers=["10.0.0.0/8"]), policy("b", peers=["10.2.0.0/16"])),
        ("IPv4 in every peer", policy("a"), policy("b", peers=["10.2.0.0/16"])),
        ("IPv4 as mapped IPv6", policy("a", peers=["::/64"]), policy("b", peers=["10.2.0.0/16"])),
        ("a port and every port", policy("a", local_ports=[443]), policy("b")),
        (
            "a local and a remote port, which one connection may both have",
            policy("a", local_ports=[443]),
            policy("b", remote_ports=[80]),
        ),
        ("a port in a range", policy("a", local_ports=["8000-8010"]), policy("b", local_ports=[8010])),
        ("a role and any", policy("a", role="server"), policy("b", role="any")),
        ("a unit and its slice", policy("a"), policy("b", "system.slice")),
        ("a unit and a glob", policy("a"), policy("b", "*.service")),
        ("the same absent unit", policy("a", "absent.service"), policy("b", "absent.service")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_conflict_names_both_policies_the_option_and_the_priority(
    says: str, first: Policy, second: Policy
) -> None:
    with pytest.raises(PolicyConflict) as caught:
        compile_policies([second, first], CGROUPS)
    assert caught.value.conflicts == (Conflict("a", "b", "initial_cwnd", 100),)
    assert caught.value.message == (
        "policies 'a' and 'b' both set initial_cwnd for some of the same connections, at the same priority 100"
    )
    assert "spec.priority" in caught.value.remedy


@pytest.mark.parametrize(
    ("says", "first", "second"),
    [
        ("another priority", policy("a", priority=1), policy("b", priority=2)),
        ("another option", policy("a"), policy("b", tune={"dscp": 8})),
        ("the other role", policy("a", role="server"), policy("b", role="client")),
        ("another prefix", policy("a", peers=["10.2.0.0/16"]), policy("b", peers=["10.3.0.0/16"])),
        ("another port", policy("a", local_ports=[443]), policy("b", local_ports=[80])),
        ("another service", policy("a"), policy("b", "worker@1.service")),
        ("two units that are both absent", policy("a", "absent.service"), policy("b", "other.service")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_policies_that_differ_in_one_respect_do_not_conflict(
    says: str, first: Policy, second: Policy
) -> None:
    compile_policies([first, second], CGROUPS)


def test_at_most_twenty_conflicts_are_told() -> None:
    with pytest.raises(PolicyConflict) as caught:
        compile_policies([policy(f"p{index}") for index in range(30)], CGROUPS)
    assert len(caught.value.conflicts) == len(set(caught.value.conflicts)) == MAX_REPORTED
    assert len(caught.value.message.splitlines()) == MAX_REPORTED


def test_every_pair_of_three_is_told() -> None:
    with pytest.raises(PolicyConflict) as caught:
        compile_policies([policy(name) for name in "abc"], CGROUPS)
    assert [(c.first, c.second) for c in caught.value.conflicts] == [("a", "b"), ("a", "c"), ("b", "c")]
