# SPDX-License-Identifier: Apache-2.0
"""What became of packets, by interface, module, verdict and reason."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pliant.fastpath.objects import counted_reasons
from pliant.kernel.errors import KernelError
from pliant.kernel.packet_counts import Counted
from pliant.kernel.programs import Program
from pliant.observe.fastpath import FORWARDED, FastpathPins, FastpathState, Port, read_family_counts

ACCELERATED, DROPPED, LEFT = "accelerated", "dropped", "kernel"
"""Verdicts: sent on by the fast path, dropped by it where nftables drops, and left to the kernel."""
NO_MODULE = "none"
_MODULES = {"bridge_xdp": "bridge", "overlay_tc": "overlay"}  # of programs that are one module
_BEFORE_MODULES = frozenset({"not ours", "not ip"})  # a router's program says so before it comes to one


class Key(NamedTuple):
    """What is counted apart; ``reason`` is empty for what was accelerated."""

    interface: str
    module: str
    verdict: str
    reason: str


def read_counters(pins: FastpathPins, found: FastpathState) -> dict[Key, Counted]:
    """What there is of it, without what has never happened.

    Of each interface this is since it is accelerated; every packet that has come in by it since is counted once.
    """
    totals: dict[Key, Counted] = defaultdict(Counted)
    for port in found.ports:
        name = found.names.get(port.ifindex)
        if name is None:  # it is gone
            continue
        program = _program(pins, port)
        for family, counted in zip((4, 6), read_family_counts(pins, port), strict=True):
            for key, one in _keyed(name, module_of(program, family), counted):
                totals[key] = totals[key].plus(one)
    return dict(totals)


def _keyed(interface: str, module: str, counted: Sequence[Counted]) -> Iterator[tuple[Key, Counted]]:
    names = counted_reasons()
    for number, one in enumerate(counted):
        if not one.packets:
            continue
        reason = "" if number == FORWARDED else names.get(number, str(number))
        outside = module.startswith("route") and reason in _BEFORE_MODULES
        verdict = ACCELERATED if not reason else DROPPED if reason == DROPPED else LEFT
        yield Key(interface, NO_MODULE if outside else module, verdict, reason), one


def module_of(program: str, family: int | None) -> str:
    """The module that a program sends packets of an IP version on by."""
    return _MODULES.get(program) or (f"route{family}" if family else NO_MODULE)


def _program(pins: FastpathPins, port: Port) -> str:
    for build in pins.builds(port):
        with contextlib.suppress(KernelError), Program.pinned(pins.program(port, build)) as program:
            return program.name
    return ""
