# SPDX-License-Identifier: Apache-2.0
"""The ``pliant`` command on a host of the demo, as a person would type it, kept apart from the real host's."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any

import click

from pliant.demo.screen import Screen
from pliant.errors import PliantError
from pliant.lab import Host, PrivateMounts

POLICY_FILE = "long-path.yaml"


def policy_text() -> str:
    """The policy of the demo, with its comments."""
    return resources.files("pliant.demo").joinpath(POLICY_FILE).read_text()


class Shell:
    """Runs ``pliant`` in a lab host, with pins and state in private mounts and the host's cgroups as its own."""

    def __init__(self, host: Host, mounts: PrivateMounts, screen: Screen) -> None:
        self.host = host
        self.pins = mounts.bpffs / host.name
        self._screen = screen
        self._env = os.environ | {
            "PLIANT_STATE": str(mounts.state / host.name),
            "PLIANT_PINS": str(self.pins),
            "PLIANT_CGROUP_ROOT": str(host.cgroup),
            "PLIANT_LOG_DIR": str(mounts.run),
        }

    def pliant(self, *arguments: str) -> None:
        """Run a command and show it with its output; raises PliantError when it fails."""
        output = self._run(arguments)
        prompt = click.style(f"{self.host.name}# ", dim=True)
        self._screen.say(prompt + click.style(shlex.join(["pliant", *arguments]), bold=True))
        self._screen.say(output.rstrip())

    def ask(self, *arguments: str) -> Any:
        """Run a command with ``-o json``, without showing it, and return its answer."""
        return json.loads(self._run([*arguments, "-o", "json"]))

    def _run(self, arguments: Sequence[str]) -> str:
        directory = f"--chdir={self.host.directory}"
        argv = ["env", directory, sys.executable, "-P", "-m", "pliant", *arguments]
        done = self.host.run(argv, env=self._env, check=False)
        if done.returncode:
            raise PliantError(
                f"pliant {arguments[0]} ended with status {done.returncode} in the demo: {done.stderr.strip()}"
            )
        return done.stdout
