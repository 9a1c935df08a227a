# SPDX-License-Identifier: Apache-2.0
"""Which congestion controls of ours are registered, and which connections run them.

::

    <pins>/controls/pliant_dctcp/ops_<build>     the struct_ops map: the code
                                /move_<build>    the iterator that gives open connections this build
                                /flows_<build>   the iterator that lists the connections of all builds
                                /link            registers one of the maps; its presence says that all is complete

A name is registered for the whole machine, whatever the layout of the tables is: so these are beside the layouts.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.iterators import network_namespaces
from pliant.kernel.links import Link, attach_iterator
from pliant.kernel.maps import Map
from pliant.kernel.namespaces import entered
from pliant.kernel.programs import Program

OPS, MOVE, FLOWS = "ops", "move", "flows"
_FLOW = struct.Struct("=HHIQII104s")  # struct flow in congestion.h


@dataclass(frozen=True, slots=True)
class ControlPins:
    """The pins of congestion controls below the directory ``root`` of a bpffs."""

    root: Path

    @property
    def directory(self) -> Path:
        """The directory of all of them."""
        return self.root / "controls"

    def control(self, name: str) -> Path:
        """The directory of one."""
        return self.directory / name

    def link(self, name: str) -> Path:
        """The pin of the link that registers it."""
        return self.control(name) / "link"

    def pin(self, name: str, kind: str, build: str) -> Path:
        """The pin of a build's map (:data:`OPS`) or of one of its iterators."""
        return self.control(name) / f"{kind}_{build}"

    def names(self) -> list[str]:
        """The controls that have a directory."""
        try:
            return sorted(path.name for path in self.directory.iterdir())
        except FileNotFoundError:
            return []

    def builds(self, name: str) -> list[str]:
        """The builds of a control whose code is pinned: two while one replaces the other."""
        return sorted(path.name.removeprefix(f"{OPS}_") for path in self.control(name).glob(f"{OPS}_*"))


@dataclass(frozen=True, slots=True)
class ControlState:
    """What was found of them.

    ``registered`` has the build that is registered for each name, ``replaced`` the builds that are still pinned beside
    it; ``partial`` are names whose pins are incomplete, or whose link registers something else.
    """

    registered: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this kind is there."""
        return not (self.registered or self.partial)


def read_controls(pins: ControlPins) -> ControlState:
    """The congestion controls pinned under one directory."""
    registered, replaced, partial = {}, {}, set()
    for name in pins.names():
        build = registered_build(pins, name)
        if build is None:
            partial.add(name)
            continue
        registered[name] = build
        if others := tuple(other for other in pins.builds(name) if other != build):
            replaced[name] = others
    return ControlState(registered, replaced, frozenset(partial))


def registered_build(pins: ControlPins, name: str) -> str | None:
    """The pinned build that a control's link registers; None where there is no link, or none of them."""
    try:
        with Link.pinned(pins.link(name)) as link:
            map_id = link.info().map_id
        for build in pins.builds(name):
            with Map.pinned(pins.pin(name, OPS, build)) as held:
                if held.id == map_id:
                    return build
    except KernelError:
        return None
    return None


@dataclass(frozen=True, slots=True)
class Flow:
    """A TCP socket that runs a control: its ports, ``tcp_state`` as in tcp_states.h, windows in segments.

    ``code`` is the same for sockets that run the same build and means nothing else; ``state`` is the control's own.
    """

    local_port: int
    remote_port: int
    tcp_state: int
    code: int
    cwnd: int
    ssthresh: int
    state: bytes


def read_flows(pins: ControlPins, name: str, build: str) -> list[Flow]:
    """All sockets of the machine that run any build of a control; listening ones too."""
    return [
        Flow(*record)
        for output in iterate(pins.pin(name, FLOWS, build))
        for record in _FLOW.iter_unpack(output)
    ]


def iterate(pin: Path) -> Iterator[bytes]:
    """Run a pinned iterator over TCP sockets in every network namespace; what it writes in each."""
    with Program.pinned(pin) as program, attach_iterator(program) as link:
        for namespace in network_namespaces():
            with contextlib.ExitStack() as inside:
                try:
                    inside.enter_context(entered(namespace))
                except KernelError:
                    continue  # its last process has ended
                output = link.read_iterator()
            yield output
