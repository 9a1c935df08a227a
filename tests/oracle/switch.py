# SPDX-License-Identifier: Apache-2.0
"""One of two hosts with bridges: a router's ports, made ports of bridges, and what the bridges know."""

from __future__ import annotations

import itertools
import json
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pliant.kernel.netlink import NETLINK_ROUTE, Netlink, attributes
from tests.oracle.case import Case
from tests.oracle.router import FIRST_IFINDEX, MTU, PORTS, Router, port_mac, port_name

BRIDGES = ("br0", "br1")
ADDRESS = "10.9.0.1"
"""The first bridge's own, which answers pings."""
PINGING = "10.9.0.2"
_FIRST_BRIDGE = FIRST_IFINDEX + 20
_GETLINK, _LINK = 18, struct.Struct("=BxHiII")  # struct ifinfomsg
_UP, _CARRIER = 0x1, 0x10000  # IFF_UP, IFF_LOWER_UP
_OPERATING, _OPERATES = 16, 6  # IFLA_OPERSTATE, IF_OPER_UP
_SETTINGS = {
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}


def bridge_mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 3, number))


def station(port: int, number: int) -> bytes:
    """The address of a host beyond a port; others may use it, as when it moves."""
    return bytes((2, 0, 0, 0, 16 + port, number))


class Switch(Router):
    """Case by case its bridges are made anew: then nothing is known of any station."""

    def _clear(self) -> str:
        commands = [
            f"ip link set {port_name(port)} nomaster promisc off mtu {MTU} up" for port in range(PORTS)
        ]
        commands += [
            f"ip link set {port_name(port)} address {self._mac(port_mac(port))}" for port in range(PORTS)
        ]
        for number, name in enumerate(BRIDGES):
            commands.append(f"ip link del {name}")
            commands.append(
                f"ip link add {name} index {_FIRST_BRIDGE + number} address {self._mac(bridge_mac(number))} type "
                "bridge stp_state 0 mcast_snooping 0"
            )
        refused = self.apply(commands)
        self._set(_SETTINGS.items())
        names = [*BRIDGES, *(port_name(port) for port in range(PORTS))]
        self._set((f"net.ipv6.conf.{name}.disable_ipv6", "1") for name in names)
        self.apply(
            [
                f"ip address add {ADDRESS}/24 dev {BRIDGES[0]}",
                f"ip neigh replace {PINGING} lladdr {self._mac(station(0, 0))} dev {BRIDGES[0]} nud permanent",
                *(f"ip link set {name} up" for name in BRIDGES),
            ]
        )
        return refused

    def apply(self, commands: Iterable[str]) -> str:
        """Run commands of ip(8) and bridge(8) in their order; returns what was refused of them."""
        refused = ""
        for tool, mine in itertools.groupby(commands, lambda command: command.partition(" ")[0]):
            given = [command.partition(" ")[2] for command in mine]
            refused += self._tools[tool].run(given)
        return refused

    def configure(self, case: Case) -> str:
        """See :class:`Router`."""
        refused = super().configure(case)
        self._settle()
        return refused

    def change(self, command: str) -> str:
        """See :class:`Router`."""
        refused = super().change(command)
        self._settle()
        return refused

    def _settle(self) -> None:
        """Wait until bridges that have a port to send by do send: the kernel sees to that by and by."""
        deadline = time.monotonic() + 10
        with Netlink(NETLINK_ROUTE, self.host.netns_path) as netlink:
            while any(_is_waking(netlink, _FIRST_BRIDGE + number) for number in range(len(BRIDGES))):
                assert time.monotonic() < deadline, "a bridge does not come up"

    def held(self) -> set[tuple[str, ...]]:
        """What the bridges know of stations, and what they have counted."""
        found: list[dict[str, Any]] = json.loads(
            self.host.run(["bridge", "-j", "fdb", "show"]).stdout or "[]"
        )
        entries = {
            (
                entry["mac"],
                entry["ifname"],
                entry.get("master", ""),
                entry.get("state", ""),
                str(entry["flags"]),
            )
            for entry in found
        }
        lines = Path(f"/proc/{self.host.pid}/net/dev").read_text().splitlines()
        return entries | {tuple(line.split()) for line in lines if line.strip().startswith(BRIDGES)}


def _is_waking(netlink: Netlink, ifindex: int) -> bool:
    """Whether a bridge is up, and its carrier is not yet what it is said to be."""
    found = netlink.ask(_GETLINK, _LINK.pack(0, 0, ifindex, 0, 0), "ask for a bridge")
    flags = _LINK.unpack_from(found)[3]
    [state] = attributes(found, _LINK.size)[_OPERATING]
    return bool(flags & _UP) and bool(flags & _CARRIER) != (state == _OPERATES)
