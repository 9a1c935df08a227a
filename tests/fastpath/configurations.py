# SPDX-License-Identifier: Apache-2.0
"""Network configurations for property tests: few values of each kind, so that they meet often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from pliant.kernel.rtnetlink_links import ETHERNET, LOOPBACK, PORT_STATES, RAW_IP
from pliant.observe.network import (
    BaseChain,
    BridgeOptions,
    BridgePort,
    Conf4,
    Conf6,
    Facts,
    Interface,
    LegacyTable,
    NetfilterLink,
    Qdisc,
    RouteKinds,
    Rule,
    RuleCount,
    Ruleset,
    Settings,
    TcFilter,
    TcxProgram,
    XdpAttachment,
    XfrmPolicies,
)

unhurried = settings(deadline=None)
"""A loaded machine makes an example slow, not wrong."""

OWN = 1000
"""The id of a program that is ours."""

BRIDGE = 9
NAMES = {1: "lo", 2: "eth0", 3: "eth1", 4: "tun0", 5: "veth0", 6: "guest", BRIDGE: "br0"}
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")

flags = st.booleans()
rarely = st.sampled_from((False,) * 7 + (True,))
mostly = st.sampled_from((True,) * 7 + (False,))
sometimes_empty = st.sampled_from((0, 0, 0, 1, 2))

_CONF4 = Conf4(True, 0, False, False, False, False, True, False, False, False)
_CONF6 = Conf6(True, False, False, False, False)
_PORT = BridgePort("forwarding", True, False, False, False, True, True, True, False, False, False, None)
_BRIDGE = BridgeOptions(False, False, 30000, True, 0, False, False)

conf4s = st.sampled_from(
    [*(replace(_CONF4, rp_filter=n) for n in range(3)), replace(_CONF4, forwarding=False)]
)
conf6s = st.sampled_from(
    [
        *[_CONF6] * 3,
        *(replace(_CONF6, **{name: not getattr(_CONF6, name)}) for name in ("forwarding", "disable_ipv6")),
        replace(_CONF6, force_forwarding=True),
        None,
    ]
)
ports = st.sampled_from(
    [
        *[_PORT] * 4,
        *(replace(_PORT, state=state) for state in PORT_STATES),
        *(replace(_PORT, locked=True), replace(_PORT, vlan_tunnel=True), replace(_PORT, isolated=True)),
        replace(_PORT, backup_port=3),
    ]
)
bridges = st.sampled_from(
    [
        *[_BRIDGE] * 4,
        *(
            replace(_BRIDGE, **{name: True})
            for name in ("vlan_filtering", "stp", "calls_iptables", "calls_ip6tables")
        ),
    ]
)
attachments = st.lists(
    st.builds(
        XdpAttachment, mode=st.sampled_from(("native", "generic")), program_id=st.sampled_from((OWN, OWN, 7))
    ),
    max_size=1,
).map(tuple)


@st.composite
def interfaces(draw: st.DrawFn, index: int) -> Interface:
    """One interface of :data:`NAMES`; the bridge is a bridge, and some of the others are its ports."""
    name = NAMES[index]
    kind: str | None
    mac = f"02:00:00:00:00:{index:02x}"
    common: dict[str, Any] = {
        "is_up": draw(mostly),
        "conf4": draw(conf4s),
        "conf6": draw(conf6s),
        "mac": mac,
    }
    if index == 1:
        return Interface(index, name, media=LOOPBACK, **common)
    if index == BRIDGE:
        return Interface(index, name, "bridge", bridge=draw(bridges), **common)
    if name == "tun0":
        return Interface(index, name, "tun", media=RAW_IP, **{**common, "mac": None})
    if name == "guest":
        mode = draw(st.sampled_from(("bridge", "passthru")))
        kind = draw(st.sampled_from(("macvlan", "ipvlan", "vlan")))
        return Interface(
            index, name, kind, link=2, macvlan_mode=mode if kind == "macvlan" else None, **common
        )
    master = draw(st.sampled_from((None, None, BRIDGE, 77)))
    kind = {None: None, BRIDGE: "bridge", 77: "bond"}[master]
    is_veth = name.startswith("veth")
    return Interface(
        index,
        name,
        "veth" if is_veth else draw(st.sampled_from((None, None, "vxlan"))),
        link_namespace=draw(st.sampled_from((None, 1))) if is_veth else None,
        media=ETHERNET,
        xdp=draw(attachments),
        master=master,
        master_kind=kind,
        port=draw(ports) if kind == "bridge" else None,
        **common,
    )


@st.composite
def base_chains(draw: st.DrawFn) -> BaseChain:
    """A chain at a hook; those of netdev are at an interface."""
    family = draw(st.sampled_from(("ip", "ip6", "inet", "bridge", "arp", "netdev")))
    hook = draw(st.sampled_from(("ingress", "egress") if family == "netdev" else HOOKS))
    return BaseChain(
        family,
        "t",
        draw(st.sampled_from(("a", "b"))),
        hook,
        draw(st.integers(-5, 5)),
        draw(st.sampled_from(("filter", "filter", "nat"))),
        draw(st.sampled_from(("accept", "accept", "drop"))),
        ("eth0",) if family == "netdev" else (),
    )


rule_counts = st.builds(
    RuleCount,
    family=st.sampled_from(("ip", "ip6", "inet", "bridge")),
    table=st.just("t"),
    chain=st.sampled_from(("a", "b", "c")),
    rules=st.integers(1, 3),
    expressions=st.sampled_from((("cmp", "immediate"), ("ct", "cmp"), ("match:conntrack",), ("masq",))),
)
policy_rules = st.builds(
    Rule,
    family=st.sampled_from((4, 6)),
    priority=st.integers(1, 100),
    source=st.sampled_from((None, "192.0.2.0/24")),
    protocol=st.sampled_from((None, None, 6)),
    destination_ports=st.sampled_from((None, None, (80, 90))),
    flow_label=st.sampled_from((None, None, 5)),
    l3mdev=rarely,
    has_others=rarely,
    users=st.sampled_from((None,) * 5 + ((1, 2),)),
)
tables = st.builds(
    LegacyTable,
    family=st.sampled_from((4, 6)),
    name=st.sampled_from(("filter", "nat")),
    rules=st.sampled_from((0, 0, 3)),
    hooks=st.sampled_from((("input", "forward", "output"), ("prerouting", "output"), ("input",))),
    chains_that_drop=st.sampled_from(((), (), ("forward",))),
)


T = TypeVar("T")


def few(of: st.SearchStrategy[T], most: int = 2) -> st.SearchStrategy[tuple[T, ...]]:
    """None, mostly, or a few."""
    return sometimes_empty.flatmap(lambda n: st.lists(of, max_size=min(n, most)).map(tuple))


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """A configuration in which some interfaces are likely to be accelerated."""
    indices = sorted(draw(st.sets(st.sampled_from(sorted(NAMES)), min_size=1)))
    return Facts(
        interfaces=tuple(draw(interfaces(index)) for index in indices),
        rules=draw(few(policy_rules)),
        qdiscs=draw(
            few(
                st.builds(
                    Qdisc,
                    interface=st.sampled_from((2, 3)),
                    kind=st.sampled_from(("mq", "tbf", "clsact")),
                    is_ingress=flags,
                )
            )
        ),
        filters=draw(
            few(
                st.builds(
                    TcFilter,
                    interface=st.sampled_from((2, 3)),
                    direction=st.sampled_from(("ingress", "egress")),
                    kind=st.just("bpf"),
                    program_id=st.sampled_from((None, OWN, 8)),
                )
            )
        ),
        tcx=draw(
            few(
                st.builds(
                    TcxProgram,
                    interface=st.sampled_from((2, 3)),
                    direction=st.sampled_from(("ingress", "egress")),
                    program_id=st.sampled_from((OWN, 8)),
                )
            )
        ),
        settings=draw(
            st.builds(
                Settings,
                rp_filter_all=st.integers(0, 2),
                forwarding6_all=mostly,
                fib_multipath_hash_policy=st.integers(0, 3),
                fib_multipath_hash_policy6=st.integers(0, 3),
                bridge_nf_call_iptables=flags,
                bridge_nf_call_ip6tables=flags,
            )
        ),
        routes=draw(st.builds(RouteKinds, multipath4=flags, multipath6=flags, shares_mtu6=flags)),
        ruleset=Ruleset(1, draw(few(base_chains())), draw(few(rule_counts))),
        legacy=draw(few(tables, 1)),
        netfilter_links=draw(
            few(
                st.builds(
                    NetfilterLink,
                    link_id=st.just(1),
                    family=st.sampled_from((4, 6)),
                    hook=st.sampled_from(HOOKS),
                    priority=st.just(0),
                    program_id=st.just(9),
                ),
                1,
            )
        ),
        xfrm=draw(st.sampled_from((XfrmPolicies(),) * 6 + (XfrmPolicies(forwarded=1),))),
        ipvs_services=draw(st.sampled_from((0,) * 6 + (1,))),
    )
