# SPDX-License-Identifier: Apache-2.0
"""What nftables' own counters have counted: those of rules, and those of the policies of base chains."""

from __future__ import annotations

import errno as codes
from pathlib import Path
from typing import NamedTuple

from pliant.kernel.netlink import (
    NETLINK_NETFILTER,
    Attributes,
    Netlink,
    attributes,
    elements,
    network_number,
    text,
)
from pliant.kernel.nftables import GETCHAIN, GETRULE, GETTABLE, list_message, of_one_generation, request

_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_CHAIN_COUNTERS = 8  # NFTA_CHAIN_COUNTERS


class RuleCounter(NamedTuple):
    """A counter in a rule: ``place`` is its number among those of the rule. Handle 0 is the policy of the chain.

    Handles are given once: a table that is made anew has another one, and so have its rules.
    """

    family: str
    table: str
    table_handle: int
    chain: str
    handle: int
    place: int = 0


def read_counters(netns: Path | int | None = None) -> dict[RuleCounter, tuple[int, int]]:
    """Packets and bytes of every counter in a rule, or of a base chain's policy; named ones are not among them.

    Raises :class:`KernelError` when the ruleset never holds still.
    """
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        nothing_on = (codes.EINVAL, codes.EOPNOTSUPP)
        return of_one_generation(netlink, lambda _: _read(netlink), {}, nothing_on, again_on=(codes.ENOENT,))


def _read(netlink: Netlink) -> dict[RuleCounter, tuple[int, int]]:
    tables = {}
    for message in netlink.dump(GETTABLE, request(), "list the nftables tables"):
        family, found = list_message(message)
        tables[family, text(found.get(1))] = network_number(found.get(4))
    counted: dict[RuleCounter, tuple[int, int]] = {}
    for message in netlink.dump(GETCHAIN, request(), "list the nftables chains"):
        family, found = list_message(message)
        table, chain = text(found.get(1)), text(found.get(3))
        if _CHAIN_COUNTERS in found:
            name = RuleCounter(family, table, tables.get((family, table), 0), chain, 0, 0)
            counted[name] = _counts(attributes(found[_CHAIN_COUNTERS]))
    for message in netlink.dump(GETRULE, request(), "list the nftables rules"):
        family, found = list_message(message)
        table, chain = text(found.get(1)), text(found.get(2))
        told = [attributes(raw) for _, raw in elements(found[4])] if 4 in found else []
        counters = [attributes(one[2]) for one in told if text(one.get(1)) == "counter" and 2 in one]
        for place, one in enumerate(counters):
            handle = network_number(found.get(3))
            name = RuleCounter(family, table, tables.get((family, table), 0), chain, handle, place)
            counted[name] = _counts(one)
    return counted


def _counts(found: Attributes) -> tuple[int, int]:
    return network_number(found.get(_PACKETS)), network_number(found.get(_BYTES))
