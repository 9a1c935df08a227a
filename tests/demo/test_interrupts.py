# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

STAGES = (
    "building three hosts",
    "with the policy: fetching",
    "forwarding: with the fast path",
)


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_leaves_nothing(start: Callable[[], Any], eventually: Callable[..., None], stage: str) -> None:
    run = start()
    run.wait_for(stage)
    assert run.left()
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.process.wait(20) == 130
    eventually(lambda: not run.left())


def test_termination_leaves_nothing(start: Callable[[], Any], eventually: Callable[..., None]) -> None:
    run = start()
    run.wait_for("before: fetching")
    run.process.terminate()
    assert run.process.wait(20) == 143
    eventually(lambda: not run.left())


def test_kill_leaves_nothing_running(start: Callable[[], Any], eventually: Callable[..., None]) -> None:
    run = start()
    run.wait_for("with the policy: fetching")
    run.process.kill()
    eventually(
        lambda: not [one for one in run.left() if "mounts" not in one]
    )  # an empty mount point is swept later
