# SPDX-License-Identifier: Apache-2.0
"""Expressions of nftables' rules as data: the instructions of its machine, as the kernel has them.

A rule is a list of expressions that are done in order until one breaks it off or gives a verdict. They pass values on
in sixteen registers of 32 bits, a value in as many in a row as it needs; here a register is told by the number of its
first 32 bits, however the kernel spells it. What this module does not know becomes :class:`Other`, never nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pliant.kernel.netlink import Attributes, attributes, network_number, text

_WIDE_REGISTERS, _FIRST_NARROW = range(1, 5), 8
_VERDICTS = {
    0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat", 5: "stop",
    -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return",
}  # fmt: skip
_BASES = ("link", "network", "transport", "inner")
_COMPARISONS = ("eq", "neq", "lt", "lte", "gt", "gte")
META_KEYS = (
    "len", "protocol", "priority", "mark", "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "skuid",
    "skgid", "nftrace", "rtclassid", "secmark", "nfproto", "l4proto", "ibrname", "obrname", "pkttype", "cpu",
    "iifgroup", "oifgroup", "cgroup", "random", "ipsec", "iifkind", "oifkind", "ibrpvid", "ibrvproto", "time",
    "day", "hour", "sdif", "sdifname",
)  # fmt: skip
"""Keys of ``meta``, by number, as nft(8) names them."""
CT_KEYS = (
    "state", "direction", "status", "mark", "secmark", "expiration", "helper", "l3proto", "saddr", "daddr",
    "protocol", "proto-src", "proto-dst", "label", "packets", "bytes", "avgpkt", "zone", "event", "ip saddr",
    "ip daddr", "ip6 saddr", "ip6 daddr", "id",
)  # fmt: skip
"""Keys of ``ct``, by number, as nft(8) names them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet, or where the rules go on; ``chain`` is that of a jump or goto."""

    code: str
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Payload:
    """Load bytes of the packet; ``base`` is link, network, transport or inner; breaks off where there are too few."""

    register: int
    base: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Meta:
    """Load something about the packet that is not in it (:data:`META_KEYS`), in the host's byte order."""

    register: int
    key: str


@dataclass(frozen=True, slots=True)
class Ct:
    """Load something about the packet's connection (:data:`CT_KEYS`); ``direction`` is original, reply or empty."""

    register: int
    key: str
    direction: str = ""


@dataclass(frozen=True, slots=True)
class Compare:
    """Break off unless a register compares so with a value, as strings of bytes: eq, neq, lt, lte, gt or gte."""

    register: int
    comparison: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Within:
    """Break off unless a register is from ``first`` to ``last``; ``is_inverted``: unless it is not."""

    register: int
    first: bytes
    last: bytes
    is_inverted: bool


@dataclass(frozen=True, slots=True)
class AnyWithin:
    """Break off unless one of some registers is within one of some ranges; ``is_inverted``: unless none is.

    nftables has sets for that; this is a match of iptables, see :mod:`~pliant.kernel.xtables_matches`.
    """

    registers: tuple[int, ...]
    ranges: tuple[tuple[bytes, bytes], ...]
    is_inverted: bool


@dataclass(frozen=True, slots=True)
class Bitwise:
    """Put ``source & mask ^ flipped`` in a register."""

    source: int
    register: int
    mask: bytes
    flipped: bytes


@dataclass(frozen=True, slots=True)
class ByteOrder:
    """Turn the bytes of each ``size`` bytes in ``length`` around, on hosts that are little-endian."""

    source: int
    register: int
    length: int
    size: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """Break off unless a set holds what is in a register (``is_inverted``: unless it does not).

    For a map what is found goes to ``result``; ``gives_verdict``: it is a verdict, which is done.
    """

    set: str
    source: int
    result: int | None
    gives_verdict: bool
    is_inverted: bool


@dataclass(frozen=True, slots=True)
class Immediate:
    """Put a value in a register, or give a verdict."""

    register: int | None
    value: bytes
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Counter:
    """Count the packet; how many were counted is not part of a ruleset."""


@dataclass(frozen=True, slots=True)
class Other:
    """An expression that is not understood, by the kernel's name for it.

    Matches and targets of iptables are ``match:NAME`` and ``target:NAME``, with their revision and what they are told.
    """

    name: str
    revision: int = 0
    info: bytes = b""


Expression = (
    Payload
    | Meta
    | Ct
    | Compare
    | Within
    | AnyWithin
    | Bitwise
    | ByteOrder
    | Lookup
    | Immediate
    | Counter
    | Other
)


def parse_expression(raw: memoryview) -> Expression:
    """Read one expression (NFTA_LIST_ELEM of a rule)."""
    told = attributes(raw)
    name = text(told.get(1))
    parser = _PARSERS.get(name)
    found = parser(attributes(told[2])) if parser and 2 in told else None
    if name in ("match", "target") and 2 in told:  # of iptables
        given = attributes(told[2])
        called = f"{name}:{text(given.get(1))}"
        return Other(called, network_number(given.get(2)), bytes(given.get(3, b"")))
    return found or Other(name)


def parse_data(raw: memoryview) -> bytes | Verdict:
    """Read a value or a verdict (NFTA_DATA_*)."""
    found = attributes(raw)
    if 2 not in found:
        return bytes(found.get(1, b""))
    verdict = attributes(found[2])
    code = int.from_bytes(verdict[1], "big", signed=True)
    # A verdict of netfilter carries the number of a queue, or an error, in its upper half.
    name = _VERDICTS.get(code if code < 0 else code & 0xFFFF, str(code))
    return Verdict(name, text(verdict.get(2)))


def register(raw: memoryview) -> int | None:
    """The number of a register's first 32 bits; None for that of verdicts."""
    number = network_number(raw)
    if number in _WIDE_REGISTERS:
        return 4 * (number - 1)
    return number - _FIRST_NARROW if number >= _FIRST_NARROW else None


def _value(raw: memoryview) -> bytes:
    found = parse_data(raw)
    return found if isinstance(found, bytes) else b""


def _name(names: tuple[str, ...], raw: memoryview) -> str:
    number = network_number(raw)
    return names[number] if number < len(names) else str(number)


def _payload(found: Attributes) -> Expression | None:
    target = register(found[1]) if 1 in found else None  # one that writes into the packet has none
    if target is None:
        return None
    return Payload(target, _name(_BASES, found[2]), network_number(found[3]), network_number(found[4]))


def _meta(found: Attributes) -> Expression | None:
    target = register(found[1]) if 1 in found else None  # nor has one that sets a mark
    return None if target is None else Meta(target, _name(META_KEYS, found[2]))


def _ct(found: Attributes) -> Expression | None:
    target = register(found[1]) if 1 in found else None
    direction = ("original", "reply")[found[3][0]] if 3 in found else ""
    return None if target is None else Ct(target, _name(CT_KEYS, found[2]), direction)


def _compare(found: Attributes) -> Expression | None:
    source = register(found[1])
    return None if source is None else Compare(source, _name(_COMPARISONS, found[2]), _value(found[3]))


def _within(found: Attributes) -> Expression | None:
    source = register(found[1])
    if source is None:
        return None
    return Within(source, _value(found[3]), _value(found[4]), network_number(found[2]) == 1)


def _bitwise(found: Attributes) -> Expression | None:
    source, target = register(found[1]), register(found[2])
    if (
        network_number(found.get(6)) or source is None or target is None
    ):  # shifts and operations on two registers
        return None
    return Bitwise(source, target, _value(found[4]), _value(found[5])) if {4, 5} <= found.keys() else None


def _byte_order(found: Attributes) -> Expression | None:
    source, target = register(found[1]), register(found[2])
    if source is None or target is None:
        return None
    return ByteOrder(source, target, network_number(found[4]), network_number(found[5]))


def _lookup(found: Attributes) -> Expression | None:
    source = register(found[2])
    if source is None:
        return None
    result = register(found[3]) if 3 in found else None
    inverted = bool(network_number(found.get(5)) & 1)
    return Lookup(text(found[1]), source, result, 3 in found and result is None, inverted)


def _immediate(found: Attributes) -> Expression:
    data = parse_data(found[2])
    verdict = data if isinstance(data, Verdict) else None
    return Immediate(register(found[1]), data if isinstance(data, bytes) else b"", verdict)


def _counter(_: Attributes) -> Expression:
    return Counter()


_PARSERS = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "cmp": _compare,
    "range": _within,
    "bitwise": _bitwise,
    "byteorder": _byte_order,
    "lookup": _lookup,
    "immediate": _immediate,
    "counter": _counter,
}
