# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath topology`` as people run it, in a router's namespace."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator

import pytest

from pliant.lab import Host, Lab

RULESET = "table ip f { chain c { type filter hook forward priority 0; policy drop; }\n}\n"
COMMAND = [sys.executable, "-m", "pliant", "fastpath", "topology"]


@pytest.fixture
def router() -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    with Lab("topology") as lab:
        one, router, other = lab.host("one"), lab.host("router"), lab.host("other")
        lab.link(one, router)
        lab.link(router, other)
        router.sysctl("net.ipv4.ip_forward", "1")
        yield router


def test_topology_says_what_can_be_accelerated_and_why_not(router: Host) -> None:
    names = [link.interface_of(router) for link in router.links]
    table = router.run(COMMAND, env=dict(os.environ)).stdout.splitlines()
    for name in names:
        [line] = [line for line in table if line.startswith(f"{name} ")]
        assert "route4" in line.split("route6:")[0]
        assert "net.ipv6.conf.all.forwarding is 0" in line
    router.run(
        ["nft", "-f", "-"],
        given="table ip f { chain c { type filter hook forward priority 0; policy drop; }\n}\n",
    )
    found = json.loads(router.run([*COMMAND, "--dev", names[0], "-o", "json"], env=dict(os.environ)).stdout)
    [port] = found["interfaces"]
    assert (port["name"], port["modules"]) == (names[0], [])
    [reason] = [r for r in port["reasons"] if r["module"] == "route4"]
    assert (reason["code"], reason["look"]) == ("filtered", "nft list chain ip f c")
    assert any(node["label"] == "nft ip f c" for node in found["graph"]["nodes"])
    drawn = router.run([*COMMAND, "-o", "svg"], env=dict(os.environ)).stdout
    assert xml.fromstring(drawn).tag.endswith("svg")
    assert router.run([*COMMAND, "-o", "dot"], env=dict(os.environ)).stdout.startswith("digraph")
    wrong = router.run([*COMMAND, "--dev", "nosuch"], env=dict(os.environ), check=False)
    assert wrong.returncode == 2
    assert "there is no interface nosuch" in wrong.stderr
