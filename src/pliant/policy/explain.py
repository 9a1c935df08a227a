# SPDX-License-Identifier: Apache-2.0
"""Which policies a connection gets and why: a second, plain implementation of what scope.bpf.c decides.

It takes policies as people wrote them, not what they compile to, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from pliant.policy.desired import V4_MAPPED
from pliant.policy.model import Policy
from pliant.policy.services import ancestors, matching_cgroups
from pliant.policy.switches import ALL_ON, Switches


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as scope sees it. ``cgroup`` is the path from the root of the hierarchy."""

    cgroup: str
    role: str
    local_port: int
    peer: IPv4Address | IPv6Address
    remote_port: int


class Reason(Enum):
    """Why a policy does or does not apply to a connection: the id; the sentence is the value."""

    WINS = "it matches, and no better policy sets the same options"
    PARTLY = "it matches, but a policy of higher priority sets some of its options"
    OUTRANKED = "it matches, but policies of higher priority set all of its options"
    HELD_OUT = "it matches, but holds this connection out, to have something to compare with"
    SERVICE = "the connection's service is another"
    OFF = "it is switched off, or the connection's service is"
    ROLE = "the service has the other role in this connection"
    LOCAL_PORT = "the local port is another"
    REMOTE_PORT = "the remote port is another"
    PEER = "the peer is in none of its prefixes"

    @property
    def matches(self) -> bool:
        """Whether the policy matches the connection at all."""
        return self in (Reason.WINS, Reason.PARTLY, Reason.OUTRANKED, Reason.HELD_OUT)


@dataclass(frozen=True, slots=True)
class Judged:
    """One policy against one connection: why, and the options it has won."""

    policy: str
    priority: int
    reason: Reason
    won: dict[str, Any]
    holdout_ppm: int


def explain(
    policies: Iterable[Policy],
    connection: Connection,
    held_out: Collection[str] = (),
    off: Switches = ALL_ON,
) -> list[Judged]:
    """Every policy against a connection, those that win first, then by priority and name.

    ``held_out`` names the policies that hold the connection out, see :mod:`pliant.policy.holdout`: what they would have
    won goes to the next. Policies of equal priority cannot set the same option, unless a service that appeared later
    brought them together: then the one given last has it.
    """
    reasons = {policy: _mismatch(policy, connection, off) for policy in policies}
    holders: dict[str, Policy] = {}
    rivals = (p for p in reasons if reasons[p] is None and p.name not in held_out)
    for policy in sorted(rivals, key=lambda p: p.priority):
        holders.update(dict.fromkeys(policy.tune_values, policy))
    judged = []
    for policy, mismatch in reasons.items():
        won = {o: v for o, v in policy.tune_values.items() if mismatch is None and holders.get(o) is policy}
        reason = mismatch or _rank(len(won), len(policy.tune_values), policy.name in held_out)
        judged.append(Judged(policy.name, policy.priority, reason, won, policy.holdout_ppm))
    return sorted(judged, key=lambda j: (not j.won, not j.reason.matches, -j.priority, j.policy))


def _rank(won: int, options: int, held_out: bool) -> Reason:
    if held_out:
        return Reason.HELD_OUT
    if won == options:
        return Reason.WINS
    return Reason.PARTLY if won else Reason.OUTRANKED


def _mismatch(policy: Policy, connection: Connection, off: Switches) -> Reason | None:
    if not is_of_service(policy.spec.match.service, connection.cgroup):
        return Reason.SERVICE
    if off.of_policy(policy.name) or any(is_of_service(s, connection.cgroup) for s in off.services):
        return Reason.OFF
    if connection.role not in policy.roles:
        return Reason.ROLE
    if policy.local_ports and connection.local_port not in policy.local_ports:
        return Reason.LOCAL_PORT
    if policy.remote_ports and connection.remote_port not in policy.remote_ports:
        return Reason.REMOTE_PORT
    if policy.prefixes and not any(_contains(prefix, connection.peer) for prefix in policy.prefixes):
        return Reason.PEER
    return None


@lru_cache(maxsize=8192)
def is_of_service(pattern: str, cgroup: str) -> bool:
    """Whether a cgroup, or one above it, is what a policy's ``service`` means."""
    return bool(matching_cgroups({pattern}, [cgroup, *ancestors(cgroup)]))


def _contains(prefix: IPv4Network | IPv6Network, peer: IPv4Address | IPv6Address) -> bool:
    """Whether a peer is in a prefix; an IPv4 peer counts as its v4-mapped IPv6 address too (RFC 4291 2.5.5.2)."""
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped
    if peer in prefix:
        return True
    if isinstance(peer, IPv4Address) and isinstance(prefix, IPv6Network):
        return IPv6Address(V4_MAPPED | int(peer)) in prefix
    return False
