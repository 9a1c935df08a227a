# SPDX-License-Identifier: Apache-2.0
"""What became of packets, by interface, module, verdict and reason."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pliant.fastpath.objects import counted_reasons
from pliant.fastpath.synthesis import BRIDGING
from pliant.kernel.errors import KernelError
from pliant.kernel.programs import Program
from pliant.observe.fastpath import FORWARDED, Counted, FastpathPins, FastpathState, Port, read_family_counts

ACCELERATED, LEFT = "accelerated", "kernel"
"""Verdicts: sent on by the fast path, and left to the kernel."""
NO_MODULE = "none"
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
    totals: dict[Key, Counted] = defaultdict(lambda: Counted(0, 0))
    for port in found.ports:
        name = found.names.get(port.ifindex)
        if name is None:  # it is gone
            continue
        bridges = _bridges(pins, port)
        rest, of_ipv6 = read_family_counts(pins, port)
        for module, counted in (("bridge" if bridges else "route4", rest), ("route6", of_ipv6)):
            for key, one in _keyed(name, module, counted):
                totals[key] = totals[key].plus(one)
    return dict(totals)


def _keyed(interface: str, module: str, counted: Sequence[Counted]) -> Iterator[tuple[Key, Counted]]:
    names = counted_reasons()
    for number, one in enumerate(counted):
        if not one.packets:
            continue
        reason = "" if number == FORWARDED else names.get(number, str(number))
        outside = module != "bridge" and reason in _BEFORE_MODULES
        verdict = LEFT if reason else ACCELERATED
        yield Key(interface, NO_MODULE if outside else module, verdict, reason), one


def _bridges(pins: FastpathPins, port: Port) -> bool:
    for build in pins.builds(port):
        with contextlib.suppress(KernelError), Program.pinned(pins.program(port, build)) as program:
            return program.name == BRIDGING
    return False
