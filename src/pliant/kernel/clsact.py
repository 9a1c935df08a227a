# SPDX-License-Identifier: Apache-2.0
"""Attaching to traffic control by a filter on the clsact qdisc, for kernels before tcx (Linux 6.6).

Unlike a link, a filter lives until it is removed, with its interface, and has no pin.
"""

from __future__ import annotations

import errno as codes
from dataclasses import dataclass
from typing import Any, Literal

from pliant.kernel.errors import kernel_error
from pliant.kernel.programs import Program

_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_PRIORITY = 50
_HANDLE = 0x1


@dataclass(frozen=True, slots=True)
class ClsactFilter:
    """A program attached by a clsact filter; ``priority`` and ``handle`` name the filter at its hook."""

    ifindex: int
    direction: Literal["ingress", "egress"]
    priority: int = _PRIORITY
    handle: int = _HANDLE

    def update(self, new: Program, old: Program | None = None) -> None:
        """Replace the program in place; ``old`` is taken for the sake of :meth:`Link.update`, not checked."""
        self._filter("replace-filter", new)

    def detach(self) -> None:
        """Remove the filter; the qdisc stays, for others may use it."""
        self._change("del-filter", f"remove the filter of interface {self.ifindex}")

    def _filter(self, command: str, program: Program) -> None:
        action = f"attach {program.name} to the {self.direction} of interface {self.ifindex}"
        named = {"fd": program.fileno(), "name": program.name, "direct_action": True}
        self._change(command, action, **named)

    def _change(self, command: str, action: str, **given: Any) -> None:
        place = {"parent": _PARENTS[self.direction], "prio": self.priority}
        _traffic_control(command, "bpf", self.ifindex, action, handle=self.handle, **(place | given))


def attach_clsact(program: Program, ifindex: int, direction: Literal["ingress", "egress"]) -> ClsactFilter:
    """Attach to an interface, adding the clsact qdisc where it is missing."""
    action = f"add the clsact qdisc to interface {ifindex}"
    _traffic_control("add", "clsact", ifindex, action, ignore=codes.EEXIST)
    attached = ClsactFilter(ifindex, direction)
    attached._filter("add-filter", program)
    return attached


def _traffic_control(
    command: str, kind: str, ifindex: int, action: str, *, ignore: int | None = None, **given: Any
) -> None:
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as netlink:
        try:
            netlink.tc(command, kind, ifindex, **given)
        except NetlinkError as error:
            if error.code != ignore:
                raise kernel_error(error.code, action) from error
