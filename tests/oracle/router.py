# SPDX-License-Identifier: Apache-2.0
"""One of the two routers: its ports, what is sent to it and what it sends, its counters and the state it holds."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pliant.kernel.links import Link, XdpMode, attach_xdp
from pliant.kernel.programs import Program
from pliant.lab import Host
from pliant.lab.interface import switch_aggregation, switch_offloads
from tests.oracle.batches import Batches
from tests.oracle.case import Case, Frame
from tests.oracle.neighbours import read_neighbours
from tests.oracle.settings import Settings

PORTS = 4
FIRST_IFINDEX = 100  # above what a new namespace has of its own
MTU = 1500
PEER_MTU = 3000  # so that the peers neither refuse to send nor to take what the router's own MTU is to decide
_ETH_P_ALL = 3
_PACKET_IGNORE_OUTGOING = 23
_QUEUE_BYTES = 1 << 24
_FRAME_BYTES_MAX = 1 << 16
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914  # SIOCGIFFLAGS, SIOCSIFFLAGS
_FLAGS = struct.Struct("=16sH22x")  # struct ifreq
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_RTF_LOCAL = 0x80000000
_WORKER_S = 0.0001  # a worker needs the CPU, too

# What would make two runs of the same packets differ, and has nothing to do with the way they take.
STEADY = {
    "net.ipv4.icmp_ratemask": "0",  # errors are limited by the clock
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_msgs_per_sec": "1000000000",
    "net.ipv4.icmp_msgs_burst": "1000000000",
    "net.ipv6.icmp.ratelimit": "0",
    "net.ipv6.icmp.ratemask": "",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    # IPv6 begins anew on a port whose MTU was too small for it, with the defaults: no address of its own making.
    "net.ipv6.conf.default.addr_gen_mode": "1",
    "net.ipv6.conf.default.dad_transmits": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    # What the router puts together for itself: half a datagram is given up 30 or 60 s later, which its sender is told
    # in another case, and until then the other half may come with one. No memory for it, no datagram.
    "net.ipv4.ipfrag_low_thresh": "0",
    "net.ipv4.ipfrag_high_thresh": "0",
    "net.ipv6.ip6frag_low_thresh": "0",
    "net.ipv6.ip6frag_high_thresh": "0",
}
STEADY_OF_NEIGHBOURS = {
    "retrans_time_ms": "60000",  # no second request while a case lasts
    "delay_first_probe_time": "60",
    "gc_stale_time": "600",
    # One packet waits for an address, the last. More would be counted with the kernel's overhead, which is higher for
    # what XDP has seen; and ICMP errors that wait take up room in a socket that all namespaces share.
    "unres_qlen_bytes": "0",
}

# The settings cases may change, and what they are otherwise.
SETTINGS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "1",
    "net.ipv4.conf.all.src_valid_mark": "0",
    "net.ipv4.conf.all.accept_local": "0",
    "net.ipv4.fib_multipath_hash_policy": "0",
    "net.ipv6.fib_multipath_hash_policy": "0",
    "net.ipv4.fib_multipath_use_neigh": "0",
    "net.ipv4.ip_forward_use_pmtu": "0",
}
SETTINGS_OF_PORTS = {
    "net.ipv4.conf.{}.forwarding": "1",
    "net.ipv4.conf.{}.rp_filter": "0",
    "net.ipv4.conf.{}.accept_redirects": "0",
    "net.ipv4.conf.{}.send_redirects": "1",
    "net.ipv4.conf.{}.accept_local": "0",
    "net.ipv4.conf.{}.route_localnet": "0",
    "net.ipv4.conf.{}.ignore_routes_with_linkdown": "0",
    "net.ipv6.conf.{}.disable_ipv6": "0",
    "net.ipv6.conf.{}.forwarding": "1",
    "net.ipv6.conf.{}.accept_ra": "0",
    "net.ipv6.conf.{}.accept_redirects": "0",
    "net.ipv6.conf.{}.accept_dad": "0",
    "net.ipv6.conf.{}.dad_transmits": "0",
    "net.ipv6.conf.{}.ignore_routes_with_linkdown": "0",
}
TABLES = ("main", "100", "101")
TOOLS = {"-6": ["ip", "-6"], "-4": ["ip", "-4"], "ip": ["ip"], "bridge": ["bridge"]}
"""Batches of each run by a process of their own; which one a command begins with."""
NEXT_HOPS = {"-4": (40, 41, 49), "-6": (60, 61, 69)}
"""Two next hops of a family, and a group of both."""


def port_name(port: int) -> str:
    return f"p{port}"


def port_mac(port: int) -> bytes:
    return bytes((2, 0, 0, 0, 1, port))


def peer_mac(port: int) -> bytes:
    return bytes((2, 0, 0, 0, 2, port))


class Counters(NamedTuple):
    """A port's, as ``ip -s link`` has them."""

    packets_in: int
    bytes_in: int
    errors_in: int
    dropped_in: int
    packets_out: int
    bytes_out: int
    errors_out: int
    dropped_out: int


class Router:
    """A router whose ports' peers are in the tester's namespace, each with a socket that sends and sees all."""

    def __init__(self, host: Host, tester: Host, accept: Program) -> None:
        self.host, self._tester = host, tester
        self._held = contextlib.ExitStack()
        self._settings = self._held.enter_context(contextlib.closing(Settings(host)))
        self._tools = {
            name: self._held.enter_context(contextlib.closing(Batches(host, argv)))
            for name, argv in TOOLS.items()
        }
        self._set(STEADY.items())
        self._make_ports()
        self.sockets = [self._listen(port, accept) for port in range(PORTS)]
        with host.inside():
            self._inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._held.callback(self._inside.close)
        self._clear()
        self._empty = self.routes()

    def _peer(self, port: int) -> str:
        return f"{self.host.name}{port}"

    def _mac(self, address: bytes) -> str:
        return address.hex(":")

    def _make_ports(self) -> None:
        for port in range(PORTS):
            name, peer = port_name(port), self._peer(port)
            self.host.ip(
                f"link add {name} index {FIRST_IFINDEX + port} address {self._mac(port_mac(port))} type veth peer "
                f"name {peer} address {self._mac(peer_mac(port))} mtu {PEER_MTU} netns {self._tester.pid}"
            )
            self._tester.sysctl(f"net.ipv6.conf.{peer}.disable_ipv6", "1")
            self._tester.ip(f"link set {peer} arp off up")
            with self.host.inside():
                switch_offloads(name, on=False)
                switch_aggregation(name, on=False)
            with self._tester.inside():
                switch_offloads(peer, on=False)
            self.host.ip(f"link set {name} addrgenmode none up")

    def _listen(self, port: int, accept: Program) -> socket.socket:
        with self._tester.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._held.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, 33, _QUEUE_BYTES)  # SO_RCVBUFFORCE
            sock.setsockopt(263, _PACKET_IGNORE_OUTGOING, 1)  # SOL_PACKET
            sock.bind((self._peer(port), _ETH_P_ALL))
            sock.setblocking(False)
            index = socket.if_nametoindex(self._peer(port))
            self.attach_to(accept, index)
        return sock

    def attach_to(self, program: Program, ifindex: int) -> Link:
        """Attach for as long as the router lives; in the calling thread's namespace."""
        return self._held.enter_context(attach_xdp(program, ifindex, XdpMode.NATIVE))

    def close(self) -> None:
        """Detach and close everything."""
        self._held.close()

    # Configuration

    def reset(self) -> None:
        """As before any case; no routes, rules, addresses or neighbours."""
        for _ in range(5):  # a flush gives up when one of two routes of a prefix takes the other along
            refused = self._clear()
            if self.routes() == self._empty:
                self._settle_links()
                return
            self._delete_local_routes()
        left = self.host.run(["ip", "-6", "-d", "route", "show", "table", "all"]).stdout
        raise AssertionError(f"routes of a case are left on {self.host.name}: {left}, {refused}")

    def _delete_local_routes(self) -> None:
        """Those of a case: ip(8) passes by IPv6 local routes when it flushes the main table."""
        shown = self.host.run(["ip", "-6", "-d", "route", "show", "table", "all", "type", "local"]).stdout
        of_case = (line for line in shown.splitlines() if any(f" table {table} " in line for table in TABLES))
        self.apply(f"-6 route del {line.split(' proto ')[0]}" for line in of_case)

    def _clear(self) -> str:
        names = [port_name(port) for port in range(PORTS)]
        commands = []
        commands += [f"-6 link set {name} mtu {MTU} up" for name in names]
        for family in ("-4", "-6"):
            commands += [f"{family} address flush dev {name}" for name in names]
            commands += [f"{family} nexthop del id {number}" for number in NEXT_HOPS[family]]
            commands += [f"{family} route flush table {table}" for table in TABLES]
            commands += [f"{family} neigh flush dev {name} nud all" for name in names]
            commands += [f"{family} rule flush", f"{family} rule add pref 32766 lookup main"]
            commands += [f"{family} route flush cache"]
        commands += ["-4 rule add pref 32767 lookup default"]
        refused = self.apply(commands)
        self._set(SETTINGS.items())
        self._set((n.format(name), v) for name in names for n, v in SETTINGS_OF_PORTS.items())
        # For so long an answer does not replace the address that is known (1/100 s): else it goes by the clock.
        self._set((f"net.ipv4.neigh.{name}.locktime", "6000") for name in names)
        for place in (f"{family}.neigh.{name}" for family in ("ipv4", "ipv6") for name in names):
            self._set((f"net.{place}.{setting}", value) for setting, value in STEADY_OF_NEIGHBOURS.items())
        return refused

    def configure(self, case: Case) -> str:
        """Make the router what a case says; returns what ip(8) refused."""
        refused = self._settings.set(case.sysctls) + self.apply(case.commands)
        self._settle_addresses()
        return refused

    def change(self, command: str) -> str:
        """Make one change; returns what ip(8) refused."""
        if command.startswith("sysctl "):
            name, _, value = command.removeprefix("sysctl ").partition("=")
            refused = self._settings.set([(name, value)])
        else:
            refused = self.apply([command])
        if " link set " in command:
            self._settle_links()
        self._settle_addresses()
        return refused

    def _settle_links(self) -> None:
        """Wait until both ends of all links know whether the other is up.

        The kernel tells them later, from a worker, and until then the tester's end sends nothing, or sends what is
        counted as dropped.
        """
        deadline = time.monotonic() + 10
        for port, sock in enumerate(self.sockets):
            while True:
                mine, other = _flags(self._inside, port_name(port)), _flags(sock, self._peer(port))
                is_up, runs = bool(mine & _IFF_UP), bool(mine & _IFF_RUNNING)
                if runs == is_up == bool(other & _IFF_RUNNING):
                    break
                assert time.monotonic() < deadline, (
                    f"{port_name(port)} and its peer disagree: {mine:x}, {other:x}"
                )
            self._wait_for_workers(sock, self._peer(port), other)

    def _settle_addresses(self) -> None:
        """Wait until packets to all IPv6 addresses of its own are its own.

        An address is there at once, but the kernel makes the route to it later, from a worker.
        """
        deadline = time.monotonic() + 10
        while absent := self._addresses_of_ports() - self._local_addresses():
            assert time.monotonic() < deadline, f"{self.host.name} has no routes to {absent} of its own"
            select.select([], [], [], _WORKER_S)
        flags = _flags(self._inside, port_name(0))
        self._wait_for_workers(self._inside, port_name(0), flags)

    def _wait_for_workers(self, sock: socket.socket, name: str, flags: int) -> None:
        """A worker holds the kernel's lock for changes of interfaces until it has done."""
        fcntl.ioctl(sock, _SET_FLAGS, _FLAGS.pack(name.encode(), flags))

    def _addresses_of_ports(self) -> set[tuple[str, str]]:
        lines = Path(f"/proc/{self.host.pid}/net/if_inet6").read_text().splitlines()
        return {(li[0], li[5]) for li in map(str.split, lines) if li[5] != "lo"}

    def _local_addresses(self) -> set[tuple[str, str]]:
        lines = Path(f"/proc/{self.host.pid}/net/ipv6_route").read_text().splitlines()
        routes = (line.split() for line in lines)
        return {(li[0], li[9]) for li in routes if li[1] == "80" and int(li[8], 16) & _RTF_LOCAL}

    def apply(self, commands: Iterable[str]) -> str:
        """Run commands, each of which begins with a family, IPv6's first; returns what ip(8) refused of them."""
        commands, refused = list(commands), ""
        for family in ("-6", "-4"):  # in a batch ip(8) takes no options
            mine = [command.removeprefix(family) for command in commands if command.startswith(family)]
            if mine:
                refused += self._tools[family].run(mine)
        return refused

    def _set(self, settings: Iterable[tuple[str, str]]) -> None:
        absent = self._settings.set(settings)
        assert not absent, absent

    # Packets

    def send(self, frame: Frame) -> bool:
        """Send a frame to a port; the kernel has usually done with it when this returns."""
        try:
            self.sockets[frame.port].send(frame.data)
        except OSError:  # longer than the peer sends, or shorter than Ethernet's header
            return False
        return True

    def received(self) -> Iterator[Frame]:
        """What has come out since."""
        for port, sock in enumerate(self.sockets):
            with contextlib.suppress(BlockingIOError):
                while True:
                    yield Frame(port, sock.recv(_FRAME_BYTES_MAX))

    # What it has counted, and what it holds

    def counters(self) -> list[Counters]:
        """Of each port."""
        lines = Path(f"/proc/{self.host.pid}/net/dev").read_text().splitlines()[2:]
        found = {
            name.strip(): [int(n) for n in rest.split()]
            for name, _, rest in (li.partition(":") for li in lines)
        }
        chosen = ([found[port_name(port)][at] for at in (0, 1, 2, 3, 8, 9, 10, 11)] for port in range(PORTS))
        return [Counters(b[1], b[0], b[2], b[3], b[5], b[4], b[6], b[7]) for b in chosen]

    def protocol_counters(self) -> dict[str, int]:
        """Of IPv4 and IPv6."""
        six = Path(f"/proc/{self.host.pid}/net/snmp6").read_text().split()
        return self.host.counters() | {n: int(v) for n, v in zip(six[::2], six[1::2], strict=True)}

    def routes(self) -> frozenset[str]:
        """All tables', in the kernel's words, without counters."""
        four = Path(f"/proc/{self.host.pid}/net/fib_trie").read_text().splitlines()
        six = Path(f"/proc/{self.host.pid}/net/ipv6_route").read_text().splitlines()
        return frozenset(line for line in four if "host" in line or "link" in line or "universe" in line) | {
            " ".join((*line.split()[:6], line.split()[-1])) for line in six
        }

    def held(self) -> set[tuple[str, ...]]:
        """Who the neighbours are, by which port and address, and whether that is known."""
        found = read_neighbours(self.host.netns_path)
        # Multicast groups come with the kernel's own reports, at random times; what has failed it forgets at any time.
        listed = [n for n in found if n.ifindex >= FIRST_IFINDEX and not n.address.startswith(("ff", "224."))]
        return {
            (n.address, port_name(n.ifindex - FIRST_IFINDEX), n.station, _steadied(n.state))
            for n in listed
            if n.state != "FAILED"
        }


def _flags(sock: socket.socket, name: str) -> int:
    [_, found] = _FLAGS.unpack(fcntl.ioctl(sock, _GET_FLAGS, _FLAGS.pack(name.encode(), 0)))
    return int(found)


def _steadied(state: str) -> str:
    """How sure the kernel is of an address goes by the clock, and by packets that it sees: one a second is enough."""
    return "known" if state in ("REACHABLE", "STALE", "DELAY", "PROBE") else state
