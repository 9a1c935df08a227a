# SPDX-License-Identifier: Apache-2.0
"""The contents of tables."""

from __future__ import annotations

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map, MapType
from pliant.kernel.rcu import wait_for_running_programs
from pliant.observe.reader import POLICY_CONSTANT_BYTES, read_table
from pliant.plan.planner import RULES
from pliant.plan.steps import WriteTable

READ_WHOLE_TABLE_FROM = 256  # entries; below this each is read by itself
CONSTANT_BYTES = {"policies": POLICY_CONSTANT_BYTES, "effects": 0}
"""How much of a value stays as it was written, where the kernel side writes the rest."""


class TableWriter:
    """Writes entries, and deletes them when no program can be reading them any more."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._told = False  # whether a rule was changed since the last wait for running programs

    def steps(self) -> Steps:
        """The steps it takes."""
        return {WriteTable: Taken(self._write, self._write_done)}

    def _write(self, step: WriteTable) -> None:
        """Write, then delete; a value goes only when every program that may have been told of it has ended."""
        if step.table.map in RULES:
            self._told = True
        elif step.deletes and self._told:
            wait_for_running_programs()
            self._told = False
        with Map.pinned(self._ground.pins.map(step.table)) as held:
            held.put_many(step.puts.items())
            if held.type is MapType.ARRAY:  # whose entries stay: all zeros is none
                held.put_many((key, bytes(held.value_size)) for key in step.deletes)
            else:
                held.delete_many(step.deletes)

    def _write_done(self, step: WriteTable) -> None:
        if len(step.puts) + len(step.deletes) >= READ_WHOLE_TABLE_FROM:
            found = read_table(self._ground.pins, step.table)
            missing = step.puts.items() - found.items()
            left = step.deletes & found.keys()
        else:
            with Map.pinned(self._ground.pins.map(step.table)) as held:
                missing = {
                    (key, value) for key, value in step.puts.items() if not _holds(held, step, key, value)
                }
                left = frozenset(key for key in step.deletes if _is_left(held, key))
        if missing or left:
            raise KernelError(
                f"{len(missing)} entries were not taken by {step.table} and {len(left)} are still there"
            )


def _is_left(held: Map, key: bytes) -> bool:
    """Whether a key that was deleted is still there. A trie finds a wider prefix in its place: try to delete it."""
    if held.type is MapType.LPM_TRIE:
        return held.delete(key)
    found = held.get(key)
    return any(found or b"") if held.type is MapType.ARRAY else found is not None


def _holds(held: Map, step: WriteTable, key: bytes, value: bytes) -> bool:
    found = held.get(key)
    if found is None:
        return False
    constant = CONSTANT_BYTES.get(step.table.map, len(value))
    return found[:constant] == value[:constant]
