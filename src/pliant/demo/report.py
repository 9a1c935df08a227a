# SPDX-License-Identifier: Apache-2.0
"""The demo's result as tables for people and as plain data."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from pliant import __version__
from pliant.demo.inventory import Comparison
from pliant.demo.samples import Phase, Summary, summarise, tail_name
from pliant.lab import Fetch

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Result:
    """All that came out of a run."""

    before: Phase
    after: Phase
    back: Phase
    near_rtt_s: float
    far_rtt_s: float
    congestion_control: str
    treated: int
    comparison: Comparison

    def summaries(self, client: str, phase: Phase) -> dict[str, Summary]:
        """Sum up the fetches of ``near`` or ``far`` by file."""
        fetches: Mapping[str, Sequence[Fetch]] = phase.near if client == "near" else phase.far
        rtt_s = self.near_rtt_s if client == "near" else self.far_rtt_s
        return {file: summarise(some, rtt_s) for file, some in fetches.items()}


def aligned(heads: Row, rows: Sequence[Row], *, left: int = 1) -> str:
    """Lay rows out under their headings, the first ``left`` columns to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def line(row: Row) -> str:
        cells = (
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "   ".join(cells).rstrip()

    return "\n".join([click.style(line(heads), bold=True), *map(line, rows)])


def comparison_table(result: Result, client: str) -> str:
    """Before against after, for the client ``near`` or ``far``."""
    before, after = result.summaries(client, result.before), result.summaries(client, result.after)
    samples = min(one.samples for one in (*before.values(), *after.values()))
    tail = tail_name(samples)
    heads = (
        "FILE",
        "P50 BEFORE",
        "AFTER",
        "CHANGE",
        f"{tail} BEFORE",
        "AFTER",
        "CHANGE",
        "ROUNDS BEFORE",
        "AFTER",
    )
    rows = [
        (
            file,
            _ms(one.p50_ms),
            _ms(other.p50_ms),
            change(one.p50_ms, other.p50_ms),
            _ms(one.tail_ms),
            _ms(other.tail_ms),
            change(one.tail_ms, other.tail_ms),
            f"{one.rounds:.1f}",
            f"{other.rounds:.1f}",
        )
        for file, one, other in ((file, before[file], after[file]) for file in before)
    ]
    return aligned(heads, rows)


def rolled_back_table(result: Result) -> str:
    """The far client's medians and rounds in all three phases."""
    phases = [result.summaries("far", phase) for phase in (result.before, result.after, result.back)]
    heads = (
        "FILE",
        "P50 BEFORE",
        "WITH POLICY",
        "ROLLED BACK",
        "ROUNDS BEFORE",
        "WITH POLICY",
        "ROLLED BACK",
    )
    rows = [
        (
            file,
            *(_ms(phase[file].p50_ms) for phase in phases),
            *(f"{phase[file].rounds:.1f}" for phase in phases),
        )
        for file in phases[0]
    ]
    return aligned(heads, rows)


def retransmissions(result: Result) -> str:
    """How much was sent again, in one line."""
    parts = [
        f"{phase.name} {phase.retransmissions} of {phase.segments_sent:,} segments"
        for phase in (result.before, result.after)
    ]
    return f"Retransmissions: {', '.join(parts)} (TcpRetransSegs of the server's host)"


def programs_table(comparison: Comparison) -> str:
    """Every program that ran for the host's connections at any time, and when."""
    rows = [
        (name, str(number), hook, group, *("yes" if there else "-" for there in moments))
        for number, name, (group, hook), moments in comparison.rows()
    ]
    return aligned(("PROGRAM", "ID", "HOOK", "CGROUP", "BEFORE", "WITH POLICY", "ROLLED BACK"), rows, left=7)


def counts_table(comparison: Comparison) -> str:
    """How many links, pins, programs and maps there were at each moment."""
    moments = (comparison.before, comparison.during, comparison.after)
    mine = (frozenset[int](), comparison.came, comparison.came & comparison.after.programs.keys())
    maps = (frozenset[int](), comparison.maps_that_came, comparison.maps_that_came & comparison.after.maps)
    rows = [
        ("links on the host's cgroups", *(str(len(moment.links)) for moment in moments)),
        ("pins", *(str(len(moment.pins)) for moment in moments)),
        ("programs that came with the policy", *(str(len(some)) for some in mine)),
        ("maps that came with the policy", *(str(len(some)) for some in maps)),
    ]
    return aligned(("KERNEL'S LISTS", "BEFORE", "WITH POLICY", "ROLLED BACK"), rows)


def change(before: float, after: float) -> str:
    """How much less or more, in percent."""
    percent = round((after / before - 1) * 100)
    return f"{percent:+d}%" if percent else "0%"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def as_data(result: Result, path: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as plain data: where it was measured, what, and what came out."""
    comparison = result.comparison
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "congestionControl": result.congestion_control,
        "path": dict(path),
        "rttMs": {"near": _rounded(result.near_rtt_s * 1000), "far": _rounded(result.far_rtt_s * 1000)},
        "policy": dict(policy),
        "phases": [_phase(result, phase) for phase in (result.before, result.after, result.back)],
        "treatedConnections": result.treated,
        "programs": [
            dict(
                zip(("id", "name", "cgroup", "hook", "before", "withPolicy", "rolledBack"), row, strict=True)
            )
            for row in ((number, name, *hook, *moments) for number, name, hook, moments in comparison.rows())
        ],
        "differences": comparison.differences(),
    }


def _phase(result: Result, phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "retransmissions": phase.retransmissions,
        "segmentsSent": phase.segments_sent,
        "droppedOnPath": phase.dropped_on_path,
        "pathOverruns": phase.overruns,
        **{client: _files(result.summaries(client, phase)) for client in ("far", "near")},
    }


def _files(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {
        file: {
            "samples": one.samples,
            "p50Ms": _rounded(one.p50_ms),
            "tail": one.tail_name,
            "tailMs": _rounded(one.tail_ms),
            "rounds": _rounded(one.rounds),
        }
        for file, one in summaries.items()
    }


def raw_samples(result: Result) -> dict[str, Any]:
    """Every fetch of every phase."""
    return {
        phase.name: {
            client: {file: [asdict(one) for one in some] for file, some in fetches.items()}
            for client, fetches in (("far", phase.far), ("near", phase.near))
        }
        for phase in (result.before, result.after, result.back)
    }


def _rounded(value: float) -> float:
    return round(value, 3)


def _machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "pliant": __version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    argv = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
