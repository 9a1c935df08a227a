# SPDX-License-Identifier: Apache-2.0
"""The nftables ruleset of a network namespace: where it hooks into the path of a packet, and what its rules are of."""

from __future__ import annotations

import errno as codes
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import (
    NETLINK_NETFILTER,
    Attributes,
    Interrupted,
    Monitor,
    Netlink,
    attributes,
    elements,
    keep_only,
    network_number,
    text,
)

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWGEN = _SUBSYSTEM | 15
_GETTABLE, GETCHAIN, GETRULE, GETSET, GETSETELEM, _GETGEN, _GETOBJ = (
    _SUBSYSTEM | kind for kind in (1, 4, 7, 10, 13, 16, 19)
)
_TRACKING = {3: "ct helper", 7: "ct timeout", 9: "ct expectation", 10: "synproxy"}  # NFT_OBJECT_*
_GROUP = 7  # NFNLGRP_NFTABLES
HEADER = struct.Struct("=BBH")  # struct nfgenmsg
_ATTEMPTS = 20
T = TypeVar("T")

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_INET_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_HOOKS = {
    "inet": _INET_HOOKS,
    "ip": _INET_HOOKS,
    "ip6": _INET_HOOKS,
    "bridge": _INET_HOOKS,
    "arp": ("input", "output", "forward"),
    "netdev": ("ingress", "egress"),
}
_DEVICE_PREFIX = 2  # NFTA_DEVICE_PREFIX; Linux 6.16 wrote a name without its NUL instead
_DORMANT = 0x1  # NFT_TABLE_F_DORMANT
CHAIN_HANDLE, CHAIN_COUNTERS = 2, 8  # NFTA_CHAIN_*
_HARDWARE = 0x2  # NFT_CHAIN_HW_OFFLOAD
_DROP = 0


class Table(NamedTuple):
    """A table; its handle names it as long as it lives. One that is dormant does nothing for now."""

    handle: int = 0
    is_dormant: bool = False


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A chain that is hooked into the path of packets.

    ``family``, ``hook`` and ``type`` as nft(8) names them; ``policy`` is accept or drop; ``devices`` are those of an
    ingress or egress hook, by name, or with a final * by how their names begin. ``counts``: packets that come to its
    policy, as iptables-restore has it.
    """

    family: str
    table: str
    name: str
    hook: str
    priority: int
    type: str
    policy: str
    devices: tuple[str, ...] = ()
    is_offloaded: bool = False
    counts: bool = False

    def is_at(self, interface: str) -> bool:
        """Whether an ingress or egress hook is that of an interface."""
        return any(
            interface == name or (name.endswith("*") and interface.startswith(name[:-1]))
            for name in self.devices
        )


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How many rules a chain has, and the kinds of expressions in them (``meta``, ``cmp``, ``ct``, ``counter``, ...).

    For an xtables match or target, which is an expression that calls code of iptables, ``match:NAME``, ``target:NAME``.
    """

    family: str
    table: str
    chain: str
    rules: int
    expressions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrackingObject:
    """An object of nftables that is there for connections, and has them tracked; ``type`` as nft(8) names it."""

    family: str
    table: str
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What nftables does in a namespace, as of a generation of its ruleset. Tables that are dormant are left out."""

    generation: int = 0
    chains: tuple[BaseChain, ...] = ()
    rules: tuple[RuleCount, ...] = ()
    tracking_objects: tuple[TrackingObject, ...] = ()

    def rules_of(self, chain: BaseChain) -> RuleCount | None:
        """The rules that stand in a chain itself; None when there are none."""
        key = (chain.family, chain.table, chain.name)
        return next((r for r in self.rules if (r.family, r.table, r.chain) == key), None)


def read_ruleset(netns: Path | int | None = None) -> Ruleset:
    """Read what hooks there are and what rules; one generation's, even while it is being changed.

    A kernel without nftables has an empty ruleset. Raises :class:`KernelError` when it never holds still.
    """
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        return ruleset_through(netlink)


def ruleset_through(netlink: Netlink) -> Ruleset:
    """The same through a socket that is kept: when one is closed the kernel first ends what rules were taken away."""
    nothing = (codes.EINVAL, codes.EOPNOTSUPP, codes.ENOENT)
    return of_one_generation(netlink, lambda number: Ruleset(number, *_read(netlink)), Ruleset(), nothing)


def of_one_generation(
    netlink: Netlink,
    read: Callable[[int], T],
    nothing: T,
    nothing_on: Collection[int],
    again_on: Collection[int] = (),
) -> T:
    """What ``read`` makes of a generation whose number it is given, read anew while the ruleset changes.

    ``nothing`` is what there is where the kernel answers with an errno of ``nothing_on``; with one of ``again_on``
    something has gone meanwhile. Raises :class:`KernelError` when it never holds still.
    """
    for _ in range(_ATTEMPTS):
        try:
            before = generation(netlink)
            found = read(before)
            if generation(netlink) == before:
                return found
        except Interrupted:
            continue
        except KernelError as error:
            if error.errno in nothing_on:
                return nothing
            if error.errno not in again_on:
                raise
    raise KernelError("cannot read the nftables ruleset: it changes faster than it can be read")


def monitor(netns: Path | int | None = None, *, receive_bytes: int) -> Monitor:
    """Listen to new generations of the ruleset, one message for each, however many rules have changed."""
    chosen = keep_only([_NEWGEN])
    return Monitor(NETLINK_NETFILTER, [_GROUP], netns, receive_bytes=receive_bytes, chosen=chosen)


def request(family: int = 0) -> bytes:
    """What every question begins with."""
    return HEADER.pack(family, 0, 0)


def generation(netlink: Netlink) -> int:
    """The generation of the ruleset, which every change increases."""
    answer = netlink.ask(_GETGEN, request(), "read the generation of the nftables ruleset")
    return network_number(attributes(answer, HEADER.size).get(1))


def _read(
    netlink: Netlink,
) -> tuple[tuple[BaseChain, ...], tuple[RuleCount, ...], tuple[TrackingObject, ...]]:
    tables = list_tables(netlink)
    chains = [parse_chain(m) for m in netlink.dump(GETCHAIN, request(), "list the nftables chains")]
    based = [c for c in chains if c is not None and not tables[c.family, c.table].is_dormant]
    counted: dict[tuple[str, str, str], tuple[int, set[str]]] = {}
    for message in netlink.dump(GETRULE, request(), "list the nftables rules"):
        family, found = list_message(message)
        key = (family, text(found.get(1)), text(found.get(2)))
        if tables[key[:2]].is_dormant:
            continue
        count, names = counted.get(key, (0, set()))
        counted[key] = (count + 1, names | _expressions(found))
    based.sort(key=lambda c: (c.family, c.hook, c.priority, c.table, c.name))
    rules = (RuleCount(*key, n, tuple(sorted(names))) for key, (n, names) in sorted(counted.items()))
    return tuple(based), tuple(rules), tuple(_tracking_objects(netlink))


def _tracking_objects(netlink: Netlink) -> Iterator[TrackingObject]:
    for message in netlink.dump(_GETOBJ, request(), "list the nftables objects"):
        family, found = list_message(message)
        kind = _TRACKING.get(network_number(found.get(3)))
        if kind is not None:
            yield TrackingObject(family, text(found.get(1)), text(found.get(2)), kind)


def list_tables(netlink: Netlink) -> defaultdict[tuple[str, str], Table]:
    """The tables by family and name; of one that has come since, before the generation is read anew, nothing."""
    found: defaultdict[tuple[str, str], Table] = defaultdict(Table)
    for message in netlink.dump(_GETTABLE, request(), "list the nftables tables"):
        family, told = list_message(message)
        is_dormant = bool(network_number(told.get(2)) & _DORMANT)
        found[family, text(told.get(1))] = Table(network_number(told.get(4)), is_dormant)
    return found


def list_message(message: memoryview) -> tuple[str, Attributes]:
    """The family and the attributes of a message."""
    family = message[0]
    return FAMILIES.get(family, str(family)), attributes(message, HEADER.size)


def parse_chain(message: memoryview) -> BaseChain | None:
    """Read an NFT_MSG_NEWCHAIN message; None for a chain that is not hooked in."""
    family, found = list_message(message)
    if 4 not in found:  # NFTA_CHAIN_HOOK: only others jump to it
        return None
    hook = attributes(found[4])
    place = network_number(hook.get(1))
    names = _HOOKS.get(family, ())
    devices = [text(hook[3])] if 3 in hook else []
    for kind, raw in elements(hook[4]) if 4 in hook else ():
        is_prefix = kind == _DEVICE_PREFIX or bytes(raw[-1:]) != b"\0"
        devices.append(text(raw).rstrip("*") + "*" if is_prefix else text(raw))
    return BaseChain(
        family=family,
        table=text(found.get(1)),
        name=text(found.get(3)),
        hook=names[place] if place < len(names) else str(place),
        priority=int.from_bytes(hook[2], "big", signed=True) if 2 in hook else 0,
        type=text(found.get(7)),
        policy="drop" if 5 in found and network_number(found[5]) == _DROP else "accept",
        devices=tuple(sorted(set(devices))),
        is_offloaded=bool(network_number(found.get(10)) & _HARDWARE),
        counts=CHAIN_COUNTERS in found,
    )


def _expressions(rule: Attributes) -> set[str]:
    names = set()
    for _, expression in elements(rule[4]) if 4 in rule else ():
        told = attributes(expression)
        name = text(told.get(1))
        if name in ("match", "target") and 2 in told:
            name += ":" + text(attributes(told[2]).get(1))
        names.add(name)
        if name == "dynset" and 2 in told:  # what the elements it adds are to do
            given = attributes(told[2])
            several = [raw for _, raw in elements(given[10])] if 10 in given else []
            names |= {text(attributes(raw).get(1)) for raw in (*several, *([given[7]] if 7 in given else []))}
    return names
