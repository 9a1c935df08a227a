# SPDX-License-Identifier: Apache-2.0
"""A cluster's pod network as Flannel builds it with its VXLAN backend, on emulated nodes.

Each node is a lab host with a bridge ``cni0``, a VXLAN device ``flannel.1`` that learns nothing, a static route,
neighbour and forwarding entry for each other node, and Flannel's rules. Each pod is a lab host of its own behind a veth
pair.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from pliant.lab.host import Host
from pliant.lab.network import Lab

CLUSTER = ipaddress.IPv4Network("10.244.0.0/16")
BRIDGE, TUNNEL, POD_INTERFACE = "cni0", "flannel.1", "eth0"
VNI, PORT = 1, 8472
OVERHEAD_BYTES = 50
"""What VXLAN over IPv4 adds to a packet."""

Rules = Literal["nftables", "iptables-nft", "iptables-legacy", "none"]

# What kubelet, kube-proxy and the network plugin set on a node.
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}


@dataclass(slots=True)
class Pod:
    """A pod: its host, its address, and the name of the interface that the node has for it."""

    host: Host
    address: str
    interface: str


@dataclass(slots=True)
class Node:
    """A node: its host, the prefix its pods are in, and the pods."""

    host: Host
    prefix: ipaddress.IPv4Network
    underlay: str
    pods: list[Pod] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        """The address of the bridge, by which pods leave their prefix."""
        return str(self.prefix[1])


class Flannel:
    """Two nodes joined by a link, with pods on each; ends with the lab.

    ``pods`` is how many each node begins with, ``rules`` how Flannel's rules are given to the kernel.
    """

    def __init__(self, lab: Lab, *, pods: Sequence[int] = (2, 1), rules: Rules = "nftables") -> None:
        self._lab = lab
        one, other = lab.host("node1"), lab.host("node2")
        link = lab.link(one, other, offloads=True)
        self.nodes = tuple(
            Node(host, ipaddress.IPv4Network(f"10.244.{number}.0/24"), link.interface_of(host))
            for number, host in enumerate((one, other), 1)
        )
        for node in self.nodes:
            self._make_node(node, link.address_of(node.host), rules)
        for node in self.nodes:
            [peer] = [other for other in self.nodes if other is not node]
            self._meet(node, peer, link.address_of(peer.host))
        for node, count in zip(self.nodes, pods, strict=True):
            for _ in range(count):
                self.add_pod(node)

    def _make_node(self, node: Node, address: str, rules: Rules) -> None:
        host = node.host
        host.ip(
            f"link add {BRIDGE} mtu {1500 - OVERHEAD_BYTES} type bridge",
            f"address add {node.gateway}/{node.prefix.prefixlen} dev {BRIDGE}",
            f"link set {BRIDGE} up",
            f"link add {TUNNEL} type vxlan id {VNI} dev {node.underlay} local {address} dstport {PORT} nolearning",
            f"address add {node.prefix[0]}/32 dev {TUNNEL}",
            f"link set {TUNNEL} up",
        )
        for name, value in SYSCTLS.items():
            with suppress(FileNotFoundError):  # a kernel without br_netfilter
                host.sysctl(name, value)
        give_rules(host, node.prefix, rules)

    def _meet(self, node: Node, peer: Node, address: str) -> None:
        [found] = json.loads(peer.host.run(["ip", "-j", "link", "show", "dev", TUNNEL]).stdout)
        mac = found["address"]
        node.host.ip(
            f"route add {peer.prefix} via {peer.prefix[0]} dev {TUNNEL} onlink",
            f"neigh add {peer.prefix[0]} lladdr {mac} dev {TUNNEL} nud permanent",
        )
        node.host.run(["bridge", "fdb", "append", mac, "dev", TUNNEL, "dst", address, "self", "permanent"])

    def add_pod(self, node: Node) -> Pod:
        """Make a pod on a node."""
        number = len(node.pods) + 2
        name = f"pod{self.nodes.index(node) + 1}-{number}"
        pod = Pod(self._lab.host(name), str(node.prefix[number]), f"veth{number}")
        mtu = 1500 - OVERHEAD_BYTES
        node.host.ip(
            f"link add {pod.interface} mtu {mtu} type veth "
            f"peer name {POD_INTERFACE} mtu {mtu} netns {pod.host.netns_path}",
            f"link set {pod.interface} master {BRIDGE} up",
            f"link set {pod.interface} type bridge_slave hairpin on",
        )
        pod.host.ip(
            f"address add {pod.address}/{node.prefix.prefixlen} dev {POD_INTERFACE}",
            f"link set {POD_INTERFACE} up",
            f"route add {CLUSTER} via {node.gateway}",
            f"route add default via {node.gateway}",
        )
        node.pods.append(pod)
        return pod

    def remove_pod(self, node: Node, pod: Pod) -> None:
        """Take a pod away with all that it runs."""
        node.pods.remove(pod)
        node.host.ip(f"link delete {pod.interface}")
        self._lab.hosts.pop(pod.host.name).close()


def give_rules(host: Host, prefix: ipaddress.IPv4Network, how: Rules) -> None:
    """Give a node Flannel's rules: what may be forwarded, and what is masqueraded on its way out of the cluster."""
    if how == "nftables":
        host.run(["nft", "-f", "-"], given=nft_rules(prefix))
    elif how != "none":
        host.run([f"{how}-restore", "--noflush"], given=iptables_rules(prefix))


def nft_rules(prefix: ipaddress.IPv4Network) -> str:
    """Flannel's rules as those of nftables."""
    return f"""
table ip flannel-ipv4 {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ip saddr {CLUSTER} accept
    ip daddr {CLUSTER} accept
  }}
  chain postrtg {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 == 0x4000 return
    ip saddr {prefix} ip daddr {CLUSTER} return
    ip saddr {CLUSTER} ip daddr {prefix} return
    ip saddr != {CLUSTER} ip daddr {prefix} return
    ip saddr {CLUSTER} ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != {CLUSTER} ip daddr {CLUSTER} masquerade fully-random
  }}
}}
"""


def iptables_rules(prefix: ipaddress.IPv4Network) -> str:
    """Flannel's rules as iptables-restore(8) reads them."""
    comment = '-m comment --comment "flanneld masq"'
    return f"""*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING {comment} -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN
-A FLANNEL-POSTRTG -s {prefix} -d {CLUSTER} {comment} -j RETURN
-A FLANNEL-POSTRTG -s {CLUSTER} -d {prefix} {comment} -j RETURN
-A FLANNEL-POSTRTG ! -s {CLUSTER} -d {prefix} {comment} -j RETURN
-A FLANNEL-POSTRTG -s {CLUSTER} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {CLUSTER} -d {CLUSTER} {comment} -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s {CLUSTER} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {CLUSTER} -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
