# SPDX-License-Identifier: Apache-2.0
"""Which module has a function, and the descriptor of its types."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pliant.fastpath.objects import shipped_entry, shipped_object
from pliant.kernel.btf import VMLINUX, Btf
from pliant.kernel.errors import KernelError
from pliant.kernel.module_types import module_types, modules_with


def test_a_module_is_told_by_functions_that_the_kernel_itself_has_not(tmp_path: Path) -> None:
    for name, functions in (
        ("vmlinux", b"common"),
        ("nf_conntrack", b"common\0ct_lookup"),
        ("other", b"look"),
    ):
        (tmp_path / name).write_bytes(b"\0" + functions + b"\0")
    assert modules_with(["common", "ct_lookup"], tmp_path) == ["nf_conntrack"]
    assert modules_with(["common"], tmp_path) == []
    assert modules_with(["nosuch"], tmp_path) == []
    assert modules_with(["ct_lookup", "look"], tmp_path) == ["nf_conntrack", "other"]


def test_an_object_says_what_it_asks_the_kernel_for() -> None:
    wanted = Btf.from_elf(shipped_object("route_xdp")).externs()
    assert {"bpf_xdp_ct_lookup", "bpf_ct_release", "bpf_cast_to_kern_ctx"} <= set(wanted)
    assert Btf.from_elf(shipped_entry("xdp_entry")).externs() == ()


@pytest.mark.root
def test_types_are_found_by_the_name_of_what_they_are_of() -> None:
    descriptor = module_types(VMLINUX.name)
    assert "btf" in os.readlink(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    with pytest.raises(KernelError, match="the module nosuch has no types"):
        module_types("nosuch")
