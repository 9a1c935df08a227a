/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections as conntrack has them: a stage of the slow part, before the way is looked up.
 *
 * Only packets that go on with an established connection are looked at here. All that makes a connection, changes its
 * state or ends it is the kernel's: packets without a connection, SYN, FIN and RST, and what comes right after those.
 * What the kernel would have done with the others is done here: the connection lives on for as long as the kernel would
 * have it (bpf_ct_change_timeout()), and addresses and ports are translated as both tuples of the connection say. An
 * entry that has gone is noticed when the way is void, after max_age at the latest.
 */
#ifndef PLIANT_FASTPATH_TRACK_H
#define PLIANT_FASTPATH_TRACK_H

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/metadata.h>
#include <pliant/fastpath/filter.h>
#include <pliant/fastpath/transport.h>

#define SIGNALS 65536 /* a power of two */

const volatile bool tracks4 = false;	 /* conntrack sees the packets of this IP version */
const volatile bool tracks6 = false;	 /* then ports_decide4 and ports_decide6 are set as well */
const volatile bool translates4 = false; /* and so does NAT; else what is to be translated is the kernel's */
const volatile bool translates6 = false; /* not without the driver's help: see is_unfinished() */
const volatile __u32 jiffy_us = 4000;

enum ct_state {
	CT_NONE, /* nothing is tracked */
	CT_ESTABLISHED,
};

enum ct_direction {
	CT_ORIGINAL,
	CT_REPLY,
};

/* enum ip_conntrack_status */
enum ct_status {
	CT_EXPECTED = 1 << 0,
	CT_SEEN_REPLY = 1 << 1,
	CT_ASSURED = 1 << 2,
	CT_CONFIRMED = 1 << 3,
	CT_SRC_NAT = 1 << 4,
	CT_DST_NAT = 1 << 5,
	CT_SEQ_ADJUST = 1 << 6,
	CT_DYING = 1 << 9,
	CT_FIXED_TIMEOUT = 1 << 10,
	CT_TEMPLATE = 1 << 11,
	CT_UNTRACKED_OR_CLASH = 1 << 12,
	CT_HELPER = 1 << 13,
	CT_OFFLOAD = 1 << 14,
	CT_HW_OFFLOAD = 1 << 15,
};

#define SIGNALLING_US 20000 /* for so long at most the kernel is at a packet */

#define CT_WANTED (CT_SEEN_REPLY | CT_ASSURED | CT_CONFIRMED)
#define CT_REFUSED                                                                                                     \
	(CT_EXPECTED | CT_SEQ_ADJUST | CT_DYING | CT_FIXED_TIMEOUT | CT_TEMPLATE | CT_UNTRACKED_OR_CLASH | CT_HELPER | \
	 CT_OFFLOAD | CT_HW_OFFLOAD)

/* enum tcp_conntrack, and what seen[].flags has. */
#define CT_TCP_ESTABLISHED	   3
#define CT_TCP_UNACKNOWLEDGED	   9
#define CT_TCP_FLAG_UNACKNOWLEDGED 0x10
#define CT_UDP_REPLIED		   1

/* What the stages after this one are told of a packet's connection. */
struct connection {
	enum ct_state state;
	enum ct_direction direction;
	__u32 status; /* enum ct_status */
	__u32 mark;
	__u32 way_out; /* the only interface a masqueraded connection may leave by; 0: any */
	bool may_show; /* the kernel may see a packet without keeping the connection for less than it should */
};

/* What is kept with a flow. */
struct tracked {
	__u32 signals;	 /* the connection's slot */
	__u32 signalled; /* what was in it */
	__u32 end;	 /* of the data that this side has sent */
	bool is_again;	 /* the packet at hand repeats data; says the fast part to the slow one */
	bool translates;
	__u16 unused;
	__u32 header_change; /* what a checksum over addresses has to be told, and one over ports as well */
	__u32 change;
};

/*
 * When a TCP connection last had a SYN, FIN or RST (jiffies), by a hash of the connection that is the same both ways.
 * It voids the ways of both directions on all CPUs, so that the kernel sees every packet that may change the state.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIGNALS);
	__type(key, __u32);
	__type(value, __u32);
} signals SEC(".maps");

/* net/netfilter/nf_conntrack_bpf.c; the last fields came later, and a kernel takes it without them. */
struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *ct) __ksym __weak;
extern int bpf_ct_change_timeout(struct nf_conn *ct, __u32 timeout) __ksym __weak;

/* More than fit are the longest that the kernel has. */
static __always_inline __u32 milliseconds(__u32 jiffies)
{
	__u64 found = (__u64)jiffies * jiffy_us / 1000;

	return found > 0xffffffff ? 0xffffffff : found;
}

/* Whether the kernel has functions to ask conntrack; where it has not, all packets of connections are its own. */
static __always_inline bool can_ask(void)
{
	return bpf_xdp_ct_lookup && bpf_ct_release && bpf_ct_change_timeout;
}

static __always_inline __u32 signalled(__u32 slot)
{
	__u32 *found = bpf_map_lookup_elem(&signals, &slot);

	return found ? *found : 0;
}

/* The slot of a connection: of its first packet's tuple, whichever way this one goes. */
static __always_inline __u32 slot_of(const struct nf_conn *ct)
{
	const struct nf_conntrack_tuple *tuple = &ct->tuplehash[0].tuple;
	__u64 mixed = ((__u64)(tuple->src.u3.ip6[0] ^ tuple->src.u3.ip6[3]) << 32 |
		       (tuple->dst.u3.ip6[0] ^ tuple->dst.u3.ip6[3])) *
		      0x9e3779b97f4a7c15ull;

	mixed ^= ((__u64)tuple->src.u.all << 16 | tuple->dst.u.all) * 0xff51afd7ed558ccdull;
	return mixed >> 48; /* sixteen bits: SIGNALS */
}

/*
 * Whether the connection has something for which the kernel does more with each packet. What adjusts sequence numbers
 * is in the status, and SYN proxies are rules of their own.
 */
static __always_inline bool has_more(const struct nf_conn *ct)
{
	const struct nf_ct_ext *ext = ct->ext;

	if (!ext)
		return false;
	return ext->offset[bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_HELPER)] ||
	       ext->offset[bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_ACCT)] ||
	       (bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT) &&
		ext->offset[bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT)]);
}

/* The interface a masqueraded connection was made for: the kernel ends it when it would leave by another. */
static __always_inline __u32 masqueraded_at(const struct nf_conn *ct)
{
	const struct nf_ct_ext *ext = ct->ext;
	__u64 address = 0;
	__u32 index = 0;
	__u8 offset;

	if (!ext || !bpf_core_field_exists(struct nf_conn_nat, masq_index))
		return 0;
	offset = ext->offset[bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_NAT)];
	if (!offset || bpf_probe_read_kernel(&address, sizeof(address), &ct->ext))
		return 0;
	address += offset + bpf_core_field_offset(struct nf_conn_nat, masq_index);
	bpf_probe_read_kernel(&index, sizeof(index), (const void *)address);
	return index;
}

/* What rules may ask for of a connection. */
static __always_inline void show_connection(struct evaluation *now, const struct connection *found)
{
	now->view[VIEW_CT_STATE] = 1 << 1; /* NF_CT_STATE_BIT(IP_CT_ESTABLISHED) */
	now->view[VIEW_CT_STATUS] = found->status;
	now->view[VIEW_CT_MARK] = found->mark;
	now->view[VIEW_CT_DIRECTION] = bpf_htonl((__u32)found->direction << 24);
}

/* Keep the connection for as long as the kernel does after such a packet. */
static __always_inline bool keep_alive(struct nf_conn *ct, const struct nf_ip_net *settings, __u8 protocol,
				       bool is_again)
{
	__u32 timeout = settings->udp.timeouts[CT_UDP_REPLIED], unacknowledged;

	if (protocol == IPPROTO_TCP) {
		timeout = settings->tcp.timeouts[CT_TCP_ESTABLISHED];
		unacknowledged = settings->tcp.timeouts[CT_TCP_UNACKNOWLEDGED];
		if (is_again && unacknowledged < timeout)
			timeout = unacknowledged;
	}
	return !bpf_ct_change_timeout(ct, milliseconds(timeout));
}

/*
 * What TCP needs beside: a state that its packets do not change, and a kernel that does not check windows, for it does
 * not see what is forwarded here. May it see a packet nevertheless? Only where it does not take old data for not
 * acknowledged, or the connection would soon be gone.
 */
static __always_inline enum reason follow_tcp(const struct nf_conn *ct, const struct nf_ip_net *settings,
					      struct connection *found)
{
	const struct ip_ct_tcp *tcp = &ct->proto.tcp;

	if (tcp->state != CT_TCP_ESTABLISHED)
		return SIGNALLING;
	if (!settings->tcp.tcp_be_liberal || !settings->tcp.tcp_ignore_invalid_rst)
		return STRICT;
	found->may_show = !((tcp->seen[0].flags | tcp->seen[1].flags) & CT_TCP_FLAG_UNACKNOWLEDGED) && tcp->last_win &&
			  tcp->retrans < settings->tcp.tcp_max_retrans;
	return FORWARDED;
}

/* Make the ways of both directions of a connection void; returns what its slot has now. */
static __always_inline __u32 make_void(__u32 slot, __u32 when)
{
	__u32 *found = bpf_map_lookup_elem(&signals, &slot);

	if (found)
		*found = when;
	return when;
}

static __always_inline bool is_recent(__u32 when)
{
	return (__u32)bpf_jiffies64() - when <= SIGNALLING_US / jiffy_us;
}

/* When what is not recent any more may have been. */
static __always_inline __u32 before_now(void)
{
	return (__u32)bpf_jiffies64() - SIGNALLING_US / jiffy_us - 1;
}

/* Whether a packet of a connection may be forwarded here. */
static __always_inline enum reason follow(struct xdp_md *ctx, struct nf_conn *ct, __u8 protocol, __u8 direction,
					  bool translates, struct tracked *tracked, struct connection *found)
{
	const struct nf_ip_net *settings = &net_of(ctx)->ct.nf_ct_proto;
	__u32 status = ct->status, slot, last;
	enum reason reason;

	if ((status & CT_WANTED) != CT_WANTED || status & CT_REFUSED || has_more(ct))
		return UNTRACKED;
	if (status & (CT_SRC_NAT | CT_DST_NAT) && !translates)
		return UNTRACKED;
	found->state = CT_ESTABLISHED;
	found->direction = direction;
	found->status = status;
	found->mark = ct->mark;
	found->way_out = direction == CT_ORIGINAL ? masqueraded_at(ct) : 0;
	found->may_show = true;
	if (protocol == IPPROTO_TCP) {
		slot = slot_of(ct);
		last = signalled(slot);
		if (slot != tracked->signals || last != tracked->signalled)
			tracked->is_again = false; /* it is another connection, or has begun anew */
		tracked->signals = slot;
		tracked->signalled = last;
		if (is_recent(last)) /* the kernel may still be at it */
			return SIGNALLING;
		reason = follow_tcp(ct, settings, found);
		if (reason != FORWARDED)
			return reason;
		if (tracked->is_again) /* what answers it makes the connection live longer again */
			tracked->signalled = make_void(slot, before_now());
	}
	return keep_alive(ct, settings, protocol, tracked->is_again) ? FORWARDED : UNTRACKED;
}

/* Whether a connection has begun or ended anew since its way was looked up. */
static __always_inline bool has_signalled(const struct tracked *tracked, __u8 protocol)
{
	return protocol == IPPROTO_TCP && signalled(tracked->signals) != tracked->signalled;
}

/* Whether a segment has nothing but data that this side has sent before: they have not been acknowledged. */
static __always_inline bool is_again(const struct tracked *tracked, const struct segment *segment)
{
	return segment->bytes && (__s32)(segment->end - tracked->end) <= 0;
}

/*
 * A connection begins anew, or is about to end, and then the kernel sees all of it from here on: also when a SYN
 * follows at once, while the FIN before it is still on its way to conntrack.
 */
static __always_inline void signal(const struct nf_conn *ct, __u8 flags)
{
	__u32 slot = slot_of(ct);

	if (flags & (TCP_FIN | TCP_RST))
		make_void(slot, bpf_jiffies64());
	else if (!is_recent(signalled(slot)))
		make_void(slot, before_now());
}

#endif
