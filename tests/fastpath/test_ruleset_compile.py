# SPDX-License-Identifier: Apache-2.0
"""Rows against the interpreter of the rules that they were made from, which is held against the kernel elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pliant.fastpath.ruleset_compile import accepts_something, compile_ruleset, why_left
from pliant.fastpath.ruleset_rows import Begins, Kind, Rows, decide
from pliant.fastpath.ruleset_walk import ESTABLISHED, NEW, walk
from pliant.kernel.nftables_rules import Rules, read_rules
from pliant.lab import Host, Lab
from tests.fastpath.rulesets import (
    Around,
    a_hop_later,
    is_signal,
    packet,
    random_packet,
    random_ruleset,
    view_of,
    with_counters,
)

RULESETS, PACKETS = 60, 60
AROUND = Around("lo", "out0", 1, 7, {4: "192.0.2.9", 6: "2001:db8:ff::9"})

Nft = Callable[[str], Rules]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab("compile") as lab:
        host = lab.host("one")
        host.ip("link add out0 index 7 type veth peer name out1")
        yield host


@pytest.fixture(scope="module")
def nft(host: Host) -> Nft:
    """Give a namespace a ruleset, and read it."""

    def given(text: str) -> Rules:
        host.run(["nft", "-f", "-"], given="flush ruleset\n" + text)
        return read_rules(host.netns_path)

    return given


@pytest.mark.parametrize("connections", [False, True])
def test_rows_say_what_the_rules_say_or_nothing(nft: Nft, connections: bool) -> None:
    chance = random.Random(f"rows {connections}")
    said = dict.fromkeys(("accept", "refuse", "leave"), 0)
    for _ in range(RULESETS):
        text = random_ruleset(AROUND, chance, connections=connections)
        rules = nft(text)
        rows = compile_ruleset(rules)
        for number in range(PACKETS):
            seen = a_hop_later(random_packet(AROUND, chance, number))
            if connections:
                seen = replace(seen, ct_state=ESTABLISHED)
            view = view_of(AROUND, seen)
            if view is None:
                continue
            decided = decide(rows, seen.family, view)
            if decided.guarded and is_signal(seen):
                continue
            said[decided.verdict] += 1
            walked = walk(rules, "forward", seen)
            if decided.verdict == "accept":
                assert walked.verdict == "accept", (walked, seen, text)
                assert accepts_something(rows, seen.family)
            elif decided.verdict == "refuse" and not is_signal(seen):
                assert walked.verdict == "drop", (walked, seen, text)
    whole = sum(said.values())
    assert said["accept"] > whole / 8, said
    assert said["refuse"] > whole / 8, said
    assert said["leave"] < whole / 2, said


def test_rows_count_what_the_rules_count(nft: Nft) -> None:
    chance = random.Random("counters")
    counted = 0
    for _ in range(RULESETS // 2):
        text = with_counters(random_ruleset(AROUND, chance), chance)
        rules = nft(text)
        rows = compile_ruleset(rules, counts=True)
        for number in range(PACKETS):
            seen = a_hop_later(random_packet(AROUND, chance, number))
            view = view_of(AROUND, seen)
            if view is None:
                continue
            decided = decide(rows, seen.family, view)
            walked = walk(rules, "forward", seen)
            if decided.verdict == "leave" or (decided.guarded and is_signal(seen)):
                continue
            counters = [rows.counters[number] for number in decided.counted]
            assert [(c.chain, c.handle) for c in counters] == list(walked.counted), (walked, seen, text)
            counted += len(counters)
    assert counted > RULESETS * PACKETS / 4


MATCHES = (
    (
        "-m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment known -j ACCEPT",
        "DROP",
        "accept",
        "refuse",
    ),
    ("-m conntrack ! --ctstate ESTABLISHED -j DROP", "ACCEPT", "accept", "refuse"),
    ("-m state --state NEW -j ACCEPT", "DROP", "refuse", "accept"),
    ("-m conntrack --ctstate ESTABLISHED --ctorigsrc 10.0.0.1 -j DROP", "ACCEPT", "leave", "leave"),
    ("-m conntrack --ctstate DNAT -j ACCEPT", "DROP", "leave", "leave"),
)


@pytest.mark.parametrize(("rule", "policy", "established", "new"), MATCHES)
def test_matches_of_iptables_that_ask_for_states_of_connections(
    nft: Nft, host: Host, rule: str, policy: str, established: str, new: str
) -> None:
    nft("")
    host.run(["iptables-nft-restore"], given=f"*filter\n:FORWARD {policy} [0:0]\n-A FORWARD {rule}\nCOMMIT\n")
    rows = compile_ruleset(read_rules(host.netns_path), counts=True)
    assert rows.begins(4) & Begins.TRACKED or established == "leave"
    for state, expected in ((ESTABLISHED, established), (NEW, new)):
        seen = replace(packet(AROUND, 4, 1, "198.51.100.1", "udp", 53), ct_state=state)
        assert decide(rows, 4, view_of(AROUND, seen) or b"").verdict == expected


def test_policies_that_count_are_the_kernels_or_counted(nft: Nft, host: Host) -> None:
    """As iptables-restore makes them, also of chains without a rule."""
    nft("")
    host.run(["iptables-nft-restore"], given="*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
    rules = read_rules(host.netns_path)
    rows = compile_ruleset(rules)
    assert verdict(rows, "udp") == "leave"
    assert "FORWARD counts packets by its policy" in str(why_left(rows, 4)[0])
    rows = compile_ruleset(rules, counts=True)
    assert verdict(rows, "udp") == "accept"
    assert {(c.table, c.chain, c.handle) for c in rows.counters} >= {("mangle", "FORWARD", 0)}


def test_translation_by_iptables_is_followed_as_that_by_nft(nft: Nft, host: Host) -> None:
    nft("")
    host.run(
        ["iptables-nft-restore"], given="*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"
    )
    assert compile_ruleset(read_rules(host.netns_path)).begins(4) & Begins.TRACKED


def chain(rules: str, *, policy: str = "accept", sets: str = "") -> str:
    return f"table inet t {{ {sets}\n chain f {{ type filter hook forward priority 0; policy {policy};\n{rules}\n}}\n}}"


def verdict(rows: Rows, kind: str, port: int = 80, family: int = 4, source: str | None = None) -> str:
    sources = {4: "198.51.100.1", 6: "2001:db8::1"}
    view = view_of(AROUND, packet(AROUND, family, 1, source or sources[family], kind, port))
    assert view is not None
    return decide(rows, family, view).verdict


ROWS = (
    # what, rules, sets, (kind, port) with the verdict
    ("a log for UDP leaves TCP alone", "meta l4proto udp log", "", {("udp", 80): "leave", ("tcp", 80): "accept"}),
    ("a counter for a port", "tcp dport 22 counter accept", "", {("tcp", 22): "leave", ("tcp", 80): "accept"}),
    ("a limit", "tcp dport 22 limit rate 5/second accept", "", {("tcp", 22): "leave", ("udp", 22): "accept"}),
    ("a drop", "tcp dport 22 drop", "", {("tcp", 22): "refuse", ("tcp", 80): "accept"}),
    ("a reject", "tcp dport 22 reject", "", {("tcp", 22): "leave", ("tcp", 80): "accept"}),
    ("what changes a packet", "tcp flags syn tcp option maxseg size set 1300", "", {("tcp", 80): "accept"}),
    ("a mark", "udp dport 53 meta mark set 1", "", {("udp", 53): "leave", ("tcp", 53): "accept"}),
    ("the TTL", "ip ttl 5 drop", "", {("udp", 80): "leave"}),
    ("time", 'tcp dport 22 meta hour "10:00"-"12:00" drop', "", {("tcp", 22): "leave", ("udp", 22): "accept"}),
    ("users", "meta skuid 0 drop", "", {("tcp", 22): "leave"}),
    ("a set that packets change", "ip saddr @s drop", "set s { type ipv4_addr; flags dynamic; }",
     {("tcp", 80): "leave"}),
    ("a set whose elements expire", "ip saddr @s drop",
     "set s { type ipv4_addr; flags timeout; elements = { 198.51.100.1 timeout 1h } }", {("tcp", 80): "leave"}),
    ("one without the packet", "ip saddr @s drop",
     "set s { type ipv4_addr; flags timeout; elements = { 198.51.100.2 timeout 1h } }", {("tcp", 80): "accept"}),
    ("elements that expire, and one that packets add", "ip saddr @s drop\ntcp dport 1 update @s { ip saddr }",
     "set s { type ipv4_addr; flags timeout; elements = { 198.51.100.2 timeout 1h } }", {("tcp", 80): "leave"}),
    ("elements that count", "ip saddr @s accept",
     "set s { type ipv4_addr; counter; elements = { 198.51.100.1 } }", {("tcp", 80): "leave"}),
    ("named counters", "tcp dport 22 counter name c", "counter c { }", {("tcp", 22): "leave", ("tcp", 80): "accept"}),
    ("a quota", "udp dport 53 quota over 1 mbytes drop", "", {("udp", 53): "leave", ("tcp", 80): "accept"}),
    ("ports of packets that may have none", "th dport 80 drop", "",
     {("tcp", 80): "refuse", ("udp", 53): "accept", ("icmp", 80): "leave"}),
    ("types of ICMP", "icmp type echo-request drop", "", {("icmp", 5000): "refuse", ("icmp", 80): "accept"}),
    ("what else is in it", "udp length 12 drop", "", {("udp", 80): "leave", ("tcp", 80): "accept"}),
    ("all of an empty set", "ip saddr @s drop\nip saddr != @s tcp dport 22 drop", "set s { type ipv4_addr; }",
     {("tcp", 80): "accept", ("tcp", 22): "refuse"}),
    ("a wildcard of a map", "tcp dport vmap { 22 : accept, * : drop }", "",
     {("tcp", 22): "accept", ("tcp", 80): "refuse", ("udp", 80): "accept"}),
    ("many elements", "ip saddr @s accept\ndrop",
     "set s { type ipv4_addr; flags interval; elements = { " + ", ".join(f"198.51.{i}.0/25" for i in range(0, 200, 2))
     + " } }", {("tcp", 80): "accept"}),
)  # fmt: skip


@pytest.mark.parametrize(("what", "rules", "sets", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_what_is_not_understood_leaves_only_what_comes_to_it(
    nft: Nft, what: str, rules: str, sets: str, expected: dict[tuple[str, int], str]
) -> None:
    rows = compile_ruleset(nft(chain(rules, sets=sets)))
    found = {sent: verdict(rows, *sent) for sent in expected}
    assert found == expected, what
    if "leave" in expected.values():
        assert why_left(rows, 4)
        assert all(left.handle for left in why_left(rows, 4))


def test_nothing_that_filters_is_a_ruleset_of_its_own(nft: Nft) -> None:
    for text in ("", "table inet t {\n chain f { type filter hook forward priority 0; }\n }",
                 "table inet t {\n chain f { type filter hook input priority 0; policy drop; }\n }"):  # fmt: skip
        rows = compile_ruleset(nft(text))
        for family in (4, 6):
            assert rows.begins(family) == Begins.EMPTY
            assert accepts_something(rows, family)


def test_where_nothing_can_be_accepted_it_is_known(nft: Nft) -> None:
    rows = compile_ruleset(nft(chain("counter\nudp dport 53 accept")))
    assert not accepts_something(rows, 4)
    rows = compile_ruleset(nft(chain("ip saddr 10.0.0.0/8 accept", policy="drop")))
    assert (accepts_something(rows, 4), accepts_something(rows, 6)) == (True, False)
    rows = compile_ruleset(
        nft(chain("jump a", policy="drop", sets="chain a {\n ip6 daddr vmap { ::1 : accept }\n }"))
    )
    assert (accepts_something(rows, 4), accepts_something(rows, 6)) == (False, True)


def test_chains_at_other_hooks_are_asked_as_well(nft: Nft) -> None:
    text = """table ip t {
      chain pre { type filter hook prerouting priority -300; tcp dport 22 drop; udp dport 53 ct state new drop; }
      chain post { type filter hook postrouting priority 0; oifname "out0" udp dport 80 drop; }
      chain in { type filter hook input priority 0; drop; }
    }"""
    rows = compile_ruleset(nft(text))
    found = [verdict(rows, *sent) for sent in (("tcp", 22), ("tcp", 80), ("udp", 80), ("udp", 53))]
    assert found == ["refuse", "accept", "refuse", "leave"]
    assert verdict(rows, "tcp", 22, 6) == "accept"


def test_where_addresses_are_translated_only_the_forward_hook_sees_them_as_they_are(nft: Nft) -> None:
    text = """table ip t {
      chain nat { type nat hook postrouting priority 100; masquerade; }
      chain post { type filter hook postrouting priority 150; ip saddr 198.51.100.1 drop; }
      chain f { type filter hook forward priority 0; ip saddr 203.0.113.9 drop; }
    }"""
    rows = compile_ruleset(nft(text))
    assert rows.begins(4) == Begins.TRACKED
    assert verdict(rows, "udp") == "leave"
    assert verdict(rows, "udp", source="203.0.113.9") == "refuse"


def test_chains_of_type_nat_are_no_rules_for_what_is_forwarded(nft: Nft) -> None:
    chain = "table ip t {{\n chain nat {{\n type nat hook postrouting priority 100; {}\n }}\n }}"
    rows = compile_ruleset(nft(chain.format("masquerade")))
    assert (rows.begins(4), rows.begins(6)) == (Begins.EMPTY | Begins.TRACKED, Begins.EMPTY)
    assert verdict(rows, "udp") == "accept"
    for alone in ("", "udp dport 53 drop"):
        assert compile_ruleset(nft(chain.format(alone))).begins(4) == Begins.EMPTY


def test_a_ruleset_that_is_too_large_is_left_to_the_kernel(nft: Nft) -> None:
    rules = "\n".join(f"tcp dport {port} ip saddr 10.0.0.{port % 250} accept" for port in range(1, 1500))
    rows = compile_ruleset(nft(chain(rules)))
    assert not accepts_something(rows, 4)
    assert "larger" in str(rows.left[0])
    assert rows.rows[2].kind is Kind.LEAVE


def test_rules_that_are_the_same_have_the_same_digest(nft: Nft) -> None:
    first, again, other = (compile_ruleset(nft(chain(f"tcp dport {port} drop"))) for port in (22, 22, 23))
    assert first.digest == again.digest != other.digest
    assert first.generation < again.generation
