# SPDX-License-Identifier: Apache-2.0
"""A process of ip(8) or bridge(8) that stays and is given commands: to start one takes longer than what it does."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence

from pliant.lab import Host
from tests.oracle.readable import is_readable

_END = "end-of-commands"  # which is no command: what the tool says of it is the end of what it says
_SAID_OF_END = re.compile(rf'[^\n]*"{_END}"[^\n]*\nCommand failed -:\d+\n$')
_LINE = re.compile(r"-:(\d+)")
_TIMEOUT_S = 60
_READ_BYTES = 1 << 16


class Batches:
    """One tool in the namespace of a host, with its options."""

    def __init__(self, host: Host, argv: Sequence[str]) -> None:
        self._host, self._argv = host, [*argv, "-force", "-batch", "-"]
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = 0

    def run(self, commands: Sequence[str]) -> str:
        """Run commands to the last; returns what was refused, with numbers of lines that begin with 1.

        A command the tool dies of is the last: as always, what follows in a batch is not done.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        before, self._lines = self._lines, self._lines + len(commands) + 1
        with contextlib.suppress(
            BrokenPipeError
        ):  # it has died of one of them; what it said is still to be read
            process.stdin.write("".join(f"{command}\n" for command in (*commands, _END)).encode())
            process.stdin.flush()
        said = self._read(process)
        return _LINE.sub(lambda found: f"-:{int(found[1]) - before}", said)

    def _read(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stderr is not None
        said = ""
        while True:
            assert is_readable([process.stderr], _TIMEOUT_S), f"{self._argv} does not answer: {said}"
            more = os.read(process.stderr.fileno(), _READ_BYTES)
            said += more.decode()
            if not more:
                self.close()
                return said
            if _SAID_OF_END.search(said):
                return _SAID_OF_END.sub("", said)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._host.inside():
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        self._lines = 0
        return self._process

    def close(self) -> None:
        """End the process; the next commands start another."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        process.stderr.close()
