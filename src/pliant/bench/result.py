# SPDX-License-Identifier: Apache-2.0
"""What a benchmark measured: the one shape for all of them, as a file and as a document."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pliant
from pliant.bench import machine
from pliant.bench.bench import Sample
from pliant.errors import PliantError

DIGITS = 5  # significant ones; the rest is noise


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric over all runs; the spread is given by the least and the greatest value."""

    metric: str
    unit: str
    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark on one machine: what was measured, of which commit, on which kernel and processor.

    ``date`` is when it ended, in UTC (RFC 3339); ``pliant`` is the version of the package.
    """

    bench: str
    commit: str
    kernel: str
    cpu: str
    runs: int
    results: tuple[Measure, ...]
    date: str = ""
    pliant: str = pliant.__version__

    @classmethod
    def of(
        cls, bench: str, runs: int, samples: Iterable[Sample], *, kernel: str = "", cpu: str = ""
    ) -> Result:
        """The result of samples, metrics in the order in which they first came.

        ``kernel`` and ``cpu`` are those that were measured, where they are not this machine's. Raises
        :class:`PliantError` when one metric comes in two units.
        """
        # first: the checkout may change meanwhile
        where = machine.commit(), kernel or machine.kernel(), cpu or machine.cpu()
        values: dict[str, list[float]] = {}
        units: dict[str, str] = {}
        for metric, unit, value in samples:
            if units.setdefault(metric, unit) != unit:
                raise PliantError(f"the metric {metric} came in {units[metric]} and in {unit}")
            values.setdefault(metric, []).append(value)
        measures = (
            Measure(metric, units[metric], _short(median(found)), _short(min(found)), _short(max(found)))
            for metric, found in values.items()
        )
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(bench, *where, runs, tuple(measures), now)

    def to_document(self) -> dict[str, Any]:
        """The result as plain data, ready for JSON."""
        document = asdict(self)
        document["results"] = [asdict(measure) for measure in self.results]
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Result:
        """The result that a document holds; keys it does not know are left out."""
        known = {key: document[key] for key in cls.__slots__ if key in document}
        return cls(**known | {"results": tuple(Measure(**measure) for measure in document["results"])})

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_document(), indent=2) + "\n"

    def save(self, directory: Path) -> Path:
        """Write the result to ``<bench>.json`` in a directory, which is made if needed; return the file."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.bench}.json"
        path.write_text(self.to_json())
        return path

    @property
    def origin(self) -> str:
        """Where and when it was measured, in one line."""
        return f"commit {self.commit}, kernel {self.kernel}, {self.cpu}, {self.date}"


def shown(value: float) -> str:
    """A value as people read it: thousands apart, no more digits than mean something."""
    short = _short(value)
    return (
        f"{short:,}"
        if isinstance(short, int)
        else f"{short:,.{DIGITS - 1}g}"
        if short < 10
        else f"{short:,.1f}"
    )


def _short(value: float) -> float:
    """The value without the digits that are noise; whole numbers as integers."""
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) else short
