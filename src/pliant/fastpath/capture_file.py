# SPDX-License-Identifier: Apache-2.0
"""Files of captured packets: pcap and pcapng are read, pcapng is written (with what became of each packet).

pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng. A dependency would bring ten times of what is needed.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from pliant.errors import PliantError

ETHERNET = 1
_RAW, _RAW4, _RAW6, _COOKED, _COOKED2 = 101, 228, 229, 113, 276
_IP_BEGINS = {_RAW: 0, _RAW4: 0, _RAW6: 0, _COOKED: 16, _COOKED2: 20}  # bytes before the IP packet
_PCAP = {0xA1B2C3D4: 1_000, 0xA1B23C4D: 1}  # the unit of the fraction of a second, in ns
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_COMMENT, _IF_NAME, _FLAGS, _RESOLUTION, _VERDICT = 1, 2, 2, 9, 7
_INBOUND, _XDP = 1, 2
_NANOSECONDS = 9  # 10**-9
_MOST = 1 << 26


@dataclass(frozen=True, slots=True)
class Stored:
    """A packet of a file: when (ns since the epoch), where, its whole length, and the bytes that were kept.

    ``link`` says what the bytes begin with (LINKTYPE_...).
    """

    time_ns: int
    interface: str
    length: int
    data: bytes
    link: int = ETHERNET

    def frame(self, to: bytes, source: bytes = bytes(6)) -> bytes:
        """The packet as an Ethernet frame; one that was kept without such a header gets one with these addresses."""
        if self.link == ETHERNET:
            return self.data
        if self.link not in _IP_BEGINS:
            raise PliantError(
                f"packets of link type {self.link} cannot be read", remedy="capture on an Ethernet device"
            )
        packet = self.data[_IP_BEGINS[self.link] :]
        kind = b"\x86\xdd" if packet[:1] and packet[0] >> 4 == 6 else b"\x08\x00"
        return to + source + kind + packet


def read_packets(file: BinaryIO, name: str) -> Iterator[Stored]:
    """The packets of a file of either format; raises :class:`PliantError` where it is neither, or damaged."""
    packets = _packets(file, name)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except struct.error as error:
            raise PliantError(f"{name} is damaged: {error}") from error
        yield packet


def _packets(file: BinaryIO, name: str) -> Iterator[Stored]:
    start = file.read(4)
    for order in ("<", ">"):
        magic = struct.unpack(order + "I", start)[0] if len(start) == 4 else 0
        if magic in _PCAP:
            return _pcap(file, order, _PCAP[magic], name)
        if magic == _SECTION:
            return _Sections(file, name).packets()
    raise PliantError(f"{name} is not a capture", remedy="it has to be a pcap or pcapng file, uncompressed")


def _take(file: BinaryIO, size: int, name: str) -> bytes:
    if not 0 <= size <= _MOST:
        raise PliantError(f"{name} is damaged: it says that it has a block of {size} bytes")
    data = file.read(size)
    if len(data) != size:
        raise PliantError(f"{name} ends in the middle of a packet", remedy="was it still being written?")
    return data


def _pcap(file: BinaryIO, order: str, unit_ns: int, name: str) -> Iterator[Stored]:
    [link] = struct.unpack(order + "16xI", _take(file, 20, name))
    while header := file.read(16):
        if len(header) != 16:
            raise PliantError(f"{name} ends in the middle of a packet", remedy="was it still being written?")
        seconds, fraction, kept, length = struct.unpack(order + "IIII", header)
        data = _take(file, kept, name)
        yield Stored(seconds * 10**9 + fraction * unit_ns, "", length, data, link & 0xFFFF)


@dataclass(slots=True)
class _Described:
    name: str
    link: int
    units_a_second: int


@dataclass(slots=True)
class _Sections:
    """pcapng: blocks with their length before and after, interfaces described before their packets."""

    file: BinaryIO
    name: str
    order: str = "<"
    interfaces: list[_Described] = field(default_factory=list)

    def packets(self) -> Iterator[Stored]:
        kind = _SECTION
        while True:
            if kind == _SECTION:
                self._begin()
            else:
                [length] = struct.unpack(self.order + "I", _take(self.file, 4, self.name))
                body = _take(self.file, length - 8, self.name)[:-4]
                if kind == _INTERFACE:
                    self._describe(body)
                elif kind in (_ENHANCED, _SIMPLE):
                    yield self._packet(kind, body)
            start = self.file.read(4)
            if not start:
                return
            [kind] = struct.unpack(self.order + "I", start.ljust(4, b"\0"))

    def _begin(self) -> None:
        start = _take(self.file, 8, self.name)
        self.order = "<" if struct.unpack("<4xI", start)[0] == _BYTE_ORDER else ">"
        [length] = struct.unpack(self.order + "I4x", start)
        _take(self.file, length - 12, self.name)
        self.interfaces = []

    def _describe(self, body: bytes) -> None:
        [link] = struct.unpack_from(self.order + "H", body)
        found = self._options(body[8:])
        resolution = (found.get(_RESOLUTION) or b"\6")[0]
        units = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        self.interfaces.append(_Described(found.get(_IF_NAME, b"").decode(errors="replace"), link, units))

    def _options(self, data: bytes) -> Mapping[int, bytes]:
        found, at = {}, 0
        while at + 4 <= len(data):
            code, length = struct.unpack_from(self.order + "HH", data, at)
            if code == 0:
                break
            found[code] = data[at + 4 : at + 4 + length]
            at += 4 + (length + 3 & ~3)
        return found

    def _packet(self, kind: int, body: bytes) -> Stored:
        if kind == _SIMPLE:
            which, time_ns = 0, 0
            [length] = struct.unpack_from(self.order + "I", body)
            data = body[4 : 4 + length]
        else:
            which, high, low, kept, length = struct.unpack_from(self.order + "IIIII", body)
            data, time_ns = body[20 : 20 + kept], high << 32 | low
        if which >= len(self.interfaces):
            raise PliantError(f"{self.name} is damaged: a packet of an interface that is not described")
        at = self.interfaces[which]
        return Stored(time_ns * 10**9 // at.units_a_second, at.name, length, data, at.link)


class Writer:
    """Writes pcapng: an interface is described when its first packet comes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._interfaces: dict[str, int] = {}
        fixed = struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1)
        self._block(_SECTION, fixed + _option(4, b"pliant capture") + bytes(4))

    def write(self, packet: Stored, *, comment: str, verdict: int) -> None:
        """Write a packet that came in; ``verdict`` is what its XDP program returned."""
        if packet.interface not in self._interfaces:
            self._describe(packet.interface)
        number, at = self._interfaces[packet.interface], packet.time_ns
        fixed = struct.pack("=IIIII", number, at >> 32, at & 0xFFFFFFFF, len(packet.data), packet.length)
        options = _option(_COMMENT, comment.encode()) + _option(_FLAGS, struct.pack("=I", _INBOUND))
        options += _option(_VERDICT, struct.pack("=BQ", _XDP, verdict)) + bytes(4)
        self._block(_ENHANCED, fixed + _padded(packet.data) + options)

    def _describe(self, name: str) -> None:
        options = _option(_IF_NAME, name.encode()) + _option(_RESOLUTION, bytes([_NANOSECONDS])) + bytes(4)
        self._block(_INTERFACE, struct.pack("=HHI", ETHERNET, 0, 0) + options)
        self._interfaces[name] = len(self._interfaces)

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("=I", 12 + len(body))
        self._file.write(kind.to_bytes(4, sys.byteorder) + length + body + length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)
