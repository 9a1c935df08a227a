# SPDX-License-Identifier: Apache-2.0
"""A rig for what a host forwards: packets from one namespace, through a second, to a third, all on one core.

Variants (the kernel alone, the fast path, others) take turns on the same topology, window by window, so that what else
happens on the machine happens to all of them. What it costs to make the packets and take them over the first hop is
measured as a variant of its own, :data:`DROP`, which drops them as they reach the router.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple

from pliant.bench.bench import Options, Sample
from pliant.errors import PliantError
from pliant.lab import Host, Lab, Link
from pliant.lab.interface import switch_aggregation
from pliant.lab.packets import PacketSource, interface, packet_sink

WINDOW_S = 0.4
WARM_UP_PACKETS = 30_000
CHUNK_PACKETS = 50_000
KERNEL, PLIANT, DROP = "kernel", "pliant", "drop"

Variant = Callable[[], AbstractContextManager[None]]
"""Makes the router forward in some way for the time of a block."""


class Row:
    """``source``, ``router`` and ``sink``, with one or more links between the first two and the last two.

    Link by link: the router knows both neighbours for good, so that a sink that answers nothing can be one; and all
    ends have receive aggregation on, without which a veth device takes no packets that XDP redirects. Everything else
    is as the kernel has it, and the caller's to set with ``router.ip()``, ``router.run(["nft", ...])`` and so on.
    """

    def __init__(self, lab: Lab, *, sources: int = 1, sinks: int = 1) -> None:
        self.source, self.router, self.sink = lab.host("source"), lab.host("router"), lab.host("sink")
        self.near = [lab.link(self.source, self.router) for _ in range(sources)]
        self.far = [lab.link(self.router, self.sink) for _ in range(sinks)]
        self.router.sysctl("net.ipv4.ip_forward", "1")
        self.router.sysctl("net.ipv6.conf.all.forwarding", "1")
        for link in (*self.near, *self.far):
            self._acquaint(link)

    def _acquaint(self, link: Link) -> None:
        for host in link.hosts:
            peer = link.peer_of(host)
            to = f"lladdr {_mac(link, peer).hex(':')} nud permanent dev {link.interface_of(host)}"
            host.ip(*(f"neigh replace {a} {to}" for a in (link.address_of(peer), link.address6_of(peer))))
            with host.inside():
                switch_aggregation(link.interface_of(host), on=True)

    def macs(self, number: int = 0) -> tuple[bytes, bytes]:
        """What frames over a link from the source are addressed to, and from."""
        link = self.near[number]
        return _mac(link, self.router), _mac(link, self.source)

    def packets(self, frames: Sequence[bytes]) -> PacketSource:
        """A source of frames, by turns over the links from the source host."""
        return PacketSource(self.source, [link.interface_of(self.source) for link in self.near], frames)

    def names(self, host: Host) -> list[str]:
        """The interfaces of a host, link by link."""
        return [link.interface_of(host) for link in (*self.near, *self.far) if host in link.hosts]


def _mac(link: Link, host: Host) -> bytes:
    return interface(host, link.interface_of(host)).address


class Window(NamedTuple):
    """What was sent in a window, and what of it arrived."""

    sent: int
    delivered: int
    seconds: float

    @property
    def ns(self) -> float:
        """Nanoseconds a packet that arrived."""
        return self.seconds * 1e9 / self.delivered


@contextmanager
def one_core() -> Iterator[None]:
    """Keep the calling thread on one core, and ahead of others there, for the time of a block.

    In real-time scheduling (sched(7)): a window is then for the packets alone, but for the few percent of a second that
    the kernel keeps for others.
    """
    allowed, policy, parameter = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        with suppress(PermissionError):  # the control group has no share of it
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)
        os.sched_setaffinity(0, allowed)


def window(packets: PacketSource, at: Host, names: Sequence[str], seconds: float) -> Window:
    """Send for some seconds; count what arrives at interfaces of a host, where it ends.

    Raises :class:`PliantError` when nothing does.
    """
    with packet_sink(at, *names) as sink, one_core():
        packets.send(WARM_UP_PACKETS)
        before, sent, taken = sink.packets, 0, 0.0
        while taken < seconds:
            chunk = packets.send(CHUNK_PACKETS)
            sent, taken = sent + chunk.packets, taken + chunk.seconds
        delivered = sink.packets - before
    if not delivered:
        raise PliantError(f"of {sent} packets none arrived at lab host {at.name}")
    return Window(sent, delivered, taken)


def rounds(
    row: Row,
    packets: PacketSource,
    variants: Mapping[str, Variant],
    options: Options,
    *,
    window_s: float = WINDOW_S,
) -> Iterator[dict[str, Window]]:
    """Yield for each run a window of every variant, of which :data:`DROP` is one more; their order changes every time.

    A variant under which not all packets arrive is no error: what counts is what does.
    """
    every: dict[str, Variant] = {**variants, DROP: nullcontext}
    far = [link.interface_of(row.sink) for link in row.far]
    near = [link.interface_of(row.router) for link in row.near]
    for number in range(options.runs):
        found = {}
        for name in list(every) if number % 2 else reversed(list(every)):
            at, names = (row.router, near) if name == DROP else (row.sink, far)
            with every[name]():
                found[name] = window(packets, at, names, window_s * options.scale)
        said = ", ".join(f"{name} {found[name].ns:.0f}" for name in every)
        options.progress(f"run {number + 1} of {options.runs}, ns a packet: {said}")
        yield {name: found[name] for name in every}


def samples(metric: str, found: Mapping[str, Window]) -> Iterator[Sample]:
    """Yield what a round says: packets a second of each variant, and how many times the kernel's they are.

    ``<metric>_ratio`` is of packets a second from end to end, ``<metric>_net_ratio`` with the cost of making them
    taken out; likewise ``<metric>_<variant>_ratio`` for other variants than the kernel's and ours: ours against theirs.
    """
    ns = {name: one.ns for name, one in found.items()}
    for name, one in ns.items():
        yield Sample(f"{metric}_{name}_mpps", "million packets a second", 1e3 / one)
    yield Sample(f"{metric}_ratio", "ratio", ns[KERNEL] / ns[PLIANT])
    yield Sample(f"{metric}_net_ratio", "ratio", (ns[KERNEL] - ns[DROP]) / (ns[PLIANT] - ns[DROP]))
    for name, one in ns.items():
        if name not in (KERNEL, PLIANT, DROP):
            yield Sample(f"{metric}_{name}_ratio", "ratio", one / ns[PLIANT])
