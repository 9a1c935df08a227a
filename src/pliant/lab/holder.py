# SPDX-License-Identifier: Apache-2.0
"""The process that is a lab host: the first one in its network and PID namespaces.

It does nothing but wait, on its standard input and on the owner's pidfd. When told to stop, or when the
owner is gone (kill -9 included), it kills whatever is left in its PID namespace, removes the host's control
groups and temporary directory, and exits; with it the namespaces vanish. A pidfd rather than
PR_SET_PDEATHSIG, because that one fires when the *thread* which made the host ends.

Run by path with ``python -I -S``: it may import only the standard library.
Arguments: owner pidfd, control group, temporary directory.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from contextlib import suppress


def end_everyone() -> None:
    """Kill every other process of this PID namespace, and wait until our children are gone."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:  # SIGCHLD is ignored, so this blocks until none is left and then fails (wait(2))
            os.waitpid(-1, 0)


def remove_group(group: str) -> None:
    """Remove the host's control groups, and the lab's when this was its last host."""
    for directory, _, _ in os.walk(group, topdown=False):
        for _ in range(200):  # a task leaves its group a moment after its parent has been told
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                break
            except OSError:
                select.select([], [], [], 0.005)
            else:
                break
    with suppress(OSError):
        os.rmdir(os.path.dirname(group))


def main() -> None:
    """Hold the namespaces until told to stop or left alone."""
    owner, group, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the owner decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b"ready\n")
    os.close(1)
    select.select([0, owner], [], [])
    end_everyone()
    remove_group(group)
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        os.rmdir(os.path.dirname(directory))


if __name__ == "__main__":
    main()
