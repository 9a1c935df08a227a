# SPDX-License-Identifier: Apache-2.0
"""Policies, hosts and connections for property tests: few values of each kind, so that they meet often."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from pliant.features import catalogue
from pliant.policy.explain import Connection
from pliant.policy.model import Policy, policy_model

unhurried = settings(deadline=None)
"""A loaded machine makes an example slow, not wrong."""

CGROUPS = {
    path: number
    for number, path in enumerate(
        (
            "/",
            "/system.slice",
            "/system.slice/nginx.service",
            "/system.slice/nginx.service/pool",
            "/system.slice/nginx.service/pool/0",
            "/system.slice/worker@1.service",
            "/system.slice/worker@2.service",
            "/user.slice",
            "/user.slice/app.scope",
            "/user.slice/nginx.service",
        ),
        start=1,
    )
}
SERVICES = (
    "/",
    "*.service",
    "nginx.service",
    "/system.slice/nginx.service",
    "/system.slice/nginx.service/pool",
    "/system.slice",
    "system.slice",
    "/system.slice/*",
    "worker@*.service",
    "worker@1.service",
    "user.slice",
    "absent.service",
    "absent@*.service",
)
PEERS = (
    "::/0",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.2.0.0/16",
    "10.2.3.0/24",
    "10.2.3.4/32",
    "192.0.2.0/24",
    "::/64",  # all of IPv4 lies in it, as v4-mapped addresses
    "fd00::/8",
    "fd00:2::/32",
    "fd00:2::4/128",
)
ADDRESSES = (
    "10.2.3.4",
    "10.2.3.5",
    "10.9.9.9",
    "192.0.2.1",
    "8.8.8.8",
    "fd00:2::4",
    "fd00:3::1",
    "2001:db8::1",
    "::5",
)
PORTS: tuple[int | str, ...] = (80, 443, "8000-8001")
PORT_NUMBERS = (80, 443, 8000, 8001, 9)
VALUES: dict[str, tuple[Any, ...]] = {
    "initial_cwnd": (20, 40),
    "dscp": (8, 46),
    "pacing_rate": ("10Mbit", "200Mbit"),
    "congestion_control": ("cubic", "reno"),
}


def policy(
    name: str,
    service: str = "nginx.service",
    *,
    role: str = "any",
    peers: Iterable[str] = (),
    local_ports: Iterable[int | str] = (),
    remote_ports: Iterable[int | str] = (),
    tune: dict[str, Any] | None = None,
    priority: int = 100,
    holdout: str = "0%",
    apply_to: str = "new",
) -> Policy:
    """One policy, checked as one from a file is."""
    match: dict[str, Any] = {"service": service, "role": role}
    given = {"peers": peers, "localPorts": local_ports, "remotePorts": remote_ports}
    match |= {field: list(values) for field, values in given.items() if values}
    spec = {
        "match": match,
        "tune": tune or {"initial_cwnd": 40},
        "priority": priority,
        "holdout": holdout,
        "applyTo": apply_to,
    }
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return policy_model(catalogue()).model_validate(document)


def _some(values: Iterable[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(tuple(values)), max_size=most, unique=True)


tunes = st.dictionaries(st.sampled_from(tuple(VALUES)), st.integers(0, 1), min_size=1, max_size=3).map(
    lambda chosen: {option: VALUES[option][index] for option, index in chosen.items()}
)


@st.composite
def policy_sets(
    draw: st.DrawFn,
    *,
    most: int = 6,
    equal_priorities: bool = False,
    holdouts: Iterable[str] = ("0%",),
    reaches: Iterable[str] = ("new",),
    least: int = 0,
) -> list[Policy]:
    """Sets of policies; of priorities that all differ, so that none conflict, unless ``equal_priorities``."""
    count = draw(st.integers(least, most))
    ranks = st.lists(st.integers(0, 2 if equal_priorities else 1000), min_size=count, max_size=count)
    priorities = draw(ranks if equal_priorities else ranks.filter(lambda found: len(set(found)) == count))
    return [
        policy(
            f"p{index}",
            draw(st.sampled_from(SERVICES)),
            role=draw(st.sampled_from(("any", "server", "client"))),
            peers=draw(_some(PEERS)),
            local_ports=draw(_some(PORTS, 2)),
            remote_ports=draw(_some(PORTS, 2)),
            tune=draw(tunes),
            priority=priority,
            holdout=draw(st.sampled_from(tuple(holdouts))),
            apply_to=draw(st.sampled_from(tuple(reaches))),
        )
        for index, priority in enumerate(priorities)
    ]


def _peer(text: str, *, mapped: bool) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    return IPv6Address(f"::ffff:{address}") if mapped and isinstance(address, IPv4Address) else address


connections = st.builds(
    Connection,
    cgroup=st.sampled_from(tuple(CGROUPS)),
    role=st.sampled_from(("server", "client")),
    local_port=st.sampled_from(PORT_NUMBERS),
    peer=st.builds(_peer, st.sampled_from(ADDRESSES), mapped=st.booleans()),
    remote_port=st.sampled_from(PORT_NUMBERS),
)
