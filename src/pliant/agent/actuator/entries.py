# SPDX-License-Identifier: Apache-2.0
"""What is attached to interfaces, and goes on to the program in force on each (bpf/entry)."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from pliant.fastpath.objects import ENTRIES, shipped_entry
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.observe.fastpath import FastpathPins, Port, counters_in, slot_of


class Entries:
    """One program for all interfaces, and another for those whose slots in its table are taken: places.

    One that is attached somewhere already is attached to another interface at once; for a new one the kernel waits for
    a grace period of RCU. The interfaces of a place share what counts, too, each with its slot, and so the programs
    that they go on to. An interface keeps its place as long as there is anything for it.
    """

    def __init__(self, pins: FastpathPins) -> None:
        self._pins = pins

    def take(self, port: Port) -> Path | None:
        """The place of an interface, which gets one if it has none; None where somebody has removed that."""
        place, current = self.place_of(port), self._pins.current(port)
        if place is None and not current.exists():
            place = self._free_place(port)
            for pin in counters_in(place):  # another may have had the slot
                with Map.pinned(pin) as counts:
                    counts.put(slot_of(counts, port), bytes(counts.value_size))
            with Map.pinned(place / "programs") as table:
                table.pin(current)
        return place

    @contextlib.contextmanager
    def of(self, port: Port) -> Iterator[tuple[Program, Map]]:
        """What to attach to an interface, and the table whose slot is its own."""
        place = self.take(port)
        if place is None:
            self._pins.current(port).unlink()  # of nothing that could be attached
            place = self.take(port)
            assert place is not None
        with Map.pinned(place / "programs") as table, Program.pinned(place / "program") as program:
            yield program, table

    def clear(self, port: Port) -> None:
        """Have nothing run on an interface; what is attached there leaves all to the kernel.

        The slot gets a program that does nothing: the kernel takes a grace period of RCU to empty one.
        """
        if not self._pins.current(port).exists():
            return
        place = self.place_of(port)
        with Map.pinned(self._pins.current(port)) as table:
            if place is None:  # somebody has removed it
                table.delete(slot_of(table, port))
                return
            with Program.pinned(place / "nothing") as nothing:
                table.put(slot_of(table, port), nothing.fileno().to_bytes(4, sys.byteorder))

    def place_of(self, port: Port) -> Path | None:
        """Where that is pinned by whose table an interface goes on; None where it has none, or that is gone."""
        own = map_number(self._pins.current(port))
        places = (at for at in self._pins.entries.glob("*/") if own and map_number(at / "programs") == own)
        return next(places, None)

    def _free_place(self, port: Port) -> Path:
        """The first in whose table no other interface has the slot, which is made if there is none."""
        name = ENTRIES[port.mode]
        places = (self._pins.entries / f"{name}_{number}" for number in itertools.count())
        return next(place for place in places if self._has_room(place, name, port))

    def _has_room(self, place: Path, name: str, port: Port) -> bool:
        if not (place / "programs").exists():
            self._make(place, name)
        with Map.pinned(place / "programs") as table:
            rivals = (p for p in self._pins.ports() if slot_of(table, p) == slot_of(table, port))
            return not any(map_number(self._pins.current(rival)) == table.id for rival in rivals)

    def _make(self, place: Path, name: str) -> None:
        """The table is pinned last: where it is there everything is."""
        PinDirectory(place).remove_tree()
        PinDirectory(place).make()
        with load(shipped_entry(name), feature=name) as loaded:
            loaded.programs[name].pin(place / "program")
            loaded.programs[name.replace("entry", "nothing")].pin(place / "nothing")
            loaded.maps["programs"].pin(place / "programs")


def map_number(pin: Path) -> int:
    """The id of a pinned table; 0 where none is."""
    if not pin.exists():
        return 0
    with Map.pinned(pin) as table:
        return table.id
