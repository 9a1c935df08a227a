# SPDX-License-Identifier: Apache-2.0
"""A whole nftables ruleset as data: tables, chains with their rules, sets and maps with their elements."""

from __future__ import annotations

import errno as codes
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.netlink import (
    NETLINK_NETFILTER,
    Netlink,
    attribute,
    attributes,
    elements,
    network_number,
    text,
)
from pliant.kernel.nftables import (
    CHAIN_HANDLE,
    GETCHAIN,
    GETRULE,
    GETSET,
    GETSETELEM,
    HEADER,
    BaseChain,
    list_message,
    list_tables,
    of_one_generation,
    parse_chain,
    request,
)
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.nftables_expressions import Expression, Verdict, parse_data, parse_expression
from pliant.kernel.xtables_matches import in_words_of_nftables

_FLAGS = {
    0x1: "anonymous", 0x2: "constant", 0x4: "interval", 0x8: "map", 0x10: "timeout", 0x20: "dynamic",
    0x40: "object", 0x80: "concat", 0x100: "expression",
}  # fmt: skip
_VERDICT_TYPE = 0xFFFFFF00
_INTERVAL_END, _CATCH_ALL = 0x1, 0x2
_TIMEOUT, _EXPRESSION, _OBJECT, _EXPRESSIONS = 4, 7, 9, 11


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a chain; ``handle`` names it as long as it lives.

    Matches of iptables are in words of nftables where they can be said so.
    """

    handle: int
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain with its rules in order; ``base`` says where it is hooked in, None: others jump to it.

    ``handle`` names it as long as it lives, ``table_handle`` its table.
    """

    family: str
    table: str
    name: str
    base: BaseChain | None
    rules: tuple[Rule, ...]
    table_handle: int = 0
    handle: int = 0

    def counter(self, rule: int = 0, place: int = 0) -> RuleCounter:
        """A counter of the rule of a handle, or of the chain's policy."""
        return RuleCounter(self.family, self.table, self.table_handle, self.name, self.handle, rule, place)


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set: one key, or from ``key`` to ``last``; None for ``key``: whatever no other matches.

    ``data`` is what a map gives for it. ``has_more``: it expires, counts, limits, or names an object.
    """

    key: bytes | None
    last: bytes | None = None
    data: bytes | Verdict | None = None
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Set:
    """A set or map; ``flags`` as nft(8) names them.

    ``fields`` are the lengths in bytes of the parts of a key that is a concatenation, each of which takes up a multiple
    of four; ``key_bytes`` is the whole length.
    """

    family: str
    table: str
    name: str
    flags: frozenset[str]
    key_bytes: int
    fields: tuple[int, ...]
    gives_verdicts: bool
    elements: tuple[Element, ...]

    @property
    def changes_unheard(self) -> bool:
        """Whether packets or time change it, of which no message is sent."""
        return bool(self.flags & {"timeout", "dynamic"})


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything of a generation; ``dormant`` are the chains of tables that do nothing for now, which are apart.

    ``is_read``: it is known what there is; else only that none of it is about packets that are forwarded.
    """

    generation: int = 0
    chains: tuple[Chain, ...] = ()
    sets: tuple[Set, ...] = ()
    dormant: tuple[Chain, ...] = ()
    is_read: bool = True

    def chain(self, family: str, table: str, name: str) -> Chain | None:
        """A chain by its name; None when there is none."""
        return next((c for c in self.chains if (c.family, c.table, c.name) == (family, table, name)), None)

    def set(self, family: str, table: str, name: str) -> Set | None:
        """A set by its name; None when there is none."""
        return next((s for s in self.sets if (s.family, s.table, s.name) == (family, table, name)), None)


def read_rules(netns: Path | int | None = None) -> Rules:
    """Read the whole ruleset of a namespace; one generation's, even while it is being changed.

    A kernel without nftables has none. Raises :class:`KernelError` when it never holds still.
    """
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        return rules_through(netlink)


def rules_through(netlink: Netlink) -> Rules:
    """The same through a socket that is kept: see :func:`~pliant.kernel.nftables.ruleset_through`."""
    return of_one_generation(
        netlink,
        lambda number: Rules(number, *_read(netlink)),
        Rules(),
        nothing_on=(codes.EINVAL, codes.EOPNOTSUPP),
        again_on=(codes.ENOENT,),  # a set that has gone meanwhile
    )


def _read(netlink: Netlink) -> tuple[tuple[Chain, ...], tuple[Set, ...], tuple[Chain, ...]]:
    tables = list_tables(netlink)
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    for message in netlink.dump(GETRULE, request(), "list the nftables rules"):
        family, found = list_message(message)
        parts = (parse_expression(raw) for _, raw in (elements(found[4]) if 4 in found else ()))
        said = tuple(same for part in parts for same in in_words_of_nftables(part, family))
        rule = Rule(network_number(found.get(3)), said)
        rules.setdefault((family, text(found.get(1)), text(found.get(2))), []).append(rule)
    chains: list[Chain] = []
    sleeping: list[Chain] = []
    for message in netlink.dump(GETCHAIN, request(), "list the nftables chains"):
        family, found = list_message(message)
        table, name = text(found.get(1)), text(found.get(3))
        own = tuple(rules.get((family, table, name), ()))
        handles = tables[family, table].handle, network_number(found.get(CHAIN_HANDLE))
        chain = Chain(family, table, name, parse_chain(message), own, *handles)
        (sleeping if tables[family, table].is_dormant else chains).append(chain)
    sets = [_set(netlink, m) for m in netlink.dump(GETSET, request(), "list the nftables sets")]
    awake = tuple(s for s in sets if not tables[s.family, s.table].is_dormant)
    return tuple(chains), awake, tuple(sleeping)


def _set(netlink: Netlink, message: memoryview) -> Set:
    family, found = list_message(message)
    table, name, flags = text(found.get(1)), text(found.get(2)), network_number(found.get(3))
    described = attributes(found[9]) if 9 in found else {}
    fields = (
        [network_number(attributes(raw).get(1)) for _, raw in elements(described[2])]
        if 2 in described
        else []
    )
    key_bytes = network_number(found.get(5))
    body = request(message[0]) + attribute(1, table.encode() + b"\0") + attribute(2, name.encode() + b"\0")
    listed = [
        raw
        for answer in netlink.dump(GETSETELEM, body, f"list the elements of the nftables set {name}")
        for _, raw in _elements_in(answer)
    ]
    named = frozenset(word for bit, word in _FLAGS.items() if flags & bit)
    members = (
        _intervals(listed, key_bytes) if "interval" in named and "concat" not in named else _members(listed)
    )
    return Set(
        family,
        table,
        name,
        named,
        key_bytes,
        tuple(fields),
        network_number(found.get(6)) == _VERDICT_TYPE,
        members,
    )


def _elements_in(answer: memoryview) -> list[tuple[int, memoryview]]:
    found = attributes(answer, HEADER.size)
    return list(elements(found[3])) if 3 in found else []


def _members(listed: list[memoryview]) -> tuple[Element, ...]:
    return tuple(sorted(map(_element, listed), key=lambda e: (e.key is None, e.key or b"", e.last or b"")))


def _element(raw: memoryview) -> Element:
    found = attributes(raw)
    flags = network_number(found.get(3))
    return Element(
        key=None if flags & _CATCH_ALL or 1 not in found else bytes(attributes(found[1]).get(1, b"")),
        last=bytes(attributes(found[10]).get(1, b"")) if 10 in found else None,
        data=parse_data(found[2]) if 2 in found else None,
        has_more=bool(found.keys() & {_TIMEOUT, _EXPRESSION, _OBJECT, _EXPRESSIONS}),
    )


def _intervals(listed: list[memoryview], key_bytes: int) -> tuple[Element, ...]:
    """Intervals are kept as where one begins and where the next is that no longer belongs to it."""
    bounds = []
    others = []
    for raw in listed:
        element = _element(raw)
        ends = bool(network_number(attributes(raw).get(3)) & _INTERVAL_END)
        if element.key is None:
            others.append(element)
        else:
            bounds.append((element.key, not ends, element))
    found: list[Element] = []
    begun: Element | None = None
    for key, begins, element in sorted(bounds, key=lambda bound: bound[:2]):
        if begun is not None and begun.key is not None:
            last = (int.from_bytes(key, "big") - 1).to_bytes(key_bytes, "big")
            found.append(Element(begun.key, last, begun.data, begun.has_more))
        begun = element if begins else None
    if begun is not None:
        found.append(Element(begun.key, b"\xff" * key_bytes, begun.data, begun.has_more))
    return (*found, *others)
