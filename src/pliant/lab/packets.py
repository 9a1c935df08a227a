# SPDX-License-Identifier: Apache-2.0
"""Packets by the million: a source that the kernel runs on frames of its own, and a sink that counts and drops."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pliant.errors import PliantError
from pliant.kernel.links import XdpMode, attach_xdp
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.programs import Program
from pliant.kernel.uapi import TEST_RUN_LIVE_FRAMES

if TYPE_CHECKING:
    from pliant.lab.host import Host

HEAD_BYTES = 60
"""How much of a frame is written anew each time it is sent; the rest stays as it was."""
OUTS_MAX = 16
TIME_UNIT_NS = 128
_ENTRY_BYTES = 64
_U32 = struct.Struct("=I")
_ZERO = bytes(4)


class Interface(NamedTuple):
    """An interface of a lab host: its number and its address on the link."""

    number: int
    address: bytes


def interface(host: Host, name: str) -> Interface:
    """Look an interface of a lab host up."""
    [found] = json.loads(host.run(["ip", "-j", "link", "show", "dev", name]).stdout)
    return Interface(found["ifindex"], bytes.fromhex(found["address"].replace(":", "")))


class Sent(NamedTuple):
    """How many packets were sent, in how many seconds; everything they led to on the same core is in that time."""

    packets: int
    seconds: float


class PacketSource:
    """Sends frames out of interfaces of a lab host, one after the other and over again, as fast as the core can.

    ``frames`` are as long as each other, and of their number, as of that of the interfaces ``names``, there is a power
    of two: frame n leaves by interface n, and so on round and round. They may differ in their first
    :data:`HEAD_BYTES` only. Raises :class:`PliantError` for others.

    With ``stamps`` each packet, which then has to be UDP over IPv4 without a checksum, has the time it was sent in it,
    for :func:`packet_timer`.
    """

    def __init__(
        self, host: Host, names: Sequence[str], frames: Sequence[bytes], *, stamps: bool = False
    ) -> None:
        self._host, self._frame = host, frames[0]
        if any(len(f) != len(self._frame) or f[HEAD_BYTES:] != self._frame[HEAD_BYTES:] for f in frames):
            raise PliantError(f"frames to send differ in more than their first {HEAD_BYTES} bytes")
        if len(self._frame) < HEAD_BYTES:
            raise PliantError(f"frames to send have at least {HEAD_BYTES} bytes")
        masks: dict[str, int | bytes] = {
            "frames_mask": _power_of_two(frames) - 1,
            "outs_mask": _power_of_two(names) - 1,
            "stamps": int(stamps),
        }
        with host.inside():
            sizes = {"frames": len(frames)}
            self._loaded = load(
                _object(), feature="source", rodata=masks, max_entries=sizes, autoload=["source"]
            )
            outs = enumerate(interface(host, name).number for name in names)
            self._loaded.maps["outs"].put_many((_U32.pack(n), _U32.pack(index)) for n, index in outs)
        heads = (frame[:HEAD_BYTES].ljust(_ENTRY_BYTES, b"\0") for frame in frames)
        self._loaded.maps["frames"].put_many((_U32.pack(n), head) for n, head in enumerate(heads))

    def send(self, packets: int) -> Sent:
        """Send, and return when the last packet is where it ends on this core.

        The time is the kernel's own measure, in whole nanoseconds a packet, of the sending alone: a grace period of
        RCU, with which a run ends, takes as long as other cores like.
        """
        with self._host.inside():
            program = self._loaded.programs["source"]
            run = program.test_run(self._frame, repeat=packets, flags=TEST_RUN_LIVE_FRAMES)
            return Sent(packets, packets * run.duration_ns / 1e9)

    def close(self) -> None:
        """Unload it."""
        self._loaded.close()


def _power_of_two(what: Sequence[object]) -> int:
    number = len(what)
    if number & (number - 1) or not number:
        raise PliantError(f"{number} is no power of two, as the number of what is sent by turns has to be")
    return number


def _object() -> Path:
    return Path(str(resources.files("pliant"))) / "objects" / "bench" / "packet_source.bpf.o"


@contextmanager
def loaded_pass() -> Iterator[Program]:
    """A program named ``pass`` that leaves every packet to the kernel, for the time of a block."""
    with load(_object(), feature="pass", autoload=["pass"]) as loaded:
        yield loaded.programs["pass"]


class PacketSink:
    """Counts what arrives at interfaces of a lab host, and drops it in the driver."""

    def __init__(self, packets: Map) -> None:
        self._packets = packets

    @property
    def packets(self) -> int:
        """How many have arrived so far."""
        value = self._packets.get(_ZERO)
        assert value is not None
        return sum(int.from_bytes(count, sys.byteorder) for count in self._packets.percpu(value))


@contextmanager
def packet_sink(host: Host, *names: str) -> Iterator[PacketSink]:
    """A sink on interfaces for the time of a block."""
    with ExitStack() as held:
        loaded = held.enter_context(load(_object(), feature="sink", autoload=["sink"]))
        for name in names:
            index = interface(host, name).number
            with host.inside():
                held.enter_context(attach_xdp(loaded.programs["sink"], index, XdpMode.NATIVE))
        yield PacketSink(loaded.maps["packets"])


class PacketTimer:
    """How long packets that arrive at an interface of a lab host have been on their way."""

    def __init__(self, times: Map) -> None:
        self._times = times

    def counts(self) -> list[int]:
        """How many so far, by how many times :data:`TIME_UNIT_NS` they took; the last one has all that took longer."""
        value = self._times.get(_ZERO)
        assert value is not None
        of_cpus = [struct.unpack(f"={len(v) // 8}Q", v) for v in self._times.percpu(value)]
        return [sum(counts) for counts in zip(*of_cpus, strict=True)]


@contextmanager
def packet_timer(host: Host, name: str) -> Iterator[PacketTimer]:
    """Times what arrives at an interface and drops it in the driver, for the time of a block."""
    with ExitStack() as held:
        loaded = held.enter_context(load(_object(), feature="timer", autoload=["timer"]))
        index = interface(host, name).number
        with host.inside():
            held.enter_context(attach_xdp(loaded.programs["timer"], index, XdpMode.NATIVE))
        yield PacketTimer(loaded.maps["times"])
