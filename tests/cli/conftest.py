# SPDX-License-Identifier: Apache-2.0
"""The command as people run it: a process of its own, with state, pins and cgroups of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pliant.lab.host import Host
from pliant.lab.isolation import PrivateMounts, isolate
from pliant.lab.network import Lab

POLICY = """
apiVersion: pliant/v1
kind: TransportPolicy
metadata: {name: %(name)s, owner: web-infra}
spec:
  match: {service: %(service)s, role: server, peers: [10.2.0.0/16]}
  tune: {%(tune)s}
  priority: %(priority)d
"""


def policy(
    name: str = "web", service: str = "web.service", tune: str = "initial_cwnd: 40", priority: int = 100
) -> str:
    """A policy as a person would write it."""
    return POLICY % {"name": name, "service": service, "tune": tune, "priority": priority}


@dataclass
class Pliant:
    """Runs ``pliant``; ``before`` is shell run first in a mount namespace of its own."""

    directory: Path
    environment: dict[str, str]
    cgroup: Path
    host: Host
    before: str = ""
    count: int = field(default=0, init=False)

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pliant", *arguments]
        if self.before:
            command = ["unshare", "--mount", "sh", "-ec", f'{self.before}\nexec "$@"', "sh", *command]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | self.environment,
            cwd=self.directory,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "-o", "json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    def write(self, *policies: str) -> str:
        self.count += 1
        name = f"policies-{self.count}.yaml"
        (self.directory / name).write_text("---".join(policies))
        return name


@pytest.fixture(scope="module")
def mounts() -> PrivateMounts:
    return isolate()


@pytest.fixture
def pliant(mounts: PrivateMounts, tmp_path: Path) -> Iterator[Pliant]:
    with Lab("cli") as lab:
        host = lab.host("server")
        cgroup = host.service("web.service")
        host.service("api.service")
        runner = Pliant(
            tmp_path,
            {
                "PLIANT_STATE": str(tmp_path / "state"),
                "PLIANT_PINS": str(mounts.bpffs / "pliant"),
                "PLIANT_CGROUP_ROOT": str(cgroup.parent),
                "NO_COLOR": "1",
            },
            cgroup,
            host,
        )
        yield runner
        done = runner("delete", "--all")
        assert done.returncode == 0, done.stderr
        assert not (mounts.bpffs / "pliant").exists()
