# SPDX-License-Identifier: Apache-2.0
"""A real ``pliant agent`` for benchmarks, on places of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pliant.agent.client import NoAgent, ask
from pliant.agent.places import Places
from pliant.errors import PliantError

START_S = 60.0


class AgentProcess:
    """Started, and has looked at its host once, when the block begins; told to end when it is left.

    Raises PliantError with the agent's words when it does not start.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._process: subprocess.Popen[bytes] | None = None
        # A file, for a pipe fills while nobody reads it. Open for as long as this is.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Self:
        places = {
            "PLIANT_STATE": self.places.state,
            "PLIANT_PINS": self.places.pins,
            "PLIANT_CGROUP_ROOT": self.places.cgroup_root,
            "PLIANT_SOCKET": self.places.socket,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pliant", "agent"],
            env=os.environ | {name: str(place) for name, place in places.items() if place},
            stderr=self._log,
        )
        try:
            self._await_first_look(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _await_first_look(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._log.seek(0)
                raise PliantError(f"the agent ended: {self._log.read().decode().strip()}")
            try:
                if ask(self.places.socket, "status")["lastReconcile"]:
                    return
            except NoAgent:
                pass
            time.sleep(0.02)
        raise PliantError(f"the agent did not start within {START_S:g} s")

    def _end(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def processor_s(self) -> float:
        """Time on a processor so far, of all threads, in seconds (proc(5), schedstat)."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def resident_bytes(self) -> int:
        """Memory resident now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise PliantError("the kernel does not tell VmRSS")
