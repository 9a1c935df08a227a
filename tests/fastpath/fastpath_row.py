# SPDX-License-Identifier: Apache-2.0
"""A router between two lab hosts, and fast paths put on it step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pliant.agent.actuator.fastpath import Fastpaths
from pliant.agent.actuator.ground import Ground
from pliant.fastpath.objects import build_of
from pliant.fastpath.target import Acceleration, FastpathTarget
from pliant.lab import Host
from pliant.lab.packets import interface
from pliant.observe.attached import Attached
from pliant.observe.fastpath import FastpathPins, FastpathState, Mode, Port, read_fastpath
from pliant.plan.fastpath import accelerations, superseded
from pliant.plan.steps import Step

ROUTE = "route_xdp"


@dataclass(frozen=True)
class Row:
    """Three hosts in a row; ``left`` and ``right`` are the names of the router's interfaces."""

    sender: Host
    router: Host
    receiver: Host
    left: str
    right: str


@dataclass(frozen=True)
class Fastpath:
    """The fast path of the row's router, changed by the steps that a plan has."""

    row: Row
    ground: Ground
    pins: FastpathPins

    def found(self) -> FastpathState:
        with self.row.router.inside(), Attached() as attached:
            return read_fastpath(self.pins, attached.has)

    def port(self, name: str, mode: Mode = Mode.NATIVE) -> Port:
        return Port(interface(self.row.router, name).number, mode)

    def acceleration(self, name: str, mode: Mode = Mode.NATIVE, **constants: int | bytes) -> Acceleration:
        index = interface(self.row.router, name).number
        chosen: Mapping[str, int | bytes] = {
            "forwards_ipv4": 1,
            "forwards_ipv6": 1,
            **constants,
        }
        return Acceleration(Port(index, mode), name, ROUTE, chosen, build_of(ROUTE, chosen))

    def target(self, *wanted: Acceleration) -> FastpathTarget:
        exits = (interface(self.row.router, name).number for name in (self.row.left, self.row.right))
        return FastpathTarget({a.port: a for a in wanted}, frozenset(exits if wanted else ()))

    def plan(self, target: FastpathTarget) -> tuple[Step, ...]:
        found = self.found()
        return (*accelerations(found, target), *superseded(found, target))

    def take(self, steps: Iterable[Step]) -> None:
        actuator = Fastpaths(self.ground).steps()
        with self.row.router.inside():
            for step in steps:
                actuator[type(step)].act(step)
                actuator[type(step)].read_back(step)

    def become(self, *wanted: Acceleration) -> None:
        """Plan, take, and see that nothing is left to do."""
        target = self.target(*wanted)
        self.take(self.plan(target))
        assert self.plan(target) == ()
