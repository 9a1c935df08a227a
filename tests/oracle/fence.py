# SPDX-License-Identifier: Apache-2.0
"""How to know that a packet that has not come out will not come out."""

from __future__ import annotations

import os
import socket

from pliant.kernel.links import XdpMode, attach_xdp
from pliant.kernel.programs import Program
from pliant.lab import Host

_ETH_P_ALL = 3
_NAMES = ("fence0", "fence1")
_HOPS = 4
"""A packet is taken up this often at most: by the router's port, by the peer, and what it makes the kernel send."""
_POLLED = 64
"""Packets that are taken from a queue when its turn has come."""
_FRAME = bytes(12) + b"\x88\xb5" + bytes(46)  # an EtherType for experiments (IEEE 802)


class Fence:
    """A link whose packets queue up behind all that this CPU has been given before.

    The CPU takes its queues up in turn, each for 64 packets at most: when a packet has come through, each queue that
    was there before has been taken up once. For this all packets must be sent by the same CPU, which is why the
    calling thread is kept on one.
    """

    def __init__(self, host: Host, accept: Program) -> None:
        self._allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {_chosen(self._allowed)})
        host.ip(f"link add {_NAMES[0]} type veth peer name {_NAMES[1]}")
        with host.inside():
            for name in _NAMES:
                host.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
                host.ip(f"link set {name} arp off up")
            self._link = attach_xdp(accept, socket.if_nametoindex(_NAMES[1]), XdpMode.NATIVE)
            self._to, self._from = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in _NAMES)
            self._to.bind((_NAMES[0], 0))
            self._from.bind((_NAMES[1], _ETH_P_ALL))
        self._from.settimeout(10)

    def wait(self, packets: int) -> None:
        """Return when what was sent before has come out, if it ever will: at most so many ``packets`` a router.

        Each may have come in together with an answer of the router's own.
        """
        for _ in range(_HOPS * (-(-2 * packets // _POLLED) + 1)):
            self.taken_up()

    def taken_up(self) -> None:
        """Return when the routers' ports have taken up what was sent before, if it was less than 64 packets.

        A CPU that is busy leaves them for later, and takes up one port's after the other's, in whichever order they
        came; mostly it has been done when a packet has been sent, and this costs a few microseconds.
        """
        self._to.send(_FRAME)
        self._from.recv(len(_FRAME))

    def close(self) -> None:
        """Take it away, and let the thread run anywhere."""
        for held in (self._to, self._from, self._link):
            held.close()
        os.sched_setaffinity(0, self._allowed)


def _chosen(allowed: set[int]) -> int:
    """Where several processes of pytest-xdist run oracles, each has a CPU of its own, if there are as many."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return sorted(allowed)[int(worker) % len(allowed)]
