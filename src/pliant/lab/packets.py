# SPDX-License-Identifier: Apache-2.0
"""Packets by the million: a source that the kernel runs on frames of its own, and a sink that counts and drops."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pliant.kernel.links import XdpMode, attach_xdp
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.uapi import TEST_RUN_LIVE_FRAMES

if TYPE_CHECKING:
    from pliant.lab.host import Host

FRAME_BYTES = 60
"""The shortest frame there is on Ethernet, without its check sequence."""
_TEMPLATE_BYTES = 128
_RUN_BYTES = 64  # what a run on live frames is given; it writes them anew
_ZERO = bytes(4)


class Interface(NamedTuple):
    """An interface of a lab host: its number and its address on the link."""

    number: int
    address: bytes


def interface(host: Host, name: str) -> Interface:
    """Look an interface of a lab host up."""
    [found] = json.loads(host.run(["ip", "-j", "link", "show", "dev", name]).stdout)
    return Interface(found["ifindex"], bytes.fromhex(found["address"].replace(":", "")))


def udp4_frame(to_mac: bytes, from_mac: bytes, source: str, destination: str) -> bytes:
    """A frame of the shortest length with a UDP packet; the source of packets fills the header's checksum in."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, FRAME_BYTES - 14, 1, 0, 64, socket.IPPROTO_UDP, 0, addresses)
    udp = struct.pack("!HHHH", 1234, 9, FRAME_BYTES - 34, 0)
    return (to_mac + from_mac + b"\x08\x00" + ip + udp).ljust(FRAME_BYTES, b"\0")


class Sent(NamedTuple):
    """How many packets were sent, in how many seconds; everything they led to on the same core is in that time."""

    packets: int
    seconds: float


class PacketSource:
    """Sends copies of a frame out of an interface of a lab host, as fast as the core can.

    ``destinations``, a power of two, spreads them over as many networks of 256 addresses from the template's on.
    """

    def __init__(self, host: Host, name: str, frame: bytes, destinations: int = 1) -> None:
        self._host = host
        constants: dict[str, int | bytes] = {
            "template": frame.ljust(_TEMPLATE_BYTES, b"\0"),
            "destinations": destinations,
        }
        with host.inside():
            self._loaded = load(_object(), feature="source", rodata=constants, autoload=["source"])
            index = interface(host, name).number
            self._loaded.maps["out"].put(_ZERO, struct.pack("=I", index))

    def send(self, packets: int) -> Sent:
        """Send, and return when the last packet is where it ends on this core."""
        with self._host.inside():
            start = time.perf_counter()
            self._loaded.programs["source"].test_run(
                bytes(_RUN_BYTES), repeat=packets, flags=TEST_RUN_LIVE_FRAMES
            )
            return Sent(packets, time.perf_counter() - start)

    def close(self) -> None:
        """Unload it."""
        self._loaded.close()


def _object() -> Path:
    return Path(str(resources.files("pliant"))) / "objects" / "bench" / "packet_source.bpf.o"


class PacketSink:
    """Counts what arrives at an interface of a lab host, and drops it in the driver."""

    def __init__(self, packets: Map) -> None:
        self._packets = packets

    @property
    def packets(self) -> int:
        """How many have arrived so far."""
        value = self._packets.get(_ZERO)
        assert value is not None
        return sum(int.from_bytes(count, sys.byteorder) for count in self._packets.percpu(value))


@contextmanager
def packet_sink(host: Host, name: str) -> Iterator[PacketSink]:
    """A sink on an interface for the time of a block."""
    with ExitStack() as held:
        loaded = held.enter_context(load(_object(), feature="sink", autoload=["sink"]))
        index = interface(host, name).number
        with host.inside():
            held.enter_context(attach_xdp(loaded.programs["sink"], index, XdpMode.NATIVE))
        yield PacketSink(loaded.maps["packets"])
