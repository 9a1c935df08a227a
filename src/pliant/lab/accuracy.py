# SPDX-License-Identifier: Apache-2.0
"""How true the lab's links are on this host: asked against got.

python -m pliant.lab.accuracy            # a table
python -m pliant.lab.accuracy -o json
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from pliant.lab.host import Host
from pliant.lab.link import Link
from pliant.lab.network import Lab
from pliant.lab.path import PathSpec
from pliant.lab.ping import ping
from pliant.lab.relay_medium import RelayMedium
from pliant.lab.sockets import TcpClient, TcpServer


@dataclass(frozen=True, slots=True)
class Asked:
    """One path to try. The congestion control is cubic throughout."""

    spec: PathSpec
    offloads: bool = False
    both_ways: bool = False

    def __str__(self) -> str:
        words = [f"{self.spec.delay} each way"]
        if self.spec.rate:
            words.append(f"{self.spec.rate}/s")
        if self.spec.loss != "0%":
            words.append(f"{self.spec.loss} loss")
        words.append("offloads" if self.offloads else "single packets")
        if self.both_ways:
            words.append("TCP both ways")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Got:
    """What was measured: RTT over ``pings`` echoes, one TCP stream (or one each way), the relay's own count.

    ``processor`` is the share of one core the relay used while TCP ran.
    """

    asked: str
    medium: str
    pings: int
    rtt_min_ms: float
    rtt_mean_ms: float
    rtt_p99_ms: float
    rtt_max_ms: float
    tcp_mbit_s: list[float]
    packets: int
    lost: int
    lost_share: float
    overruns: int
    processor: float | None


PATHS = (
    Asked(PathSpec(rate="100Mbit", delay="20ms")),
    Asked(PathSpec(rate="100Mbit", delay="40ms")),
    Asked(PathSpec(rate="100Mbit", delay="20ms"), both_ways=True),
    Asked(PathSpec(rate="1Gbit", delay="5ms"), offloads=True),
    Asked(PathSpec(delay="20ms", loss="1%", rate="100Mbit")),
)


def measure(asked: Asked, *, pings: int = 300, seconds: float = 4.0) -> Got:
    """Make the path, ping over it, then run TCP over it."""
    with Lab("accuracy") as lab:
        server, client = lab.host("server"), lab.host("client")
        spec = asked.spec
        link = lab.link(
            server, client, rate=spec.rate, delay=spec.delay, loss=spec.loss, offloads=asked.offloads
        )
        times = sorted(ping(client, server.address, count=pings))
        ways = [(server, client), (client, server)] if asked.both_ways else [(server, client)]
        chunk = (spec.settings().rate or 10**9) // (8 * 20 if spec.loss == "0%" else 8 * 400)
        with ThreadPoolExecutor(len(ways)) as pool:
            cpu_before, started = _cpu_s(link), time.monotonic()
            jobs = [pool.submit(_throughput, to, of, chunk, seconds) for to, of in ways]
            rates = [job.result() for job in jobs]
            cpu_after, ended = _cpu_s(link), time.monotonic()
        counts = link.statistics()
        return Got(
            asked=str(asked),
            medium=link.medium.kind,
            pings=len(times),
            rtt_min_ms=times[0] * 1e3,
            rtt_mean_ms=statistics.mean(times) * 1e3,
            rtt_p99_ms=times[len(times) * 99 // 100] * 1e3,
            rtt_max_ms=times[-1] * 1e3,
            tcp_mbit_s=[rate / 1e6 for rate in rates],
            packets=counts.forwarded + counts.lost,
            lost=counts.lost,
            lost_share=counts.lost / (counts.forwarded + counts.lost),
            overruns=counts.overruns,
            processor=None
            if cpu_before is None or cpu_after is None
            else (cpu_after - cpu_before) / (ended - started),
        )


def _cpu_s(link: Link) -> float | None:
    return link.medium.cpu_s() if isinstance(link.medium, RelayMedium) else None


def _throughput(receiver: Host, sender: Host, chunk: int, seconds: float) -> float:
    """Bits a second of one stream, counted once it has run for two seconds."""
    with TcpServer(receiver, mode="sink") as sink, TcpClient(sender) as source:
        source.connect(receiver.address, sink.port)
        source.set_option(socket.IPPROTO_TCP, socket.TCP_CONGESTION, "cubic")
        _send_for(source, chunk, 2.0)
        before, started = sink.received_bytes(), time.monotonic()
        _send_for(source, chunk, seconds)
        after, ended = sink.received_bytes(), time.monotonic()
    return (after - before) * 8 / (ended - started)


def _send_for(source: TcpClient, chunk: int, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        source.send(chunk)


def table(results: Sequence[Got]) -> str:
    """Write the results as a Markdown table."""
    lines = [
        "| asked for | RTT min / mean / p99 / max, ms | TCP, Mbit/s | lost | relay, share of a core |",
        "|---|---|---|---|---|",
    ]
    for got in results:
        rtt = f"{got.rtt_min_ms:.2f} / {got.rtt_mean_ms:.2f} / {got.rtt_p99_ms:.2f} / {got.rtt_max_ms:.2f}"
        tcp = " and ".join(f"{rate:.1f}" for rate in got.tcp_mbit_s)
        lost = f"{got.lost} of {got.packets} ({got.lost_share:.2%})" if got.lost else "0"
        relay = "-" if got.processor is None else f"{got.processor:.0%}"
        lines.append(f"| {got.asked} | {rtt} | {tcp} | {lost} | {relay} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every path and print what was got."""
    parser = argparse.ArgumentParser(description="Measure how true the lab's links are on this host.")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--pings", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=4.0, help="of TCP, for each path")
    arguments = parser.parse_args()
    results = [measure(asked, pings=arguments.pings, seconds=arguments.seconds) for asked in PATHS]
    if arguments.output == "json":
        print(json.dumps([asdict(got) for got in results], indent=2))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
