# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pliant.kernel import cgroups
from pliant.kernel.mounts import mount_bpffs, unmount
from pliant.kernel.namespaces import entered, private_mounts, private_network
from pliant.kernel.objects import LoadedObject, load
from tests.conftest import bpf_descriptors

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_LOG_DIR", str(tmp_path / "logs"))
    return tmp_path / "logs"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = bpf_descriptors()
    yield
    assert bpf_descriptors() <= before


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("objects")
    include = f"/usr/include/{os.uname().machine}-linux-gnu"

    def build(name: str) -> Path:
        target = directory / f"{name}.bpf.o"
        if not target.exists():
            flags = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
            clang = next(found for name in ("clang-19", "clang") if (found := shutil.which(name)))
            source = str(HERE / f"{name}.bpf.c")
            subprocess.run([clang, *flags, "-Wno-unused-parameter", "-c", source, "-o", target], check=True)
        return target

    return build


@pytest.fixture
def sample(compiled: Callable[[str], Path]) -> Iterator[LoadedObject]:
    with load(compiled("sample"), feature="sample", rodata={"verdict": 1}) as loaded:
        yield loaded


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = cgroups.find_root() / f"pliant-test-{os.getpid()}"
    path.mkdir()
    yield path
    for child in sorted(path.glob("**/"), reverse=True):
        child.rmdir()


@pytest.fixture(scope="session")
def own_mounts() -> None:
    private_mounts()


@pytest.fixture
def bpffs(own_mounts: None, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "bpffs"
    path.mkdir()
    mount_bpffs(path)
    yield path
    unmount(path)


@dataclass(frozen=True)
class Network:
    """A network namespace with a veth pair, both ends in it."""

    fd: int
    ifindex: int


@pytest.fixture
def network() -> Iterator[Network]:
    found: list[int] = []

    def make() -> None:
        private_network()
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with entered(found[0]):
        for arguments in (
            "link add near type veth peer name far",
            "link set near up",
            "link set far up",
            "link set lo up",
        ):
            subprocess.run(["ip", *arguments.split()], check=True)
        ifindex = socket.if_nametoindex("near")
    yield Network(found[0], ifindex)
    with entered(found[0]):
        subprocess.run(["ip", "link", "del", "near"], check=True)
    os.close(found[0])
