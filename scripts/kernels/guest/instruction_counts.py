# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in each module of the fast path, where every instruction takes a nanosecond of the clock."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from pliant.bench import modules
from pliant.bench.bench import Options
from pliant.kernel.assembly import instruction, load_instructions, return_constant
from pliant.kernel.uapi import ProgramType

SCALE = 0.25
"""Of the benchmark's runs on one packet: the median of less is the same, for nothing disturbs them."""
OF_TIME, UNIT = "_ns", "instructions per packet"
KNOWN, WRONG_RATIO = 2000, 0.01
_ADD_IMM, _MOV_IMM = 0x07, 0xB7
_PACKET, _REPEATED, _RUNS = bytes(60), 200, 9


def tell_counts(tell: Callable[..., None], runs: int) -> None:
    """Tell what each case costs, as often as asked for, once the clock has been seen to count instructions."""
    took = _ns(KNOWN) - _ns(0)
    tell("progress", said=f"{KNOWN} instructions take {took:g} ns")
    if abs(took / KNOWN - 1) > WRONG_RATIO:
        raise RuntimeError("the clock of this machine does not count instructions")
    options = Options(runs, progress=lambda said: tell("progress", said=said), scale=SCALE)
    for metric, _, value in modules.run(options):
        tell("sample", metric=metric.removesuffix(OF_TIME), unit=UNIT, value=value)


def _ns(additions: int) -> float:
    """What a program takes that adds so many times, which is an instruction each for any processor."""
    code = additions * instruction(_ADD_IMM, 2, immediate=1)  # to a register that has been set before
    with load_instructions(ProgramType.XDP, instruction(_MOV_IMM, 2) + code + return_constant(0)) as program:
        return median(program.test_run(_PACKET, repeat=_REPEATED).duration_ns for _ in range(_RUNS))
