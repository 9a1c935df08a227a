# SPDX-License-Identifier: Apache-2.0
"""The programs by which a capture sees what fast paths redirect and drop (bpf/capture), and their tables.

All are held by descriptors: they end with these, however the process ends.
"""

from __future__ import annotations

import contextlib
import errno as codes
import struct
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pliant.closing import Closable
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link, attach_tracing
from pliant.kernel.objects import load
from pliant.kernel.programs import Program
from pliant.kernel.ring_buffer import RingBuffer
from pliant.observe.fastpath import Mode

INSTRUCTIONS_MAX = 512
INSTRUCTION_BYTES = 8
_RECORD = struct.Struct("=QIIIII4x")  # struct captured in pliant/capture.h
_TALLY = struct.Struct("=QQQQ")
_RUNNING = struct.Struct("=II")
_SOURCE = struct.Struct("=I")
_FROM_QUEUE, _FROM_PROGRAM, _NOWHERE = range(3)  # enum source
_SHARED = ("current_packet", "packets", "watched", "tallies")
_NOT_ALL = "this kernel does not let the end of XDP programs be looked at (fexit)"


class Running(NamedTuple):
    """What is attached to an interface: the program's id, where, and how."""

    program: int
    ifindex: int
    mode: Mode


class Record(NamedTuple):
    """A packet that was seen: ``time_ns`` is of the monotonic clock, ``verdict`` that of XDP."""

    time_ns: int
    came_in: int
    out: int
    length: int
    verdict: int
    data: bytes


class ProgramTally(NamedTuple):
    """Packets that were seen, wanted by the filter, and lost; of those seen ``dropped`` were dropped by fast paths."""

    seen: int
    wanted: int
    lost: int
    dropped: int


class CapturePrograms(Closable):
    """What sees packets of XDP programs, for as long as it is not closed.

    ``filter`` is classic BPF; ``snapshot`` are the bytes that are kept of a packet.
    """

    def __init__(self, filter: bytes, snapshot: int) -> None:
        self._path = Path(str(resources.files("pliant"))) / "objects" / "capture" / "capture.bpf.o"
        self._constants: dict[str, int | bytes] = {
            "instructions": len(filter) // INSTRUCTION_BYTES,
            "filter": filter.ljust(INSTRUCTIONS_MAX * INSTRUCTION_BYTES, b"\0"),
            "snapshot": snapshot,
        }
        self._held = contextlib.ExitStack()
        self._ends: dict[int, Link] = {}
        self._watched: frozenset[Running] = frozenset()
        self._lacks_ends = False
        self.blind = ""
        """What cannot be seen of what is dropped, as a sentence; empty where all can."""
        try:
            loaded = self._held.enter_context(load(self._path, feature="capture", rodata=self._constants))
            self._tables = {name: loaded.maps[name] for name in _SHARED}
            self.ring = self._held.enter_context(RingBuffer(self._tables["packets"]))
            self._held.enter_context(attach_tracing(loaded.programs["redirected"]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Detach everything."""
        for link in self._ends.values():
            link.close()
        self._ends.clear()
        self._held.close()

    @property
    def sees_generic(self) -> bool:
        """Whether packets that are redirected in generic mode are seen."""
        return not self._lacks_ends

    def watch(self, running: Collection[Running]) -> None:
        """See what these do, and nothing else; programs at tc are not for here."""
        for program in {one.program for one in running} - self._ends.keys():
            if not self._lacks_ends:
                self._look_at_end(program)
        wanted, table = frozenset(running), self._tables["watched"]
        for one in self._watched - wanted:
            table.delete(_RUNNING.pack(one.program, one.ifindex))
        for one in wanted:
            table.put(_RUNNING.pack(one.program, one.ifindex), _SOURCE.pack(self._source(one.mode)))
        self._watched = wanted
        for program in self._ends.keys() - {one.program for one in running}:
            self._ends.pop(program).close()

    def _source(self, mode: Mode) -> int:
        if mode is not Mode.GENERIC:
            return _FROM_QUEUE
        return _FROM_PROGRAM if self.sees_generic else _NOWHERE

    def _look_at_end(self, number: int) -> None:
        try:
            with Program.by_id(number) as target:
                self._ends[number] = self._attach("ended", target)
        except KernelError as error:
            if error.errno == codes.ENOENT:  # it has just gone
                return
            self._lacks_ends = True
            self._look_at_freed()

    def _look_at_freed(self) -> None:
        """The second best, which does not see what has never been a socket's buffer."""
        try:
            self._held.enter_context(self._attach("freed", None))
            self.blind = f"{_NOT_ALL}: packets that a driver drops in place may not be seen, but are counted"
        except KernelError as error:
            self.blind = (
                f"packets that are dropped in place are counted, not seen: {_NOT_ALL}, and {error.message}"
            )

    def _attach(self, name: str, target: Program | None) -> Link:
        constants = {**self._constants, "attached": target.id} if target else self._constants
        with load(
            self._path,
            feature="capture",
            rodata=constants,
            reuse=self._tables,
            autoload=(name,),
            target=target,
        ) as loaded:
            return attach_tracing(loaded.programs[name])

    def records(self) -> Iterator[Record]:
        """The packets that have come since."""
        for record in self.ring.read():
            at, came_in, out, length, kept, verdict = _RECORD.unpack_from(record)
            data = record[_RECORD.size : _RECORD.size + kept]
            yield Record(at, came_in, out, length, verdict, data)

    def tally(self) -> ProgramTally:
        """How many packets there were so far, of all CPUs."""
        tallies = self._tables["tallies"]
        rows = map(_TALLY.unpack, tallies.percpu(tallies.get(bytes(4)) or b""))
        return ProgramTally(*(sum(column) for column in zip(*rows, strict=True)))
