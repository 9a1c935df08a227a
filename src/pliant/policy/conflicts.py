# SPDX-License-Identifier: Apache-2.0
"""Finds two policies that set the same option of the same connection at the same priority."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pliant.errors import PliantError

ANY = 0
ALL = -1  # in an index: whatever the port
MAX_REPORTED = 20


class Claim(NamedTuple):
    """A policy's hold on options, for one peer prefix and one pair of ports (0: every port)."""

    peer: int
    peer_bits: int
    local_port: int
    remote_port: int
    policy: str
    priority: int
    options: tuple[str, ...]


class Conflict(NamedTuple):
    """Two policies, in the order of their names, and what both of them set."""

    first: str
    second: str
    option: str
    priority: int

    def __str__(self) -> str:
        return (
            f"policies '{self.first}' and '{self.second}' both set {self.option} for some of the same "
            f"connections, at the same priority {self.priority}"
        )


class PolicyConflict(PliantError):
    """Policies contradict each other; ``conflicts`` holds up to twenty of the pairs."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__(
            "\n".join(map(str, conflicts)),
            remedy="give one of them a higher spec.priority, or narrow its spec.match",
        )


@dataclass(slots=True)
class _Active:
    """How many claims each policy has on the path from the widest prefix to the current one.

    By option, priority and ports.
    """

    index: dict[tuple[str, int, int, int], dict[str, int]] = field(default_factory=dict)

    def add(self, claim: Claim) -> None:
        for key in self._keys(claim):
            held = self.index.setdefault(key, {})
            held[claim.policy] = held.get(claim.policy, 0) + 1

    def remove(self, claim: Claim) -> None:
        for key in self._keys(claim):
            held = self.index[key]
            held[claim.policy] -= 1
            if not held[claim.policy]:
                del held[claim.policy]

    def overlapping(self, claim: Claim) -> Iterable[Conflict]:
        for option in claim.options:
            for local_port, remote_port in _overlaps(claim.local_port, claim.remote_port):
                for other in self.index.get((option, claim.priority, local_port, remote_port), ()):
                    if other != claim.policy:
                        first, second = sorted((claim.policy, other))
                        yield Conflict(first, second, option, claim.priority)

    @staticmethod
    def _keys(claim: Claim) -> Iterable[tuple[str, int, int, int]]:
        local_port, remote_port = claim.local_port, claim.remote_port
        for option in claim.options:
            yield option, claim.priority, local_port, remote_port
            yield option, claim.priority, local_port, ALL
            yield option, claim.priority, ALL, remote_port
            yield option, claim.priority, ALL, ALL


def _overlaps(local_port: int, remote_port: int) -> tuple[tuple[int, int], ...]:
    """The index entries whose ports overlap with these."""
    if local_port == ANY and remote_port == ANY:
        return ((ALL, ALL),)
    if local_port == ANY:
        return ((ALL, remote_port), (ALL, ANY))
    if remote_port == ANY:
        return ((local_port, ALL), (ANY, ALL))
    return ((local_port, remote_port), (local_port, ANY), (ANY, remote_port), (ANY, ANY))


def find_conflicts(claims: Iterable[Claim]) -> list[Conflict]:
    """Conflicts among the claims on one service in one role, each pair and option once, at most twenty.

    Prefixes nest or are disjoint, so a walk in order of address and length meets each claim while exactly the
    claims of the prefixes around it are active: n log n, however many policies there are.
    """
    found: dict[Conflict, None] = {}
    active = _Active()
    path: list[Claim] = []
    for claim in sorted(claims):
        while path and not contains(path[-1].peer, path[-1].peer_bits, claim.peer, claim.peer_bits):
            active.remove(path.pop())
        for conflict in active.overlapping(claim):
            found[conflict] = None
            if len(found) == MAX_REPORTED:
                return list(found)
        active.add(claim)
        path.append(claim)
    return list(found)


def contains(peer: int, peer_bits: int, inner: int, inner_bits: int) -> bool:
    """Whether the prefix ``inner/inner_bits`` lies in ``peer/peer_bits`` (or is the same)."""
    return inner_bits >= peer_bits and (peer ^ inner) >> (128 - peer_bits) == 0
