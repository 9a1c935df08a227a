# SPDX-License-Identifier: Apache-2.0
"""What a benchmark declares about itself, what it is given and what it yields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pliant.errors import PliantError

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The progress that tells nobody."""


class Sample(NamedTuple):
    """One value of one metric; units are in the name of the metric as well."""

    metric: str
    unit: str
    value: float


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark is to be run.

    ``runs`` is how often each thing is measured. ``scale`` multiplies durations and sizes: 1 is the benchmark as it
    is defined, less is for trying it out; a metric that is named for a size is named for the size it had.
    """

    runs: int
    progress: Progress = silent
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise PliantError(f"{self.runs} runs measure nothing", remedy="ask for one or more")

    def scaled(self, size: int) -> int:
        """A size at this scale, at least 1."""
        return max(1, round(size * self.scale))


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: ``run`` yields its samples as it takes them, and leaves nothing behind however it ends."""

    name: str
    summary: str
    run: Callable[[Options], Iterable[Sample]]
    runs: int
    needs_root: bool = True

    def require(self) -> None:
        """Raise :class:`PliantError` when this process cannot run it."""
        if self.needs_root and os.geteuid() != 0:
            raise PliantError(f"the benchmark '{self.name}' needs root", remedy="run it with sudo")
