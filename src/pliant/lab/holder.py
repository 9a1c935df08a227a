# SPDX-License-Identifier: Apache-2.0
"""The process that is a lab host: it holds the network namespace, and cleans up.

It does nothing but wait, on its standard input and on the owner's pidfd. When told to stop, or when the
owner is gone (kill -9 included), it kills every process of the host, which is every process in the host's
control groups, removes these and the host's temporary directory, and exits; with it the namespace vanishes.
A pidfd rather than PR_SET_PDEATHSIG, because that one fires when the *thread* which made the host ends.

Run by path with ``python -I -S``: it may import only the standard library.
Arguments: owner pidfd, control group, temporary directory.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress

GIVE_UP_S = 10.0


def kill_group(group: str) -> None:
    """Kill every process in a control group and below it."""
    try:
        with open(f"{group}/cgroup.kill", "w") as kill:  # Linux 5.14
            kill.write("1")
    except PermissionError:
        for directory, _, _ in os.walk(group):
            with open(f"{directory}/cgroup.procs") as members:
                for pid in members.read().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)


def end_group(group: str) -> None:
    """Kill what runs in a control group until it can be removed, and remove it.

    A process may still be on its way in, and one that was killed leaves a moment later: hence the loop.
    """
    deadline = time.monotonic() + GIVE_UP_S
    while os.path.exists(group) and time.monotonic() < deadline:
        try:
            kill_group(group)
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError:
            select.select([], [], [], 0.005)


def main() -> None:
    """Hold the namespace until told to stop or left alone."""
    owner, group, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the owner decides
    os.write(1, b"ready\n")
    os.close(1)
    select.select([0, owner], [], [])
    end_group(group)
    shutil.rmtree(directory, ignore_errors=True)
    for parent in (os.path.dirname(group), os.path.dirname(directory)):
        with suppress(OSError):  # other hosts are still there
            os.rmdir(parent)


if __name__ == "__main__":
    main()
