# SPDX-License-Identifier: Apache-2.0
"""How soon the fast path follows the network: from the kernel's message about a change to programs made for it.

A router in the lab, an agent of its own, and changes of several kinds, each made and taken back: a policy rule by ports
(interfaces get another program), the MTU of a route (the same), forwarding of an interface, an interface down and up,
rules of nftables, a pair of interfaces that come and go. Measured is from the first message that this process hears of
the change, as the agent does, until every link runs what it should, with the rules there are, and nothing is paused;
this process looks at that every 0.2 ms meanwhile. The MTU is another one each time, which takes a program that was
never loaded; what the others take was loaded before, but for the first time.

- ``reaction_ms``: every change by itself; ``reaction_ms_p99``: what 99 of 100 of a run do not exceed.
- ``reaction_rule_ms`` and so on: the same by kind.
- ``reaction_wide_rule_ms``: by kind, too, on a router of a hundred interfaces, which all get another program; not
  among those above.
- ``disabled_ms``: until nothing that had become wrong accelerated any more. Rules of nftables need none of that:
  programs see for themselves that the kernel has others.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pliant.agent.host import Host
from pliant.bench.agent_process import AgentProcess
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import ACTOR, apply, private_places
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.kernel import nftables, rtnetlink
from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import Monitor
from pliant.lab import Host as LabHost
from pliant.lab import Lab
from pliant.lab.interface import switch_aggregation
from pliant.observe.fastpath import FastpathPins, Mode, Port, is_paused, read_ruleset_state, running_build
from pliant.policy.documents import policy_from_document

ROUNDS, WIDE_ROUNDS = 25, 5
PAIRS = 49  # of interfaces, beside the two there are
DEADLINE_S = 10.0
QUIET_S, LOOK_S = 0.2, 0.0002
RECEIVE_BYTES = 1 << 20
RULES = (
    "add table ip bench; add chain ip bench c { type filter hook forward priority 0; };"
    "add rule ip bench c udp dport 9 drop"
)


@dataclass(frozen=True)
class Change:
    """A change of the router, and what takes it back.

    ``without`` and ``extra`` are interfaces that run nothing of ours then, or something; ``replaced`` are such as run
    another program. ``rules``: other rules are in force.
    """

    kind: str
    command: str
    back: str
    without: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    rules: bool = False


@dataclass
class Router:
    """The router as this process sees it."""

    host: LabHost
    pins: FastpathPins
    monitors: list[Monitor]
    names: frozenset[str]

    def programs(self, names: frozenset[str]) -> Mapping[str, str]:
        """What each of some interfaces accelerates by."""
        found = {name: self._build(name) for name in names}
        return {name: build for name, build in found.items() if build}

    def _build(self, name: str) -> str | None:
        try:
            return running_build(self.pins, Port(socket.if_nametoindex(name), Mode.NATIVE))
        except OSError:
            return None

    def is_paused(self) -> bool:
        """Whether all is left to the kernel for now."""
        with contextlib.suppress(KernelError):
            return is_paused(self.pins)
        return False

    def rules(self) -> int:
        """The generation of nftables' rules that is in force."""
        return read_ruleset_state(self.pins).generation

    def heard(self) -> float:
        """Wait for the first message about a change; when it came."""
        ready, _, _ = select.select(self.monitors, [], [], DEADLINE_S)
        now = time.monotonic()
        if not ready:
            raise PliantError("the kernel has told of no change")
        return now

    def settle(self) -> None:
        """Hear everything, until it is quiet."""
        while ready := select.select(self.monitors, [], [], QUIET_S)[0]:
            for monitor in ready:
                monitor.hear()


def run(options: Options) -> Iterator[Sample]:
    """Yield how long the agent took to follow changes."""
    with Lab("bench-reaction") as lab:
        router = _row(lab)
        places = private_places("reaction", cgroup_root=lab.cgroup)
        document = {
            "apiVersion": "pliant/v1",
            "kind": "FastPath",
            "metadata": {"name": "bench"},
            "spec": {"mode": "native"},
        }
        with router.inside(), Host(places) as host:
            apply(host, [policy_from_document(document, "bench", catalogue())])
            try:
                with AgentProcess(places), _listening(router, host.fastpath.pins) as seen:
                    for number in range(options.runs):
                        yield from _rounds(options, seen, number)
                        yield from _wide_rounds(options, seen)
            finally:
                with host.exclusively():
                    host.carry_out(host.change_to_delete(host.names()), actor=ACTOR)


def _row(lab: Lab) -> LabHost:
    one, router, other = lab.host("one"), lab.host("router"), lab.host("other")
    for end in (one, other):
        link = lab.link(end, router)
        with end.inside():
            switch_aggregation(link.interface_of(end), on=True)
    router.sysctl("net.ipv4.ip_forward", "1")
    return router


@contextlib.contextmanager
def _listening(router: LabHost, pins: FastpathPins) -> Iterator[Router]:
    namespace = Path(router.netns_path)
    monitors = [
        rtnetlink.monitor(namespace, receive_bytes=RECEIVE_BYTES),
        nftables.monitor(namespace, receive_bytes=RECEIVE_BYTES),
    ]
    try:
        yield Router(router, pins, monitors, frozenset(link.interface_of(router) for link in router.links))
    finally:
        for monitor in monitors:
            monitor.close()


def _rule(router: Router) -> Change:
    rule = "ipproto udp dport 9999 table 77"
    return Change("rule", f"ip rule add {rule}", f"ip rule del {rule}", replaced=router.names)


def _changes(router: Router) -> list[Change]:
    left = min(router.names)
    conf = f"net.ipv4.conf.{left}.forwarding"
    new = frozenset({"new0", "new1"})
    only_left = frozenset({left})
    return [
        _rule(router),
        Change(
            "mtu",
            f"ip route add 198.51.100.0/24 dev {left} mtu {secrets.randbelow(800) + 600}",
            f"ip route del 198.51.100.0/24 dev {left}",
            replaced=router.names,
        ),
        Change("netconf", f"sysctl -qw {conf}=0", f"sysctl -qw {conf}=1", without=only_left),
        Change("link", f"ip link set dev {left} down", f"ip link set dev {left} up", without=only_left),
        Change("nft", f"nft '{RULES}'", "nft delete table ip bench", rules=True),
        Change(
            "interface",
            "ip link add new0 up type veth peer name new1 && ip link set new1 up",
            "ip link del new0",
            extra=new,
        ),
    ]


def _rounds(options: Options, router: Router, run: int) -> Iterator[Sample]:
    taken = []
    for _ in range(options.scaled(ROUNDS)):
        for change in _changes(router):
            for command, is_back in ((change.command, False), (change.back, True)):
                disabled, done = _reaction(router, change, command, is_back=is_back)
                taken.append(done)
                yield Sample("reaction_ms", "ms", done)
                yield Sample(f"reaction_{change.kind}_ms", "ms", done)
                if disabled is not None:
                    yield Sample("disabled_ms", "ms", disabled)
    p99 = sorted(taken)[min(len(taken) - 1, round(0.99 * len(taken)))]
    options.progress(f"run {run + 1} of {options.runs}, {len(taken)} changes: 99% within {p99:.1f} ms")
    yield Sample("reaction_ms_p99", "ms", p99)


def _wide_rounds(options: Options, router: Router) -> Iterator[Sample]:
    """Nothing accelerates until all interfaces have been seen to: looking at two of them is enough."""
    names = [f"{side}{number}" for side in "ab" for number in range(PAIRS)]
    pairs = zip(names[:PAIRS], names[PAIRS:], strict=True)
    router.host.ip(*(f"link add name {a} up type veth peer name {b}" for a, b in pairs))
    router.host.ip(*(f"link set dev {name} up" for name in names[PAIRS:]))
    wanted = frozenset(names) | router.names
    coming = Change("wide", "", "", extra=frozenset(names))
    _awaited(time.monotonic(), lambda: router.programs(wanted).keys() == wanted, coming)
    change = _rule(router)
    for _ in range(options.scaled(WIDE_ROUNDS)):
        for command, is_back in ((change.command, False), (change.back, True)):
            yield Sample(
                "reaction_wide_rule_ms", "ms", _reaction(router, change, command, is_back=is_back)[1]
            )
    router.host.ip(*(f"link del {name}" for name in names[:PAIRS]))
    _awaited(time.monotonic(), lambda: not router.programs(frozenset(names)), coming)


def _reaction(router: Router, change: Change, command: str, *, is_back: bool) -> tuple[float | None, float]:
    """Milliseconds until what was wrong was disabled (None where nothing was), and until all was right."""
    watched = router.names | change.extra
    wanted = router.names if is_back else (router.names | change.extra) - change.without
    router.settle()
    before, rules = router.programs(watched), router.rules()
    process = subprocess.Popen(["sh", "-c", command])
    began = router.heard()

    def is_done() -> bool:
        now = router.programs(watched)
        changed = all(now.get(name) != before.get(name) for name in change.replaced)
        followed = router.rules() != rules if change.rules else changed
        return now.keys() == wanted and followed and not router.is_paused()

    def is_disabled() -> bool:
        now = router.programs(watched)
        wrong = (before.keys() - wanted) | change.replaced
        return router.is_paused() or all(now.get(name) != before.get(name) for name in wrong)

    disables = bool(change.replaced or before.keys() - wanted)
    disabled = _awaited(began, is_disabled, change) if disables else None
    done = _awaited(began, is_done, change)
    if process.wait():
        raise PliantError(f"the router could not be changed: {command}")
    return disabled, done


def _awaited(began: float, condition: Callable[[], bool], change: Change) -> float:
    while not condition():
        if time.monotonic() - began > DEADLINE_S:
            raise PliantError(f"the agent did not follow a change ({change.kind}) within {DEADLINE_S:g} s")
        time.sleep(LOOK_S)
    return (time.monotonic() - began) * 1000


BENCH = Bench(
    name="reaction",
    summary="How soon the fast path follows the network: from the kernel's message to programs made for a change.",
    run=run,
    runs=5,
)
