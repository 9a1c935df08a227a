# SPDX-License-Identifier: Apache-2.0
"""Rules that count, with a fast path that counts for them: both together have what the kernel alone would have."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Mapping

import pytest

from pliant.agent.daemon.metrics import fastpath_values
from pliant.agent.fastpath import FastpathGround
from pliant.cli.fastpath_counters import rule_texts
from pliant.fastpath.objects import ROUTING, shipped_object
from pliant.fastpath.ruleset_walk import Packet
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.objects import load
from pliant.kernel.packet_counts import Counted
from pliant.kernel.pins import PinDirectory
from pliant.observe.fastpath import read_fastpath
from pliant.observe.rule_counters import (
    COUNTS,
    SLOTS,
    name_slots,
    read_counted,
    read_slot_counts,
    read_slots,
    take_over,
)
from tests.fastpath.filtered_way import Way
from tests.fastpath.rulesets import (
    LAST_PORT,
    SOURCES,
    base,
    packet,
    random_packet,
    random_ruleset,
    with_counters,
)

RULESETS, PACKETS, ROUNDS = 12, 40, 3

Sums = Mapping[tuple[str, str, str, int, int], Counted]


def sums(way: Way) -> Sums:
    """What was counted, by a name that a table which is made anew keeps."""
    return {(c.family, c.table, c.chain, c.handle, c.place): one for c, one in way.rule_sums().items()}


def ours(way: Way) -> Mapping[RuleCounter, int]:
    """Packets that were counted by the fast path, of all rules that it counts for."""
    slots = read_slots(way.fastpath.pins.table(SLOTS))
    counted = read_slot_counts(way.fastpath.pins.table(COUNTS), slots)
    return {counter: counted[slot][0] for slot, counter in slots.items()}


def by_the_kernel(way: Way, text: str, packets: Mapping[int, Packet]) -> tuple[Sums, list[int]]:
    """What the kernel alone counts of the same, and what it lets through."""
    way.fastpath.become()
    way.nft(text)
    came = [number for _ in range(ROUNDS) for number in way.through(packets)]
    return sums(way), sorted(came)


IPTABLES = """
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp --dport 1500 -j ACCEPT
COMMIT
*mangle
:FORWARD ACCEPT [7:700]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD {policy} [5:500]
:USER - [0:0]
:STAGE-1 - [0:0]
:STAGE-2 - [0:0]
-A FORWARD -j USER
-A FORWARD -p udp --dport {last} -m comment --comment "a comment" -j ACCEPT
-A FORWARD -i {inside} ! -o {inside} -j STAGE-1
-A FORWARD -p udp --dport 53 -j ACCEPT
-A FORWARD -p tcp --dport 80 -g STAGE-2
-A FORWARD ! -p tcp -s 198.51.100.77 -j DROP
-A FORWARD -p udp --dport 5000 -j ACCEPT
-A USER -s 203.0.113.0/24
-A USER -j RETURN
-A STAGE-1 -p tcp --dport 22 -j STAGE-2
-A STAGE-1 -p tcp --dport 443 -j DROP
-A STAGE-1 -j RETURN
-A STAGE-2 -s 198.51.100.1 -j DROP
-A STAGE-2 -j RETURN
COMMIT
"""


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_rules_of_iptables(way: Way, policy: str) -> None:
    """Each of them counts, and so do the policies of what iptables-restore has made."""
    text = IPTABLES.format(policy=policy, last=LAST_PORT, inside=way.around.inside)
    chance = random.Random(policy)
    sent = {n: random_packet(way.around, chance, n) for n in range(1, 80)}
    rounds = []
    for counts in (None, True):
        way.nft("flush ruleset")
        way.router.run(["iptables-nft-restore", "-c"], given=text)
        if counts is None:
            way.fastpath.become()
        else:
            way.follow(counts=True)
        before = way.counts() if counts else {}
        came = [number for _ in range(ROUNDS) for number in way.through(sent)]
        rounds.append((sums(way), sorted(came)))
        if counts:
            after = way.counts()
            assert after["forwarded"] > before["forwarded"] + 20
            assert policy == "ACCEPT" or after["dropped"] > before["dropped"]
            counted = ours(way)
            assert sum(counted.values()) > 100
            assert any(counted[c] for c in counted if c.handle == 0), "policies count"
    assert rounds[0] == rounds[1]
    assert max(one.packets for one in rounds[0][0].values()) > 150


def test_random_rules_and_packets(way: Way) -> None:
    chance = random.Random(11)
    counted = dropped = 0
    for _ in range(RULESETS):
        text = with_counters(random_ruleset(way.around, chance), chance)
        packets = {n: random_packet(way.around, chance, n) for n in range(1, PACKETS + 1)}
        expected, came = by_the_kernel(way, text, packets)
        way.nft(text)
        way.follow(counts=True)
        assert sorted(n for _ in range(ROUNDS) for n in way.through(packets)) == came, text
        assert sums(way) == expected, text
        counted += sum(ours(way).values())
        dropped += way.counts().get("dropped", 0)
    assert counted > RULESETS * PACKETS
    assert dropped


def test_counts_go_on_while_other_rules_change_and_end_with_their_rule(way: Way) -> None:
    sent = {n: packet(way.around, f, n, SOURCES[f][0], "udp", 53) for n, f in ((1, 4), (2, 6))}
    way.nft(base("udp dport 53 counter\ncounter"))
    way.follow(counts=True)
    first, last = sorted(sums(way))
    slots = read_slots(way.fastpath.pins.table(SLOTS))
    assert len(slots) == 2

    def send(times: int) -> None:
        for _ in range(times):
            assert sorted(way.through(sent)) == [1, 2]

    send(3)
    way.nft("insert rule inet t f tcp dport 22 counter drop")
    send(1)  # all of it the kernel's, which has other rules now
    way.follow(counts=True)
    send(2)
    assert {sums(way)[name].packets for name in (first, last)} == {12}
    assert slots.items() <= read_slots(way.fastpath.pins.table(SLOTS)).items()
    assert sum(ours(way).values()) > 0
    way.nft(f"delete rule inet t f handle {first[3]}")
    way.follow(counts=True)
    assert first[3] not in {counter.handle for counter in ours(way)}
    [gone] = [slot for slot, counter in slots.items() if counter.handle == first[3]]
    assert read_slot_counts(way.fastpath.pins.table(COUNTS), [gone]) == {gone: (0, 0)}
    way.nft("add rule inet t f udp dport 53 counter")
    way.follow(counts=True)
    assert read_slots(way.fastpath.pins.table(SLOTS))[gone].handle > last[3]  # another rule, from nothing
    send(2)
    found = sums(way)
    assert found[last].packets == 16
    assert found[max(found, key=lambda name: name[3])].packets == 4


def test_a_rule_that_packets_do_not_come_to_for_a_while_keeps_its_count(way: Way) -> None:
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    way.nft(base("jump other").replace(" chain f", " chain other { counter; }\n chain f"))

    def send() -> None:
        way.follow(counts=True)
        for _ in range(4):
            assert way.through(sent) == [1]

    send()
    way.nft("flush chain inet t f")
    send()
    way.nft("add rule inet t f jump other\nadd table inet t { flags dormant; }")
    send()
    way.nft("add table inet t")
    send()
    assert [one.packets for name, one in sums(way).items() if name[2] == "other"] == [12]
    assert sum(ours(way).values()) > 3


def test_a_table_that_is_made_anew_counts_from_nothing(way: Way) -> None:
    """Its rules have the handles that the others had."""
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    for _ in range(3):
        way.nft(base("udp dport 53 counter"))
        way.follow(counts=True)
        for _ in range(4):
            assert way.through(sent) == [1]
        [(_, counted)] = sums(way).items()
        assert counted == Counted(4, 4 * 32)
        assert max(ours(way).values()) >= 3


def test_no_packet_is_lost_to_a_counter_or_counted_by_another_rule_while_rules_change(way: Way) -> None:
    """Rules that count come and go, and tables are swapped, while packets come in."""
    sent = packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)
    frame = way.ethernet[4] + sent.data
    way.nft(base("udp dport 53 counter\nudp dport 54 counter"))
    way.follow(counts=True)
    first, second = sorted(sums(way))
    ended = threading.Event()

    def came_in() -> int:
        """What the sender's device has not dropped, for it is given more than it may take."""
        return sum(n for reason, n in way.counts().items() if reason not in ("not ours", "not ip"))

    def flood() -> None:
        while not ended.is_set():
            way.sender.send(frame)

    before = came_in()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for turn in range(15):
            way.nft(f"insert rule inet t f udp dport {60 + turn} counter drop")
            way.follow(counts=True)
            newest = max(name[3] for name in sums(way))
            way.nft(f"delete rule inet t f handle {newest}")
            assert sums(way)[second].packets == 0
            way.follow(counts=True)
    finally:
        ended.set()
        thread.join()
    deadline = time.monotonic() + 10
    while (number := came_in() - before) != sums(way)[first].packets:
        assert time.monotonic() < deadline, (sums(way), number)
    assert sums(way)[first] == Counted(number, number * 32)
    assert sums(way)[second].packets == 0
    assert sum(ours(way).values()) > number / 10


def test_metrics_have_what_both_have_counted(way: Way) -> None:
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    way.nft(base("udp dport 53 counter"))
    way.follow(counts=True)
    for _ in range(5):
        assert way.through(sent) == [1]
    with way.router.inside():
        found = dict(fastpath_values(FastpathGround(way.fastpath.ground.pins.root)))
        texts = rule_texts()
    [((family, table, chain, handle, place), one)] = sums(way).items()
    names = (family, table, chain, str(handle), str(place))
    for metric, total in (("packets", one.packets), ("bytes", one.bytes)):
        shown = dict(found[f"pliant_fastpath_rule_{metric}_total"])
        assert shown.keys() == {(*names, "kernel"), (*names, "fastpath")}
        assert sum(shown.values()) == total
    assert one.packets == 5
    assert texts[family, table, chain, handle] == "udp dport 53 counter"


def test_more_counters_than_are_kept_with_a_flow_are_the_kernels(way: Way) -> None:
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    for rules, is_fast in ((12, True), (13, False)):
        way.nft(base("counter\n" * rules))
        way.follow(counts=True)
        before = way.counts()
        for _ in range(3):
            assert way.through(sent) == [1]
        after = way.counts()
        assert (after["many counters"] > before["many counters"]) is not is_fast
        assert {one.packets for one in sums(way).values()} == {3}
        assert (sum(ours(way).values()) > 0) is is_fast


def test_where_it_is_not_asked_for_the_kernel_counts_everything_and_nothing_is_left_of_ours(way: Way) -> None:
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    way.nft(base("udp dport 53 counter"))
    for counts in (True, False, True):
        way.follow(counts=counts)
        before = way.counts()["undecided"]
        for _ in range(3):
            assert way.through(sent) == [1]
        assert (way.counts()["undecided"] == before) is counts
        assert bool(ours(way)) is counts
    way.fastpath.become()
    assert not way.fastpath.pins.directory.exists()


def test_counts_of_another_build_are_taken_over_once_however_often_that_is_begun(way: Way) -> None:
    """It may be killed anywhere, also while the other build's tables are removed: the sum stays what it is."""
    way.nft(base("udp dport 53 counter\ncounter"))
    way.follow(counts=True)
    sent = {1: packet(way.around, 4, 1, SOURCES[4][0], "udp", 53)}
    for _ in range(4):
        assert way.through(sent) == [1]
    pins = way.fastpath.pins
    before = read_counted(pins.tables)
    first, last = sorted(before)
    earlier = pins.directory / "earlier"
    PinDirectory(earlier).make()
    with load(shipped_object(ROUTING), feature=ROUTING) as loaded:
        slots, counts = loaded.maps[SLOTS], loaded.maps[COUNTS]
        name_slots(slots, counts, {7: first, 8: first._replace(handle=99)})
        for slot in (7, 8):
            counts.put(struct.pack("=I", slot), struct.pack("=QQ", 5, 500))
        slots.pin(earlier / SLOTS)
        counts.pin(earlier / COUNTS)
        theirs = read_counted(earlier)[first]
    expected = {first: before[first].plus(theirs), last: before[last]}
    assert theirs.packets >= 5
    assert theirs.bytes == 100 * theirs.packets
    assert read_counted(pins.tables, [earlier]) == expected | {first._replace(handle=99): theirs}
    for _ in range(2):
        take_over(earlier, pins.tables)
        assert read_counted(pins.tables) == expected
        assert {
            name: one for name, one in read_counted(pins.tables, [earlier]).items() if name in expected
        } == expected
    (earlier / COUNTS).unlink()
    take_over(earlier, pins.tables)
    assert read_counted(pins.tables, [earlier]) == expected
    assert pins.other_tables() == [earlier]
    PinDirectory(earlier).remove_tree()


def test_tables_of_which_some_are_not_pinned_yet_or_any_more_can_be_read(way: Way) -> None:
    """As a process leaves them that is killed while it makes them, or removes them."""
    way.follow(counts=True)
    pins = way.fastpath.pins
    for pin in sorted(pins.tables.iterdir()):
        hidden = pin.with_name("hidden")
        pin.rename(hidden)
        read_fastpath(pins)
        read_counted(pins.tables)
        hidden.rename(pin)


STATEFUL = """
*filter
:FORWARD DROP [0:0]
:CT - [0:0]
-A FORWARD -j CT
-A FORWARD -p udp --dport 53 -m conntrack --ctstate NEW -j ACCEPT
-A CT -m conntrack --ctstate INVALID -j DROP
-A CT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def test_established_connections_by_rules_of_iptables(way: Way) -> None:
    """What Docker and others write: every datagram of a connection is counted once, by the kernel or here."""
    way.nft("flush ruleset")
    way.router.run(["iptables-nft-restore"], given=STATEFUL)
    way.follow(counts=True)
    row, sent = way.fastpath.row, 0
    with row.receiver.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with row.sender.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((way.around.targets[4], 53))
        client.connect((way.around.targets[4], 53))
        server.settimeout(5)
        client.settimeout(5)
        deadline = time.monotonic() + 20  # conntrack takes it for a stream after two seconds
        before = way.counts()
        while way.counts()["forwarded"] < before["forwarded"] + 20:
            assert time.monotonic() < deadline, way.counts()
            client.send(b"?")
            _, back = server.recvfrom(16)
            server.sendto(b"!", back)
            assert client.recv(16) == b"!"
            sent += 2
    jump, new, invalid, known, policy = (0,) * 5
    for (_, _, chain, handle, _), one in sorted(sums(way).items()):
        assert one.bytes == one.packets * 29
        if (chain, handle) == ("FORWARD", 0):
            policy = one.packets
        elif chain == "FORWARD":
            jump, new = (one.packets, new) if one.packets > 1 else (jump, one.packets)
        elif chain == "CT":
            invalid, known = (invalid, one.packets) if one.packets else (0, known)
    assert (jump, new, invalid, known, policy) == (sent, 1, 0, sent - 1, 0)
    assert sum(ours(way).values()) >= 40
