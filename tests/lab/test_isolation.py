# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pliant.errors import PliantError
from pliant.lab import isolate, ownership

pytestmark = pytest.mark.root

PRIVATE = """
import subprocess, sys
from pliant.lab import isolate
mounts = isolate()
(mounts.state / "journal").write_text("x")
(mounts.bpffs / "pins").mkdir()
subprocess.run(["test", "-d", mounts.bpffs / "pins"], check=True)
print(mounts.bpffs, flush=True)
sys.stdin.read()
"""


def private() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", PRIVATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_mounts_are_private_and_bpf_can_be_pinned_there() -> None:
    process, bpffs = private()
    with process:
        mounted = Path(f"/proc/{process.pid}/mountinfo").read_text()
        assert any(f" {bpffs} " in line and " - bpf " in line for line in mounted.splitlines())
        assert str(bpffs) not in Path("/proc/self/mountinfo").read_text()
        assert list(bpffs.parent.iterdir()) == []
    assert process.returncode == 0
    assert not bpffs.parent.exists()


def test_mount_point_of_a_killed_process_is_swept() -> None:
    process, bpffs = private()
    with process:
        process.send_signal(signal.SIGKILL)
    ownership.sweep()  # any other lab that starts meanwhile on this machine may have been first
    assert not bpffs.parent.exists()


def test_threads_are_refused() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(PliantError, match="other threads are running"):
            isolate()
    finally:
        done.set()
        thread.join()
