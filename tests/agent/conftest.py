# SPDX-License-Identifier: Apache-2.0
"""Connections opened without a pause while something changes, and programs of somebody else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pliant.features.layout import Layout, shipped_layout
from pliant.kernel.objects import load
from pliant.kernel.programs import Program
from pliant.kernel.syscall import attributes, bpf
from pliant.kernel.uapi import AttachType, Command

if TYPE_CHECKING:
    from tests.conftest import Pair

SOURCES = Path(__file__).parents[2] / "bpf"

# Connects to itself, at least once, until its input ends, and reports the different things it has seen of both ends.
CONNECT_ALL_THE_TIME = """
import json, select, socket, sys
from pliant.lab.sockets import SO_MAX_PACING_RATE, tcp_info
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
seen, count = set(), 0
print("connecting", flush=True)
while True:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    for sock in (client, accepted):
        limit = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & 0xFFFFFFFF
        seen.add((tcp_info(sock)["snd_cwnd"], limit, sock.getsockopt(socket.SOL_IP, socket.IP_TOS) >> 2))
        sock.close()
    count += 2
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(json.dumps([count, sorted(seen)]))
"""

FOREIGN = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("sockops") int somebody_else(struct bpf_sock_ops *ctx) { return 1; }
char LICENSE[] SEC("license") = "GPL";
"""


class Given(NamedTuple):
    """What the kernel says of one end of a connection: window in segments, bytes a second, DSCP."""

    window: int
    rate: int
    dscp: int


class Seen:
    """What connections were given meanwhile; filled in when the block is left."""

    def __init__(self) -> None:
        self.ends = 0
        self.kinds: set[Given] = set()


Meanwhile = Callable[[str], AbstractContextManager[Seen]]


@pytest.fixture
def connecting(pair: Pair) -> Meanwhile:
    """Have a service of the server host open connections to itself for as long as the block lasts."""

    @contextmanager
    def meanwhile(service: str) -> Iterator[Seen]:
        process = pair.server.spawn(
            [sys.executable, "-c", CONNECT_ALL_THE_TIME],
            service=service,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stdin, stdout = process.popen.stdin, process.popen.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == b"connecting\n", process.output
        seen = Seen()
        yield seen
        stdin.close()
        seen.ends, kinds = json.loads(stdout.readline())
        seen.kinds = {Given(*kind) for kind in kinds}
        process.stop()

    return meanwhile


Compile = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def compile_object(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile C source against the package's headers; the object's file."""

    def compiled(name: str, source: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        (directory / f"{name}.bpf.c").write_text(source)
        target = directory / f"{name}.bpf.o"
        clang = next(found for name in ("clang-19", "clang") if (found := shutil.which(name)))
        flags = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", f"-I{SOURCES / 'include'}"]
        flags.append(f"-I/usr/include/{os.uname().machine}-linux-gnu")
        subprocess.run([clang, *flags, "-c", directory / f"{name}.bpf.c", "-o", target], check=True)
        return target

    return compiled


@pytest.fixture
def foreign(compile_object: Compile) -> Iterator[Program]:
    """A sock_ops program that is not ours."""
    with load(compile_object("foreign", FOREIGN), feature="foreign") as loaded:
        yield loaded.programs["somebody_else"]


Hold = Callable[[Program, Path, int], AbstractContextManager[None]]


@pytest.fixture
def hold() -> Hold:
    """Attach a program without a link and with these flags (bpf(2)), as older tools do."""

    @contextmanager
    def held(program: Program, cgroup: Path, flags: int) -> Iterator[None]:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        where = (directory, program.fileno(), AttachType.CGROUP_SOCK_OPS)
        try:
            bpf(Command.PROG_ATTACH, attributes("IIII", *where, flags), "attach")
            try:
                yield
            finally:
                bpf(Command.PROG_DETACH, attributes("IIII", *where, 0), "detach")
        finally:
            os.close(directory)

    return held


# -- other builds of Pliant


Install = Callable[[Layout], AbstractContextManager[None]]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Be another build of Pliant."""

    @contextmanager
    def being(layout: Layout) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr("pliant.agent.host.shipped_layout", lambda: layout)
            yield

    return being


HEAD = re.compile(
    r'^(?:SEC\("sockops"\) int scope|static __always_inline \w+ (?:apply|set_option))\([^{;]*\)\n\{\n', re.M
)


@pytest.fixture(scope="session")
def other_build(compile_object: Compile) -> Layout:
    """The same layout from other object files: every program does one more thing, which changes nothing."""
    layout = shipped_layout()
    objects = {}
    for name in ("scope", "initial_cwnd", "pacing_rate", "dscp"):
        source = (SOURCES / f"{name}.bpf.c").read_text()
        changed, count = HEAD.subn(lambda head: f"volatile int unused;\n{head[0]}\tunused++;\n", source)
        assert count == 1, name
        objects[name] = compile_object(name, changed)
    return replace(
        layout,
        objects=MappingProxyType({**layout.objects, **objects}),
        builds=MappingProxyType({**layout.builds, **dict.fromkeys(objects, "another")}),
    )
