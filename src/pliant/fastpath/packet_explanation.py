# SPDX-License-Identifier: Apache-2.0
"""Which way a packet takes, by which module, route and rule, and if it is not accelerated, why.

Where a fast path runs it is asked itself; the route is the kernel's own answer, and the rules are those that are read
from it. What the network's configuration keeps from being accelerated the topology says.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self

from pliant.errors import PliantError
from pliant.fastpath.counters import module_of
from pliant.fastpath.frame import IPV4_BYTES, IPV6_BYTES, Frame, line_of, read_frame
from pliant.fastpath.reasons import Reason
from pliant.fastpath.ruleset_walk import ESTABLISHED, INVALID, NEW, RELATED, UNTRACKED, Packet, Walk, walk
from pliant.fastpath.topology import Port as Way
from pliant.fastpath.topology import Topology
from pliant.fastpath.tracked_packet import Tracked, as_tracked
from pliant.fastpath.trial import Trial, Verdict
from pliant.kernel.errors import KernelError
from pliant.kernel.nftables_rules import Rules
from pliant.kernel.route_query import Answer, Question, find_route
from pliant.kernel.rtnetlink import Rtnetlink
from pliant.observe.fastpath import FastpathPins, Port, running_build

CT_STATES: Mapping[str, int] = MappingProxyType(
    {
        "new": NEW,
        "established": ESTABLISHED,
        "related": RELATED,
        "invalid": INVALID,
        "untracked": UNTRACKED,
    }
)
"""States of a connection by the names nft(8) has for them."""

SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "not ours": "it is addressed to another station, or to many",
        "not ip": "it is not IP, or of an IP version that is not accelerated here",
        "malformed": "a length, the version or the checksum of its IP header is wrong",
        "options": "it has IPv4 options or IPv6 hop-by-hop options",
        "expiring": "its hop limit ends here",
        "martian": "it is from or to an address that a router does not forward",
        "fragment": "ports decide about its way, and it is a fragment or of a protocol without ports",
        "quoting": "there are routes of several ways, and an ICMP error goes the way of what it quotes",
        "no route": "no route leads there that forwards, or this host is the destination",
        "no neighbour": "the next hop's address is not known (yet): the kernel asks for it",
        "too big": "it is longer than the MTU of the way out",
        "same way back": "it would leave by the interface it came in by",
        "reverse path": "the way back to its source is another, or the source is this host",
        "no port": "the interface that it leaves by takes no redirected packets",
        "confirming": "once a second a packet to each neighbour goes to the kernel, which keeps its address fresh",
        "paused": "the fast path is paused while programs are replaced",
        "untracked": "its connection is not established, or the kernel does more for it",
        "signalling": "it begins or ends a TCP connection",
        "strict": "the kernel checks TCP's windows, for which it has to see all of a connection",
        "no pod": "it is not from a pod to a pod, or the pod's interface has to see it as the kernel delivers it",
        "bad checksum": "its TCP or UDP checksum is wrong",
        "unfinished": "its VLAN tag or checksum is left to hardware that it has not passed",
        "not unicast": "it is a frame to a group",
        "not carried": "it is a frame that the bridge may answer or change (ARP, neighbour discovery, VLAN, 802.2)",
        "not bridged": "it is for the bridge itself, or the bridge does more with it",
        "no station": "its source is to be learnt here, or nobody knows where its destination is",
        "port closed": "one of both ports of the bridge does not forward, or not to the other",
        "refused": "nftables drops it: the kernel does that, and counts it",
        "dropped": "nftables drops it, and so does the fast path in its place",
        "undecided": "it comes to a rule of nftables that is not understood, or that has to see it",
        "many counters": "it passes more rules of nftables that count than are kept with a flow",
        "moved away": "it came in by an interface that is in another network namespace now",
        "changing": "nftables' rules have changed, and have not been looked at yet",
    }
)
"""What the reasons that programs count mean; those that are not here are told by their name."""
_SAY_CT = "no connection of it is tracked: say ct=new, or what else its state is, where a rule asks for that"
_ANEW = "each time that its flow is looked at anew, a packet goes to the kernel, which drops it"


@dataclass(frozen=True, slots=True)
class Explained:
    """What becomes of a packet.

    ``path`` is ``fast`` or ``kernel``; ``reason`` is the code of what keeps it from being sent on by the fast path,
    ``sentence`` the same for people. ``asked``: it is the program that has said so. ``obstacles`` are what the
    network's configuration keeps from being accelerated there. ``route`` is None where the packet is not routed.
    """

    line: str
    interface: str
    path: str
    module: str
    asked: bool
    reason: str = ""
    sentence: str = ""
    route: Answer | None = None
    out: str = ""
    next_hop: str = ""
    filter: Walk | None = None
    connection: str = ""
    obstacles: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "packet": self.line,
            "in": self.interface,
            "path": self.path,
            "module": self.module or None,
            "saidBy": "program" if self.asked else "configuration",
            "reason": {"code": self.reason, "sentence": self.sentence} if self.reason else None,
            "route": _route_data(self.route),
            "out": self.out or None,
            "nextHop": self.next_hop or None,
            "connection": self.connection or None,
            "filter": _filter_data(self.filter),
            "obstacles": [dataclasses.asdict(reason) for reason in self.obstacles],
            "notes": list(self.notes),
        }


def _route_data(route: Answer | None) -> dict[str, Any] | None:
    if route is None:
        return None
    return {"kind": route.kind, "route": route.route or None, "sentence": route.sentence or None}


def _filter_data(found: Walk | None) -> dict[str, Any] | None:
    if found is None:
        return None
    steps = [{"chain": s.chain, "handle": s.handle, "applied": s.applied} for s in found.steps]
    return {"verdict": found.verdict, "because": found.because, "rules": steps}


class Judge:
    """Explains packets that come in by interfaces of the calling thread's network namespace.

    Raises :class:`KernelError` where the kernel does not answer.
    """

    def __init__(self, pins: FastpathPins, topology: Topology, rules: Rules) -> None:
        self._pins, self._topology, self._rules = pins, topology, rules
        self._trials: dict[int, Trial | str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for trial in self._trials.values():
            if isinstance(trial, Trial):
                trial.close()

    def mac_of(self, name: str) -> bytes:
        """The address of an interface, or of the bridge it is a port of: what packets for this host are sent to."""
        at = self._topology.facts.interface(self._way(name).index)
        master = (
            self._topology.facts.interface(at.master)
            if at and at.master_kind == "bridge" and at.master
            else at
        )
        return bytes.fromhex((master.mac if master and master.mac else "00:00:00:00:00:00").replace(":", ""))

    def explain(self, name: str, data: bytes, *, mark: int = 0, ct_state: int | None = None) -> Explained:
        """What becomes of a frame that comes in by an interface."""
        way, frame = self._way(name), read_frame(data)
        verdict, notes = self._verdict(way, data)
        tracked = self._tracked(frame)
        routed = tracked.frame if tracked else frame
        ct_state = tracked.state if tracked and ct_state is None else ct_state
        route = None if self._is_port(way) else self._route(way, routed, mark)
        out = self._out(way, frame, verdict, route)
        filter_ = None
        if route and route.kind == "unicast":
            filter_ = self._filter(way, routed, out, mark, ct_state)
        if filter_ and filter_.verdict == "unknown" and ct_state is None:
            notes += (_SAY_CT,)
        module = self._module(way, frame)
        shared: dict[str, Any] = {
            "line": line_of(frame),
            "interface": name,
            "module": module,
            "route": route,
            "out": out,
            "filter": filter_,
            "connection": tracked.sentence if tracked else "",
        }
        if verdict is not None:
            hop = verdict.frame[:6].hex(":") if verdict.is_forwarded else ""
            reason, sentence = _of_verdict(verdict)
            notes += (_ANEW if verdict.is_dropped else SENTENCES["confirming"],) if verdict.confirms else ()
            path = "fast" if verdict.is_decided else "kernel"
            return Explained(
                path=path, asked=True, reason=reason, sentence=sentence, next_hop=hop, notes=notes, **shared
            )
        against = (
            tuple(r for r in way.reasons if not module or r.module == module)
            if not way.module(module)
            else ()
        )
        reason, sentence = _without_program(way, module, against)
        return Explained(
            path="kernel",
            asked=False,
            reason=reason,
            sentence=sentence,
            obstacles=against,
            notes=notes,
            **shared,
        )

    def _way(self, name: str) -> Way:
        found = self._topology.port(name)
        if found is None:
            there = ", ".join(sorted(port.name for port in self._topology.ports))
            raise PliantError(f"there is no interface {name}", remedy=f"name one of: {there}")
        return found

    def _is_port(self, way: Way) -> bool:
        at = self._topology.facts.interface(way.index)
        return at is not None and at.master_kind == "bridge"

    def _verdict(self, way: Way, data: bytes) -> tuple[Verdict | None, tuple[str, ...]]:
        """What the program says, and why it could not be asked where one runs."""
        if way.index not in self._trials:
            self._trials[way.index] = self._trial(way)
        trial = self._trials[way.index]
        if isinstance(trial, str):
            return None, (trial,) if trial else ()
        verdict = trial.run(data)
        if verdict is None:
            return None, (
                "a fast path runs there, but this packet cannot be tried: the kernel takes it for too long",
            )
        return verdict, ()

    def _trial(self, way: Way) -> Trial | str:
        for port in self._pins.ports():
            build = running_build(self._pins, port) if port.ifindex == way.index else None
            if build is not None:
                try:
                    return Trial(self._pins, Port(way.index, port.mode), build)
                except KernelError as error:
                    return f"a fast path runs there, but could not be asked: {error.message}"
        return ""

    def _tracked(self, frame: Frame) -> Tracked | None:
        with contextlib.suppress(KernelError):
            return as_tracked(frame)
        return None

    def _route(self, way: Way, frame: Frame, mark: int) -> Answer | None:
        if frame.saddr is None or frame.daddr is None:
            return None
        ports = frame.ports if not frame.is_fragment else None
        asked = Question(frame.saddr, frame.daddr, way.index, frame.protocol, ports, frame.tos, mark)
        with contextlib.suppress(KernelError):
            return find_route(asked)
        return None

    def _out(self, way: Way, frame: Frame, verdict: Verdict | None, route: Answer | None) -> str:
        """The interface it leaves by: a routed packet has its address as the source then."""
        facts = self._topology.facts
        if verdict is not None and verdict.is_dropped:
            return ""
        if self._is_port(way):
            return self._station(way, frame)
        chosen = facts.interface(route.interface) if route and route.kind == "unicast" else None
        if verdict is None or not verdict.is_forwarded:
            return chosen.name if chosen else ""
        source = verdict.frame[6:12].hex(":")
        by_mac = [i.name for i in facts.interfaces if i.mac == source]
        if chosen and (chosen.name in by_mac or not by_mac):
            return chosen.name
        return by_mac[0] if len(by_mac) == 1 else ""

    def _station(self, way: Way, frame: Frame) -> str:
        """The port of the bridge that a station is behind."""
        facts = self._topology.facts
        at = facts.interface(way.index)
        with contextlib.suppress(KernelError), Rtnetlink() as netlink:
            for entry in netlink.fdb():
                if at and entry.bridge == at.master and entry.mac == frame.to.hex(":"):
                    port = facts.interface(entry.port)
                    return port.name if port and port.index != at.master else ""
        return ""

    def _module(self, way: Way, frame: Frame) -> str:
        """The module that a frame is for, whether the interface has it or not."""
        trial = self._trials.get(way.index)
        if isinstance(trial, Trial):
            return module_of(trial.object, frame.family)
        if way.module("overlay") and frame.family == 4:
            return "overlay"
        if way.module("bridge") or any(reason.module == "bridge" for reason in way.reasons):
            return "bridge"
        return f"route{frame.family}" if frame.family else ""

    def _filter(self, way: Way, frame: Frame, out: str, mark: int, ct_state: int | None) -> Walk | None:
        """What the forward hook says; None where nothing is there."""
        families = ("ip", "inet") if frame.family == 4 else ("ip6", "inet")
        at_hook = (
            c for c in self._rules.chains if c.base and c.base.hook == "forward" and c.family in families
        )
        if frame.family is None or not any(at_hook):
            return None
        header = IPV4_BYTES if frame.family == 4 else IPV6_BYTES
        packet = bytearray(frame.data[14 : 14 + max(frame.length, header)])
        packet[8 if frame.family == 4 else 7] = max(frame.ttl - 1, 0)
        asked = Packet(
            frame.family,
            bytes(packet),
            frame.transport - 14 if frame.transport is not None else None,
            frame.protocol,
            way.name,
            out,
            mark,
            ct_state,
        )
        return walk(self._rules, "forward", asked)


def _of_verdict(verdict: Verdict) -> tuple[str, str]:
    if verdict.is_forwarded:
        return "", ""
    if not verdict.reason:
        return "passed", "the program leaves it to the kernel"
    return code_of(verdict.reason), sentence_of(verdict.reason)


def code_of(reason: str) -> str:
    """The code of a reason that programs count."""
    return reason.replace(" ", "-")


def sentence_of(reason: str) -> str:
    """What it means."""
    return SENTENCES.get(reason, reason)


def _without_program(way: Way, module: str, against: tuple[Reason, ...]) -> tuple[str, str]:
    if not module:
        return "not-ip", SENTENCES["not ip"]
    if against:
        return against[0].code, against[0].sentence
    if way.module(module):
        return (
            "off",
            f"no fast path runs on {way.name}, where {module} could: 'pliant fastpath status' says more",
        )
    return "off", f"no fast path runs on {way.name}"
