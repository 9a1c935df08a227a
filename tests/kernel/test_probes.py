# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pliant.kernel import attempts, probes
from pliant.kernel.errors import KernelError, NoPermission, NotSupported
from pliant.kernel.probes import State, Support
from pliant.kernel.syscall import libc

pytestmark = pytest.mark.root

# What the kernels this project is tested on (6.12 and later) have.
EVERYWHERE = [
    "privileges",
    "bpf_syscall",
    "btf",
    "libbpf",
    "cgroup_v2",
    "bpffs",
    "sock_ops",
    "socket_storage",
    "request_owner",
    "lpm_trie",
    "map_batch",
    "map_mmap",
    "cgroup_link",
    "link_update",
    "run_time_statistics",
    "tcp_iterator",
    "struct_ops",
    "struct_ops_link",
    "xdp",
    "tcx",
    "netfilter_link",
    "congestion_control_reno",
    "congestion_control_cubic",
]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_this_kernel_has_is_supported(name: str) -> None:
    assert str(probes.probe(name).support) == "supported"


def test_every_probe_has_an_answer_and_a_sentence() -> None:
    found = probes.probe_all()
    assert tuple(probe.name for probe in found) == probes.names()
    assert all(probe.sentence.endswith(".") for probe in found)
    assert all(probe.support.reason for probe in found if not probe.support)
    assert len(set(probes.names())) == len(found)


def test_a_congestion_control_that_is_not_there_names_its_module() -> None:
    support = probes.probe("congestion_control_nowhere").support
    assert support == Support(State.UNSUPPORTED, "needs its module: modprobe tcp_nowhere")


def test_missing_types_are_told_from_present_ones(tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        attempts.kernel_types(tmp_path / "vmlinux")
    (tmp_path / "vmlinux").write_bytes(b"\x9f\xeb")
    attempts.kernel_types(tmp_path / "vmlinux")
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF")
    with pytest.raises(NotSupported):
        attempts.kernel_types(tmp_path / "vmlinux")


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (1 << 39, "CAP_NET_ADMIN, CAP_PERFMON"),
        (1 << 21, "CAP_NET_ADMIN"),
        (1 << 21 | 1 << 12, ""),
        (1 << 12 | 1 << 38 | 1 << 39, ""),
    ],
)
def test_missing_capabilities_are_named(tmp_path: Path, held: int, lacking: str) -> None:
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{held:016x}\n")
    if not lacking:
        attempts.privileges(tmp_path / "status")
        return
    with pytest.raises(NoPermission, match=f"lacks {lacking}; run as root"):
        attempts.privileges(tmp_path / "status")


def test_without_privileges_what_cannot_be_tried_is_unknown() -> None:
    found: dict[str, Support] = {}

    def unprivileged() -> None:
        call = {"x86_64": 117, "aarch64": 147}[os.uname().machine]  # setresuid, of this thread only
        assert libc().syscall(call, 65534, 65534, 65534) == 0
        for name in ("privileges", "bpf_syscall", "sock_ops", "cgroup_v2"):
            found[name] = probes.probe(name).support

    thread = threading.Thread(target=unprivileged)
    thread.start()
    thread.join()
    assert found["privileges"].state is State.UNSUPPORTED
    assert "CAP_BPF" in found["privileges"].reason
    assert found["bpf_syscall"].state is State.UNKNOWN
    assert "may not try" in found["sock_ops"].reason
    assert found["cgroup_v2"].state is State.SUPPORTED
