# SPDX-License-Identifier: Apache-2.0
"""Matches of iptables in rules of nftables, in words of nftables as far as they can be said so.

``iptables-nft`` writes what nftables has instructions for as such, newer releases more of it than older ones, and for
the rest has the kernel call the matches of iptables, each with a structure of its own (``linux/netfilter/xt_*.h``).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from pliant.kernel.nftables_expressions import (
    AnyWithin,
    Bitwise,
    Compare,
    Ct,
    Expression,
    Meta,
    Other,
    Payload,
    Within,
)

_SCRATCH = 16
"""The first register that rules of nftables do not have."""
_TCP_BYTES = 20
_Translated = tuple[Expression, ...]

_PORTS = struct.Struct("=4H")  # of struct xt_tcp and struct xt_udp: source and destination, first and last
_TCP_REST, _UDP_REST = struct.Struct("=8x4B"), struct.Struct("=8xB")
_SOURCE_INVERTED, _DESTINATION_INVERTED, _FLAGS_INVERTED = 1, 2, 4  # XT_TCP_INV_*
_MULTIPORT = struct.Struct("=BB15H15BB")  # struct xt_multiport_v1
_MOST_PORTS = 15
_ENDS = {0: (0,), 1: (2,), 2: (0, 2)}  # XT_MULTIPORT_*: offsets of ports
_MARK = struct.Struct("=IIB")  # struct xt_mark_mtinfo1
_RANGES = struct.Struct("=16s16s16s16sB")  # struct xt_iprange_mtinfo
_CONNECTION_FLAGS = struct.Struct("=146xHHH")  # struct xt_conntrack_mtinfo3, from match_flags on
_BY_STATE, _STATE_ALIAS = 1, 1 << 13  # XT_CONNTRACK_STATE, and that it was written "-m state"
_STATES = 0x4F
"""What XT_CONNTRACK_STATE_BIT() gives, as ``ct state`` has it: INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED.

SNAT and DNAT, which are not states of a connection, are not among them.
"""


def in_words_of_nftables(expression: Expression, family: str) -> _Translated:
    """What is the same as a match of iptables in a table of a family; itself where that cannot be said, or is none.

    What comes of it uses registers beyond those of nftables.
    """
    if isinstance(expression, Other):
        translator = _TRANSLATORS.get((expression.name, expression.revision))
        translated = translator(expression.info, family) if translator else None
        if translated is not None:
            return translated
    return (expression,)


def _comment(info: bytes, family: str) -> _Translated:
    """It always applies."""
    del info, family
    return ()


def _states(info: bytes, family: str) -> _Translated | None:
    """Connections by their state, and by nothing else."""
    del family
    if len(info) < _CONNECTION_FLAGS.size:
        return None
    asks, inverts, states = _CONNECTION_FLAGS.unpack_from(info)
    if asks & ~_STATE_ALIAS != _BY_STATE or states & ~_STATES:
        return None
    comparison = "eq" if inverts & _BY_STATE else "neq"
    return Ct(_SCRATCH, "state"), *_masked(states, comparison, 0)


def _mark(info: bytes, family: str) -> _Translated | None:
    del family
    if len(info) < _MARK.size:
        return None
    mark, mask, is_inverted = _MARK.unpack_from(info)
    return Meta(_SCRATCH, "mark"), *_masked(mask, "neq" if is_inverted else "eq", mark)


def _masked(mask: int, comparison: str, value: int) -> _Translated:
    """Compare some bits of a number of 32."""
    masks, values = (number.to_bytes(4, sys.byteorder) for number in (mask, value))
    return Bitwise(_SCRATCH, _SCRATCH, masks, bytes(4)), Compare(_SCRATCH, comparison, values)


def _addresses(info: bytes, family: str) -> _Translated | None:
    """Ranges of addresses."""
    if len(info) < _RANGES.size or family not in ("ip", "ip6"):
        return None
    *bounds, flags = _RANGES.unpack_from(info)
    start, length = (12, 4) if family == "ip" else (8, 16)
    translated: list[Expression] = []
    for place in (0, 1):
        if flags & 1 << place:  # IPRANGE_SRC, IPRANGE_DST
            first, last = (bound[:length] for bound in bounds[2 * place : 2 * place + 2])
            is_inverted = bool(flags & 0x10 << place)
            translated.append(Payload(_SCRATCH, "network", start + place * length, length))
            translated.append(Within(_SCRATCH, first, last, is_inverted))
    return tuple(translated)


def _udp(info: bytes, family: str) -> _Translated | None:
    """Ports of a datagram that has a whole header; others the kernel drops, and the fast path leaves to it."""
    del family
    if len(info) < _UDP_REST.size:
        return None
    [inverts] = _UDP_REST.unpack_from(info)
    return Payload(_SCRATCH, "transport", 0, 4), *_ports(info, inverts)


def _tcp(info: bytes, family: str) -> _Translated | None:
    """Ports and flags of a segment that has a whole header, but not options."""
    del family
    if len(info) < _TCP_REST.size:
        return None
    option, mask, flags, inverts = _TCP_REST.unpack_from(info)
    if option:
        return None
    translated = (Payload(_SCRATCH, "transport", 0, _TCP_BYTES), *_ports(info, inverts))
    if mask or flags or inverts & _FLAGS_INVERTED:
        comparison = "neq" if inverts & _FLAGS_INVERTED else "eq"
        translated += (
            Payload(_SCRATCH, "transport", 13, 1),
            Bitwise(_SCRATCH, _SCRATCH, bytes([mask]), b"\0"),
            Compare(_SCRATCH, comparison, bytes([flags])),
        )
    return translated


def _ports(info: bytes, inverts: int) -> Iterator[Expression]:
    first_source, last_source, first_destination, last_destination = _PORTS.unpack_from(info)
    for offset, first, last, inverted in (
        (0, first_source, last_source, _SOURCE_INVERTED),
        (2, first_destination, last_destination, _DESTINATION_INVERTED),
    ):
        if (first, last) != (0, 0xFFFF) or inverts & inverted:
            yield Payload(_SCRATCH, "transport", offset, 2)
            yield Within(_SCRATCH, _port(first), _port(last), bool(inverts & inverted))


def _several_ports(info: bytes, family: str) -> _Translated | None:
    """Up to fifteen ports and ranges of ports of either end, or of both."""
    del family
    if len(info) < _MULTIPORT.size:
        return None
    ends, count, *rest = _MULTIPORT.unpack_from(info)
    ports, begins_range, is_inverted = rest[:_MOST_PORTS], rest[_MOST_PORTS:-1], rest[-1]
    if ends not in _ENDS or count > _MOST_PORTS:
        return None
    ranges, numbers = [], iter(range(count))
    for number in numbers:
        last = next(numbers, None) if begins_range[number] else number
        if last is None:
            return None
        ranges.append((_port(ports[number]), _port(ports[last])))
    registers = {_SCRATCH + place: offset for place, offset in enumerate(_ENDS[ends])}
    loads = (Payload(register, "transport", offset, 2) for register, offset in registers.items())
    return (
        Payload(_SCRATCH, "transport", 0, 4),  # both are there
        *loads,
        AnyWithin(tuple(registers), tuple(ranges), bool(is_inverted)),
    )


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")


_TRANSLATORS: Mapping[tuple[str, int], Callable[[bytes, str], _Translated | None]] = MappingProxyType(
    {
        ("match:comment", 0): _comment,
        ("match:conntrack", 2): _states,
        ("match:conntrack", 3): _states,
        ("match:iprange", 1): _addresses,
        ("match:mark", 1): _mark,
        ("match:multiport", 1): _several_ports,
        ("match:tcp", 0): _tcp,
        ("match:udp", 0): _udp,
    }
)
