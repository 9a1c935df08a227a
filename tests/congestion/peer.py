# SPDX-License-Identifier: Apache-2.0
"""The other end of a TCP connection, played packet by packet on a TUN device: every acknowledgement is the test's.

The kernel's end is a real socket. After each packet the peer waits until the kernel has taken it, and reads what it
sent in answer, so what the kernel knew when it decided is known exactly.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pliant.lab.ping import internet_checksum
from pliant.lab.sockets import tcp_info

FIN, SYN, RST, PSH, ACK, ECE, CWR = (1 << bit for bit in (0, 1, 2, 3, 4, 6, 7))
NOT_ECT, ECT0, CE = 0, 2, 3
PORT = 80
FIRST = 1001  # the sequence number of our first byte
MSS = 1000
WITHIN_S = 10.0
WINDOW_SCALE = 10
SYN_OPTIONS = struct.pack("!BBH", 2, 4, MSS) + bytes((4, 2, 3, 3, WINDOW_SCALE, 1, 1, 1))  # SACK permitted


@dataclass(frozen=True)
class Segment:
    """A TCP packet that the kernel has sent.

    Its sequence number counts from the initial one, so 1 is the first byte; ``acknowledged`` is how many bytes of data
    the kernel says it has received.
    """

    sequence: int
    acknowledged: int
    flags: int
    ecn: int
    size: int

    @property
    def has_ece(self) -> bool:
        return bool(self.flags & ECE)


class Peer:
    """The remote end at ``remote``, of a socket that connects from ``local``, over the TUN device ``tun``."""

    def __init__(self, tun: int, sock: socket.socket, local: str, remote: str) -> None:
        self.tun, self.sock = tun, sock
        self.local, self.remote = (socket.inet_pton(sock.family, address) for address in (local, remote))
        self.port = 0
        self.theirs = 0  # the kernel's initial sequence number
        self.sent = 0  # the highest sequence number that the kernel has sent up to
        self.acknowledged = 0
        self.own = FIRST - 1  # our next sequence number
        self.segments: list[Segment] = []
        os.set_blocking(tun, False)

    def accept(self, *, ecn: bool = True, late: str = "") -> Segment:
        """Have the socket connect, agree to ECN or not, and return the SYN.

        ``late`` names a congestion control to be set when the SYN is on its way.
        """
        self.sock.setblocking(False)
        self.sock.connect_ex((socket.inet_ntop(self.sock.family, self.remote), PORT))
        self.wait(lambda: bool(self.read()))
        syn = self.segments[0]
        if late:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, late.encode())
        while not self._is_established():  # for an IPv6 address takes a moment until it is the host's
            self._send(SYN | ACK | (ECE if ecn else 0), self.own, self.theirs + 1, SYN_OPTIONS)
            select.select([self.tun], [], [], 0.1)
        self.own += 1
        self.sent = self.acknowledged = 1
        self.sock.setblocking(True)
        self.read()
        return syn

    def _is_established(self) -> bool:
        return tcp_info(self.sock)["state"] == 1

    def acknowledge(
        self, size: int, *, ece: bool = False, sack: tuple[int, int] | None = None
    ) -> list[Segment]:
        """Acknowledge so many bytes more, and return what the kernel sends then.

        ``sack`` is a block (first byte, byte after the last) that has come in beyond what is acknowledged.
        """
        self.acknowledged += size
        options = b""
        if sack:
            first, end = ((self.theirs + number) & 0xFFFFFFFF for number in sack)
            options = bytes((1, 1, 5, 10)) + struct.pack("!II", first, end)
        return self._deliver(ACK | (ECE if ece else 0), options, b"", NOT_ECT)

    def send_data(self, size: int, *, ecn: int = ECT0, flags: int = 0) -> list[Segment]:
        """Send data with a codepoint in the IP header, and return what the kernel sends then."""
        answer = self._deliver(ACK | PSH | flags, b"", bytes(size), ecn)
        self.own += size
        return answer

    def _deliver(self, flags: int, options: bytes, data: bytes, ecn: int) -> list[Segment]:
        before = len(self.segments)
        taken = tcp_info(self.sock)["segs_in"]
        self._send(flags, self.own, self.theirs + self.acknowledged, options, data, ecn)
        self.wait(lambda: tcp_info(self.sock)["segs_in"] > taken)
        self.read()
        return self.segments[before:]

    def read(self) -> bool:
        """Take what the kernel has sent; whether there was something."""
        count = len(self.segments)
        while True:
            try:
                packet = os.read(self.tun, 65536)
            except BlockingIOError:
                return len(self.segments) > count
            if parsed := self._parsed(packet):
                self.segments.append(parsed)
                self.sent = max(self.sent, parsed.sequence + parsed.size)

    def _parsed(self, packet: bytes) -> Segment | None:
        if packet[0] >> 4 == 4:
            start, ecn, protocol = (packet[0] & 15) * 4, packet[1] & 3, packet[9]
        else:
            start, ecn, protocol = 40, packet[1] >> 4 & 3, packet[6]
        if protocol != socket.IPPROTO_TCP:
            return None
        source, _, sequence, number, offset, flags = struct.unpack_from("!HHIIBB", packet, start)
        if flags & SYN:
            self.port, self.theirs = source, sequence
        elif source != self.port:
            return None  # of a connection before this one
        size = len(packet) - start - (offset >> 4) * 4
        received = number - FIRST if flags & ACK else 0
        return Segment((sequence - self.theirs) & 0xFFFFFFFF, received, flags, ecn, size)

    def _send(
        self,
        flags: int,
        sequence: int,
        number: int,
        options: bytes = b"",
        data: bytes = b"",
        ecn: int = NOT_ECT,
    ) -> None:
        offset = (20 + len(options)) // 4 << 4
        head = struct.pack("!HHIIBBH", PORT, self.port, sequence, number & 0xFFFFFFFF, offset, flags, 0xFFFF)
        body = head + bytes(4) + options + data
        if self.sock.family == socket.AF_INET6:
            pseudo = self.remote + self.local + struct.pack("!II", len(body), socket.IPPROTO_TCP)
            header = struct.pack("!IHBB", 6 << 28 | ecn << 20, len(body), socket.IPPROTO_TCP, 64)
            header += self.remote + self.local
        else:
            pseudo = self.remote + self.local + struct.pack("!HH", socket.IPPROTO_TCP, len(body))
            fields = (0x45, ecn, 20 + len(body), 0, 0, 64, socket.IPPROTO_TCP)
            header = struct.pack("!BBHHHBBH", *fields, 0) + self.remote + self.local
            header = header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]
        checksum = internet_checksum(pseudo + body + bytes(len(body) % 2))
        os.write(self.tun, header + body[:16] + struct.pack("!H", checksum) + body[18:])

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, "the kernel did not answer"
            select.select([self.tun], [], [], 0.005)
