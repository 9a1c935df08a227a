# SPDX-License-Identifier: Apache-2.0
"""How many packets a second a gateway forwards on one core: a router with nftables' rules, and connections tracked."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from socket import AF_INET, SOCK_DGRAM, socket

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.lab import Lab
from pliant.lab.frames import udp_frame

FLOWS = 64
PORT = 9
FIRST_PORT = 20_000
RULES = 20
PREFIXES = 1000
COUNTERS = "gateway_counters"
_STREAM_S = (
    2.1  # conntrack takes UDP that has gone both ways for longer than two seconds for an assured stream
)
_ANSWER_S = 5.0


def rules() -> list[str]:
    """Twenty rules without state of which none is for the packets: by prefix, by port, by interface."""
    prefixes = [f"ip saddr 203.0.113.{16 * number}/28 drop" for number in range(RULES // 2)]
    ports = [f"tcp dport {7000 + number} drop" for number in range(RULES - len(prefixes) - 2)]
    return [*prefixes, *ports, 'iifname "nosuch0" drop', "ip protocol 89 drop"]


def ruleset(asked: Sequence[str], *, sets: str = "", stateful: bool = True) -> str:
    """A table whose forward chain asks these rules, then for connections; what is new may come to one port."""
    states = ["ct state established,related accept", "ct state invalid drop"] if stateful else []
    lines = "\n".join([*asked, *states, f"udp dport {PORT} accept"])
    return (
        f"flush ruleset\ntable inet gateway {{\n{sets}\nchain forward {{\n"
        f"type filter hook forward priority filter; policy drop;\n{lines}\n}}\n}}\n"
    )


def with_counters(text: str) -> str:
    """The same in which every rule counts, as iptables-nft writes them."""
    return re.sub(r" (drop|accept)$", r" counter \1", text, flags=re.MULTILINE)


def sets_of_prefixes() -> tuple[str, list[str]]:
    """Two sets of 500 prefixes each, and the rules that look packets up in them."""
    half = PREFIXES // 2
    sets = ""
    for name, first in (("sources", 100), ("destinations", 110)):
        elements = ", ".join(f"{first + n // 250}.{n % 250}.0.0/{17 + n % 8}" for n in range(half))
        sets += f"set {name} {{\ntype ipv4_addr; flags interval; elements = {{ {elements} }}\n}}\n"
    return sets, ["ip saddr @sources drop", "ip daddr @destinations drop"]


def run(options: Options) -> Iterator[Sample]:
    """Yield rates and ratios: with twenty rules, sets in their place, the rules but no state, rules that count."""
    private_mounts()
    sets, lookups = sets_of_prefixes()
    variants = {
        "gateway": ruleset(rules()),
        "gateway_sets": ruleset(lookups, sets=sets),
        "gateway_stateless": ruleset(rules(), stateful=False),
        COUNTERS: with_counters(ruleset(rules())),
    }
    with Lab("bench") as lab:
        row = Row(lab)
        near, far = row.near[0], row.far[0]
        ends = near.address_of(row.source), far.address_of(row.sink)
        row.source.add_route(f"{ends[1]}/32", near.address_of(row.router))
        row.sink.add_route(f"{ends[0]}/32", far.address_of(row.router))
        frames = [
            udp_frame(*row.macs(), *ends, ports=(FIRST_PORT + n, PORT), checksum=False) for n in range(FLOWS)
        ]
        with closing(row.packets(frames)) as packets:
            for metric, text in variants.items():
                options.progress(f"{metric}: {text.count(' drop')} rules that drop")
                row.router.run(["nft", "-f", "-"], given=text)
                if "ct state" in text:
                    establish(row, *ends)
                ways: dict[str, Variant] = {
                    KERNEL: nullcontext,
                    PLIANT: Acceleration(row.router, counts=metric == COUNTERS).on,
                }
                for found in rounds(row, packets, ways, options):
                    yield from samples(metric, found)


def establish(row: Row, source: str, sink: str) -> None:
    """Make the flows connections that conntrack takes for established in both directions."""
    with ExitStack() as held:
        with row.sink.inside():
            server = held.enter_context(socket(AF_INET, SOCK_DGRAM))
        server.settimeout(_ANSWER_S)
        server.bind((sink, PORT))
        with row.source.inside():
            clients = [held.enter_context(socket(AF_INET, SOCK_DGRAM)) for _ in range(FLOWS)]
        for number, client in enumerate(clients):
            client.settimeout(_ANSWER_S)
            client.bind((source, FIRST_PORT + number))
            client.connect((sink, PORT))
        for pause_s in (0.0, _STREAM_S):
            time.sleep(pause_s)
            for client in clients:
                client.send(b"?")
                data, back = server.recvfrom(16)
                server.sendto(data, back)
                client.recv(16)


BENCH = Bench(
    name="gateway",
    summary="Packets a second through a router with nftables' rules, sets and connections, on one core.",
    run=run,
    runs=10,
)
