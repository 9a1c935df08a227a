# SPDX-License-Identifier: Apache-2.0
"""Interfaces of a network namespace as rtnetlink(7) tells of them, with what matters to a packet that comes in."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

from pliant.kernel.netlink import Attributes, attributes, elements, number, text

INFO = struct.Struct("=BxHiII")  # struct ifinfomsg

ETHERNET, LOOPBACK, RAW_IP = 1, 772, 65534  # ARPHRD_ETHER, ARPHRD_LOOPBACK, ARPHRD_NONE (linux/if_arp.h)
_UP, _RUNNING, _PROMISCUOUS, _ALLMULTI = 0x1, 0x40, 0x100, 0x200  # linux/if.h
_INET, _INET6 = 2, 10

# linux/if_link.h
_ADDRESS, _NAME, _MTU, _LINK, _QDISC, _MASTER = 1, 3, 4, 5, 6, 10
_LINKINFO, _AF_SPEC, _PROMISCUITY, _TX_QUEUES, _RX_QUEUES, _CARRIER = 18, 26, 30, 31, 32, 33
_LINK_NETNSID, _XDP, _BUS = 37, 43, 57
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_XDP_PROGRAMS = {"native": 5, "generic": 6, "offload": 7}  # IFLA_XDP_DRV_PROG_ID and its siblings
_XDP_ATTACHED, _XDP_PROGRAM = 2, 4
_XDP_MODES = {1: "native", 2: "generic", 3: "offload"}
_INET_CONF, _INET6_CONF = 1, 2
_MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}

PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
"""States of a bridge port, by number (linux/if_bridge.h)."""


@dataclass(frozen=True, slots=True)
class Conf4:
    """IPv4 settings of an interface (``net.ipv4.conf.NAME``), without what ``all`` adds."""

    forwarding: bool
    rp_filter: int
    accept_local: bool
    src_valid_mark: bool
    route_localnet: bool
    proxy_arp: bool
    send_redirects: bool
    log_martians: bool
    disable_policy: bool
    disable_xfrm: bool


@dataclass(frozen=True, slots=True)
class Conf6:
    """IPv6 settings of an interface (``net.ipv6.conf.NAME``); ``force_forwarding`` is of Linux 6.17."""

    forwarding: bool
    force_forwarding: bool
    disable_ipv6: bool
    proxy_ndp: bool
    seg6_enabled: bool


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Settings of a bridge; times in hundredths of a second."""

    vlan_filtering: bool
    stp: bool
    ageing_time: int
    multicast_snooping: bool
    group_forward_mask: int
    calls_iptables: bool
    calls_ip6tables: bool


@dataclass(frozen=True, slots=True)
class BridgePort:
    """Settings of an interface as the port of a bridge; ``state`` is one of :data:`PORT_STATES`."""

    state: str
    learning: bool
    hairpin: bool
    isolated: bool
    locked: bool
    unicast_flood: bool
    multicast_flood: bool
    broadcast_flood: bool
    proxy_arp: bool
    neighbour_suppression: bool
    vlan_tunnel: bool
    backup_port: int | None


@dataclass(frozen=True, slots=True)
class VxlanOptions:
    """Settings of a VXLAN tunnel; addresses as in text, None where not set."""

    vni: int
    port: int
    local: str | None
    remote: str | None
    link: int | None
    learning: bool


@dataclass(frozen=True, slots=True)
class XdpAttachment:
    """An XDP program on an interface; ``mode`` is native, generic or offload."""

    mode: str
    program_id: int


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface.

    ``kind`` is what ip-link(8) calls its type, None for hardware. ``link`` is the interface below it or, for veth, the
    other end, in the namespace ``link_namespace`` (None: this one). ``master`` is the bridge, bond or VRF it is in,
    of the kind ``master_kind``. ``media`` is ARPHRD_*; ``bus`` is that of the device behind it (pci, virtio).
    """

    index: int
    name: str
    kind: str | None = None
    media: int = ETHERNET
    mac: str | None = None
    mtu: int = 1500
    is_up: bool = True
    is_running: bool = True
    is_promiscuous: bool = False
    is_allmulti: bool = False
    master: int | None = None
    master_kind: str | None = None
    link: int | None = None
    link_namespace: int | None = None
    rx_queues: int = 1
    tx_queues: int = 1
    qdisc: str = "noqueue"
    bus: str | None = None
    macvlan_mode: str | None = None
    xdp: tuple[XdpAttachment, ...] = ()
    conf4: Conf4 | None = None
    conf6: Conf6 | None = None
    bridge: BridgeOptions | None = None
    port: BridgePort | None = None
    vxlan: VxlanOptions | None = None


def parse_interface(message: memoryview) -> Interface:
    """Read an RTM_NEWLINK message."""
    _, media, index, flags, _ = INFO.unpack_from(message)
    found = attributes(message, INFO.size)
    info = attributes(found[_LINKINFO]) if _LINKINFO in found else {}
    kind = text(info.get(_INFO_KIND)) or None
    master_kind = text(info.get(_INFO_SLAVE_KIND)) or None
    data = attributes(info[_INFO_DATA]) if _INFO_DATA in info else {}
    slave = info.get(_INFO_SLAVE_DATA)
    families = dict(elements(found[_AF_SPEC])) if _AF_SPEC in found else {}
    return Interface(
        index=index,
        name=text(found.get(_NAME)),
        kind=kind,
        media=media,
        mac=bytes(found[_ADDRESS]).hex(":") if found.get(_ADDRESS) else None,
        mtu=number(found.get(_MTU)),
        is_up=bool(flags & _UP),
        is_running=bool(flags & _RUNNING),
        is_promiscuous=bool(flags & _PROMISCUOUS) or number(found.get(_PROMISCUITY)) > 0,
        is_allmulti=bool(flags & _ALLMULTI),
        master=number(found.get(_MASTER)) or None,
        master_kind=master_kind,
        link=number(found.get(_LINK)) or None,
        link_namespace=int.from_bytes(found[_LINK_NETNSID], sys.byteorder, signed=True)
        if _LINK_NETNSID in found
        else None,
        rx_queues=number(found.get(_RX_QUEUES)),
        tx_queues=number(found.get(_TX_QUEUES)),
        qdisc=text(found.get(_QDISC)),
        bus=text(found.get(_BUS)) or None,
        macvlan_mode=_MACVLAN_MODES.get(number(data.get(1))) if kind in ("macvlan", "macvtap") else None,
        xdp=_xdp(attributes(found[_XDP])) if _XDP in found else (),
        conf4=_conf4(families.get(_INET)),
        conf6=_conf6(families.get(_INET6)),
        bridge=_bridge(data) if kind == "bridge" else None,
        port=_port(attributes(slave)) if slave is not None and master_kind == "bridge" else None,
        vxlan=_vxlan(data) if kind == "vxlan" else None,
    )


def _xdp(found: Attributes) -> tuple[XdpAttachment, ...]:
    several = tuple(
        XdpAttachment(mode, number(found[kind])) for mode, kind in _XDP_PROGRAMS.items() if kind in found
    )
    mode = _XDP_MODES.get(number(found.get(_XDP_ATTACHED)))
    if several or mode is None:
        return several
    return (XdpAttachment(mode, number(found.get(_XDP_PROGRAM))),)


def _settings(family: memoryview | None, kind: int) -> tuple[int, ...]:
    raw = attributes(family).get(kind) if family is not None else None
    return struct.unpack(f"={len(raw) // 4}i", raw[: len(raw) // 4 * 4]) if raw else ()


def _conf4(family: memoryview | None) -> Conf4 | None:
    values = _settings(family, _INET_CONF)
    if not values:
        return None

    def value(place: int) -> int:  # IPV4_DEVCONF_* of linux/ip.h, which start at 1
        return values[place - 1] if place <= len(values) else 0

    return Conf4(
        forwarding=value(1) != 0,
        rp_filter=value(8),
        accept_local=value(23) != 0,
        src_valid_mark=value(24) != 0,
        route_localnet=value(26) != 0,
        proxy_arp=value(3) != 0,
        send_redirects=value(6) != 0,
        log_martians=value(11) != 0,
        disable_policy=value(16) != 0,
        disable_xfrm=value(15) != 0,
    )


def _conf6(family: memoryview | None) -> Conf6 | None:
    values = _settings(family, _INET6_CONF)
    if not values:
        return None

    def value(place: int) -> bool:  # DEVCONF_* of linux/ipv6.h, which start at 0
        return place < len(values) and values[place] != 0

    return Conf6(
        forwarding=value(0),
        force_forwarding=value(59),
        disable_ipv6=value(26),
        proxy_ndp=value(22),
        seg6_enabled=value(44),
    )


def _bridge(found: Attributes) -> BridgeOptions:  # IFLA_BR_*
    return BridgeOptions(
        vlan_filtering=number(found.get(7)) != 0,
        stp=number(found.get(5)) != 0,
        ageing_time=number(found.get(4)),
        multicast_snooping=number(found.get(23)) != 0,
        group_forward_mask=number(found.get(9)),
        calls_iptables=number(found.get(36)) != 0,
        calls_ip6tables=number(found.get(37)) != 0,
    )


def _port(found: Attributes) -> BridgePort:  # IFLA_BRPORT_*
    state = number(found.get(1))

    def on(kind: int) -> bool:
        return number(found.get(kind)) != 0

    return BridgePort(
        state=PORT_STATES[state] if state < len(PORT_STATES) else str(state),
        learning=on(8),
        hairpin=on(4),
        isolated=on(33),
        locked=on(39),
        unicast_flood=on(9),
        multicast_flood=on(27),
        broadcast_flood=on(30),
        proxy_arp=on(10) or on(12),
        neighbour_suppression=on(32) or on(43),
        vlan_tunnel=on(29),
        backup_port=number(found.get(34)) or None,
    )


def _vxlan(found: Attributes) -> VxlanOptions:  # IFLA_VXLAN_*
    return VxlanOptions(
        vni=number(found.get(1)),
        port=int.from_bytes(found.get(15, b""), "big"),
        local=_address(found.get(4)) or _address(found.get(17)),
        remote=_address(found.get(2)) or _address(found.get(16)),
        link=number(found.get(3)) or None,
        learning=number(found.get(7)) != 0,
    )


def _address(raw: memoryview | None) -> str | None:
    if raw is None or not any(raw):
        return None
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
