# SPDX-License-Identifier: Apache-2.0
"""A link carried by the relay: its devices, its process, its settings and its counters, seen by the owner."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import sys
from contextlib import ExitStack, suppress

from pliant.errors import PliantError
from pliant.lab import interface, relay
from pliant.lab.medium import MTU, Ends, PathStatistics, device_counters
from pliant.lab.path import PathSettings
from pliant.lab.queue_record import QueueRecord, read_recording

_ROW = struct.Struct(f"{len(relay.FIELDS)}Q")  # one direction's counters in the shared memory
_ANSWER_S = 10.0
_DEVICE_QUEUE = 10_000  # packets; holds what arrives while the relay waits for a processor


class RelayMedium:
    """Two TUN devices and the process between them, which lives and dies with the first host."""

    kind = "relay"

    def __init__(
        self,
        ends: Ends,
        settings: tuple[PathSettings, PathSettings],
        *,
        offloads: bool,
        seed: int,
        record_packets: int = 0,
    ) -> None:
        self.ends = ends
        self._recordings: list[mmap.mmap] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_S)
        memory = os.memfd_create("pliant-lab-relay")
        os.ftruncate(memory, mmap.PAGESIZE)
        with ExitStack() as ours:  # the relay has its own copies
            ours.callback(os.close, memory)
            ours.callback(theirs.close)
            self._counters = mmap.mmap(memory, mmap.PAGESIZE, prot=mmap.PROT_READ)
            tuns = []
            for host, name in ends:
                with host.inside():
                    tuns.append(interface.open_tun(name, offloads=offloads))
                ours.callback(os.close, tuns[-1])
            recording = self._make_recordings(record_packets, ours) if record_packets else None
            setup = {
                "tun": tuns,
                "control": theirs.fileno(),
                "statistics": memory,
                "recording": recording,
                "header": relay.VNET_HEADER.size if offloads else 0,
                "seed": seed,
                "directions": [setting.as_json() for setting in settings],
            }
            self.process = ends[0][0].spawn(
                [sys.executable, "-I", "-S", relay.__file__, json.dumps(setup)],
                service="relay",
                pass_fds=[*tuns, theirs.fileno(), memory, *(recording or ())],
            )
        try:
            self._await_answer()
        except BaseException:
            self.close()
            raise
        for host, name in ends:
            with suppress(FileNotFoundError):  # a kernel without IPv6
                host.sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", "1")  # no link-local address, no chatter
            host.ip(f"link set {name} mtu {MTU} txqueuelen {_DEVICE_QUEUE} multicast off up")

    def _make_recordings(self, packets: int, ours: ExitStack) -> list[int]:
        """One ring for each direction, mapped here; return the descriptors, which the stack closes."""
        descriptors = []
        for _ in self.ends:
            memory = os.memfd_create("pliant-lab-recording")
            ours.callback(os.close, memory)
            os.ftruncate(memory, relay.RECORDING_HEADER.size + packets * relay.PASSAGE.size)
            self._recordings.append(mmap.mmap(memory, 0, prot=mmap.PROT_READ))
            descriptors.append(memory)
        return descriptors

    def recording(self, direction: int) -> QueueRecord:
        """Return when the latest packets of one direction were in the queue; raises PliantError without a recording."""
        if not self._recordings:
            raise PliantError(
                "this link does not record its queues", remedy="make it with lab.link(..., record_packets=N)"
            )
        return read_recording(self._recordings[direction])

    def _await_answer(self) -> None:
        try:
            answer = self._control.recv(16)
        except OSError:
            answer = b""
        if answer != b"ok":
            names = " and ".join(host.name for host, _ in self.ends)
            raise PliantError(f"the relay between {names} does not answer: {self.process.output.strip()}")

    def change(self, settings: dict[int, PathSettings]) -> None:
        """Have the relay take new settings, and wait until it has."""
        message = {str(direction): setting.as_json() for direction, setting in settings.items()}
        with suppress(BrokenPipeError):
            self._control.send(json.dumps(message).encode())
        self._await_answer()

    def statistics(self, direction: int) -> PathStatistics:
        """Return what the relay has counted."""
        host, name = self.ends[direction]
        row = dict(zip(relay.FIELDS, _ROW.unpack_from(self._counters, direction * _ROW.size), strict=True))
        return PathStatistics(**row, overruns=device_counters(host, name).get("tx_drop", 0))

    def cpu_s(self) -> float:
        """Return the processor time the relay has used, in seconds."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Stop the relay; the devices go with it."""
        self._control.close()
        self.process.stop()
