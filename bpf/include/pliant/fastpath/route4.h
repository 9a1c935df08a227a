/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv4 routing (RFC 1812): every check that ip_rcv(), the input route and ip_forward() make, or the packet is theirs.
 */
#ifndef PLIANT_FASTPATH_ROUTE4_H
#define PLIANT_FASTPATH_ROUTE4_H

#include <pliant/fastpath/way.h>

#define AF_INET 2

#define FLOWS4_BITS 14

const volatile bool forwards_ipv4 = false;
const volatile bool ports_decide4 = false;  /* some rule, or the choice among several next hops, is about ports */
const volatile bool errors_decide4 = false; /* ICMP errors take the way of what they quote (several next hops) */
const volatile __u16 route_mtu4 = 0xffff;   /* see begin() */

#define RP_FILTER 7 /* IPV4_DEVCONF_RP_FILTER less one */

struct flow4 {
	__be32 from;
	__be32 to;
	struct ports ports;
	__u8 tos;
	__u8 protocol;
	struct way way;
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << FLOWS4_BITS);
	__type(key, __u32);
	__type(value, struct flow4);
} flows4 SEC(".maps");

static __always_inline __u32 slot4(const struct flow4 *flow)
{
	__u64 mixed = ((__u64)flow->from << 32 | flow->to) * 0x9e3779b97f4a7c15ull;

	if (ports_decide4)
		mixed += *(const __u32 *)&flow->ports * 0xff51afd7ed558ccdull;
	return mixed >> (64 - FLOWS4_BITS);
}

static __always_inline bool is_same4(const struct flow4 *left, const struct flow4 *right)
{
	bool is_same = left->from == right->from && left->to == right->to && left->tos == right->tos;

	if (!ports_decide4)
		return is_same;
	return is_same && left->protocol == right->protocol &&
	       *(const __u32 *)&left->ports == *(const __u32 *)&right->ports;
}

/* Special-purpose addresses that are not forwarded, or not before the kernel has looked (RFC 1812 5.3.7, RFC 6890). */
static __always_inline bool is_martian4(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/* RFC 3704: 0 none, 1 strict, 2 loose. Loose is strict on an interface without an address, as in the kernel. */
static __always_inline int reverse_path(struct xdp_md *ctx)
{
	struct ipv4_devconf *all = net_of(ctx)->ipv4.devconf_all;
	struct in_device *own = device_of(ctx)->ip_ptr;
	int of_all, of_own;

	if (!own || !all)
		return 1;
	of_all = all->data[RP_FILTER];
	of_own = own->cnf.data[RP_FILTER];
	if (of_own < of_all)
		of_own = of_all;
	return of_own && !own->ifa_list ? 1 : of_own;
}

/*
 * What fib_validate_source() sees to: the source is not this host's, and, where asked for, it is reached this way. Like
 * there the packet back would have come in where this one leaves.
 */
static __always_inline enum reason look_back4(struct xdp_md *ctx, const struct flow4 *flow, __u32 way_out)
{
	struct bpf_fib_lookup back = {
	    .family = AF_INET,
	    .ifindex = way_out,
	    .tos = flow->tos,
	    .ipv4_src = flow->to,
	    .ipv4_dst = flow->from,
	};

	if (ports_decide4) {
		back.l4_protocol = flow->protocol;
		back.sport = flow->ports.to;
		back.dport = flow->ports.from;
	}
	if (bpf_fib_lookup(ctx, &back, sizeof(back), BPF_FIB_LOOKUP_SKIP_NEIGH))
		return REVERSE_PATH;
	return back.ifindex != own_ifindex && reverse_path(ctx) == 1 ? REVERSE_PATH : FORWARDED;
}

/* Ask the kernel for the way of a flow, and keep the answer. */
static __noinline int find_way4(struct xdp_md *ctx, struct flow4 *flow, __u32 routes, __u32 now)
{
	struct bpf_fib_lookup found = {.family = AF_INET, .ifindex = own_ifindex};
	__u32 ours = own_generation();
	enum reason reason;
	long result;

	if (!flow)
		return NO_ROUTE;
	if (!ports_decide4 && net_of(ctx)->ipv4.fib_rules_require_fldissect)
		return FRAGMENT; /* a rule about ports that is not known of yet */
	found.tos = flow->tos;
	found.ipv4_src = flow->from;
	found.ipv4_dst = flow->to;
	if (ports_decide4) {
		found.l4_protocol = flow->protocol;
		found.sport = flow->ports.from;
		found.dport = flow->ports.to;
	}
	result = bpf_fib_lookup(ctx, &found, sizeof(found), 0);
	reason = keep(&flow->way, &found, result);
	if (reason == FORWARDED)
		reason = look_back4(ctx, flow, found.ifindex);
	if (reason != FORWARDED)
		return reason;
	return begin(&flow->way, route_mtu4, routes, ours, now);
}

static __always_inline int route4(struct xdp_md *ctx, struct ethernet *eth, void *end, __u32 length)
{
	struct ipv4 *ip = (void *)(eth + 1);
	struct ports *transport = (void *)(ip + 1);
	__u32 now = bpf_jiffies64(), routes, slot, total;
	struct flow4 wanted = {}, *flow;
	int reason, verdict;

	if ((void *)(ip + 1) > end)
		return count(MALFORMED, length, XDP_PASS);
	if (ip->version_length != 0x45)
		return count((ip->version_length & 0xf0) == 0x40 ? OPTIONS : MALFORMED, length, XDP_PASS);
	total = bpf_ntohs(ip->total_length);
	if (total < sizeof(*ip) || total + sizeof(*eth) > length || !is_checksum_right(ip))
		return count(MALFORMED, length, XDP_PASS);
	if (ip->ttl <= 1)
		return count(EXPIRING, length, XDP_PASS);
	if (is_martian4(ip->from) || is_martian4(ip->to))
		return count(MARTIAN, length, XDP_PASS);
	if (errors_decide4 && ip->protocol == IPPROTO_ICMP)
		return count(QUOTING, length, XDP_PASS);
	wanted.from = ip->from;
	wanted.to = ip->to;
	wanted.tos = ip->tos & ~3; /* but for the bits of ECN */
	if (ports_decide4) {
		if (ip->fragment & bpf_htons(IP_IS_PART))
			return count(FRAGMENT, length, XDP_PASS);
		wanted.protocol = ip->protocol;
		if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
			if ((void *)(transport + 1) > end || total < sizeof(*ip) + sizeof(*transport))
				return count(MALFORMED, length, XDP_PASS);
			wanted.ports = *transport;
		} else if (ip->protocol != IPPROTO_ICMP) {
			return count(FRAGMENT, length, XDP_PASS);
		}
	}
	slot = slot4(&wanted);
	flow = bpf_map_lookup_elem(&flows4, &slot);
	if (!flow)
		return count(NO_ROUTE, length, XDP_PASS);
	routes = net_of(ctx)->ipv4.rt_genid.counter;
	if (!is_same4(flow, &wanted) || !holds(&flow->way, routes, now)) {
		flow->from = wanted.from;
		flow->to = wanted.to;
		flow->ports = wanted.ports;
		flow->tos = wanted.tos;
		flow->protocol = wanted.protocol;
		flow->way.ifindex = 0;
		reason = find_way4(ctx, flow, routes, now);
		if (reason != FORWARDED)
			return count(reason, length, XDP_PASS);
	}
	if (total > flow->way.mtu)
		return count(TOO_BIG, length, XDP_PASS);
	verdict = bpf_redirect_map(&ports, flow->way.port, XDP_PASS); /* before anything is rewritten */
	if (verdict != XDP_REDIRECT)
		return count(NO_PORT, length, XDP_PASS);
	if (total + sizeof(*eth) < length) { /* padding, which does not travel on */
		if (bpf_xdp_adjust_tail(ctx, (int)(total + sizeof(*eth) - length)))
			return count(MALFORMED, length, XDP_PASS);
		eth = (void *)(long)ctx->data;
		ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
			return XDP_ABORTED; /* for the verifier: what is left is at least total */
	}
	decrease_ttl(ip);
	readdress(eth, &flow->way);
	return count(FORWARDED, length, verdict);
}

#endif
