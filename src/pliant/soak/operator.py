# SPDX-License-Identifier: Apache-2.0
"""The process that types commands: each runs in a child of its own, with everything imported already.

    python -m pliant.soak.operator

It reads JSON lines {"argv": ["apply", "-f", "p.yaml"], "kill_after_s": null or 0.1} and answers each with one JSON
line: exit status (negative: the signal that ended it), output and errors. A command is the whole command line, in a
process that can be killed; only its start is saved.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
from typing import IO, Any

import pliant.cli.apply
import pliant.cli.delete
import pliant.cli.doctor
import pliant.cli.off
import pliant.cli.on
import pliant.cli.repair
import pliant.cli.rollback
import pliant.cli.status  # noqa: F401 -- what the commands would import
from pliant.__main__ import main as command
from pliant.features.layout import shipped_layout


def run(argv: list[str], kill_after_s: float | None) -> dict[str, Any]:
    """Run one command to its end, or to the time at which it is killed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            become(argv, output, errors)
        process = os.pidfd_open(child)
        select.select([process], [], [], kill_after_s)
        os.close(process)
        if kill_after_s is not None:
            os.kill(child, signal.SIGKILL)  # to one that has ended it does nothing
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"status": status, "output": text(output), "errors": text(errors)}


def become(argv: list[str], output: IO[bytes], errors: IO[bytes]) -> None:
    """Be the command, and end."""
    status: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = ["pliant", *argv]
        command()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def text(stream: IO[bytes]) -> str:
    """All that was written to a file."""
    stream.seek(0)
    return stream.read().decode(errors="replace")


def main() -> None:
    """Run commands until the input ends."""
    print(json.dumps({"layout": shipped_layout().digest}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["argv"], request["kill_after_s"])), flush=True)


if __name__ == "__main__":
    main()
