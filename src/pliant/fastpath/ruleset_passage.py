# SPDX-License-Identifier: Apache-2.0
"""Whether a ruleset lets all packets pass that go on with an established connection between two interfaces.

All of them: what is not known of a packet, a port say, may be anything, and both ways of a rule that asks for it are
followed. So this says nothing of a packet that is not true of every one, and may object where there is no need. Rules
are allowed to count packets.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

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
    Within,
)
from pliant.kernel.nftables_rules import Chain, Rule, Rules

Prefix = ipaddress.IPv4Network
EVERYWHERE = ipaddress.IPv4Network("0.0.0.0/0")

_FAMILIES = ("ip", "inet")
_HOOKS = ("prerouting", "forward", "postrouting")
_SOURCE, _DESTINATION, _ADDRESS_BYTES = 12, 16, 4
_ESTABLISHED = 2
_MOST_STEPS = 10_000
_ONLY_ASK = frozenset(
    f"match:{name}"
    for name in (
        "addrtype", "comment", "conntrack", "connmark", "dscp", "iprange", "length", "mark", "multiport", "physdev",
        "pkttype", "set", "state", "tcp", "tos", "ttl", "udp",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passage:
    """Packets of IPv4 from one interface to another, both addresses within a prefix, of an established connection."""

    came_in: str
    goes_out: str
    pods: Prefix = EVERYWHERE


@dataclass(frozen=True, slots=True)
class _Value:
    """Bytes of which only some bits are known: those in ``known``."""

    bits: bytes
    known: bytes

    @classmethod
    def of(cls, value: bytes) -> _Value:
        return cls(value, b"\xff" * len(value))

    @classmethod
    def unknown(cls, length: int) -> _Value:
        return cls(bytes(length), bytes(length))

    @property
    def least(self) -> int:
        return int.from_bytes(bytes(b & k for b, k in zip(self.bits, self.known, strict=True)), "big")

    @property
    def most(self) -> int:
        return int.from_bytes(
            bytes(b | (k ^ 0xFF) for b, k in zip(self.bits, self.known, strict=True)), "big"
        )

    def part(self, length: int) -> _Value:
        """Its first bytes; what is behind its end is not known."""
        return _Value(self.bits[:length].ljust(length, b"\0"), self.known[:length].ljust(length, b"\0"))


class _MayEnd(Exception):
    """Packets may be dropped, changed or seen by something that has to see them."""


def obstruction(rules: Rules, passage: Passage) -> str | None:
    """What may not let packets pass, in words; None when nothing does."""
    for hook in _HOOKS:
        chains = [c for c in rules.chains if c.base and c.base.hook == hook and c.family in _FAMILIES]
        for chain in chains:
            if chain.base and chain.base.type == "nat":
                continue  # sees the first packet of a connection only
            try:
                _Search(rules, passage, hook).run(chain)
            except _MayEnd as ended:
                return f"{ended} ({chain.family} {chain.table} {chain.name}, {hook})"
    return None


def prefixes(rules: Rules, around: Iterable[ipaddress.IPv4Address]) -> list[Prefix]:
    """The prefixes that rules compare addresses with and that have one of some in them, the widest first.

    :data:`EVERYWHERE` comes before them.
    """
    wanted = list(around)
    found = {EVERYWHERE}
    for chain in rules.chains:
        for rule in chain.rules:
            found.update(p for p in _compared(rule) if any(address in p for address in wanted))
    return sorted(found, key=lambda prefix: (prefix.prefixlen, prefix))


def _compared(rule: Rule) -> Iterator[Prefix]:
    length, bits = 0, 0
    for expression in rule.expressions:
        match expression:
            case Payload(base="network", offset=offset, length=length) if offset in (_SOURCE, _DESTINATION):
                bits = 8 * length
            case Bitwise(mask=mask):
                bits = int.from_bytes(mask, "big").bit_count()
            case Compare(value=value) if length and len(value) == length <= _ADDRESS_BYTES:
                address = int.from_bytes(value.ljust(_ADDRESS_BYTES, b"\0"), "big")
                yield ipaddress.IPv4Network((address, bits), strict=False)
                length = 0
            case _:
                length = 0


@dataclass(slots=True)
class _Search:
    rules: Rules
    passage: Passage
    hook: str
    registers: dict[int, _Value] = field(default_factory=dict)
    steps: int = 0

    def run(self, base: Chain) -> None:
        """Follow every way through a base chain; raise when one of them may not end in acceptance."""
        if not self._passes(base, (base,)):
            return  # every way has ended in acceptance
        if base.base and base.base.policy != "accept":
            raise _MayEnd("the policy may drop")

    def _passes(self, chain: Chain, stack: tuple[Chain, ...]) -> bool:
        """Whether packets may come to the end of a chain, or return from it."""
        if len(stack) > 16:
            raise _MayEnd("chains jump too deep")
        may_return = False
        for rule in chain.rules:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise _MayEnd("the rules are too many to follow")
            applies, verdict, target = self._ask(rule)
            if applies is False:
                continue
            if verdict == "jump":
                goes_on = self._passes(self._chain(chain, rule, target), (*stack, chain))
            elif verdict == "goto":
                may_return |= self._passes(self._chain(chain, rule, target), (*stack, chain))
                goes_on = False
            elif verdict == "return":
                may_return, goes_on = True, False
            elif verdict == "accept":
                goes_on = False
            elif verdict == "continue":
                goes_on = True
            else:
                raise _MayEnd(f"rule {rule.handle} may {verdict}")
            if applies is True and not goes_on:
                return may_return
        return True

    def _chain(self, near: Chain, rule: Rule, name: str) -> Chain:
        found = self.rules.chain(near.family, near.table, name)
        if found is None:
            raise _MayEnd(f"rule {rule.handle} goes to a chain that is not there")
        return found

    def _ask(self, rule: Rule) -> tuple[bool | None, str, str]:
        """Whether a rule applies (None: it may), its verdict, and where a jump goes."""
        applies: bool | None = True
        for expression in rule.expressions:
            if isinstance(expression, Immediate) and expression.verdict is not None:
                return applies, expression.verdict.code, expression.verdict.chain
            asked = self._do(rule, expression)
            if asked is False:
                return False, "continue", ""
            if asked is None:
                applies = None
        return applies, "continue", ""

    def _do(self, rule: Rule, expression: Expression) -> bool | None:
        match expression:
            case Payload():
                self.registers[expression.register] = self._bytes(expression)
            case Meta():
                self.registers[expression.register] = self._meta(expression.key)
            case Ct():
                known = expression.key == "state"
                self.registers[expression.register] = _native(_ESTABLISHED) if known else _Value.unknown(16)
            case Compare():
                return _compares(self._get(expression.register, len(expression.value)), expression)
            case Within():
                value = self._get(expression.register, len(expression.first))
                within = _within(value, expression.first, expression.last)
                return within if within is None else within != expression.is_inverted
            case AnyWithin():
                return None
            case Bitwise():
                self._put_masked(expression)
            case ByteOrder():
                self.registers[expression.register] = _Value.unknown(expression.length)
            case Lookup():
                if expression.gives_verdict:
                    raise _MayEnd(f"rule {rule.handle} has a map of verdicts")
                if expression.result is not None:
                    self.registers[expression.result] = _Value.unknown(16)
                return None
            case Immediate():
                self.registers[expression.register or 0] = _Value.of(expression.value)
            case Counter():
                pass
            case Other():
                if expression.name not in _ONLY_ASK:
                    raise _MayEnd(f"rule {rule.handle} has {expression.name}")
                return None
        return True

    def _put_masked(self, expression: Bitwise) -> None:
        source = self._get(expression.source, len(expression.mask))
        rows = list(zip(source.bits, source.known, expression.mask, expression.flipped, strict=True))
        self.registers[expression.register] = _Value(
            bytes((b & m) ^ f for b, _, m, f in rows), bytes(k | (m ^ 0xFF) for _, k, m, _ in rows)
        )

    def _bytes(self, expression: Payload) -> _Value:
        if expression.base != "network" or expression.offset not in (_SOURCE, _DESTINATION):
            return _Value.unknown(expression.length)
        pods = self.passage.pods
        return _Value(pods.network_address.packed, pods.netmask.packed).part(expression.length)

    def _meta(self, key: str) -> _Value:
        match key:
            case "iifname" if self.hook != "postrouting":
                return _Value.of(self.passage.came_in.encode().ljust(16, b"\0"))
            case "oifname" if self.hook != "prerouting":
                return _Value.of(self.passage.goes_out.encode().ljust(16, b"\0"))
            case "nfproto":
                return _Value.of(bytes([socket.AF_INET]))
            case "protocol":
                return _Value.of((0x0800).to_bytes(2, "big"))
            case "mark":
                return _native(0)
        return _Value.unknown(16)

    def _get(self, register: int, length: int) -> _Value:
        return self.registers.get(register, _Value.unknown(length)).part(length)


def _native(number: int) -> _Value:
    return _Value.of(number.to_bytes(4, sys.byteorder))


def _compares(value: _Value, expression: Compare) -> bool | None:
    wanted = int.from_bytes(expression.value, "big")
    match expression.comparison:
        case "eq" | "neq":
            equal = _is(value, expression.value)
            return equal if equal is None else equal == (expression.comparison == "eq")
        case "lt":
            return True if value.most < wanted else False if value.least >= wanted else None
        case "lte":
            return True if value.most <= wanted else False if value.least > wanted else None
        case "gt":
            return True if value.least > wanted else False if value.most <= wanted else None
        case "gte":
            return True if value.least >= wanted else False if value.most < wanted else None
    return None


def _is(value: _Value, wanted: bytes) -> bool | None:
    if any((b ^ w) & k for b, w, k in zip(value.bits, wanted, value.known, strict=True)):
        return False
    return True if all(k == 0xFF for k in value.known) else None


def _within(value: _Value, first: bytes, last: bytes) -> bool | None:
    low, high = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    if value.least >= low and value.most <= high:
        return True
    return False if value.most < low or value.least > high else None
