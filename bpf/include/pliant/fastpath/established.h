/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections of packets that a program at TC sees: only those that conntrack has as established, that it translates
 * nothing of and keeps no accounts of, go on here. All that begins or ends one is the kernel's. What conntrack would
 * have done with the others is to let the connection live on, and that is done here (bpf_ct_change_timeout()).
 */
#ifndef PLIANT_FASTPATH_ESTABLISHED_H
#define PLIANT_FASTPATH_ESTABLISHED_H

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/skb.h>

#define ENDINGS 4096 /* a power of two */

/* Bits of nf_conn.status (enum ip_conntrack_status). */
#define CT_WANTED (1 << 1 | 1 << 2 | 1 << 3) /* a reply was seen, assured, confirmed */
#define CT_REFUSED                                                                                                \
	(1 << 0 /* expected */ | 3 << 4 /* source or destination translated */ | 1 << 6 /* sequence adjusted */ | \
	 1 << 9 /* dying */ | 1 << 10 /* fixed timeout */ | 1 << 11 /* template */ | 1 << 13 /* helper */ |       \
	 3 << 14 /* offloaded */)

#define CT_TCP_ESTABLISHED 3
#define CT_UDP_REPLIED	   1

const volatile bool tracks_bridged = false; /* conntrack sees what is bridged */
const volatile bool tracks_routed = false;  /* and what is routed */
const volatile __u32 jiffy_us = 4000;

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *ct) __ksym __weak;
extern int bpf_ct_change_timeout(struct nf_conn *ct, __u32 timeout) __ksym __weak;

/*
 * Counts SYN, FIN and RST, by a hash of the connection that is the same both ways. Ways that were found before are void
 * on all CPUs, so that the kernel sees every packet that may change the connection's state.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENDINGS);
	__type(key, __u32);
	__type(value, __u32);
} endings SEC(".maps");

static __always_inline __u32 *ending_of(__be32 from, __be32 to, const struct ports *ports)
{
	__u32 mixed = (from ^ to) * 0x9e3779b1u + (ports->from ^ ports->to) * 0x85ebca6bu;
	__u32 slot = (mixed * 0x9e3779b1u) >> 20; /* twelve bits: ENDINGS */

	return bpf_map_lookup_elem(&endings, &slot);
}

static __always_inline bool has_extension(const struct nf_conn *ct, int which)
{
	return ct->ext && ct->ext->offset[which & 7];
}

/* Whether the kernel keeps accounts of a connection, a helper, or a timeout of its own. */
static __always_inline bool is_special(const struct nf_conn *ct)
{
	return has_extension(ct, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_HELPER)) ||
	       has_extension(ct, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_SEQADJ)) ||
	       has_extension(ct, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_ACCT)) ||
	       (bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT) &&
		has_extension(ct, bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_TIMEOUT)));
}

static __always_inline enum reason judge(struct nf_conn *ct, __u8 protocol, const struct net *net)
{
	const struct nf_tcp_net *tcp = &net->ct.nf_ct_proto.tcp;

	if ((ct->status & CT_WANTED) != CT_WANTED || ct->status & CT_REFUSED || is_special(ct))
		return UNTRACKED;
	if (protocol != IPPROTO_TCP)
		return FORWARDED;
	if (ct->proto.tcp.state != CT_TCP_ESTABLISHED)
		return SIGNALLING;
	return tcp->tcp_be_liberal && tcp->tcp_ignore_invalid_rst ? FORWARDED : STRICT;
}

/* Look the connection of a packet up, and have it live on as the kernel would. */
static __noinline int look_at_connection(struct __sk_buff *ctx, __be32 from, __be32 to, __u32 ports, __u8 protocol)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {.netns_id = -1, .l4proto = protocol};
	const struct net *net = skb_device(ctx)->nd_net.net;
	__u32 timeout;
	struct nf_conn *ct;
	enum reason reason;

	if (!bpf_skb_ct_lookup || !bpf_ct_release || !bpf_ct_change_timeout)
		return UNTRACKED;
	tuple.ipv4.saddr = from;
	tuple.ipv4.daddr = to;
	tuple.ipv4.sport = ports;
	tuple.ipv4.dport = ports >> 16;
	ct = bpf_skb_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	if (!ct)
		return UNTRACKED;
	reason = judge(ct, protocol, net);
	if (reason == FORWARDED) {
		timeout = protocol == IPPROTO_TCP ? net->ct.nf_ct_proto.tcp.timeouts[CT_TCP_ESTABLISHED]
						  : net->ct.nf_ct_proto.udp.timeouts[CT_UDP_REPLIED];
		bpf_ct_change_timeout(ct, (__u64)timeout * jiffy_us / 1000);
	}
	bpf_ct_release(ct);
	return reason;
}

#endif
