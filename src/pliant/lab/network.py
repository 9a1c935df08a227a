# SPDX-License-Identifier: Apache-2.0
"""A lab: a few hosts and the links between them, gone when the block ends or the process dies."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pliant.errors import PliantError
from pliant.lab import cgroup, ownership
from pliant.lab.host import Host
from pliant.lab.link import Link
from pliant.lab.path import PathSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")


class Lab:
    """Hosts in anonymous network namespaces, with links between them.

    Use it as a context manager. Each host is held by a process that ends with this one, however it ends, and
    then ends and removes what is the host's. What a crash of the whole lot may leave the next lab removes.
    Raises PliantError without root.
    """

    def __init__(self, name: str = "lab") -> None:
        self.name = _checked_name(name)
        self.hosts: dict[str, Host] = {}
        self.links: list[Link] = []
        self._owner = os.getpid()
        self._made = False

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise PliantError("a lab needs root to make network namespaces", remedy="run it with sudo")
        ownership.sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=ownership.owned_name(f"{self.name}-")))
        self.directory.chmod(0o755)  # servers that give up root still read what they serve
        self.cgroup = cgroup.version2_root() / self.directory.name
        self.cgroup.mkdir()
        self._made = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """Make a host; raises PliantError when the name is taken."""
        if not self._made:
            raise PliantError(
                "the lab is not open", remedy="use it as a context manager: with Lab() as lab: ..."
            )
        if _checked_name(name) in self.hosts:
            raise PliantError(f"the lab already has a host {name}")
        host = Host(name, self.cgroup / name, self.directory / name)
        self.hosts[name] = host
        return host

    def link(
        self,
        one: Host,
        other: Host,
        *,
        rate: str | None = None,
        delay: str = "0ms",
        jitter: str = "0ms",
        loss: str = "0%",
        queue: str | None = None,
        mark_above: str | None = None,
        seed: int = 1,
        offloads: bool = False,
        medium: str = "auto",
        record_packets: int = 0,
    ) -> Link:
        """Join two hosts; all settings hold for each direction.

        rate: "100Mbit", of IP bytes; none means no limit.
        delay: one way, "40ms"; a round trip takes twice that.
        jitter: added evenly from minus to plus this; packets never overtake.
        loss: share of packets lost on the wire, "1%", by a generator that starts from ``seed``.
        queue: what the transmitter holds before it drops, "1BDP" (rate times round trip; the default, at
        least 64 KB), "64KiB", "100 packets".
        mark_above: ECN-capable packets that find a deeper queue are marked, "30 packets" or "30KB".
        offloads: let 64 KB aggregates pass as one packet, which is fast; off, each packet counts.
        medium: "auto" is a veth pair when the path is direct, else netem if the kernel has it, else the
        relay; or name one.
        record_packets: keep for the latest so many packets of each direction when they were in the queue, for
        ``Link.queue_record`` (relay only; 16 bytes each).

        Raises PliantError for what cannot be read or made.
        """
        spec = PathSpec(rate, delay, jitter, loss, queue, mark_above)
        number = len(self.links) + 1
        link = Link(
            number,
            (one, other),
            spec,
            offloads=offloads,
            seed=seed,
            medium=medium,
            record_packets=record_packets,
        )
        self.links.append(link)
        return link

    def close(self) -> None:
        """End everything; may be called twice."""
        if not self._made or os.getpid() != self._owner:
            return
        self._made = False
        for link in self.links:
            link.close()
        for host in self.hosts.values():
            host.close()
        self.links.clear()
        self.hosts.clear()
        with suppress(FileNotFoundError):
            cgroup.remove(self.cgroup)
        shutil.rmtree(self.directory, ignore_errors=True)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PliantError(
            f"{name!r} cannot name a lab or a host", remedy="use letters, digits, '.', '_' and '-'"
        )
    return name
