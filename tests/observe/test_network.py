# SPDX-License-Identifier: Apache-2.0
"""Facts against what ip, bridge and nft say of the same namespace, and the inspector under changes and storms."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pliant.kernel.assembly import load_instructions, return_constant
from pliant.kernel.links import Link, attach_tcx, attach_xdp
from pliant.kernel.rtnetlink import Rtnetlink
from pliant.kernel.syscall import attributes, bpf
from pliant.kernel.uapi import AttachType, Command, ProgramType
from pliant.lab import Host, Lab, Process
from pliant.lab.interface import switch_aggregation
from pliant.observe.network import Facts, Interface, LegacyTable, TrackingObject
from pliant.observe.network_inspector import Inspector
from pliant.observe.network_reader import read_facts


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with two veth pairs, both ends its own, and a bridge."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    with Lab("facts") as lab:
        made = lab.host("router")
        made.ip(
            "link add near type veth peer name far",
            "link add port type veth peer name station",
            "link add br0 type bridge",
            *(f"link set {name} up" for name in ("near", "far", "port", "station", "br0")),
            "link set port master br0",
            "address add 192.0.2.1/24 dev near",
            "address add 2001:db8::1/64 dev near nodad",
        )
        yield made


def told(host: Host, command: str) -> list[dict[str, Any]]:
    found = json.loads(host.run(command.split()).stdout or "[]")
    assert isinstance(found, list)
    return [entry for entry in found if entry]


def run(host: Host, command: str) -> None:
    host.run(command.split())


def interface(facts: Facts, name: str) -> Interface:
    found = facts.interface(name)
    assert found is not None, name
    return found


def nft(host: Host, rules: str) -> None:
    host.run(["nft", "-f", "-"], given=rules)


def test_interfaces_are_as_ip_link_says(host: Host) -> None:
    host.ip(
        "link add tunnel type vxlan id 7 dstport 4789 local 192.0.2.1 remote 192.0.2.9 dev near nolearning",
        "link add guest link near type macvlan mode bridge",
        "link set near mtu 1400 promisc on",
        "link set far down",
        "link set br0 type bridge ageing_time 4200 stp_state 1 nf_call_iptables 1",
    )
    facts = read_facts(host.netns_path)
    listed = told(host, "ip -j -d link show")
    assert [i.name for i in facts.interfaces] == [link["ifname"] for link in listed]
    for link in listed:
        found = facts.interface(link["ifindex"])
        assert found is not None
        kind = link.get("linkinfo", {}).get("info_kind")
        assert (found.name, found.kind, found.mac) == (link["ifname"], kind, link["address"])
        assert (found.mtu, found.qdisc) == (link["mtu"], link["qdisc"])
        assert found.is_up == ("UP" in link["flags"])
        assert found.is_promiscuous == (link["promiscuity"] > 0)
        assert (found.rx_queues, found.tx_queues) == (link["num_rx_queues"], link["num_tx_queues"])
        master = facts.interface(found.master) if found.master else None
        assert (master.name if master else None) == link.get("master")
    bridge, tunnel, guest, near = (interface(facts, name) for name in ("br0", "tunnel", "guest", "near"))
    assert bridge.bridge
    assert tunnel.vxlan
    data = next(link for link in listed if link["ifname"] == "br0")["linkinfo"]["info_data"]
    assert bridge.bridge.vlan_filtering == bool(data["vlan_filtering"])
    assert bridge.bridge.ageing_time == data["ageing_time"] == 4200
    assert bridge.bridge.stp == bool(data["stp_state"]) is True
    assert bridge.bridge.calls_iptables == bool(data["nf_call_iptables"]) is True
    assert bridge.bridge.calls_ip6tables == bool(data["nf_call_ip6tables"]) is False
    assert bridge.bridge.multicast_snooping == bool(data["mcast_snooping"])
    options = tunnel.vxlan
    assert (options.vni, options.port, options.local, options.remote) == (7, 4789, "192.0.2.1", "192.0.2.9")
    assert (options.link, options.learning) == (near.index, False)
    assert (guest.link, guest.macvlan_mode) == (near.index, "bridge")


def test_bridge_ports_and_stations_are_as_bridge_says(host: Host) -> None:
    host.ip("link set port type bridge_slave isolated on hairpin on learning off flood off")
    run(host, "bridge fdb add 02:00:00:00:00:09 dev port master static")
    facts = read_facts(host.netns_path)
    [link] = [link for link in told(host, "bridge -j -d link show") if link["ifname"] == "port"]
    port, bridge = interface(facts, "port"), interface(facts, "br0")
    assert port.port
    said = (link["isolated"], link["hairpin"], link["learning"], link["flood"], link["mcast_flood"])
    found = port.port
    options = (found.isolated, found.hairpin, found.learning, found.unicast_flood, found.multicast_flood)
    assert options == said == (True, True, False, False, True)
    assert found.state == link["state"]
    with Rtnetlink(host.netns_path) as netlink:
        stations = [(s.mac, s.port, s.bridge, s.state) for s in netlink.fdb()]
    assert ("02:00:00:00:00:09", port.index, bridge.index, "noarp") in stations
    assert (bridge.mac, 0) in [(mac, number) for mac, number, _, _ in stations] or bridge.mac == port.mac


def test_settings_of_interfaces_are_as_sysctl_says(host: Host) -> None:
    four = {"forwarding": "1", "rp_filter": "2", "accept_local": "1", "src_valid_mark": "1", "proxy_arp": "1",
            "route_localnet": "1", "send_redirects": "0", "log_martians": "1", "disable_policy": "1",
            "disable_xfrm": "1"}  # fmt: skip
    six = {
        "forwarding": "1",
        "disable_ipv6": "1",
        "proxy_ndp": "1",
        "seg6_enabled": "1",
        "force_forwarding": "1",
    }
    before = interface(read_facts(host.netns_path), "near")
    for name, value in four.items():
        host.sysctl(f"net.ipv4.conf.near.{name}", value)
        after = interface(read_facts(host.netns_path), "near")
        assert int(getattr(after.conf4, name)) == int(value)
        assert getattr(before.conf4, name) != getattr(after.conf4, name)
    for name, value in six.items():
        with contextlib.suppress(FileNotFoundError):  # force_forwarding is of Linux 6.17
            host.sysctl(f"net.ipv6.conf.near.{name}", value)
            after = interface(read_facts(host.netns_path), "near")
            assert (getattr(before.conf6, name), getattr(after.conf6, name)) == (False, True)


def test_rules_and_addresses_are_as_ip_says(host: Host) -> None:
    host.ip(
        "rule add from 198.51.100.0/24 to 203.0.113.0/25 fwmark 0x10/0xff table 100",
        "rule add iif near ipproto tcp dport 80-90 sport 1024 table 101 priority 50",
        "rule add tos 0x10 blackhole priority 60",
        "rule add not from all oif far prohibit priority 70",
        "rule add priority 80 table main suppress_prefixlength 0",
        "rule add priority 90 goto 32766",
        "rule add priority 95 uidrange 5-9 unreachable",
        "address add 192.0.2.5 peer 192.0.2.6/32 dev far",
    )
    run(host, "ip -6 rule add to 2001:db8:7::/48 table 7")
    facts = read_facts(host.netns_path)
    for family, flag in ((4, "-4"), (6, "-6")):
        said = told(host, f"ip -j -N {flag} rule show")
        rules = [rule for rule in facts.rules if rule.family == family]
        assert [rule.priority for rule in rules] == [entry["priority"] for entry in said]
        assert [str(r.table) for r in rules if r.action == "lookup"] == [
            e["table"] for e in said if "table" in e
        ]
    by_priority = {rule.priority: rule for rule in facts.rules if rule.family == 4}
    marked = (
        by_priority[max(p for p in by_priority if p < 50)] if any(0 < p < 50 for p in by_priority) else None
    )
    assert (marked.source, marked.destination) == ("198.51.100.0/24", "203.0.113.0/25") if marked else True
    ports, blackhole, prohibit = by_priority[50], by_priority[60], by_priority[70]
    assert (ports.in_interface, ports.protocol, ports.table) == ("near", 6, 101)
    assert (ports.destination_ports, ports.source_ports) == ((80, 90), (1024, 1024))
    assert blackhole.action == "blackhole"
    assert blackhole.tos == 0x10 or blackhole.dscp == 4
    assert (prohibit.action, prohibit.is_inverted, prohibit.out_interface) == ("prohibit", True, "far")
    assert by_priority[80].suppress_prefix_length == 0
    assert (by_priority[90].action, by_priority[90].goto) == ("goto", 32766)
    assert (by_priority[95].users, by_priority[95].action) == ((5, 9), "unreachable")
    assert not any(rule.has_others for rule in facts.rules)
    [mine] = [rule for rule in facts.rules if rule.mark is not None]
    assert (mine.source, mine.mark, mine.mark_mask, mine.table) == ("198.51.100.0/24", 0x10, 0xFF, 100)
    said_addresses = {
        (entry["ifindex"], a["local"], a["prefixlen"], a.get("address"))
        for entry in told(host, "ip -j address show")
        for a in entry["addr_info"]
    }
    found = {(a.interface, a.address, a.prefix_length, a.peer) for a in facts.addresses}
    assert found == said_addresses


RULESET = """
table inet guard {
  set friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/25 } }
  chain one { type filter hook forward priority 5; policy drop; ct state established counter accept; jump two; }
  chain two { ip saddr @friends accept; tcp dport { 80, 443 } accept; }
  set heavy { type ipv4_addr; flags dynamic; }
  ct helper ftp { type "ftp" protocol tcp; }
  chain three { add @heavy { ip saddr ct count over 5 } drop; }
  chain nothing { type filter hook input priority 0; policy accept; }
}
table netdev early {
  chain drops { type filter hook ingress device "near" priority -5; meta mark 7 drop; }
}
table bridge between {
  chain b { type filter hook forward priority 0; policy accept; counter; }
}
table ip asleep {
  flags dormant
  chain c { type filter hook forward priority 0; policy drop; counter; }
}
"""


def test_ruleset_is_as_nft_says(host: Host) -> None:
    nft(host, RULESET)
    ruleset = read_facts(host.netns_path).ruleset
    said = json.loads(host.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    chains = {
        (c["family"], c["table"], c["name"], c["hook"], c["prio"], c["type"], c["policy"])
        for c in (entry["chain"] for entry in said if "chain" in entry)
        if "hook" in c and c["table"] != "asleep"
    }
    found = {(c.family, c.table, c.name, c.hook, c.priority, c.type, c.policy) for c in ruleset.chains}
    assert found == chains
    assert [c.devices for c in ruleset.chains if c.family == "netdev"] == [("near",)]
    rules = [entry["rule"] for entry in said if "rule" in entry and entry["rule"]["table"] != "asleep"]
    assert sum(r.rules for r in ruleset.rules) == len(rules) == 7
    expressions = {r.chain: set(r.expressions) for r in ruleset.rules}
    assert {"ct", "counter", "immediate"} <= expressions["one"]
    assert "lookup" in expressions["two"]
    assert {"dynset", "connlimit"} <= expressions["three"]
    assert ruleset.tracking_objects == (TrackingObject("inet", "guard", "ftp", "ct helper"),)
    before = ruleset.generation
    nft(host, "add rule inet guard two drop")
    assert read_facts(host.netns_path).ruleset.generation > before


def test_legacy_tables_are_asked_about_only_when_they_are_there(host: Host) -> None:
    assert read_facts(host.netns_path).legacy == ()
    run(host, "iptables-legacy -t filter -L")
    empty = LegacyTable(4, "filter", 0, ("input", "forward", "output"))
    assert read_facts(host.netns_path).legacy == (empty,)
    assert empty.does_nothing
    run(host, "iptables-legacy -P FORWARD DROP")
    run(host, "ip6tables-legacy -t raw -A PREROUTING -s 2001:db8::9 -j DROP")
    four, six = read_facts(host.netns_path).legacy
    assert (four.chains_that_drop, four.rules, four.does_nothing) == (("forward",), 0, False)
    assert (six.family, six.name, six.rules, six.hooks) == (6, "raw", 1, ("prerouting", "output"))


def test_programs_of_others_are_seen(host: Host) -> None:
    with host.inside(), contextlib.ExitStack() as stack:
        near = interface(read_facts(), "near").index
        plain = stack.enter_context(load_instructions(ProgramType.SCHED_CLS, return_constant(0)))
        xdp = stack.enter_context(load_instructions(ProgramType.XDP, return_constant(2), hook=AttachType.XDP))
        accept = return_constant(1)
        hooked = stack.enter_context(
            load_instructions(ProgramType.NETFILTER, accept, hook=AttachType.NETFILTER)
        )
        host.tc(
            "qdisc add dev far clsact",
            "filter add dev far egress matchall action drop" if False else "qdisc show",
        )
        before = read_facts()
        assert (before.tcx, before.netfilter_links) == ((), ())
        link = attach_tcx(plain, near, "egress")
        assert isinstance(link, Link)
        stack.enter_context(link)
        stack.enter_context(attach_xdp(xdp, near))
        attr = attributes("IIIIIIiI", hooked.fileno(), 0, AttachType.NETFILTER, 0, 2, 2, -5, 0)
        stack.enter_context(Link(bpf(Command.LINK_CREATE, attr, "attach by a netfilter link")))
        facts = read_facts()
        assert [(p.interface, p.direction, p.program_id) for p in facts.tcx] == [(near, "egress", plain.id)]
        [attached] = interface(facts, "near").xdp
        assert (attached.mode, attached.program_id) == ("native", xdp.id)
        [hook] = facts.netfilter_links
        assert (hook.family, hook.hook, hook.priority, hook.program_id) == (4, "forward", -5, hooked.id)
    assert [q.kind for q in facts.qdiscs if q.is_ingress] == ["clsact"]


CHANGES = (
    ("link", "ip link set near mtu 1300"),
    ("link", "ip link add other type veth peer name another"),
    ("link", "ip link set station down"),
    ("port", "ip link set port type bridge_slave isolated on"),
    ("port", "ip link set port nomaster"),
    ("address", "ip address add 192.0.2.77/32 dev far"),
    ("rule", "ip rule add from 192.0.2.9 table 9"),
    ("rule6", "ip -6 rule add from 2001:db8::9 table 9"),
    ("routes", "ip route add 10.9.0.0/16 nexthop via 192.0.2.2 nexthop via 192.0.2.3"),
    ("routes6", "ip -6 route add 2001:db8:9::/48 nexthop via 2001:db8::2 nexthop via 2001:db8::3"),
    ("routes gone", "ip route del 10.9.0.0/16"),
    ("MTU of a route", "ip route add 10.8.0.0/16 via 192.0.2.2 mtu 600"),
    ("MTU of a route6", "ip -6 route add 2001:db8:8::/48 via 2001:db8::2 mtu lock 1300"),
    ("MTU by a next hop object", "ip -6 route add 2001:db8:7::/48 nhid 3 mtu 1300"),
    ("no MTU", "ip route del 10.8.0.0/16"),
    ("encapsulation", "ip route add 10.3.0.0/16 encap ip id 1 dst 198.51.100.1 dev near"),
    ("group of next hops", "ip nexthop add id 10 group 1/2"),
    ("forwarding", "sysctl -qw net.ipv4.conf.near.forwarding=1"),
    ("forwarding6", "sysctl -qw net.ipv6.conf.all.forwarding=1"),
    ("no IPv6 there", "sysctl -qw net.ipv6.conf.far.disable_ipv6=1"),
    ("forced forwarding", "sysctl -qw net.ipv6.conf.near.force_forwarding=1"),
    ("reverse path", "sysctl -qw net.ipv4.conf.all.rp_filter=1"),
    ("hash", "sysctl -qw net.ipv4.fib_multipath_hash_policy=1"),
    ("bridge-nf", "sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
    ("qdisc", "tc qdisc add dev near root tbf rate 10mbit burst 10k latency 10ms"),
    ("clsact", "tc qdisc add dev far clsact"),
    ("ruleset", "nft add table inet filter"),
    ("chain", "nft add chain inet filter c { type filter hook forward priority 0; }"),
    ("rule of nft", "nft add rule inet filter c ct state established accept"),
    ("legacy", "iptables-legacy -A FORWARD -s 192.0.2.66 -j DROP"),
    ("ipsec", "ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block"),
    ("gone", "ip link del near"),
)  # fmt: skip


def settle(inspector: Inspector, right: Callable[[Facts], bool], what: str = "") -> None:
    """Let an inspector work, as a loop would, until its facts are right."""
    deadline = time.monotonic() + 10
    while not right(inspector.facts):
        assert time.monotonic() < deadline, f"the facts did not become right: {what}"
        if select.select([inspector], [], [], 0.1)[0]:
            inspector.update()


def test_every_kind_of_change_is_noticed(host: Host) -> None:
    hops = ("192.0.2.2", "192.0.2.3", "2001:db8::2")
    host.ip(*(f"nexthop add id {number} via {hop} dev near" for number, hop in enumerate(hops, 1)))
    with Inspector(host.netns_path) as inspector:
        assert inspector.facts == read_facts(host.netns_path)
        for what, command in CHANGES:
            before = inspector.facts
            run(host, command) if "{" not in command else nft(host, command.removeprefix("nft "))
            now = read_facts(host.netns_path)
            assert now != before, what
            settle(inspector, lambda facts: facts == read_facts(host.netns_path), what)
            assert inspector.counts.overruns == 0


@pytest.mark.parametrize(
    "command",
    [
        "tc qdisc add dev near root tbf rate 10mbit burst 10k latency 10ms",
        "sysctl -qw net.ipv6.conf.near.disable_ipv6=1",
    ],
)
def test_what_is_told_of_something_else_changes_an_interface_too(host: Host, command: str) -> None:
    """The kernel sends no message about the interface, and here nothing is looked at again."""
    with Inspector(host.netns_path, look_again_s=3600, read_all_s=3600) as inspector:
        before = interface(inspector.facts, "near")
        run(host, command)
        now = interface(read_facts(host.netns_path), "near")
        assert (now.qdisc, now.conf6) != (before.qdisc, before.conf6)
        settle(inspector, lambda facts: interface(facts, "near") == now)


def test_whether_an_interface_takes_what_xdp_redirects_is_noticed(host: Host) -> None:
    """Of a veth it depends on the other end."""

    def takes(facts: Facts, name: str) -> bool:
        found = facts.xdp_of(interface(facts, name).index)
        assert found is not None
        return found.takes_redirected

    with Inspector(host.netns_path, look_again_s=3600, read_all_s=3600) as inspector:
        assert [takes(inspector.facts, name) for name in ("near", "far", "br0")] == [False] * 3
        with host.inside():
            switch_aggregation("far", on=True)
        settle(inspector, lambda facts: takes(facts, "near"), "GRO at the other end")
        assert not takes(inspector.facts, "far")
        with (
            host.inside(),
            load_instructions(ProgramType.XDP, return_constant(2), hook=AttachType.XDP) as program,
            attach_xdp(program, interface(inspector.facts, "near").index),
        ):
            settle(inspector, lambda facts: takes(facts, "far"), "a program at the other end")
        settle(inspector, lambda facts: not takes(facts, "far"), "the program has gone")
        assert inspector.facts.xdp_features == read_facts(host.netns_path).xdp_features


def storm(host: Host, changes: int, midway: list[str]) -> Process:
    """Start so many changes of routes, half of them additions, with others midway."""
    prefixes = [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}/32" for i in range(changes // 2)]
    lines = [f"route add {prefix} dev near" for prefix in prefixes]
    lines += midway
    lines += [f"route del {prefix} dev near" for prefix in prefixes]
    batch = host.directory / "storm"
    batch.write_text("\n".join(lines) + "\n")
    return host.spawn(["ip", "-batch", str(batch)])


def test_a_storm_of_routes_leaves_the_facts_right_and_costs_nothing(host: Host) -> None:
    with Inspector(host.netns_path) as inspector:
        running = storm(
            host, 100_000, ["rule add from 192.0.2.9 table 9", "address add 192.0.2.99/32 dev near"]
        )
        while running.poll() is None:
            if select.select([inspector], [], [], 0.05)[0]:
                inspector.update()
        assert running.wait() == 0, running.output
        settle(inspector, lambda facts: facts == read_facts(host.netns_path))
        assert any(rule.table == 9 for rule in inspector.facts.rules)
        assert inspector.counts.overruns == 0
        assert inspector.counts.messages < 100  # the kernel has dropped those about plain routes


def test_lost_messages_lead_to_reading_everything(host: Host) -> None:
    with Inspector(host.netns_path, receive_bytes=8192, hear_all_routes=True) as inspector:
        running = storm(host, 10_000, ["rule add from 192.0.2.9 table 9", "link set near mtu 1300"])
        assert running.wait(60) == 0, running.output  # nobody has listened meanwhile
        inspector.update()
        assert inspector.counts.overruns >= 1
        settle(inspector, lambda facts: facts == read_facts(host.netns_path))
        assert any(rule.table == 9 for rule in inspector.facts.rules)
        assert interface(inspector.facts, "near").mtu == 1300


def test_a_storm_of_what_matters_is_read_far_less_often_than_it_changes(host: Host) -> None:
    changes = 5_000
    lines = [f"address {verb} 10.0.0.1/32 dev near" for _ in range(changes // 2) for verb in ("add", "del")]
    with Inspector(host.netns_path) as inspector:
        batch = host.directory / "addresses"
        batch.write_text("\n".join([*lines, "address add 10.0.0.2/32 dev near"]) + "\n")
        running = host.spawn(["ip", "-batch", str(batch)])
        while running.poll() is None:
            if select.select([inspector], [], [], 0.05)[0]:
                inspector.update()
        assert running.wait() == 0, running.output
        settle(inspector, lambda facts: any(a.address == "10.0.0.2" for a in facts.addresses))
        settle(inspector, lambda facts: facts == read_facts(host.netns_path))
        settle(inspector, lambda facts: inspector.counts.messages >= changes, "messages are missing")
        assert inspector.counts.readings < changes / 20


def test_inspector_leaves_no_descriptor_behind(host: Host) -> None:
    before = set(os.listdir("/proc/self/fd"))
    Inspector(host.netns_path).close()
    assert set(os.listdir("/proc/self/fd")) == before
