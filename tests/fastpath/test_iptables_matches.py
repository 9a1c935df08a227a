# SPDX-License-Identifier: Apache-2.0
"""Matches of iptables in the fast path: the kernel is asked first what it makes of each packet, and of the counters."""

from __future__ import annotations

import random

import pytest

from pliant.fastpath.ruleset_walk import walk
from pliant.kernel.nftables_expressions import Other
from pliant.kernel.nftables_rules import read_rules
from pliant.kernel.packet_counts import Counted
from pliant.kernel.xtables_matches import in_words_of_nftables
from tests.fastpath.filtered_way import Way
from tests.fastpath.iptables_rules import RESTORE, add_old_rules, random_iptables
from tests.fastpath.rulesets import a_hop_later, random_packet

RULESETS, PACKETS, ROUNDS = 10, 60, 2


@pytest.mark.parametrize("is_old", [False, True])
def test_random_rules_and_packets(way: Way, is_old: bool) -> None:
    chance = random.Random(f"iptables {is_old}")
    accelerated = 0
    passed: list[bool] = []
    for _ in range(RULESETS):
        way.fastpath.become()
        way.nft("flush ruleset")
        for family, restore in RESTORE.items():
            way.router.run([restore], given=random_iptables(family, chance))
            if is_old:
                add_old_rules(way.router, family, chance)
        packets = {n: random_packet(way.around, chance, n) for n in range(1, PACKETS + 1)}
        rules = read_rules(way.router.netns_path)
        assert not [
            e for c in rules.chains for rule in c.rules for e in rule.expressions if isinstance(e, Other)
        ]
        came = sorted(n for _ in range(ROUNDS) for n in way.through(packets))
        for number, sent in packets.items():
            walked = walk(rules, "forward", a_hop_later(sent))
            if walked.verdict != "unknown" and sent.protocol != 58:
                assert came.count(number) == ROUNDS * (walked.verdict == "accept"), (walked, sent)
        alone = way.rule_sums()
        way.follow(counts=True)
        before = way.counts()
        assert sorted(n for _ in range(ROUNDS) for n in way.through(packets)) == came, rules
        assert way.rule_sums() == {
            name: Counted(2 * one.packets, 2 * one.bytes) for name, one in alone.items()
        }, rules
        after = way.counts()
        accelerated += sum(after[reason] - before[reason] for reason in ("forwarded", "dropped"))
        passed += [n in came for n in packets]
    assert accelerated > RULESETS * PACKETS * ROUNDS / 3
    assert len(passed) / 8 < sum(passed) < len(passed) * 7 / 8


@pytest.mark.parametrize(
    "expression",
    [
        Other("match:tcp", 0, bytes(8)),
        Other("match:tcp", 0, bytes(8) + b"\5" + bytes(7)),  # asks for an option
        Other("match:udp", 1, bytes(16)),
        Other("match:multiport", 1, b"\3\1" + bytes(46)),  # no end that there is
        Other("match:multiport", 1, b"\1\20" + bytes(46)),  # more ports than there is room for
        Other("match:multiport", 1, b"\1\1" + bytes(30) + b"\1" + bytes(15)),  # a range without an end
        Other("match:multiport", 1, bytes(47)),
        Other("match:iprange", 1, bytes(64)),
        Other("match:mark", 1, bytes(8)),
        Other("match:conntrack", 3, bytes(151)),
        Other("match:conntrack", 1, bytes(160)),
        Other("match:set", 4, bytes(64)),
        Other("limit"),
    ],
)
def test_what_is_not_understood_stays_what_it_is(expression: Other) -> None:
    assert in_words_of_nftables(expression, "ip") == (expression,)
