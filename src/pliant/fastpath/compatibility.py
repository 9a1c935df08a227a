# SPDX-License-Identifier: Apache-2.0
"""How an interface can run a fast path: a pure function of facts, and of what the kernel lacks.

There are three ways: in the driver (native XDP), in XDP without the driver's help (generic), and at tc. Asked for one
of them, an interface gets that one or none. Asked for ``auto`` it gets the first of native and tc that takes nothing
away from other traffic; never generic, which sees packets after they have been merged, and has to take them apart.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pliant.fastpath.modules import Module, Overlay
from pliant.fastpath.objects import object_for
from pliant.fastpath.reasons import Reason
from pliant.observe.fastpath import Mode
from pliant.observe.network import Facts, Interface
from pliant.policy.fastpath import Asked

AUTO: tuple[Mode, ...] = (Mode.NATIVE, Mode.TC)
"""What ``auto`` tries, in order."""
_HEADROOM_BYTES, _SHARED_INFO_BYTES, _ETHERNET_BYTES = 256, 320, 14
LARGEST_MTU = mmap.PAGESIZE - _HEADROOM_BYTES - _SHARED_INFO_BYTES - _ETHERNET_BYTES
"""Of frames that are in one page, which is what programs that know nothing of fragments are given."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How an interface is to run a fast path; None: not at all. ``reasons`` are against what was looked at before."""

    mode: Mode | None
    reasons: tuple[Reason, ...] = ()


Lacking = Callable[[str], str]
"""What the kernel lacks for an object, as a sentence; empty where it lacks nothing."""


def nothing_lacks(name: str) -> str:
    """A kernel that takes every object."""
    del name
    return ""


def choose(
    asked: Asked, facts: Facts, at: Interface, modules: Sequence[Module], lacking: Lacking = nothing_lacks
) -> Choice:
    """How an interface is to run some modules, asked to run them in a certain way."""
    reasons: list[Reason] = []
    for mode in AUTO if asked == "auto" else tuple(mode for mode in Mode if mode.value == asked):
        if asked == "auto" and not fitting(mode, modules):
            continue
        against = list(_AGAINST[mode](facts, at, modules))
        if asked == "auto" and mode is Mode.NATIVE:
            against += _costs_of_native(at)
        if not against and (said := lacking(object_for(mode, modules))):
            against.append(Reason("kernel-lacks", mode, said, "pliant doctor"))
        if not against:
            return Choice(mode, tuple(reasons))
        reasons += against
    if asked not in (*Mode, "auto"):
        sentence = f"this version has no programs for {asked}"
        reasons.append(Reason("no-such-mode", asked, sentence, "pliant doctor"))
    return Choice(None, tuple(reasons))


def fitting(mode: Mode, modules: Sequence[Module]) -> tuple[Module, ...]:
    """Those of some modules that run in a mode."""
    return tuple(module for module in modules if isinstance(module, Overlay) == (mode is Mode.TC))


def _against_native(facts: Facts, at: Interface, modules: Sequence[Module]) -> Iterator[Reason]:
    yield from _unfit(Mode.NATIVE, at, modules)
    features = facts.xdp_of(at.index)
    if features is not None and not features.native:
        driver = f"{at.kind} interfaces have" if at.kind else "its driver has"
        yield Reason("no-native-xdp", "native", f"{at.name}: {driver} no native XDP", f"ethtool -i {at.name}")
    elif features is not None and not features.redirects:
        sentence = f"{at.name}: its driver does not redirect from native XDP"
        yield Reason("no-native-xdp", "native", sentence, f"ethtool -i {at.name}")
    peer = _other_end(facts, at)
    mtu = peer.mtu if peer else at.mtu
    if mtu > LARGEST_MTU:
        whose = f"the other end of {at.name}" if peer else at.name
        sentence = f"{whose} has an MTU of {mtu}, and native XDP takes {LARGEST_MTU} at most"
        yield Reason("large-mtu", "native", sentence, f"ip link show dev {at.name}")
    if peer and at.rx_queues < peer.tx_queues:
        sentence = f"{at.name} has {at.rx_queues} receive queues for the {peer.tx_queues} that its other end sends by"
        yield Reason("queues", "native", sentence, f"ethtool -l {at.name}")


def _costs_of_native(at: Interface) -> Iterator[Reason]:
    """What native XDP would take from other traffic."""
    if at.kind == "veth":
        sentence = (
            f"native XDP on {at.name} would switch off segmentation offload at its other end; "
            "the mode native accepts that"
        )
        yield Reason("offload-lost", "native", sentence, f"ip -d link show dev {at.name}")


def _against_generic(facts: Facts, at: Interface, modules: Sequence[Module]) -> Iterator[Reason]:
    """Every interface has it."""
    del facts
    yield from _unfit(Mode.GENERIC, at, modules)


def _against_tc(facts: Facts, at: Interface, modules: Sequence[Module]) -> Iterator[Reason]:
    """Every interface has it."""
    del facts
    yield from _unfit(Mode.TC, at, modules)


def _unfit(mode: Mode, at: Interface, modules: Sequence[Module]) -> Iterator[Reason]:
    if not fitting(mode, modules):
        names = ", ".join(module.name for module in modules)
        sentence = f"what {at.name} can have ({names}) does not run there"
        yield Reason("no-such-mode", mode, sentence, "pliant fastpath topology")


_AGAINST: Mapping[Mode, Callable[[Facts, Interface, Sequence[Module]], Iterator[Reason]]] = {
    Mode.NATIVE: _against_native,
    Mode.GENERIC: _against_generic,
    Mode.TC: _against_tc,
}


def _other_end(facts: Facts, at: Interface) -> Interface | None:
    """The other end of a veth, where it is in this namespace."""
    if at.kind != "veth" or at.link is None or at.link_namespace is not None:
        return None
    return facts.interface(at.link)
