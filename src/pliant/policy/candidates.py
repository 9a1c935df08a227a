# SPDX-License-Identifier: Apache-2.0
"""The few policies, of very many, that a connection may match: for whoever explains connections by the thousand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address

from pliant.policy.compile import mapped_prefix
from pliant.policy.desired import V4_MAPPED
from pliant.policy.explain import Connection, is_of_service
from pliant.policy.model import Policy

PEER_BITS = 128


class Candidates:
    """Policies by service, role and prefix of the peer; ports are not looked at: none that matches is missing."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._policies = tuple(policies)
        self._indexes: dict[tuple[str, str], dict[int, dict[int, list[int]]]] = {}

    def of(self, connection: Connection) -> list[Policy]:
        """The policies that may match a connection, in the order they were given in."""
        ends = connection.cgroup, connection.role
        if ends not in self._indexes:
            self._indexes[ends] = self._index(*ends)
        peer = connection.peer
        number = V4_MAPPED | int(peer) if isinstance(peer, IPv4Address) else int(peer)
        found = {
            place
            for bits, networks in self._indexes[ends].items()
            for place in networks.get(number >> (PEER_BITS - bits), ())
        }
        return [self._policies[place] for place in sorted(found)]

    def _index(self, cgroup: str, role: str) -> dict[int, dict[int, list[int]]]:
        """The places of policies by the length of a prefix and its bits; no bits stand for every peer."""
        index: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, policy in enumerate(self._policies):
            if role not in policy.roles or not is_of_service(policy.spec.match.service, cgroup):
                continue
            for address, bits in map(mapped_prefix, policy.prefixes) if policy.prefixes else [(0, 0)]:
                index[bits][address >> (PEER_BITS - bits)].append(place)
        return index
