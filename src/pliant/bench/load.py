# SPDX-License-Identifier: Apache-2.0
"""A steady stream of new connections to a web server, and how many of them a processor second is worth.

Server and generator share one processor. Then everything a connection costs is paid from one purse, on whichever
side of the loopback the kernel happens to do it (on loopback the server's handshake is completed in the context of
the client), nothing sleeps, and no wake-up crosses from one processor to another: pairs of windows agree within about
1%, where free scheduling over two processors gives 20%. It also means that the generator's own work is part of what
a connection costs, so wrk(1) is used, which does little.

Rates are by processor time used, not by the clock, so that others who use the same processor change little.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from pliant.errors import PliantError
from pliant.lab import Host, Process

CONNECTIONS = 16  # open at a time: enough to keep the processor busy, too few to thrash its caches
FIRST_S = 10.0
_FAILED = re.compile(r"Socket errors: .*|Non-2xx or 3xx responses: .*")


class Load:
    """wrk on one processor, a new connection for every request, until the block is left, for ``most_s`` at most.

    ``server`` and ``client`` are services of the host; the server's processes are moved to the same processor.
    Raises PliantError when wrk is missing or no connection comes; leaving raises it when requests failed.
    """

    def __init__(
        self, host: Host, url: str, *, server: str, most_s: float, client: str = "load.service"
    ) -> None:
        self.host = host
        self.url = url
        self.server = server
        self.client = client
        self.most_s = most_s
        self.processor = max(os.sched_getaffinity(0))
        self._process: Process | None = None

    def __enter__(self) -> Load:
        if shutil.which("wrk") is None:
            raise PliantError("wrk is not installed", remedy="install it: apt install wrk")
        for pid in self._pids(self.server):
            os.sched_setaffinity(pid, {self.processor})
        argv = ["taskset", "-c", str(self.processor), "wrk", "--threads", "1"]
        argv += ["--duration", f"{math.ceil(self.most_s)}s", "--connections", str(CONNECTIONS)]
        argv += ["--header", "Connection: close", self.url]
        self._process = self.host.spawn(argv, service=self.client)
        try:
            self._await_first(self._process)
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        process.popen.send_signal(signal.SIGINT)  # wrk then tells what it did
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.stop()
        if error is None and (failed := _FAILED.search(process.output)):
            raise PliantError(f"not every connection to {self.url} succeeded: {failed[0]}")

    def accepted(self) -> int:
        """Connections accepted on the host so far."""
        return self.host.counters()["TcpPassiveOpens"]

    def rate(self, window_s: float) -> float:
        """Connections made in a processor second, over a window of the clock in seconds."""
        pids = [*self._pids(self.server), *self._pids(self.client)]
        accepted, used = self.accepted(), _processor_ns(pids)
        time.sleep(window_s)
        self.check()
        accepted, used = self.accepted() - accepted, _processor_ns(pids) - used
        if not accepted or not used:
            raise PliantError(f"no connection to {self.url} was made within {window_s:g} s")
        return accepted / (used / 1e9)

    def check(self) -> None:
        """Raise PliantError when the load has ended by itself: what was measured since is worth nothing."""
        if self._process is None or self._process.poll() is not None:
            raise PliantError(
                f"the load on {self.url} ended before the measurement did ({self.most_s:.0f} s)"
            )

    def _await_first(self, process: Process) -> None:
        before, deadline = self.accepted(), time.monotonic() + FIRST_S
        while self.accepted() == before:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PliantError(f"wrk makes no connections to {self.url}: {process.output.strip()}")
            time.sleep(0.01)

    def _pids(self, service: str) -> list[int]:
        return [int(pid) for pid in (self.host.service(service) / "cgroup.procs").read_text().split()]


def _processor_ns(pids: list[int]) -> int:
    """Time on a processor of all threads of processes, in ns (proc(5), schedstat)."""
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
