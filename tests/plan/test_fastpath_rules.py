# SPDX-License-Identifier: Apache-2.0
"""Plans that put nftables' rules in force: written where nobody reads them, then chosen by one step."""

from __future__ import annotations

from pliant.fastpath.ruleset_compile import compile_ruleset
from pliant.fastpath.ruleset_rows import Rows
from pliant.fastpath.target import FastpathTarget
from pliant.kernel.nftables import BaseChain
from pliant.kernel.nftables_rules import Chain, Rules
from pliant.observe.fastpath import FastpathState, RulesetState
from pliant.plan.fastpath_rules import FillRuleset, SelectRuleset, SetNames, rule_steps

NAMES = {2: "eth0", 3: "eth1"}


def rows(generation: int, policy: str = "accept") -> Rows:
    base = BaseChain("inet", "t", "f", "forward", 0, "filter", policy)
    return compile_ruleset(Rules(generation, (Chain("inet", "t", "f", base, ()),)))


def target(compiled: Rows | None) -> FastpathTarget:
    return FastpathTarget(ruleset=compiled, rule_names=NAMES if compiled else {})


def test_new_rules_are_written_beside_those_in_force_and_then_chosen() -> None:
    compiled = rows(9, "drop")
    names, fill, select = rule_steps(FastpathState(), target(compiled))
    assert isinstance(names, SetNames)
    assert isinstance(fill, FillRuleset)
    assert isinstance(select, SelectRuleset)
    assert fill.half == 1
    assert select.state == RulesetState(1, 9, compiled.digest)
    back = select.undo()
    assert isinstance(back, SelectRuleset)
    assert (back.state, back.before) == (RulesetState(), select.state)


def test_the_same_rules_under_another_generation_are_only_chosen_anew() -> None:
    compiled = rows(9, "drop")
    found = FastpathState(ruleset=RulesetState(1, 8, compiled.digest), rule_names=NAMES)
    [select] = rule_steps(found, target(compiled))
    assert isinstance(select, SelectRuleset)
    assert select.state == RulesetState(1, 9, compiled.digest)


def test_nothing_is_done_where_nothing_differs_or_nobody_asks() -> None:
    compiled = rows(9)
    found = FastpathState(ruleset=RulesetState(0, 9, compiled.digest), rule_names=NAMES)
    assert list(rule_steps(found, target(compiled))) == []
    assert list(rule_steps(found, target(None))) == []
    fill, _ = rule_steps(found, target(rows(9, "drop")))
    assert isinstance(fill, FillRuleset)
    assert fill.half == 1
