# SPDX-License-Identifier: Apache-2.0
"""Whether a program is attached to an interface of this network namespace.

A link names its interface by an index alone. One that has been moved to another namespace, and the link with it, keeps
its index as a rule, and another interface may have the same one here.
"""

from __future__ import annotations

from pliant.closing import Closable
from pliant.kernel.interface_programs import tcx_programs
from pliant.kernel.rtnetlink import Rtnetlink
from pliant.observe.fastpath import Mode, Port
from pliant.observe.network import Facts


class Attached(Closable):
    """Asks the kernel about the calling thread's namespace, but for what is in ``facts`` of it already."""

    def __init__(self, facts: Facts | None = None) -> None:
        known = facts or Facts()
        self._known = {
            (at.index, found.mode, found.program_id) for at in known.interfaces for found in at.xdp
        }
        self._known |= {
            (at.interface, Mode.TC.value, at.program_id) for at in known.tcx if at.direction == "ingress"
        }
        self._rtnetlink: Rtnetlink | None = None

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._rtnetlink is not None:
            self._rtnetlink.close()

    def has(self, port: Port, program: int) -> bool:
        """Whether an interface has a program of a number. Raises :class:`KernelError`."""
        return (port.ifindex, port.mode.value, program) in self._known or program in self._programs(port)

    def _programs(self, port: Port) -> set[int]:
        if port.mode is Mode.TC:
            return {at.program_id for at in tcx_programs(port.ifindex) if at.direction == "ingress"}
        if self._rtnetlink is None:
            self._rtnetlink = Rtnetlink()
        at = self._rtnetlink.interface(port.ifindex)
        return {found.program_id for found in at.xdp if found.mode == port.mode} if at else set()
