# SPDX-License-Identifier: Apache-2.0
"""Which rulesets let everything of established connections pass: rows, as the kernel has them."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator

import pytest

from pliant.fastpath.ruleset_passage import EVERYWHERE, Passage, Prefix, obstruction, prefixes
from pliant.kernel.nftables_rules import read_rules
from pliant.lab import Host, Lab
from pliant.lab.flannel import CLUSTER, Rules, give_rules

WAYS = (("cni0", "cni0"), ("cni0", "flannel.1"), ("flannel.1", "cni0"))
NODE = ipaddress.IPv4Network("10.244.1.0/24")


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    with Lab("passage") as lab:
        yield lab.host("node")


def passing(node: Host) -> Prefix | None:
    """The widest prefix within which a node's rules let all pass."""
    rules = read_rules(node.netns_path)
    for prefix in prefixes(rules, [NODE[1]]):
        if not any(obstruction(rules, Passage(*way, prefix)) for way in WAYS):
            return prefix
    return None


def forward(rules: str, policy: str = "accept") -> str:
    return f"""
    table ip t {{
      set served {{ type inet_service; elements = {{ 80, 443 }}; }}
      chain aside {{ {"tcp dport 22 drop" if "aside" in rules else "accept"}
      }}
      chain f {{
        type filter hook forward priority filter; policy {policy};
        {rules}
      }}
    }}
    """


@pytest.mark.parametrize(
    ("rules", "policy", "wanted"),
    [
        ("", "accept", EVERYWHERE),
        ("", "drop", None),
        ("counter accept", "drop", EVERYWHERE),
        ("tcp dport 80 drop", "accept", None),
        ("tcp dport 80 accept", "accept", EVERYWHERE),
        ("tcp dport @served accept", "drop", None),
        ("ct state established,related accept; tcp dport 80 drop", "accept", EVERYWHERE),
        ("ct state invalid drop", "accept", EVERYWHERE),
        ("ct state new drop", "accept", EVERYWHERE),
        ("ct mark 1 drop", "accept", None),
        ("meta mark 1 drop", "accept", EVERYWHERE),
        ('iifname "eth0" drop', "accept", EVERYWHERE),
        ('iifname "cni0" drop', "accept", None),
        ('oifname "cni*" accept; iifname "cni0" accept', "drop", EVERYWHERE),
        ("ip saddr 10.0.0.0/8 accept", "drop", Prefix("10.0.0.0/8")),
        ("ip saddr 10.0.0.0/8 ip daddr 10.244.0.0/16 accept", "drop", CLUSTER),
        ("ip saddr 10.244.1.9 drop", "accept", None),
        ("ip saddr 192.0.2.0/24 drop; ip daddr 10.244.0.0/16 accept", "drop", CLUSTER),
        ("jump aside", "accept", None),
        ("ip saddr 10.244.0.0/16 accept; goto aside", "drop", CLUSTER),
        ("limit rate 1/second accept", "accept", None),
        ("meta mark set 1", "accept", None),
        ("ip protocol vmap { tcp : accept, udp : drop }", "accept", None),
    ],
)  # fmt: skip
def test_what_may_be_dropped_is_not_taken_for_passing(
    node: Host, rules: str, policy: str, wanted: Prefix | None
) -> None:
    node.run(["nft", "-f", "-"], given="flush ruleset\n" + forward(rules.replace("; ", "\n"), policy))
    assert passing(node) == wanted


@pytest.mark.parametrize("how", ["nftables", "iptables-nft"])
def test_flannels_rules_let_pods_pass(node: Host, how: Rules) -> None:
    if how != "nftables" and shutil.which(how) is None:
        pytest.skip(f"unsupported: {how} is not installed")
    node.run(["nft", "flush", "ruleset"])
    give_rules(node, NODE, how)
    assert passing(node) == EVERYWHERE
    if how != "nftables":
        node.run([how, "-P", "FORWARD", "DROP"])  # as Docker does
        assert passing(node) == CLUSTER


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (["-m conntrack --ctstate INVALID -j DROP"], EVERYWHERE),
        (["-m conntrack --ctstate NEW,RELATED -j DROP"], EVERYWHERE),
        (["-m conntrack ! --ctstate ESTABLISHED -j DROP"], EVERYWHERE),
        (["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-j DROP"], EVERYWHERE),
        (["-m conntrack --ctstate ESTABLISHED -j DROP"], None),
        (["-m conntrack --ctstate INVALID --ctstatus ASSURED -j DROP"], None),
        (["-m conntrack --ctstatus ASSURED -j DROP"], None),
        (["-m state --state INVALID -j DROP"], EVERYWHERE),
        (["-p tcp --dport 80 -j DROP"], None),
        (["-m conntrack --ctstate NEW -j REJECT", "-d 10.96.0.10 -j REJECT"], CLUSTER),
        (["-d 10.244.0.0/16 -j LOG", "-j ACCEPT"], None),
    ],
)  # fmt: skip
def test_rules_of_iptables(node: Host, rules: list[str], wanted: Prefix | None) -> None:
    """As kube-proxy and others have them, before Flannel's."""
    if shutil.which("iptables-nft") is None:
        pytest.skip("unsupported: iptables-nft is not installed")
    node.run(["nft", "flush", "ruleset"])
    for rule in rules:
        node.run(["iptables-nft", "-A", "FORWARD", *rule.split()])
    give_rules(node, NODE, "iptables-nft")
    assert passing(node) == wanted
