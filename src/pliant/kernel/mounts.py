# SPDX-License-Identifier: Apache-2.0
"""Mounted filesystems, from /proc/self/mountinfo, and mounting a bpffs."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import kernel_error
from pliant.kernel.syscall import libc

MOUNTINFO = Path("/proc/self/mountinfo")
_REC, _PRIVATE, _DETACH = 0x4000, 1 << 18, 2
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: the directory ``root`` of a filesystem, seen at ``point``."""

    root: str
    point: Path
    filesystem: str


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """Read the lines of a mountinfo file (proc_pid_mountinfo(5)); damaged ones are passed over."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if separator and len(fields) >= 6:
            yield Mount(_unescape(fields[3]), Path(_unescape(fields[4])), kind)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mounts() -> tuple[Mount, ...]:
    """List the mounts this process sees."""
    return tuple(parse_mountinfo(MOUNTINFO.read_text()))


def mount_bpffs(path: Path) -> None:
    """Mount a new, empty bpffs on a directory; raise :class:`KernelError`."""
    _mount(b"bpf", path, b"bpf", 0, f"mount a bpffs on {path}")


def make_private() -> None:
    """Keep this mount namespace's mounts from showing in others, and theirs from showing here."""
    _mount(b"none", Path("/"), None, _REC | _PRIVATE, "make the mounts private")


def unmount(path: Path) -> None:
    """Unmount, at once or as soon as nothing uses it any more; raise :class:`KernelError`."""
    if libc().umount2(os.fsencode(path), _DETACH) != 0:
        raise kernel_error(ctypes.get_errno(), f"unmount {path}")


def _mount(source: bytes, target: Path, kind: bytes | None, flags: int, action: str) -> None:
    if libc().mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), None) != 0:
        raise kernel_error(ctypes.get_errno(), action)
