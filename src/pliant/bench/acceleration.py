# SPDX-License-Identifier: Apache-2.0
"""The fast path on a lab host, through the steps that the agent takes: facts, topology, synthesis, plan, actuator."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pliant.agent.actuator.fastpath import Fastpaths
from pliant.agent.actuator.ground import Ground
from pliant.bench.place import private_mounts
from pliant.errors import PliantError
from pliant.fastpath.objects import shipped_object, tables_layout
from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.target import FastpathTarget
from pliant.fastpath.topology import Topology, topology
from pliant.features.layout import shipped_layout
from pliant.kernel.btf import Btf
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.programs import Program
from pliant.lab import Host
from pliant.observe.fastpath import FastpathPins, Mode, read_fastpath
from pliant.observe.network_reader import read_facts
from pliant.observe.pin_tree import PinTree
from pliant.plan.fastpath import accelerations, superseded
from pliant.store.holdings import Holdings

_numbers = itertools.count(1)
NOTHING = FastpathTarget()


class Acceleration:
    """What the fast path of a host is to be, worked out once, when it is first asked for or told to look again.

    ``names`` are the interfaces that are to have it, all that can when None; ``mode`` is how; ``counts``: it counts for
    rules of nftables that do. Raises :class:`PliantError` when one of them cannot, with the reasons, or when none can.
    """

    def __init__(
        self,
        host: Host,
        names: Collection[str] | None = None,
        *,
        mode: Mode = Mode.NATIVE,
        counts: bool = False,
    ) -> None:
        mounts = private_mounts()
        tree = PinTree(mounts.bpffs / f"acceleration{next(_numbers)}", shipped_layout().digest)
        self.pins = FastpathPins(tree.root, tables_layout())
        self._host, self._names, self._mode, self._counts = host, names, mode, counts
        ground = Ground(tree, shipped_layout(), Path(), 0, Holdings(mounts.state))
        self._steps = Fastpaths(ground).steps()
        self._target: FastpathTarget | None = None

    def look(self) -> FastpathTarget:
        """Work out anew what it is to be."""
        found = topology(read_facts(self._host.netns_path), own=(), counts=lambda name: self._counts)
        modes = {port.index: self._mode for port in found.ports}
        self._target = synthesize(found, modes, self._names)
        missing = set(self._names or ()) - {a.interface for a in self._target.accelerations.values()}
        if missing or not self._target.accelerations:
            raise PliantError(f"not accelerated on lab host {self._host.name}: {_reasons(found, missing)}")
        return self._target

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have it in the kernel for the time of a block."""
        target = self._target or self.look()
        try:
            self._become(target)
            yield
        finally:
            self._become(NOTHING)

    @contextmanager
    def program(self, name: str) -> Iterator[Program]:
        """The program that an interface runs, while it is on, for test runs: those have no sk_buff with the packet."""
        [found] = [a for a in (self._target or self.look()).accelerations.values() if a.interface == name]
        of_drivers = {name: 0 for name in ("comes_with_skb", "runs_in_driver") if name in found.constants}
        constants = {**found.constants, **of_drivers}
        with ExitStack() as held:
            tables = {path.name: held.enter_context(Map.pinned(path)) for path in self.pins.tables.iterdir()}
            known = Btf.from_elf(shipped_object(found.object)).map_layouts()
            shared = {table: tables[table] for table in tables.keys() & known.keys()}
            with self._host.inside():
                loaded = load(
                    shipped_object(found.object), feature=found.object, rodata=constants, reuse=shared
                )
            held.enter_context(loaded)
            yield loaded.programs[found.object]

    def table_bytes(self) -> int:
        """What its tables take in memory, while it is on, as the kernel accounts for it."""
        found: dict[int, int] = {}
        for pin in self.pins.directory.rglob("*"):
            with suppress(KernelError), Map.pinned(pin) as held:  # others are programs, links and directories
                found[held.id] = _bytes_of(held)
        return sum(found.values())

    def _become(self, target: FastpathTarget) -> None:
        found = read_fastpath(self.pins)
        with self._host.inside():
            for step in (*accelerations(found, target), *superseded(found, target)):
                taken = self._steps[type(step)]
                taken.act(step)
                taken.read_back(step)


def _bytes_of(held: Map) -> int:
    lines = Path(f"/proc/self/fdinfo/{held.fileno()}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def _reasons(found: Topology, missing: Collection[str]) -> str:
    said = (
        f"{r.module}: {r.sentence}"
        for p in found.ports
        if p.name in missing or not missing
        for r in p.reasons
    )
    return "; ".join(dict.fromkeys(said)) or "there is no such interface"
