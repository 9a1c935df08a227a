# SPDX-License-Identifier: Apache-2.0
"""What the oracle is asked about: a kind of device, and the object and constants that are its fast path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from tests.oracle import bridge_constants, constants
from tests.oracle.case import Case
from tests.oracle.configurations import FOUR
from tests.oracle.constants import Variant
from tests.oracle.filter_router import FilteringRouter
from tests.oracle.nat_router import NatRouter
from tests.oracle.router import PORTS, Router
from tests.oracle.switch import ADDRESS, Switch


class Kind(NamedTuple):
    """``constants`` are those of every case, ``variant`` those that depend on it.

    ``routes``: what is forwarded is counted by the IP protocols, too.
    """

    device: type[Router]
    object: str
    constants: Mapping[str, int | bytes]
    variant: Callable[[Case, int], Variant]
    routes: bool
    addresses: frozenset[bytes] = frozenset()
    """IPv4 addresses that it has beside those of a case."""
    rules: bool = False
    """Whether rules of nftables are part of a case."""
    counts: bool = False
    """Whether the fast path counts for rules that do."""


ROUTING = Kind(
    Router,
    "route_xdp",
    {},
    constants.variant,
    True,
)
FILTERING = Kind(
    FilteringRouter,
    "route_xdp",
    {},
    constants.filtering_variant,
    routes=True,
    rules=True,
)
COUNTING = FILTERING._replace(variant=constants.counting_variant, counts=True)
NATTING = ROUTING._replace(
    device=NatRouter,
    variant=constants.natting_variant,
    addresses=frozenset(
        IPv4Address(FOUR.own.format(port)).packed for port in range(PORTS)
    ),  # errors are translated
)
BRIDGING = Kind(
    Switch,
    "bridge_xdp",
    {"comes_with_skb": 1},
    bridge_constants.variant,
    False,
    frozenset({IPv4Address(ADDRESS).packed}),
)
