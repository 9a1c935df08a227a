# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath topology`` as people run it, in a router's namespace."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator

import pytest

from pliant.lab import Host, Lab, PrivateMounts

RULESET = "table ip f { chain c { type filter hook forward priority 0; policy drop; }\n}\n"
COUNTING = "table ip f { chain c { type filter hook forward priority 0; udp dport 53 counter accept; }\n}\n"
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
        assert "segmentation offload" in "".join(table)  # it has to be asked for by name
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


@pytest.fixture
def places(mounts: PrivateMounts) -> Iterator[dict[str, str]]:
    state, pins = mounts.state / "fastpath-cli", mounts.bpffs / "fastpath-cli"
    yield dict(os.environ) | {
        "PLIANT_STATE": str(state), "PLIANT_PINS": str(pins), "PLIANT_SOCKET": str(mounts.run / "none.sock")
    }  # fmt: skip
    assert not pins.exists()


def test_on_status_and_off_as_people_type_them(router: Host, places: dict[str, str]) -> None:
    left, right = (link.interface_of(router) for link in router.links)

    def pliant(*arguments: str, status: int | None = 0) -> str:
        done = router.run([*COMMAND[:3], *arguments], env=places, check=False)
        assert status is None or done.returncode == status, done.stderr
        return done.stdout + done.stderr

    pliant("fastpath", "status", status=1)
    assert "the fast path is not on" in pliant("fastpath", "off", status=2)
    assert "attach the fast path" in pliant("fastpath", "on", "--mode", "native", "--dry-run")
    pliant("fastpath", "status", status=1)
    said = pliant("fastpath", "on", "--mode", "native", "--dev", left, "--reason", "trying")
    assert "policy/fastpath created" in said
    assert "no agent runs: this holds for the network as it is configured now" in said
    assert "policy/fastpath configured" in pliant("fastpath", "on", "--dev", right)
    assert "attach" not in pliant("fastpath", "on", "--dev", left, "--dry-run")
    found = {one["interface"]: one for one in json.loads(pliant("fastpath", "status", "-o", "json"))}
    assert {(one["state"], one["mode"]) for one in found.values()} == {("accelerated", "native")}
    assert [
        line.split()[:4] for line in pliant("fastpath", "status").splitlines() if line.startswith(left)
    ] == [[left, "accelerated", "native", "route4"]]
    own = json.loads(pliant("fastpath", "topology", "-o", "json"))["interfaces"]
    assert "xdp-taken" not in {reason["code"] for port in own for reason in port["reasons"]}
    assert f"{left} is accelerated (native): route4" in pliant("doctor", status=None)
    assert "mode=native" in pliant("get")
    assert "packets that come in by" in pliant("describe", "fastpath")
    router.run(["nft", "-f", "-"], given=COUNTING)
    assert "with spec.ruleCounters: combined" in pliant("fastpath", "topology")
    pliant("fastpath", "on", "--dev", left, "--rule-counters", "combined")
    assert "counts packets" not in pliant("fastpath", "topology")
    counted = json.loads(pliant("fastpath", "counters", "--rules", "-o", "json"))
    assert [(one["chain"], one["rule"], one["fastpath"]["packets"]) for one in counted] == [
        ("c", "udp dport 53 counter accept", 0)
    ]
    assert "udp dport 53 counter accept" in pliant("fastpath", "counters", "--rules")
    router.run(["nft", "flush", "ruleset"])
    pliant("repair")
    assert json.loads(pliant("fastpath", "counters", "--rules", "-o", "json")) == []
    assert json.loads(pliant("fastpath", "counters", "-o", "json")) is not None
    assert "policy/fastpath configured" in pliant("fastpath", "off", "--dev", right)
    assert "does not name" in pliant("fastpath", "off", "--dev", right, status=2)
    router.sysctl(f"net.ipv4.conf.{left}.forwarding", "0")
    pliant("fastpath", "status", status=1)
    assert "forwarding is 0" in pliant("fastpath", "status", status=1)
    pliant("repair")
    assert "waiting" in pliant("fastpath", "status", status=1)
    router.sysctl(f"net.ipv4.conf.{left}.forwarding", "1")
    pliant("repair")
    pliant("off")
    pliant("fastpath", "status", status=1)
    pliant("on")
    pliant("fastpath", "status")
    assert "policy/fastpath deleted" in pliant("fastpath", "off")
    assert "no agent" not in pliant("history")
    pliant("audit", "verify")
