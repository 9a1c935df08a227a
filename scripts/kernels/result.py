# SPDX-License-Identifier: Apache-2.0
"""What one kernel was found to do: gathered from the guest's events, kept as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
KINDS = {"probe": "probes", "object": "objects", "feature": "features", "scenario": "scenarios"}
NOT_KEPT = frozenset({"event", "trace"})


@dataclass(slots=True)
class Result:
    """Everything of one boot; the lists hold what the guest told, each with ``name``, ``state`` and ``said``."""

    kernel: Entry
    machine: Entry
    pliant: Entry
    date: str = ""
    probes: list[Entry] = field(default_factory=list)
    objects: list[Entry] = field(default_factory=list)
    features: list[Entry] = field(default_factory=list)
    scenarios: list[Entry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The kernel's version and flavour: "6.1-cloud-amd64"."""
        return short_name(self.kernel["release"])

    def add(self, event: Mapping[str, Any]) -> None:
        """Take one event of the guest."""
        if event["event"] in KINDS:
            kept = {key: value for key, value in event.items() if key not in NOT_KEPT}
            getattr(self, KINDS[event["event"]]).append(kept)
        elif event["event"] == "hello":
            self.kernel |= {"release": event["release"], "version": event["version"]}
            self.pliant |= {"version": event["pliant"], "libbpf": event["libbpf"], "python": event["python"]}

    def on_open_connections(self) -> list[Entry]:
        """What was found of each feature that reaches them."""
        return [{"name": entry["name"], **entry["live"]} for entry in self.features if "live" in entry]

    def failures(self) -> list[str]:
        """What must not be on any kernel: something that ended without a sentence, or a scenario that failed."""
        entries = [("probe", entry) for entry in self.probes] + [("object", entry) for entry in self.objects]
        entries += [("feature", entry) for entry in self.features]
        entries += [("feature on open connections", entry) for entry in self.on_open_connections()]
        entries += [("scenario", entry) for entry in self.scenarios]
        return [
            f"{kind} {entry['name']}: {entry['said']}"
            for kind, entry in entries
            if entry["state"] == "failed"
        ]

    def save(self, directory: Path) -> Path:
        """Write the result as JSON under its name."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result that was saved."""
        return cls(**json.loads(path.read_text()))


def short_name(release: str) -> str:
    """The version and flavour in a Debian kernel's release ("6.12.107+deb13-cloud-amd64")."""
    version = re.match(r"(\d+\.\d+)", release)
    flavour = re.search(r"-((?:cloud-|rt-)?(?:amd64|arm64))$", release)
    return f"{version[1] if version else release}-{flavour[1] if flavour else 'other'}"
