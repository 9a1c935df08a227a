# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from pliant.kernel.cgroups import Cgroup, cgroup_id, choose_root, find_root, walk
from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.mounts import Mount, parse_mountinfo
from pliant.kernel.syscall import libc

UNIFIED = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"""
BOUND = """\
90 24 0:30 / /var/lib/chroot/sys/fs/cgroup rw - cgroup2 cgroup2 rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw
91 24 0:30 /a.slice /cg rw - cgroup2 cgroup2 rw"""
CONTAINER = "91 24 0:30 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        (UNIFIED, "/sys/fs/cgroup"),
        (HYBRID, "/sys/fs/cgroup/unified"),
        (BOUND, "/sys/fs/cgroup"),
        (UNIFIED.replace("/sys/fs/cgroup", r"/mnt/with\040blank"), "/mnt/with blank"),
    ],
)
def test_the_hierarchy_is_found_wherever_it_is_mounted(text: str, root: str) -> None:
    assert choose_root(parse_mountinfo(text)) == Path(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no cgroup v2 hierarchy is mounted on this host; mount one: mkdir"),
        (HYBRID.rpartition("\n")[0], "no cgroup v2 hierarchy is mounted"),
        (
            CONTAINER,
            "only the part /docker/abc of the cgroup v2 hierarchy is mounted here, at /sys/fs/cgroup",
        ),
    ],
)
def test_a_host_without_the_hierarchy_says_so(text: str, message: str) -> None:
    with pytest.raises(NotSupported, match=message):
        choose_root(parse_mountinfo(text))


def test_damaged_lines_are_passed_over() -> None:
    assert list(parse_mountinfo("nonsense\n1 2 3 - tmpfs\n" + UNIFIED)) == [
        Mount("/", Path("/sys/fs/cgroup"), "cgroup2")
    ]


@pytest.mark.root
def test_a_walk_finds_cgroups_with_their_ids_parents_first(cgroup: Path) -> None:
    (cgroup / "b" / "deep").mkdir(parents=True)
    (cgroup / "a").mkdir()
    assert list(walk(cgroup)) == [
        Cgroup("/", cgroup_id(cgroup)),
        Cgroup("/a", cgroup_id(cgroup / "a")),
        Cgroup("/b", cgroup_id(cgroup / "b")),
        Cgroup("/b/deep", cgroup_id(cgroup / "b" / "deep")),
    ]


@pytest.mark.root
def test_cgroups_may_vanish_during_a_walk(cgroup: Path) -> None:
    for name in ("a", "b", "c"):
        (cgroup / name / "deep").mkdir(parents=True)
    found = []
    for each in walk(cgroup):
        found.append(each.path)
        if each.path == "/a":
            (cgroup / "b" / "deep").rmdir()
            (cgroup / "b").rmdir()
    assert found == ["/", "/a", "/a/deep", "/b", "/c", "/c/deep"]
    assert list(walk(cgroup / "nowhere")) == []


@pytest.mark.root
def test_the_id_is_the_one_of_the_kernels_file_handle(cgroup: Path) -> None:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 8, 0) + bytes(8))
    mount_id = ctypes.c_int()
    path = os.fsencode(cgroup)
    assert libc().name_to_handle_at(-100, path, handle, ctypes.byref(mount_id), 0) == 0
    assert cgroup_id(cgroup) == struct.unpack_from("=Q", handle, 8)[0]


@pytest.mark.root
def test_a_cgroup_that_is_gone_is_named() -> None:
    with pytest.raises(KernelError, match=r"cannot look at the cgroup .*/gone: No such file"):
        cgroup_id(find_root() / "gone")
