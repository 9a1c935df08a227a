# SPDX-License-Identifier: Apache-2.0
"""Legacy iptables: which of its tables a network namespace has, and whether they do anything.

It sends no netlink messages: who must know of a change has to look again. Tables of iptables-nft are nftables'.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno as codes
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.namespaces import entered
from pliant.kernel.syscall import libc

_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo, the same for IPv6
_ENTRIES_HEADER = 40  # struct ipt_get_entries: name, size, padding
_ACCEPT = -2  # as the kernel writes NF_ACCEPT in a verdict
_ATTEMPTS = 20
_TARGET_BYTES = 32  # struct xt_entry_target, before the verdict
# Level, file of the tables' names, and where in an entry the offset of its target is.
_FAMILIES = {
    4: (socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140),
}


@dataclass(frozen=True, slots=True)
class LegacyTable:
    """A table of legacy iptables, which is there once anything has asked for it.

    ``family`` is 4 or 6; ``rules`` counts entries beyond those of an empty table; ``chains_that_drop`` are hooks whose
    policy is not to accept; ``hooks`` those it is called from.
    """

    family: int
    name: str
    rules: int
    hooks: tuple[str, ...]
    chains_that_drop: tuple[str, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Whether every packet passes it as if it were not there, but for being counted."""
        return not self.rules and not self.chains_that_drop


def legacy_tables(netns: Path | int | None = None) -> tuple[LegacyTable, ...]:
    """The tables of a namespace; none where the kernel has no legacy iptables. Raises :class:`KernelError`.

    Only tables that are there are asked about, for asking about another would make it.
    """
    with contextlib.ExitStack() as stack:
        if netns is not None:
            stack.enter_context(entered(netns))
        return tuple(table for family in _FAMILIES for table in _tables(family))


def _tables(family: int) -> Iterator[LegacyTable]:
    domain, level, names, target = _FAMILIES[family]
    try:
        listed = Path("/proc/thread-self/net", names).read_text().split()
    except OSError:
        return
    if not listed:
        return
    with socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
        for name in sorted(listed):
            found = _table(sock, level, family, name, target)
            if found is not None:
                yield found


def _table(sock: socket.socket, level: int, family: int, name: str, target: int) -> LegacyTable | None:
    for _ in range(_ATTEMPTS):
        info = bytearray(_INFO.pack(name.encode(), *[0] * 13))
        if not _ask(sock, level, _GET_INFO, info):
            return None
        _, valid, *rest = _INFO.unpack(info)
        underflows, count, size = rest[5:10], rest[10], rest[11]
        entries = bytearray(_ENTRIES_HEADER + size)
        struct.pack_into("=32sI", entries, 0, name.encode(), size)
        if _ask(sock, level, _GET_ENTRIES, entries):
            return _described(family, name, valid, underflows, count, entries, target)
    raise KernelError(
        f"cannot read the table {name} of legacy iptables: it changes faster than it can be read"
    )


def _described(
    family: int, name: str, valid: int, underflows: list[int], count: int, entries: bytearray, target: int
) -> LegacyTable:
    hooks = [i for i in range(len(_HOOKS)) if valid & 1 << i]
    drops = []
    for hook in hooks:
        at = _ENTRIES_HEADER + underflows[hook]
        (offset,) = struct.unpack_from("=H", entries, at + target)
        (verdict,) = struct.unpack_from("=i", entries, at + offset + _TARGET_BYTES)
        if verdict != _ACCEPT:
            drops.append(_HOOKS[hook])
    # One entry for each hook's policy and one that ends the table; chains of people add two each, and their rules.
    return LegacyTable(family, name, count - len(hooks) - 1, tuple(_HOOKS[i] for i in hooks), tuple(drops))


def _ask(sock: socket.socket, level: int, option: int, buffer: bytearray) -> bool:
    """Call getsockopt(2) with a buffer that says what is asked; False for a table that is not there, or has changed."""
    room = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    length = ctypes.c_uint32(len(buffer))
    if libc().getsockopt(sock.fileno(), level, option, room, ctypes.byref(length)) == 0:
        return True
    refused = ctypes.get_errno()
    if refused == (codes.ENOENT if option == _GET_INFO else codes.EAGAIN):
        return False
    raise kernel_error(refused, "read the tables of legacy iptables")
