# SPDX-License-Identifier: Apache-2.0
"""Which programs are attached to a cgroup, by whomever, and how they share the hook."""

from __future__ import annotations

import errno as codes
import os
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.programs import Program
from pliant.kernel.syscall import address, attributes, missing, try_bpf
from pliant.kernel.uapi import PERMIT_MULTI, PERMIT_OVERRIDE, QUERY_EFFECTIVE, AttachType, Command

_ATTRIBUTES = "IIIIQIIQ"


class Sharing(Enum):
    """What the hook of a cgroup lets others do, by the flags its first program was attached with."""

    EXCLUSIVE = "exclusive"
    """No other program, neither here nor in a cgroup below."""
    OVERRIDE = "override"
    """A program of a cgroup below takes the place of this one."""
    MULTI = "multi"
    """Any number of programs, here and below, all of which run."""


@dataclass(frozen=True, slots=True)
class AttachedProgram:
    """A program at a cgroup's hook; ``sharing`` is None in the effective list, which has no flags."""

    program_id: int
    name: str
    sharing: Sharing | None


def attached(
    cgroup: Path, attach_type: AttachType, *, effective: bool = False
) -> tuple[AttachedProgram, ...]:
    """List the programs at a cgroup's hook in the order they run; ``effective`` adds the inherited ones.

    Raises :class:`KernelError` for a cgroup that is gone (``errno`` ENOENT) and for hooks that are not a
    cgroup's.
    """
    action = f"list the programs of {cgroup} at {attach_type.spoken}"
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise kernel_error(error.errno or 0, action) from error
    try:
        flags, ids = _query(directory, attach_type, QUERY_EFFECTIVE if effective else 0, action)
    finally:
        os.close(directory)
    sharing = None if effective else _sharing(flags)
    return tuple(AttachedProgram(number, _name(number), sharing) for number in ids)


def exclusive_owner(cgroup: Path, attach_type: AttachType) -> AttachedProgram | None:
    """Find the program that keeps others from this cgroup's hook, attached here or above; None if none.

    One attached with BPF_F_ALLOW_OVERRIDE counts, here and above: a link cannot join it in the same cgroup, and one
    in a cgroup below takes its place there without a word (kernel/bpf/cgroup.c: ``compute_effective_progs()``),
    unless another program in between has done so already.
    """
    replaced = False
    for directory in (cgroup, *cgroup.parents):
        try:
            found = attached(directory, attach_type)
        except KernelError:  # above the root of the hierarchy
            return None
        if not found:
            continue
        if found[0].sharing is Sharing.EXCLUSIVE or (found[0].sharing is Sharing.OVERRIDE and not replaced):
            return found[0]
        if directory != cgroup:  # what shares the hook here lets others do so below, whatever is further up
            return None
        replaced = True
    return None


def _query(directory: int, attach_type: AttachType, flags: int, action: str) -> tuple[int, tuple[int, ...]]:
    room = 64
    while True:
        numbers = bytearray(4 * room)
        attr = attributes(_ATTRIBUTES, directory, attach_type, flags, 0, address(numbers), room, 0, 0)
        result = try_bpf(Command.PROG_QUERY, attr)
        count = struct.unpack_from("=I", attr, 24)[0]
        if result == -codes.ENOSPC:
            room = max(count, 2 * room)
            continue
        if result < 0:
            raise kernel_error(-result, action)
        return struct.unpack_from("=I", attr, 12)[0], struct.unpack_from(f"={count}I", numbers)


def _sharing(flags: int) -> Sharing:
    if flags & PERMIT_MULTI:
        return Sharing.MULTI
    return Sharing.OVERRIDE if flags & PERMIT_OVERRIDE else Sharing.EXCLUSIVE


def _name(number: int) -> str:
    try:
        with Program.by_id(number) as program:
            return program.name
    except KernelError as error:
        if missing(error):  # replaced meanwhile
            return ""
        raise
