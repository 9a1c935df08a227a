# SPDX-License-Identifier: Apache-2.0
"""The policies of a soak, made so that what a connection has tells which version of which policy it has, whole.

A version is a number: it is the DSCP, and the window and the pacing rate follow from it. A connection whose three
values do not fit together has half of something.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pliant.policy.model import Policy
from pliant.policy.services import matching_cgroups
from pliant.policy.switches import Switches
from pliant.soak.connections import Given

UNTOUCHED = Given(10, -1, 0)
STABLE, STABLE_LIVE = "stable", "stable-live"
STABLE_VERSION = 34
VERSIONS = [version for version in range(1, 64) if version != STABLE_VERSION]
_MBIT = 125_000


@dataclass(frozen=True, slots=True)
class Written:
    """One policy of a soak, of which ``version`` is in force."""

    name: str
    service: str
    version: int
    live: bool = False
    priority: int = 100
    holdout: str = "0%"

    def document(self) -> dict[str, Any]:
        """The policy as in a file."""
        tune: dict[str, Any] = {"pacing_rate": f"{100 + self.version}Mbit", "dscp": self.version}
        if not self.live:
            tune["initial_cwnd"] = 20 + self.version
        return {
            "apiVersion": "pliant/v1",
            "kind": "TransportPolicy",
            "metadata": {"name": self.name},
            "spec": {
                "match": {"service": self.service},
                "tune": tune,
                "applyTo": "live" if self.live else "new",
                "priority": self.priority,
                "holdout": self.holdout,
            },
        }


def as_file(policies: Iterable[Written]) -> str:
    """Policies as a file that apply reads."""
    return "\n---\n".join(json.dumps(policy.document()) for policy in policies)


def given_by(version: int, *, live: bool = False) -> Given:
    """What a connection of a version has."""
    return Given(UNTOUCHED.window if live else 20 + version, (100 + version) * _MBIT, version)


def version_of(found: Given, *, live: bool = False) -> int | None:
    """The version that a connection has as a whole, 0 for none; None when it has half of something."""
    if found == UNTOUCHED:
        return 0
    return found.dscp if found == given_by(found.dscp, live=live) else None


def stable() -> Iterator[Written]:
    """The policies that nobody changes."""
    yield Written(STABLE, "/stable.service", STABLE_VERSION, priority=1000)
    yield Written(STABLE_LIVE, "/stable-live.service", STABLE_VERSION, live=True, priority=1000)


def expected(policies: Mapping[str, Policy], switches: Switches, cgroup: str) -> set[int]:
    """The versions that a new connection of a service may have: a held-out one has that of the next policy."""
    off = {pattern for pattern in switches.services if matching_cgroups({pattern}, {cgroup: 1}).get(cgroup)}
    found: set[int] = set()
    for policy in sorted(policies.values(), key=lambda each: -each.spec.priority):
        if off or switches.of_policy(policy.name):
            continue
        if not matching_cgroups({policy.spec.match.service}, {cgroup: 1}).get(cgroup):
            continue
        found.add(int(policy.tune_values["dscp"]))
        if not policy.spec.holdout:
            return found
    return found | {0}
