# SPDX-License-Identifier: Apache-2.0
"""The host of a soak: its services under load, its agent, and those who type commands."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.errors import PliantError
from pliant.lab import Host as LabHost
from pliant.lab import PrivateMounts, cgroup
from pliant.lab.host import Process
from pliant.soak.connections import Given
from pliant.soak.policies import Written, as_file

ANSWER_S = 60.0
AGENT_CHECKS_EVERY_S = 2


class Broken(Exception):
    """Something that must hold does not."""


@dataclass
class Seen:
    """What the connections of a service had: new ones since it was last asked, open ones now; ends by kind."""

    opened: int
    new: dict[Given, int]
    held: dict[Given, int]
    failures: list[str]


@dataclass
class Service:
    """A service under load; ``held`` is what its open connections had when they were made."""

    name: str
    process: Process
    opened: int = 0
    held: dict[Given, int] = field(default_factory=dict)

    def ask(self) -> Seen:
        """What its connections have had since this was last asked. Raises Broken when the process is gone."""
        stdin = self.process.popen.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(b"\n")
            stdin.flush()
        return self.read()

    def read(self) -> Seen:
        """Wait for what it tells."""
        found = read_json(self.process.popen, f"the load of {self.name}", lambda: self.process.output)
        new = {Given(*values): count for *values, count in found["new"]}
        held = {Given(10, *values): count for *values, count in found["held"]}
        self.opened = found["opened"]
        return Seen(found["opened"], new, held, found["failures"])


def read_json(process: subprocess.Popen[bytes], name: str, output: Callable[[], str]) -> Any:
    """The next line of a process. Raises Broken when none comes."""
    stdout = process.stdout
    assert stdout is not None
    line = stdout.readline() if select.select([stdout], [], [], ANSWER_S)[0] else b""
    if not line:
        raise Broken(f"{name} does not answer any more: {output().strip()}")
    return json.loads(line)


class Ground:
    """A host in a lab. ``builds`` are where Python finds each build of Pliant; the first is this one."""

    def __init__(self, lab_host: LabHost, mounts: PrivateMounts, builds: list[Path]) -> None:
        self.lab_host = lab_host
        self.builds = builds
        self.build = 0
        self.root = lab_host.service("root")
        self.places = Places(
            mounts.state / "soak", mounts.bpffs / "soak", self.root, mounts.run / "soak.sock"
        )
        self.directory = lab_host.directory
        self.services: dict[str, Service] = {}
        self.agent: subprocess.Popen[bytes] | None = None
        self.agent_log = self.directory / "agent.log"
        self.operators: dict[int, subprocess.Popen[bytes]] = {}
        self.opened_before = 0  # by services that are gone

    # -- processes

    def environment(self) -> dict[str, str]:
        """What a Pliant of the current build is started with."""
        places = {
            "PLIANT_STATE": self.places.state,
            "PLIANT_PINS": self.places.pins,
            "PLIANT_CGROUP_ROOT": self.root,
            "PLIANT_SOCKET": self.places.socket,
            "PYTHONPATH": self.builds[self.build],
        }
        return {**os.environ, "NO_COLOR": "1", **{name: str(path) for name, path in places.items()}}

    def command(self, *argv: str, kill_after_s: float | None = None) -> dict[str, Any]:
        """Run a command of the current build; its status, output and errors."""
        operator = self.operators.get(self.build) or self._start_operator()
        assert operator.stdin is not None
        operator.stdin.write(json.dumps({"argv": argv, "kill_after_s": kill_after_s}).encode() + b"\n")
        operator.stdin.flush()
        found: dict[str, Any] = read_json(operator, "the operator", str)
        return found

    def must(self, *argv: str) -> str:
        """Run a command that has to succeed; what it has written. Raises Broken."""
        done = self.command(*argv)
        if done["status"]:
            raise Broken(f"'pliant {' '.join(argv)}' ended with {done['status']}: {done['errors'].strip()}")
        return str(done["output"])

    def _start_operator(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-P", "-m", "pliant.soak.operator"]
        operator = subprocess.Popen(
            argv, env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.operators[self.build] = operator
        read_json(operator, "the operator", str)
        return operator

    def start_agent(self) -> None:
        """Start the agent of the current build, and wait until it has looked at the host."""
        argv = [sys.executable, "-P", "-m", "pliant", "agent", "--check-every", str(AGENT_CHECKS_EVERY_S)]
        with self.agent_log.open("ab") as log:
            self.agent = subprocess.Popen(argv, env=self.environment(), stderr=log)
        wait(self._has_looked, ANSWER_S, lambda: f"the agent does not begin: {self.agent_said()}")

    def _has_looked(self) -> bool:
        assert self.agent is not None
        if self.agent.poll() is not None:
            raise Broken(f"the agent has ended with {self.agent.returncode}: {self.agent_said()}")
        return self.status()["running"] and self.status()["lastReconcile"] is not None

    def status(self) -> dict[str, Any]:
        """What the agent says of itself."""
        found: dict[str, Any] = json.loads(self.command("status", "-o", "json")["output"])
        return found

    def agent_said(self) -> str:
        """The end of the agent's log."""
        lines = self.agent_log.read_text(errors="replace").splitlines() if self.agent_log.exists() else []
        return "\n".join(lines[-8:])

    def stop_agent(self, *, kill: bool) -> None:
        """End the agent, in order or by SIGKILL."""
        if self.agent is None:
            return
        if self.agent.poll() is not None:
            raise Broken(f"the agent has ended with {self.agent.returncode}: {self.agent_said()}")
        self.agent.kill() if kill else self.agent.terminate()
        self.agent.wait(ANSWER_S)
        self.agent = None

    # -- policies

    def apply(self, *policies: Written, kill_after_s: float | None = None) -> dict[str, Any]:
        """Apply policies from a file; what came of it."""
        path = self.directory / "policies.yaml"
        path.write_text(as_file(policies))
        return self.command("apply", "--allow-waiting", "-f", str(path), kill_after_s=kill_after_s)

    @contextlib.contextmanager
    def journal(self) -> Iterator[Host]:
        """The host for reading its journal; nothing is asked of the kernel, so the build does not matter."""
        with Host(self.places) as host:
            yield host

    # -- services

    def add_service(self, name: str, held: int, pause_s: float) -> None:
        """Start the load of a service, whose cgroup appears with it."""
        argv = [sys.executable, "-P", "-m", "pliant.soak.connections"]
        argv += ["--held", str(held), "--pause", f"{pause_s:g}"]
        process = self.lab_host.spawn(
            argv, service=f"root/{name}", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        service = Service(name, process)
        service.held = service.read().held
        self.services[name] = service

    def remove_service(self, name: str) -> None:
        """End a service's load, which closes its connections in order, and take its cgroup away."""
        service = self.services.pop(name)
        self.opened_before += service.opened
        assert service.process.popen.stdin is not None
        service.process.popen.stdin.close()
        status = service.process.wait(ANSWER_S)
        service.process.stop()
        if status:
            raise Broken(f"the load of {name} ended with {status}: {service.process.output.strip()}")
        try:
            cgroup.remove(self.root / name, timeout_s=ANSWER_S)
        except PliantError as error:
            raise Broken(error.message) from error

    @property
    def opened(self) -> int:
        """How many connections have been made so far."""
        return self.opened_before + sum(service.opened for service in self.services.values())

    def close(self) -> None:
        """End every process that was started here."""
        for process in (self.agent, *self.operators.values()):
            if process is not None:
                process.kill()
                process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
        self.agent = None


def wait(condition: Callable[[], bool], seconds: float, tell: Callable[[], str]) -> None:
    """Wait until something is so. Raises Broken when it is not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(tell())
        time.sleep(0.02)
