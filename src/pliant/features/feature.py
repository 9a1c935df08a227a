# SPDX-License-Identifier: Apache-2.0
"""What a tuning feature declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pliant.kernel.sock_diag import OpenSocket
from pliant.policy.options import Option

Fields = Mapping[str, int | bytes]


class Reach(Enum):
    """Which connections a feature can act on."""

    NEW_ONLY = "new-only"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a feature may want to know of a host before it accepts a value.

    ``rmem_max`` is the sysctl net.core.rmem_max in bytes; None where it cannot be read (in a network namespace).
    """

    congestion_controls: frozenset[str] = field(default_factory=frozenset)
    rmem_max: int | None = None


def accept_anything(value: Any, facts: HostFacts) -> str | None:
    """The default check of a value against a host: the schema has said all there is to say."""
    return None


@dataclass(frozen=True, slots=True)
class Feature:
    """One tuning feature: the policy key, the object and program of the same name, and the setting's encoding.

    ``encode`` turns an option's value (base units of :mod:`pliant.policy.units`) into the fields of the object's
    ``struct setting``; ``check`` returns a sentence when a host cannot have the value, with facts gathered before
    anything is changed. ``reach`` says whether the setting could also be changed on an open connection.
    ``read`` says what an open socket has, as an option's value, or in a word where no policy could ask for that; None
    where the kernel does not show it.
    """

    option: Option
    reach: Reach
    encode: Callable[[Any], Fields]
    source: str
    check: Callable[[Any, HostFacts], str | None] = accept_anything
    read: Callable[[OpenSocket], Any] | None = None

    @property
    def name(self) -> str:
        """The noun that names the policy key, the object file, the program and the metric label."""
        return self.option.name
