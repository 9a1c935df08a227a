# SPDX-License-Identifier: Apache-2.0
"""Where a host's state is kept: all of it movable, so that several Pliants can live side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE = Path("/var/lib/pliant")
DEFAULT_PINS = Path("/sys/fs/bpf/pliant")
DEFAULT_SOCKET = Path("/run/pliant/agent.sock")


@dataclass(frozen=True, slots=True)
class Places:
    """The journal's directory, the directory of pins in a bpffs, cgroup v2's root (None: found by itself).

    ``socket`` is where the agent listens.
    """

    state: Path = DEFAULT_STATE
    pins: Path = DEFAULT_PINS
    cgroup_root: Path | None = None
    socket: Path = DEFAULT_SOCKET
