/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What conntrack has of a connection, and what is left of its work for those who forward packets of it elsewhere: in
 * XDP (track.h) and at TC (established.h), which look the connection up and know their packets in their own ways.
 *
 * All that makes a connection, changes its state or ends it is the kernel's. Of what is not, the kernel would only have
 * the connection live on, for as long as the packet says, and that is done here (bpf_ct_change_timeout()).
 */
#ifndef PLIANT_FASTPATH_CONNTRACK_H
#define PLIANT_FASTPATH_CONNTRACK_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/kernel.h>
#include <pliant/fastpath/transport.h>

#define SIGNALS	      65536 /* a power of two */
#define SIGNALLING_US 20000 /* for so long at most the kernel is at a packet */

const volatile __u32 jiffy_us = 4000;

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

#define CT_TRANSLATED (CT_SRC_NAT | CT_DST_NAT)
#define CT_WANTED     (CT_SEEN_REPLY | CT_ASSURED | CT_CONFIRMED)
#define CT_REFUSED                                                                                                     \
	(CT_EXPECTED | CT_SEQ_ADJUST | CT_DYING | CT_FIXED_TIMEOUT | CT_TEMPLATE | CT_UNTRACKED_OR_CLASH | CT_HELPER | \
	 CT_OFFLOAD | CT_HW_OFFLOAD)

/* enum tcp_conntrack, and what seen[].flags has. */
#define CT_TCP_ESTABLISHED	   3
#define CT_TCP_UNACKNOWLEDGED	   9
#define CT_TCP_FLAG_UNACKNOWLEDGED 0x10
#define CT_UDP_REPLIED		   1

/* What is kept with a flow of what it has to do with its connection. */
struct tracked {
	__u32 signals;	 /* the connection's slot */
	__u32 signalled; /* what was in it */
	__u32 end;	 /* of the data that this side has sent */
	bool is_again;	 /* the packet at hand repeats data; says the fast part to the slow one */
};

/*
 * SYN, FIN and RST of TCP connections, by a hash of the connection that is the same both ways. A count that has changed
 * voids the ways of both directions on all CPUs, so that the kernel sees every packet that may change the state.
 */
struct signal {
	__u32 count;
	__u32 ended; /* jiffies, of the last FIN or RST */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIGNALS);
	__type(key, __u32);
	__type(value, struct signal);
} signals SEC(".maps");

/* net/netfilter/nf_conntrack_bpf.c; the last fields came later, and a kernel takes it without them. */
struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

/*
 * Whether the kernel has functions to ask conntrack; where it has not, all packets of connections are its own. They
 * come with that type, in a module maybe. Their addresses would say so as well, but libbpf before 1.3 takes those of a
 * module's functions for the kernel's own, and the verifier refuses the program.
 */
static __always_inline bool can_ask(void)
{
	return bpf_core_type_exists(struct bpf_ct_opts);
}

extern void bpf_ct_release(struct nf_conn *ct) __ksym __weak;
extern int bpf_ct_change_timeout(struct nf_conn *ct, __u32 timeout) __ksym __weak;

/* More than fit are the longest that the kernel has. */
static __always_inline __u32 milliseconds(__u32 jiffies)
{
	__u64 found = (__u64)jiffies * jiffy_us / 1000;

	return found > 0xffffffff ? 0xffffffff : found;
}

static __always_inline __u32 signalled(__u32 slot)
{
	struct signal *found = bpf_map_lookup_elem(&signals, &slot);

	return found ? found->count : 0;
}

/*
 * Note what a connection's slot has, before anything else is asked of it. Whether the kernel may still be at a FIN or
 * RST: what it has of the connection's state is not to be believed then.
 */
static __always_inline bool note_signals(struct tracked *tracked, __u32 slot)
{
	const volatile struct signal *found = bpf_map_lookup_elem(&signals, &slot);
	__u32 count;

	if (!found)
		return true;
	count = found->count;
	if (slot != tracked->signals || count != tracked->signalled)
		tracked->is_again = false; /* it is another connection, or has begun anew */
	tracked->signals = slot;
	tracked->signalled = count;
	return (__u32)bpf_jiffies64() - found->ended <= SIGNALLING_US / jiffy_us;
}

/* Whether a connection has begun or ended anew since its way was looked up. */
static __always_inline bool has_signalled(const struct tracked *tracked, __u8 protocol)
{
	return protocol == IPPROTO_TCP && signalled(tracked->signals) != tracked->signalled;
}

/*
 * A connection begins anew, or is about to end, and then the kernel sees all of it from here on: also when a SYN
 * follows at once, while the FIN before it is still on its way to conntrack.
 */
static __always_inline void signal(__u32 slot, __u8 flags)
{
	struct signal *found = bpf_map_lookup_elem(&signals, &slot);

	if (!found)
		return;
	if (flags & (TCP_FIN | TCP_RST))
		found->ended = bpf_jiffies64();
	__sync_fetch_and_add(&found->count, 1);
}

/* Have all others look the connection up again; what has signalled at the same time is not hidden by it. */
static __always_inline void void_others(struct tracked *tracked)
{
	signal(tracked->signals, 0);
	tracked->signalled++;
}

/* Whether a segment has nothing but data that this side has sent before: they have not been acknowledged. */
static __always_inline bool is_again(const struct tracked *tracked, const struct segment *segment)
{
	return segment->bytes && (__s32)(segment->end - tracked->end) <= 0;
}

/* A segment is forwarded. */
static __always_inline void note_data(struct tracked *tracked, const struct segment *segment)
{
	if (segment->bytes && (__s32)(segment->end - tracked->end) > 0)
		tracked->end = segment->end;
}

static __always_inline bool has_extension(const struct nf_ct_ext *ext, __u64 which)
{
	return ext->offset[which];
}

/*
 * Whether the connection has something for which the kernel does more with each packet. What adjusts sequence numbers
 * is in the status (entries made by user space all have room for it), and SYN proxies are rules of their own.
 */
static __always_inline bool has_more(const struct nf_conn *ct)
{
	const struct nf_ct_ext *ext = ct->ext;

	if (!ext)
		return false;
	return has_extension(ext, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_HELPER)) ||
	       has_extension(ext, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_ACCT)) ||
	       (bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT) &&
		has_extension(ext, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT)));
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
					      bool *may_show)
{
	const struct ip_ct_tcp *tcp = &ct->proto.tcp;

	if (tcp->state != CT_TCP_ESTABLISHED)
		return SIGNALLING;
	if (!settings->tcp.tcp_be_liberal || !settings->tcp.tcp_ignore_invalid_rst)
		return STRICT;
	*may_show = !((tcp->seen[0].flags | tcp->seen[1].flags) & CT_TCP_FLAG_UNACKNOWLEDGED) && tcp->last_win &&
		    tcp->retrans < settings->tcp.tcp_max_retrans;
	return FORWARDED;
}

/*
 * Whether a packet of a connection may be forwarded here, and then the connection lives on. status is the connection's,
 * slot that of its signals; may_show: the kernel may see a packet without keeping it for less than it should.
 */
static __always_inline enum reason follow(struct nf_conn *ct, __u32 status, const struct nf_ip_net *settings,
					  __u8 protocol, __u32 slot, bool translates, struct tracked *tracked,
					  bool *may_show)
{
	enum reason reason;

	if ((status & CT_WANTED) != CT_WANTED || status & CT_REFUSED || has_more(ct))
		return UNTRACKED;
	if (status & CT_TRANSLATED && !translates)
		return UNTRACKED;
	*may_show = true;
	if (protocol == IPPROTO_TCP) {
		if (note_signals(tracked, slot))
			return SIGNALLING;
		reason = follow_tcp(ct, settings, may_show);
		if (reason != FORWARDED)
			return reason;
		if (tracked->is_again) /* what answers it makes the connection live longer again */
			void_others(tracked);
	}
	return keep_alive(ct, settings, protocol, tracked->is_again) ? FORWARDED : UNTRACKED;
}

#endif
