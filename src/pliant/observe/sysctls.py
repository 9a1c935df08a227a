# SPDX-License-Identifier: Apache-2.0
"""What the sysctls of network namespaces are, and which of them are ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pliant.kernel import sysctls
from pliant.kernel.errors import KernelError
from pliant.kernel.namespaces import Namespaces
from pliant.policy.sysctls import SysctlKey


@dataclass(frozen=True, slots=True)
class Holding:
    """A sysctl that is ours: what it was before us, the values that we have written, and for which policy.

    There are two values of ours while one is being replaced by the other.
    """

    before: str
    ours: frozenset[str]
    policy: str


@dataclass(frozen=True, slots=True)
class SysctlState:
    """What a sysctl is now (None: its namespace or it is not there), and how we hold it, if we do."""

    value: str | None
    holding: Holding | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else has written it since we did: it is neither ours nor what it was before us."""
        held = self.holding
        return held is not None and self.value is not None and self.value not in (held.before, *held.ours)


def read_sysctls(
    keys: Iterable[SysctlKey], holdings: Mapping[SysctlKey, Holding], namespaces: Namespaces
) -> dict[SysctlKey, SysctlState]:
    """The state of some sysctls, and of all that are held."""
    by_namespace: dict[int, list[SysctlKey]] = {}
    for key in sorted({*keys, *holdings}):
        by_namespace.setdefault(key.namespace, []).append(key)
    found = {}
    for cookie, inside in by_namespace.items():
        with namespaces.entered(cookie) as is_there:
            for key in inside:
                found[key] = SysctlState(_read(key.name) if is_there else None, holdings.get(key))
    return found


def _read(name: str) -> str | None:
    try:
        return sysctls.read(name)
    except KernelError:
        return None
