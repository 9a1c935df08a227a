# SPDX-License-Identifier: Apache-2.0
"""A case: how a router is configured, what changes, and the frames it gets; a line of JSON each in ``cases.jsonl``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

CASES = Path(__file__).parent / "cases.jsonl"
"""What once differed from the kernel, as small as it could be made; every run begins with them."""
BRIDGE_CASES = CASES.with_name("bridge_cases.jsonl")
"""The same of bridges."""
FILTER_CASES = CASES.with_name("filter_cases.jsonl")
"""The same of routers with rules."""
COUNTING_CASES = CASES.with_name("counting_cases.jsonl")
"""The same of routers whose fast path counts for rules."""
NAT_CASES = CASES.with_name("nat_cases.jsonl")
"""The same of connections."""


class Frame(NamedTuple):
    """What comes in, and by which of the router's ports."""

    port: int
    data: bytes


class Change(NamedTuple):
    """A change made between packets: arguments of ip(8), or ``sysctl NAME=VALUE``, or ``nft COMMAND``.

    ``bound_ms`` is how long the fast path may follow the old configuration: 0 where the kernel has a generation for it.
    """

    command: str
    bound_ms: int


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """Commands of ip(8) and sysctls that configure the router; each round sends all the frames."""

    commands: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    frames: tuple[Frame, ...] = ()
    changes: tuple[Change, ...] = ()
    says: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return (
            f"<case: {len(self.commands)} commands, {len(self.frames)} frames, {len(self.changes)} changes>"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis asks for; by itself it would write every byte."""
        printer.text(repr(self))

    def to_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "says": self.says,
                "commands": self.commands,
                "sysctls": self.sysctls,
                "frames": [(frame.port, frame.data.hex()) for frame in self.frames],
                "changes": self.changes,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Case:
        """The case of a line."""
        read = json.loads(line)
        return cls(
            tuple(read["commands"]),
            tuple((name, value) for name, value in read["sysctls"]),
            tuple(Frame(port, bytes.fromhex(data)) for port, data in read["frames"]),
            tuple(Change(command, bound_ms) for command, bound_ms in read["changes"]),
            read["says"],
        )


def kept_cases(kept: Path) -> list[Case]:
    """The cases of a file."""
    return [Case.from_json(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def keep(case: Case, kept: Path) -> None:
    """Add a case to a file, unless it is there."""
    if case not in kept_cases(kept):
        with kept.open("a") as file:
            file.write(case.to_json() + "\n")
