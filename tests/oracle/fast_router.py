# SPDX-License-Identifier: Apache-2.0
"""The fast path on every port of a router, as a configuration wants it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable

from pliant.agent.actuator.filter_tables import write_rows
from pliant.fastpath.objects import counted_reasons, shared_tables, shipped_object
from pliant.fastpath.ruleset_compile import compile_ruleset
from pliant.fastpath.ruleset_rows import numbered
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.nftables_rules import read_rules
from pliant.kernel.objects import load
from pliant.kernel.packet_counts import Counted
from pliant.kernel.programs import Program
from pliant.observe.fastpath import Mode, Port, RulesetState, counted_in, encoded_name
from pliant.observe.rule_counters import assigned, drop_slots, name_slots, slot_counts
from tests.oracle.constants import Variant
from tests.oracle.kind import Kind
from tests.oracle.router import FIRST_IFINDEX, PORTS, Router, port_name

_U32 = struct.Struct("=I")
MOST_PROGRAMS = 100


class FastPath:
    """Programs are loaded once for each variant, and kept; accelerated packets leave by the ports ``exits``."""

    def __init__(self, kind: Kind, router: Router, first: Variant, exits: Iterable[int]) -> None:
        self._kind, self._router = kind, router
        self._held = contextlib.ExitStack()
        self._maps: dict[str, Map] = {}
        self._programs: dict[Variant, Program] = {}
        self._links: list[Link] = []
        self._runs = first
        self._half = 0
        self._slots: dict[int, RuleCounter] = {}
        program = self._program(first)
        with router.host.inside():
            for port in range(PORTS):
                self._links.append(router.attach_to(program, FIRST_IFINDEX + port))
            for port in exits:
                self._maps["ports"].put(_U32.pack(port), _U32.pack(FIRST_IFINDEX + port))
                self._maps["port_numbers"].put(_U32.pack(FIRST_IFINDEX + port), _U32.pack(port))

    def _program(self, variant: Variant) -> Program:
        if variant not in self._programs:
            constants = {**self._kind.constants, **dict(variant)}
            name = self._kind.object
            with self._router.host.inside():
                loaded = load(shipped_object(name), feature=name, rodata=constants, reuse=self._maps)
            self._programs[variant] = Program(os.dup(loaded.programs[name].fileno()))
            if self._maps:
                loaded.close()
            else:
                self._maps = {n: m for n, m in loaded.maps.items() if n in {*shared_tables(), "counts"}}
                self._held.enter_context(loaded)
            self._forget_programs()
        return self._programs[variant]

    def _forget_programs(self) -> None:
        """Descriptors are few: the programs that were loaded first are loaded again where they are needed."""
        for variant in list(self._programs)[:-MOST_PROGRAMS]:
            self._programs.pop(variant).close()

    def become(self, variant: Variant) -> None:
        """Run programs made for a variant."""
        if variant != self._runs:
            for link in self._links:
                link.update(self._program(variant))
            self._runs = variant

    def forget(self) -> None:
        """Begin as if no packet had been seen."""
        generation = self._maps["generation"]
        [number] = _U32.unpack(generation.get(bytes(4)) or bytes(4))
        generation.put(bytes(4), _U32.pack(number + 1))
        confirmed = self._maps["confirmed"]
        confirmed.put_many(
            (_U32.pack(slot), bytes(confirmed.value_size)) for slot in range(confirmed.max_entries)
        )

    def follow_rules(self) -> None:
        """Take nftables' rules as they are now."""
        compiled = compile_ruleset(read_rules(self._router.host.netns_path), counts=self._kind.counts)
        slots = assigned(self._slots, compiled.counters)
        living = compiled.living or frozenset()
        gone = [slot for slot, counter in self._slots.items() if counter not in living]
        new = {slot: counter for counter, slot in slots.items() if slot not in self._slots}
        name_slots(self._maps["rule_slots"], self._maps["rule_counts"], new)
        compiled = numbered(compiled, slots)
        self._half = 1 - self._half
        rows, members, prefixes = (
            self._maps[name] for name in ("ruleset_rows", "set_members", "set_prefixes")
        )
        write_rows(rows, members, prefixes, compiled, self._half)
        state = RulesetState(self._half, compiled.generation, compiled.digest)
        self._maps["ruleset"].put(bytes(4), state.encoded())
        self._maps["interface_names"].put_many(
            encoded_name(FIRST_IFINDEX + port, port_name(port)) for port in range(PORTS)
        )

        drop_slots(self._maps["rule_slots"], self._maps["rule_counts"], gone)
        self._slots = {slot: counter for slot, counter in (self._slots | new).items() if slot not in gone}

    def rule_counts(self) -> dict[RuleCounter, Counted]:
        """What was counted for rules, of those that there are."""
        counted = slot_counts(self._maps["rule_counts"], self._slots)
        return {counter: counted[slot] for slot, counter in self._slots.items()}

    def counts(self) -> list[int]:
        """Packets by reason, of both IP versions."""
        held = self._maps["counts"]
        by_port = (
            [one.packets for one in counted_in(held, Port(FIRST_IFINDEX + port, Mode.NATIVE))]
            for port in range(PORTS)
        )
        found = [sum(packets) for packets in zip(*by_port, strict=True)]
        middle = len(found) // 2
        return [a + b for a, b in zip(found[:middle], found[middle:], strict=True)]

    def routed(self) -> int:
        """Packets that the kernel would have counted as forwarded: rules drop them after that."""
        counts = self.counts()
        return sum(
            counts[number] for number, name in counted_reasons().items() if name in ("forwarded", "dropped")
        )

    def close(self) -> None:
        """Unload; the router detaches."""
        for program in self._programs.values():
            program.close()
        self._held.close()
