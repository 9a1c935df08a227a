# SPDX-License-Identifier: Apache-2.0
"""Capturing what comes in by interfaces that have a fast path, whatever becomes of it.

What a fast path redirects or drops no socket sees: BPF programs tell of it, :mod:`pliant.fastpath.capture_programs`.
All else comes by a packet socket, and a copy of the fast path's program is asked why it has left a packet to the
kernel. Both end with the descriptors that are held here, however this process ends, and the fast path's own programs
are not touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pliant.closing import Closable
from pliant.errors import PliantError
from pliant.fastpath.capture_file import Stored
from pliant.fastpath.capture_programs import (
    INSTRUCTION_BYTES,
    INSTRUCTIONS_MAX,
    CapturePrograms,
    Record,
    Running,
)
from pliant.fastpath.counters import ACCELERATED, DROPPED, LEFT, read_counters
from pliant.fastpath.frame import line_of, read_frame
from pliant.fastpath.packet_explanation import code_of, sentence_of
from pliant.fastpath.trial import Trial
from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.programs import Program
from pliant.kernel.ring_buffer import RingBuffer
from pliant.observe.fastpath import (
    FastpathPins,
    Mode,
    Port,
    hooked_program,
    read_fastpath,
    running_build,
)

SNAPSHOT_MAX = 4096
"""The most bytes of a packet that are kept: more than XDP has in one piece."""
_LOOK_AGAIN_S = 0.5
_ACTIONS = {DROPPED: 1, LEFT: 2, ACCELERATED: 4}  # enum xdp_action
_ETH_P_ALL = 3
_SOL_PACKET, _STATISTICS, _IGNORE_OUTGOING = 263, 6, 23
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_ROOM_BYTES = 1 << 23
_TIME = struct.Struct("=qq")  # struct timespec


class Tally(NamedTuple):
    """Accelerated and dropped packets that were seen, those that the filter wanted, and all packets lost.

    Lost are those that nobody has read in time. ``dropped`` is how many fast paths say that they have dropped
    meanwhile, whatever the filter says, and ``unseen`` how many of these have not been seen.
    """

    seen: int
    wanted: int
    lost: int
    dropped: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Captured:
    """A packet that came in, and the ``verdict`` of the fast path.

    An accelerated one is as it leaves by ``out``, or as it came where that is empty (at tc); for others ``reason`` is
    why they are not, where that is known.
    """

    packet: Stored
    verdict: str
    out: str = ""
    reason: str = ""

    @property
    def action(self) -> int:
        """What an XDP program returns for it."""
        return _ACTIONS[self.verdict]

    @property
    def sentence(self) -> str:
        """What became of it."""
        if self.verdict == DROPPED:
            return "dropped (nftables)"
        if self.verdict == ACCELERATED:
            return f"> {self.out}" if self.out else "accelerated"
        return f"kernel ({self.reason})" if self.reason else "kernel"

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        known = bool(self.reason)
        return {
            "timeNs": self.packet.time_ns,
            "in": self.packet.interface,
            "verdict": self.verdict,
            "out": self.out or None,
            "reason": {"code": code_of(self.reason), "sentence": sentence_of(self.reason)} if known else None,
            "packet": line_of(read_frame(self.packet.data)),
            "bytes": self.packet.length,
        }

    def line(self) -> str:
        """A line about it in the manner of tcpdump(8), in local time."""
        seconds, rest = divmod(self.packet.time_ns, 10**9)
        when = time.strftime("%H:%M:%S", time.localtime(seconds))
        what = line_of(read_frame(self.packet.data))
        return f"{when}.{rest // 1000:06d} {self.packet.interface} {self.sentence}: {what}"


class _Interface:
    """An interface with a fast path: its socket, and a copy of its program to ask."""

    def __init__(self, pins: FastpathPins, port: Port, build: str, name: str, filter: bytes) -> None:
        self.port, self.name = port, name
        with Program.pinned(pins.program(port, build)) as program:
            self.program = program.id
        self._trial: Trial | None = None
        self._lost = 0
        with contextlib.suppress(KernelError):  # of another build: its packets have no reason then
            self._trial = Trial(pins, port, build)
        self.socket = _listen(name, filter)

    def judged(self, stored: Stored, data: bytes) -> Captured:
        """A packet that the socket has: one that XDP has left to the kernel, or any where the fast path is at tc."""
        verdict = self._trial.run(data) if self._trial else None
        if verdict is None:
            return Captured(stored, LEFT)
        if verdict.is_dropped:
            return Captured(stored, LEFT, reason="refused")
        if not verdict.is_forwarded:
            return Captured(stored, LEFT, reason=verdict.reason)
        if self.port.mode is Mode.TC:
            return Captured(stored, ACCELERATED)
        return Captured(stored, LEFT, reason="confirming")

    def lost(self) -> int:
        """Packets that did not fit into the socket's queue so far."""
        self._lost += struct.unpack("=II", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))[1]
        return self._lost

    def close(self) -> None:
        self.socket.close()
        if self._trial is not None:
            self._trial.close()


def _listen(name: str, filter: bytes) -> socket.socket:
    """A socket for what comes in by an interface; the kernel itself filters."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        if filter:
            code = ctypes.create_string_buffer(filter)
            program = struct.pack("HxxxxxxP", len(filter) // INSTRUCTION_BYTES, ctypes.addressof(code))
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
        made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        made.bind((name, _ETH_P_ALL))
    except OSError as error:
        made.close()
        raise kernel_error(error.errno or 0, f"listen on {name}") from error
    return made


class Capture(Closable):
    """What comes in by interfaces with a fast path, packet by packet; closing it detaches.

    ``filter`` is classic BPF, as :func:`~pliant.kernel.libpcap.compile_filter` makes it; empty: everything. Interfaces
    are the calling thread's namespace's. Raises :class:`PliantError` where none of them has a fast path, or the filter
    is too long.
    """

    def __init__(
        self,
        pins: FastpathPins,
        devices: Sequence[str] = (),
        *,
        filter: bytes = b"",
        snapshot: int = SNAPSHOT_MAX,
    ) -> None:
        if len(filter) > INSTRUCTIONS_MAX * INSTRUCTION_BYTES:
            length = len(filter) // INSTRUCTION_BYTES
            raise PliantError(
                f"the filter has {length} instructions, {INSTRUCTIONS_MAX} are possible",
                remedy="ask for less at once",
            )
        self._pins, self._devices, self._filter = pins, frozenset(devices), filter
        self._snapshot = min(snapshot, SNAPSHOT_MAX)
        self._interfaces: dict[Port, _Interface] = {}
        self._names: Mapping[int, str] = {}
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._programs = CapturePrograms(filter, self._snapshot)
        try:
            self._follow()
            if not self._interfaces:
                raise _nothing(self._devices)
            self._dropped_before = self._dropped()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Detach everything."""
        for interface in self._interfaces.values():
            interface.close()
        self._interfaces.clear()
        self._programs.close()

    @property
    def interfaces(self) -> list[str]:
        """Those that are captured now."""
        return sorted(interface.name for interface in self._interfaces.values())

    @property
    def limits(self) -> list[str]:
        """What cannot be seen on this kernel, as sentences."""
        found = [self._programs.blind] if self._programs.blind else []
        generic = sorted(i.name for i in self._interfaces.values() if i.port.mode is Mode.GENERIC)
        if generic and not self._programs.sees_generic:
            found.append(f"{', '.join(generic)}: in generic mode; what is accelerated there cannot be seen")
        return found

    def _follow(self) -> None:
        """Go along with fast paths that come, are replaced, and go."""
        self._names = dict(socket.if_nameindex())
        running = {}
        for port in self._pins.ports():
            name = self._names.get(port.ifindex, "")
            if (
                name
                and (not self._devices or name in self._devices)
                and (build := running_build(self._pins, port))
            ):
                running[port] = build
        for port in self._interfaces.keys() - running.keys():
            self._forget(port)
        for port, build in running.items():
            with Program.pinned(self._pins.program(port, build)) as program:
                if port in self._interfaces and self._interfaces[port].program != program.id:
                    self._forget(port)
            if port not in self._interfaces:
                made = _Interface(self._pins, port, build, self._names[port.ifindex], self._filter)
                self._interfaces[port] = made
        by_xdp = [port for port in self._interfaces if port.mode is not Mode.TC]
        self._programs.watch({Running(hooked_program(self._pins, port), *port) for port in by_xdp})

    def _forget(self, port: Port) -> None:
        self._interfaces.pop(port).close()

    def packets(self, timeout_s: float | None = None) -> Iterator[list[Captured]]:
        """What comes, in batches in the order of time; an empty one now and then. Without a time it does not end."""
        began = looked = time.monotonic()
        while timeout_s is None or time.monotonic() < began + timeout_s:
            sources: list[RingBuffer | socket.socket] = [self._programs.ring]
            sources += [interface.socket for interface in self._interfaces.values()]
            select.select(sources, [], [], _LOOK_AGAIN_S / 5)
            found = [*self._left_to_kernel(), *map(self._decided, self._programs.records())]
            yield sorted(found, key=lambda captured: captured.packet.time_ns)
            if time.monotonic() > looked + _LOOK_AGAIN_S:
                looked = time.monotonic()
                with contextlib.suppress(KernelError):  # in the middle of a change: next time
                    self._follow()

    def _decided(self, record: Record) -> Captured:
        """A packet that the kernel does not see."""
        name = self._names.get(record.came_in, str(record.came_in))
        stored = Stored(record.time_ns + self._epoch_ns, name, record.length, record.data)
        if record.verdict == _ACTIONS[DROPPED]:
            return Captured(stored, DROPPED, reason=DROPPED)
        return Captured(stored, ACCELERATED, out=self._names.get(record.out, str(record.out)))

    def _left_to_kernel(self, most: int = 256) -> Iterator[Captured]:
        for interface in self._interfaces.values():
            with contextlib.suppress(BlockingIOError, OSError):
                for _ in range(most):
                    data, ancillary, _, _ = interface.socket.recvmsg(1 << 16, 64)
                    stamp = next((value for _, kind, value in ancillary if kind == _SO_TIMESTAMPNS), None)
                    seconds, rest = _TIME.unpack(stamp) if stamp else divmod(time.time_ns(), 10**9)
                    stored = Stored(seconds * 10**9 + rest, interface.name, len(data), data[: self._snapshot])
                    yield interface.judged(stored, data)

    def tally(self) -> Tally:
        """How many packets there were so far."""
        dropped = (
            self._dropped() - self._dropped_before
        )  # before the others, so as not to miss one in between
        found = self._programs.tally()
        lost = found.lost + sum(interface.lost() for interface in self._interfaces.values())
        return Tally(found.seen, found.wanted, lost, dropped, max(dropped - found.dropped, 0))

    def _dropped(self) -> int:
        counted = read_counters(self._pins, read_fastpath(self._pins)).items()
        of_these = [one for key, one in counted if key.verdict == DROPPED and self._is_wanted(key.interface)]
        return sum(one.packets for one in of_these)

    def _is_wanted(self, name: str) -> bool:
        return not self._devices or name in self._devices


def _nothing(devices: frozenset[str]) -> PliantError:
    where = f"{', '.join(sorted(devices))} has no fast path" if devices else "no interface has a fast path"
    return PliantError(
        f"there is nothing to capture: {where}",
        remedy="'pliant fastpath status' lists those that have one; where there is none, tcpdump sees everything",
    )
