# SPDX-License-Identifier: Apache-2.0
"""IPsec (ip-xfrm(8)): whether a network namespace has policies that packets must be held against."""

from __future__ import annotations

import errno as codes
import struct
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.netlink import NETLINK_XFRM, Monitor, Netlink, attributes

_GETSPDINFO, _GETDEFAULT = 37, 40
_SPD_INFO = 1
_GROUPS = (4,)  # XFRMNLGRP_POLICY, which also tells of the default
_COUNTS = struct.Struct("=6I")  # struct xfrmu_spdinfo
_BLOCK = 1


@dataclass(frozen=True, slots=True)
class XfrmPolicies:
    """How many IPsec policies there are for packets that come in, go out and are forwarded.

    ``blocks``: what no policy is about is blocked, by the default set for one direction at least.
    """

    inbound: int = 0
    outbound: int = 0
    forwarded: int = 0
    blocks: bool = False

    @property
    def apply(self) -> bool:
        """Whether any forwarded packet must be held against a policy."""
        return bool(self.inbound or self.outbound or self.forwarded or self.blocks)


def read_policies(netns: Path | int | None = None) -> XfrmPolicies:
    """Count the policies; none on a kernel without IPsec. Raises :class:`KernelError`."""
    try:
        with Netlink(NETLINK_XFRM, netns) as netlink:
            answer = netlink.ask(_GETSPDINFO, struct.pack("=I", 0), "count the IPsec policies")
            counts = _COUNTS.unpack_from(attributes(answer, 4)[_SPD_INFO])
            return XfrmPolicies(counts[0], counts[1], counts[2], _blocks(netlink))
    except NotSupported:
        return XfrmPolicies()


def monitor(netns: Path | int | None = None, *, receive_bytes: int) -> Monitor | None:
    """Listen to changes of the policies; None on a kernel without IPsec."""
    try:
        return Monitor(NETLINK_XFRM, _GROUPS, netns, receive_bytes=receive_bytes)
    except NotSupported:
        return None


def _blocks(netlink: Netlink) -> bool:
    try:
        answer = netlink.ask(_GETDEFAULT, bytes(4), "read the default of the IPsec policies")
    except KernelError as error:
        if error.errno == codes.EINVAL:  # before Linux 5.15 there was none
            return False
        raise
    return _BLOCK in bytes(answer[:3])
