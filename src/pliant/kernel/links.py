# SPDX-License-Identifier: Apache-2.0
"""BPF links: attaching a program so that it stays with a descriptor or a pin, and replacing it without a gap.

A link that is neither pinned nor held is detached by the kernel: keep what the ``attach_*`` functions return. After
its pin is removed that takes a moment; :meth:`Link.detach` is done when it returns.
Interfaces are looked up in the calling thread's network namespace.
"""

from __future__ import annotations

import errno as codes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from pliant.kernel import cgroup_query, clsact
from pliant.kernel.descriptor import Descriptor
from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program
from pliant.kernel.syscall import (
    address,
    attributes,
    bpf,
    descriptor_of_id,
    missing,
    object_ids,
    object_info,
    try_bpf,
)
from pliant.kernel.uapi import AFTER, BEFORE, PREORDER, RELATIVE_LINK, REPLACE, AttachType, Command, LinkType

__all__ = [
    "AttachType",
    "Link",
    "LinkInfo",
    "LinkType",
    "XdpMode",
    "all_links",
    "attach_cgroup",
    "attach_iterator",
    "attach_struct_ops",
    "attach_tcx",
    "attach_tcx_link",
    "attach_tracing",
    "attach_xdp",
]

_INFO_BYTES = 64
_TARGET_NAME_BYTES = 64


class XdpMode(Enum):
    """Where an XDP program runs: in the driver, in the stack (generic), or wherever the driver can."""

    ANY = 0
    GENERIC = 1 << 1
    NATIVE = 1 << 2


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What a link is and where; only the fields of its type are set.

    ``program_id`` is 0 for struct_ops links, which have ``map_id``; ``ifindex`` is 0 for one whose interface
    is gone.
    """

    id: int
    type: LinkType
    program_id: int
    attach_type: AttachType | None = None
    cgroup_id: int | None = None
    ifindex: int | None = None
    map_id: int | None = None
    netns_inode: int | None = None
    target_name: str | None = None


class Link(Descriptor):
    """One attachment of a program."""

    kind = "link"
    inode = "bpf-link"

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.id: int
        number, self.id = struct.unpack_from("=II", object_info(fd, _INFO_BYTES))
        self.type = LinkType(number)

    def __repr__(self) -> str:
        return f"<Link id={self.id} {self.type.name}>"

    @classmethod
    def by_id(cls, number: int) -> Link:
        """Open a link of this host by its id; raise :class:`KernelError` (ENOENT) when there is none."""
        return cls(descriptor_of_id(Command.LINK_GET_FD_BY_ID, number))

    @property
    def program_id(self) -> int:
        """Id of the program it runs now; 0 for struct_ops."""
        return self.info().program_id

    def info(self) -> LinkInfo:
        """Describe the link as it is now."""
        name = bytearray(_TARGET_NAME_BYTES)
        request = bytearray(_INFO_BYTES)
        if self.type is LinkType.ITER:
            struct.pack_into("=QI", request, 16, address(name), len(name))
        return _describe(object_info(self.fileno(), _INFO_BYTES, request), name)

    def update(self, new: Program | Map, old: Program | Map | None = None) -> None:
        """Replace the program (the map, for struct_ops) in place: no packet and no connection sees a gap.

        With ``old`` only when that is what the link holds now; otherwise raises :class:`KernelError` with
        ``errno`` EPERM. Raises :class:`NotSupported` for types of link that cannot be updated (netfilter,
        iterators).
        """
        replaced = (REPLACE, old.fileno()) if old is not None else (0, 0)
        result = try_bpf(Command.LINK_UPDATE, attributes("IIII", self.fileno(), new.fileno(), *replaced))
        if result == -codes.EPERM and old is not None:
            raise KernelError(
                f"link {self.id} no longer holds {old.kind} {old.id} ({old.name}): it was replaced meanwhile",
                errno=codes.EPERM,
            )
        if result < 0:
            raise kernel_error(
                -result, f"put {new.kind} {new.name} into link {self.id} ({self.type.name.lower()})"
            )

    def detach(self) -> None:
        """Detach now, pins and other holders notwithstanding; the link stays as an empty shell.

        Raises :class:`NotSupported` for types of link that only end with their last holder (iterators).
        """
        bpf(Command.LINK_DETACH, attributes("I", self.fileno()), f"detach link {self.id}")

    def read_iterator(self) -> bytes:
        """Run an iterator's program in this thread's network namespace; return what it wrote."""
        fd = bpf(Command.ITER_CREATE, attributes("II", self.fileno(), 0), "start the iterator")
        with open(fd, "rb", buffering=0) as file:
            try:
                return file.read()
            except OSError as error:
                raise kernel_error(error.errno or 0, "run the iterator") from error


def _describe(info: bytes, name: bytearray) -> LinkInfo:
    number, link_id, program = struct.unpack_from("=III", info)
    first, second, third = struct.unpack_from("=III", info, 16)
    kind = LinkType(number)
    match kind:
        case LinkType.CGROUP:
            where = {"cgroup_id": first | second << 32, "attach_type": AttachType(third)}
        case LinkType.XDP:
            where = {"ifindex": first, "attach_type": AttachType.XDP}
        case LinkType.TCX | LinkType.NETKIT:
            where = {"ifindex": first, "attach_type": AttachType(second)}
        case LinkType.NETNS:
            where = {"netns_inode": first, "attach_type": AttachType(second)}
        case LinkType.STRUCT_OPS:
            return LinkInfo(link_id, kind, 0, AttachType.STRUCT_OPS, map_id=first)
        case LinkType.SOCKMAP:
            where = {"map_id": first, "attach_type": AttachType(second)}
        case LinkType.TRACING:
            where = {"attach_type": AttachType(first)}
        case LinkType.ITER:
            text = bytes(name).partition(b"\0")[0].decode()
            return LinkInfo(link_id, kind, program, AttachType.TRACE_ITER, target_name=text)
        case _:
            where = {}
    return LinkInfo(link_id, kind, program, **where)


def attach_cgroup(
    program: Program,
    cgroup: Path,
    attach_type: AttachType,
    *,
    preorder: bool = False,
    before: Link | None = None,
    after: Link | None = None,
) -> Link:
    """Attach to a cgroup v2 directory; it then runs for that cgroup and all below.

    Programs of a child run before its parent's, unless ``preorder`` (Linux 6.15); within a cgroup the first
    attached runs first, unless ``before`` or ``after`` another link is asked for (Linux 6.17). Raises
    :class:`KernelError` naming the program that holds the hook exclusively, where there is one.
    """
    neighbour = before or after
    flags = PREORDER if preorder else 0
    if neighbour is not None:
        flags |= RELATIVE_LINK | (BEFORE if before else AFTER)
    relative = neighbour.fileno() if neighbour else 0
    directory = _open_cgroup(cgroup)
    try:
        attr = attributes("IIIIIIQ", program.fileno(), directory, attach_type, flags, relative, 0, 0)
        result = try_bpf(Command.LINK_CREATE, attr)
    finally:
        os.close(directory)
    if result < 0:
        if result == -codes.EPERM and (owner := cgroup_query.exclusive_owner(cgroup, attach_type)):
            raise KernelError(
                f"cannot attach {program.name} to {cgroup}: program {owner.name} (id {owner.program_id}) "
                f"holds its hook {attach_type.spoken} and shares it with no other",
                remedy="have its owner attach it with BPF_F_ALLOW_MULTI",
                errno=codes.EPERM,
            )
        raise kernel_error(-result, f"attach {program.name} to {cgroup} at {attach_type.spoken}")
    return Link(result)


def _open_cgroup(cgroup: Path) -> int:
    try:
        return os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise kernel_error(error.errno or 0, f"open the cgroup {cgroup}") from error


def attach_xdp(program: Program, ifindex: int, mode: XdpMode = XdpMode.ANY) -> Link:
    """Attach to an interface's XDP hook, which holds one program; the error names its owner."""
    attr = attributes("IIII", program.fileno(), ifindex, AttachType.XDP, mode.value)
    result = try_bpf(Command.LINK_CREATE, attr)
    if result >= 0:
        return Link(result)
    action = f"attach {program.name} to the XDP hook of interface {ifindex}"
    if result in (-codes.EBUSY, -codes.EEXIST):
        holders = [i for i in all_links() if i.type is LinkType.XDP and i.ifindex == ifindex]
        owner = f"program {holders[0].program_id} (link {holders[0].id})" if holders else "another program"
        raise KernelError(f"cannot {action}: {owner} holds it", errno=-result)
    raise kernel_error(-result, action)


def attach_tcx(
    program: Program, ifindex: int, direction: Literal["ingress", "egress"]
) -> Link | clsact.ClsactFilter:
    """Attach to an interface's traffic-control hook, after what is there already.

    A tcx link (Linux 6.6) where the kernel has them, else a filter on the clsact qdisc, which has the same
    ``update`` and ``detach`` but lives until detached and cannot be pinned.
    """
    try:
        return attach_tcx_link(program, ifindex, direction)
    except KernelError as error:
        if error.errno != codes.EINVAL:
            raise
    return clsact.attach_clsact(program, ifindex, direction)


def attach_tcx_link(
    program: Program, ifindex: int, direction: Literal["ingress", "egress"], *, first: bool = False
) -> Link:
    """Attach to an interface's traffic-control hook by a tcx link (Linux 6.6), which can be pinned.

    It comes after what is there already, or before it where it is to be the ``first``. Raises :class:`KernelError`,
    with ``errno`` EINVAL on an older kernel.
    """
    hook = AttachType.TCX_INGRESS if direction == "ingress" else AttachType.TCX_EGRESS
    attr = attributes("IIIIIIQ", program.fileno(), ifindex, hook, BEFORE if first else 0, 0, 0, 0)
    result = try_bpf(Command.LINK_CREATE, attr)
    if result >= 0:
        return Link(result)
    raise kernel_error(-result, f"attach {program.name} to the {direction} of interface {ifindex}")


def attach_struct_ops(struct_ops: Map) -> Link:
    """Register a filled struct_ops map (a congestion control, by the name in it) with the kernel (Linux 6.4).

    Raises :class:`KernelError` with ``errno`` EEXIST when that name is registered: :meth:`Link.update` its
    link then.
    """
    attr = attributes("IIII", struct_ops.fileno(), 0, AttachType.STRUCT_OPS, 0)
    result = try_bpf(Command.LINK_CREATE, attr)
    if result == -codes.EEXIST:
        raise KernelError(
            f"the name that {struct_ops.name} registers is in use on this host",
            remedy="update the link that holds it",
            errno=codes.EEXIST,
        )
    if result < 0:
        raise kernel_error(-result, f"register {struct_ops.name}")
    return Link(result)


def attach_iterator(program: Program, *, map: Map | None = None) -> Link:
    """Make an iterator of a program (``SEC("iter/tcp")``), over a map's elements where ``map`` is given.

    Run it with :meth:`Link.read_iterator`; a pinned one can also be read like a file.
    """
    parameters = bytearray(struct.pack("=IIQ", map.fileno(), 0, 0)) if map else bytearray()
    given = (address(parameters), len(parameters))
    attr = attributes("IIIIQI", program.fileno(), 0, AttachType.TRACE_ITER, 0, *given)
    return Link(bpf(Command.LINK_CREATE, attr, f"make an iterator of {program.name}"))


def attach_tracing(program: Program) -> Link:
    """Attach a program to what it was loaded for: a tracepoint (``tp_btf``), or the end of a program (``fexit``)."""
    attr = attributes("QI", 0, program.fileno())
    return Link(bpf(Command.RAW_TRACEPOINT_OPEN, attr, f"attach {program.name} to what it traces"))


def all_links() -> tuple[LinkInfo, ...]:
    """Describe every link of the host, whoever made it."""
    return tuple(_every_link())


def _every_link() -> Iterator[LinkInfo]:
    try:
        for number in object_ids(Command.LINK_GET_NEXT_ID):
            try:
                with Link.by_id(number) as link:
                    yield link.info()
            except KernelError as error:
                if not missing(error):  # gone meanwhile
                    raise
    except NotSupported:
        return
