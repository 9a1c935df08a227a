# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel tracks and translates, and what keeps the fast path from following it."""

from __future__ import annotations

from collections.abc import Iterator

from pliant.fastpath.modules import Family, Nat, Track
from pliant.fastpath.reasons import Reason
from pliant.observe.network import Facts

_IP_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_LIBERAL = (
    ("tcp_be_liberal", "net.netfilter.nf_conntrack_tcp_be_liberal"),
    ("tcp_ignore_invalid_rst", "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst"),
)
TRACKERS = frozenset({"ct", "nat", "masq", "redir", "connlimit", "synproxy", "flow_offload"}) | {
    f"match:{name}"
    for name in (
        "conntrack", "state", "connmark", "connbytes", "connlimit", "connlabel", "helper", "cluster"
    )
} | {
    f"target:{name}"
    for name in (
        "CONNMARK", "CONNSECMARK", "CT", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP", "SYNPROXY"
    )
}  # fmt: skip
"""Expressions of rules that have the kernel track connections."""
_UNFOLLOWED = frozenset(
    {"notrack", "synproxy", "flow_offload", "target:CT", "target:NOTRACK", "target:SYNPROXY"}
)
"""What has packets tracked in another way than the fast path takes for granted."""


def why_tracked(facts: Facts, families: tuple[str, ...], module: str) -> Iterator[Reason]:
    """What has the kernel track connections, wherever packets come in and whatever chain the rules are in.

    A chain of type nat does not, as long as it has no rule that translates.
    """
    for rules in facts.ruleset.rules:
        used = TRACKERS.intersection(rules.expressions)
        if rules.family in families and used:
            place = f"{rules.family} {rules.table} {rules.chain}"
            sentence = f"rules of the chain {place} have the kernel track connections ({min(used)})"
            yield Reason("conntrack", module, sentence, f"nft list chain {place}")
    for held in facts.ruleset.tracking_objects:
        if held.family in families:
            place = f"{held.family} {held.table} {held.name}"
            sentence = f"the object {place} has the kernel track connections ({held.type})"
            yield Reason("conntrack", module, sentence, f"nft list table {held.family} {held.table}")


def tracks(facts: Facts, family: Family) -> bool:
    """Whether the kernel tracks connections of packets of an IP version that it forwards."""
    return any(why_tracked(facts, _IP_FAMILIES[family], ""))


def translates(facts: Facts, family: Family) -> bool:
    """Whether it has NAT, whose rules are asked for the first packet of a connection only."""
    return any(c.type == "nat" and c.family in _IP_FAMILIES[family] for c in facts.ruleset.chains)


def of_tracking(facts: Facts, family: Family, module: str) -> Iterator[Reason]:
    """What the kernel does with packets of connections that the fast path would not do."""
    if not tracks(facts, family):
        return
    if facts.settings.conntrack_acct:
        name = "net.netfilter.nf_conntrack_acct"
        sentence = f"the kernel counts the packets of each connection ({name} is 1)"
        yield Reason("conntrack-accounting", module, sentence, f"sysctl {name}")
    for rules in facts.ruleset.rules:
        used = _UNFOLLOWED.intersection(rules.expressions)
        if rules.family in _IP_FAMILIES[family] and used:
            place = f"{rules.family} {rules.table} {rules.chain}"
            sentence = f"rules of the chain {place} decide how connections are tracked ({min(used)})"
            yield Reason("conntrack", module, sentence, f"nft list chain {place}")


def of_tcp(facts: Facts, family: Family) -> Iterator[Reason]:
    """What keeps TCP from being forwarded sooner where connections are tracked."""
    if not tracks(facts, family):
        return
    for field, name in _LIBERAL:
        if not getattr(facts.settings, f"conntrack_{field}"):
            sentence = f"the kernel checks TCP's windows, for which it has to see every packet: {name} is 0"
            yield Reason("conntrack-windows", f"tcp{family}", sentence, f"sysctl -w {name}=1")


def modules(facts: Facts, family: Family) -> Iterator[Track | Nat]:
    """What an interface that routes needs beside, because of connections."""
    if tracks(facts, family):
        yield Track(family, tcp=not any(of_tcp(facts, family)))
        if translates(facts, family):
            yield Nat(family)
