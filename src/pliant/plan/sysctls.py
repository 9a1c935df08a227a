# SPDX-License-Identifier: Apache-2.0
"""The step that writes a sysctl and keeps account of whose it is, and which of them a plan needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pliant.observe.sysctls import Holding, SysctlState
from pliant.plan.steps import Step
from pliant.policy.sysctls import SysctlKey, Wanted


@dataclass(frozen=True, slots=True)
class SetSysctl(Step):
    """Write a sysctl, or leave it as it is (``value`` is None), and hold it from then on as ``holding`` says.

    ``found`` and ``held`` are what was before; None where it, or no holding, was there. With no ``holding`` it is
    not ours any more.
    """

    key: SysctlKey
    found: str | None
    value: str | None
    held: Holding | None
    holding: Holding | None

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        name = self.key.name
        if self.holding:
            if self.value is None:
                return f"note that the sysctl {name} is kept at {self.found} for {self.holding.policy}"
            return f"set the sysctl {name} from {self.found} to {self.value}"
        if self.value is not None:
            return f"set the sysctl {name} from {self.found} back to {self.value}"
        return f"leave the sysctl {name} at {self.found}" if self.found else f"forget the sysctl {name}"

    def undo(self) -> SetSysctl:
        """Write what was found, and hold it as it was held."""
        back = None if self.value is None else self.found
        now = self.found if self.value is None else self.value
        return SetSysctl(f"undo: {self.sentence}", self.key, now, back, self.holding, self.held)


def sysctl_changes(
    found: Mapping[SysctlKey, SysctlState], wanted: Mapping[SysctlKey, Wanted]
) -> Iterator[SetSysctl]:
    """The steps from what sysctls are to what they should be; those that somebody else has written are left alone."""
    for key in sorted(found.keys() | wanted.keys()):
        state = found.get(key, SysctlState(None))
        want = wanted.get(key)
        step = _given_up(key, state) if want is None or state.value is None else _taken(key, state, want)
        if step is not None:
            yield step


def _taken(key: SysctlKey, state: SysctlState, want: Wanted) -> SetSysctl | None:
    held, value = state.holding, state.value
    assert value is not None
    holding = Holding(held.before if held else value, frozenset({want.value}), want.policy)
    if value == want.value:
        reason = f"it has the value that policy '{want.policy}' asks for"
        return SetSysctl(reason, key, value, None, held, holding) if held != holding else None
    if state.is_foreign:
        return None
    reason = f"policy '{want.policy}' asks for it"
    return SetSysctl(reason, key, value, want.value, held, holding)


def _given_up(key: SysctlKey, state: SysctlState) -> SetSysctl | None:
    held, value = state.holding, state.value
    if held is None:
        return None
    if value is None:
        return SetSysctl("its network namespace is gone", key, None, None, held, None)
    if state.is_foreign:
        return SetSysctl("somebody else has set it since", key, value, None, held, None)
    back = held.before if value != held.before else None
    return SetSysctl("no policy asks for it any more", key, value, back, held, None)
