/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections of packets that a program at TC sees: only those that conntrack has as established and translates nothing
 * of go on here (conntrack.h).
 */
#ifndef PLIANT_FASTPATH_ESTABLISHED_H
#define PLIANT_FASTPATH_ESTABLISHED_H

#include <pliant/fastpath/conntrack.h>
#include <pliant/fastpath/skb.h>

const volatile bool tracks_bridged = false; /* conntrack sees what is bridged */
const volatile bool tracks_routed = false;  /* and what is routed */

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym __weak;

/* Where a packet is from and to: the first fields of struct bpf_sock_tuple. */
struct ends {
	__be32 from;
	__be32 to;
	struct ports ports;
};

/* The slot of a connection that is not translated: of any packet of it. */
static __always_inline __u32 slot_of_ends(const struct ends *ends)
{
	__u32 mixed = (ends->from ^ ends->to) * 0x9e3779b1u + (ends->ports.from ^ ends->ports.to) * 0x85ebca6bu;

	return (mixed * 0x9e3779b1u) >> 16; /* sixteen bits: SIGNALS */
}

/* Look the connection of a packet up, and have it live on as the kernel would; may_show: see follow(). */
static __noinline int look_at_connection(struct __sk_buff *ctx, struct ends *ends, __u8 protocol,
					 struct tracked *tracked, bool *may_show)
{
	struct bpf_ct_opts opts = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = protocol};
	const struct net *net = skb_device(ctx)->nd_net.net;
	struct nf_conn *ct;
	enum reason reason;

	if (!can_ask())
		return UNTRACKED;
	ct = bpf_skb_ct_lookup(ctx, (void *)ends, sizeof(*ends), &opts, sizeof(opts));
	if (!ct)
		return UNTRACKED;
	reason = follow(ct, ct->status, &net->ct.nf_ct_proto, protocol, tracked->signals, false, tracked, may_show);
	bpf_ct_release(ct);
	return reason;
}

#endif
