/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv4 routing (RFC 1812): every check that ip_rcv(), the input route and ip_forward() make, or the packet is theirs.
 */
#ifndef PLIANT_FASTPATH_ROUTE4_H
#define PLIANT_FASTPATH_ROUTE4_H

#include <pliant/fastpath/track.h>
#include <pliant/fastpath/way.h>

#define AF_INET 2

#define FLOWS4_BITS 14

const volatile bool forwards_ipv4 = false;
const volatile bool ports_decide4 = false;  /* some rule, or the choice among several next hops, is about ports */
const volatile bool errors_decide4 = false; /* ICMP errors take the way of what they quote (several next hops) */
const volatile __u16 route_mtu4 = 0xffff;   /* see begin() */

#define RP_FILTER 7 /* IPV4_DEVCONF_RP_FILTER less one */

/* What tells flows apart, as it comes in. */
struct packet4 {
	__be32 from;
	__be32 to;
	struct ports ports;
	__u8 tos;
	__u8 protocol;
	__u16 unused;
};

struct flow4 {
	struct packet4 packet;
	struct way way;
	struct tracked tracked;
	struct translation translation;
	__be32 from; /* as it goes out, where it is translated */
	__be32 to;
	struct ports ports;
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << FLOWS4_BITS);
	__type(key, __u32);
	__type(value, struct flow4);
} flows4 SEC(".maps");

static __always_inline __u32 slot4(const struct packet4 *packet)
{
	__u64 mixed = ((__u64)packet->from << 32 | packet->to) * 0x9e3779b97f4a7c15ull;

	if (ports_decide4)
		mixed += *(const __u32 *)&packet->ports * 0xff51afd7ed558ccdull;
	return mixed >> (64 - FLOWS4_BITS);
}

static __always_inline bool is_same4(const struct packet4 *left, const struct packet4 *right)
{
	bool is_same = left->from == right->from && left->to == right->to && left->tos == right->tos;

	if (!ports_decide4)
		return is_same;
	return is_same && left->protocol == right->protocol &&
	       *(const __u32 *)&left->ports == *(const __u32 *)&right->ports;
}

/*
 * Where a flow is kept, or else is to be: of the PLACES it may have the one whose way is the oldest. So flows that
 * share a first place, as some of thousands always do, need not drive each other out.
 */
static __always_inline struct flow4 *place4(const struct packet4 *wanted, __u32 now)
{
	__u32 first = slot4(wanted), oldest_age = 0;
	struct flow4 *oldest = NULL;

	for (__u32 i = 0; i < PLACES; i++) {
		__u32 slot = first ^ i;
		struct flow4 *flow = bpf_map_lookup_elem(&flows4, &slot);

		if (!flow || is_same4(&flow->packet, wanted))
			return flow;
		if (!oldest || now - flow->way.born > oldest_age) {
			oldest = flow;
			oldest_age = now - flow->way.born;
		}
	}
	return oldest;
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
static __noinline int look_back4(struct xdp_md *ctx, const struct packet4 *packet, __u32 way_out)
{
	struct bpf_fib_lookup back = {
	    .family = AF_INET,
	    .ifindex = way_out,
	    .tos = packet->tos,
	    .ipv4_src = packet->to,
	    .ipv4_dst = packet->from,
	};

	if (ports_decide4) {
		back.l4_protocol = packet->protocol;
		if (packet->protocol != IPPROTO_ICMP) {
			back.sport = packet->ports.to;
			back.dport = packet->ports.from;
		}
	}
	if (bpf_fib_lookup(ctx, &back, sizeof(back), BPF_FIB_LOOKUP_SKIP_NEIGH))
		return REVERSE_PATH;
	return back.ifindex != ctx->ingress_ifindex && reverse_path(ctx) == 1 ? REVERSE_PATH : FORWARDED;
}

/*
 * How both ends look from the other side: what leaves in this direction is what an answer comes back as, turned round.
 * The packet is made what it is where the way is looked up and in the forward hook: translated is where it goes to,
 * where it comes from only when it leaves.
 */
static __always_inline void translate4(const struct nf_conn *ct, struct flow4 *flow, struct packet4 *packet,
				       __u8 direction)
{
	const struct nf_conntrack_tuple *first = &ct->tuplehash[0].tuple, *answer = &ct->tuplehash[1].tuple;
	struct translation *translation = &flow->translation;
	__u64 change;

	if (direction == CT_ORIGINAL) {
		flow->from = answer->dst.u3.ip;
		flow->to = answer->src.u3.ip;
		flow->ports.from = answer->dst.u.all;
		flow->ports.to = answer->src.u.all;
	} else {
		flow->from = first->dst.u3.ip;
		flow->to = first->src.u3.ip;
		flow->ports.from = first->dst.u.all;
		flow->ports.to = first->src.u.all;
	}
	change = changed(packet->from, flow->from) + changed(packet->to, flow->to);
	translation->header_change = folded(change);
	change += changed(*(const __u32 *)&packet->ports, *(const __u32 *)&flow->ports);
	translation->change = folded(change);
	translation->applies = true;
	packet->to = flow->to;
	packet->ports.to = flow->ports.to;
}

static __always_inline struct nf_conn *connection4(struct xdp_md *ctx, const struct packet4 *packet, __u8 *direction)
{
	struct bpf_ct_opts options = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->protocol};
	struct bpf_sock_tuple tuple = {};
	struct nf_conn *ct;

	tuple.ipv4.saddr = packet->from;
	tuple.ipv4.daddr = packet->to;
	tuple.ipv4.sport = packet->ports.from;
	tuple.ipv4.dport = packet->ports.to;
	ct = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &options, sizeof(options));
	*direction = options.dir;
	return ct;
}

/* Find the packet's connection, and make the packet what the rest of the slow part is to see. */
static __noinline int track4(struct xdp_md *ctx, struct flow4 *flow, struct packet4 *packet, struct connection *found)
{
	enum reason reason;
	struct nf_conn *ct;
	__u8 direction;

	if (!can_ask())
		return UNTRACKED;
	ct = connection4(ctx, packet, &direction);
	if (!ct)
		return UNTRACKED;
	reason = follow_connection(ctx, ct, packet->protocol, direction, translates4, &flow->tracked, found);
	flow->translation.applies = false;
	if (reason == FORWARDED && found->status & CT_TRANSLATED)
		translate4(ct, flow, packet, direction);
	bpf_ct_release(ct);
	return reason == FORWARDED && is_martian4(packet->to) ? MARTIAN : reason;
}

/* SYN, FIN or RST: the ways of both directions of the connection are void. */
static __noinline int signal4(struct xdp_md *ctx, const struct packet4 *packet, __u8 flags)
{
	struct nf_conn *ct;
	__u8 direction;

	if (!packet || !can_ask())
		return 0;
	ct = connection4(ctx, packet, &direction);
	if (ct) {
		signal(slot_of(ct), flags);
		bpf_ct_release(ct);
	}
	return 0;
}

/* What nftables says of a packet, as the forward hook sees it. */
static __always_inline int filter4(struct xdp_md *ctx, struct way *way, const struct packet4 *packet, __u32 way_out,
				   const struct connection *connection)
{
	struct evaluation *now = NULL;
	int verdict;

	way->guards = 0;
	if (filters_ipv4) {
		now = begin_evaluation(ctx->ingress_ifindex, way_out, &packet->ports, packet->protocol);
		if (!now)
			return CHANGING;
		now->view[VIEW_FROM] = packet->from;
		now->view[VIEW_TO] = packet->to;
		now->view[VIEW_CLASS] = bpf_htonl((__u32)packet->tos << 24);
		if (tracks4)
			show_connection(now, connection);
	}
	verdict = evaluate(net_of(ctx), now, 0, filters_ipv4, tracks4 && connection->state == CT_ESTABLISHED);
	keep_evaluation(way, now);
	return verdict;
}

/* Ask the kernel for the way of a flow, and keep the answer. */
static __noinline int find_way4(struct xdp_md *ctx, struct flow4 *flow, __u32 routes, __u32 now)
{
	struct bpf_fib_lookup found = {.family = AF_INET, .ifindex = ctx->ingress_ifindex};
	struct connection connection = {.may_show = true};
	__u32 ours = own_generation();
	struct packet4 packet;
	enum reason reason;
	long result;

	if (!flow)
		return NO_ROUTE;
	if (!ports_decide4 && net_of(ctx)->ipv4.fib_rules_require_fldissect)
		return FRAGMENT; /* a rule about ports that is not known of yet */
	packet = flow->packet;
	if (tracks4) {
		reason = track4(ctx, flow, &packet, &connection);
		if (reason != FORWARDED)
			return reason;
	}
	found.tos = packet.tos;
	found.ipv4_src = packet.from;
	found.ipv4_dst = packet.to;
	if (ports_decide4) {
		found.l4_protocol = packet.protocol;
		if (packet.protocol != IPPROTO_ICMP) {
			found.sport = packet.ports.from;
			found.dport = packet.ports.to;
		}
	}
	result = bpf_fib_lookup(ctx, &found, sizeof(found), 0);
	reason = keep(&flow->way, &found, result, ctx->ingress_ifindex);
	if (reason == FORWARDED && connection.way_out && connection.way_out != found.ifindex)
		return UNTRACKED;
	if (reason == FORWARDED)
		reason = look_back4(ctx, &packet, found.ifindex);
	if (reason != FORWARDED)
		return reason;
	if (follows_ruleset) {
		reason = filter4(ctx, &flow->way, &packet, found.ifindex, &connection);
		if (reason == CHANGING)
			return reason;
		if (reason != FORWARDED)
			return leave(&flow->way, reason, ctx->ingress_ifindex, route_mtu4, routes, ours, now);
	}
	return begin(&flow->way, ctx->ingress_ifindex, route_mtu4, routes, ours, now, connection.may_show);
}

/* Whether conntrack, where it sees the packet, would take it for one that goes on with its connection. */
static __always_inline enum reason look_at4(struct xdp_md *ctx, const struct ipv4 *ip, const struct packet4 *packet,
					    void *end, struct segment *segment)
{
	__u32 length = bpf_ntohs(ip->total_length) - sizeof(*ip);
	enum reason reason = look_at_transport(ip + 1, end, packet->protocol, length, segment);
	const struct udp *udp = (const void *)(ip + 1);
	const struct tcp *tcp = (const void *)(ip + 1);
	__u64 sum;

	if (reason == SIGNALLING)
		signal4(ctx, packet, tcp->flags);
	if (reason != FORWARDED || !net_of(ctx)->ct.sysctl_checksum)
		return reason;
	if (packet->protocol == IPPROTO_UDP && !udp->checksum)
		return FORWARDED;
	sum = (__u64)ip->from + ip->to + bpf_htons(length) + bpf_htons(packet->protocol);
	return adds_up(ctx, sizeof(struct ethernet) + sizeof(*ip), length, sum) ? FORWARDED : BAD_CHECKSUM;
}

static __always_inline bool rewrite4(struct ipv4 *ip, void *end, const struct flow4 *flow)
{
	struct tcp *tcp = (void *)(ip + 1);
	struct udp *udp = (void *)(ip + 1);

	if (flow->packet.protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return false;
		rewrite_tcp(tcp, flow->ports, flow->translation.change);
	} else {
		if ((void *)(udp + 1) > end)
			return false;
		rewrite_udp(udp, flow->ports, flow->translation.change);
	}
	ip->from = flow->from;
	ip->to = flow->to;
	amend(&ip->checksum, flow->translation.header_change);
	return true;
}

static __always_inline enum reason route4(struct xdp_md *ctx, struct ethernet *eth, void *end, __u32 length)
{
	struct ipv4 *ip = (void *)(eth + 1);
	struct ports *transport = (void *)(ip + 1);
	__u32 now = bpf_jiffies64(), routes, total;
	struct packet4 wanted = {};
	struct segment segment = {};
	struct flow4 *flow;
	const struct net *net;
	int reason;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version_length != 0x45)
		return (ip->version_length & 0xf0) == 0x40 ? OPTIONS : MALFORMED;
	total = bpf_ntohs(ip->total_length);
	if (total < sizeof(*ip) || total + sizeof(*eth) > length || !is_checksum_right(ip))
		return MALFORMED;
	if (ip->ttl <= 1)
		return EXPIRING;
	if (is_martian4(ip->from) || is_martian4(ip->to))
		return MARTIAN;
	if ((errors_decide4 || tracks4) && ip->protocol == IPPROTO_ICMP)
		return QUOTING;
	wanted.from = ip->from;
	wanted.to = ip->to;
	wanted.tos = ip->tos & ~3; /* but for the bits of ECN */
	if (ports_decide4) {
		if (ip->fragment & bpf_htons(IP_IS_PART))
			return FRAGMENT;
		wanted.protocol = ip->protocol;
		if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
			if ((void *)(transport + 1) > end || total < sizeof(*ip) + TRANSPORT_BYTES)
				return MALFORMED;
			wanted.ports = *transport;
		} else if (tracks4 || ip->protocol != IPPROTO_ICMP) {
			return FRAGMENT;
		} else if (filters_ipv4) { /* by type and code */
			if ((void *)transport + ICMP_BYTES > end || total < sizeof(*ip) + ICMP_BYTES)
				return MALFORMED;
			wanted.ports.from = transport->from;
		}
	}
	if (tracks4) {
		reason = look_at4(ctx, ip, &wanted, end, &segment);
		if (reason != FORWARDED)
			return reason;
	}
	flow = place4(&wanted, now);
	if (!flow)
		return NO_ROUTE;
	net = net_of(ctx);
	routes = generation_of(net, net->ipv4.rt_genid.counter);
	if (!is_same4(&flow->packet, &wanted) || !holds(&flow->way, ctx->ingress_ifindex, routes, now) ||
	    (tracks4 && has_signalled(&flow->tracked, wanted.protocol))) {
		if (tracks4)
			flow->tracked.is_again = is_same4(&flow->packet, &wanted) && is_again(&flow->tracked, &segment);
		flow->packet = wanted;
		flow->way.ifindex = 0;
		reason = find_way4(ctx, flow, routes, now);
		if (tracks4 && !flow->tracked.is_again)
			flow->tracked.end = segment.end;
		if (reason != FORWARDED)
			return reason;
	}
	if (is_guarded(&flow->way, wanted.protocol, transport, total - sizeof(*ip), end))
		return SIGNALLING;
	if (flow->way.left)
		return counted(&flow->way, why_left(&flow->way, total, tracks4), total);
	if (total > flow->way.mtu)
		return TOO_BIG;
	/* before anything is rewritten */
	if (bpf_redirect_map(&ports, flow->way.port, XDP_PASS) != XDP_REDIRECT)
		return NO_PORT;
	if (total + sizeof(*eth) < length) { /* padding, which does not travel on */
		if (bpf_xdp_adjust_tail(ctx, (int)(total + sizeof(*eth) - length)))
			return MALFORMED;
		eth = (void *)(long)ctx->data;
		ip = (void *)(eth + 1);
		end = (void *)(long)ctx->data_end;
		if ((void *)(ip + 1) > end)
			return MALFORMED; /* for the verifier: what is left is at least total */
	}
	if (tracks4) {
		note_data(&flow->tracked, &segment);
		if (flow->translation.applies && !rewrite4(ip, end, flow))
			return MALFORMED; /* as above */
	}
	decrease_ttl(ip);
	readdress(eth, &flow->way);
	return counted(&flow->way, FORWARDED, total);
}

#endif
