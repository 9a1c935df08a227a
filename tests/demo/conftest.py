# SPDX-License-Identifier: Apache-2.0
"""Runs of the demo as a person starts it, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pliant.kernel.cgroups import find_root

DEADLINE_S = 60


class Run:
    """One run of ``pliant demo --quick``. Its mark is in the environment of every process it starts."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.mark = f"PLIANT_DEMO_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pliant",
                "demo",
                "--quick",
                "--rounds",
                "5",
                "--out",
                str(out),
                "-o",
                "json",
            ],
            env=os.environ | {name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that the whole group can be sent Ctrl-C, as a terminal does
        )

    def wait_for(self, stage: str) -> None:
        """Wait until the line of progress says this."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line.decode())
            if stage in said[-1]:
                return
        raise AssertionError(f"the demo ended before '{stage}':\n{''.join(said)}")

    def left(self) -> list[str]:
        """Processes, control groups, directories and files that are there because of the run."""
        processes = [
            str(path.parent)
            for path in Path("/proc").glob("[0-9]*/environ")
            if self.mark.encode() in _read(path)
        ]
        prefix = f"pliant-lab-{self.process.pid}-*"
        groups = [str(path) for path in find_root().glob(prefix)]
        directories = [str(path) for path in Path(tempfile.gettempdir()).glob(prefix)]
        return processes + groups + directories + [str(path) for path in self.out.glob("*")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Run]]:
    if os.geteuid() != 0:
        pytest.skip("the demo needs root")
    runs: list[Run] = []

    def make() -> Run:
        runs.append(Run(tmp_path / "out"))
        return runs[-1]

    yield make
    for run in runs:
        run.process.kill()
        run.process.communicate()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"not so after {DEADLINE_S} s"
            time.sleep(0.02)

    return wait
