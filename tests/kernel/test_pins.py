# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from pliant.kernel.errors import KernelError, NoPermission
from pliant.kernel.objects import LoadedObject
from pliant.kernel.pins import BPF_FS_MAGIC, PinDirectory, filesystem_magic
from pliant.kernel.syscall import libc

pytestmark = pytest.mark.root

NOBODY = 65534


def test_a_bpffs_is_told_by_its_magic_number(bpffs: Path, tmp_path: Path) -> None:
    assert filesystem_magic(bpffs) == BPF_FS_MAGIC
    assert filesystem_magic(tmp_path) != BPF_FS_MAGIC


def test_a_directory_in_a_bpffs_will_do_though_it_does_not_exist_yet(bpffs: Path) -> None:
    PinDirectory(bpffs / "pliant" / "deep").require()


def test_a_directory_elsewhere_names_the_mount_command(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"is not in a bpffs.*mount one: mount -t bpf bpf ") as caught:
        PinDirectory(tmp_path / "pins").require()
    assert caught.value.errno == errno.EINVAL


def test_the_usual_directory_names_the_usual_mount_point(own_mounts: None) -> None:
    if filesystem_magic(Path("/sys/fs/bpf")) == BPF_FS_MAGIC:
        PinDirectory(Path("/sys/fs/bpf/pliant")).require()
        return
    with pytest.raises(KernelError, match=r"mount -t bpf bpf /sys/fs/bpf$"):
        PinDirectory(Path("/sys/fs/bpf/pliant")).require()


def test_a_read_only_bpffs_says_so(bpffs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", bpffs], check=True)
    with pytest.raises(KernelError, match="is mounted read-only; remount it: mount -o remount,rw") as caught:
        PinDirectory(bpffs / "pliant").require()
    assert caught.value.errno == errno.EROFS


def test_a_process_that_may_not_write_is_told(bpffs: Path) -> None:
    bpffs.chmod(0o755)
    problems: list[BaseException] = []

    def unprivileged() -> None:
        call = {"x86_64": 117, "aarch64": 147}[os.uname().machine]  # setresuid, of this thread only
        assert libc().syscall(call, NOBODY, NOBODY, NOBODY) == 0
        try:
            PinDirectory(bpffs / "pliant").require()
        except KernelError as error:
            problems.append(error)

    for parent in (bpffs.parent, *bpffs.parent.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    thread = threading.Thread(target=unprivileged)
    thread.start()
    thread.join()
    assert isinstance(problems[0], NoPermission)
    assert "this process may not write to" in str(problems[0])


def test_directories_are_made_listed_and_removed_with_their_pins(sample: LoadedObject, bpffs: Path) -> None:
    root = PinDirectory(bpffs / "pliant")
    assert root.names() == ()
    maps = root.make("maps/deep")
    assert root.make("maps/deep") == maps
    sample.maps["results"].pin(maps.path / "results")
    sample.programs["always_drop"].pin(root.path / "drop")
    assert root.names() == ("drop", "maps")
    assert maps.names() == ("results",)
    root.remove_tree()
    assert not root.path.exists()
    root.remove_tree()


def test_a_name_with_a_dot_is_refused(bpffs: Path) -> None:
    with pytest.raises(KernelError, match=r"names in a bpffs must not hold a dot: nginx\.service"):
        PinDirectory(bpffs).make("nginx.service")


def test_nothing_is_removed_outside_a_bpffs(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    with pytest.raises(KernelError, match="nothing was removed"):
        PinDirectory(tmp_path).remove_tree()
    assert (tmp_path / "precious").exists()
