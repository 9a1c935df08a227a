# SPDX-License-Identifier: Apache-2.0
"""How long the command line takes to say anything: whole processes, by the clock, files in the page cache."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pliant.bench.bench import Bench, Options, Sample
from pliant.errors import PliantError


def run(options: Options) -> Iterator[Sample]:
    """Yield the times of ``pliant --help`` and ``pliant --version``, taking turns, after one of each for nothing."""
    commands = {"help_ms": "--help", "version_ms": "--version"}
    for argument in commands.values():
        elapsed_ms(argument)
    for number in range(options.runs):
        for metric, argument in commands.items():
            taken = elapsed_ms(argument)
            options.progress(f"run {number + 1} of {options.runs}: pliant {argument} took {taken:.0f} ms")
            yield Sample(metric, "ms", taken)


def pliant_command() -> list[str]:
    """The ``pliant`` beside this Python. Raises PliantError where the package is not installed."""
    script = Path(sys.executable).parent / "pliant"
    if not script.exists():
        raise PliantError(f"there is no {script}", remedy="install the package: pip install -e .")
    return [str(script)]


def elapsed_ms(*arguments: str) -> float:
    """The time ``pliant`` takes with these arguments, from before its start to after its end."""
    argv = [*pliant_command(), *arguments]
    started = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode != 0:
        raise PliantError(
            f"'{' '.join(['pliant', *arguments])}' ended with status {done.returncode}: {done.stderr.strip()}"
        )
    return taken * 1000


BENCH = Bench(
    name="startup",
    summary="How long 'pliant --help' and 'pliant --version' take.",
    run=run,
    runs=20,
    needs_root=False,
)
