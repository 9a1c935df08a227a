# SPDX-License-Identifier: Apache-2.0
"""A packet as routing and the forward hook see it: of a connection, and with its destination translated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pliant.fastpath.frame import ETHERNET_BYTES, TCP, UDP, Address, Frame
from pliant.fastpath.ruleset_walk import ESTABLISHED, NEW
from pliant.kernel.conntrack import Connection, Status, Tuple, find_connection

_DESTINATION = {4: 16, 6: 24}  # where it is in the header of an IP version


@dataclass(frozen=True, slots=True)
class Tracked:
    """A packet of a connection: ``frame`` is what is routed, ``state`` a bit of ``ct state``.

    ``sentence`` says what the connection is, and how the packet is translated. The source is translated last, after the
    forward hook.
    """

    frame: Frame
    state: int
    sentence: str


def as_tracked(frame: Frame) -> Tracked | None:
    """The connection of a packet, from the kernel; None for one of none. Raises :class:`KernelError`."""
    if frame.protocol not in (TCP, UDP) or frame.is_fragment or not frame.ports:
        return None
    assert frame.saddr is not None
    assert frame.daddr is not None
    own = Tuple(frame.saddr, frame.daddr, frame.protocol, *frame.ports)
    found = find_connection(own)
    if found is None:
        return None
    sent = _sent_on(found, own)
    state = ESTABLISHED if found.status & Status.SEEN_REPLY or own != found.original else NEW
    words = f"{'established' if state == ESTABLISHED else 'new'}{_flags(found)}"
    if sent != own:
        words += f", translated: {_ends(own)} becomes {_ends(sent)}"
    return Tracked(_redirected(frame, sent.destination, sent.destination_port), state, words)


def _sent_on(connection: Connection, own: Tuple) -> Tuple:
    """What a packet's addresses and ports are when it leaves: those that the other direction answers."""
    other = connection.reply if own == connection.original else connection.original
    return Tuple(other.destination, other.source, other.protocol, other.destination_port, other.source_port)


def _flags(connection: Connection) -> str:
    return " and assured" if connection.status & Status.ASSURED else ""


def _ends(ends: Tuple) -> str:
    return f"{ends.source}.{ends.source_port} > {ends.destination}.{ends.destination_port}"


def _redirected(frame: Frame, to: Address, port: int) -> Frame:
    assert frame.family is not None
    assert frame.ports is not None
    data = bytearray(frame.data)
    at = ETHERNET_BYTES + _DESTINATION[frame.family]
    data[at : at + len(to.packed)] = to.packed
    if frame.transport is not None:
        data[frame.transport + 2 : frame.transport + 4] = port.to_bytes(2, "big")
    return replace(frame, data=bytes(data), daddr=to, ports=(frame.ports[0], port))
