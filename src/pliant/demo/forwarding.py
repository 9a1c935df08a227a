# SPDX-License-Identifier: Apache-2.0
"""The demo's second part: a router that forwards by the kernel alone, with the fast path, and by the kernel again."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pliant.bench.forwarding import Row, window
from pliant.demo.report import aligned
from pliant.demo.screen import Screen
from pliant.demo.shell import Shell
from pliant.errors import PliantError
from pliant.lab import Lab
from pliant.lab.frames import udp_frame
from pliant.lab.packets import PacketSource

WINDOWS, WINDOW_S = 3, 0.3
NETWORK, BEYOND = "198.19.0.0/16", "198.19.0.1"
PORTS = (40000, 9)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Millions of packets a second that came out behind the router, medians of :data:`WINDOWS` windows."""

    before: float
    accelerated: float
    after: float

    def as_data(self) -> dict[str, Any]:
        """Plain data for a file."""
        rates = {f"{name}Mpps": round(rate, 3) for name, rate in asdict(self).items()}
        return rates | {"ratio": round(self.accelerated / self.before, 3)}


@contextmanager
def routed() -> Iterator[Row]:
    """A source, a router and a sink, and a network behind the sink."""
    with Lab("demo-router") as lab:
        row = Row(lab)
        row.router.add_route(NETWORK, row.far[0].address_of(row.sink))
        yield row


def story(row: Row, shell: Shell, screen: Screen) -> Forwarded:
    """Tell it. Raises :class:`PliantError` when something of ours is left in the end."""
    near = row.near[0]
    came_in, sender = near.interface_of(row.router), near.address_of(row.source)
    screen.heading("A router, configured with ip(8) and nothing else")
    screen.say(row.router.run(["ip", "route"]).stdout.rstrip())
    with closing(
        row.packets([udp_frame(*row.macs(), sender, BEYOND, ports=PORTS, checksum=False)])
    ) as packets:
        before = _measured(row, packets, screen, "the kernel alone")
        shell.pliant("fastpath", "on", "--mode", "native")
        accelerated = _measured(row, packets, screen, "with the fast path")
        shell.pliant("fastpath", "status")
        fields = f"in={came_in} src={sender} dst={BEYOND} proto=udp sport={PORTS[0]} dport={PORTS[1]}"
        shell.pliant("explain", "--packet", fields)
        shell.pliant("fastpath", "off")
        after = _measured(row, packets, screen, "the kernel alone again")
    if any(shell.pins.glob("**/*")):
        raise PliantError(f"something is left of the fast path in {shell.pins}", remedy="please report this")
    found = Forwarded(before, accelerated, after)
    screen.say()
    screen.say(_table(found))
    return found


def _measured(row: Row, packets: PacketSource, screen: Screen, name: str) -> float:
    names = [link.interface_of(row.sink) for link in row.far]
    screen.doing(f"forwarding: {name}")
    windows = [window(packets, row.sink, names, WINDOW_S) for _ in range(WINDOWS)]
    return statistics.median(one.delivered / one.seconds / 1e6 for one in windows)


def _table(found: Forwarded) -> str:
    heads = (
        "FORWARDED ON ONE CORE, THE GENERATOR INCLUDED",
        "MILLION PACKETS A SECOND",
        "TIMES THE KERNEL'S",
    )
    rates = {
        "the kernel alone": found.before,
        "with the fast path": found.accelerated,
        "the kernel alone again": found.after,
    }
    rows = [(name, f"{rate:.2f}", f"{rate / found.before:.2f}") for name, rate in rates.items()]
    return aligned(heads, rows)
