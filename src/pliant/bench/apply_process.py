# SPDX-License-Identifier: Apache-2.0
"""The process that applies a file of policies and tells how long each part took and how much memory it needed.

Arguments: state directory, pins, the file, and a file with the change to make after it. The environment says when the
process was started (PLIANT_BENCH_STARTED, CLOCK_MONOTONIC in seconds). Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Apply, change, report."""
    started = float(os.environ["PLIANT_BENCH_STARTED"])
    from pliant.agent.host import Host
    from pliant.agent.places import Places
    from pliant.features import catalogue
    from pliant.policy.documents import load_policies_from_paths

    state, pins, file, changed = sys.argv[1:]
    marks = [started, time.monotonic()]
    policies = load_policies_from_paths([file], catalogue())
    marks.append(time.monotonic())
    with Host(Places(Path(state), Path(pins))) as host:
        with host.exclusively():
            change = host.change_to_apply(policies)
            marks.append(time.monotonic())
            host.carry_out(change, actor="bench")
        marks.append(time.monotonic())
        peak, cpu_s = peak_bytes(), time.process_time()
        del policies, change
        one = load_policies_from_paths([changed], catalogue())
        before = time.monotonic()
        with host.exclusively():
            host.carry_out(host.change_to_apply(one), actor="bench")
        change_s = time.monotonic() - before
    phases = zip(("start_s", "read_s", "plan_s", "carry_out_s"), marks, marks[1:], strict=False)
    report = {name: until - since for name, since, until in phases}
    report |= {"total_s": marks[-1] - marks[0], "cpu_s": cpu_s, "peak_bytes": peak, "change_s": change_s}
    print(json.dumps(report))


def peak_bytes() -> int:
    """The most memory this process has had resident.

    Not getrusage(2)'s ru_maxrss: that starts from what the process which started this one had (exec_mmap() keeps it).
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell VmHWM")


if __name__ == "__main__":
    main()
