# SPDX-License-Identifier: Apache-2.0
"""The agent as it is run: a process of its own, on state, pins and cgroups that nobody else has."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pliant.agent.client import NoAgent, ask
from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType
from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts
from pliant.policy.model import Policy
from pliant.store.events import Event
from pliant.store.journal import Journal

DEADLINE_S = 20.0
_numbers = itertools.count(1)


def await_(
    condition: Callable[[], object], tell: Callable[[], str] = str, deadline_s: float = DEADLINE_S
) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, tell() or "it did not come true in time"
        os.sched_yield()


@dataclass
class Ground:
    """A host for an agent: places, and the cgroup below which its services come and go."""

    places: Places
    lab: LabHost
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        assert self.places.cgroup_root is not None
        return self.places.cgroup_root

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pliant", *arguments]
        return subprocess.run(argv, env=self._environment(), capture_output=True, text=True, timeout=60)

    def _environment(self) -> dict[str, str]:
        places = {
            "PLIANT_STATE": self.places.state, "PLIANT_PINS": self.places.pins,
            "PLIANT_CGROUP_ROOT": self.root, "PLIANT_SOCKET": self.places.socket,
        }  # fmt: skip
        return {**os.environ, "NO_COLOR": "1", **self.environment, **{k: str(v) for k, v in places.items()}}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that runs; whoever calls ends it."""
        argv = [sys.executable, "-m", "pliant", *arguments]
        return subprocess.Popen(argv, env=self._environment(), stderr=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def agent(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A running agent that answers; killed at the end if it still runs."""
        process = self.start("agent", *arguments)
        try:
            await_(lambda: process.poll() is not None or self._has_looked())
            assert process.poll() is None, process.communicate()[1]
            yield process
        finally:
            process.kill()
            process.communicate()

    def _has_looked(self) -> bool:
        try:
            return self.ask("status")["lastReconcile"] is not None
        except NoAgent:
            return False

    def ask(self, method: str, **params: Any) -> Any:
        return ask(self.places.socket, method, **params)

    def talk(self) -> socket.socket:
        """A connection for what no client of ours would say."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_S)
        connection.connect(str(self.places.socket))
        return connection

    def apply(self, *policies: Policy) -> None:
        with Host(self.places) as host, host.exclusively():
            host.carry_out(host.change_to_apply(policies, allow_waiting=True), actor="test")

    def clear(self) -> None:
        with Host(self.places) as host, host.exclusively():
            host.carry_out(host.change_to_rollback(0), actor="test")

    def drift(self) -> int:
        with Host(self.places) as host, host.exclusively():
            return len(host.drift())

    def programs(self, service: str) -> list[str]:
        """The programs on a service's hook."""
        return [p.name for p in attached(self.root / service, AttachType.CGROUP_SOCK_OPS)]

    def events(self, *kinds: str) -> list[Event]:
        journal = Journal(self.places.state, read_only=True)
        try:
            return [event for event in journal.events.newest(1000) if event.kind in kinds or not kinds]
        finally:
            journal.close()

    def remove(self, service: str) -> None:
        (self.root / service).rmdir()

    def is_removed(self, service: str) -> bool:
        """Remove a service whose processes have ended; the kernel lets it go when it is done with the last of them."""
        with contextlib.suppress(OSError):
            self.remove(service)
        return not (self.root / service).exists()


@pytest.fixture(scope="session")
def lab_host(mounts: PrivateMounts) -> Iterator[LabHost]:
    with Lab("agent") as lab:
        yield lab.host("server")


@pytest.fixture
def ground(mounts: PrivateMounts, lab_host: LabHost) -> Iterator[Ground]:
    number = next(_numbers)
    root = lab_host.service(f"root{number}")
    places = Places(
        mounts.state / f"agent{number}",
        mounts.bpffs / f"agent{number}",
        root,
        mounts.run / f"agent{number}.sock",
    )
    made = Ground(places, lab_host)
    yield made
    made.clear()
    assert not places.pins.exists()


@dataclass
class Supervisor:
    """What systemd is to a service: it is told things."""

    socket: socket.socket
    told: list[str] = field(default_factory=list)

    def heard(self, state: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told += self.socket.recv(4096).decode().splitlines()
        return any(line.startswith(state) for line in self.told)


@pytest.fixture
def supervisor(ground: Ground, tmp_path: Path) -> Iterator[Supervisor]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        ground.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        yield Supervisor(listening)
