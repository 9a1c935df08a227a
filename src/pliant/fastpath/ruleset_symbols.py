# SPDX-License-Identifier: Apache-2.0
"""What nftables' registers hold, byte by byte, when a rule has loaded something: told without a packet.

Of each bit it is known either where in the view of a packet it is (:class:`~pliant.fastpath.ruleset_rows.View`), or
what it is always, or only that it is not known: since packets of one flow differ in it, as in their length.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pliant.fastpath.ruleset_rows import DROPPED, REFUSED, View

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_NFPROTO = {4: socket.AF_INET, 6: socket.AF_INET6}
_HEADER_BYTES = {4: 20, 6: 40}
_PORTS_BYTES, _TCP_BYTES, _TCP_FLAGS = 4, 20, 13
_TCP_SIGNALS = 7  # FIN, SYN and RST
_ECN = 3
_NAME_BYTES = 16


class NotUnderstood(Exception):
    """Something that the fast path cannot tell of a packet, in words that follow "rule N"."""


@dataclass(frozen=True, slots=True)
class Byte:
    """``view[source] & mask ^ flip``, but for the bits in ``unknown``."""

    source: int = 0
    mask: int = 0
    flip: int = 0
    unknown: int = 0

    @property
    def constant(self) -> int:
        """The bits that are always the same, those of ``flip``."""
        return 0xFF & ~(self.mask | self.unknown)

    def changed(self, mask: int, flip: int) -> Byte:
        """``self & mask ^ flip``."""
        return Byte(self.source, self.mask & mask, (self.flip & mask) ^ flip, self.unknown & mask)


NOT_KNOWN = Byte(unknown=0xFF)
Bytes = tuple[Byte, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rules are asked, and what can be told of packets there.

    ``hook`` as nft(8) names it. ``has_connection``: it is behind the tracking of connections. ``has_addresses``:
    addresses and ports are those the packet has when it is forwarded, since nothing translates them.
    """

    family: Literal[4, 6]
    hook: str
    has_connection: bool
    has_addresses: bool

    @property
    def drops(self) -> int:
        """How packets are left that rules drop: before they are routed the kernel does not count them as forwarded."""
        return REFUSED if self.hook == "prerouting" else DROPPED


def constant(value: bytes) -> Bytes:
    """What is always the same."""
    return tuple(Byte(flip=byte) for byte in value)


def in_view(at: View, length: int, *, mask: int = 0xFF) -> Bytes:
    """What is in the view from a word on."""
    return tuple(Byte(4 * at + i, mask) for i in range(length))


def possible(source: int) -> int:
    """The bits of a byte of the view that are ever set."""
    return 0xFF & ~_ECN if source == 4 * View.CLASS else 0xFF


def payload(place: Place, base: str, offset: int, length: int, protocol: int | None) -> tuple[Bytes, bool]:
    """Bytes of the packet, and whether they are what they are only without SYN, FIN and RST.

    ``protocol`` is what the rule has made sure of. Raises :class:`NotUnderstood`.
    """
    end = offset + length
    if base == "network" and end <= _HEADER_BYTES[place.family]:
        header = _ip(place) if place.family == 4 else _ip6(place)
        return header[offset:end], False
    if base != "transport":
        raise NotUnderstood(f"looks at the {base} header")
    if end <= _PORTS_BYTES:
        if not place.has_addresses:
            raise NotUnderstood("looks at ports that may be translated")
        ports = in_view(View.PORT_FROM, 2) + in_view(View.PORT_TO, 2)
        return ports[offset:end], False
    if protocol != TCP or end > _TCP_BYTES:
        raise NotUnderstood("looks further into the packet than its flow is told by")
    held = list((NOT_KNOWN,) * _TCP_BYTES)
    held[_TCP_FLAGS] = Byte(unknown=0xFF & ~_TCP_SIGNALS)
    return tuple(held[offset:end]), True


def needs_ports(offset: int, length: int) -> bool:
    """Whether bytes of the transport header are such as only TCP and UDP have; ICMP has type and code in two."""
    return offset + length > 2


def _ip(place: Place) -> Bytes:
    tos = Byte(4 * View.CLASS, 0xFF & ~_ECN, 0, _ECN)
    return (
        Byte(flip=0x45),
        tos,
        *(NOT_KNOWN,) * 4,
        Byte(unknown=0xC0),  # no fragments are decided over
        Byte(),
        NOT_KNOWN,
        *in_view(View.PROTOCOL, 1),
        *(NOT_KNOWN,) * 2,
        *_addresses(place, 4),
    )


def _ip6(place: Place) -> Bytes:
    first, second, *rest = in_view(View.CLASS, 4)
    return (
        Byte(first.source, 0x0F, 0x60),
        Byte(second.source, 0xCF, 0, 0x30),
        *rest,
        *(NOT_KNOWN,) * 2,
        *in_view(View.PROTOCOL, 1),
        NOT_KNOWN,
        *_addresses(place, 16),
    )


def _addresses(place: Place, length: int) -> Bytes:
    if not place.has_addresses:
        return (NOT_KNOWN,) * (2 * length)
    return in_view(View.FROM, length) + in_view(View.TO, length)


def meta(place: Place, key: str) -> Bytes:
    """Something about the packet that is not in it. Raises :class:`NotUnderstood`."""
    has_exit = place.hook != "prerouting"
    match key:
        case "iif":
            return in_view(View.IN, 4)
        case "oif":
            return in_view(View.OUT, 4) if has_exit else constant(bytes(4))
        case "iifname":
            return in_view(View.IN_NAME, _NAME_BYTES)
        case "oifname":
            return in_view(View.OUT_NAME, _NAME_BYTES) if has_exit else constant(bytes(_NAME_BYTES))
        case "l4proto":
            return in_view(View.PROTOCOL, 1)
        case "nfproto":
            return constant(bytes([_NFPROTO[place.family]]))
        case "protocol":
            return constant(_ETHERTYPE[place.family].to_bytes(2, "big"))
        case "mark":  # what sets one comes before, and is not understood
            return constant(bytes(4))
        case "pkttype":  # for this host's address: all others are the kernel's
            return constant(b"\0")
    raise NotUnderstood(f"asks for meta {key}")


def connection(place: Place, key: str, direction: str) -> Bytes:
    """Something about the packet's connection. Raises :class:`NotUnderstood`."""
    words = {"state": View.CT_STATE, "status": View.CT_STATUS, "mark": View.CT_MARK}
    if place.has_connection and not direction:
        if key in words:
            return in_view(words[key], 4)
        if key == "direction":
            return in_view(View.CT_DIRECTION, 1)
    raise NotUnderstood(f"asks for ct {key}")


class Registers:
    """Sixteen registers of 32 bits."""

    def __init__(self) -> None:
        self._bytes: list[Byte] = [NOT_KNOWN] * 64

    def put(self, register: int, value: Sequence[Byte]) -> None:
        """Values take up whole registers, the rest of the last is zero."""
        padded = (*value, *(Byte(),) * (-len(value) % 4))
        self._bytes[4 * register : 4 * register + len(padded)] = padded

    def get(self, register: int, length: int) -> Bytes:
        """What is in registers."""
        return tuple(self._bytes[4 * register : 4 * register + length])


def turned(value: Bytes, size: int) -> Bytes:
    """The bytes of each ``size`` the other way round, on hosts that are little-endian."""
    if sys.byteorder == "big":
        return value
    return tuple(byte for at in range(0, len(value), size) for byte in value[at : at + size][::-1])
