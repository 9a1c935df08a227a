# SPDX-License-Identifier: Apache-2.0
"""What the probes try: each function returns when the ability is there, else raises :class:`KernelError`."""

from __future__ import annotations

import errno as codes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pliant.kernel import cgroups, libbpf, mounts
from pliant.kernel.assembly import (
    create_socket_storage,
    create_struct_ops,
    load_instructions,
    read_own_context,
    return_constant,
    use_socket_storage,
)
from pliant.kernel.btf import MAGIC, VMLINUX, Btf, Kind
from pliant.kernel.errors import KernelError, NoPermission, NotSupported, kernel_error
from pliant.kernel.links import Link, XdpMode, attach_iterator, attach_xdp
from pliant.kernel.maps import Map
from pliant.kernel.namespaces import private_network
from pliant.kernel.programs import Program
from pliant.kernel.run_time import run_time_statistics
from pliant.kernel.syscall import address, attributes, bpf, try_bpf
from pliant.kernel.uapi import (
    BEFORE,
    MMAPABLE,
    NO_PREALLOC,
    PREORDER,
    RELATIVE_LINK,
    STRUCT_OPS_LINK,
    AttachType,
    Command,
    MapType,
    ProgramType,
)

_NO_DESCRIPTOR = 0xFFFFFFFF
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_SYS_ADMIN = 21
_LOOPBACK = 1
_NF_ACCEPT, _NFPROTO_IPV4, _NF_INET_LOCAL_IN = 1, 2, 1


def privileges(status: Path = Path("/proc/thread-self/status")) -> None:
    """CAP_BPF, CAP_PERFMON (CAP_SYS_ADMIN has both) and CAP_NET_ADMIN."""
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if held >> _SYS_ADMIN & 1:
        lacking = [name for name in lacking if name == "CAP_NET_ADMIN"]
    if lacking:
        raise NoPermission(f"this process lacks {', '.join(lacking)}", remedy="run as root")


def create_array() -> None:
    """The simplest map."""
    Map.create(MapType.ARRAY, 4, 4, 1, name="probe").close()


def kernel_types(path: Path = VMLINUX) -> None:
    """The kernel's own types."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise kernel_error(error.errno or 0, f"read {path}") from error
    if int.from_bytes(start, "little") != MAGIC and int.from_bytes(start, "big") != MAGIC:
        raise NotSupported(f"{path} holds no type information")


def library() -> None:
    """A libbpf that will do."""
    try:
        libbpf.libbpf()
    except KernelError as error:
        raise NotSupported(error.message) from error


def cgroup_root() -> None:
    """A mounted cgroup v2 hierarchy."""
    cgroups.find_root()


def pin_filesystem() -> None:
    """The bpffs among the kernel's filesystems."""
    if "\tbpf\n" not in Path("/proc/filesystems").read_text():
        raise NotSupported("this kernel has no bpffs")


def pin_mount() -> None:
    """A bpffs among the mounts."""
    if not any(mount.filesystem == "bpf" for mount in mounts.mounts()):
        raise NotSupported("no bpffs is mounted")


def _sock_ops() -> Program:
    return load_instructions(ProgramType.SOCK_OPS, return_constant(1), hook=AttachType.CGROUP_SOCK_OPS)


def sock_ops() -> None:
    """A sock_ops program."""
    _sock_ops().close()


def socket_storage() -> None:
    """A sock_ops program that keeps data with a socket."""
    storage = create_socket_storage()
    try:
        code = use_socket_storage(storage)
        load_instructions(ProgramType.SOCK_OPS, code, hook=AttachType.CGROUP_SOCK_OPS).close()
    finally:
        os.close(storage)


def kernel_memory() -> None:
    """A sock_ops program that reads the kernel's memory by address."""
    load_instructions(ProgramType.SOCK_OPS, read_own_context(), hook=AttachType.CGROUP_SOCK_OPS).close()


def request_owner() -> None:
    """What tells a sock_ops program whose listener a SYN has come in to: a function of the kernel, or its memory."""
    kernel_types()
    try:
        Btf.vmlinux().find("bpf_cast_to_kern_ctx", Kind.FUNC)
    except KernelError:
        kernel_memory()


def lpm_trie() -> None:
    """A map of prefixes."""
    Map.create(MapType.LPM_TRIE, 8, 4, 1, name="probe", flags=NO_PREALLOC).close()


def map_batch() -> None:
    """One element written by the batch call."""
    with Map.create(MapType.HASH, 4, 4, 1, name="probe") as created:
        key, value = bytearray(4), bytearray(4)
        attr = attributes("QQQQIIQQ", 0, 0, address(key), address(value), 1, created.fileno(), 0, 0)
        bpf(Command.MAP_UPDATE_BATCH, attr, "write a map in batches")


def map_mmap() -> None:
    """An array in memory."""
    with Map.create(MapType.ARRAY, 4, 8, 1, name="probe", flags=MMAPABLE) as created:
        created.mmap().close()


def _attach_to_no_cgroup(flags: int) -> None:
    # The kernel checks the call and its flags before it looks for the cgroup: the missing one means it took
    # both.
    with _sock_ops() as program:
        given = (program.fileno(), _NO_DESCRIPTOR, AttachType.CGROUP_SOCK_OPS, flags, 0, 0, 0)
        result = try_bpf(Command.LINK_CREATE, attributes("IIIIIIQ", *given))
    _expect_bad_descriptor(result, "attach to a cgroup by a link")


def _expect_bad_descriptor(result: int, action: str) -> None:
    if result >= 0:
        os.close(result)
    elif result != -codes.EBADF:
        raise kernel_error(-result, action)


def cgroup_link() -> None:
    """A link to a cgroup."""
    _attach_to_no_cgroup(0)


def cgroup_preorder() -> None:
    """A link to a cgroup that runs before those of the cgroups below."""
    _attach_to_no_cgroup(PREORDER)


def cgroup_order() -> None:
    """A link to a cgroup before another one."""
    _attach_to_no_cgroup(BEFORE | RELATIVE_LINK)


def link_update() -> None:
    """The call that replaces a link's program."""
    attr = attributes("IIII", _NO_DESCRIPTOR, _NO_DESCRIPTOR, 0, 0)
    _expect_bad_descriptor(try_bpf(Command.LINK_UPDATE, attr), "update a link")


def statistics() -> None:
    """Run-time statistics."""
    with run_time_statistics():
        pass


def tcp_iterator() -> None:
    """An iterator over TCP sockets, run once."""
    kernel_types()
    number = libbpf.libbpf().libbpf_find_vmlinux_btf_id(b"tcp", AttachType.TRACE_ITER)
    if number < 0:
        raise kernel_error(-number, "find the tcp iterator")
    code = return_constant(0)
    hook = AttachType.TRACE_ITER
    with (
        load_instructions(ProgramType.TRACING, code, hook=hook, attach_btf_id=number) as program,
        attach_iterator(program) as link,
    ):
        link.read_iterator()


@functools.cache
def _congestion_ops() -> tuple[int, int]:
    found = Btf.vmlinux().find("bpf_struct_ops_tcp_congestion_ops", Kind.STRUCT)
    return found.id, found.size


def struct_ops() -> None:
    """An empty congestion control."""
    kernel_types()
    os.close(create_struct_ops(*_congestion_ops(), 0))


def struct_ops_link() -> None:
    """An empty congestion control of the kind that is attached by a link."""
    kernel_types()
    os.close(create_struct_ops(*_congestion_ops(), STRUCT_OPS_LINK))


def _in_private_network(attempt: Callable[[], None]) -> None:
    problems: list[Exception] = []

    def run() -> None:
        try:
            private_network()
            attempt()
        except (KernelError, OSError) as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


def xdp() -> None:
    """An XDP program on the loopback interface of a new network namespace."""

    def attempt() -> None:
        with (
            load_instructions(ProgramType.XDP, return_constant(2), hook=AttachType.XDP) as program,
            attach_xdp(program, _LOOPBACK, XdpMode.GENERIC),
        ):
            pass

    _in_private_network(attempt)


def tcx() -> None:
    """A tcx program on the loopback interface of a new network namespace."""

    def attempt() -> None:
        with load_instructions(ProgramType.SCHED_CLS, return_constant(-1)) as program:
            attr = attributes("IIII", program.fileno(), _LOOPBACK, AttachType.TCX_INGRESS, 0)
            Link(bpf(Command.LINK_CREATE, attr, "attach by a tcx link")).close()

    _in_private_network(attempt)


def netfilter_link() -> None:
    """A netfilter program that accepts all, for packets to the host itself, in a new network namespace."""

    def attempt() -> None:
        code = return_constant(_NF_ACCEPT)
        with load_instructions(ProgramType.NETFILTER, code, hook=AttachType.NETFILTER) as program:
            where = (_NFPROTO_IPV4, _NF_INET_LOCAL_IN, 0, 0)
            attr = attributes("IIIIIIiI", program.fileno(), 0, AttachType.NETFILTER, 0, *where)
            Link(bpf(Command.LINK_CREATE, attr, "attach by a netfilter link")).close()

    _in_private_network(attempt)
