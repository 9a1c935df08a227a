# SPDX-License-Identifier: Apache-2.0
"""Which interfaces have a fast path of ours, and what it has counted.

::

    <pins>/fastpath/<tables>/ports, port_numbers, flows4, ...  what all interfaces share, by a digest of its layout
                   /<ifindex>-<mode>/program_<build>           a program for the interface: object and constants
                                    /counters_<tables>         what became of its packets; of other tables: earlier
                                    /current                   the table that has the one in force
                                    /link                      attaches a program that goes on to that one
                   /entries/<kind>_<n>/program, programs       what is attached to interfaces, and the table ``current``
                                      /nothing                 in force in it where none of the others is
                                      /counters_<tables>       the same as those of its interfaces

A build names the object's file and the constants it was loaded with: interfaces of the same build have the same fast
path, and those that share a table of the programs in force run the same program. In that table, and in what counts,
each has a slot of its own: :func:`slot_of`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.packet_counts import Counted, counts_of
from pliant.kernel.programs import Program
from pliant.observe.rule_counters import SLOTS, read_slots

_U32 = struct.Struct("=I")
GENERATION = "generation"
"""The table by which user space makes the programs forget what they keep of flows, or leave all to the kernel."""
PAUSED = 0xFFFFFFFF  # PAUSED_GENERATION in fastpath/way.h
FORWARDED = 0
"""The first of ``enum reason``: all others are packets left to the kernel."""
_STATE = struct.Struct("=IIQ")  # struct ruleset_state in fastpath/filter.h
_NAME_BYTES = 16
_COUNTERS = "counters_"


class Mode(StrEnum):
    """Where on an interface a fast path runs."""

    NATIVE = "native"
    """In the driver (XDP)."""
    GENERIC = "generic"
    """XDP without the driver's help."""
    TC = "tc"
    """At tc (tcx), behind the driver."""


class Port(NamedTuple):
    """An interface of the network namespace, and the hook of it."""

    ifindex: int
    mode: Mode

    def __str__(self) -> str:
        return f"{self.ifindex}-{self.mode}"

    @classmethod
    def named(cls, name: str) -> Port:
        """The port a directory is named after; raises ValueError."""
        ifindex, _, mode = name.partition("-")
        return cls(int(ifindex), Mode(mode))


@dataclass(frozen=True, slots=True)
class FastpathPins:
    """The pins of the fast path below the directory ``root`` of a bpffs; ``layout`` is a digest of its tables."""

    root: Path
    layout: str

    @property
    def directory(self) -> Path:
        """The directory of all of them."""
        return self.root / "fastpath"

    @property
    def tables(self) -> Path:
        """The directory of the tables that all interfaces share."""
        return self.directory / self.layout

    def table(self, name: str) -> Path:
        """One of these tables."""
        return self.tables / name

    def port(self, port: Port) -> Path:
        """The directory of an interface."""
        return self.directory / str(port)

    def program(self, port: Port, build: str) -> Path:
        """A program made for it."""
        return self.port(port) / f"program_{build}"

    def link(self, port: Port) -> Path:
        """What attaches it."""
        return self.port(port) / "link"

    def current(self, port: Port) -> Path:
        """The table that has the program in force in the interface's slot."""
        return self.port(port) / "current"

    @property
    def entries(self) -> Path:
        """The directory of what is attached to interfaces, and goes on to the programs in force."""
        return self.directory / "entries"

    def counts(self, port: Port) -> Path:
        """What becomes of its packets."""
        return self.port(port) / f"{_COUNTERS}{self.layout}"

    def all_counts(self, port: Port) -> list[Path]:
        """What became of its packets, also under builds whose tables had another layout."""
        return counters_in(self.port(port))

    def entry_counts(self, layout: str) -> list[Path]:
        """What became of packets, of all interfaces, under builds whose tables have a layout."""
        return sorted(self.entries.glob(f"*/{_COUNTERS}{layout}"))

    def ports(self) -> list[Port]:
        """The interfaces that have a directory."""
        return sorted(Port.named(path.name) for path in self._directories() if "-" in path.name)

    def links(self) -> list[Path]:
        """What attaches programs to interfaces, also such as a build has named that is not known."""
        return sorted(self.directory.glob("*/link"))

    def other_tables(self) -> list[Path]:
        """Tables of builds whose layout is another."""
        own = (self.tables, self.entries)
        return sorted(p for p in self._directories() if "-" not in p.name and p not in own)

    def builds(self, port: Port) -> list[str]:
        """The builds that are pinned for an interface, oldest pin first: that which runs, and some that have run."""
        pins = sorted(self.port(port).glob("program_*"), key=lambda pin: pin.stat().st_ctime_ns)
        return [pin.name.removeprefix("program_") for pin in pins]

    def _directories(self) -> list[Path]:
        try:
            return list(self.directory.iterdir())
        except FileNotFoundError:
            return []


def counters_in(directory: Path) -> list[Path]:
    """What counts packets there, in tables of any layout."""
    return sorted(directory.glob(f"{_COUNTERS}*"))


class RulesetState(NamedTuple):
    """Which rows of nftables' rules are in force: their half of the tables, generation and digest."""

    half: int = 0
    generation: int = 0
    digest: int = 0

    def encoded(self) -> bytes:
        """``struct ruleset_state``."""
        return _STATE.pack(*self)


_NO_RULES = RulesetState()


@dataclass(frozen=True, slots=True)
class FastpathState:
    """What was found of it.

    ``running`` has the build each interface runs, ``idle`` the builds that are pinned and do not run, oldest first;
    ``exits`` are the interfaces that packets may leave by, with their numbers. ``lost`` are interfaces that are gone,
    or whose link runs nothing of ours or is at another namespace's interface, and such as something was begun for and
    not finished. ``paused`` says that all packets are left to the kernel for now; ``other_tables`` are those of other
    builds. ``names`` are those of the interfaces there are. ``ruleset`` says which of nftables' rules are in force,
    ``rule_names`` what interfaces are called in them; ``rule_slots`` has the counters of rules by the slots that they
    have here. ``has_tables``: this build's tables are there.
    """

    running: Mapping[Port, str] = field(default_factory=dict)
    idle: Mapping[Port, tuple[str, ...]] = field(default_factory=dict)
    exits: Mapping[int, int] = field(default_factory=dict)
    lost: frozenset[Port] = frozenset()
    paused: bool = False
    other_tables: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict, compare=False)
    ruleset: RulesetState = _NO_RULES
    rule_names: Mapping[int, str] = field(default_factory=dict)
    rule_slots: Mapping[int, RuleCounter] = field(default_factory=dict)
    has_tables: bool = field(default=False, compare=False)

    @property
    def ports(self) -> list[Port]:
        """The interfaces that there is anything for."""
        return sorted({*self.running, *self.idle, *self.lost})

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this kind is there."""
        return not (self.running or self.idle or self.lost or self.other_tables)


def read_fastpath(
    pins: FastpathPins, is_attached: Callable[[Port, int], bool] | None = None
) -> FastpathState:
    """The fast path pinned under one directory; raises :class:`KernelError` when a pin cannot be opened.

    ``is_attached`` says whether an interface of this namespace has a program. Without it, and where no interface here
    has the index that a link tells, a link is believed: what is not wanted any more is taken off wherever it is.
    """
    running, idle, lost = {}, {}, set()
    names = dict(socket.if_nameindex())
    for port in pins.ports():
        builds = pins.builds(port)
        hooked = hooked_program(pins, port)
        if hooked and is_attached and port.ifindex in names and not is_attached(port, hooked):
            hooked = 0
        build = _build_of(pins, port, _program_in_force(pins, port), builds) if hooked else None
        if build is not None:
            running[port] = build
        elif pins.link(port).exists() or not builds:
            lost.add(port)
        if others := tuple(other for other in builds if other != build):
            idle[port] = others
    others = tuple(path.name for path in pins.other_tables())
    return FastpathState(
        running,
        idle,
        read_exits(pins),
        frozenset(lost),
        is_paused(pins),
        others,
        names,
        read_ruleset_state(pins),
        read_names(pins),
        read_slots(pins.table(SLOTS)),
        pins.table(GENERATION).exists(),
    )


def own_programs(pins: FastpathPins) -> frozenset[int]:
    """The ids of the programs that are attached to interfaces, or will be: they stand in nobody's way."""
    found = {hooked_program(pins, port) for port in pins.ports()}
    for pin in pins.entries.glob("*/program"):
        with contextlib.suppress(KernelError), Program.pinned(pin) as program:
            found.add(program.id)
    return frozenset(found)


def is_paused(pins: FastpathPins) -> bool:
    """Whether all packets are left to the kernel for now."""
    if not pins.table(GENERATION).exists():
        return False
    with Map.pinned(pins.table(GENERATION)) as held:
        return held.get(bytes(4)) == _U32.pack(PAUSED)


def running_build(pins: FastpathPins, port: Port) -> str | None:
    """The pinned build that an interface runs; None where there is no link, no interface, or another program."""
    number = running_program(pins, port)
    return _build_of(pins, port, number, pins.builds(port)) if number else None


def _build_of(pins: FastpathPins, port: Port, number: int, builds: Sequence[str]) -> str | None:
    for build in reversed(builds) if number else ():
        with contextlib.suppress(KernelError), Program.pinned(pins.program(port, build)) as program:
            if program.id == number:
                return build
    return None


def running_program(pins: FastpathPins, port: Port) -> int:
    """The id of the program that is in force on an interface; 0 where there is no link, or no interface."""
    return _program_in_force(pins, port) if hooked_program(pins, port) else 0


def _program_in_force(pins: FastpathPins, port: Port) -> int:
    with contextlib.suppress(KernelError), Map.pinned(pins.current(port)) as current:
        number: int = _U32.unpack(current.get(slot_of(current, port)) or bytes(4))[0]
        return number
    return 0


def slot_of(table: Map, port: Port) -> bytes:
    """The key of an interface in a table that has a slot for each (fastpath/slot.h)."""
    return _U32.pack(port.ifindex % table.max_entries)


def hooked_program(pins: FastpathPins, port: Port) -> int:
    """The id of the program that is attached to an interface, and goes on to that in force; 0 where none is.

    The kernel does not say of which network namespace a link's interface is (see :mod:`pliant.observe.attached`).
    """
    try:
        with Link.pinned(pins.link(port)) as link:
            info = link.info()
    except KernelError:
        return 0
    return info.program_id if info.ifindex == port.ifindex else 0


def read_exits(pins: FastpathPins) -> dict[int, int]:
    """The interfaces packets may leave by: both tables have to say so, and to be there."""
    if not (pins.table("ports").exists() and pins.table("port_numbers").exists()):
        return {}
    with Map.pinned(pins.table("ports")) as ports, Map.pinned(pins.table("port_numbers")) as numbers:
        return {
            _U32.unpack(ifindex)[0]: _U32.unpack(number)[0]
            for ifindex, number in numbers.items()
            if (ports.get(number) or b"")[:4] == ifindex
        }


def read_ruleset_state(pins: FastpathPins) -> RulesetState:
    """Which rows of nftables' rules are in force."""
    if not pins.table("ruleset").exists():
        return RulesetState()
    with Map.pinned(pins.table("ruleset")) as ruleset:
        return RulesetState(*_STATE.unpack(ruleset.get(bytes(4)) or bytes(_STATE.size)))


def read_names(pins: FastpathPins) -> dict[int, str]:
    """What interfaces are called, by index, for rules that ask."""
    if not pins.table("interface_names").exists():
        return {}
    with Map.pinned(pins.table("interface_names")) as names:
        return {_U32.unpack(key)[0]: value.rstrip(b"\0").decode() for key, value in names.items()}


def encoded_name(ifindex: int, name: str) -> tuple[bytes, bytes]:
    """An element of the table of names."""
    return _U32.pack(ifindex), name.encode().ljust(_NAME_BYTES, b"\0")


def read_counts(pins: FastpathPins, port: Port) -> list[Counted]:
    """What became of an interface's packets, by ``enum reason`` of fastpath/port.h; none where nothing counts.

    Those that builds with other tables have counted are among them: reasons are only ever added at the end.
    """
    return [a.plus(b) for a, b in zip(*read_family_counts(pins, port), strict=True)]


def read_family_counts(pins: FastpathPins, port: Port) -> tuple[list[Counted], list[Counted]]:
    """The same of what is not IPv6, and of IPv6."""
    halves: tuple[list[Counted], list[Counted]] = ([], [])
    for pin in pins.all_counts(port):
        with Map.pinned(pin) as counts:
            found = counted_in(counts, port)
        middle = len(found) // 2
        for half, more in zip(halves, (found[:middle], found[middle:]), strict=True):
            half[:] = [a.plus(b) for a, b in zip_longest(half, more, fillvalue=Counted())]
    return halves


def counted_in(counts: Map, port: Port) -> list[Counted]:
    """What a table has of an interface, of all CPUs: by ``enum reason``, and the same again of IPv6."""
    return counts_of(counts, slot_of(counts, port))
