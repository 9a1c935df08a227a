# SPDX-License-Identifier: Apache-2.0
"""Sysctls of network namespaces."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.errors import PliantError
from pliant.kernel import sysctls
from pliant.kernel.errors import KernelError
from pliant.kernel.namespaces import Namespaces
from pliant.plan.sysctls import SetSysctl


class Sysctls:
    """Writes sysctls, and keeps the account of what they were: before a write of what may be ours, after it of what is.

    What somebody else has written since the plan was made is never overwritten.
    """

    def __init__(self, ground: Ground) -> None:
        self._holdings = ground.holdings

    def steps(self) -> Steps:
        """The steps it takes."""
        return {SetSysctl: Taken(self._set, self._is_set)}

    def _set(self, step: SetSysctl) -> None:
        if step.value is not None:
            with Namespaces().entered(step.key.namespace) as is_there:
                if is_there:
                    self._write(step, step.value)
                elif step.holding:
                    raise KernelError(f"the network namespace of {step.key.name} is gone")
        self._holdings.put(step.key, step.holding)

    def _write(self, step: SetSysctl, value: str) -> None:
        now = sysctls.read(step.key.name)
        if now not in _expected(step):
            if step.holding:
                raise PliantError(
                    f"somebody else has just set the sysctl {step.key.name} to {now}",
                    remedy="look at who it was, and try again",
                )
            return  # it was to be given back, and has been taken
        if step.holding:
            ours = step.holding.ours | (step.held.ours if step.held else frozenset())
            self._holdings.put(step.key, replace(step.holding, ours=ours))
        try:
            if now != value:
                sysctls.write(step.key.name, value)
        except KernelError:
            with contextlib.suppress(
                KernelError
            ):  # it may have taken another value, which would seem foreign
                sysctls.write(step.key.name, now)
            raise

    def _is_set(self, step: SetSysctl) -> None:
        if self._holdings.all().get(step.key) != step.holding:
            raise KernelError(f"it was not recorded whose the sysctl {step.key.name} is")
        if step.value is None or step.holding is None:
            return
        with Namespaces().entered(step.key.namespace) as is_there:
            now = sysctls.read(step.key.name) if is_there else None
        if now != step.value:
            raise KernelError(f"the sysctl {step.key.name} reads {now}")


def _expected(step: SetSysctl) -> set[str | None]:
    """The values that the sysctl may have just before the step, or when it was taken half."""
    held = (holding for holding in (step.held, step.holding) if holding)
    return {step.found, step.value}.union(*(holding.ours for holding in held))
