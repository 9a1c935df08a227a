# SPDX-License-Identifier: Apache-2.0
"""Steps that put nftables' rules in force in the fast path. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pliant.fastpath.ruleset_rows import Rows, numbered
from pliant.fastpath.target import FastpathTarget
from pliant.kernel.nftables_counts import RuleCounter
from pliant.observe.fastpath import FastpathState, RulesetState
from pliant.observe.rule_counters import assigned
from pliant.plan.steps import Step


@dataclass(frozen=True, slots=True)
class SetNames(Step):
    """Say what the interfaces are called, for rules that ask."""

    names: Mapping[int, str]
    before: Mapping[int, str]

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"tell the fast path the names of {len(self.names)} interfaces"

    def undo(self) -> Step:
        """As it was."""
        return SetNames(f"taking back: {self.sentence}", self.before, self.names)


@dataclass(frozen=True, slots=True)
class FillRuleset(Step):
    """Write nftables' rules into the half of the tables that is not in force."""

    rows: Rows
    half: int

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        sets = len(self.rows.members) + len(self.rows.prefixes)
        return f"write nftables' rules as {len(self.rows.rows)} rows and {sets} elements"

    def undo(self) -> None:
        """None: nobody reads them."""
        return


@dataclass(frozen=True, slots=True)
class SelectRuleset(Step):
    """Put one half of the tables in force, for a generation of nftables' rules; all flows are asked about anew."""

    state: RulesetState
    before: RulesetState

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"put generation {self.state.generation} of nftables' rules in force"

    def undo(self) -> Step:
        """As it was; the other half still has it."""
        return SelectRuleset(f"taking back: {self.sentence}", self.before, self.state)


@dataclass(frozen=True, slots=True)
class NameRuleSlots(Step):
    """Give slots that are nobody's to counters of rules; nothing is counted there yet."""

    named: Mapping[int, RuleCounter]

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"make room to count for {len(self.named)} rules"

    def undo(self) -> Step:
        """Take them away again."""
        return DropRuleSlots(f"taking back: {self.sentence}", tuple(self.named))


@dataclass(frozen=True, slots=True)
class DropRuleSlots(Step):
    """Drop what was counted in some slots, which are nobody's then. Comes when no program counts there any more."""

    dropped: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"drop what was counted for {len(self.dropped)} rules"

    def undo(self) -> None:
        """None: their rules are gone, and so is what the kernel has counted for them."""
        return


RULE_STEPS = (SetNames, NameRuleSlots, FillRuleset, SelectRuleset, DropRuleSlots)
"""The kinds of steps there are here."""


def rule_steps(found: FastpathState, target: FastpathTarget) -> Iterator[Step]:
    """The steps from the rules that were found in force to those of the target."""
    rows = target.ruleset
    if rows is None:
        return
    if found.rule_names != target.rule_names:
        yield SetNames("rules may ask for them", target.rule_names, found.rule_names)
    slots = assigned(found.rule_slots, rows.counters)
    if new := {slot: counter for counter, slot in slots.items() if slot not in found.rule_slots}:
        yield NameRuleSlots("rules count, and so does the fast path for them", new)
    rows = numbered(rows, slots)
    half, digest = found.ruleset.half, rows.digest
    if found.ruleset.digest != digest:
        half = 1 - half
        yield FillRuleset("nftables has other rules", rows, half)
    state = RulesetState(half, rows.generation, digest)
    if found.ruleset != state:
        yield SelectRuleset("the kernel has them in force", state, found.ruleset)


def superseded_slots(found: FastpathState, target: FastpathTarget) -> Iterator[Step]:
    """What comes last: slots of counters whose rules are gone, or for which the fast path is not to count any more."""
    living = target.ruleset.living if target.ruleset else None
    if living is None:
        return
    if gone := tuple(slot for slot, counter in sorted(found.rule_slots.items()) if counter not in living):
        yield DropRuleSlots("no rule that is counted for has them any more", gone)
