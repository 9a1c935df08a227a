# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from ipaddress import ip_address

from pliant.policy.holdout import hash_connection, is_held_out, threshold

V4, MAPPED = ip_address("10.2.3.4"), ip_address("::ffff:10.2.3.4")
WORD = 2**64 - 1


def test_nobody_is_held_out_of_a_policy_without_a_holdout() -> None:
    assert not any(is_held_out(0, number, number * 977) for number in range(1000))


def test_threshold_is_the_share_of_all_hashes() -> None:
    assert threshold(0) == 0
    assert threshold(500_000) == 2**31
    assert threshold(1_000_000) == 2**32 - 1


def test_a_mapped_peer_is_the_same_as_its_ipv4_address() -> None:
    assert hash_connection(7, V4, 443, 50_000) == hash_connection(7, MAPPED, 443, 50_000)


def test_every_part_of_a_connection_and_the_key_move_the_hash() -> None:
    hashes = {
        hash_connection(key, peer, local, remote)
        for key in (7, 8)
        for peer in (V4, ip_address("10.2.3.5"), ip_address("fd00::1"))
        for local in (443, 444)
        for remote in (443, 444)
    }
    assert len(hashes) == 24
    assert all(0 <= h <= WORD for h in hashes)


def test_a_policy_holds_out_its_share_and_independently_of_another() -> None:
    random_ = random.Random(1)
    hashes = [
        hash_connection(random_.getrandbits(63), V4, 443, random_.randrange(65536)) for _ in range(20_000)
    ]
    one, other = ([is_held_out(300_000, number, h) for h in hashes] for number in (1, 2))
    both = sum(a and b for a, b in zip(one, other, strict=True))
    assert abs(sum(one) - 6000) < 4.5 * (20_000 * 0.3 * 0.7) ** 0.5
    assert abs(both - 1800) < 4.5 * (20_000 * 0.09 * 0.91) ** 0.5
