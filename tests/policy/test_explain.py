# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pliant.policy.explain import Connection, Reason, explain
from tests.policy.strategies import policy

NGINX = "/system.slice/nginx.service"
MET = Connection(NGINX, "server", 443, ip_address("10.2.3.4"), 50_000)
V6 = ip_address("fd00:2::4")
MAPPED = ip_address("::ffff:10.2.3.4")


@pytest.mark.parametrize(
    ("match", "changed", "reason"),
    [
        ({}, {}, Reason.WINS),
        ({}, {"cgroup": f"{NGINX}/pool/0"}, Reason.WINS),
        ({}, {"cgroup": "/system.slice"}, Reason.SERVICE),
        ({"service": "/"}, {"cgroup": "/user.slice"}, Reason.WINS),
        ({"service": "nginx@*.service"}, {}, Reason.SERVICE),
        ({"role": "server"}, {}, Reason.WINS),
        ({"role": "server"}, {"role": "client"}, Reason.ROLE),
        ({"role": "any"}, {"role": "client"}, Reason.WINS),
        ({"local_ports": [443]}, {}, Reason.WINS),
        ({"local_ports": ["440-450"]}, {}, Reason.WINS),
        ({"local_ports": [80]}, {}, Reason.LOCAL_PORT),
        ({"remote_ports": [443]}, {}, Reason.REMOTE_PORT),
        ({"remote_ports": [443]}, {"remote_port": 443}, Reason.WINS),
        ({"peers": ["10.2.0.0/16"]}, {}, Reason.WINS),
        ({"peers": ["10.3.0.0/16"]}, {}, Reason.PEER),
        ({"peers": ["10.3.0.0/16", "10.2.3.4/32"]}, {}, Reason.WINS),
        ({"peers": ["10.2.0.0/16"]}, {"peer": MAPPED}, Reason.WINS),
        ({"peers": ["10.2.0.0/16"]}, {"peer": V6}, Reason.PEER),
        ({"peers": ["fd00:2::/32"]}, {"peer": V6}, Reason.WINS),
        ({"peers": ["fd00:2::/32"]}, {}, Reason.PEER),
        ({"peers": ["::/0"]}, {}, Reason.WINS),
        ({"peers": ["::/64"]}, {}, Reason.WINS),
        ({"peers": ["0.0.0.0/0"]}, {"peer": V6}, Reason.PEER),
    ],
)
def test_why_a_policy_applies_or_does_not(
    match: dict[str, Any], changed: dict[str, Any], reason: Reason
) -> None:
    (judged,) = explain([policy("web", **match)], replace(MET, **changed))
    assert judged.reason is reason
    assert judged.won == ({"initial_cwnd": 40} if reason is Reason.WINS else {})
    assert judged.reason.matches is (reason is Reason.WINS)


def test_each_option_is_won_by_the_highest_priority_that_sets_it() -> None:
    policies = [
        policy("low", priority=1, tune={"initial_cwnd": 20, "dscp": 8}),
        policy("middle", priority=2, tune={"initial_cwnd": 30, "pacing_rate": "10Mbit"}),
        policy("high", priority=3, tune={"initial_cwnd": 40, "pacing_rate": "20Mbit"}),
        policy("elsewhere", "other.service", priority=4),
    ]
    judged = explain(policies, MET)
    assert [(j.policy, j.reason, j.won) for j in judged] == [
        ("high", Reason.WINS, {"initial_cwnd": 40, "pacing_rate": 20_000_000}),
        ("low", Reason.PARTLY, {"dscp": 8}),
        ("middle", Reason.OUTRANKED, {}),
        ("elsewhere", Reason.SERVICE, {}),
    ]


def test_a_policys_holdout_is_told_beside_it() -> None:
    (judged,) = explain([policy("web", holdout="5%")], MET)
    assert judged.holdout_ppm == 50_000


def test_every_reason_is_a_sentence_of_its_own() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert all(reason.value for reason in Reason)
