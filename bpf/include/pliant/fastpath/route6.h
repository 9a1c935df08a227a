/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv6 routing (RFC 8200): every check that ipv6_rcv(), the input route and ip6_forward() make, or the packet is
 * theirs.
 */
#ifndef PLIANT_FASTPATH_ROUTE6_H
#define PLIANT_FASTPATH_ROUTE6_H

#include <pliant/fastpath/track.h>
#include <pliant/fastpath/way.h>

#define AF_INET6 10

#define FLOWS6_BITS 13

#define IPPROTO_HOPOPTS 0

const volatile bool forwards_ipv6 = false;
const volatile bool ports_decide6 = false;
const volatile bool errors_decide6 = false; /* ICMP errors take the way of what they quote (several next hops) */
const volatile __u16 route_mtu6 = 0xffff;

struct packet6 {
	__be32 from[4];
	__be32 to[4];
	__be32 class_label;
	struct ports ports;
	__u8 protocol;
	__u8 unused[3];
};

struct flow6 {
	struct packet6 packet;
	struct way way;
	struct tracked tracked;
	struct translation translation;
	__be32 from[4]; /* as it goes out, where it is translated */
	__be32 to[4];
	struct ports ports;
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << FLOWS6_BITS);
	__type(key, __u32);
	__type(value, struct flow6);
} flows6 SEC(".maps");

static __always_inline __u32 slot6(const struct packet6 *packet)
{
	const __u64 *from = (const void *)packet->from, *to = (const void *)packet->to;
	__u64 mixed = from[0] * 0x9e3779b97f4a7c15ull + from[1] + packet->protocol;

	mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9ull + to[0];
	mixed = (mixed ^ mixed >> 32) * 0x94d049bb133111ebull + to[1] + packet->class_label;
	if (ports_decide6)
		mixed ^= *(const __u32 *)&packet->ports * 0xff51afd7ed558ccdull;
	return (mixed * 0x9e3779b97f4a7c15ull) >> (64 - FLOWS6_BITS);
}

static __always_inline bool is_same6(const struct packet6 *left, const struct packet6 *right)
{
	const __u64 *one = (const void *)left, *other = (const void *)right;
	bool is_same = one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3] &&
		       left->class_label == right->class_label && left->protocol == right->protocol;

	if (!ports_decide6)
		return is_same;
	return is_same && *(const __u32 *)&left->ports == *(const __u32 *)&right->ports;
}

/*
 * Where a flow is kept, or else is to be: of the PLACES it may have the one whose way is the oldest. So flows that
 * share a first place, as some of thousands always do, need not drive each other out.
 */
static __always_inline struct flow6 *place6(const struct packet6 *wanted, __u32 now)
{
	__u32 first = slot6(wanted), oldest_age = 0;
	struct flow6 *oldest = NULL;

	for (__u32 i = 0; i < PLACES; i++) {
		__u32 slot = first ^ i;
		struct flow6 *flow = bpf_map_lookup_elem(&flows6, &slot);

		if (!flow || is_same6(&flow->packet, wanted))
			return flow;
		if (!oldest || now - flow->way.born > oldest_age) {
			oldest = flow;
			oldest_age = now - flow->way.born;
		}
	}
	return oldest;
}

/*
 * Unspecified, loopback, v4-mapped, link-local and multicast addresses; with the first two the rest of ::/32, where no
 * unicast address is. A router drops or answers what is from or to them (RFC 4291 2.5).
 */
static __always_inline bool is_martian6(const __be32 *address)
{
	__u32 first = bpf_ntohl(address[0]);

	return !first || (first & 0xffc00000) == 0xfe800000 || first >> 24 == 0xff;
}

/*
 * What bpf_fib_lookup() does not ask, but the kernel: whether all interfaces forward, not only the one the packet came
 * in by, and whether that one has IPv6 at all.
 */
static __always_inline bool may_forward6(struct xdp_md *ctx)
{
	struct ipv6_devconf *all = net_of(ctx)->ipv6.devconf_all;
	struct inet6_dev *own = device_of(ctx)->ip6_ptr;

	return all && own && all->forwarding && !own->cnf.disable_ipv6;
}

/*
 * The kernel's generation of IPv6 routes. fib6_sernum alone would not do: the kernel increases it when a route comes,
 * but when one goes it only counts that there is one less.
 */
static __always_inline __u32 generation6(const struct net *net)
{
	return generation_of(net, net->ipv6.fib6_sernum.counter + net->ipv6.rt6_stats->fib_rt_entries * 0x9e3779b1u);
}

/* See translate4(). */
static __always_inline void translate6(const struct nf_conn *ct, struct flow6 *flow, struct packet6 *packet,
				       __u8 direction)
{
	const struct nf_conntrack_tuple *first = &ct->tuplehash[0].tuple, *answer = &ct->tuplehash[1].tuple;
	struct translation *translation = &flow->translation;
	__u64 change = 0;

	for (int i = 0; i < 4; i++) {
		flow->from[i] = direction == CT_ORIGINAL ? answer->dst.u3.ip6[i] : first->dst.u3.ip6[i];
		flow->to[i] = direction == CT_ORIGINAL ? answer->src.u3.ip6[i] : first->src.u3.ip6[i];
		change += changed(packet->from[i], flow->from[i]) + changed(packet->to[i], flow->to[i]);
		packet->to[i] = flow->to[i];
	}
	flow->ports.from = direction == CT_ORIGINAL ? answer->dst.u.all : first->dst.u.all;
	flow->ports.to = direction == CT_ORIGINAL ? answer->src.u.all : first->src.u.all;
	change += changed(*(const __u32 *)&packet->ports, *(const __u32 *)&flow->ports);
	translation->change = folded(change);
	translation->applies = true;
	packet->ports.to = flow->ports.to;
}

static __always_inline struct nf_conn *connection6(struct xdp_md *ctx, const struct packet6 *packet, __u8 *direction)
{
	struct bpf_ct_opts options = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->protocol};
	struct bpf_sock_tuple tuple;
	struct nf_conn *ct;

	__builtin_memcpy(tuple.ipv6.saddr, packet->from, sizeof(packet->from));
	__builtin_memcpy(tuple.ipv6.daddr, packet->to, sizeof(packet->to));
	tuple.ipv6.sport = packet->ports.from;
	tuple.ipv6.dport = packet->ports.to;
	ct = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple.ipv6), &options, sizeof(options));
	*direction = options.dir;
	return ct;
}

static __noinline int track6(struct xdp_md *ctx, struct flow6 *flow, struct packet6 *packet, struct connection *found)
{
	enum reason reason;
	struct nf_conn *ct;
	__u8 direction;

	if (!can_ask())
		return UNTRACKED;
	ct = connection6(ctx, packet, &direction);
	if (!ct)
		return UNTRACKED;
	reason = follow_connection(ctx, ct, packet->protocol, direction, translates6, &flow->tracked, found);
	flow->translation.applies = false;
	if (reason == FORWARDED && found->status & CT_TRANSLATED)
		translate6(ct, flow, packet, direction);
	bpf_ct_release(ct);
	return reason == FORWARDED && is_martian6(packet->to) ? MARTIAN : reason;
}

static __noinline int signal6(struct xdp_md *ctx, const struct packet6 *packet, __u8 flags)
{
	struct nf_conn *ct;
	__u8 direction;

	if (!packet || !can_ask())
		return 0;
	ct = connection6(ctx, packet, &direction);
	if (ct) {
		signal(slot_of(ct), flags);
		bpf_ct_release(ct);
	}
	return 0;
}

/* See filter4(). */
static __always_inline int filter6(struct xdp_md *ctx, struct way *way, const struct packet6 *packet, __u32 way_out,
				   const struct connection *connection)
{
	struct evaluation *now = NULL;
	int verdict;

	way->guards = 0;
	if (filters_ipv6) {
		now = begin_evaluation(ctx->ingress_ifindex, way_out, &packet->ports, packet->protocol);
		if (!now)
			return CHANGING;
		__builtin_memcpy(now->view + VIEW_FROM, packet->from, sizeof(packet->from));
		__builtin_memcpy(now->view + VIEW_TO, packet->to, sizeof(packet->to));
		now->view[VIEW_CLASS] = packet->class_label;
		if (tracks6)
			show_connection(now, connection);
	}
	verdict = evaluate(net_of(ctx), now, 1, filters_ipv6, tracks6 && connection->state == CT_ESTABLISHED);
	keep_evaluation(way, now);
	return verdict;
}

static __noinline int find_way6(struct xdp_md *ctx, struct flow6 *flow, __u32 routes, __u32 now)
{
	struct bpf_fib_lookup found = {.family = AF_INET6, .ifindex = ctx->ingress_ifindex};
	struct connection connection = {.may_show = true};
	__u32 ours = own_generation();
	struct packet6 packet;
	enum reason reason;
	long result;

	if (!flow || !may_forward6(ctx))
		return NO_ROUTE;
	if (!ports_decide6 && net_of(ctx)->ipv6.fib6_rules_require_fldissect)
		return FRAGMENT;
	packet = flow->packet;
	if (tracks6) {
		reason = track6(ctx, flow, &packet, &connection);
		if (reason != FORWARDED)
			return reason;
	}
	found.flowinfo = packet.class_label;
	__builtin_memcpy(found.ipv6_src, packet.from, sizeof(packet.from));
	__builtin_memcpy(found.ipv6_dst, packet.to, sizeof(packet.to));
	found.l4_protocol = packet.protocol; /* the choice among several next hops is always about it */
	if (ports_decide6) {
		found.sport = packet.ports.from;
		found.dport = packet.ports.to;
	}
	result = bpf_fib_lookup(ctx, &found, sizeof(found), 0);
	reason = keep(&flow->way, &found, result, ctx->ingress_ifindex);
	if (reason == FORWARDED && connection.way_out && connection.way_out != found.ifindex)
		return UNTRACKED;
	if (reason != FORWARDED)
		return reason;
	if (follows_ruleset) {
		reason = filter6(ctx, &flow->way, &packet, found.ifindex, &connection);
		if (reason == CHANGING)
			return reason;
		if (reason != FORWARDED)
			return leave(&flow->way, reason, ctx->ingress_ifindex, route_mtu6, routes, ours, now);
	}
	return begin(&flow->way, ctx->ingress_ifindex, route_mtu6, routes, ours, now, connection.may_show);
}

/* See look_at4(). */
static __always_inline enum reason look_at6(struct xdp_md *ctx, const struct ipv6 *ip, const struct packet6 *packet,
					    void *end, struct segment *segment)
{
	__u32 length = bpf_ntohs(ip->payload_length);
	enum reason reason = look_at_transport(ip + 1, end, packet->protocol, length, segment);
	const struct udp *udp = (const void *)(ip + 1);
	const struct tcp *tcp = (const void *)(ip + 1);
	__u64 sum = bpf_htons(length) + bpf_htons(packet->protocol);

	if (reason == SIGNALLING)
		signal6(ctx, packet, tcp->flags);
	if (reason != FORWARDED || !net_of(ctx)->ct.sysctl_checksum)
		return reason;
	if (packet->protocol == IPPROTO_UDP && !udp->checksum)
		return FORWARDED;
	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->from[i] + packet->to[i];
	return adds_up(ctx, sizeof(struct ethernet) + sizeof(*ip), length, sum) ? FORWARDED : BAD_CHECKSUM;
}

static __always_inline bool rewrite6(struct ipv6 *ip, void *end, const struct flow6 *flow)
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
	__builtin_memcpy(ip->from, flow->from, sizeof(ip->from));
	__builtin_memcpy(ip->to, flow->to, sizeof(ip->to));
	return true;
}

static __always_inline enum reason route6(struct xdp_md *ctx, struct ethernet *eth, void *end, __u32 length)
{
	struct ipv6 *ip = (void *)(eth + 1);
	struct ports *transport = (void *)(ip + 1);
	__u32 now = bpf_jiffies64(), routes, total;
	struct packet6 wanted = {};
	struct segment segment = {};
	struct flow6 *flow;
	int reason;

	if ((void *)(ip + 1) > end || (bpf_ntohl(ip->version_class_label) >> 28) != 6)
		return MALFORMED;
	total = sizeof(*ip) + bpf_ntohs(ip->payload_length);
	if (total + sizeof(*eth) > length)
		return MALFORMED;
	if (ip->next_header == IPPROTO_HOPOPTS)
		return OPTIONS;
	if (ip->hop_limit <= 1)
		return EXPIRING;
	if (is_martian6(ip->from) || is_martian6(ip->to))
		return MARTIAN;
	if ((errors_decide6 || tracks6) && ip->next_header == IPPROTO_ICMPV6)
		return QUOTING;
	__builtin_memcpy(wanted.from, ip->from, sizeof(wanted.from));
	__builtin_memcpy(wanted.to, ip->to, sizeof(wanted.to));
	wanted.class_label = ip->version_class_label & bpf_htonl(0x0fcfffff); /* but for version and ECN */
	wanted.protocol = ip->next_header;
	if (ports_decide6) {
		if (ip->next_header != IPPROTO_TCP && ip->next_header != IPPROTO_UDP)
			return FRAGMENT;
		if ((void *)(transport + 1) > end || total < sizeof(*ip) + TRANSPORT_BYTES)
			return MALFORMED;
		wanted.ports = *transport;
	}
	if (tracks6) {
		reason = look_at6(ctx, ip, &wanted, end, &segment);
		if (reason != FORWARDED)
			return reason;
	}
	flow = place6(&wanted, now);
	if (!flow)
		return NO_ROUTE;
	routes = generation6(net_of(ctx));
	if (!is_same6(&flow->packet, &wanted) || !holds(&flow->way, ctx->ingress_ifindex, routes, now) ||
	    (tracks6 && has_signalled(&flow->tracked, wanted.protocol))) {
		if (tracks6)
			flow->tracked.is_again = is_same6(&flow->packet, &wanted) && is_again(&flow->tracked, &segment);
		flow->packet = wanted;
		flow->way.ifindex = 0;
		reason = find_way6(ctx, flow, routes, now);
		if (tracks6 && !flow->tracked.is_again)
			flow->tracked.end = segment.end;
		if (reason != FORWARDED)
			return reason;
	}
	if (is_guarded(&flow->way, wanted.protocol, transport, total - sizeof(*ip), end))
		return SIGNALLING;
	if (flow->way.left)
		return counted(&flow->way, why_left(&flow->way, total, tracks6), total);
	if (total > flow->way.mtu)
		return TOO_BIG;
	if (bpf_redirect_map(&ports, flow->way.port, XDP_PASS) != XDP_REDIRECT)
		return NO_PORT;
	if (total + sizeof(*eth) < length) {
		if (bpf_xdp_adjust_tail(ctx, (int)(total + sizeof(*eth) - length)))
			return MALFORMED;
		eth = (void *)(long)ctx->data;
		ip = (void *)(eth + 1);
		end = (void *)(long)ctx->data_end;
		if ((void *)(ip + 1) > end)
			return MALFORMED;
	}
	if (tracks6) {
		note_data(&flow->tracked, &segment);
		if (flow->translation.applies && !rewrite6(ip, end, flow))
			return MALFORMED;
	}
	ip->hop_limit--;
	readdress(eth, &flow->way);
	return counted(&flow->way, FORWARDED, total);
}

#endif
