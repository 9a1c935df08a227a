# SPDX-License-Identifier: Apache-2.0
"""Plans that put nftables' rules in force: written where nobody reads them, then chosen by one step."""

from __future__ import annotations

from pliant.fastpath.ruleset_compile import compile_ruleset
from pliant.fastpath.ruleset_rows import Kind, Rows, numbered
from pliant.fastpath.target import FastpathTarget
from pliant.kernel.nftables import BaseChain
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.nftables_expressions import Counter
from pliant.kernel.nftables_rules import Chain, Rule, Rules
from pliant.observe.fastpath import FastpathState, RulesetState
from pliant.observe.rule_counters import assigned
from pliant.plan.fastpath_rules import (
    DropRuleSlots,
    FillRuleset,
    NameRuleSlots,
    SelectRuleset,
    SetNames,
    rule_steps,
    superseded_slots,
)

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


def counting(generation: int, *handles: int, table_handle: int = 7) -> Rows:
    base = BaseChain("inet", "t", "f", "forward", 0, "filter", "accept")
    rules = tuple(Rule(handle, (Counter(),)) for handle in handles)
    chain = Chain("inet", "t", "f", base, rules, table_handle)
    return compile_ruleset(Rules(generation, (chain,)), counts=True)


def counter(handle: int, table_handle: int = 7) -> RuleCounter:
    return RuleCounter("inet", "t", table_handle, "f", 0, handle)


def slots_in(compiled: Rows) -> set[int]:
    return {row.target for row in compiled.rows if row.kind is Kind.COUNT}


def test_rules_that_count_keep_their_slots_and_new_ones_get_those_that_are_nobodys() -> None:
    compiled = counting(9, 3, 4)
    name, fill, _ = rule_steps(FastpathState(rule_names=NAMES), target(compiled))
    assert isinstance(name, NameRuleSlots)
    assert name.named == {1: counter(3), 2: counter(4)}
    assert isinstance(fill, FillRuleset)
    assert slots_in(fill.rows) == {1, 2}
    back = name.undo()
    assert isinstance(back, DropRuleSlots)
    assert set(back.dropped) == {1, 2}
    held = RulesetState(1, 9, fill.rows.digest)
    found = FastpathState(ruleset=held, rule_names=NAMES, rule_slots=name.named)
    assert [*rule_steps(found, target(compiled)), *superseded_slots(found, target(compiled))] == []
    later = counting(10, 5, 4)
    name, fill, _ = rule_steps(found, target(later))
    assert isinstance(name, NameRuleSlots)
    assert isinstance(fill, FillRuleset)
    assert name.named == {3: counter(5)}
    assert slots_in(fill.rows) == {2, 3}  # that of the rule which has gone is not given away yet
    [drop] = superseded_slots(found, target(later))
    assert isinstance(drop, DropRuleSlots)
    assert drop.dropped == (1,)


def test_rules_of_a_table_that_was_made_anew_are_others() -> None:
    found = FastpathState(
        ruleset=RulesetState(1, 9, numbered(counting(9, 3), {counter(3): 1}).digest),
        rule_names=NAMES,
        rule_slots={1: counter(3)},
    )
    name, fill, _ = rule_steps(found, target(counting(10, 3, table_handle=8)))
    assert isinstance(name, NameRuleSlots)
    assert name.named == {2: counter(3, 8)}
    assert isinstance(fill, FillRuleset)
    assert slots_in(fill.rows) == {2}


def test_the_policy_of_a_chain_that_was_made_anew_is_another() -> None:
    base = BaseChain("ip", "t", "f", "forward", 0, "filter", "accept", counts=True)
    [first], [second] = (
        compile_ruleset(Rules(9, (Chain("ip", "t", "f", base, (), 7, handle),)), counts=True).counters
        for handle in (1, 5)
    )
    assert (first.handle, second.handle) == (0, 0)
    assert first != second


def test_where_the_fast_path_is_not_to_count_any_more_its_counts_go() -> None:
    found = FastpathState(rule_names=NAMES, rule_slots={1: counter(3)})
    assert [type(step) for step in rule_steps(found, target(rows(9)))] == [FillRuleset, SelectRuleset]
    [drop] = superseded_slots(found, target(rows(9)))
    assert isinstance(drop, DropRuleSlots)
    assert list(superseded_slots(found, target(None))) == []


def test_counters_without_a_slot_are_the_kernels() -> None:
    compiled = counting(9, 3, 4)
    held = {slot: counter(slot + 100) for slot in range(1, 4095)}
    name, fill, _ = rule_steps(FastpathState(rule_names=NAMES, rule_slots=held), target(compiled))
    assert isinstance(name, NameRuleSlots)
    assert name.named == {4095: counter(3)}
    assert isinstance(fill, FillRuleset)
    assert slots_in(fill.rows) == {4095}
    assert [row.kind for row in fill.rows.rows].count(Kind.LEAVE) == 2  # of both families
    assert assigned({}, [counter(3)._replace(chain="\ufffd" * 86), counter(4)]) == {counter(4): 1}
