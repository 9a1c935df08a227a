# SPDX-License-Identifier: Apache-2.0
"""The demo's world: a web server, a client nearby and one far away, and the fetching between them."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pliant.demo.samples import Phase
from pliant.errors import PliantError
from pliant.lab import Fetch, Host, Lab, Link, Nginx, fetch, ping

FILES = {"10 KB": 10_000, "30 KB": 30_000, "100 KB": 100_000, "300 KB": 300_000, "1 MB": 1_000_000}
SERVICE = "nginx.service"
PORT = 80

SERVER, NEAR, FAR = "10.0.0.1", "10.1.0.9", "10.2.0.9"
FAR_RATE, FAR_DELAY = "100Mbit", "40ms"  # one way
NEAR_DELAY = "5ms"

FAR_PARALLEL = 6  # keeps the far path about half full: the fetches meet, but do not queue behind each other
NEAR_PARALLEL = 2
PROGRAMS = {"nginx": "nginx-light", "curl": "curl", "ip": "iproute2"}  # by Debian package


@dataclass(frozen=True, slots=True)
class World:
    """The hosts, the far path and the server; round-trip times are medians of pings, before any traffic."""

    server: Host
    near: Host
    far: Host
    far_path: Link
    nginx: Nginx
    near_rtt_s: float
    far_rtt_s: float

    @property
    def default_congestion_control(self) -> str:
        """What the server's host uses where no policy says otherwise."""
        return self.server.sysctl("net.ipv4.tcp_congestion_control")

    def accepted(self) -> int:
        """Connections the server's host has accepted so far."""
        return self.server.counters()["TcpPassiveOpens"]


def check_programs() -> None:
    """Raise PliantError naming the Debian packages of programs that are missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        packages = " ".join(dict.fromkeys(PROGRAMS[program] for program in missing))
        raise PliantError(
            f"{' and '.join(missing)} {verb} not installed, which the demo needs",
            remedy=f"apt install {packages}",
        )


@contextmanager
def world() -> Iterator[World]:
    """Make the hosts, links and nginx; everything is gone when the block ends or the process dies."""
    with Lab("demo") as lab:
        server, near, far = lab.host("server"), lab.host("near"), lab.host("far")
        lab.link(near, server, delay=NEAR_DELAY)
        far_path = lab.link(far, server, rate=FAR_RATE, delay=FAR_DELAY)
        server.add_address(f"{SERVER}/32")
        near.add_address(f"{NEAR}/32")
        far.add_address(f"{FAR}/32")
        rtts = [statistics.median(ping(host, SERVER, count=9)) for host in (near, far)]
        with Nginx(
            server, files={_file(name): size for name, size in FILES.items()}, service=SERVICE
        ) as nginx:
            yield World(server, near, far, far_path, nginx, *rtts)


def run_phase(world: World, name: str, *, near_count: int, far_count: int) -> Phase:
    """Fetch every file from both clients, sizes taking turns, each over a connection of its own."""
    before, path_before = world.server.counters(), world.far_path.statistics()
    urls = {world.nginx.url(_file(file), address=SERVER, port=PORT): file for file in FILES}
    near = fetch(world.near, list(urls), count=near_count, parallel=NEAR_PARALLEL, source=NEAR)
    far = fetch(world.far, list(urls), count=far_count, parallel=FAR_PARALLEL, source=FAR)
    after, path_after = world.server.counters(), world.far_path.statistics()
    return Phase(
        name,
        _by_file(near, urls),
        _by_file(far, urls),
        after["TcpRetransSegs"] - before["TcpRetransSegs"],
        after["TcpOutSegs"] - before["TcpOutSegs"],
        path_after.dropped - path_before.dropped,
        path_after.overruns - path_before.overruns,
    )


def fetches_of(near_count: int, far_count: int) -> int:
    """How many connections a phase makes."""
    return (near_count + far_count) * len(FILES)


def _by_file(fetches: list[Fetch], urls: Mapping[str, str]) -> dict[str, list[Fetch]]:
    return {file: [one for one in fetches if one.url == url] for url, file in urls.items()}


def _file(name: str) -> str:
    return name.replace(" ", "")
