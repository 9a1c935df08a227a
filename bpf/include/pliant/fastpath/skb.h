/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet is that a program at TC sees, and what a device that it is to be handed to would do with it.
 */
#ifndef PLIANT_FASTPATH_SKB_H
#define PLIANT_FASTPATH_SKB_H

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/memory.h>
#include <pliant/fastpath/way.h>

#define IFF_UP		1
#define NETDEV_ALIGN	32
#define NOQUEUE_LETTERS 8   /* of "noqueue", with its end */
#define DEVICE_BUCKETS	256 /* NETDEV_HASHENTRIES */
#define DEVICES_MAX	16  /* of a bucket, that are looked at */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff___tc {
	struct net_device *dev;
};

struct Qdisc_ops___tc {
	char id[16];
};

struct Qdisc___tc {
	const struct Qdisc_ops___tc *ops;
};

struct rtnl_link_ops___tc {
	const char *kind;
};

struct hlist_node___tc {
	struct hlist_node___tc *next;
};

struct hlist_head___tc {
	struct hlist_node___tc *first;
};

struct net___tc {
	struct hlist_head___tc *dev_index_head;
};

/* What else matters of a device here. */
struct net_device___tc {
	struct hlist_node___tc index_hlist;
	void *rx_handler;
	void *nf_hooks_ingress;
	void *nf_hooks_egress;
	void *tcx_ingress;
	void *tcx_egress;
	const struct rtnl_link_ops___tc *rtnl_link_ops;
	struct Qdisc___tc *qdisc;
	const unsigned char *dev_addr;
	__u8 priv[];
};

struct veth_priv___tc {
	struct net_device *peer;
	void *_xdp_prog;
};

#pragma clang attribute pop

static __always_inline struct net_device *skb_device(struct __sk_buff *ctx)
{
	struct sk_buff___tc *skb = bpf_cast_to_kern_ctx(ctx);

	return skb->dev;
}

/*
 * Whether a device does nothing with a packet but send it: no queueing discipline, and nobody at the hooks of its
 * egress, which a redirected packet would not come by.
 */
static __always_inline bool only_sends(const struct net_device *device)
{
	const struct net_device___tc *found = peek(device);
	const struct Qdisc___tc *qdisc = peek(found->qdisc);
	const struct Qdisc_ops___tc *ops = peek(qdisc->ops);
	const char noqueue[NOQUEUE_LETTERS] = "noqueue";

	if (!(((const struct net_device *)peek(device))->flags & IFF_UP))
		return false;
	return !found->nf_hooks_egress && !found->tcx_egress && *(__u64 *)ops->id == *(const __u64 *)noqueue;
}

/* Whether nobody is at the hooks of a device's ingress. */
static __always_inline bool only_receives(const struct net_device *device)
{
	const struct net_device___tc *found = peek(device);

	return !found->nf_hooks_ingress && !found->tcx_ingress;
}

/* The device of an index, as dev_get_by_index_rcu() finds it. */
static __noinline const struct net_device *device_at(const struct net *net, __u32 ifindex)
{
	const struct net___tc *namespace = peek(net);
	const struct hlist_head___tc *head = peek(namespace->dev_index_head + (ifindex & (DEVICE_BUCKETS - 1)));
	void *next = head->first;

	for (int i = 0; i < DEVICES_MAX && next; i++) {
		void *device = next - bpf_core_field_offset(struct net_device___tc, index_hlist);

		if (((const struct net_device *)peek(device))->ifindex == (int)ifindex)
			return device;
		next = ((const struct hlist_node___tc *)peek(next))->next;
	}
	return NULL;
}

static __always_inline bool has_address(const struct net_device *device, const __u16 *address)
{
	const __u16 *own = peek(((const struct net_device___tc *)peek(device))->dev_addr);

	return own[0] == address[0] && own[1] == address[1] && own[2] == address[2];
}

static __always_inline void *private_of(const struct net_device *device)
{
	if (bpf_core_field_exists(struct net_device___tc, priv))
		return (void *)device + bpf_core_field_offset(struct net_device___tc, priv);
	return (void *)device +
	       (bpf_core_type_size(struct net_device) + NETDEV_ALIGN - 1) / NETDEV_ALIGN * NETDEV_ALIGN;
}

/*
 * The other end of a veth pair, 0 where the device is none, or where its other end is not just a host's interface in
 * another network namespace: a bridge there, or XDP, has to see what comes.
 */
static __always_inline const struct net_device *other_end(const struct net_device *device, const struct net *net)
{
	const struct net_device___tc *found = peek(device), *other;
	const char *kind = peek(((const struct rtnl_link_ops___tc *)peek(found->rtnl_link_ops))->kind);
	const struct veth_priv___tc *own, *others;
	const struct net_device *peer;

	if (kind[0] != 'v' || kind[1] != 'e' || kind[2] != 't' || kind[3] != 'h' || kind[4])
		return NULL;
	own = peek(private_of(device));
	peer = own->peer;
	others = peek(private_of(peer));
	other = peek(peer);
	if (!(((const struct net_device *)peek(peer))->flags & IFF_UP) || other->rx_handler || others->_xdp_prog)
		return NULL;
	return ((const struct net_device *)peek(peer))->nd_net.net != net ? peer : NULL;
}

#endif
