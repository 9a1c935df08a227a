/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pod to pod (IPv4, TCP and UDP) on a node whose pods are ports of one bridge and reach other nodes by a tunnel device.
 *
 * What comes from a pod is bridged to another pod, or, when it is for the bridge itself, routed out by the tunnel; what
 * comes by the tunnel is routed to the bridge and bridged to a pod. A packet for a pod goes straight to its end of the
 * veth pair, in its network namespace (bpf_redirect_peer()).
 *
 * As everywhere the kernel is asked for all of it, once a flow, and what it has answered is kept for max_age at most:
 * the bridge's own forwarding database and ports, the FIB, neighbours, conntrack. Nothing is changed in a packet before
 * all has been asked.
 */
#ifndef PLIANT_FASTPATH_OVERLAY_H
#define PLIANT_FASTPATH_OVERLAY_H

#include <linux/pkt_cls.h>

#include <pliant/fastpath/established.h>
#include <pliant/fastpath/fdb.h>
#include <pliant/fastpath/filter.h>
#include <pliant/fastpath/transport.h>

#define AF_INET 2

#define POD_FLOWS_BITS 13

#define RP_FILTER     7 /* IPV4_DEVCONF_RP_FILTER less one */
#define PACKET_HOST   0
#define SMALL	      128 /* bytes of a packet that does no harm when it is overtaken */
#define LATE	      2
#define OVERDUE	      4
#define HEADERS_BYTES 34 /* of Ethernet and IPv4 */

const volatile __u32 bridge_ifindex = 0;     /* of the pods */
const volatile __u32 tunnel_ifindex = 0;     /* to other nodes; 0: none */
const volatile bool from_tunnel = false;     /* the interface is the tunnel, else the bridge port of a pod */
const volatile bool updates_priority = true; /* net.ipv4.ip_forward_update_priority */
const volatile __u16 route_mtu = 0xffff;     /* see begin() */
const volatile __be32 pods_network = 0;	     /* rules are known to let pass what is from and to here */
const volatile __be32 pods_mask = 0;

/* What is asked of a packet's flow. */
struct pod_key {
	__u16 to_station[3];
	__u16 from_station[3];
	struct ends ends;
	__u8 tos;
	__u8 protocol;
	__u16 unused;
};

struct pod_flow {
	struct pod_key key;
	struct way way; /* port: the interface */
	struct tracked tracked;
	__u8 left; /* enum reason: why the flow is the kernel's */
	bool is_routed;
	bool to_pod;
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << POD_FLOWS_BITS);
	__type(key, __u32);
	__type(value, struct pod_flow);
} pod_flows SEC(".maps");

/* What a packet is, once it has been looked at. */
struct parsed {
	struct pod_key key;
	__u32 total;   /* bytes of the IP packet */
	__u32 longest; /* of the packets it will be cut into */
	struct segment segment;
	__u8 ttl;
	__u8 signals; /* of TCP: what makes it more than a segment that goes on with its connection */
};

static __always_inline __u32 slot_of(const struct pod_key *key)
{
	__u64 mixed = ((__u64)key->ends.from << 32 | key->ends.to) * 0x9e3779b97f4a7c15ull;

	mixed += *(const __u32 *)&key->ends.ports * 0xff51afd7ed558ccdull;
	return mixed >> (64 - POD_FLOWS_BITS);
}

static __always_inline bool is_same_key(const struct pod_key *left, const struct pod_key *right)
{
	const __u64 *one = (const void *)left, *other = (const void *)right;
	const __u32 *end = (const void *)(one + 3), *others_end = (const void *)(other + 3);

	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && *end == *others_end;
}

static __always_inline bool is_martian(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/* Look at all that ip_rcv(), br_validate_ipv4() and conntrack look at. */
static __always_inline enum reason parse(struct __sk_buff *ctx, struct parsed *packet)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	struct tcp *tcp = (void *)(ip + 1);
	__u32 header, length, cut = ctx->gso_size;
	enum reason reason;

	if ((void *)(eth + 1) > end || eth->type != bpf_htons(ETH_P_IP) || ctx->vlan_present)
		return NOT_IP;
	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version_length != 0x45)
		return (ip->version_length & 0xf0) == 0x40 ? OPTIONS : MALFORMED;
	packet->total = bpf_ntohs(ip->total_length);
	if (packet->total + sizeof(*eth) != ctx->len || !is_checksum_right(ip))
		return MALFORMED;
	if (is_martian(ip->from) || is_martian(ip->to))
		return MARTIAN;
	if ((ip->from & pods_mask) != pods_network || (ip->to & pods_mask) != pods_network)
		return NO_POD;
	if (ip->fragment & bpf_htons(IP_IS_PART))
		return FRAGMENT;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return NOT_IP;
	length = packet->total - sizeof(*ip);
	reason = look_at_transport(tcp, end, ip->protocol, length, &packet->segment);
	if (reason == SIGNALLING)
		packet->signals = (tcp->flags ^ TCP_ACK) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
	else if (reason != FORWARDED)
		return reason;
	header = ip->protocol == IPPROTO_TCP ? length - packet->segment.bytes : sizeof(struct udp);
	packet->longest = cut ? sizeof(*ip) + header + cut : packet->total;
	packet->ttl = ip->ttl;
	__builtin_memcpy(packet->key.to_station, eth->to, sizeof(eth->to));
	__builtin_memcpy(packet->key.from_station, eth->from, sizeof(eth->from));
	packet->key.ends.ports = tcp->ports;
	packet->key.ends.from = ip->from;
	packet->key.ends.to = ip->to;
	packet->key.tos = ip->tos & ~3; /* but for the bits of ECN */
	packet->key.protocol = ip->protocol;
	packet->key.unused = 0;
	return FORWARDED;
}

/* RFC 3704, as the kernel has it for the interface that a packet is routed from. */
static __always_inline bool is_strict(const struct net_device *device, const struct net *net)
{
	const struct ipv4_devconf *all = peek(net->ipv4.devconf_all);
	const struct in_device *own = peek(((const struct net_device *)peek(device))->ip_ptr);
	int of_all = all->data[RP_FILTER], of_own = own->cnf.data[RP_FILTER];

	if (of_own < of_all)
		of_own = of_all;
	return of_own == 1 || (of_own && !own->ifa_list);
}

/* Ask for the way from one interface to another, and whether the source may have come by the first. */
static __always_inline enum reason route(struct __sk_buff *ctx, struct pod_flow *flow, __u32 in, __u32 out, bool strict)
{
	struct bpf_fib_lookup found = {.family = AF_INET, .ifindex = in}, back = {.family = AF_INET};
	long result;

	found.tos = back.tos = flow->key.tos;
	found.l4_protocol = back.l4_protocol = flow->key.protocol;
	found.ipv4_src = back.ipv4_dst = flow->key.ends.from;
	found.ipv4_dst = back.ipv4_src = flow->key.ends.to;
	found.sport = back.dport = flow->key.ends.ports.from;
	found.dport = back.sport = flow->key.ends.ports.to;
	result = bpf_fib_lookup(ctx, &found, sizeof(found), 0);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return TOO_BIG;
	if (result)
		return result == BPF_FIB_LKUP_RET_NO_NEIGH ? NO_NEIGHBOUR : NO_ROUTE;
	if (found.ifindex != out)
		return NO_PORT;
	flow->way.port = out;
	flow->way.mtu = found.mtu_result;
	__builtin_memcpy(flow->way.next_hop, found.dmac, sizeof(flow->way.next_hop));
	__builtin_memcpy(flow->way.source, found.smac, sizeof(flow->way.source));
	back.ifindex = out;
	result = bpf_fib_lookup(ctx, &back, sizeof(back), BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (result && result != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return REVERSE_PATH;
	return back.ifindex != in && strict ? REVERSE_PATH : FORWARDED;
}

static __always_inline bool is_plain_bridge(const struct net_bridge *bridge)
{
	const struct net_device *device = peek(bridge->dev);

	return device->flags & IFF_UP && !(device->flags & IFF_PROMISC) &&
	       !(bridge->options & 1ull << BROPT_VLAN_ENABLED);
}

/* Whether a bridge knows a station at a port, and needs no frame of it for a while to go on knowing it. */
static __always_inline enum reason is_learnt(const struct net_bridge *bridge, __u64 key, __u64 port, __u64 now)
{
	const struct net_bridge_fdb_entry *entry = peek((void *)find_station(bridge, key));

	if (!is_at(entry, key, port))
		return NO_STATION;
	return now - entry->updated > bridge->ageing_time / 4 && !(entry->flags & FDB_STATIC) ? CONFIRMING : FORWARDED;
}

/* To the pod whose interface has this address; in is the port it comes by, NULL where it is routed. */
static __always_inline enum reason hand_over(struct pod_flow *flow, const struct net_bridge *bridge,
					     const struct net_bridge_port *in, const __u16 *station,
					     const struct net *net)
{
	const struct net_bridge_fdb_entry *entry;
	const struct net_bridge_port *out;
	const struct net_device *peer, *device;
	__u64 key = station_of(station);

	entry = peek((void *)find_station(bridge, key));
	out = peek(entry->dst);
	if (!is_at(entry, key, (__u64)entry->dst) || !entry->dst)
		return NO_STATION;
	if (out->state != PORT_FORWARDS || (void *)out == (void *)in || out->flags & PORT_VLAN_TUNNEL ||
	    out->backup_port || (in && in->flags & out->flags & PORT_ISOLATED))
		return PORT_CLOSED;
	device = peek(out->dev);
	if (!only_sends(device))
		return NO_PORT;
	peer = other_end(device, net);
	if (!peer || !has_address(peer, station))
		return NO_POD;
	flow->way.port = device->ifindex;
	if (flow->way.mtu > device->mtu)
		flow->way.mtu = device->mtu;
	flow->to_pod = true;
	return FORWARDED;
}

/* What has come from a pod: for another one, or for the bridge's own address, to be routed. */
static __always_inline enum reason leave_pod(struct __sk_buff *ctx, struct pod_flow *flow, const struct net *net,
					     __u64 now)
{
	const struct net_device *device = peek(skb_device(ctx));
	const struct net_bridge_port *in = peek(device->rx_handler_data);
	const struct net_bridge *bridge = peek(in->br);
	const struct net_device *own = peek(bridge->dev);
	enum reason reason;

	if ((void *)in->dev != (void *)device || (__u32)own->ifindex != bridge_ifindex || !is_plain_bridge(bridge))
		return NOT_BRIDGED;
	if (in->state != PORT_FORWARDS || in->flags & (PORT_LOCKED | PORT_VLAN_TUNNEL))
		return PORT_CLOSED;
	flow->is_routed = has_address(own, flow->key.to_station);
	flow->way.mtu = 0xffff;
	if (!flow->is_routed)
		reason = hand_over(flow, bridge, in, flow->key.to_station, net);
	else if (tunnel_ifindex && only_receives(own) && only_sends(device_at(net, tunnel_ifindex)))
		reason = route(ctx, flow, bridge_ifindex, tunnel_ifindex, is_strict(own, net));
	else
		reason = NO_PORT;
	if (reason != FORWARDED)
		return reason;
	return is_learnt(bridge, station_of(flow->key.from_station), (__u64)in, now);
}

/* What has come from another node, for a pod. */
static __always_inline enum reason enter_node(struct __sk_buff *ctx, struct pod_flow *flow, const struct net *net)
{
	const struct net_device *device = skb_device(ctx), *own;
	const struct net_bridge *bridge;
	enum reason reason;

	flow->is_routed = true;
	if (!has_address(device, flow->key.to_station))
		return NOT_OURS;
	own = device_at(net, bridge_ifindex);
	if (!own || !only_sends(own))
		return NO_PORT;
	reason = route(ctx, flow, ctx->ifindex, bridge_ifindex, is_strict(device, net));
	if (reason != FORWARDED)
		return reason;
	bridge = private_of(own);
	if ((void *)((const struct net_bridge *)peek(bridge))->dev != (void *)own || !is_plain_bridge(peek(bridge)))
		return NOT_BRIDGED;
	return hand_over(flow, bridge, NULL, flow->way.next_hop, net);
}

/*
 * Whether it is this packet that shows the kernel that a neighbour is in use. What the kernel delivers waits in one
 * more queue, where packets that come later may overtake it: so a small one is chosen, if one comes in time, and sooner
 * one that conntrack may see (follow()): a neighbour that has gone does more harm than a connection kept for too short.
 */
static __always_inline bool shows_neighbour(const struct way *way, __u32 total, __u32 now, bool may_show)
{
	const __u16 *to = way->next_hop;
	__u32 neighbour = ((__u32)to[1] << 16 | to[2]) ^ ((__u32)to[0] << 8) ^ way->port * 0x9e3779b1u;
	__u32 slot = (neighbour * 0x9e3779b1u) >> 22; /* ten bits: NEIGHBOURS */
	__u32 every = confirm_every * (total > SMALL ? OVERDUE : may_show ? 1 : LATE);
	struct seen *seen = bpf_map_lookup_elem(&confirmed, &slot);

	if (!seen || (seen->neighbour == neighbour && now - seen->when < every))
		return false;
	seen->neighbour = neighbour;
	seen->when = now;
	return true;
}

/* Reasons that go by quickly: the next packet but a few may find something else. */
static __always_inline bool is_passing(enum reason reason)
{
	return reason == UNTRACKED || reason == SIGNALLING || reason == NO_STATION || reason == NO_NEIGHBOUR;
}

/* Whether user space has looked at the rules that are in force: it says so by putting theirs in force here. */
static __always_inline bool is_known_ruleset(const struct net *net)
{
	__u32 zero = 0, kernels = ruleset_generation(net);
	struct ruleset_state *state = bpf_map_lookup_elem(&ruleset, &zero);

	return state && (!kernels || state->generation == kernels);
}

/* Ask for all that decides over a flow, and keep the answer, whatever it is. */
static __noinline int ask(struct __sk_buff *ctx, struct pod_flow *flow, __u32 total, __u32 routes)
{
	const struct net *net = skb_device(ctx)->nd_net.net;
	__u64 now = bpf_jiffies64();
	__u32 ours = own_generation();
	bool may_show = true;
	enum reason reason;

	if (!flow)
		return NO_ROUTE;
	if (ours == PAUSED_GENERATION)
		return PAUSED;
	if (follows_ruleset && !is_known_ruleset(net))
		return CHANGING;
	if (((const struct net_device___tc *)peek(skb_device(ctx)))->nf_hooks_ingress)
		return NO_PORT; /* a chain of nftables comes next */
	flow->to_pod = false;
	reason = from_tunnel ? enter_node(ctx, flow, net) : leave_pod(ctx, flow, net, now);
	if (reason == FORWARDED && (flow->is_routed ? tracks_routed : tracks_bridged))
		reason = look_at_connection(ctx, &flow->key.ends, flow->key.protocol, &flow->tracked, &may_show);
	if (reason == FORWARDED && flow->is_routed && shows_neighbour(&flow->way, total, now, may_show))
		reason = CONFIRMING;
	if (reason == CONFIRMING)
		return reason;
	if (flow->way.mtu > route_mtu && flow->is_routed)
		flow->way.mtu = route_mtu;
	flow->left = reason;
	flow->way.routes = routes;
	flow->way.generation = ours;
	flow->way.born = is_passing(reason) ? now - max_age : now;
	flow->way.ifindex = ctx->ifindex;
	return reason;
}

/* As ip_forward() does for the queueing disciplines below the tunnel (rt_tos2priority()). */
static __always_inline __u32 priority_of(__u8 tos)
{
	return 0x4620 >> (tos >> 3 & 3) * 4 & 7;
}

/* One hop less, and on to the next. Nothing has been changed where it fails. */
static __always_inline bool rewrite(struct __sk_buff *ctx, const struct way *way)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct {
		__u16 unused; /* so that addresses are in words of four bytes */
		struct ethernet eth;
		struct ipv4 ip;
	} headers;

	if (data + HEADERS_BYTES > end)
		return false;
	__builtin_memcpy(&headers.eth, data, HEADERS_BYTES);
	decrease_ttl(&headers.ip);
	readdress(&headers.eth, way);
	return !bpf_skb_store_bytes(ctx, 0, &headers.eth, HEADERS_BYTES, 0);
}

/* What becomes of a packet, which has been made ready to leave where its flow is forwarded. */
static __always_inline enum reason overlay(struct __sk_buff *ctx, struct pod_flow **found)
{
	const struct net *net = skb_device(ctx)->nd_net.net;
	__u32 now = bpf_jiffies64(), slot, signals;
	__u32 routes = generation_of(net, net->ipv4.rt_genid.counter);
	struct parsed packet = {};
	struct pod_flow *flow;
	int reason = has_moved(net) ? MOVED_AWAY : parse(ctx, &packet);
	bool is_same;

	if (reason != FORWARDED)
		return reason;
	if (ctx->mark)
		return NO_ROUTE;
	signals = slot_of_ends(&packet.key.ends);
	slot = slot_of(&packet.key);
	flow = bpf_map_lookup_elem(&pod_flows, &slot);
	if (!flow)
		return NO_ROUTE;
	if (packet.signals) {
		signal(signals, packet.signals);
		return SIGNALLING;
	}
	is_same = is_same_key(&flow->key, &packet.key);
	if (!is_same || has_signalled(&flow->tracked, packet.key.protocol) ||
	    !holds(&flow->way, ctx->ifindex, routes, now)) {
		flow->tracked.is_again = is_same && is_again(&flow->tracked, &packet.segment);
		note_signals(&flow->tracked, signals);
		flow->key = packet.key;
		flow->way.ifindex = 0;
		reason = ask(ctx, flow, packet.total, routes);
		if (!flow->tracked.is_again)
			flow->tracked.end = packet.segment.end;
	} else {
		reason = flow->left;
	}
	if (reason != FORWARDED)
		return reason;
	if (packet.longest > flow->way.mtu)
		return TOO_BIG;
	if (flow->is_routed) {
		if (packet.ttl <= 1)
			return EXPIRING;
		if (!rewrite(ctx, &flow->way))
			return MALFORMED;
	}
	note_data(&flow->tracked, &packet.segment);
	*found = flow;
	return FORWARDED;
}

/* Send a packet on; what the program returns. */
static __always_inline int send(struct __sk_buff *ctx, const struct pod_flow *flow)
{
	if (!flow->to_pod) {
		if (updates_priority)
			ctx->priority = priority_of(flow->key.tos);
		return bpf_redirect(flow->way.port, 0);
	}
	if (ctx->pkt_type != PACKET_HOST) /* of the veth that it was sent by; Linux 6.15 sees to it */
		bpf_skb_change_type(ctx, PACKET_HOST);
	return bpf_redirect_peer(flow->way.port, 0);
}

#endif
