# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import PliantError
from pliant.policy.compile import compile_policies
from pliant.policy.documents import dump_policies, load_policies
from pliant.policy.json_schema import policy_json_schema
from pliant.policy.problems import PolicyErrors
from pliant.policy.sysctl_keys import SYSCTLS
from pliant.policy.sysctls import Claim, SysctlKey, SysctlPolicy, Wanted, settle_claims
from tests.policy.test_json_schema import takes


def document(sysctls: Any, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "pliant/v1",
        "kind": "SysctlPolicy",
        "metadata": {"name": "buffers"},
        "spec": {"sysctls": sysctls, **spec},
    }


def load(sysctls: Any, **spec: Any) -> SysctlPolicy:
    [policy] = load_policies(json.dumps(document(sysctls, **spec)), "test", {})
    assert isinstance(policy, SysctlPolicy)
    return policy


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("net.ipv4.tcp_ecn", 1, "1"),
        ("net.ipv4.tcp_ecn", "1", "1"),
        ("net.ipv4.tcp_rmem", "4096\t131072  6291456", "4096 131072 6291456"),
        ("net.ipv4.tcp_rmem", [4096, 131072, 6291456], "4096 131072 6291456"),
        ("net.ipv4.ip_local_port_range", [1024, 65535], "1024 65535"),
        ("net.ipv4.tcp_congestion_control", "cubic", "cubic"),
    ],
)
def test_values_are_what_the_kernel_shows(name: str, typed: Any, value: str) -> None:
    policy = load({name: typed})
    assert policy.spec.sysctls == {name: value}
    assert load_policies(dump_policies([policy]), "again", {}) == [policy]


@pytest.mark.parametrize(
    ("sysctls", "sentence"),
    [
        ({"net.ipv4.tcp_ecn": 7}, "7 is more than it takes; net.ipv4.tcp_ecn takes a number, 0 to 2"),
        ({"net.ipv4.tcp_sack": True}, "true is not a number; net.ipv4.tcp_sack takes a number, 0 or 1"),
        ({"net.ipv4.tcp_ecn": "loud"}, "'loud' is not a number"),
        ({"net.ipv4.tcp_ecn": ""}, "'' is not a number"),
        ({"net.ipv4.tcp_ecn": None}, "nothing is not a number"),
        ({"net.ipv4.tcp_rmem": 4096}, "4096 is 1 number; net.ipv4.tcp_rmem takes 3 numbers, 4096 to"),
        ({"net.ipv4.tcp_rmem": [1, 8192, 8192]}, "the first number, 1, is less than it takes"),
        ({"net.ipv4.ip_local_port_range": "9 5"}, "the second number, 5, is less than the one before"),
        ({"net.ipv4.tcp_congestion_control": 5}, "5 is not a name"),
        ({"net.ipv4.tcp_ecm": 1}, "write net.ipv4.tcp_ecn"),
        ({"net/ipv4/tcp_ecn": 1}, "write net.ipv4.tcp_ecn"),
        ({"kernel.panic": 1}, "is not among the sysctls that a policy may set"),
        ({}, "no sysctl is set"),
        ([], "a list stands where a mapping is wanted"),
    ],
)
def test_values_the_kernel_would_not_take_are_refused_with_what_it_does(sysctls: Any, sentence: str) -> None:
    with pytest.raises(PolicyErrors) as refused:
        load(sysctls)
    [problem] = refused.value.problems
    assert sentence in str(problem)
    assert problem.field.startswith("spec.sysctls")


def test_what_the_machine_has_one_of_is_for_no_service() -> None:
    load({"net.core.rmem_max": 8192})
    with pytest.raises(PolicyErrors, match="one for the whole machine"):
        load({"net.core.rmem_max": 8192}, match={"service": "a.service"})


def test_a_slip_in_the_kind_is_told_from_the_other_kind() -> None:
    slip = document({"net.ipv4.tcp_ecn": 1}) | {"kind": "SysctlPolicies"}
    with pytest.raises(PolicyErrors, match="write SysctlPolicy"):
        load_policies(json.dumps(slip), "test", {})


@pytest.mark.parametrize("kind", SYSCTLS.values(), ids=SYSCTLS)
def test_bounds_are_taken_and_what_is_beyond_is_not(kind: Any) -> None:
    if not kind.bounds:
        return
    for pick in (0, 1):
        value = [bounds[pick] for bounds in kind.bounds]
        assert kind.parse(value) == " ".join(map(str, value))
    with pytest.raises(PolicyErrors):
        load({kind.name: [high + 1 for _, high in kind.bounds]})


def test_schema_takes_what_the_loader_takes() -> None:
    schema = policy_json_schema({})
    good = document({"net.ipv4.tcp_rmem": [4096, 8192, 8192]}, match={"service": "a.service"}, priority=3)
    assert takes(schema, good)
    assert takes(schema, {"kind": "List", "items": [good]})
    for bad in (
        document({}),
        document({"kernel.panic": 1}),
        document({"net.ipv4.tcp_ecn": 1}, applyTo="live"),
    ):
        assert not takes(schema, bad)


def test_policies_of_sysctls_compile_to_no_rule_and_have_a_number() -> None:
    compiled = compile_policies([load({"net.ipv4.tcp_ecn": 1})], {"/": 1})
    assert not compiled.desired.rules
    assert not compiled.desired.programs
    assert compiled.numbering.numbers.keys() == {"buffers"}


KEY = SysctlKey(1, "net.ipv4.tcp_ecn")
claims = st.builds(
    Claim,
    key=st.just(KEY),
    value=st.sampled_from("012"),
    policy=st.uuids().map(str),
    priority=st.integers(0, 3),
    number=st.integers(1, 10**6),
    place=st.just("of this host"),
)


@given(st.lists(claims, min_size=1, max_size=5, unique_by=lambda claim: claim.number))
def test_highest_priority_wins_then_the_older_one(rivals: list[Claim]) -> None:
    best = min(rivals, key=lambda claim: (-claim.priority, claim.number))
    assert settle_claims(rivals, strict=False) == {KEY: Wanted(best.value, best.policy)}
    disputed = {claim.value for claim in rivals if claim.priority == best.priority}
    if len(disputed) == 1:
        assert settle_claims(rivals, strict=True) == settle_claims(rivals, strict=False)
        return
    with pytest.raises(PliantError, match=r"both set net\.ipv4\.tcp_ecn of this host") as refused:
        settle_claims(rivals, strict=True)
    assert "higher spec.priority" in refused.value.remedy
