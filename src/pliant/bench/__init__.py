# SPDX-License-Identifier: Apache-2.0
"""What Pliant costs, measured. Every module here that defines ``BENCH`` is a benchmark; there is no other list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from pliant.bench.bench import Bench, Options, Progress, Sample, silent
from pliant.bench.result import Measure, Result
from pliant.errors import PliantError

__all__ = ["Bench", "Measure", "Options", "Progress", "Result", "Sample", "benches", "run_bench"]


@cache
def benches() -> Mapping[str, Bench]:
    """All benchmarks by name, in order of their names."""
    names = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "__main__")
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    found = [module.BENCH for module in modules if isinstance(getattr(module, "BENCH", None), Bench)]
    return MappingProxyType({bench.name: bench for bench in sorted(found, key=lambda b: b.name)})


def run_bench(
    name: str, runs: int | None = None, progress: Progress = silent, *, scale: float = 1.0
) -> Result:
    """Run a benchmark to its end and return what it measured.

    ``runs`` is how often each thing is measured, the benchmark's own number when None; ``scale`` below 1 makes
    everything in it smaller, to try it out. Raises :class:`PliantError` when there is no such benchmark, and when
    it cannot run here.
    """
    bench = benches().get(name)
    if bench is None:
        raise PliantError(f"there is no benchmark '{name}'", remedy=f"choose one of {', '.join(benches())}")
    bench.require()
    options = Options(runs=bench.runs if runs is None else runs, progress=progress, scale=scale)
    return Result.of(name, options.runs, bench.run(options))
