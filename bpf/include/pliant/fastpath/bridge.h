/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Bridging (IEEE 802.1D), for one port of a bridge that does not filter VLANs.
 *
 * No table of stations is kept: the kernel's own forwarding database is looked up, in its memory. What has been found
 * for two stations, both their entries and both ports, is kept for max_age at most; and every frame looks at them
 * again, as they are now. An entry says itself when it has been taken out of the database (it is in no list any more),
 * and where its station is now; a port says its state and flags. So a frame follows any change that the kernel has
 * made. What is kept could only be wrong where an entry's memory has meanwhile been given to something else that looks
 * just like it, for as long as max_age.
 *
 * Nothing is learnt here. A source that the kernel does not know at this port is the kernel's to learn, and a frame of
 * each source and to each destination is the kernel's once a second, so that neither ages.
 */
#ifndef PLIANT_FASTPATH_BRIDGE_H
#define PLIANT_FASTPATH_BRIDGE_H

#include <pliant/fastpath/fdb.h>
#include <pliant/fastpath/metadata.h>

#define CROSSINGS_BITS 13
#define VLAN_HLEN      4
#define PPPOE_SES_HLEN 8

const volatile bool checks_ipv4 = false; /* br_netfilter looks at headers, trims and drops */
const volatile bool checks_ipv6 = false;

/* How frames go from one station to another. */
struct crossing {
	__u64 from;
	__u64 to;
	__u64 in; /* struct net_bridge_port; 0: nothing known */
	__u64 out;
	__u64 source; /* struct net_bridge_fdb_entry; 0 where the port does not learn */
	__u64 target;
	__u32 generation;
	__u32 born; /* jiffies */
	__u16 port;
	__u16 longest; /* frame, in bytes */
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << CROSSINGS_BITS);
	__type(key, __u32);
	__type(value, struct crossing);
} crossings SEC(".maps");

/*
 * Whether it is time for the kernel to see a frame: of a source once in a quarter of what it takes to age, which is
 * nothing where the bridge does not learn at all, and to any destination.
 */
static __always_inline bool is_refreshing(const struct crossing *crossing, const struct net_bridge *bridge, __u32 now)
{
	const struct net_bridge_fdb_entry *source = peek((void *)crossing->source);
	const struct net_bridge_fdb_entry *target = peek((void *)crossing->target);
	__u32 hold = bridge->topology_change ? bridge->forward_delay : bridge->ageing_time;

	if (now - (__u32)target->used >= confirm_every)
		return true;
	if (!crossing->source || !hold)
		return false;
	return now - (__u32)source->updated >= (hold / 4 < confirm_every ? hold / 4 : confirm_every);
}

/* All that br_handle_frame_finish() and br_forward() decide by, as it is now. */
static __always_inline enum reason may_cross(const struct crossing *crossing, __u32 now)
{
	const struct net_bridge_port *in = peek((void *)crossing->in), *out = peek((void *)crossing->out);
	const struct net_bridge *bridge = peek(in->br);
	const struct net_device *device = peek(bridge->dev);
	__u64 from = in->flags, to = out->flags;

	if (bridge->options &
	    (1ull << BROPT_VLAN_ENABLED | 1ull << bpf_core_enum_value(enum net_bridge_opts, BROPT_MST_ENABLED)))
		return NOT_BRIDGED;
	if (in->state != PORT_FORWARDS || out->state != PORT_FORWARDS || out->backup_port)
		return PORT_CLOSED;
	if ((from | to) & PORT_VLAN_TUNNEL || from & PORT_LOCKED || from & to & PORT_ISOLATED ||
	    (crossing->in == crossing->out && !(from & PORT_HAIRPIN)))
		return PORT_CLOSED;
	if (device->flags & IFF_PROMISC)
		return NOT_BRIDGED; /* the bridge itself gets a copy */
	if (!is_at(peek((void *)crossing->target), crossing->to, crossing->out))
		return NO_STATION;
	if (from & PORT_LEARNING &&
	    (!crossing->source || !is_at(peek((void *)crossing->source), crossing->from, crossing->in)))
		return NO_STATION;
	return is_refreshing(crossing, bridge, now) ? CONFIRMING : FORWARDED;
}

/* Look both stations up, keep what was found, and say what it means for a frame. */
static __noinline int find_crossing(struct crossing *crossing, __u32 now)
{
	const struct net_bridge_port *in, *out;
	const struct net_bridge_fdb_entry *target;
	const struct net_device *device;
	__u32 *port, ifindex, longest;

	if (!crossing)
		return NO_STATION;
	crossing->generation = own_generation();
	if (crossing->generation == PAUSED_GENERATION)
		return PAUSED;
	in = peek((void *)crossing->in);
	device = peek(in->dev);
	if (hides_tags(device))
		return UNFINISHED;
	if (bpf_core_field_exists(in->hwdom) && in->hwdom) /* which may have sent the frame on itself */
		return NOT_BRIDGED;
	crossing->target = find_station(in->br, crossing->to);
	if (!crossing->target)
		return NO_STATION;
	target = peek((void *)crossing->target);
	if (target->flags & FDB_LOCAL)
		return NOT_BRIDGED;
	crossing->source = in->flags & PORT_LEARNING ? find_station(in->br, crossing->from) : 0;
	crossing->out = (__u64)target->dst;
	if (!crossing->out)
		return NO_STATION;
	out = peek((void *)crossing->out);
	device = peek(out->dev);
	ifindex = device->ifindex;
	port = bpf_map_lookup_elem(&port_numbers, &ifindex);
	if (!port)
		return NO_PORT;
	crossing->port = *port;
	longest = device->mtu + device->hard_header_len + VLAN_HLEN; /* is_skb_forwardable() */
	crossing->longest = longest < 0xffff ? longest : 0xffff;
	crossing->born = now;
	return may_cross(crossing, now);
}

/* The interface that a frame has come in by. */
static __always_inline const struct net_device *own_device(struct xdp_md *ctx)
{
	const struct xdp_buff *buff = peek(bpf_cast_to_kern_ctx(ctx));

	return ((const struct xdp_rxq_info *)peek(buff->rxq))->dev;
}

/* The bridge port that an interface is; 0 when it is none. */
static __always_inline __u64 port_of(const struct net_device *device)
{
	__u64 port = (__u64)((const struct net_device *)peek(device))->rx_handler_data;

	return (void *)((const struct net_bridge_port *)peek((void *)port))->dev == (void *)device ? port : 0;
}

/* What br_validate_ipv4() asks, and no padding, which it would take off. */
static __always_inline bool is_plain4(const struct ipv4 *ip, void *end, __u32 length)
{
	return (void *)(ip + 1) <= end && ip->version_length == 0x45 && is_checksum_right(ip) &&
	       bpf_ntohs(ip->total_length) + sizeof(struct ethernet) == length;
}

/* What br_validate_ipv6() asks, and no padding. */
static __always_inline bool is_plain6(const struct ipv6 *ip, void *end, __u32 length)
{
	return (void *)(ip + 1) <= end && bpf_ntohl(ip->version_class_label) >> 28 == 6 && ip->next_header &&
	       bpf_ntohs(ip->payload_length) + sizeof(*ip) + sizeof(struct ethernet) == length;
}

/* Neighbour solicitations and advertisements, which a bridge may answer or hold back (BR_NEIGH_SUPPRESS). */
static __always_inline bool is_discovery(const struct ipv6 *ip, void *end)
{
	const __u8 *type = (void *)(ip + 1);

	return ip->next_header == IPPROTO_ICMPV6 && ((void *)(type + 1) > end || *type == 135 || *type == 136);
}

/*
 * Whether a frame of this type is only carried: ARP and neighbour discovery may be answered by the bridge, rings and
 * connectivity faults (MRP, CFM) are its own, and VLAN tags and 802.2 are left to it.
 */
static __always_inline bool is_carried(const struct ethernet *eth, void *end, __u32 length)
{
	const struct ipv6 *ip6 = (void *)(eth + 1);

	switch (eth->type) {
	case bpf_htons(ETH_P_IP):
		return !checks_ipv4 || is_plain4((void *)(eth + 1), end, length);
	case bpf_htons(ETH_P_IPV6):
		if ((void *)(ip6 + 1) > end || is_discovery(ip6, end))
			return false;
		return !checks_ipv6 || is_plain6(ip6, end, length);
	case bpf_htons(ETH_P_ARP):
	case bpf_htons(ETH_P_RARP):
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
	case bpf_htons(ETH_P_MRP):
	case bpf_htons(ETH_P_CFM):
		return false;
	case bpf_htons(ETH_P_PPPOE):
		/* br_netfilter drops what is shorter than PPPoE's header, wherever it is loaded */
		return !checks_ipv4 && !checks_ipv6 && length >= sizeof(*eth) + PPPOE_SES_HLEN;
	}
	return bpf_ntohs(eth->type) >= ETH_P_802_3_MIN;
}

/* Where a pair of stations is kept, or else is to be: of the PLACES it may have the one that is the oldest. */
static __always_inline struct crossing *place(__u64 from, __u64 to, __u64 in, __u32 now)
{
	__u64 mixed = (from * 0x9e3779b97f4a7c15ull ^ in) * 0xbf58476d1ce4e5b9ull + to * 0xff51afd7ed558ccdull;
	__u32 first = (mixed ^ mixed >> 29) * 0x9e3779b97f4a7c15ull >> (64 - CROSSINGS_BITS), oldest_age = 0;
	struct crossing *oldest = NULL;

	for (__u32 i = 0; i < PLACES; i++) {
		__u32 slot = first ^ i;
		struct crossing *crossing = bpf_map_lookup_elem(&crossings, &slot);

		if (!crossing || (crossing->from == from && crossing->to == to && crossing->in == in))
			return crossing;
		if (!oldest || now - crossing->born > oldest_age) {
			oldest = crossing;
			oldest_age = now - crossing->born;
		}
	}
	return oldest;
}

static __always_inline enum reason bridge(struct xdp_md *ctx, struct ethernet *eth, void *end, __u32 length)
{
	__u64 from = station_of(eth->from), to = station_of(eth->to), in;
	const struct net_device *device = own_device(ctx);
	__u32 now = bpf_jiffies64();
	struct crossing *crossing;
	int reason;

	if (has_moved(peek(((const struct net_device *)peek(device))->nd_net.net)))
		return MOVED_AWAY;
	if (eth->to[0] & bpf_htons(0x0100) || eth->from[0] & bpf_htons(0x0100) || !from)
		return NOT_UNICAST;
	if (!is_carried(eth, end, length))
		return NOT_CARRIED;
	if (is_unfinished(ctx))
		return UNFINISHED;
	in = port_of(device);
	crossing = in ? place(from, to, in, now) : NULL;
	if (!crossing)
		return NOT_BRIDGED;
	reason = NO_STATION;
	if (crossing->from == from && crossing->to == to && crossing->in == in && now - crossing->born <= max_age &&
	    crossing->generation == own_generation())
		reason = may_cross(crossing, now);
	if (reason != FORWARDED && reason != CONFIRMING) { /* nothing kept, or not right any more */
		crossing->from = from;
		crossing->to = to;
		crossing->in = in;
		reason = find_crossing(crossing, now);
	}
	if (reason != FORWARDED) {
		if (reason != CONFIRMING)
			crossing->in = 0;
		return reason;
	}
	if (checks_ipv4 || checks_ipv6) /* br_nf_dev_queue_xmit() makes fragments sooner */
		length += VLAN_HLEN;
	if (length > crossing->longest)
		return TOO_BIG;
	return bpf_redirect_map(&ports, crossing->port, XDP_PASS) == XDP_REDIRECT ? FORWARDED : NO_PORT;
}

#endif
