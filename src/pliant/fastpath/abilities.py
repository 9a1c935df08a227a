# SPDX-License-Identifier: Apache-2.0
"""What the fast path needs of the kernel, found by having the shipped programs verified, and thrown away again.

Each is loaded with the constants that make the verifier come to what needs the ability: nothing is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pliant.fastpath.objects import BRIDGING, PODS, ROUTING, shipped_object
from pliant.kernel.btf import VMLINUX, Btf, Kind
from pliant.kernel.errors import KernelError, NoPermission, NotSupported
from pliant.kernel.probes import SUPPORTED, Probe, State, Support
from pliant.kernel.templates import load_again, template_of

_ROUTES: Mapping[str, int] = MappingProxyType({"forwards_ipv4": 1, "forwards_ipv6": 1, "comes_with_skb": 1})
_FILTERS = MappingProxyType(
    {**_ROUTES, "follows_ruleset": 1, "filters_ipv4": 1, "filters_ipv6": 1, "counts_rules": 1}
)
_TRACKS = MappingProxyType({**_ROUTES, "tracks4": 1, "tracks6": 1, "translates4": 1, "translates6": 1})
_FUNCTIONS = ("bpf_xdp_ct_lookup", "bpf_ct_release", "bpf_ct_change_timeout")
_CONNTRACK = "nf_conntrack"
_BRIDGE = "bridge"


class _Question(NamedTuple):
    sentence: str
    answer: Callable[[], Support]


def abilities() -> tuple[Probe, ...]:
    """Try everything (some 300 ms)."""
    return tuple(ability(name) for name in names())


def names() -> tuple[str, ...]:
    """The names of all abilities."""
    return tuple(_QUESTIONS)


def ability(name: str) -> Probe:
    """Try one ability; :class:`KeyError` for a name that is not one of :func:`names`."""
    question = _QUESTIONS[name]
    return Probe(name, question.sentence, question.answer())


@cache
def lacking(name: str) -> str:
    """What this kernel lacks for a shipped object, as a sentence; empty where it takes it, or where that is not known.

    Asked once in a process, which has the object ready after that.
    """
    try:
        template_of(shipped_object(name), name, {})
    except NotSupported as error:
        return error.message
    except KernelError:
        pass  # said when it is loaded for an interface
    return ""


def _loads(name: str, constants: Mapping[str, int]) -> Support:
    """Whether an object can be loaded with some constants."""
    try:
        load_again(
            shipped_object(name), feature=name, rodata={"network_namespace": 1, **constants}, reuse={}
        ).close()
    except NoPermission as error:
        return Support(State.UNKNOWN, f"this process may not try: {error.message}")
    except NotSupported as error:
        return Support(State.UNSUPPORTED, error.message)
    except KernelError as error:
        return Support(State.UNKNOWN, error.message)
    return SUPPORTED


def sees_rulesets(types: Path = VMLINUX) -> Support:
    """Whether the number of nftables' ruleset lies where programs can follow pointers to."""
    try:
        found = Btf.vmlinux(types)
        if "base_seq" in found.member_names(found.find("netns_nftables", Kind.STRUCT).id):
            return SUPPORTED
    except KernelError as error:
        return Support(State.UNKNOWN, error.message)
    return Support(State.UNSUPPORTED, "needs Linux 6.17, or a stable one since; a change waits for the agent")


def bridges(modules: Path = Path("/sys/module")) -> Support:
    """Whether the bridge's program is verified, which asks for the types of a module."""
    support = _loads(BRIDGING, {})
    if support.state is State.UNKNOWN and not (modules / _BRIDGE).exists():
        return Support(State.UNKNOWN, f"it is known once the module {_BRIDGE} is loaded")
    return support


def follows_connections(types: Path = VMLINUX.parent, modules: Path = Path("/sys/module")) -> Support:
    """Whether programs are verified that do, and the kernel has the functions that these ask conntrack with.

    A program in which they are not leaves all packets of connections to the kernel.
    """
    support = _loads(ROUTING, _TRACKS)
    if not support:
        return support
    try:
        known = [path.read_bytes() for name in ("vmlinux", _CONNTRACK) if (path := types / name).exists()]
    except OSError as error:
        return Support(State.UNKNOWN, f"the kernel's types cannot be read: {error.strerror}")
    missing = [name for name in _FUNCTIONS if not any(b"\0%b\0" % name.encode() in text for text in known)]
    if not missing:
        return SUPPORTED
    if not (modules / _CONNTRACK).exists():
        return Support(State.UNKNOWN, f"it is known once the module {_CONNTRACK} is loaded")
    return Support(State.UNSUPPORTED, f"this kernel lacks {missing[0]}(), which Linux 6.0 has")


_QUESTIONS: Mapping[str, _Question] = MappingProxyType(
    {
        "fastpath_route": _Question(
            "Packets can be routed where they come in.", partial(_loads, ROUTING, _ROUTES)
        ),
        "fastpath_filter": _Question(
            "Rules of nftables can be asked there.", partial(_loads, ROUTING, _FILTERS)
        ),
        "fastpath_ruleset": _Question(
            "It is seen there at once that rules of nftables have changed.", sees_rulesets
        ),
        "fastpath_connections": _Question(
            "Connections can be followed and translated there, as conntrack has them.", follows_connections
        ),
        "fastpath_bridge": _Question("Frames can be bridged where they come in.", bridges),
        "fastpath_overlay": _Question(
            "Packets can be brought from pod to pod where they come in.", partial(_loads, PODS, {})
        ),
    }
)
