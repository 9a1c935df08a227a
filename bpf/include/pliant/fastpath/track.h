/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections as conntrack has them: a stage of the slow part, before the way is looked up.
 *
 * Only packets that go on with an established connection are looked at here (conntrack.h): those without a connection,
 * SYN, FIN and RST, and what comes right after those, are the kernel's. Addresses and ports of the others are
 * translated as both tuples of the connection say. An entry that has gone is noticed when the way is void, after
 * max_age at the latest.
 */
#ifndef PLIANT_FASTPATH_TRACK_H
#define PLIANT_FASTPATH_TRACK_H

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/conntrack.h>
#include <pliant/fastpath/filter.h>
#include <pliant/fastpath/metadata.h>

const volatile bool tracks4 = false;	 /* conntrack sees the packets of this IP version */
const volatile bool tracks6 = false;	 /* then ports_decide4 and ports_decide6 are set as well */
const volatile bool translates4 = false; /* and so does NAT; else what is to be translated is the kernel's */
const volatile bool translates6 = false; /* not without the driver's help: see is_unfinished() */

enum ct_state {
	CT_NONE, /* nothing is tracked */
	CT_ESTABLISHED,
};

enum ct_direction {
	CT_ORIGINAL,
	CT_REPLY,
};

/* What the stages after this one are told of a packet's connection. */
struct connection {
	enum ct_state state;
	enum ct_direction direction;
	__u32 status; /* enum ct_status */
	__u32 mark;
	__u32 way_out; /* the only interface a masqueraded connection may leave by; 0: any */
	bool may_show; /* the kernel may see a packet; see follow() */
};

/* What is kept with a flow whose packets are translated. */
struct translation {
	bool applies;
	__u32 header_change; /* what a checksum over addresses has to be told, and one over ports as well */
	__u32 change;
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym __weak;

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

/* Whether a packet of a connection may be forwarded here, and what the stages after this one are told of it. */
static __always_inline enum reason follow_connection(struct xdp_md *ctx, struct nf_conn *ct, __u8 protocol,
						     __u8 direction, bool translates, struct tracked *tracked,
						     struct connection *found)
{
	const struct nf_ip_net *settings = &net_of(ctx)->ct.nf_ct_proto;
	__u32 status = ct->status;
	enum reason reason;

	reason = follow(ct, status, settings, protocol, slot_of(ct), translates, tracked, &found->may_show);
	if (reason != FORWARDED)
		return reason;
	found->state = CT_ESTABLISHED;
	found->direction = direction;
	found->status = status;
	found->mark = ct->mark;
	found->way_out = direction == CT_ORIGINAL ? masqueraded_at(ct) : 0;
	return FORWARDED;
}

#endif
