# SPDX-License-Identifier: Apache-2.0
"""The ``pliant`` command, each time in a process of its own, as people run it.

The process is forked, so that the modules need not be imported anew each time: an emulated processor takes seconds
over that.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pliant.__main__

LONGEST_S = 300.0


class Broken(Exception):
    """The command ended as it never should: with a traceback, by a signal, or not at all."""


class Unwilling(Exception):
    """The command refused, with a sentence."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    output: str
    errors: str

    def data(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.output)


def in_child(attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an attempt found in a process of its own, also when that process does not survive it."""
    done = _forked(lambda: sys.stdout.write(json.dumps(attempt())))
    if done.status:
        return {"state": "failed", "said": _ending(done)}
    found: dict[str, Any] = done.data()
    return found


def pliant_command(*words: str, given: str = "", may: tuple[int, ...] = (0,)) -> Done:
    """Run ``pliant`` with these words; ``may`` are the exit statuses that are no refusal.

    Raises :class:`Unwilling` with what it said, and :class:`Broken`.
    """

    def attempt() -> None:
        sys.argv = ["pliant", *words]
        pliant.__main__.main()

    done = _forked(attempt, given)
    if "Traceback" in done.errors or done.status < 0 or done.status > 2:
        raise Broken(f"pliant {' '.join(words)}: {_ending(done)}\n{done.errors}")
    if done.status not in may:
        raise Unwilling(" ".join(done.errors.removeprefix("error: ").split()))
    return done


def killed_after(seconds: float, *words: str, given: str = "") -> bool:
    """Start ``pliant`` and kill it after that time; say whether it was still running."""

    def attempt() -> None:
        sys.argv = ["pliant", *words]
        pliant.__main__.main()

    return _forked(attempt, given, kill_after_s=seconds).status == -signal.SIGKILL


def _forked(attempt: Callable[[], Any], given: str = "", kill_after_s: float = LONGEST_S) -> Done:
    with (
        tempfile.TemporaryFile("w+") as standard_input,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        standard_input.write(given)
        standard_input.seek(0)
        pid = os.fork()
        if pid == 0:
            _be_child(attempt, standard_input.fileno(), output.fileno(), errors.fileno())
        status = _reaped(pid, kill_after_s)
        output.seek(0)
        errors.seek(0)
        return Done(status, output.read(), errors.read())


def _be_child(attempt: Callable[[], Any], *descriptors: int) -> None:
    status = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w"), open(2, "w")  # noqa: SIM115
        attempt()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reaped(pid: int, kill_after_s: float) -> int:
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], kill_after_s)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ending(done: Done) -> str:
    if done.status < 0:
        return f"ended by {signal.Signals(-done.status).name}"
    words = done.errors.strip().splitlines()
    return f"status {done.status}: {words[-1] if words else 'no word'}"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait for a condition; raises :class:`TimeoutError` when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
