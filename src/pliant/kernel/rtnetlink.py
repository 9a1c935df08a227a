# SPDX-License-Identifier: Apache-2.0
"""What rtnetlink(7) knows of one network namespace: interfaces, addresses, rules, and what routes there may be."""

from __future__ import annotations

import errno as codes
import math
import socket
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import (
    DONE,
    ERROR,
    NETLINK_ROUTE,
    Monitor,
    Netlink,
    attribute,
    attributes,
    drop_without,
)
from pliant.kernel.rtnetlink_links import INFO, Interface, parse_interface
from pliant.kernel.rtnetlink_rules import (
    ADDRESS,
    QDISC,
    RULE,
    Address,
    Qdisc,
    Rule,
    TcFilter,
    parse_address,
    parse_filter,
    parse_qdisc,
    parse_rule,
)

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 20, 21, 24, 25
NEWRULE, DELRULE, NEWQDISC, DELQDISC, NEWTFILTER, DELTFILTER = 32, 33, 36, 37, 44, 45
NEWNETCONF, DELNETCONF, NEWNEXTHOP, DELNEXTHOP = 80, 81, 104, 105
_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE = 18, 22, 26, 30, 34
_GETQDISC, _GETTFILTER, _GETNETCONF, _GETNEXTHOP = 38, 46, 82, 106

_GROUPS = {
    "link": 1, "tc": 4, "address4": 5, "route4": 7, "rule4": 8, "address6": 9, "route6": 11, "interface6": 12,
    "rule6": 19, "netconf4": 24, "netconf6": 25, "nexthop": 32,
}  # fmt: skip
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg
_ATTRIBUTE = struct.Struct("=HH")
_LENGTH_AND_TYPE = struct.Struct("=IH")
_HEADER_BYTES = 16  # struct nlmsghdr
_NESTED = 0x8000  # NLA_F_NESTED
_NEXTHOP = struct.Struct("=BBBBI")  # struct nhmsg
_METRICS, _MULTIPATH, _ENCAPSULATION, _NEXTHOP_ID = 8, 9, 22, 30  # RTA_*
_SPECIAL = frozenset(flag | kind for flag in (0, _NESTED) for kind in (_METRICS, _MULTIPATH, _ENCAPSULATION))
_MTU = 2  # RTAX_MTU
_NEXTHOP_GROUP, _NEXTHOP_ENCAPSULATION = 2, 8  # NHA_*
_WITHOUT_COUNTERS = attribute(29, struct.pack("=I", 1 << 3))  # IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_REACHABLE = {0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe",
              0x20: "failed", 0x40: "noarp", 0x80: "permanent"}  # fmt: skip
_SELF = 0x02
_ALL = -1
_FORWARDING, _RP_FILTER = 2, 3  # NETCONFA_*


NO_MTU = 0xFFFF
"""More than any packet has."""


@dataclass(frozen=True, slots=True)
class RouteKinds:
    """Whether any route has several ways (multipath), and whether any encapsulates (a lightweight tunnel).

    ``mtu4`` and ``mtu6`` are the smallest MTU that a route has as a metric of its own, ``NO_MTU`` where none has.
    ``shares_mtu6``: such an IPv6 route goes by a next hop object, which other routes may share.
    """

    multipath4: bool = False
    multipath6: bool = False
    encapsulation: bool = False
    mtu4: int = NO_MTU
    mtu6: int = NO_MTU
    shares_mtu6: bool = False

    def __or__(self, other: RouteKinds) -> RouteKinds:
        return RouteKinds(
            self.multipath4 or other.multipath4,
            self.multipath6 or other.multipath6,
            self.encapsulation or other.encapsulation,
            min(self.mtu4, other.mtu4),
            min(self.mtu6, other.mtu6),
            self.shares_mtu6 or other.shares_mtu6,
        )


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """An entry of a bridge's table of stations; ``port`` is the interface it is behind, 0 for the bridge's own."""

    bridge: int
    port: int
    mac: str
    vlan: int
    state: str
    is_learned_externally: bool


class Rtnetlink(Netlink):
    """Questions about one network namespace, the calling thread's when none is given.

    Its methods raise :class:`KernelError`.
    """

    def __init__(self, netns: Path | int | None = None) -> None:
        super().__init__(NETLINK_ROUTE, netns)
        self.netns = netns

    def interfaces(self) -> tuple[Interface, ...]:
        """Every interface, by index."""
        body = INFO.pack(0, 0, 0, 0, 0) + _WITHOUT_COUNTERS
        found = {i.index: i for i in map(parse_interface, self.dump(_GETLINK, body, "list the interfaces"))}
        return tuple(found[index] for index in sorted(found))

    def interface(self, index: int) -> Interface | None:
        """One interface; None when there is none of that index."""
        body = INFO.pack(0, 0, index, 0, 0) + _WITHOUT_COUNTERS
        try:
            return parse_interface(self.ask(_GETLINK, body, f"look at interface {index}"))
        except KernelError as error:
            if error.errno == codes.ENODEV:
                return None
            raise

    def addresses(self) -> tuple[Address, ...]:
        """Every address of every interface."""
        found = map(parse_address, self.dump(_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0), "list the addresses"))
        return tuple(sorted(set(found), key=lambda a: (a.interface, a.family, a.address, a.prefix_length)))

    def rules(self) -> tuple[Rule, ...]:
        """The policy rules of both families, in the order they are asked."""
        found: list[Rule] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            listed = [parse_rule(m) for m in self.dump(_GETRULE, body, "list the policy rules")]
            found += sorted(
                listed, key=lambda rule: rule.priority
            )  # stable: equal priorities keep their order
        return tuple(found)

    def qdiscs(self) -> tuple[Qdisc, ...]:
        """The kinds of queueing disciplines of each interface."""
        found = {parse_qdisc(m) for m in self.dump(_GETQDISC, QDISC.pack(0, 0, 0, 0, 0), "list the qdiscs")}
        return tuple(sorted(found, key=lambda q: (q.interface, q.is_ingress, q.kind)))

    def filters(self, index: int) -> tuple[TcFilter, ...]:
        """The filters at clsact or ingress of an interface; none when it is gone."""
        found: list[TcFilter] = []
        for direction, parent in _PARENTS.items():
            try:
                listed = self.dump(_GETTFILTER, QDISC.pack(0, index, 0, parent, 0), "list the tc filters")
            except KernelError as error:
                if error.errno not in (codes.ENODEV, codes.EINVAL):
                    raise
                continue
            found += [f for f in (parse_filter(m, direction) for m in listed) if f is not None]
        return tuple(dict.fromkeys(found))

    def defaults(self) -> dict[tuple[int, str], int]:
        """The settings for all interfaces that netconf tells: (4 or 6, ``forwarding`` or ``rp_filter``)."""
        found = {}
        for family, name in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            body = struct.pack("=Bxxx", family) + attribute(1, struct.pack("=i", _ALL))
            answer = attributes(self.ask(_GETNETCONF, body, "read the settings for all interfaces"), 4)
            for key, kind in (("forwarding", _FORWARDING), ("rp_filter", _RP_FILTER)):
                if kind in answer:
                    found[name, key] = struct.unpack_from("=i", answer[kind])[0]
        return found

    def neighbour_counts(self) -> dict[tuple[int, str], int]:
        """How many neighbours there are by family (4, 6) and state (reachable, stale, ...)."""
        counts: dict[tuple[int, str], int] = {}
        for family, name in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            for message in self.dump(_GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0), "list the neighbours"):
                state = _REACHABLE.get(_NEIGHBOUR.unpack_from(message)[2], "none")
                counts[name, state] = counts.get((name, state), 0) + 1
        return counts

    def fdb(self) -> tuple[FdbEntry, ...]:
        """The stations of all bridges."""
        found = []
        body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
        for message in self.dump(_GETNEIGH, body, "list the stations of the bridges"):
            _, port, state, flags, _ = _NEIGHBOUR.unpack_from(message)
            told = attributes(message, _NEIGHBOUR.size)
            if 2 not in told or (flags & _SELF and 9 not in told):  # an interface's own list, not a bridge's
                continue
            bridge = struct.unpack_from("=I", told[9])[0] if 9 in told else port
            vlan = struct.unpack_from("=H", told[5])[0] if 5 in told else 0
            mac = bytes(told[2]).hex(":")
            found.append(FdbEntry(bridge, 0 if port == bridge else port, mac, vlan,
                                  _REACHABLE.get(state, "none"), bool(flags & 0x10)))  # fmt: skip
        return tuple(found)


class RouteScan:
    """Runs through all next hops and routes, a little at a time, until there is nothing more to find out.

    A table that changes meanwhile is not read again: of what has changed there are messages.
    """

    def __init__(self, netns: Path | int | None = None) -> None:
        self._netns = netns
        self._found = RouteKinds()
        self._work = self._scan()

    def step(self, seconds: float = math.inf) -> RouteKinds | None:
        """Go on for about so long; what was found when that was the end, else None. Raises :class:`KernelError`."""
        deadline = time.monotonic() + seconds
        for _ in self._work:
            if time.monotonic() >= deadline:
                return None
        return self._found

    def close(self) -> None:
        """Give up."""
        self._work.close()

    def _scan(self) -> Generator[None, None, None]:
        with Rtnetlink(self._netns) as nexthops:
            self._next_hops(nexthops)
        yield
        for family in (socket.AF_INET, socket.AF_INET6):
            with Rtnetlink(self._netns) as routes:
                body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
                for data in routes.raw_dump(_GETROUTE, body, "list the routes"):
                    if self._look(data):
                        break
                    yield

    def _next_hops(self, netlink: Netlink) -> None:
        try:
            listed = netlink.dump(_GETNEXTHOP, _NEXTHOP.pack(0, 0, 0, 0, 0), "list the next hops")
        except KernelError as error:
            if error.errno != codes.EOPNOTSUPP:  # before Linux 5.3
                raise
            return
        for message in listed:
            self._found |= kinds_by_next_hop(message)

    def _look(self, data: bytes) -> bool:
        """Run over messages as quickly as Python can, for there may be a million; tell whether that was the end."""
        read, start = _ATTRIBUTE.unpack_from, 0
        while start < len(data):
            length, kind = _LENGTH_AND_TYPE.unpack_from(data, start)
            if kind in (DONE, ERROR):
                return True
            body, end = start + _HEADER_BYTES, start + length
            at = body + _ROUTE.size
            start += (length + 3) & ~3
            while at < end:
                size, kind = read(data, at)
                if kind in _SPECIAL:
                    self._found |= kinds_of_route(memoryview(data)[body:end])
                    break
                at += (size + 3) & ~3 or end
        return False


def route_kinds(netns: Path | int | None = None) -> RouteKinds:
    """What kinds of routes there are now. Raises :class:`KernelError`."""
    found = RouteScan(netns).step()
    assert found is not None
    return found


def _encapsulates(hops: memoryview) -> bool:
    at = 0
    while at + 8 <= len(hops):
        (length,) = struct.unpack_from("=H", hops, at)
        if length < 8:
            break
        if _ENCAPSULATION in attributes(hops[at : at + length], 8):
            return True
        at += (length + 3) & ~3
    return False


def monitor(netns: Path | int | None = None, *, receive_bytes: int, all_routes: bool = False) -> Monitor:
    """Listen to everything of this module that can change.

    Of routes only those with several ways, an encapsulation, metrics, or a next hop of its own are told, the others the
    kernel drops unqueued: a storm of them costs nothing here. ``all_routes`` leaves that filter out.
    """
    filtered = drop_without(
        (NEWROUTE, DELROUTE), _ROUTE.size, (_METRICS, _MULTIPATH, _ENCAPSULATION, _NEXTHOP_ID)
    )
    return Monitor(
        NETLINK_ROUTE,
        list(_GROUPS.values()),
        netns,
        receive_bytes=receive_bytes,
        chosen=() if all_routes else filtered,
    )


_INDEX = struct.Struct("=4xi")  # of struct ifaddrmsg and of struct tcmsg


def changed_interface(body: memoryview, kind: int) -> int | None:
    """The index of the interface that is another after what a message tells; None for none, or one that is not told.

    Of two changes of an interface the kernel tells nothing else: that its queueing discipline is another one, and that
    IPv6 is switched off there, which takes its addresses along.
    """
    if kind in (NEWLINK, DELLINK):
        index: int = INFO.unpack_from(body)[2]
        return index
    if kind in (NEWQDISC, DELQDISC) or (kind in (NEWADDR, DELADDR) and body[0] == socket.AF_INET6):
        (told,) = _INDEX.unpack_from(body)
        return int(told)
    if kind in (NEWNETCONF, DELNETCONF):
        found = attributes(body, 4)
        told = struct.unpack_from("=i", found[1])[0] if 1 in found else _ALL
        return told if told > 0 else None
    return None


def _mtu(metrics: memoryview) -> int:
    found = attributes(metrics).get(_MTU)
    return int(struct.unpack_from("=I", found)[0]) or NO_MTU if found is not None else NO_MTU


def kinds_of_route(body: memoryview) -> RouteKinds:
    """What kinds the route of a message is of."""
    found = attributes(body, _ROUTE.size)
    hops = found.get(_MULTIPATH)
    several = hops is not None
    encapsulates = _ENCAPSULATION in found or (hops is not None and _encapsulates(hops))
    mtu = _mtu(found[_METRICS]) if _METRICS in found else NO_MTU
    if body[0] == socket.AF_INET:
        return RouteKinds(multipath4=several, encapsulation=encapsulates, mtu4=mtu)
    shares = mtu < NO_MTU and _NEXTHOP_ID in found
    return RouteKinds(multipath6=several, encapsulation=encapsulates, mtu6=mtu, shares_mtu6=shares)


def kinds_by_next_hop(body: memoryview) -> RouteKinds:
    """What kinds the routes by the next hop of a message may be of: a group serves those of either family."""
    found = attributes(body, _NEXTHOP.size)
    several = _NEXTHOP_GROUP in found
    return RouteKinds(several, several, _NEXTHOP_ENCAPSULATION in found)
