# SPDX-License-Identifier: Apache-2.0
"""Asking the kernel which way a packet would take (RTM_GETROUTE, as ``ip route get`` does)."""

from __future__ import annotations

import errno as codes
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import NETLINK_ROUTE, Attributes, Netlink, attribute, attributes, number

_GETROUTE = 26
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000  # RTM_F_*
_DST, _SRC, _IIF, _OIF, _GATEWAY, _MULTIPATH, _TABLE, _MARK, _VIA = 1, 2, 3, 4, 5, 9, 15, 16, 18
_PROTOCOL, _SPORT, _DPORT = 27, 28, 29
_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast", 6: "blackhole", 7: "unreachable",
          8: "prohibit", 9: "throw"}  # fmt: skip
_TABLES = {253: "default", 254: "main", 255: "local"}
_WITH_PORTS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_REFUSALS = {
    codes.EINVAL: "the kernel takes the source or the destination for a martian",
    codes.EXDEV: "the way back to the source is another (reverse path filter)",
    codes.EHOSTUNREACH: "no route leads there, or packets that come in there are not forwarded",
    codes.ENETUNREACH: "no route leads there",
    codes.EACCES: "a route or rule prohibits it",
}

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Question:
    """A packet that comes in by an interface, as far as routing goes by it."""

    source: Address
    to: Address
    interface: int
    protocol: int = 0
    ports: tuple[int, int] | None = None
    tos: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel does with it: ``kind`` is a route's type, or ``none``; ``sentence`` says why there is none.

    ``route`` is the route in words, as ``ip route`` writes it; ``interface`` and ``gateway`` are the way chosen.
    """

    kind: str
    route: str = ""
    interface: int = 0
    gateway: Address | None = None
    sentence: str = ""


def find_route(question: Question, netns: Path | int | None = None) -> Answer:
    """Ask the kernel. Raises :class:`KernelError` where it does not answer."""
    with Netlink(NETLINK_ROUTE, netns) as netlink:
        try:
            chosen = _ask(netlink, question, _LOOKUP_TABLE)
        except KernelError as error:
            if error.errno not in _REFUSALS:
                raise
            return Answer("none", sentence=_REFUSALS[error.errno])
        try:
            matched = _ask(netlink, question, _LOOKUP_TABLE | _FIB_MATCH)
        except KernelError:  # of local addresses there may be none
            matched = chosen
    kind = _KINDS.get(chosen[7], str(chosen[7]))
    found, of_route = attributes(chosen, _ROUTE.size), attributes(matched, _ROUTE.size)
    route = _in_words(matched, of_route)
    return Answer(kind, route, number(found.get(_OIF)), _gateway(found))


def _ask(netlink: Netlink, question: Question, flags: int) -> memoryview:
    bits = question.to.max_prefixlen
    family = socket.AF_INET if question.to.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(
        family, bits, bits, question.tos & 0x1C if bits == 32 else question.tos, 0, 0, 0, 0, flags
    )
    body += attribute(_DST, question.to.packed) + attribute(_SRC, question.source.packed)
    body += attribute(_IIF, struct.pack("=I", question.interface))
    if question.mark:
        body += attribute(_MARK, struct.pack("=I", question.mark))
    if question.protocol in _WITH_PORTS or question.protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):
        body += attribute(_PROTOCOL, bytes([question.protocol]))
    if question.ports and question.protocol in _WITH_PORTS:
        body += attribute(_SPORT, struct.pack("!H", question.ports[0]))
        body += attribute(_DPORT, struct.pack("!H", question.ports[1]))
    return netlink.ask(_GETROUTE, body, f"look up the route to {question.to}")


def _gateway(found: Attributes) -> Address | None:
    if _GATEWAY in found:
        return ip_address(bytes(found[_GATEWAY]))
    if _VIA in found:
        return ip_address(bytes(found[_VIA][2:]))
    return None


def _in_words(message: memoryview, found: Attributes) -> str:
    family, bits, kind = message[0], message[1], message[7]
    to = ip_address(bytes(found[_DST])) if _DST in found else None
    words = [] if kind == 1 else [_KINDS.get(kind, str(kind))]
    words += ["default" if to is None or not bits else f"{to}/{bits}"]
    if (gateway := _gateway(found)) is not None:
        words += ["via", str(gateway)]
    if _OIF in found:
        words += ["dev", _name(number(found[_OIF]))]
    if _MULTIPATH in found:
        words += ["(several ways)"]
    table = number(found.get(_TABLE)) or message[4]
    del family
    return " ".join([*words, "table", _TABLES.get(table, str(table))])


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"of index {index}"
