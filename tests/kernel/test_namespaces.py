# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from pliant.kernel.errors import KernelError
from pliant.kernel.mounts import mount_bpffs, mounts
from pliant.kernel.namespaces import entered, private_mounts

pytestmark = pytest.mark.root

OWN = Path("/proc/thread-self/ns/net")


def test_a_block_runs_in_the_other_namespace_and_returns(network: Any) -> None:
    before = os.readlink(OWN)
    with entered(network.fd):
        assert os.readlink(OWN) != before
        assert {name for _, name in socket.if_nameindex()} >= {"near", "far"}
    assert os.readlink(OWN) == before


def test_a_namespace_may_be_given_by_its_file(network: Any) -> None:
    with entered(network.fd):
        inside = os.readlink(OWN)
    with entered(Path(f"/proc/self/fd/{network.fd}")):
        assert os.readlink(OWN) == inside


def test_an_error_in_the_block_returns_too(network: Any) -> None:
    before = os.readlink(OWN)
    with pytest.raises(ZeroDivisionError), entered(network.fd):
        _ = 1 / 0
    assert os.readlink(OWN) == before


def test_only_the_calling_thread_moves(network: Any) -> None:
    seen: list[str] = []
    before = os.readlink(OWN)
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with entered(network.fd):
            inside.set()
            done.wait(10)
            seen.append(os.readlink(OWN))

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    assert os.readlink(OWN) == before
    done.set()
    thread.join()
    assert seen != [before]


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot open the network namespace"), entered(tmp_path / "missing"):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(KernelError, match=r"cannot enter the network namespace .*file"),
        entered(tmp_path / "file"),
    ):
        pass


def test_private_mounts_show_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    inside: list[bool] = []

    def mounting() -> None:
        private_mounts()
        mount_bpffs(tmp_path / "bpf")
        text = Path("/proc/thread-self/mountinfo").read_text()
        inside.append(str(tmp_path / "bpf") in text)

    thread = threading.Thread(target=mounting)
    thread.start()
    thread.join()
    assert inside == [True]
    assert not any(mount.point == tmp_path / "bpf" for mount in mounts())
