# SPDX-License-Identifier: Apache-2.0
"""What was measured, and on what."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pliant


def commit() -> str:
    """The commit of the checkout this package runs from; the package's version where it runs from none.

    ``-dirty`` is added when what is measured differs from the commit: the sources, not the rest of the checkout.
    """
    checkout = Path(pliant.__file__).resolve().parents[2]
    if not ((checkout / ".git").exists() and (checkout / "bpf").is_dir()):
        return pliant.__version__
    head = _git(checkout, "rev-parse", "--short=12", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--", "src", "bpf")
    if not head:
        return pliant.__version__
    return f"{head}-dirty" if changed else head


def _git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def kernel() -> str:
    """The release of the running kernel."""
    return os.uname().release


def cpu() -> str:
    """The processor's model and how many of it there are: "AMD EPYC, 2 CPUs"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    count = os.cpu_count() or len(models)
    return f"{models[0] if models else platform.machine()}, {count} CPU{'s' if count != 1 else ''}"
