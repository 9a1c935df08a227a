# SPDX-License-Identifier: Apache-2.0
"""What is tried of the fast path: a router, and a bridge, between two hosts that send datagrams to each other.

What the kernel cannot do has to be refused with a sentence, and the packets then arrive all the same.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from command import Unwilling, pliant_command
from pliant.bench.forwarding import Row
from pliant.bench.gateway import rules, ruleset
from pliant.bench.modules import bridged
from pliant.bench.nat import RULES
from pliant.fastpath.abilities import lacking
from pliant.fastpath.objects import BRIDGING, PODS, ROUTING, shipped_object
from pliant.kernel.objects import load
from pliant.kernel.templates import template_of
from pliant.lab import Lab
from scenarios import Found, Scenario, expect, works
from stage import Stage, pinned

EXCHANGES = 120  # half of them of each IP version
LEAST_ACCELERATED = 90
"""Of as many packets each way: the first ones, and one of each station and neighbour a second, are the kernel's."""
NETWORKS = ("192.0.2.{}/24", "2001:db8::{}/64")
PORTS = (4001, 4000)
"""Of the near and of the far end: all that is sent is of one connection, of each IP version."""
PATIENCE_S = 60.0
ANSWER_S = 20.0

Status = dict[str, dict[str, Any]]


def of_the_fastpath() -> Iterator[Scenario]:
    """One scenario for each kind of program that comes with an interface of its own."""
    for name, prepare, ability, sentence in (
        ("route", routed, "fastpath_route", "Packets of IPv4 and IPv6 take the fast path of a router"),
        ("filter", filtered, "fastpath_filter", "The same where nftables has rules"),
        ("nat", translated, "fastpath_connections", "The same where nftables masquerades"),
        ("bridge", switched, "fastpath_bridge", "Frames take the fast path of a bridge"),
    ):
        yield (
            f"fastpath_{name}",
            f"{sentence}, and the kernel's way again after it.",
            partial(_try, prepare, ability),
        )
    yield "fastpath_again", "A program that is loaded again, without libbpf, is the same.", _load_again


def routed(row: Row) -> list[str]:
    """Both ends know the way to each other; return the far end's addresses."""
    near, far = row.near[0], row.far[0]
    row.source.add_route(f"{far.address_of(row.sink)}/32", near.address_of(row.router))
    row.source.add_route(f"{far.address6_of(row.sink)}/128", near.address6_of(row.router))
    row.sink.add_route(f"{near.address_of(row.source)}/32", far.address_of(row.router))
    row.sink.add_route(f"{near.address6_of(row.source)}/128", far.address6_of(row.router))
    return [far.address_of(row.sink), far.address6_of(row.sink)]


def filtered(row: Row) -> list[str]:
    """The router has rules as well, of which one is for what is sent."""
    accepted = f"udp dport {{ {', '.join(map(str, PORTS))} }} accept"
    row.router.run(["nft", "-f", "-"], given=ruleset([*rules(), accepted], stateful=False))
    return routed(row)


def translated(row: Row) -> list[str]:
    """The far end sees the router's addresses."""
    for family in ("ip", "ip6"):
        row.router.run(["nft", "-f", "-"], given=RULES.format(family, row.far[0].interface_of(row.router)))
    return routed(row)


def switched(row: Row) -> list[str]:
    """Both ends are in one network behind a bridge; return the far end's addresses."""
    bridged(row)
    for number, (host, link) in enumerate(((row.source, row.near[0]), (row.sink, row.far[0])), 1):
        near = link.interface_of(host)
        host.ip(*(f"address add {network.format(number)} dev {near} nodad" for network in NETWORKS))
    return [network.format(2).partition("/")[0] for network in NETWORKS]


def _load_again(stage: Stage) -> Found:
    del stage
    done = []
    for name in (ROUTING, BRIDGING, PODS):
        if lacking(name):
            continue
        path = shipped_object(name)
        template = template_of(path, name, {})
        with load(path, feature=name) as first, template.load({}, {}) as again:
            expect(first.programs[name].tag == again.programs[name].tag, f"{name} has become another program")
        done.append(f"{name}, which calls a module" if template.modules else name)
    if not done:
        return {"state": "refused", "said": lacking(ROUTING)}
    return works("; ".join(done))


def _try(prepare: Callable[[Row], list[str]], ability: str, stage: Stage) -> Found:
    del stage
    with Lab("fastpath") as lab:
        row = Row(lab)
        addresses = prepare(row)
        names = row.names(row.router)
        _exchange_all(row, addresses)
        with row.router.inside():
            able = _is_able(ability)
            if not able:
                _expect_refusal(names[0])
            pliant_command("fastpath", "on", "--mode", "native")
            try:
                after, counts = _exchanged(row, addresses, names if able else ())
            finally:
                pliant_command("fastpath", "off")
            left = pinned()
        _exchange_all(row, addresses)
    expect(not left, f"still pinned: {', '.join(left)}")
    return _judged(after, counts) if able else _refused(after, names)


def _exchanged(row: Row, addresses: Sequence[str], names: Sequence[str]) -> tuple[Status, dict[str, int]]:
    """Send until most is accelerated that comes in by some interfaces, or for some time; what was, the last time.

    Conntrack takes datagrams for a connection that goes on when they have gone both ways for two seconds.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = _status()
        _exchange_all(row, addresses)
        after = _status()
        counts = {n: after[n]["accelerated"]["packets"] - before[n]["accelerated"]["packets"] for n in names}
        if min(counts.values(), default=EXCHANGES) >= LEAST_ACCELERATED or time.monotonic() > deadline:
            return after, counts


def _judged(after: Status, counts: dict[str, int]) -> Found:
    for name, count in counts.items():
        state = after[name]["state"]
        expect(state == "accelerated", f"{name} is {state}: {_reasons(after[name])}")
        expect(count >= LEAST_ACCELERATED, f"{count} of {EXCHANGES} packets accelerated: {after[name]}")
    modules = ", ".join(after[next(iter(counts))]["modules"])
    said = " and ".join(map(str, counts.values()))
    return works(f"{modules}: {said} of {EXCHANGES} packets each way")


def _refused(after: Status, names: Sequence[str]) -> Found:
    """The kernel cannot: every interface has to say so."""
    said = set()
    for name in names:
        lacks = [reason["sentence"] for reason in after[name]["reasons"] if reason["code"] == "kernel-lacks"]
        expect(after[name]["state"] == "waiting", f"{name} is {after[name]['state']}")
        expect(bool(lacks), f"{name} does not say what the kernel lacks: {_reasons(after[name])}")
        said.update(lacks)
    return {"state": "refused", "said": "; ".join(sorted(said))}


def _expect_refusal(name: str) -> None:
    """What is asked for by name is refused, not left waiting."""
    try:
        pliant_command("fastpath", "on", "--mode", "native", "--dev", name)
    except Unwilling as refusal:
        expect("this kernel lacks" in str(refusal), f"refused for another reason: {refusal}")
        return
    raise AssertionError(f"{name} was not refused what the kernel cannot")


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
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind((address, PORTS[1]))
        here.bind(("", PORTS[0]))
        here.connect((address, PORTS[1]))
        for number in range(EXCHANGES // 2):
            content = number.to_bytes(4, "big")
            here.send(content)
            received, sender = there.recvfrom(100)
            expect(received == content, f"packet {number} to {address} is not as it was sent")
            there.sendto(content, sender)
            expect(here.recv(100) == content, f"the answer to packet {number} to {address} is another")
