# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from pliant.policy.compile import compile_policies
from pliant.policy.documents import dump_policies, load_policies
from pliant.policy.fastpath import FastpathPolicy, Wishes
from pliant.policy.model import Policy
from pliant.policy.problems import PolicyErrors
from pliant.policy.switches import Kind, Switch, Switched, Switches


def load(spec: Any = None, name: str = "fastpath") -> FastpathPolicy:
    document = {"apiVersion": "pliant/v1", "kind": "FastPath", "metadata": {"name": name}}
    [policy] = load_policies(json.dumps(document | ({} if spec is None else {"spec": spec})), "test", {})
    assert isinstance(policy, FastpathPolicy)
    return policy


def wishes(*policies: Policy, off: Switches | None = None) -> Wishes:
    return compile_policies(policies, {}, off=off or Switches()).desired.fastpath


def test_a_policy_that_says_nothing_is_for_all_interfaces_and_all_that_can_be() -> None:
    wish = wishes(load()).of("eth0")
    assert wish is not None
    assert (wish.modules, wish.mode, wish.names("eth0")) == (None, "auto", False)


@pytest.mark.parametrize(
    "spec", [None, {"interfaces": ["eth0", "pod-*"], "modules": ["route"], "mode": "tc"}]
)
def test_what_is_written_is_what_was_read(spec: Any) -> None:
    policy = load(spec)
    assert load_policies(dump_policies([policy]), "again", {}) == [policy]


@pytest.mark.parametrize(
    ("spec", "field", "line", "sentence"),
    [
        ("interfaces: [eth0, 'a b']", "spec.interfaces[1]", 6, "'a b' is not the name of an interface"),
        ("interfaces: [much-too-long-a-name]", "spec.interfaces[0]", 6, "longer than the 15 bytes"),
        ("interfaces: []", "spec.interfaces", 6, "the list is empty"),
        ("interfaces: [eth0, eth0]", "spec.interfaces[1]", 6, "is in the list twice"),
        ("modules: [routing]", "spec.modules[0]", 6, "routing"),
        ("mode: fast", "spec.mode", 6, "fast"),
        ("interface: eth0", "spec.interface", 6, "there is no field 'interface' here"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_field(
    spec: str, field: str, line: int, sentence: str
) -> None:
    text = f"apiVersion: pliant/v1\nkind: FastPath\nmetadata:\n  name: f\nspec:\n  {spec}\n"
    with pytest.raises(PolicyErrors) as refused:
        load_policies(text, "f.yaml", {})
    [problem] = refused.value.problems
    assert (problem.file, problem.line, problem.field) == ("f.yaml", line, field)
    assert sentence in problem.message
    assert problem.remedy


def test_the_higher_priority_wins_and_a_draw_is_named() -> None:
    one, other = load({"mode": "native"}, "one"), load({"interfaces": ["eth*"], "mode": "tc"}, "other")
    both = wishes(one, other)
    assert [(w.policy if (w := both.of(name)) else None) for name in ("eth0", "wlan0")] == ["one", "one"]
    [sentence] = both.draws(["eth0", "wlan0"])
    assert "'one' and 'other' are both for the interface eth0" in sentence
    higher = wishes(one, load({"interfaces": ["eth*"], "priority": 200}, "other"))
    wish = higher.of("eth0")
    assert wish is not None
    assert (wish.policy, list(higher.draws(["eth0"]))) == ("other", [])


def test_who_counts_for_rules_goes_by_the_policy_of_the_interface() -> None:
    found = wishes(
        load({"interfaces": ["eth*"], "ruleCounters": "combined", "priority": 200}, "one"), load(name="two")
    )
    assert [found.counts(name) for name in ("eth0", "wlan0")] == [True, False]
    assert not wishes().counts("eth0")
    same = wishes(load({"ruleCounters": "combined"}, "one"), load(name="two"))
    [sentence] = same.draws(["eth0"])
    assert "with different modules, modes or counters" in sentence


def test_what_is_off_asks_for_nothing() -> None:
    switch = Switch(Switched(Kind.POLICY, "fastpath"), "", "test", 0.0)
    assert not wishes(load(), off=Switches((switch,)))
