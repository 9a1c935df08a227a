# SPDX-License-Identifier: Apache-2.0
"""Addresses, policy rules and queueing disciplines as rtnetlink(7) tells of them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from pliant.kernel.netlink import attributes, number, text

RULE = struct.Struct("=8BI")  # struct fib_rule_hdr
ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
QDISC = struct.Struct("=BxxxiIII")  # struct tcmsg

_INVERT = 0x2
_TO_TABLE = 1
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_UNSET = 0xFFFFFFFF
# linux/fib_rules.h
(_TO, _FROM, _IN, _GOTO, _PRIORITY, _MARK, _TUNNEL, _GROUP, _PREFIX_LENGTH) = (1, 2, 3, 4, 6, 10, 12, 13, 14)
(_TABLE, _MASK, _OUT, _L3MDEV, _USERS, _PROTOCOL, _SOURCE_PORTS, _PORTS) = (15, 16, 17, 19, 20, 22, 23, 24)
_DSCP, _FLOW_LABEL = 25, 26
_MASKS = (27, 28, 29, 30)  # of flow label, source ports, destination ports, DSCP (Linux 6.15)
_KNOWN = frozenset(range(_MASKS[-1] + 1)) - {5}
_CLSACT_PARENT = 0xFFFFFFF1
_BPF_ID = 11  # TCA_BPF_ID


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule (ip-rule(8)); what is None does not choose.

    ``family`` is 4 or 6. ``action`` is lookup, goto, nop, blackhole, unreachable or prohibit. ``masks`` are the
    attributes that say which bits of flow label, ports and DSCP count, with their values. ``has_others``: it chooses
    by something that is not told here.
    """

    family: int
    priority: int
    action: str = "lookup"
    table: int = 0
    source: str | None = None
    destination: str | None = None
    tos: int = 0
    dscp: int | None = None
    flow_label: int | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    mark: int | None = None
    mark_mask: int | None = None
    protocol: int | None = None
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    tunnel: int | None = None
    users: tuple[int, int] | None = None
    is_inverted: bool = False
    l3mdev: bool = False
    goto: int | None = None
    suppress_prefix_length: int | None = None
    suppress_group: int | None = None
    masks: tuple[tuple[int, int], ...] = ()
    has_others: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface; ``peer`` is that of the other end of a point-to-point link."""

    interface: int
    family: int
    address: str
    prefix_length: int
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Qdisc:
    """A kind of queueing discipline of an interface, at its root or within another (``htb``, ``mq``, ...).

    ``is_ingress``: it is ``clsact`` or ``ingress``, which queue nothing, but hold filters.
    """

    interface: int
    kind: str
    is_ingress: bool


@dataclass(frozen=True, slots=True)
class TcFilter:
    """A filter at clsact or ingress; ``program_id`` is that of a BPF program."""

    interface: int
    direction: str
    kind: str
    program_id: int | None


def parse_rule(message: memoryview) -> Rule:
    """Read an RTM_NEWRULE message."""
    family, to_bits, from_bits, tos, table, _, _, action, flags = RULE.unpack_from(message)
    found = attributes(message, RULE.size)

    def value(kind: int) -> int | None:
        return number(found[kind]) if kind in found else None

    def span(kind: int, form: str) -> tuple[int, int] | None:
        if kind not in found:
            return None
        first, last = struct.unpack_from(form, found[kind])
        return first, last

    def prefix(kind: int, bits: int) -> str | None:
        return f"{socket.inet_ntop(family, found[kind])}/{bits}" if kind in found else None

    suppressed, group = value(_PREFIX_LENGTH), value(_GROUP)
    return Rule(
        family=4 if family == socket.AF_INET else 6,
        priority=value(_PRIORITY) or 0,
        action=_ACTIONS.get(action, str(action)),
        table=(value(_TABLE) or table) if action == _TO_TABLE else 0,
        source=prefix(_FROM, from_bits),
        destination=prefix(_TO, to_bits),
        tos=tos,
        dscp=value(_DSCP),
        flow_label=int.from_bytes(found[_FLOW_LABEL], "big") if _FLOW_LABEL in found else None,
        in_interface=text(found.get(_IN)) or None,
        out_interface=text(found.get(_OUT)) or None,
        mark=value(_MARK),
        mark_mask=value(_MASK),
        protocol=value(_PROTOCOL),
        source_ports=span(_SOURCE_PORTS, "=HH"),
        destination_ports=span(_PORTS, "=HH"),
        tunnel=int.from_bytes(found[_TUNNEL], "big") if _TUNNEL in found else None,
        users=span(_USERS, "=II"),
        is_inverted=bool(flags & _INVERT),
        l3mdev=bool(value(_L3MDEV)),
        goto=value(_GOTO),
        suppress_prefix_length=None if suppressed in (None, _UNSET) else suppressed,
        suppress_group=None if group in (None, _UNSET) else group,
        masks=tuple((kind, number(found[kind])) for kind in _MASKS if kind in found),
        has_others=bool(found.keys() - _KNOWN),
    )


def parse_address(message: memoryview) -> Address:
    """Read an RTM_NEWADDR message."""
    family, bits, _, _, index = ADDRESS.unpack_from(message)
    found = attributes(message, ADDRESS.size)
    own, far = found.get(2), found.get(1)  # IFA_LOCAL, IFA_ADDRESS
    address = own or far or memoryview(b"\0" * (4 if family == socket.AF_INET else 16))
    peer = far if own and far and bytes(own) != bytes(far) else None
    return Address(
        interface=index,
        family=4 if family == socket.AF_INET else 6,
        address=socket.inet_ntop(family, address),
        prefix_length=bits,
        peer=socket.inet_ntop(family, peer) if peer else None,
    )


def parse_qdisc(message: memoryview) -> Qdisc:
    """Read an RTM_NEWQDISC message."""
    _, index, _, parent, _ = QDISC.unpack_from(message)
    return Qdisc(index, text(attributes(message, QDISC.size).get(1)), parent == _CLSACT_PARENT)


def parse_filter(message: memoryview, direction: str) -> TcFilter | None:
    """Read an RTM_NEWTFILTER message; None for what only heads a chain of filters."""
    _, index, handle, _, _ = QDISC.unpack_from(message)
    found = attributes(message, QDISC.size)
    if not handle:
        return None
    options = attributes(found[2]) if 2 in found else {}
    program = number(options.get(_BPF_ID)) if text(found.get(1)) == "bpf" else 0
    return TcFilter(index, direction, text(found.get(1)), program or None)
