# SPDX-License-Identifier: Apache-2.0
"""nftables' rules in the tables of the fast path: written beside those in force, then put in force by one write."""

from __future__ import annotations

import struct

from pliant.agent.actuator.flow_generation import fresh_generation, set_generation
from pliant.agent.actuator.ground import Steps, Taken
from pliant.fastpath.ruleset_rows import ROWS_MAX, Rows, encode_member, encode_prefix, encode_row
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map
from pliant.kernel.rcu import wait_for_running_programs
from pliant.observe.fastpath import (
    FastpathPins,
    encoded_name,
    is_paused,
    read_names,
    read_ruleset_state,
)
from pliant.observe.rule_counters import COUNTS, SLOTS, drop_slots, name_slots, read_slots
from pliant.plan.fastpath_rules import DropRuleSlots, FillRuleset, NameRuleSlots, SelectRuleset, SetNames

_U32 = struct.Struct("=I")
_MEMBER_HALF, _PREFIX_HALF = struct.Struct("=I"), struct.Struct("=4xH")


class FilterTables:
    """The tables that bpf/include/pliant/fastpath/filter.h declares."""

    def __init__(self, pins: FastpathPins) -> None:
        self._pins = pins

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            SetNames: Taken(self._set_names, self._are_names),
            NameRuleSlots: Taken(self._name_slots, self._are_named),
            FillRuleset: Taken(self._fill, self._is_filled),
            SelectRuleset: Taken(self._select, self._is_selected),
            DropRuleSlots: Taken(self._drop_slots, self._are_dropped),
        }

    def _open(self, name: str) -> Map:
        return Map.pinned(self._pins.table(name))

    def _set_names(self, step: SetNames) -> None:
        if not self._pins.tables.exists():
            return  # undone to before there were tables
        with self._open("interface_names") as names:
            held = read_names(self._pins)
            names.delete_many(_U32.pack(index) for index in held.keys() - step.names.keys())
            names.put_many(
                encoded_name(index, name) for index, name in step.names.items() if held.get(index) != name
            )
        self._void()

    def _are_names(self, step: SetNames) -> None:
        if read_names(self._pins) != step.names:
            raise KernelError("the names of the interfaces are not as they were set")

    def _name_slots(self, step: NameRuleSlots) -> None:
        with self._open(SLOTS) as slots, self._open(COUNTS) as counts:
            name_slots(slots, counts, step.named)

    def _are_named(self, step: NameRuleSlots) -> None:
        held = read_slots(self._pins.table(SLOTS))
        if any(held.get(slot) != counter for slot, counter in step.named.items()):
            raise KernelError("the slots of rules that count are not as they were given")

    def _drop_slots(self, step: DropRuleSlots) -> None:
        if not self._pins.tables.exists():
            return
        wait_for_running_programs()  # that have found a flow under rules that were in force before
        with self._open(SLOTS) as slots, self._open(COUNTS) as counts:
            drop_slots(slots, counts, step.dropped)

    def _are_dropped(self, step: DropRuleSlots) -> None:
        if not read_slots(self._pins.table(SLOTS)).keys().isdisjoint(step.dropped):
            raise KernelError("slots of rules that are gone are still theirs")

    def _fill(self, step: FillRuleset) -> None:
        with (
            self._open("ruleset_rows") as rows,
            self._open("set_members") as members,
            self._open("set_prefixes") as prefixes,
        ):
            write_rows(rows, members, prefixes, step.rows, step.half)

    def _is_filled(self, step: FillRuleset) -> None:
        with self._open("ruleset_rows") as rows:
            for at in (0, len(step.rows.rows) - 1):
                if rows.get(_U32.pack(step.half * ROWS_MAX + at)) != encode_row(step.rows.rows[at]):
                    raise KernelError("nftables' rules are not in the tables of the fast path")

    def _select(self, step: SelectRuleset) -> None:
        if not self._pins.tables.exists():
            return
        with self._open("ruleset") as state:
            state.put(bytes(4), step.state.encoded())
        self._void()

    def _is_selected(self, step: SelectRuleset) -> None:
        if self._pins.tables.exists() and read_ruleset_state(self._pins) != step.state:
            raise KernelError("nftables' rules are not in force in the fast path")

    def _void(self) -> None:
        """Have every flow asked about anew."""
        if not is_paused(self._pins):
            set_generation(self._pins, fresh_generation())


def write_rows(rows: Map, members: Map, prefixes: Map, compiled: Rows, half: int) -> None:
    """Write a half that is not in force; a program that still reads what it had finds out, and leaves its packet."""
    members.delete_many([key for key, _ in members.items() if _MEMBER_HALF.unpack_from(key)[0] == half])
    prefixes.delete_many([key for key, _ in prefixes.items() if _PREFIX_HALF.unpack_from(key)[0] == half])
    members.put_many(
        (encode_member(half, member), _U32.pack(target)) for member, target in compiled.members.items()
    )
    prefixes.put_many(
        (encode_prefix(half, prefix), _U32.pack(target)) for prefix, target in compiled.prefixes.items()
    )
    rows.put_many((_U32.pack(half * ROWS_MAX + at), encode_row(row)) for at, row in enumerate(compiled.rows))
