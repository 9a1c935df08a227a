# SPDX-License-Identifier: Apache-2.0
"""What the fast path has counted for rules of nftables that count: each has a slot as long as it is there."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from pliant.kernel.maps import Map
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.packet_counts import Counted, counts_of

SLOTS = "rule_slots"
COUNTS = "rule_counts"
"""The tables of bpf/include/pliant/fastpath/filter.h: whose a slot is, and what was counted in it."""
SLOTS_MAX = 4096
_NAME_BYTES = 256
_U32 = struct.Struct("=I")
_SLOT = struct.Struct("=QQI12s256s256sQQ")  # struct rule_slot
_NOTHING = Counted()


def _encoded(counter: RuleCounter, before: Counted = _NOTHING) -> bytes:
    names = (name.encode() for name in (counter.family, counter.table, counter.chain))
    return _SLOT.pack(counter.table_handle, counter.handle, counter.place, *names, *before)


def _decoded(value: bytes) -> tuple[RuleCounter, Counted]:
    table_handle, handle, place, *names, packets, octets = _SLOT.unpack(value)
    family, table, chain = (name.rstrip(b"\0").decode(errors="replace") for name in names)
    return RuleCounter(family, table, table_handle, chain, handle, place), Counted(packets, octets)


def read_slots(table: Path) -> dict[int, RuleCounter]:
    """Whose each slot is, from the pin of the table; none where there is no table."""
    if not table.exists():
        return {}
    with Map.pinned(table) as slots:
        return {_U32.unpack(key)[0]: _decoded(value)[0] for key, value in slots.items()}


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


def read_counted(tables: Path) -> dict[RuleCounter, Counted]:
    """What was counted for each rule that has a slot, from the directory of the tables."""
    if not (tables / SLOTS).exists():
        return {}
    with Map.pinned(tables / SLOTS) as slots, Map.pinned(tables / COUNTS) as counts:
        if slots.value_size != _SLOT.size:
            return {}  # of a build that has something else in it
        found = {}
        for key, value in slots.items():
            counter, before = _decoded(value)
            found[counter] = before.plus(_counted(counts, key))
        return found


def take_over(earlier: Path, tables: Path) -> None:
    """Have what was counted in the tables of another build, which no program uses any more, go on in this one's."""
    if not (tables / SLOTS).exists():
        return
    counted = read_counted(earlier)
    with Map.pinned(tables / SLOTS) as slots:
        for key, value in list(slots.items()):
            counter, before = _decoded(value)
            if more := counted.get(counter):
                slots.put(key, _encoded(counter, before.plus(more)))


def name_slots(slots: Map, counts: Map, named: Mapping[int, RuleCounter]) -> None:
    """Give slots to counters, with nothing counted in them."""
    counts.put_many((_U32.pack(slot), bytes(counts.value_size)) for slot in named)
    slots.put_many((_U32.pack(slot), _encoded(counter)) for slot, counter in named.items())


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
