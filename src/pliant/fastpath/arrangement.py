# SPDX-License-Identifier: Apache-2.0
"""From what can be accelerated and what is asked for to what each interface is to run: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pliant.fastpath.compatibility import Lacking, choose, fitting, nothing_lacks
from pliant.fastpath.modules import Filter, Module, Track
from pliant.fastpath.reasons import Reason
from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.target import FastpathTarget
from pliant.fastpath.topology import Port as Way
from pliant.fastpath.topology import Topology
from pliant.observe.fastpath import Mode
from pliant.policy.fastpath import Wish, Wishes

Refusals = Mapping[tuple[str, Mode], str]
"""What the kernel said when a program was to be attached to an interface in a mode."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What an interface is to run.

    ``wish`` is what is asked for there, None where nothing is. ``mode`` is None and ``modules`` are none where it runs
    nothing; ``reasons`` say why it does not run more.
    """

    way: Way
    wish: Wish | None
    mode: Mode | None
    modules: tuple[Module, ...]
    reasons: tuple[Reason, ...]


def arrange(
    topology: Topology,
    wishes: Wishes,
    refusals: Refusals | None = None,
    lacking: Lacking = nothing_lacks,
) -> tuple[Arrangement, ...]:
    """What each interface of a topology is to run, by a kernel that has refused programs, and lacks something."""
    return tuple(
        _arranged(topology, way, wishes.of(way.name), refusals or {}, lacking) for way in topology.ports
    )


def target_of(topology: Topology, arrangements: Iterable[Arrangement]) -> FastpathTarget:
    """The programs that do what was arranged."""
    arrangements = tuple(arrangements)
    standby = frozenset(arranged.way.index for arranged in arrangements if arranged.wish)
    chosen = [arranged for arranged in arrangements if arranged.mode is not None]
    by_index = {arranged.way.index: arranged.modules for arranged in chosen}
    ports = tuple(replace(way, modules=by_index.get(way.index, ())) for way in topology.ports)
    modes = {arranged.way.index: arranged.mode for arranged in chosen if arranged.mode is not None}
    return replace(synthesize(replace(topology, ports=ports), modes), standby=standby)


def _arranged(
    topology: Topology, way: Way, wish: Wish | None, refusals: Refusals, lacking: Lacking
) -> Arrangement:
    at = topology.facts.interface(way.index)
    if wish is None or at is None:
        return Arrangement(way, wish, None, (), way.reasons)
    modules = asked_for(way.modules, wish)
    reasons = [*way.reasons, *(_not_asked_for(m, wish) for m in way.modules if m not in modules)]
    if not modules:
        return Arrangement(way, wish, None, (), tuple(reasons))
    choice = choose(wish.mode, topology.facts, at, modules, lacking)
    said = refusals.get((way.name, choice.mode)) if choice.mode else None
    if said is not None:
        refused = Reason("refused", str(choice.mode), said, f"ip -d link show dev {way.name}")
        return Arrangement(way, wish, None, (), (refused, *reasons, *choice.reasons))
    if choice.mode is None:  # which is why nothing runs; the others are about what could run besides
        return Arrangement(way, wish, None, (), (*choice.reasons, *reasons))
    running = fitting(choice.mode, modules)
    return Arrangement(way, wish, choice.mode, running, (*reasons, *choice.reasons))


def asked_for(modules: Sequence[Module], wish: Wish) -> tuple[Module, ...]:
    """Those of an interface's modules that a policy asks for, and that are right without the others.

    Routing is not: where rules or connections decide about packets, it comes with them or not at all. Connections are
    followed wherever routing needs it; without translating, those that are translated are left to the kernel.
    """
    if wish.modules is None:
        return tuple(modules)
    wanted = wish.modules - (frozenset() if "route" in wish.modules else {"filter", "nat"})
    barred = {m.family for m in modules if isinstance(m, Filter) and not {"route", "filter"} <= wanted}
    return tuple(
        module
        for module in modules
        if (isinstance(module, Track) and "route" in wanted and module.family not in barred)
        or (kind_of(module) in wanted and getattr(module, "family", None) not in barred)
    )


def _not_asked_for(module: Module, wish: Wish) -> Reason:
    lacking = "what has to come with it" if kind_of(module) in (wish.modules or ()) else "it"
    sentence = f"policy '{wish.policy}' does not ask for {lacking}"
    return Reason("not-asked-for", module.name, sentence, f"pliant describe {wish.policy}")


def kind_of(module: Module) -> str:
    """What people call a module in policies: without the version of IP."""
    return module.name.rstrip("46")
