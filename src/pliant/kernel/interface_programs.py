# SPDX-License-Identifier: Apache-2.0
"""Programs that others may have put where packets pass: tcx on interfaces, and netfilter by BPF links."""

from __future__ import annotations

import errno as codes
import struct
from dataclasses import dataclass

from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.links import Link, LinkType
from pliant.kernel.syscall import address, attributes, missing, object_ids, object_info, try_bpf
from pliant.kernel.uapi import AttachType, Command

_DIRECTIONS = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
_ROOM = 64  # programs at one hook: BPF_MPROG_MAX
_NETFILTER = struct.Struct("=IIiI")  # bpf_link_info.netfilter
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


@dataclass(frozen=True, slots=True)
class TcxProgram:
    """A program at an interface's tcx hook; ``direction`` is ingress or egress."""

    interface: int
    direction: str
    program_id: int


@dataclass(frozen=True, slots=True)
class NetfilterLink:
    """A program at a netfilter hook, of some network namespace: the kernel does not say which.

    ``family`` is 4 or 6.
    """

    link_id: int
    family: int
    hook: str
    priority: int
    program_id: int


def tcx_programs(index: int) -> tuple[TcxProgram, ...]:
    """The programs at both tcx hooks of an interface of the calling thread's namespace, in the order they run.

    None where the interface is gone, and before Linux 6.6.
    """
    return tuple(p for direction in _DIRECTIONS for p in _query(index, direction))


def _query(index: int, direction: str) -> list[TcxProgram]:
    ids = bytearray(4 * _ROOM)
    attr = attributes("IIIIQIIQQQQ", index, _DIRECTIONS[direction], 0, 0, address(ids), _ROOM, 0, 0, 0, 0, 0)
    result = try_bpf(Command.PROG_QUERY, attr)
    if result in (-codes.ENOENT, -codes.ENODEV, -codes.EINVAL):
        return []
    if result < 0:
        raise kernel_error(-result, f"list the tcx programs of interface {index}")
    (count,) = struct.unpack_from("=I", attr, 24)
    return [TcxProgram(index, direction, number) for number in struct.unpack_from(f"={count}I", ids)]


class NetfilterLinks:
    """The host's netfilter links. Each link is looked at once, for one that has an id keeps its type."""

    def __init__(self) -> None:
        self._others: set[int] = set()
        self._ids: list[int] = []

    def read(self) -> tuple[tuple[NetfilterLink, ...], bool]:
        """The links there are now, and whether links of any type came or went. Raises :class:`KernelError`."""
        ids = list(object_ids(Command.LINK_GET_NEXT_ID))
        changed, self._ids = ids != self._ids, ids
        self._others &= set(ids)
        found = (self._look(number) for number in ids if number not in self._others)
        return tuple(link for link in found if link is not None), changed

    def _look(self, number: int) -> NetfilterLink | None:
        try:
            with Link.by_id(number) as link:
                if link.type is not LinkType.NETFILTER:
                    self._others.add(number)
                    return None
                info = object_info(link.fileno(), 16 + _NETFILTER.size)
        except KernelError as error:
            if missing(error):
                return None
            raise
        family, hook, priority, _ = _NETFILTER.unpack_from(info, 16)
        name = _HOOKS[hook] if hook < len(_HOOKS) else str(hook)
        (program,) = struct.unpack_from("=I", info, 8)
        return NetfilterLink(number, 4 if family == 2 else 6, name, priority, program)
