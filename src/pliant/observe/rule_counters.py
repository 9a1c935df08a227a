# SPDX-License-Identifier: Apache-2.0
"""What the fast path has counted for rules of nftables that count: each has a slot as long as it is there."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pliant.kernel.maps import Map
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.packet_counts import Counted, counts_of

SLOTS = "rule_slots"
COUNTS = "rule_counts"
"""The tables of bpf/include/pliant/fastpath/filter.h: whose a slot is, and what was counted in it."""
SLOTS_MAX = 4096
_NAME_BYTES = 256
_U32 = struct.Struct("=I")
_SLOT = struct.Struct("=QQQII12s256s256s4xQQ")  # struct rule_slot
_NOTHING = Counted()


class _Slot(NamedTuple):
    """``before`` is what was counted in tables of other layouts, ``taken`` the id of the last of them."""

    counter: RuleCounter
    before: Counted = _NOTHING
    taken: int = 0

    def encoded(self) -> bytes:
        counter = self.counter
        names = (name.encode() for name in (counter.family, counter.table, counter.chain))
        handles = counter.table_handle, counter.chain_handle, counter.handle
        return _SLOT.pack(*handles, counter.place, self.taken, *names, *self.before)

    @classmethod
    def of(cls, value: bytes) -> _Slot:
        table_handle, chain_handle, handle, place, taken, *names, packets, octets = _SLOT.unpack(value)
        family, table, chain = (name.rstrip(b"\0").decode(errors="replace") for name in names)
        counter = RuleCounter(family, table, table_handle, chain, chain_handle, handle, place)
        return cls(counter, Counted(packets, octets), taken)


class _Kept(NamedTuple):
    """What the tables of a layout have: the id of the one that counts, and by counter its slot and all it counted."""

    number: int = 0
    slots: Mapping[RuleCounter, tuple[_Slot, Counted]] = MappingProxyType({})


def read_slots(table: Path) -> dict[int, RuleCounter]:
    """Whose each slot is, from the pin of the table; none where there is no table."""
    if not table.exists():
        return {}
    with Map.pinned(table) as slots:
        return {_U32.unpack(key)[0]: _Slot.of(value).counter for key, value in slots.items()}


def read_slot_counts(table: Path, slots: Iterable[int]) -> dict[int, Counted]:
    """Packets and bytes in some slots, from the pin of the table."""
    if not table.exists():
        return {}
    with Map.pinned(table) as counts:
        return slot_counts(counts, slots)


def slot_counts(counts: Map, slots: Iterable[int]) -> dict[int, Counted]:
    """Packets and bytes in some slots, of all CPUs."""
    return {slot: _counted(counts, _U32.pack(slot)) for slot in slots}


def _counted(counts: Map, slot: bytes) -> Counted:
    [counted] = counts_of(counts, slot) or [_NOTHING]
    return counted


def read_counted(tables: Path, others: Iterable[Path] = ()) -> dict[RuleCounter, Counted]:
    """What was counted for each rule that has a slot, from the directory of the tables.

    ``others`` are those of tables of other layouts, of which some may have been taken over already, or be just now.
    """
    earlier = [_kept(other) for other in others]  # first: what goes from there is then found here
    found = {}
    for counter, (slot, counted) in _kept(tables).slots.items():
        for kept in earlier:
            if counter in kept.slots and slot.taken != kept.number:
                counted = counted.plus(kept.slots[counter][1])
        found[counter] = counted
    for kept in earlier:
        found |= {name: counted for name, (_, counted) in kept.slots.items() if name not in found}
    return found


def _kept(tables: Path) -> _Kept:
    if not ((tables / SLOTS).exists() and (tables / COUNTS).exists()):  # or somebody is removing them
        return _Kept()
    with Map.pinned(tables / SLOTS) as slots, Map.pinned(tables / COUNTS) as counts:
        if slots.value_size != _SLOT.size:
            return _Kept()  # of a build that has something else in it
        found = {}
        for key, value in slots.items():
            slot = _Slot.of(value)
            found[slot.counter] = slot, slot.before.plus(_counted(counts, key))
        return _Kept(counts.id, found)


def take_over(earlier: Path, tables: Path) -> None:
    """Have what was counted in the tables of another build, which no program uses any more, go on in this one's.

    Done again, after it was interrupted, it changes nothing.
    """
    if not (tables / SLOTS).exists():
        return
    kept = _kept(earlier)
    with Map.pinned(tables / SLOTS) as slots:
        for key, value in list(slots.items()):
            slot = _Slot.of(value)
            if slot.counter in kept.slots and slot.taken != kept.number:
                before = slot.before.plus(kept.slots[slot.counter][1])
                slots.put(key, _Slot(slot.counter, before, kept.number).encoded())


def name_slots(slots: Map, counts: Map, named: Mapping[int, RuleCounter]) -> None:
    """Give slots to counters, with nothing counted in them."""
    counts.put_many((_U32.pack(slot), bytes(counts.value_size)) for slot in named)
    slots.put_many((_U32.pack(slot), _Slot(counter).encoded()) for slot, counter in named.items())


def drop_slots(slots: Map, counts: Map, dropped: Iterable[int]) -> None:
    """Have slots be nobody's, and what was counted in them gone."""
    dropped = list(dropped)
    slots.delete_many(_U32.pack(slot) for slot in dropped)
    counts.put_many((_U32.pack(slot), bytes(counts.value_size)) for slot in dropped)


def assigned(held: Mapping[int, RuleCounter], wanted: Iterable[RuleCounter]) -> dict[RuleCounter, int]:
    """A slot for each counter: the one it has, else the lowest that is nobody's, else none."""
    mine = {counter: slot for slot, counter in held.items()}
    free = (slot for slot in range(1, SLOTS_MAX) if slot not in held)
    found = {}
    for counter in wanted:
        if not _fits(counter):
            continue
        slot = mine.get(counter) or next(free, None)
        if slot is not None:
            found[counter] = slot
    return found


def _fits(counter: RuleCounter) -> bool:
    """Whether its names do, which have more bytes here where those that the kernel has are no text."""
    return all(len(name.encode()) < _NAME_BYTES for name in (counter.table, counter.chain))
