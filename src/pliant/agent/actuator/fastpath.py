# SPDX-License-Identifier: Apache-2.0
"""Fast paths of interfaces: loaded, attached, replaced without a gap, taken away."""

from __future__ import annotations

import contextlib
import os
import struct
from functools import cached_property
from pathlib import Path

from pliant.agent.actuator.entries import Entries, map_number
from pliant.agent.actuator.filter_tables import FilterTables
from pliant.agent.actuator.flow_generation import fresh_generation, set_generation
from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.fastpath.objects import OWN_TABLE, shipped_object, tables_layout, tables_of
from pliant.fastpath.target import Acceleration
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link, XdpMode, attach_tcx_link, attach_xdp
from pliant.kernel.maps import Map
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.kernel.rcu import wait_for_running_programs
from pliant.kernel.templates import load_again
from pliant.observe.fastpath import (
    PAUSED,
    FastpathPins,
    Mode,
    Port,
    is_paused,
    read_exits,
    running_build,
    running_program,
    slot_of,
)
from pliant.observe.rule_counters import take_over
from pliant.plan.fastpath import (
    AttachFastpath,
    DetachFastpath,
    ForgetFastpath,
    LoadFastpath,
    ParkFastpath,
    PauseFastpath,
    ResumeFastpath,
    RetireTables,
    SetExits,
    SwitchFastpath,
)

_MODES = {Mode.NATIVE: XdpMode.NATIVE, Mode.GENERIC: XdpMode.GENERIC}
_U32 = struct.Struct("=I")


def _attached(program: Program, port: Port) -> Link:
    if port.mode is Mode.TC:
        return attach_tcx_link(program, port.ifindex, "ingress", first=True)
    return attach_xdp(program, port.ifindex, _MODES[port.mode])


class Fastpaths:
    """Attaches with pinned links; all interfaces share the tables that are about more than one."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @cached_property
    def _pins(self) -> FastpathPins:
        return FastpathPins(self._ground.pins.root, tables_layout())

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self._pins)

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            LoadFastpath: Taken(self._load_step, self._is_loaded),
            AttachFastpath: Taken(self._attach, self._is_running),
            SwitchFastpath: Taken(self._switch, self._is_running),
            ParkFastpath: Taken(self._park, self._is_parked),
            DetachFastpath: Taken(self._detach, self._is_detached),
            ForgetFastpath: Taken(self._forget, self._is_forgotten),
            SetExits: Taken(self._set_exits, self._are_exits),
            PauseFastpath: Taken(self._pause, self._is_paused),
            ResumeFastpath: Taken(self._resume, self._is_resumed),
            RetireTables: Taken(self._retire, self._is_retired),
            **FilterTables(self._pins).steps(),
        }

    def _load_step(self, step: LoadFastpath) -> None:
        wanted = step.acceleration
        if wanted.build in self._pins.builds(wanted.port):
            return
        PinDirectory(self._pins.tables).make()
        PinDirectory(self._pins.port(wanted.port)).make()
        place, own = self._entries.take(wanted.port), self._pins.counts(wanted.port)
        shared = place / own.name if place else own
        twin = self._twin(wanted) if place else None
        with twin or self._loaded(wanted, shared) as program:
            if map_number(own) != map_number(shared):
                own.unlink(missing_ok=True)
                with Map.pinned(shared) as counts:
                    counts.pin(own)
            program.pin(self._pins.program(wanted.port, wanted.build))

    def _twin(self, wanted: Acceleration) -> Program | None:
        """The program of another interface in the same place that does the same, if there is one."""
        table = map_number(self._pins.current(wanted.port))
        for port in self._pins.ports():
            pin = self._pins.program(port, wanted.build)
            if pin.exists() and map_number(self._pins.current(port)) == table:
                return self._program(port, wanted.build)
        return None

    def _loaded(self, wanted: Acceleration, counts: Path) -> Program:
        pins = {name: self._pins.table(name) for name in tables_of(wanted.object)} | {OWN_TABLE: counts}
        with contextlib.ExitStack() as held:
            known = {name: held.enter_context(Map.pinned(pin)) for name, pin in pins.items() if pin.exists()}
            path = shipped_object(wanted.object)
            loaded = held.enter_context(
                load_again(path, feature=wanted.object, rodata=wanted.constants, reuse=known)
            )
            for name in loaded.maps.keys() & (pins.keys() - known.keys()):
                loaded.maps[name].pin(pins[name])
            return Program(os.dup(loaded.programs[wanted.object].fileno()))

    def _is_loaded(self, step: LoadFastpath) -> None:
        wanted = step.acceleration
        if wanted.build not in self._pins.builds(wanted.port):
            raise KernelError(f"the fast path of {wanted.interface} is not pinned")

    def _attach(self, step: AttachFastpath) -> None:
        if self._runs(step.port, step.build):
            return
        self._pins.link(step.port).unlink(missing_ok=True)
        with (
            self._entries.of(step.port) as (entry, current),
            self._program(step.port, step.build) as program,
        ):
            current.put(slot_of(current, step.port), _U32.pack(program.fileno()))
            with _attached(entry, step.port) as link:
                link.pin(self._pins.link(step.port))

    def _switch(self, step: SwitchFastpath) -> None:
        pin = self._pins.program(step.port, step.build)
        with Program.pinned(pin) as program, Map.pinned(self._pins.current(step.port)) as current:
            current.put(slot_of(current, step.port), _U32.pack(program.fileno()))
        os.utime(pin)  # of those that do not run, what ran last is kept longest

    def _park(self, step: ParkFastpath) -> None:
        self._entries.clear(step.port)

    def _is_parked(self, step: ParkFastpath) -> None:
        if running_build(self._pins, step.port) is not None:
            raise KernelError(f"{step.interface} still runs its fast path")

    def _is_running(self, step: AttachFastpath | SwitchFastpath) -> None:
        if not self._runs(step.port, step.build):
            raise KernelError(f"{step.interface} does not run the fast path it should")

    def _runs(self, port: Port, build: str) -> bool:
        with self._program(port, build) as program:
            return bool(running_program(self._pins, port) == program.id)

    def _detach(self, step: DetachFastpath) -> None:
        pin = self._pins.link(step.port)
        if pin.exists():
            with Link.pinned(pin) as link:
                pin.unlink()
                with contextlib.suppress(KernelError):  # its interface is gone, and with it what was attached
                    link.detach()
        self._entries.clear(step.port)
        self._clean(step.port)

    def _is_detached(self, step: DetachFastpath) -> None:
        if self._pins.link(step.port).exists():
            raise KernelError(f"the fast path is still attached to {step.interface}")

    def _forget(self, step: ForgetFastpath) -> None:
        self._pins.program(step.port, step.build).unlink(missing_ok=True)
        self._clean(step.port)

    def _is_forgotten(self, step: ForgetFastpath) -> None:
        if step.build in self._pins.builds(step.port):
            raise KernelError(f"the program that {step.interface} ran before is still pinned")

    def _clean(self, port: Port) -> None:
        """Leave nothing of an interface without programs, and no tables without interfaces."""
        builds = self._pins.builds(port)
        if not builds and not self._pins.link(port).exists():
            PinDirectory(self._pins.port(port)).remove_tree()
        elif not any(self._counts_here(port, build) for build in builds):
            self._pins.counts(port).unlink(missing_ok=True)
        if not self._pins.ports():
            PinDirectory(self._pins.directory).remove_tree()
        elif not any(self._pins.counts(other).exists() for other in self._pins.ports()):
            self._remove_tables(self._pins.layout)
        self._ground.remove_if_empty()

    def _counts_here(self, port: Port, build: str) -> bool:
        """Whether a program uses tables of this build's layout; those of another have theirs beside them."""
        pin = self._pins.counts(port)
        if not pin.exists():
            return False
        with Map.pinned(pin) as counts, self._program(port, build) as program:
            return counts.id in program.map_ids

    def _program(self, port: Port, build: str) -> Program:
        return Program.pinned(self._pins.program(port, build))

    def _set_exits(self, step: SetExits) -> None:
        """Numbers go after what they stand for when they come, and before it when they go."""
        if not self._pins.tables.exists():
            return  # undone to before there were tables
        with (
            Map.pinned(self._pins.table("ports")) as ports,
            Map.pinned(self._pins.table("port_numbers")) as numbers,
        ):
            held = read_exits(self._pins)
            for ifindex in held.keys() - step.exits.keys():
                numbers.delete(_U32.pack(ifindex))
                ports.delete(_U32.pack(held[ifindex]))
            for ifindex, number in step.exits.items():
                if held.get(ifindex) != number:
                    ports.put(_U32.pack(number), _U32.pack(ifindex))
                    numbers.put(_U32.pack(ifindex), _U32.pack(number))

    def _are_exits(self, step: SetExits) -> None:
        if read_exits(self._pins) != step.exits:
            raise KernelError("the interfaces that packets may leave by are not as they were set")

    def _pause(self, step: PauseFastpath) -> None:
        del step
        set_generation(self._pins, PAUSED)

    def _is_paused(self, step: PauseFastpath) -> None:
        del step
        if not is_paused(self._pins):
            raise KernelError("the fast path has not paused")

    def _resume(self, step: ResumeFastpath) -> None:
        del step
        if self._pins.tables.exists():  # they may have gone with the last program
            set_generation(self._pins, fresh_generation())

    def _is_resumed(self, step: ResumeFastpath) -> None:
        del step
        if is_paused(self._pins):
            raise KernelError("the fast path is still paused")

    def _retire(self, step: RetireTables) -> None:
        wait_for_running_programs()  # what they have counted is final then
        take_over(self._pins.directory / step.layout, self._pins.tables)
        self._remove_tables(step.layout)

    def _remove_tables(self, layout: str) -> None:
        """The directory goes last: as long as it is there, there is something to do."""
        for pin in self._pins.entry_counts(layout):
            pin.unlink()
        PinDirectory(self._pins.directory / layout).remove_tree()

    def _is_retired(self, step: RetireTables) -> None:
        if (self._pins.directory / step.layout).exists():
            raise KernelError("the tables of another build are still there")
