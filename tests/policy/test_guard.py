# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from pliant.features import catalogue
from pliant.policy.documents import load_policies
from pliant.policy.json_schema import policy_json_schema
from pliant.policy.model import Policy
from pliant.policy.numbering import Numbering
from pliant.policy.problems import PolicyErrors


def loaded(guard: Any, *, holdout: str = "5%", role: str = "any") -> Policy:
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "match": {"service": "nginx.service", "role": role},
            "tune": {"initial_cwnd": 40},
            "holdout": holdout,
            "guard": guard,
        },
    }
    [policy] = load_policies(json.dumps(document), "web.yaml", catalogue())
    return policy


def test_limits_are_parts_per_million_and_come_back_as_they_were_written() -> None:
    written = {"retransmissionRatio": "2pp", "connectionFailures": "0.5pp", "completionTime": "150%"}
    policy = loaded(written)
    assert policy.guard
    assert policy.guard.limits == {
        "retransmissionRatio": 20_000,
        "connectionFailures": 5_000,
        "completionTime": 1_500_000,
    }
    assert policy.to_document()["spec"]["guard"] == written
    assert loaded(policy.to_document()["spec"]["guard"]) == policy
    assert loaded(None).guard is None


@pytest.mark.parametrize(
    ("guard", "field", "message"),
    [
        ({"retransmissionRatio": "2%"}, "spec.guard.retransmissionRatio", "write 2pp for percentage points"),
        ({"retransmissionRatio": 2}, "spec.guard.retransmissionRatio", "write for example 2pp"),
        ({"retransmissionRatio": "101pp"}, "spec.guard.retransmissionRatio", "more than 100pp"),
        ({"connectionFailures": "0pp"}, "spec.guard.connectionFailures", "less than 0.01pp"),
        ({"completionTime": "10pp"}, "spec.guard.completionTime", "write for example 10%"),
        ({"completionTime": "30ms"}, "spec.guard.completionTime", "no percent sign"),
        ({"completiontime": "10%"}, "spec.guard.completiontime", "did you mean 'completionTime'?"),
        ({}, "spec.guard", "set at least one of retransmissionRatio, connectionFailures, completionTime"),
        (["completionTime"], "spec.guard", "a list stands where a mapping is wanted"),
    ],
)
def test_a_guard_that_cannot_be_read_is_refused_at_its_field(guard: Any, field: str, message: str) -> None:
    with pytest.raises(PolicyErrors) as refused:
        loaded(guard)
    [problem] = refused.value.problems
    assert problem.field == field
    assert message in f"{problem.message}; {problem.remedy}"


def test_a_guard_without_a_holdout_has_nothing_to_compare_with() -> None:
    with pytest.raises(PolicyErrors, match=r"spec\.guard: .* nothing is held out; set holdout"):
        loaded({"completionTime": "10%"}, holdout="0%")


def test_failures_of_connections_that_a_service_accepts_cannot_be_limited() -> None:
    with pytest.raises(PolicyErrors, match=r"spec\.guard\.connectionFailures: .* none of them fails"):
        loaded({"connectionFailures": "1pp"}, role="server")
    assert loaded({"connectionFailures": "1pp"}, role="client").guard


def test_a_changed_guard_keeps_the_policys_number_and_so_what_was_measured() -> None:
    before = Numbering().extend([loaded({"completionTime": "10%"})])
    assert before.extend([loaded({"completionTime": "20%"})]) == before


def test_the_schema_says_whether_a_limit_is_a_difference_or_a_ratio() -> None:
    guard = policy_json_schema(catalogue())["$defs"]["Guard"]
    assert guard["minProperties"] == 1
    fields = guard["properties"]
    assert "percentage points above" in fields["retransmissionRatio"]["description"]
    assert "percentage points above" in fields["connectionFailures"]["description"]
    assert "longer than" in fields["completionTime"]["description"]
