# SPDX-License-Identifier: Apache-2.0
"""Rules in the fast path: random ones with random packets, changes of them while packets flow, and counters."""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter

import pytest

from pliant.fastpath.ruleset_compile import compile_ruleset
from pliant.fastpath.ruleset_rows import decide
from pliant.fastpath.ruleset_walk import walk
from pliant.kernel.nftables_rules import read_rules
from tests.fastpath.filtered_way import Way
from tests.fastpath.rulesets import (
    SOURCES,
    a_hop_later,
    base,
    is_signal,
    packet,
    random_packet,
    random_ruleset,
    view_of,
)

RULESETS, PACKETS = 30, 40


def test_what_comes_out_is_what_the_rules_say_and_most_of_it_is_accelerated(way: Way) -> None:
    chance = random.Random(7)
    said: Counter[str] = Counter()
    accelerated = 0
    for _ in range(RULESETS):
        text = random_ruleset(way.around, chance)
        rules = way.nft(text)
        rows = compile_ruleset(rules)
        way.follow()
        packets = {n: random_packet(way.around, chance, n) for n in range(1, PACKETS + 1)}
        before = way.counts()
        found = [way.through(packets) for _ in range(2)]
        counted = Counter(way.counts())
        counted.subtract(before)
        expected = 0
        for number, sent in packets.items():
            walked = walk(rules, "forward", a_hop_later(sent))
            said[walked.verdict] += 1
            view = view_of(way.around, sent)
            decided = decide(rows, sent.family, view) if view else None
            if decided and decided.verdict == "accept" and not (decided.guarded and is_signal(sent)):
                expected += 2
            if walked.verdict != "unknown":
                came = [numbers.count(number) for numbers in found]
                assert came == [int(walked.verdict == "accept" and sent.protocol != 58)] * 2, (
                    walked,
                    sent,
                    text,
                )
        # The two that end a series are accelerated as well, and one that only confirms may be TCP's SYN.
        assert expected <= counted["forwarded"] + counted["confirming"] <= expected + 3, (counted, text)
        accelerated += counted["forwarded"]
    assert said["accept"] > RULESETS * PACKETS / 10
    assert said["drop"] > RULESETS * PACKETS / 10
    assert accelerated > RULESETS * PACKETS / 5


def test_a_change_is_followed_at_once_and_by_the_kernel_until_it_is_understood(way: Way) -> None:
    """No packet after a change goes by what was before: also not the first, while user space knows nothing of it."""
    sent = {n: packet(way.around, f, n, SOURCES[f][0], "udp", 53) for n, f in ((1, 4), (2, 6))}
    way.nft(base(""))
    way.follow()
    for turn in range(40):
        assert sorted(way.through(sent)) == [1, 2]
        way.nft(base("udp dport 53 drop") if turn % 2 else "add rule inet t f udp dport 53 drop")
        before = way.counts()["changing"]
        assert way.through(sent) == []
        assert way.counts()["changing"] > before
        way.follow()
        assert way.through(sent) == []
        way.nft(base("") if turn % 2 else base("udp dport 1000-2000 drop"))
        assert sorted(way.through(sent)) == [1, 2]
        way.follow()
        before = way.counts()["forwarded"]
        assert sorted(way.through(sent)) == [1, 2]
        assert way.counts()["forwarded"] > before


def test_elements_of_sets_are_followed_as_well(way: Way) -> None:
    sent = {n: packet(way.around, 4, n, source, "tcp", 80) for n, source in enumerate(SOURCES[4], 1)}
    sets = "set s {\n type ipv4_addr; flags interval;\n }\n"
    way.nft(base("ip saddr @s drop").replace(" chain f", sets + " chain f"))
    way.follow()
    assert sorted(way.through(sent)) == [1, 2, 3]
    way.nft("add element inet t s { 198.51.100.0/26 }")
    assert sorted(way.through(sent)) == [2, 3]
    way.follow()
    assert sorted(way.through(sent)) == [2, 3]
    way.nft("delete element inet t s { 198.51.100.0/26 }")
    assert sorted(way.through(sent)) == [1, 2, 3]


def test_a_thousand_prefixes(way: Way) -> None:
    prefixes = ", ".join(f"10.{i // 250}.{i % 250}.0/24" for i in range(1000))
    text = f"set s {{\n type ipv4_addr; flags interval; elements = {{ {prefixes}, 203.0.113.0/25 }}\n }}\n"
    way.nft(base("ip saddr @s drop").replace(" chain f", text + " chain f"))
    way.follow()
    sent = {n: packet(way.around, 4, n, source, "udp", 80) for n, source in enumerate(SOURCES[4], 1)}
    before = way.counts()
    for _ in range(3):
        assert sorted(way.through(sent)) == [1, 2]
    after = way.counts()
    assert after["forwarded"] - before["forwarded"] >= 6
    assert after["refused"] - before["refused"] + after["dropped"] - before["dropped"] == 3
    assert after["dropped"] > before["dropped"]


def test_rules_that_count_have_counted_everything(way: Way) -> None:
    rules = (
        "udp dport 53 counter drop\ntcp dport 22 counter accept\ntcp flags syn counter\nudp dport 80 accept"
    )
    way.nft(base(f"iifname != {way.around.inside} accept\n{rules}\ncounter"))
    way.follow()
    chance = random.Random(3)
    packets = {n: random_packet(way.around, chance, n) for n in range(1, 60)}
    packets = {n: sent for n, sent in packets.items() if sent.transport is not None}
    before = way.counts()
    expected: Counter[int] = Counter()
    read = read_rules(way.router.netns_path)
    for _ in range(3):
        way.through(packets)
        for sent in packets.values():
            walked = walk(read, "forward", a_hop_later(sent))
            expected.update(step.handle for step in walked.steps if step.applied)
    assert way.counts()["forwarded"] > before["forwarded"]
    listed = json.loads(way.router.run(["nft", "-j", "list", "chain", "inet", "t", "f"]).stdout)
    counted = {
        entry["rule"]["handle"]: part["counter"]["packets"]
        for entry in listed["nftables"]
        if "rule" in entry
        for part in entry["rule"]["expr"]
        if "counter" in part
    }
    assert len(counted) == 4
    assert counted == {handle: expected[handle] for handle in counted}


def test_interfaces_are_known_by_name_and_by_wildcard(way: Way) -> None:
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 80)}
    inside, outside = way.around.inside, way.around.outside
    for rule, passes in (
        (f"iifname {inside} drop", False),
        (f"iifname {outside} drop", True),
        (f'oifname "{outside[:3]}*" drop', False),
        (f"iif {inside} oif {outside} accept\ndrop", True),
        (f'iifname {{ "no*", "{inside}" }} accept\ndrop', True),
    ):
        way.nft(base(rule))
        way.follow()
        for _ in range(2):
            assert way.through(sent) == ([1] if passes else []), rule


def test_established_connections_are_accelerated_until_the_rules_say_otherwise(way: Way) -> None:
    """What a connection's first packets may is asked by the kernel, what the others may by the fast path."""
    stateful = "ct state established,related accept\nct state invalid drop\nct state new udp dport 53 accept"
    way.nft(base(stateful, policy="drop"))
    way.follow()
    row = way.fastpath.row
    with row.receiver.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with row.sender.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((way.around.targets[4], 53))
        client.connect((way.around.targets[4], 53))
        for sock in (server, client):
            sock.settimeout(5)

        def exchange() -> None:
            client.send(b"?")
            _, back = server.recvfrom(16)
            server.sendto(b"!", back)
            assert client.recv(16) == b"!"

        deadline = time.monotonic() + 20  # conntrack takes it for a stream after two seconds
        before = way.counts()
        while way.counts()["forwarded"] < before["forwarded"] + 20:
            assert time.monotonic() < deadline, way.counts()
            exchange()
        way.nft(base("ct state established drop\nct state new udp dport 53 accept"))
        client.settimeout(0.2)
        for turn in range(2):
            client.send(b"?")
            with pytest.raises(TimeoutError):
                client.recv(16)
            if not turn:
                way.follow()
                before = way.counts()
        assert way.counts()["refused"] > before["refused"]
