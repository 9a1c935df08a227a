/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What belongs to a packet and is not in its bytes.
 */
#ifndef PLIANT_FASTPATH_METADATA_H
#define PLIANT_FASTPATH_METADATA_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/memory.h>
#include <pliant/fastpath/way.h>

#define CHECKSUM_PARTIAL 3

const volatile bool comes_with_skb = false; /* natively from a veth device, which may have the packet of a socket */

/*
 * Whether a VLAN tag or the checksum of TCP or UDP is yet to be filled in. Veth devices take packets of local sockets
 * as they are, and what is redirected to another port goes without: the receiver would drop it, or take it for another
 * VLAN's. The packet's sk_buff is behind struct xdp_buff (struct veth_xdp_buff), and none is there where the packet
 * comes from XDP itself.
 */
static __always_inline bool is_unfinished(struct xdp_md *ctx)
{
	void *buff = bpf_cast_to_kern_ctx(ctx);
	const struct sk_buff *place, *skb;

	if (!comes_with_skb)
		return false;
	place = bpf_rdonly_cast(buff + bpf_core_type_size(struct xdp_buff), bpf_core_type_id_kernel(struct sk_buff));
	skb = place->next; /* the first field: a pointer to the same type as the one that is there */
	return skb && (skb->vlan_all || BPF_CORE_READ_BITFIELD(skb, ip_summed) == CHECKSUM_PARTIAL);
}

/* NETIF_F_HW_VLAN_CTAG_RX and _STAG_RX, in an enumeration without a name, which cannot be relocated. */
#define VLAN_TAGS_TAKEN_OFF (1ull << 8 | 1ull << 46)

const volatile bool runs_in_driver = false; /* and not where there is a socket buffer, which keeps the tag */

/* Whether hardware takes VLAN tags off what comes in: nobody can tell then whether a packet had one. */
static __always_inline bool hides_tags(const struct net_device *device)
{
	return runs_in_driver && !comes_with_skb && device->features & VLAN_TAGS_TAKEN_OFF;
}

#endif
