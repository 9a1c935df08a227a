# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pliant.agent.lock import host_lock
from pliant.errors import PliantError

GENEROUS_S = 30.0


class Holder:
    """Another process that holds the lock, until it is killed."""

    def __init__(self, directory: Path) -> None:
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._hold(directory, tell)
        os.close(tell)
        assert os.read(ready, 1) == b"h", "the other process did not get the lock"
        os.close(ready)

    @staticmethod
    def _hold(directory: Path, tell: int) -> None:
        try:
            with host_lock(directory, 0):
                os.write(tell, b"h")
                signal.pause()
        finally:
            os._exit(1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    started = time.monotonic()
    try:
        with pytest.raises(PliantError) as caught, host_lock(tmp_path, 0.1):
            pass
    finally:
        holder.kill()
    assert time.monotonic() - started >= 0.1
    assert caught.value.message == f"another pliant (process {holder.pid}) is changing this host"
    assert "--timeout" in caught.value.remedy


def test_no_time_to_wait_means_one_attempt(tmp_path: Path) -> None:
    with (
        host_lock(tmp_path, 0),
        pytest.raises(PliantError, match=f"process {os.getpid()}"),
        host_lock(tmp_path, 0),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    holder.kill()
    with host_lock(tmp_path, 0):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_waiting_process_gets_the_lock_when_its_holder_is_killed(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    killer = os.fork()
    if killer == 0:
        os.kill(holder.pid, signal.SIGKILL)
        os._exit(0)
    with host_lock(tmp_path, GENEROUS_S):
        holding = os.waitpid(holder.pid, 0)
    assert holding == (holder.pid, signal.SIGKILL)
    os.waitpid(killer, 0)


def test_the_lock_is_free_after_its_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyError), host_lock(tmp_path, 0):
        raise KeyError
    with host_lock(tmp_path, 0):
        pass


def test_a_longer_process_id_before_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12345678901234567890")
    with host_lock(tmp_path, 0):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_two_state_directories_are_two_locks(tmp_path: Path) -> None:
    with host_lock(tmp_path / "one", 0), host_lock(tmp_path / "other", 0):
        assert (tmp_path / "one" / "lock").exists()


def test_the_lock_and_its_directory_are_for_their_owner_only(tmp_path: Path) -> None:
    with host_lock(tmp_path / "a" / "state", 0):
        assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "a" / "state" / "lock").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_used_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    expected = r"cannot use the state directory .*: file exists"
    with pytest.raises(PliantError, match=expected) as caught, host_lock(tmp_path / "state", 0):
        pass
    assert "--state" in caught.value.remedy
