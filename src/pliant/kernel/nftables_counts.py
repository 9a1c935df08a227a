# SPDX-License-Identifier: Apache-2.0
"""What nftables' own counters have counted: those of rules, and those of the policies of base chains."""

from __future__ import annotations

import errno as codes
from collections import defaultdict
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
from pliant.kernel.nftables import (
    CHAIN_COUNTERS,
    CHAIN_HANDLE,
    GETCHAIN,
    GETRULE,
    list_message,
    list_tables,
    of_one_generation,
    request,
)
from pliant.kernel.packet_counts import Counted

_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*


class RuleCounter(NamedTuple):
    """A counter in a rule: ``place`` is its number among those of the rule. Handle 0 is the policy of the chain.

    Handles are given once: a table that is made anew has another one, and so have its chains and rules.
    """

    family: str
    table: str
    table_handle: int
    chain: str
    chain_handle: int
    handle: int
    place: int = 0


def read_counters(netns: Path | int | None = None) -> dict[RuleCounter, Counted]:
    """Packets and bytes of every counter in a rule, or of a base chain's policy; named ones are not among them.

    Raises :class:`KernelError` when the ruleset never holds still.
    """
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        nothing_on = (codes.EINVAL, codes.EOPNOTSUPP)
        return of_one_generation(netlink, lambda _: _read(netlink), {}, nothing_on, again_on=(codes.ENOENT,))


def _read(netlink: Netlink) -> dict[RuleCounter, Counted]:
    tables = list_tables(netlink)
    chains: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    counted: dict[RuleCounter, Counted] = {}
    for message in netlink.dump(GETCHAIN, request(), "list the nftables chains"):
        family, found = list_message(message)
        table, chain = text(found.get(1)), text(found.get(3))
        chains[family, table, chain] = chain_handle = network_number(found.get(CHAIN_HANDLE))
        if CHAIN_COUNTERS in found:
            name = RuleCounter(family, table, tables[family, table].handle, chain, chain_handle, 0)
            counted[name] = _counts(attributes(found[CHAIN_COUNTERS]))
    for message in netlink.dump(GETRULE, request(), "list the nftables rules"):
        family, found = list_message(message)
        table, chain = text(found.get(1)), text(found.get(2))
        told = [attributes(raw) for _, raw in elements(found[4])] if 4 in found else []
        counters = [attributes(one[2]) for one in told if text(one.get(1)) == "counter" and 2 in one]
        handles = chains[family, table, chain], network_number(found.get(3))
        for place, one in enumerate(counters):
            name = RuleCounter(family, table, tables[family, table].handle, chain, *handles, place)
            counted[name] = _counts(one)
    return counted


def _counts(found: Attributes) -> Counted:
    return Counted(network_number(found.get(_PACKETS)), network_number(found.get(_BYTES)))
