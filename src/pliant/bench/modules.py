# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in each module of the fast path, in nanoseconds, from test runs of the program itself."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pliant.bench import nat
from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import Row, one_core
from pliant.bench.gateway import rules, ruleset
from pliant.bench.place import private_mounts
from pliant.errors import PliantError
from pliant.kernel.programs import Program
from pliant.lab import Lab
from pliant.lab.frames import udp_frame
from pliant.lab.packets import interface, loaded_pass

REPEATED = 200
"""Runs on one packet that is made to come out as it went in: less than the hops that it may make."""
HOPS = 255
TESTS = 400
_CONTEXT = struct.Struct("=IIIIII")  # struct xdp_md
_PASS, _REDIRECT = 2, 4


@dataclass(frozen=True, slots=True)
class Case:
    """One cost: how a router is configured, which packets it is sent, and what becomes of them.

    With ``repeated`` each is given to the program over and over again, as it came out; else each but once.
    """

    metric: str
    configure: Callable[[Row], None]
    frames: Callable[[Row], Sequence[bytes]]
    verdict: int = _REDIRECT
    repeated: bool = True


def routed(row: Row) -> None:
    """Both families go to the sink, which seems to have the router's own address: packets come out as they went in."""
    near, far = row.near[0], row.far[0]
    own = interface(row.router, near.interface_of(row.router)).address.hex(":")
    for address in (far.address_of(row.sink), far.address6_of(row.sink)):
        row.router.ip(
            f"neigh replace {address} lladdr {own} nud permanent dev {far.interface_of(row.router)}"
        )
    row.router.add_route("198.19.0.0/16", far.address_of(row.sink))
    row.router.add_route("2001:2:1::/48", far.address6_of(row.sink))


def filtered(row: Row) -> None:
    """Likewise, with twenty rules of nftables that none of the packets is for."""
    routed(row)
    row.router.run(["nft", "-f", "-"], given=ruleset(rules(), stateful=False))


def packets4(row: Row, count: int = 1) -> list[bytes]:
    """One packet of each of so many flows."""
    macs, source = row.macs(), row.near[0].address_of(row.source)
    to = (f"198.19.{n // 250}.{n % 250 + 1}" for n in range(count))
    return [udp_frame(*macs, source, address, checksum=False, hops=HOPS) for address in to]


def packets6(row: Row, count: int = 1) -> list[bytes]:
    """Likewise, of IPv6."""
    macs, source = row.macs(), row.near[0].address6_of(row.source)
    return [udp_frame(*macs, source, f"2001:2:1::{n + 1:x}", hops=HOPS) for n in range(count)]


def masqueraded(row: Row) -> None:
    """The router has connections of both families that it masquerades, which go on."""
    near, far = row.near[0], row.far[0]
    for family, to, via in (
        ("ip", far.address_of(row.sink), near.address_of(row.router)),
        ("ip6", far.address6_of(row.sink), near.address6_of(row.router)),
    ):
        row.router.run(["nft", "-f", "-"], given=nat.RULES.format(family, far.interface_of(row.router)))
        row.source.ip(f"route replace {to} via {via}")
        nat.establish(row, to)


def of_connection4(row: Row) -> list[bytes]:
    """A packet of the connection of IPv4."""
    ends = row.near[0].address_of(row.source), row.far[0].address_of(row.sink)
    return [udp_frame(*row.macs(), *ends, ports=nat.PORTS, checksum=False)]


def of_connection6(row: Row) -> list[bytes]:
    """A packet of the connection of IPv6."""
    ends = row.near[0].address6_of(row.source), row.far[0].address6_of(row.sink)
    return [udp_frame(*row.macs(), *ends, ports=nat.PORTS)]


def bridged(row: Row) -> None:
    """Both interfaces are ports of a bridge."""
    near, far = row.names(row.router)
    with suppress(FileNotFoundError):  # br_netfilter is not there
        row.router.sysctl("net.bridge.bridge-nf-call-iptables", "0")
        row.router.sysctl("net.bridge.bridge-nf-call-ip6tables", "0")
    row.router.ip("link add br0 type bridge", "link set br0 up")
    row.router.ip(*(f"link set {name} master br0" for name in (near, far)))


def between_stations(row: Row, count: int = 1) -> list[bytes]:
    """One frame of each of so many pairs of stations that the bridge has just heard of: others it would have to see."""
    stations = [
        f"{_station(side, n).hex(':')} dev {name} master"
        for side, name in enumerate(row.names(row.router))
        for n in range(count)
    ]
    for given in (
        "".join(f"fdb del {at}\n" for at in stations),
        "".join(f"fdb add {at} static\n" for at in stations),
    ):
        row.router.run(["bridge", "-force", "-batch", "-"], given=given, check=False)
    pairs = [(_station(1, n), _station(0, n)) for n in range(count)]
    return [udp_frame(*pair, "198.18.0.1", "198.18.0.2", checksum=False) for pair in pairs]


def _station(side: int, number: int) -> bytes:
    return bytes((2, 0, 0, side, *divmod(number, 256)))


def broadcast(row: Row) -> list[bytes]:
    """A packet that the fast path leaves to the kernel at first sight."""
    [frame] = packets4(row)
    return [b"\xff" * 6 + frame[6:]]


CASES = (
    Case("route4_ns", routed, packets4),
    Case("route6_ns", routed, packets6),
    Case("route4_first_ns", routed, lambda row: packets4(row, TESTS), repeated=False),
    Case("route6_first_ns", routed, lambda row: packets6(row, TESTS), repeated=False),
    Case("left_ns", routed, broadcast, _PASS),
    Case("bridge_ns", bridged, between_stations),
    Case("bridge_first_ns", bridged, lambda row: between_stations(row, TESTS), repeated=False),
    Case("filter4_ns", filtered, packets4),
    Case("filter4_first_ns", filtered, lambda row: packets4(row, TESTS), repeated=False),
    Case("nat4_ns", masqueraded, of_connection4, repeated=False),
    Case("nat6_ns", masqueraded, of_connection6, repeated=False),
)


def run(options: Options) -> Iterator[Sample]:
    """Yield nanoseconds a packet of each case, over those of a program that does nothing."""
    private_mounts()
    for configure in dict.fromkeys(case.configure for case in CASES):
        with Lab("bench") as lab:
            row = Row(lab)
            configure(row)
            acceleration = Acceleration(row.router)
            for number in range(options.runs):
                options.progress(f"run {number + 1} of {options.runs}: {configure.__name__}")
                for case in CASES:
                    if case.configure is configure:
                        yield Sample(case.metric, "ns per packet", one(row, acceleration, case, options))


def one(row: Row, acceleration: Acceleration, case: Case, options: Options) -> float:
    """Measure a case once, and the program that does nothing next to it."""
    near = row.near[0].interface_of(row.router)
    with acceleration.on(), acceleration.program(near) as program, loaded_pass() as nothing:
        frames = case.frames(row)  # last: what a bridge has heard of lately is soon no longer that
        took = cost_ns(row, program, near, case, frames, options)
        return took - cost_ns(row, nothing, near, case, frames, options)


def cost_ns(
    row: Row, program: Program, name: str, case: Case, frames: Sequence[bytes], options: Options
) -> float:
    """The median of what a packet takes, of those that become what they should.

    Others are left to the kernel for it to see that a neighbour or a station is in use. Raises :class:`PliantError`
    where all are.
    """
    index = interface(row.router, name).number
    repeat = REPEATED if case.repeated else 1
    tests = max(options.scaled(TESTS), len(frames))
    took = []
    with row.router.inside(), one_core():
        for number in range(tests):
            frame = frames[number % len(frames)]
            done = program.test_run(frame, repeat=repeat, ctx=_CONTEXT.pack(0, len(frame), 0, index, 0, 0))
            if done.retval == case.verdict or program.name == "pass":
                took.append(done.duration_ns)
    if not took:
        raise PliantError(f"{case.metric}: none of {tests} packets has become what it should")
    return statistics.median(took)


BENCH = Bench(
    name="modules",
    summary="Nanoseconds a packet takes in each module of the fast path.",
    run=run,
    runs=10,
)
