# SPDX-License-Identifier: Apache-2.0
"""A link between two lab hosts: addresses, routes and the path's behaviour."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pliant.errors import PliantError
from pliant.lab.medium import Medium, NetemMedium, PathStatistics, VethMedium, kernel_has_netem
from pliant.lab.path import PathSpec
from pliant.lab.queue_record import QueueRecord
from pliant.lab.relay_medium import RelayMedium

if TYPE_CHECKING:
    from pliant.lab.host import Host, Network

MEDIA = ("auto", "veth", "netem", "relay")


class Link:
    """A link of a lab. Made by ``Lab.link``.

    Link number n has the networks 198.18.n.0/24 and 2001:2:0:n::/64, set aside for measuring (RFC 2544,
    RFC 5180); the first host has .1 and the second .2.
    """

    def __init__(
        self,
        number: int,
        hosts: tuple[Host, Host],
        spec: PathSpec,
        *,
        offloads: bool,
        seed: int,
        medium: str,
        record_packets: int = 0,
    ) -> None:
        self.hosts = hosts
        self.specs = [spec, spec]
        self.offloads = offloads
        self.names = tuple(_free_name(host, peer) for host, peer in (hosts, hosts[::-1]))
        network = ipaddress.ip_network(f"198.{18 + number // 256}.{number % 256}.0/24")
        network6 = ipaddress.ip_network(f"2001:2:0:{number:x}::/64")
        self._addresses = (str(network[1]), str(network[2]))
        self._addresses6 = (str(network6[1]), str(network6[2]))
        self.medium: Medium = self._make_medium(spec, medium, seed, record_packets)
        for i, host in enumerate(hosts):
            host.ip(
                f"address add {self._addresses[i]}/24 dev {self.names[i]}",
                f"address add {self._addresses6[i]}/64 dev {self.names[i]} nodad",
            )
            host.links.append(self)
        for host in hosts:
            self.route_to(host, host.prefixes)

    def _make_medium(self, spec: PathSpec, medium: str, seed: int, record_packets: int) -> Medium:
        settings = spec.settings(offloads=self.offloads)
        if medium == "auto":
            # netem lets jittered packets overtake each other, and cannot mark above a queue depth.
            wants_relay = settings.jitter_ns or settings.mark_above or record_packets
            if wants_relay or not (spec.is_direct or kernel_has_netem()):
                medium = "relay"
            else:
                medium = "veth" if spec.is_direct else "netem"
        ends = ((self.hosts[0], self.names[0]), (self.hosts[1], self.names[1]))
        if medium == "veth":
            return VethMedium(ends, offloads=self.offloads)
        if medium == "netem":
            return NetemMedium(ends, (settings, settings), offloads=self.offloads)
        if medium == "relay":
            return RelayMedium(
                ends, (settings, settings), offloads=self.offloads, seed=seed, record_packets=record_packets
            )
        raise PliantError(
            f"there is no medium {medium!r} for a link", remedy=f"use one of {', '.join(MEDIA)}"
        )

    def _index(self, host: Host) -> int:
        if host not in self.hosts:
            raise PliantError(f"lab host {host.name} is not on the link between {self}")
        return self.hosts.index(host)

    def __str__(self) -> str:
        return f"{self.hosts[0].name} and {self.hosts[1].name}"

    def peer_of(self, host: Host) -> Host:
        """Return the host at the other end."""
        return self.hosts[1 - self._index(host)]

    def address_of(self, host: Host) -> str:
        """Return the host's IPv4 address on this link."""
        return self._addresses[self._index(host)]

    def address6_of(self, host: Host) -> str:
        """Return the host's IPv6 address on this link."""
        return self._addresses6[self._index(host)]

    def interface_of(self, host: Host) -> str:
        """Return the name of the host's interface on this link."""
        return self.names[self._index(host)]

    def route_to(self, host: Host, networks: Iterable[Network]) -> None:
        """Have the other end reach these networks through the host."""
        via = {4: self.address_of(host), 6: self.address6_of(host)}
        name = self.interface_of(self.peer_of(host))
        self.peer_of(host).ip(*(f"route replace {n} via {via[n.version]} dev {name}" for n in networks))

    def change(
        self,
        *,
        rate: str | None = None,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
        queue: str | None = None,
        mark_above: str | None = None,
        toward: Host | None = None,
    ) -> None:
        """Change what is given, from now on, in both directions or only ``toward`` a host.

        Packets already on the way are not touched. A queue given in BDP follows the rate and the delay.
        """
        given = {
            "rate": rate,
            "delay": delay,
            "jitter": jitter,
            "loss": loss,
            "queue": queue,
            "mark_above": mark_above,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        specs = {i: replace(self.specs[i], **changes) for i in self._directions(toward)}
        self.medium.change({i: spec.settings(offloads=self.offloads) for i, spec in specs.items()})
        for i, spec in specs.items():
            self.specs[i] = spec

    def statistics(self, toward: Host | None = None) -> PathStatistics:
        """Return what became of the packets of both directions, or of those ``toward`` a host."""
        total = PathStatistics()
        for direction in self._directions(toward):
            total += self.medium.statistics(direction)
        return total

    def queue_record(self, toward: Host) -> QueueRecord:
        """Return when the latest packets ``toward`` a host were in the transmitter's queue.

        Raises PliantError unless the link was made with ``record_packets``.
        """
        if not isinstance(self.medium, RelayMedium):
            raise PliantError(
                f"a link of kind {self.medium.kind} does not record its queues", remedy="use medium='relay'"
            )
        [direction] = self._directions(toward)
        return self.medium.recording(direction)

    def _directions(self, toward: Host | None) -> tuple[int, ...]:
        return (0, 1) if toward is None else (1 - self._index(toward),)

    def close(self) -> None:
        """Take the link away."""
        self.medium.close()
        for host in self.hosts:
            if self in host.links:
                host.links.remove(self)


def _free_name(host: Host, peer: Host) -> str:
    taken = {link.interface_of(host) for link in host.links}
    wanted = f"to-{peer.name}"
    candidates = [wanted[:15], *(f"{wanted[:12]}-{n}" for n in range(2, 100))]
    return next(name for name in candidates if name not in taken)
