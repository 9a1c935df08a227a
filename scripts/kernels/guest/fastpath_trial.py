# SPDX-License-Identifier: Apache-2.0
"""What is tried of the fast path: a router, and a bridge, between two hosts that send to each other.

What the kernel cannot do has to be refused with a sentence, and the packets then arrive all the same.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from command import pliant_command
from pliant.bench.forwarding import Row
from pliant.bench.modules import bridged
from pliant.lab import Lab
from scenarios import Found, Scenario, expect, works
from stage import Stage, pinned

EXCHANGES = 60
LEAST_ACCELERATED = 40
"""Of as many packets each way: the first ones, and one of each station and neighbour a second, are the kernel's."""
NETWORKS = ("192.0.2.{}/24", "2001:db8::{}/64")
PORT = 4000
ANSWER_S = 20.0

Status = dict[str, dict[str, Any]]


def of_the_fastpath() -> Iterator[Scenario]:
    """One scenario for each kind of program that comes with an interface of its own."""
    for name, prepare, ability, sentence in (
        ("route", routed, "fastpath_route", "Packets of IPv4 and IPv6 take the fast path of a router"),
        ("bridge", switched, "fastpath_bridge", "Frames take the fast path of a bridge"),
    ):
        yield (
            f"fastpath_{name}",
            f"{sentence}, and the kernel's way again after it.",
            partial(_try, prepare, ability),
        )


def routed(row: Row) -> list[str]:
    """Both ends know the way to each other; return the far end's addresses."""
    near, far = row.near[0], row.far[0]
    row.source.add_route(f"{far.address_of(row.sink)}/32", near.address_of(row.router))
    row.source.add_route(f"{far.address6_of(row.sink)}/128", near.address6_of(row.router))
    row.sink.add_route(f"{near.address_of(row.source)}/32", far.address_of(row.router))
    row.sink.add_route(f"{near.address6_of(row.source)}/128", far.address6_of(row.router))
    return [far.address_of(row.sink), far.address6_of(row.sink)]


def switched(row: Row) -> list[str]:
    """Both ends are in one network behind a bridge; return the far end's addresses."""
    bridged(row)
    for number, (host, link) in enumerate(((row.source, row.near[0]), (row.sink, row.far[0])), 1):
        near = link.interface_of(host)
        host.ip(*(f"address add {network.format(number)} dev {near} nodad" for network in NETWORKS))
    return [network.format(2).partition("/")[0] for network in NETWORKS]


def _try(prepare: Callable[[Row], list[str]], ability: str, stage: Stage) -> Found:
    del stage
    with Lab("fastpath") as lab:
        row = Row(lab)
        addresses = prepare(row)
        names = row.names(row.router)
        _exchange_all(row, addresses)
        with row.router.inside():
            able = _is_able(ability)
            pliant_command("fastpath", "on", "--mode", "native")
            try:
                before = _status()
                _exchange_all(row, addresses)
                after = _status()
            finally:
                pliant_command("fastpath", "off")
            left = pinned()
        _exchange_all(row, addresses)
    expect(not left, f"still pinned: {', '.join(left)}")
    return _judged(before, after, names) if able else _refused(after, names)


def _judged(before: Status, after: Status, names: Sequence[str]) -> Found:
    counts = []
    for name in names:
        expect(
            after[name]["state"] == "accelerated",
            f"{name} is {after[name]['state']}: {_reasons(after[name])}",
        )
        counts.append(after[name]["accelerated"]["packets"] - before[name]["accelerated"]["packets"])
    of_all = 2 * EXCHANGES  # of both IP versions
    expect(
        min(counts) >= 2 * LEAST_ACCELERATED, f"accelerated {counts} of {of_all} packets each way: {after}"
    )
    modules = ", ".join(after[names[0]]["modules"])
    return works(f"{modules}: {' and '.join(map(str, counts))} of {of_all} packets each way")


def _refused(after: Status, names: Sequence[str]) -> Found:
    """The kernel cannot: every interface has to say so."""
    said = set()
    for name in names:
        lacks = [reason["sentence"] for reason in after[name]["reasons"] if reason["code"] == "kernel-lacks"]
        expect(after[name]["state"] == "waiting", f"{name} is {after[name]['state']}")
        expect(bool(lacks), f"{name} does not say what the kernel lacks: {_reasons(after[name])}")
        said.update(lacks)
    return {"state": "refused", "said": "; ".join(sorted(said))}


def _is_able(ability: str) -> bool:
    found = pliant_command("doctor", "-o", "json", may=(0, 1, 2)).data()
    [one] = [finding for finding in found if finding["name"] == ability]
    expect(one["level"] in ("ok", "absent"), f"doctor says of {ability}: {one}")
    return bool(one["level"] == "ok")


def _status() -> Status:
    told = pliant_command("fastpath", "status", "-o", "json", may=(0, 1)).data()
    return {one["interface"]: one for one in told}


def _reasons(status: dict[str, Any]) -> str:
    return json.dumps(status["reasons"])


def _exchange_all(row: Row, addresses: Sequence[str]) -> None:
    for address in addresses:
        exchange(row, address)


def exchange(row: Row, address: str) -> None:
    """Send datagrams to the far end, each answered by one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with row.sink.inside():
        there = socket.socket(family, socket.SOCK_DGRAM)
    with row.source.inside():
        here = socket.socket(family, socket.SOCK_DGRAM)
    with there, here:
        for end in (there, here):
            end.settimeout(ANSWER_S)
        there.bind((address, PORT))
        here.connect((address, PORT))
        for number in range(EXCHANGES):
            content = number.to_bytes(4, "big")
            here.send(content)
            received, sender = there.recvfrom(100)
            expect(received == content, f"packet {number} to {address} is not as it was sent")
            there.sendto(content, sender)
            expect(here.recv(100) == content, f"the answer to packet {number} to {address} is another")
