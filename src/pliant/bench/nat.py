# SPDX-License-Identifier: Apache-2.0
"""How many packets a second of an established connection a masquerading router forwards on one core."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.errors import PliantError
from pliant.kernel.conntrack import Status, read_connections
from pliant.lab import Lab
from pliant.lab.frames import udp_frame

PORTS = (1234, 9)
RULES = (
    "table {} nat {{ chain out {{ type nat hook postrouting priority srcnat; oifname {} masquerade; }}; }}"
)
_ASSURED_WITHIN_S = 20.0
_ANSWER_S = 0.1


def run(options: Options) -> Iterator[Sample]:
    """Yield rates and ratios for one flow of the shortest packets, of each family."""
    private_mounts()
    with Lab("bench") as lab:
        row = Row(lab)
        near, far = row.near[0], row.far[0]
        out = far.interface_of(row.router)
        for family in ("ip", "ip6"):
            row.router.run(["nft", "-f", "-"], given=RULES.format(family, out))
        ways = {
            "nat": (near.address_of(row.source), far.address_of(row.sink)),
            "nat6": (near.address6_of(row.source), far.address6_of(row.sink)),
        }
        row.source.add_route(f"{ways['nat'][1]}/32", near.address_of(row.router))
        row.source.add_route(f"{ways['nat6'][1]}/128", near.address6_of(row.router))
        variants: dict[str, Variant] = {KERNEL: nullcontext, PLIANT: Acceleration(row.router).on}
        for metric, (sender, destination) in ways.items():
            options.progress(f"{metric}: from {sender} to {destination}, masqueraded")
            establish(row, destination)
            # Without a checksum, which in IPv6 tunnels do (RFC 6935): it would be behind what is sent anew each time.
            frame = udp_frame(*row.macs(), sender, destination, ports=PORTS, checksum=False)
            with closing(row.packets([frame])) as packets:
                for found in rounds(row, packets, variants, options):
                    yield from samples(metric, found)


def establish(row: Row, destination: str) -> None:
    """Have datagrams go both ways until conntrack takes them for a connection that goes on, after two seconds.

    Raises :class:`PliantError` when it does not.
    """
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with row.source.inside():
        client = socket.socket(family, socket.SOCK_DGRAM)
    with row.sink.inside():
        server = socket.socket(family, socket.SOCK_DGRAM)
    deadline = time.monotonic() + _ASSURED_WITHIN_S
    with client, server:
        client.bind(("", PORTS[0]))
        server.bind(("", PORTS[1]))
        for end in (client, server):
            end.settimeout(_ANSWER_S)
        while not _is_assured(row, destination):
            if time.monotonic() > deadline:
                raise PliantError(f"the router has no connection to {destination} that goes on")
            client.sendto(b"question", (destination, PORTS[1]))
            try:
                _, asked_by = server.recvfrom(64)
                server.sendto(b"answer", asked_by)
                client.recv(64)
            except TimeoutError:
                continue


def _is_assured(row: Row, destination: str) -> bool:
    found = read_connections(row.router.netns_path)
    return any(c.status & Status.ASSURED for c in found if str(c.original.destination) == destination)


BENCH = Bench(
    name="nat",
    summary="Packets a second of a masqueraded connection on one core, against the kernel alone.",
    run=run,
    runs=10,
)
