# SPDX-License-Identifier: Apache-2.0
"""What pliant_dctcp makes of a bottleneck that marks: the queue, the rate and how evenly it is shared.

Four flows of unlimited length share one link of the lab: 100 Mbit/s, 4 ms a round trip without a queue (33 packets), a
transmitter that holds 250 packets and marks those that find more than 20 in it (a step, as in RFC 8257 3.1). They start
together; after a second in which they settle, the length of the queue is taken every millisecond.

The same is done with the kernel's CUBIC, which has not agreed to ECN and so fills the queue until packets are dropped;
with CUBIC that has, and reacts to a mark as to a loss (RFC 3168): what the marks do is told from what DCTCP makes of
them; with pliant_cubic; and with two flows of DCTCP beside two of CUBIC without ECN, which RFC 8257 5 warns of. Every
control is chosen by policies of Pliant at both ends, so agreeing on ECN is part of what is tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import quantiles
from typing import Any, NamedTuple

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, private_places, service_path
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Link, TcpClient, TcpServer
from pliant.policy.documents import policy_from_document
from pliant.policy.model import Policy

Tune = Mapping[str, Any]

DCTCP: Tune = {"congestion_control": "pliant_dctcp"}
CUBIC: Tune = {"congestion_control": "cubic"}
CUBIC_ECN: Tune = {"congestion_control": "cubic", "ecn": True}
PLIANT_CUBIC: Tune = {"congestion_control": "pliant_cubic"}
MIXES: Mapping[str, tuple[Tune, ...]] = {
    "pliant_dctcp": (DCTCP,) * 4,
    "cubic": (CUBIC,) * 4,
    "cubic_ecn": (CUBIC_ECN,) * 4,
    "pliant_cubic": (PLIANT_CUBIC,) * 4,
    "mixed": (DCTCP, DCTCP, CUBIC, CUBIC),
}
"""What is tried: the settings of each flow."""

RATE_MBIT = 100
DELAY = "2ms"  # one way
QUEUE = "250 packets"
MARK_ABOVE = "20 packets"
FIRST_PORT = 8000  # of the first flow; each has one of its own
SETTLE_S = 1.0
MEASURE_S = 8.0
RECORD_PACKETS = 1 << 18
UNLIMITED = 1 << 40  # bytes
SENDER, RECEIVER = "sender.service", "receiver.service"


class Traffic(NamedTuple):
    """What a measurement has seen: queue lengths in packets, and the bytes each flow has brought across, in order."""

    seconds: float
    lengths: list[int]
    flows: list[int]
    marked: int
    dropped: int


def run(options: Options) -> Iterator[Sample]:
    """Yield queue lengths, rates and fairness for each mix of flows in turn."""
    with Lab("bench-dctcp") as lab, Host(private_places("dctcp")) as host, ExitStack() as undo:
        undo.callback(clear, host)
        sender, receiver = lab.host("sender"), lab.host("receiver")
        link = lab.link(
            sender,
            receiver,
            rate=f"{RATE_MBIT}Mbit",
            delay=DELAY,
            queue=QUEUE,
            mark_above=MARK_ABOVE,
            record_packets=RECORD_PACKETS,
        )
        for number in range(options.runs):
            for name, tunes in MIXES.items():
                options.progress(f"{name}, run {number + 1} of {options.runs}")
                apply(host, both_ends(sender, receiver, tunes))
                yield from samples(name, tunes, carry(options, link, sender, receiver, tunes))


def both_ends(sender: LabHost, receiver: LabHost, tunes: Sequence[Tune]) -> list[Policy]:
    """Policies that give both ends of each flow its settings, by its port."""
    policies = []
    for number, tune in enumerate(tunes):
        port = FIRST_PORT + number
        matches = {
            "sender": {"service": service_path(sender, SENDER), "role": "client", "remotePorts": [port]},
            "receiver": {"service": service_path(receiver, RECEIVER), "role": "server", "localPorts": [port]},
        }
        for end, match in matches.items():
            document = {
                "apiVersion": "pliant/v1",
                "kind": "TransportPolicy",
                "metadata": {"name": f"bench-dctcp-{end}-{number}"},
                "spec": {"match": match, "tune": dict(tune)},
            }
            policies.append(policy_from_document(document, "benchmark policies", catalogue()))
    return policies


def carry(options: Options, link: Link, sender: LabHost, receiver: LabHost, tunes: Sequence[Tune]) -> Traffic:
    """Have flows fill the link, and return what was seen after they have settled."""
    ports = [FIRST_PORT + number for number in range(len(tunes))]
    with ExitStack() as stack:
        addresses = [f"0.0.0.0:{port}" for port in ports]
        server = stack.enter_context(TcpServer(receiver, addresses, mode="sink", service=RECEIVER))
        clients = [stack.enter_context(TcpClient(sender, service=SENDER)) for _ in tunes]
        for client, port, tune in zip(clients, ports, tunes, strict=True):
            [state] = client.connect(receiver.address, port)
            if state.congestion_control != tune["congestion_control"]:
                raise PliantError(f"a flow runs {state.congestion_control}, not {tune['congestion_control']}")
        for client in clients:
            client.start_sending(UNLIMITED)
        time.sleep(SETTLE_S * options.scale)
        before, started_ns = received(server), time.monotonic_ns()
        marked, dropped = counts(link, receiver)
        time.sleep(MEASURE_S * options.scale)
        after, ended_ns = received(server), time.monotonic_ns()
        marked_after, dropped_after = counts(link, receiver)
    return Traffic(
        seconds=(ended_ns - started_ns) / 1e9,
        lengths=link.queue_record(toward=receiver).between(started_ns, ended_ns).lengths(),
        flows=[after.get(port, 0) - before.get(port, 0) for port in ports],
        marked=marked_after - marked,
        dropped=dropped_after - dropped,
    )


def received(server: TcpServer) -> dict[int, int]:
    """The bytes that each flow has brought, by its port."""
    return {state.local_port: state.info["bytes_received"] for state in server.connections()}


def counts(link: Link, receiver: LabHost) -> tuple[int, int]:
    """The packets marked and dropped so far."""
    found = link.statistics(toward=receiver)
    if found.overruns:
        raise PliantError(
            f"the relay did not keep up: {found.overruns} packets lost", remedy="measure on a quiet machine"
        )
    return found.marked, found.dropped


def samples(name: str, tunes: Sequence[Tune], traffic: Traffic) -> Iterator[Sample]:
    """Yield what was measured of one mix of flows, named for it."""
    percentiles = quantiles(traffic.lengths, n=100, method="inclusive")
    yield Sample(f"{name}_queue_p50_packets", "packets", percentiles[49])
    yield Sample(f"{name}_queue_p99_packets", "packets", percentiles[98])
    total = sum(traffic.flows)
    yield Sample(f"{name}_goodput_mbit", "Mbit/s", total * 8 / traffic.seconds / 1e6)
    yield Sample(f"{name}_fairness", "Jain's index", jain(traffic.flows))
    yield Sample(f"{name}_marked_packets", "packets", traffic.marked)
    yield Sample(f"{name}_dropped_packets", "packets", traffic.dropped)
    if len({tune["congestion_control"] for tune in tunes}) > 1:
        first = [size for size, tune in zip(traffic.flows, tunes, strict=True) if tune is tunes[0]]
        yield Sample(f"{name}_{tunes[0]['congestion_control']}_share", "share of bytes", sum(first) / total)


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


BENCH = Bench(
    name="dctcp",
    summary="The queue at a bottleneck that marks, and how evenly it is shared: pliant_dctcp against CUBIC.",
    run=run,
    runs=5,
)
