# SPDX-License-Identifier: Apache-2.0
"""What carries a link's packets: a veth pair, alone or with netem on both ends."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from pliant.errors import PliantError
from pliant.lab import interface, syscalls

if TYPE_CHECKING:
    from pliant.lab.host import Host
    from pliant.lab.path import PathSettings

Ends = tuple[tuple["Host", str], tuple["Host", str]]  # host and interface name, of either end
MTU = 1500


@dataclass(frozen=True, slots=True)
class PathStatistics:
    """Packets of one direction so far, by what became of them.

    ``dropped`` at a full queue, ``lost`` on purpose, ``undelivered`` because the receiving device was down,
    ``overruns`` because the relay did not keep up (a result with any is not to be trusted). netem counts its
    losses as dropped and reports no marks, queue or overruns. With offloads a packet is an aggregate.
    """

    forwarded: int = 0
    forwarded_bytes: int = 0
    dropped: int = 0
    lost: int = 0
    marked: int = 0
    undelivered: int = 0
    most_queued_bytes: int = 0
    overruns: int = 0

    def __add__(self, other: PathStatistics) -> PathStatistics:
        """Add two directions; of the deepest queues the deeper counts."""
        mine, theirs = asdict(self), asdict(other)
        total = {name: mine[name] + theirs[name] for name in mine}
        total["most_queued_bytes"] = max(self.most_queued_bytes, other.most_queued_bytes)
        return PathStatistics(**total)


class Medium(Protocol):
    """What a link asks of what carries its packets. Direction 0 goes from the first host to the second."""

    kind: str

    def change(self, settings: dict[int, PathSettings]) -> None:
        """Take new settings for the directions named."""

    def statistics(self, direction: int) -> PathStatistics:
        """Return what happened to one direction's packets."""

    def close(self) -> None:
        """Take the interfaces away."""


def device_counters(host: Host, name: str) -> dict[str, int]:
    """Return an interface's counters from /proc/net/dev: rx_packets, tx_bytes, tx_drop, ..."""
    for line in (host.netns_path.parent.parent / "net/dev").read_text().splitlines():
        device, _, values = line.partition(":")
        if device.strip() == name:
            numbers = [int(value) for value in values.split()]
            keys = ("bytes", "packets", "errs", "drop")
            received = {f"rx_{key}": numbers[i] for i, key in enumerate(keys)}
            return received | {f"tx_{key}": numbers[8 + i] for i, key in enumerate(keys)}
    return {}


class VethMedium:
    """A plain pair of devices: no delay, no limit."""

    kind = "veth"

    def __init__(self, ends: Ends, *, offloads: bool) -> None:
        self.ends = ends
        (one, one_name), (other, other_name) = ends
        one.ip(f"link add {one_name} type veth peer name {other_name} netns {other.netns_path}")
        for host, name in ends:
            if not offloads:
                with host.inside():
                    interface.switch_offloads(name, on=False)
            host.ip(f"link set {name} mtu {MTU} up")

    def change(self, settings: dict[int, PathSettings]) -> None:
        """Refuse: there is nothing to set."""
        raise PliantError(
            "a direct link has no rate, delay or loss to change",
            remedy="make the link with a delay or a rate, even a small one",
        )

    def statistics(self, direction: int) -> PathStatistics:
        """Return the receiving device's counters."""
        host, name = self.ends[1 - direction]
        counters = device_counters(host, name)
        return PathStatistics(
            forwarded=counters.get("rx_packets", 0),
            forwarded_bytes=counters.get("rx_bytes", 0),
            dropped=counters.get("rx_drop", 0),
        )

    def close(self) -> None:
        """Delete the pair."""
        host, name = self.ends[0]
        with suppress(PliantError):
            host.ip(f"link delete {name}")


class NetemMedium(VethMedium):
    """A pair of devices with tc-netem(8) on both."""

    kind = "netem"

    def __init__(self, ends: Ends, settings: tuple[PathSettings, PathSettings], *, offloads: bool) -> None:
        super().__init__(ends, offloads=offloads)
        self.change(dict(enumerate(settings)))

    def change(self, settings: dict[int, PathSettings]) -> None:
        """Replace the qdisc of the sending device."""
        for direction, setting in settings.items():
            host, name = self.ends[direction]
            host.tc(f"qdisc replace dev {name} root netem {netem_arguments(setting)}")

    def statistics(self, direction: int) -> PathStatistics:
        """Return the qdisc's counters."""
        host, name = self.ends[direction]
        (qdisc, *_) = json.loads(host.run(["tc", "-s", "-j", "qdisc", "show", "dev", name, "root"]).stdout)
        return PathStatistics(
            forwarded=qdisc["packets"], forwarded_bytes=qdisc["bytes"], dropped=qdisc.get("drops", 0)
        )


def netem_arguments(setting: PathSettings) -> str:
    """Write settings for tc-netem(8), whose limit also holds the packets on the wire."""
    words = [f"delay {setting.delay_ns // 1000}us"]
    if setting.loss:
        words.append(f"loss {setting.loss * 100:g}%")
    limit = 100_000
    if setting.rate:
        words.append(f"rate {setting.rate}bit")
        on_wire = setting.rate * setting.delay_ns // 8_000_000_000 // MTU
        if setting.queue is not None:
            limit = 1 + on_wire + (setting.queue.packets or (setting.queue.bytes or 0) // MTU)
    return " ".join([*words, f"limit {limit}"])


@cache
def kernel_has_netem() -> bool:
    """Try netem in a scratch namespace."""
    with syscalls.thread_network_restored():
        syscalls.unshare(syscalls.CLONE_NEWNET)
        argv = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
