# SPDX-License-Identifier: Apache-2.0
"""BPF programs through a descriptor: what they are, what they cost, and running them on given input."""

from __future__ import annotations

import errno as codes
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pliant.kernel.descriptor import Descriptor
from pliant.kernel.errors import NotSupported, kernel_error
from pliant.kernel.syscall import address, attributes, descriptor_of_id, object_ids, object_info, try_bpf
from pliant.kernel.uapi import TEST_RUN_LIVE_FRAMES, Command, ProgramType

__all__ = ["Program", "ProgramType", "RunTime", "TestRun", "program_ids"]

_INFO_BYTES = 232
_TRANSLATED_BYTES, _MAP_COUNT, _NAME, _RUN_TIME, _VERIFIED = 20, 52, 64, 192, 216
_INSTRUCTION_BYTES = 8
_ROOM = 512  # what a program may add to a packet in a test run, in bytes


@dataclass(frozen=True, slots=True)
class TestRun:
    """Result of a test run; ``duration_ns`` is the mean of one run."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    retval: int
    data_out: bytes
    duration_ns: int
    context_out: bytes


@dataclass(frozen=True, slots=True)
class RunTime:
    """Runs of a program and the nanoseconds they took, counted while run-time statistics are on."""

    runs: int
    nanoseconds: int
    recursion_misses: int


class Program(Descriptor):
    """A loaded program; ``name`` is cut at 15 characters, ``tag`` is the hash of its instructions."""

    kind = "program"
    inode = "bpf-prog"

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = object_info(fd, _INFO_BYTES)
        number, self.id = struct.unpack_from("=II", info)
        self.type = ProgramType(number)
        self.tag = info[8:16].hex()
        self.name = info[_NAME : _NAME + 16].rstrip(b"\0").decode()

    def __repr__(self) -> str:
        return f"<Program {self.name} id={self.id} {self.type.name}>"

    @classmethod
    def by_id(cls, number: int) -> Program:
        """Open a program of this host by its id; raise :class:`KernelError` (ENOENT) when there is none."""
        return cls(descriptor_of_id(Command.PROG_GET_FD_BY_ID, number))

    @functools.cached_property
    def map_ids(self) -> tuple[int, ...]:
        """Ids of the maps the program uses, in its order."""
        count = struct.unpack_from("=I", object_info(self.fileno(), _INFO_BYTES), _MAP_COUNT)[0]
        numbers = bytearray(4 * count)
        request = bytearray(_INFO_BYTES)
        struct.pack_into("=IQ", request, _MAP_COUNT, count, address(numbers))
        object_info(self.fileno(), _INFO_BYTES, request)
        return struct.unpack(f"={count}I", numbers)

    @property
    def verified_instructions(self) -> int:
        """How many instructions the verifier has gone through, on all paths; 0 before Linux 5.16."""
        return int(struct.unpack_from("=I", object_info(self.fileno(), _INFO_BYTES), _VERIFIED)[0])

    @property
    def instructions(self) -> int:
        """How many it has, once the verifier has removed what cannot be reached and inlined what the kernel inlines."""
        found = struct.unpack_from("=I", object_info(self.fileno(), _INFO_BYTES), _TRANSLATED_BYTES)[0]
        return int(found) // _INSTRUCTION_BYTES

    def run_time(self) -> RunTime:
        """Runs and time so far; counted only within :func:`~pliant.kernel.run_time.run_time_statistics`."""
        nanoseconds, runs, misses = struct.unpack_from(
            "=QQQ", object_info(self.fileno(), _INFO_BYTES), _RUN_TIME
        )
        return RunTime(runs, nanoseconds, misses)

    def test_run(
        self,
        data: bytes = b"",
        *,
        repeat: int = 1,
        ctx: bytes | None = None,
        flags: int = 0,
        cpu: int = 0,
        batch_size: int = 0,
    ) -> TestRun:
        """Run the program on a packet, a context, or both (BPF_PROG_TEST_RUN).

        ``flags`` as in ``bpf(2)``; with BPF_F_TEST_XDP_LIVE_FRAMES nothing comes back. Raises
        :class:`NotSupported` for types of program that cannot be run so (``sock_ops`` among them).
        """
        given, context = bytearray(data), bytearray(ctx or b"")
        live = flags & TEST_RUN_LIVE_FRAMES
        output = bytearray(len(data) + _ROOM if data and not live else 0)
        context_out = bytearray(0 if live else len(context))
        attr = attributes(
            "IIIIQQIIIIQQIII",
            *(self.fileno(), 0, len(given), len(output), address(given), address(output), repeat, 0),
            *(len(context), len(context_out), address(context), address(context_out), flags, cpu, batch_size),
        )
        result = try_bpf(Command.PROG_TEST_RUN, attr)
        if result < 0:
            action = f"test-run the program {self.name} ({self.type.name.lower()})"
            if result in (-codes.EOPNOTSUPP, -524):
                raise NotSupported(f"cannot {action}: not for this type of program", errno=-result)
            raise kernel_error(-result, action)
        retval, _, size = struct.unpack_from("=III", attr, 4)
        duration, _, context_size = struct.unpack_from("=III", attr, 36)
        return TestRun(retval, bytes(output[:size]), duration, bytes(context_out[:context_size]))


def program_ids() -> Iterator[int]:
    """Run through the ids of all programs of the host."""
    return object_ids(Command.PROG_GET_NEXT_ID)
