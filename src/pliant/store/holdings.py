# SPDX-License-Identifier: Apache-2.0
"""Which sysctls are ours, and what they were before us: a file ``sysctls.json`` in the state directory.

It is beside the journal so that sysctls can be given back when that cannot be used, and it is replaced in one piece
before and after a sysctl is written. Sysctls end with the boot they were set in: what the file says of another is
nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.errors import PliantError
from pliant.observe.sysctls import Holding
from pliant.policy.sysctls import SysctlKey

NAME = "sysctls.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Held:
    """A holding, and since when the sysctl is ours, in seconds since the epoch."""

    holding: Holding
    since: float


class Holdings:
    """The holdings of one host. Raises :class:`PliantError` when the file cannot be read or written."""

    def __init__(self, state: Path) -> None:
        self.path = state / NAME

    def all(self) -> dict[SysctlKey, Holding]:
        """Every sysctl that is ours."""
        return {key: held.holding for key, held in self.held().items()}

    def held(self) -> dict[SysctlKey, Held]:
        """The same, and since when."""
        try:
            said = json.loads(self.path.read_bytes())
            if said["boot"] != BOOT_ID.read_text().strip():
                return {}
            return dict(_entry(row) for row in said["sysctls"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PliantError(
                f"cannot read which sysctls are ours from {self.path}: {error}",
                remedy="move it away; sysctls then stay as they are now, also when their policies go",
            ) from error

    def put(self, key: SysctlKey, holding: Holding | None) -> None:
        """Hold a sysctl so from now on, or, with no holding, no more."""
        entries = self.held()
        was = entries.pop(key, None)
        if holding is not None:
            entries[key] = Held(holding, was.since if was else time.time())
        self._write(entries)

    def _write(self, entries: Mapping[SysctlKey, Held]) -> None:
        rows = [_row(key, held) for key, held in sorted(entries.items(), key=lambda entry: entry[0])]
        made = self.path.with_suffix(".new")
        try:
            if not rows:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            made.write_text(json.dumps({"boot": BOOT_ID.read_text().strip(), "sysctls": rows}, indent=1))
            made.rename(self.path)
        except OSError as error:
            raise PliantError(
                f"cannot write which sysctls are ours to {self.path}: {error.strerror}",
                remedy="see that the state directory's disk is writable and not full",
            ) from error


def _row(key: SysctlKey, held: Held) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "before": held.holding.before,
        "ours": sorted(held.holding.ours),
        "policy": held.holding.policy,
        "since": held.since,
    }


def _entry(row: dict[str, Any]) -> tuple[SysctlKey, Held]:
    holding = Holding(str(row["before"]), frozenset(map(str, row["ours"])), str(row["policy"]))
    return SysctlKey(int(row["namespace"]), str(row["name"])), Held(holding, float(row["since"]))
