# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from pliant.policy.candidates import Candidates
from pliant.policy.explain import Connection, explain
from tests.policy.strategies import policy

SERVICES = ("web.service", "*.service", "/", "/system.slice/web.service", "other.service")
CGROUPS = ("/system.slice/web.service", "/system.slice/web.service/pool", "/user.slice")
POOLS = (ip_network("10.2.0.0/16"), ip_network("fd00:2::/32"), ip_network("::/0"), ip_network("0.0.0.0/0"))


def test_candidates_are_judged_as_all_policies_are() -> None:
    """Random policies and connections: what matches is among the candidates, in the order given."""
    random_ = random.Random(3)
    policies = []
    for number in range(300):
        pool = random_.choice(POOLS)
        bits = random_.randint(pool.prefixlen, min(pool.prefixlen + 20, pool.max_prefixlen))
        address = int(pool.network_address) + (random_.randrange(4) << (pool.max_prefixlen - max(bits, 1)))
        made = ip_network((address % 2**pool.max_prefixlen, bits), strict=False)
        if made.version == 6 and made.network_address.ipv4_mapped:  # a policy writes that as IPv4
            continue
        match: dict[str, Any] = {"peers": [str(made)]} if random_.random() < 0.8 else {}
        policies.append(
            policy(
                f"p{number}",
                random_.choice(SERVICES),
                priority=number,
                role=random_.choice(["server", "client", "any"]),
                **match,
            )
        )
    found = Candidates(policies)
    matched = 0
    for _ in range(300):
        low = random_.choice([random_.randrange(1 << 16), random_.randrange(1 << 10)])
        peers: list[IPv4Address | IPv6Address] = [
            IPv4Address((10 << 24) + (2 << 16) + low),
            IPv6Address(0xFFFF << 32 | (10 << 24) + (2 << 16) + low),
            IPv6Address((0xFD000002 << 96) + (random_.randrange(4) << 92)),
        ]
        peer = random_.choice(peers)
        connection = Connection(
            random_.choice(CGROUPS), random_.choice(["server", "client"]), 443, peer, 50_000
        )
        everything = [j for j in explain(policies, connection) if j.reason.matches]
        candidates = found.of(connection)
        assert [j for j in explain(candidates, connection) if j.reason.matches] == everything
        assert [p.name for p in candidates] == [p.name for p in policies if p in candidates]
        matched += len(everything)
    assert matched > 1000
