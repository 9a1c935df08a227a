# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in each module of the fast path, where every instruction takes a nanosecond of the clock."""

from __future__ import annotations

from collections.abc import Callable

from pliant.bench import modules
from pliant.bench.bench import Options

SCALE = 0.25
"""Of the benchmark's runs on one packet: the median of less is the same, for nothing disturbs them."""
OF_TIME, UNIT = "_ns", "instructions per packet"


def tell_counts(tell: Callable[..., None], runs: int) -> None:
    """Tell what each case costs, as often as asked for."""
    options = Options(runs, progress=lambda said: tell("progress", said=said), scale=SCALE)
    for metric, _, value in modules.run(options):
        tell("sample", metric=metric.removesuffix(OF_TIME), unit=UNIT, value=value)
