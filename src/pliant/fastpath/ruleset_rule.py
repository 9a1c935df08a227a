# SPDX-License-Identifier: Apache-2.0
"""One rule of nftables, expression by expression, as rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pliant.fastpath import ruleset_tests as tests
from pliant.fastpath.ruleset_draft import Draft, Label
from pliant.fastpath.ruleset_rows import Kind, Left, Row, View
from pliant.fastpath.ruleset_sets import Sets
from pliant.fastpath.ruleset_symbols import (
    NOT_KNOWN,
    TCP,
    UDP,
    Bytes,
    NotUnderstood,
    Place,
    Registers,
    connection,
    constant,
    in_view,
    meta,
    needs_ports,
    payload,
    turned,
)
from pliant.kernel.nftables_expressions import (
    AnyWithin,
    Bitwise,
    ByteOrder,
    Compare,
    Counter,
    Ct,
    Expression,
    Immediate,
    Lookup,
    Meta,
    Other,
    Payload,
    Verdict,
    Within,
)
from pliant.kernel.nftables_rules import Chain, Rule

_WORD = b"\xff" + bytes(15)
_HAS_PORTS = Row(Kind.EQUAL, View.HAS_PORTS, mask=_WORD, value=b"\1" + bytes(15))
_MOST_RESULT_BYTES = 64
COUNTS = "counts packets"
"""Why packets are left to the kernel that rules count, where the fast path is not to count for them."""


class RuleWriter:
    """Writes a rule; what is not understood leaves the packets that come to it to the kernel.

    ``chain_label`` gives the row where a chain of the same table begins, or None. ``counts``: the fast path counts for
    rules that do; else what comes to them is the kernel's. After writing, ``has_guard`` says
    that the rule tells TCP packets with SYN, FIN or RST from others, ``asks_connection`` that it looks at connections.
    """

    def __init__(
        self,
        draft: Draft,
        sets: Sets,
        place: Place,
        chain: Chain,
        rule: Rule,
        chain_label: Callable[[str], Label | None],
        *,
        counts: bool = False,
    ) -> None:
        self._draft, self._sets, self._place, self._counts = draft, sets, place, counts
        self._chain, self._rule, self._chain_label = chain, rule, chain_label
        self._following = Label()
        self._registers = Registers()
        self._protocol: int | None = None
        self._counters = 0
        self.has_guard = self.asks_connection = False

    def write(self) -> None:
        """Write all of it; what follows is the next rule."""
        try:
            for expression in self._rule.expressions:
                if not self._expression(expression):
                    break
        except NotUnderstood as not_understood:
            self._draft.leave(self._left(str(not_understood)))
        self._draft.mark(self._following)

    def _left(self, what: str) -> Left:
        return Left(self._chain.family, self._chain.table, self._chain.name, self._rule.handle, what)

    def _expression(self, expression: Expression) -> bool:
        """Whether anything after it matters."""
        match expression:
            case Payload():
                self._registers.put(expression.register, self._payload(expression))
            case Meta():
                self._registers.put(expression.register, meta(self._place, expression.key))
            case Ct():
                self.asks_connection = True
                found = connection(self._place, expression.key, expression.direction)
                self._registers.put(expression.register, found)
            case Compare():
                return self._compare(expression)
            case Within():
                held = self._registers.get(expression.register, len(expression.first))
                return self._within(held, expression.first, expression.last, expression.is_inverted)
            case AnyWithin():
                self._any_within(expression)
            case Bitwise():
                held = self._registers.get(expression.source, len(expression.mask))
                changed = (
                    byte.changed(m, f)
                    for byte, m, f in zip(held, expression.mask, expression.flipped, strict=True)
                )
                self._registers.put(expression.register, tuple(changed))
            case ByteOrder():
                held = self._registers.get(expression.source, expression.length)
                self._registers.put(expression.register, turned(held, expression.size))
            case Lookup():
                return self._lookup(expression)
            case Immediate():
                if expression.verdict is not None:
                    self._verdict(expression.verdict)
                    return False
                self._registers.put(expression.register or 0, constant(expression.value))
            case Counter():
                self._count()
            case Other():
                raise NotUnderstood(f"has {expression.name}")
        return True

    def _count(self) -> None:
        if not self._counts:
            raise NotUnderstood(COUNTS)
        counter = self._chain.counter(self._rule.handle, self._counters)
        self._counters += 1
        if not self._draft.count(counter):
            raise NotUnderstood("is one of more rules that count than there is room for")

    def _payload(self, expression: Payload) -> Bytes:
        at, length = expression.offset, expression.length
        held, is_guarded = payload(self._place, expression.base, at, length, self._protocol)
        if expression.base == "transport" and needs_ports(at, length) and self._protocol not in (TCP, UDP):
            self._draft.write(
                _HAS_PORTS,
                otherwise=self._draft.left_elsewhere(self._left("looks at ports of packets without")),
            )
        self.has_guard |= is_guarded
        return held

    def _compare(self, expression: Compare) -> bool:
        held = self._registers.get(expression.register, len(expression.value))
        if expression.comparison == "eq":
            return self._equal(held, expression.value)
        if expression.comparison == "neq":
            return self._unequal(held, expression.value)
        length, value = len(expression.value), int.from_bytes(expression.value, "big")
        last = (1 << 8 * length) - 1
        bounds = {"lt": (0, value - 1), "lte": (0, value), "gt": (value + 1, last), "gte": (value, last)}
        if expression.comparison not in bounds:
            raise NotUnderstood(f"compares by {expression.comparison}")
        low, high = bounds[expression.comparison]
        if low > high:
            return False
        return self._within(held, low.to_bytes(length, "big"), high.to_bytes(length, "big"), inverted=False)

    def _equal(self, held: Bytes, value: bytes) -> bool:
        found = tests.equality(held, value)
        if found.never:
            return False
        for row in found.rows:
            self._draft.write(row, otherwise=self._following)
        if not found.is_whole:
            raise NotUnderstood("looks at what differs between packets of a flow")
        if held == in_view(View.PROTOCOL, 1):
            self._protocol = value[0]
        return True

    def _unequal(self, held: Bytes, value: bytes) -> bool:
        found = tests.equality(held, value)
        if found.never:
            return True
        if found.is_whole and not found.rows:
            return False
        if found.is_whole and len(found.rows) == 1:
            self._draft.write(replace(found.rows[0], inverted=True), otherwise=self._following)
            return True
        differs = Label()
        for row in found.rows:
            self._draft.write(row, otherwise=differs)
        if found.is_whole:
            self._draft.go(self._following)
        else:
            self._draft.leave(self._left("looks at what differs between packets of a flow"))
        self._draft.mark(differs)
        return bool(found.rows)

    def _within(self, held: Bytes, first: bytes, last: bytes, inverted: bool) -> bool:
        number = tests.known_number(held)
        if number is not None:
            return (first <= number <= last) != inverted
        row = tests.range_row(held, first, last)
        if row is None:
            raise NotUnderstood("compares what differs between packets of a flow, or is not told as a number")
        self._draft.write(replace(row, inverted=inverted), otherwise=self._following)
        return True

    def _any_within(self, expression: AnyWithin) -> None:
        found = self._following if expression.is_inverted else Label()
        for first, last in expression.ranges:
            for register in expression.registers:
                row = tests.range_row(self._registers.get(register, len(first)), first, last)
                if row is None:
                    raise NotUnderstood("compares what differs between packets of a flow")
                self._draft.write(replace(row, inverted=True), otherwise=found)
        if not expression.is_inverted:
            self._draft.go(self._following)
            self._draft.mark(found)

    def _lookup(self, expression: Lookup) -> bool:
        found = self._sets.find(self._chain, expression.set)
        held = self._registers.get(expression.source, found.key_bytes)
        if not self._sets.write_lookup(
            found,
            held,
            expression,
            self._following,
            self._left(f"finds it in the set {found.name}"),
            self._stub,
        ):
            return False
        if expression.result is not None:
            length = min(_MOST_RESULT_BYTES - 4 * expression.result, 16)
            self._registers.put(expression.result, (NOT_KNOWN,) * length)
        return True

    def _stub(self, verdict: Verdict) -> Label:
        """Where it goes on for a verdict that a map gives."""
        if verdict.code == "drop":
            return self._draft.left_elsewhere(self._left("drops"), self._place.drops)
        row, target = self._row_of(verdict)
        if row is None:
            return self._draft.left_elsewhere(self._left(f"ends in {verdict.code}"))
        return self._draft.gone_elsewhere(row, target, self._following)

    def _verdict(self, verdict: Verdict) -> None:
        if verdict.code == "drop":
            self._draft.leave(self._left("drops"), self._place.drops)
            return
        row, target = self._row_of(verdict)
        if row is None:
            raise NotUnderstood(f"ends in {verdict.code}")
        self._draft.write(row, target=target)
        if verdict.code == "jump":
            self._draft.go(self._following)

    def _row_of(self, verdict: Verdict) -> tuple[Row | None, Label | None]:
        match verdict.code:
            case "accept":
                return Row(Kind.ACCEPT), None
            case "return":
                return Row(Kind.RETURN), None
            case "continue":
                return Row(Kind.GOTO), self._following
            case "jump" | "goto":
                label = self._chain_label(verdict.chain)
                kind = Kind.CALL if verdict.code == "jump" else Kind.GOTO
                return (None, None) if label is None else (Row(kind), label)
        return None, None
