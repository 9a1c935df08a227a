# SPDX-License-Identifier: Apache-2.0
"""Numbers for versions of policies: a version keeps its number, a number never names a second version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from pliant.policy.model import Policy

LAST_NUMBER = 2**32 - 1


class Numbered(NamedTuple):
    """A policy's number and the digest of what the number stands for."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Numbering:
    """Who has which number, by policy name, and the next number to give out."""

    numbers: Mapping[str, Numbered] = field(default_factory=dict)
    next_number: int = 1

    def extend(self, policies: Iterable[Policy]) -> Numbering:
        """The numbering for another set of policies: unchanged ones keep their number, others get new ones."""
        numbers: dict[str, Numbered] = {}
        upcoming = self.next_number
        for policy in policies:
            digest = settings_digest(policy)
            held = self.numbers.get(policy.name)
            if held and held.digest == digest:
                numbers[policy.name] = held
                continue
            numbers[policy.name] = Numbered(upcoming, digest)
            upcoming += 1
        if upcoming > LAST_NUMBER:
            raise OverflowError("policy numbers are used up: over four thousand million versions on one host")
        return Numbering(numbers, upcoming)


def settings_digest(policy: Policy) -> str:
    """A digest of what the kernel keeps under the policy's number: all but what it matches."""
    kept: list[object] = [policy.priority, policy.holdout_ppm, sorted(policy.tune_values.items())]
    if policy.is_live:
        kept.append("live")
    return blake2b(json.dumps(kept).encode(), digest_size=12).hexdigest()
