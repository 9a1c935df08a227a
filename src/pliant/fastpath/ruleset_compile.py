# SPDX-License-Identifier: Apache-2.0
"""From nftables' rules to rows for the fast path: a pure function.

What comes out says of a packet what the kernel would, or leaves it to the kernel. It is left as soon as it comes to
something that is not understood, or that has to see it: a counter, a limit, a log. What does not come there is not
affected. :func:`~pliant.fastpath.ruleset_walk.walk` is the same rules' meaning, written down plainly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pliant.fastpath.ruleset_draft import Draft, Label
from pliant.fastpath.ruleset_rows import UNDECIDED, Begins, Kind, Left, Row, Rows, digested
from pliant.fastpath.ruleset_rule import COUNTS, RuleWriter
from pliant.fastpath.ruleset_sets import Sets
from pliant.fastpath.ruleset_symbols import Place
from pliant.fastpath.tracking import TRACKERS
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.nftables_expressions import Counter, Ct, Other
from pliant.kernel.nftables_rules import Chain, Rules

HOOKS = ("prerouting", "forward", "postrouting")
"""Those that a forwarded packet passes, in order."""
FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
"""The families of tables that see packets of an IP version."""
_CONNTRACK = -200  # NF_IP_PRI_CONNTRACK
_GUARD_TCP_SIGNALS = 1  # enum guard


def compile_ruleset(rules: Rules, *, counts: bool = False) -> Rows:
    """The rows of a ruleset, for both families; ``counts``: the fast path counts for rules that do."""
    draft = Draft()
    starts = {family: Label() for family in FAMILIES}
    sets = Sets(draft, rules)
    begins = {family: _begins(rules, family) for family in FAMILIES}
    for label in starts.values():
        draft.write(Row(Kind.BEGIN), target=label)
    written = {
        family: _FamilyWriter(rules, draft, sets, 4 if family == 4 else 6, counts=counts).write(
            starts[family]
        )
        for family in FAMILIES
    }
    found = draft.finished(rules.generation)
    first = [
        Row(Kind.BEGIN, target=found.rows[number].target, otherwise=begins[family] | written[family])
        for number, family in enumerate(FAMILIES)
    ]
    living = _living(rules) if counts else frozenset()
    return digested(replace(found, rows=(*first, *found.rows[2:]), living=living))


def _living(rules: Rules) -> frozenset[RuleCounter] | None:
    return frozenset(_counters(rules)) if rules.is_read else None


def _counters(rules: Rules) -> Iterator[RuleCounter]:
    for chain in (*rules.chains, *rules.dormant):
        if chain.base and chain.base.counts:
            yield chain.counter()
        for rule in chain.rules:
            counters = sum(isinstance(expression, Counter) for expression in rule.expressions)
            yield from (chain.counter(rule.handle, place) for place in range(counters))


def _begins(rules: Rules, family: int) -> Begins:
    translated = Begins.TRACKED if _translates(rules, family) else Begins(0)
    return translated | (Begins(0) if list(_bases(rules, family)) else Begins.EMPTY)


def _translates(rules: Rules, family: int) -> bool:
    """Whether addresses may be translated: chains of type nat see the first packet of a connection that is tracked."""
    chains = [c for c in rules.chains if c.family in FAMILIES[family]]
    expressions = (e for c in chains for rule in c.rules for e in rule.expressions)
    return any(c.base and c.base.type == "nat" and c.rules for c in chains) and any(
        isinstance(e, Ct) or (isinstance(e, Other) and e.name in TRACKERS) for e in expressions
    )


def _bases(rules: Rules, family: int) -> Iterator[Chain]:
    """The base chains that a forwarded packet passes, in order, but for those that do nothing."""
    found = [
        (c, c.base) for c in rules.chains if c.base and c.family in FAMILIES[family] and c.base.hook in HOOKS
    ]
    for chain, base in sorted(found, key=lambda one: (HOOKS.index(one[1].hook), one[1].priority)):
        if (chain.rules or base.policy != "accept" or base.counts) and base.type != "nat":
            yield chain


class _FamilyWriter:
    def __init__(
        self, rules: Rules, draft: Draft, sets: Sets, family: Literal[4, 6], *, counts: bool
    ) -> None:
        self._rules, self._draft, self._sets, self._family = rules, draft, sets, family
        self._counts = counts
        self._labels: dict[tuple[str, str, str, Place], Label] = {}
        self._ahead: list[tuple[Chain, Place, Label]] = []
        self._has_guard = self._asks_connection = False

    def write(self, start: Label) -> Begins:
        """Write all rows of a family; what of it has to be known."""
        self._draft.mark(start)
        done = Label()
        bases = list(_bases(self._rules, self._family))
        labels = [Label() for _ in bases]
        for number, chain in enumerate(bases):
            self._draft.mark(labels[number])
            self._base(chain, labels[number + 1] if number + 1 < len(bases) else done)
        if not bases:
            self._draft.go(done)
        while self._ahead:
            chain, place, label = self._ahead.pop()
            self._draft.mark(label)
            self._rules_of(chain, place)
            self._draft.write(Row(Kind.RETURN))
            self._draft.write_outlined()
        self._draft.mark(done)
        self._draft.write(Row(Kind.DONE))
        if self._has_guard:
            self._draft.guard(start, _GUARD_TCP_SIGNALS)
        return Begins.TRACKED if self._asks_connection else Begins(0)

    def _base(self, chain: Chain, following: Label) -> None:
        assert chain.base is not None
        base, policy = chain.base, Label()
        place = Place(
            self._family,
            base.hook,
            has_connection=base.hook != "prerouting" or base.priority > _CONNTRACK,
            has_addresses=base.hook == "forward" or not _translates(self._rules, self._family),
        )
        self._draft.write(Row(Kind.ENTER), target=following, otherwise=policy)
        self._rules_of(chain, place)
        self._draft.mark(policy)
        if base.counts and not self._counts_policy(chain):
            left = Left(chain.family, chain.table, chain.name, None, f"{COUNTS} by its policy")
            self._draft.leave(left)
        elif base.policy == "accept":
            self._draft.write(Row(Kind.ACCEPT))
        else:
            self._draft.leave(
                Left(chain.family, chain.table, chain.name, None, "drops by its policy"), place.drops
            )
        self._draft.write_outlined()

    def _counts_policy(self, chain: Chain) -> bool:
        """Have the packets counted that come to a policy; False where they cannot be."""
        return self._counts and self._draft.count(chain.counter())

    def _rules_of(self, chain: Chain, place: Place) -> None:
        def label(name: str) -> Label | None:
            return self._label(chain, name, place)

        for rule in chain.rules:
            writer = RuleWriter(self._draft, self._sets, place, chain, rule, label, counts=self._counts)
            writer.write()
            self._has_guard |= writer.has_guard
            self._asks_connection |= writer.asks_connection

    def _label(self, near: Chain, name: str, place: Place) -> Label | None:
        """Where a chain begins, which is written if it is not yet."""
        key = (near.family, near.table, name, place)
        target = self._rules.chain(near.family, near.table, name)
        if target is None:
            return None
        if key not in self._labels:
            self._labels[key] = Label()
            self._ahead.append((target, place, self._labels[key]))
        return self._labels[key]


_latest: dict[bool, tuple[Rules, Rows]] = {}


def compiled(rules: Rules, *, counts: bool = False) -> Rows:
    """The rows of a ruleset, which are worked out once as long as it is the same object."""
    if counts not in _latest or _latest[counts][0] is not rules:
        _latest[counts] = (rules, compile_ruleset(rules, counts=counts))
    return _latest[counts][1]


def why_left(rows: Rows, family: int) -> list[Left]:
    """Why packets of a family are left to the kernel by rules that do not drop them, each reason once."""
    start, end = rows.rows[0].target, rows.rows[1].target
    part = rows.rows[start:end] if family == 4 else rows.rows[end:]
    leaving = (r.why for r in part if r.kind is Kind.LEAVE and r.target == UNDECIDED)
    return [rows.left[why] for why in dict.fromkeys(leaving)]


def said_of(left: Left) -> str:
    """Why packets are left, and what can be done about it where something can."""
    remedy = " (with spec.ruleCounters: combined the fast path counts for it)"
    return f"{left}{remedy if left.what.startswith(COUNTS) else ''}"


def accepts_something(rows: Rows, family: int) -> bool:
    """Whether there may be packets of a family that the rows accept, as far as their order tells."""
    if rows.begins(family) & Begins.EMPTY:
        return True
    targets: dict[int, set[int]] = {}
    for member, target in rows.members.items():
        targets.setdefault(member.set, set()).add(target)
    for prefix, target in rows.prefixes.items():
        targets.setdefault(prefix.set, set()).add(target)
    first = (rows.rows[0 if family == 4 else 1].target, 0, 0)
    seen, ahead = {first}, [first]
    while ahead:
        at, accepted, policy = ahead.pop()
        row = rows.rows[at]
        if row.kind is Kind.DONE:
            return True
        found = targets.get(row.target, set()) - {0} if row.kind in (Kind.MEMBER, Kind.PREFIX) else set()
        if row.kind is Kind.ENTER:
            accepted, policy = row.target, row.otherwise
        for following in (*_following(row, at, accepted, policy), *found):
            state = (following, accepted, policy)
            if state not in seen:
                seen.add(state)
                ahead.append(state)
    return False


def _following(row: Row, at: int, accepted: int, policy: int) -> tuple[int, ...]:
    match row.kind:
        case Kind.LEAVE | Kind.DONE:
            return ()
        case Kind.ACCEPT:
            return (accepted,)
        case Kind.RETURN:
            return (policy,)
        case Kind.GOTO:
            return (row.target,)
        case Kind.CALL:
            return (row.target, at + 1)
        case Kind.ENTER | Kind.COUNT:
            return (at + 1,)
    return (at + 1, row.otherwise)
