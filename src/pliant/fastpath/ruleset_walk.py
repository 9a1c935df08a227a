# SPDX-License-Identifier: Apache-2.0
"""What a ruleset says of one packet, rule by rule: an interpreter of nftables' expressions.

It is slow, simple and made to be compared: with the kernel, and with what the fast path makes of the same rules. Where
a rule has something that it does not understand it says so, and does not guess.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
from pliant.kernel.nftables_rules import Chain, Element, Rule, Rules, Set

_FAMILIES: Mapping[int, tuple[str, ...]] = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_PROTOCOL = {4: 0x0800, 6: 0x86DD}
_NFPROTO = {4: socket.AF_INET, 6: socket.AF_INET6}
_REGISTERS_BYTES = 64
_NAME_BYTES = 16
_MOST_JUMPS = 16  # NFT_JUMP_STACK_SIZE
ESTABLISHED, RELATED, NEW, INVALID, UNTRACKED = 2, 4, 8, 1, 64
"""Bits of ``ct state``."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet at a hook: its bytes from the network header on, and what is known beside them.

    It is what the hook sees: from ``forward`` on the TTL has been decreased. ``transport`` is where the transport
    header begins, None in a fragment that has none. ``ct_state`` is one of the bits above, None where it is not known.
    """

    family: Literal[4, 6]
    data: bytes
    transport: int | None
    protocol: int
    in_interface: str = ""
    out_interface: str = ""
    mark: int = 0
    ct_state: int | None = None
    in_index: int = 0
    out_index: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that was asked, and whether all of it applied."""

    chain: str
    handle: int
    applied: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """What became of a packet at a hook: accept, drop or unknown, and the rules that were asked.

    ``because`` says which rule decided, or by which policy, or what was not understood. ``counted`` has the rules that
    have counted it, by chain and handle, as often as they have; handle 0 is a policy.
    """

    verdict: Literal["accept", "drop", "unknown"]
    because: str
    steps: tuple[Step, ...]
    counted: tuple[tuple[str, int], ...] = ()


class _Unknown(Exception):
    """Something that is not understood."""


class _Broken(Exception):
    """A rule does not apply."""


def walk(rules: Rules, hook: str, packet: Packet) -> Walk:
    """Ask all base chains at a hook in the order of their priorities; one that accepts leaves it to the next."""
    machine = _Machine(rules, packet)
    chains = [
        c for c in rules.chains if c.base and c.base.hook == hook and c.family in _FAMILIES[packet.family]
    ]
    because = "no chain is there"
    for chain in sorted(chains, key=lambda c: c.base.priority if c.base else 0):
        name = f"{chain.family} {chain.table} {chain.name}"
        try:
            verdict, because = machine.run(chain)
        except _Unknown as unknown:
            return Walk("unknown", f"{name}: {unknown}", tuple(machine.steps))
        if verdict == "drop":
            return Walk("drop", because, tuple(machine.steps), tuple(machine.counted))
    return Walk("accept", because, tuple(machine.steps), tuple(machine.counted))


@dataclass(slots=True)
class _Machine:
    rules: Rules
    packet: Packet
    steps: list[Step] = field(default_factory=list)
    counted: list[tuple[str, int]] = field(default_factory=list)
    registers: bytearray = field(default_factory=lambda: bytearray(_REGISTERS_BYTES))

    def run(self, base: Chain) -> tuple[str, str]:
        """Run a base chain; the verdict and what gave it."""
        stack: list[tuple[Chain, int]] = []
        chain, at = base, 0
        while True:
            if at == len(chain.rules):
                if not stack:
                    policy = base.base.policy if base.base else "accept"
                    if base.base and base.base.counts:
                        self.counted.append((base.name, 0))
                    return policy, f"the policy of {base.family} {base.table} {base.name}"
                chain, at = stack.pop()
                continue
            rule, at = chain.rules[at], at + 1
            verdict = self._ask(chain, rule)
            if verdict is None or verdict.code == "continue":
                continue
            if verdict.code in ("accept", "drop"):
                return verdict.code, f"rule {rule.handle} of {chain.family} {chain.table} {chain.name}"
            if verdict.code == "return":
                chain, at = stack.pop() if stack else (chain, len(chain.rules))
                continue
            if verdict.code not in ("jump", "goto") or len(stack) >= _MOST_JUMPS:
                raise _Unknown(f"rule {rule.handle} ends in {verdict.code}")
            if verdict.code == "jump":
                stack.append((chain, at))
            target = self.rules.chain(chain.family, chain.table, verdict.chain)
            if target is None:
                raise _Unknown(f"there is no chain {verdict.chain}")
            chain, at = target, 0

    def _ask(self, chain: Chain, rule: Rule) -> Verdict | None:
        verdict = None
        try:
            for expression in rule.expressions:
                verdict = self._do(chain, rule, expression)
                if verdict is not None:
                    break
        except _Broken:
            self.steps.append(Step(chain.name, rule.handle, False))
            return None
        self.steps.append(Step(chain.name, rule.handle, True))
        return verdict

    def _do(self, chain: Chain, rule: Rule, expression: Expression) -> Verdict | None:
        match expression:
            case Payload():
                self._put(expression.register, self._bytes(expression))
            case Meta():
                self._put(expression.register, self._meta(expression.key))
            case Ct(key="state") if self.packet.ct_state is not None:
                self._put(expression.register, self.packet.ct_state.to_bytes(4, sys.byteorder))
            case Compare():
                _unless(_compares(self._get(expression.register, len(expression.value)), expression))
            case Within():
                value = self._get(expression.register, len(expression.first))
                _unless((expression.first <= value <= expression.last) != expression.is_inverted)
            case AnyWithin():
                found = any(
                    first <= self._get(register, len(first)) <= last
                    for register in expression.registers
                    for first, last in expression.ranges
                )
                _unless(found != expression.is_inverted)
            case Bitwise():
                source = self._get(expression.source, len(expression.mask))
                both = zip(source, expression.mask, expression.flipped, strict=True)
                self._put(expression.register, bytes(a & b ^ c for a, b, c in both))
            case ByteOrder():
                self._put(
                    expression.register,
                    _turned(self._get(expression.source, expression.length), expression.size),
                )
            case Lookup():
                return self._lookup(chain, expression)
            case Immediate():
                if expression.verdict is not None:
                    return expression.verdict
                self._put(expression.register or 0, expression.value)
            case Counter():
                self.counted.append((chain.name, rule.handle))
            case Other() | Ct():
                name = expression.name if isinstance(expression, Other) else f"ct {expression.key}"
                raise _Unknown(f"rule {rule.handle} has {name}")
        return None

    def _lookup(self, chain: Chain, expression: Lookup) -> Verdict | None:
        found = self.rules.set(chain.family, chain.table, expression.set)
        if found is None or found.changes_unheard or "object" in found.flags:
            raise _Unknown(f"the set {expression.set} changes by itself")
        element = _find(found, self._get(expression.source, found.key_bytes))
        _unless((element is not None) != expression.is_inverted)
        if element is None or (expression.result is None and not expression.gives_verdict):
            return None
        if isinstance(element.data, Verdict):
            return element.data
        self._put(expression.result or 0, element.data or b"")
        return None

    def _bytes(self, expression: Payload) -> bytes:
        bases = {"network": 0, "transport": self.packet.transport}
        if expression.base not in bases:
            raise _Unknown(f"a rule looks at the {expression.base} header")
        base = bases[expression.base]
        if (
            base is None
        ):  # Linux 6.18 reads ports there, from whatever is in their place, in its fast case only
            raise _Unknown("a rule looks at the transport header of a fragment that has none")
        found = self.packet.data[base + expression.offset : base + expression.offset + expression.length]
        _unless(len(found) == expression.length)
        return found

    def _meta(self, key: str) -> bytes:
        packet = self.packet
        match key:
            case "iifname" | "oifname":
                name = packet.in_interface if key == "iifname" else packet.out_interface
                return name.encode().ljust(_NAME_BYTES, b"\0")
            case "iif" | "oif":
                return (packet.in_index if key == "iif" else packet.out_index).to_bytes(4, sys.byteorder)
            case "pkttype":
                return b"\0"  # to this host's own address, as all that it forwards
            case "nfproto":
                return bytes([_NFPROTO[packet.family]])
            case "l4proto":
                return bytes([packet.protocol])
            case "protocol":
                return _PROTOCOL[packet.family].to_bytes(2, "big")
            case "mark":
                return packet.mark.to_bytes(4, sys.byteorder)
            case "len":
                return len(packet.data).to_bytes(4, sys.byteorder)
        raise _Unknown(f"a rule asks for meta {key}")

    def _put(self, register: int, value: bytes) -> None:
        """Values take up whole registers, the rest of the last is zero."""
        padded = value + bytes(-len(value) % 4)
        self.registers[4 * register : 4 * register + len(padded)] = padded

    def _get(self, register: int, length: int) -> bytes:
        return bytes(self.registers[4 * register : 4 * register + length])


def _find(found: Set, key: bytes) -> Element | None:
    for element in found.elements:
        if element.key is None:
            continue
        if element.last is None:
            if element.key == key:
                return element
        elif found.fields:
            if _in_every_field(found.fields, key, element):
                return element
        elif element.key <= key <= element.last:
            return element
    return next((e for e in found.elements if e.key is None), None)


def _in_every_field(fields: tuple[int, ...], key: bytes, element: Element) -> bool:
    at = 0
    for length in fields:
        first, last = (element.key or b"")[at : at + length], (element.last or b"")[at : at + length]
        if not first <= key[at : at + length] <= last:
            return False
        at += (length + 3) & ~3
    return True


def _compares(value: bytes, expression: Compare) -> bool:
    match expression.comparison:
        case "eq":
            return value == expression.value
        case "neq":
            return value != expression.value
        case "lt":
            return value < expression.value
        case "lte":
            return value <= expression.value
        case "gt":
            return value > expression.value
        case "gte":
            return value >= expression.value
    raise _Unknown(f"a rule compares by {expression.comparison}")


def _turned(value: bytes, size: int) -> bytes:
    if sys.byteorder == "big":
        return value
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


def _unless(applies: bool) -> None:
    if not applies:
        raise _Broken
