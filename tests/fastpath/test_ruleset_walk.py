# SPDX-License-Identifier: Apache-2.0
"""The interpreter against the kernel alone: random rulesets, random packets through a router, what comes out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pliant.fastpath.ruleset_walk import walk
from tests.fastpath.filtered_way import Way
from tests.fastpath.rulesets import a_hop_later, random_packet, random_ruleset

pytestmark = pytest.mark.root

RULESETS, PACKETS = 12, 40


@pytest.mark.parametrize("seed", range(3))
def test_packets_come_out_where_the_interpreter_says_so(way: Way, seed: int) -> None:
    chance = random.Random(seed)
    said: Counter[str] = Counter()
    for _ in range(RULESETS):
        text = random_ruleset(way.around, chance)
        rules = way.nft(text)
        packets = {number: random_packet(way.around, chance, number) for number in range(1, PACKETS + 1)}
        came = way.through(packets)
        for number, sent in packets.items():
            walked = walk(rules, "forward", a_hop_later(sent))
            said[walked.verdict] += 1
            if walked.verdict != "unknown":
                assert came.count(number) == (walked.verdict == "accept"), (walked, sent, text)
    assert said["accept"] > RULESETS * PACKETS / 10
    assert said["drop"] > RULESETS * PACKETS / 10
