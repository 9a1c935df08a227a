/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way out of a flow: what the kernel's own lookups have answered, and for how long that is believed.
 *
 * A way holds while nothing has changed: neither the kernel's generation of routes (net->ipv4.rt_genid and
 * net->ipv6.fib6_sernum, which it increases itself with every route, rule, address or setting that could change an
 * answer), nor ours, which user space increases for what the kernel has no generation for; and at most max_age, which
 * bounds how long a neighbour or path MTU that has changed is believed. So there is no table to keep in step: a packet
 * after a change finds its way void, and the kernel is asked anew.
 */
#ifndef PLIANT_FASTPATH_WAY_H
#define PLIANT_FASTPATH_WAY_H

#include <pliant/fastpath/kernel.h>
#include <pliant/fastpath/memory.h>
#include <pliant/fastpath/port.h>

#define NEIGHBOURS 1024 /* a power of two */
#define PLACES	   4	/* a power of two: in how many places a flow may be kept */

#define COUNTED_MAX 12 /* rules that count the packets of one flow */

const volatile __u32 max_age = 25;	  /* jiffies */
const volatile __u32 confirm_every = 250; /* jiffies */

/* The one that this is made for, by its number (net:[NUMBER] in /proc); 0: any. */
const volatile __u32 network_namespace = 0;

/* What user space increases, or sets to say that nothing is to be accelerated for now. */
#define PAUSED_GENERATION 0xffffffffu

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} generation SEC(".maps");

struct way {
	__u32 ifindex; /* the flow came in by; 0: no way known */
	__u32 routes;
	__u32 generation;
	__u32 born; /* jiffies */
	__u32 port;
	__u16 mtu;
	__u16 next_hop[3];
	__u16 source[3];
	__u8 left;   /* enum reason: why the flow is the kernel's */
	__u8 guards; /* enum guard */
	/* The rules that count it, as slots (filter.h); 0 behind the last. */
	__u16 counted[COUNTED_MAX];
};

/* When the kernel last saw a packet to a neighbour: by its address and port, of this CPU. */
struct seen {
	__u32 neighbour;
	__u32 when; /* jiffies */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NEIGHBOURS);
	__type(key, __u32);
	__type(value, struct seen);
} confirmed SEC(".maps");

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

/*
 * Without the cast, which costs nothing when it runs, the verifier goes through all types of the kernel at every step
 * of the way, by name, to see whether what is pointed to is trusted: that is most of the time that a program takes to
 * load.
 */
static __always_inline struct net_device *device_of(struct xdp_md *ctx)
{
	struct xdp_buff *buff = bpf_rdonly_cast(bpf_cast_to_kern_ctx(ctx), bpf_core_type_id_kernel(struct xdp_buff));

	return buff->rxq->dev;
}

/* Whether a frame is for a device's own station. The address is a pointer to bytes, which is read by way of a type. */
static __always_inline bool is_for(const struct net_device *device, const struct ethernet *eth)
{
	const struct timespec64 *address =
	    bpf_rdonly_cast(device->dev_addr, bpf_core_type_id_kernel(struct timespec64));

	__u64 own = address->tv_sec;

	return !((eth->to[0] ^ (__u16)own) | (eth->to[1] ^ (__u16)(own >> 16)) | (eth->to[2] ^ (__u16)(own >> 32)));
}

static __always_inline struct net *net_of(struct xdp_md *ctx)
{
	return device_of(ctx)->nd_net.net;
}

/*
 * Whether an interface has been moved to another network namespace, which takes what is attached to it along. All else
 * goes by the index of interfaces, and there it stands for others.
 */
static __always_inline bool has_moved(const struct net *net)
{
	__u32 own = network_namespace;

	return own && net->ns.inum != own;
}

static __always_inline __u32 own_generation(void)
{
	__u32 zero = 0, *found = bpf_map_lookup_elem(&generation, &zero);

	return found ? *found : 0;
}

static __always_inline bool holds(const struct way *way, __u32 ifindex, __u32 routes, __u32 now)
{
	return way->ifindex == ifindex && way->routes == routes && way->generation == own_generation() &&
	       now - way->born <= max_age;
}

/* Whether it is this packet that shows the kernel that the neighbour is in use. */
static __always_inline bool is_confirming(const struct way *way, __u32 now)
{
	const __u16 *to = way->next_hop;
	__u32 neighbour = ((__u32)to[1] << 16 | to[2]) ^ ((__u32)to[0] << 8) ^ way->port * 0x9e3779b1u;
	__u32 slot = (neighbour * 0x9e3779b1u) >> 22; /* ten bits: NEIGHBOURS */
	struct seen *seen = bpf_map_lookup_elem(&confirmed, &slot);

	if (!seen || (seen->neighbour == neighbour && now - seen->when < confirm_every))
		return false;
	seen->neighbour = neighbour;
	seen->when = now;
	return true;
}

/* Keep what a lookup has answered, if packets can go that way. */
static __always_inline enum reason keep(struct way *way, const struct bpf_fib_lookup *found, long result, __u32 ifindex)
{
	__u32 *port;

	if (result)
		return result == BPF_FIB_LKUP_RET_NO_NEIGH ? NO_NEIGHBOUR : NO_ROUTE;
	if (found->ifindex == ifindex)
		return SAME_WAY_BACK;
	port = bpf_map_lookup_elem(&port_numbers, &found->ifindex);
	if (!port)
		return NO_PORT;
	way->port = *port;
	way->mtu = found->mtu_result;
	__builtin_memcpy(way->next_hop, found->dmac, sizeof(way->next_hop));
	__builtin_memcpy(way->source, found->smac, sizeof(way->source));
	return FORWARDED;
}

/*
 * From here on the way holds, as of the generations that were read before anything was asked; the packet itself may
 * still be the kernel's, if it may see it.
 *
 * route_mtu is the smallest MTU that any route has as a metric: what is longer is left to the kernel, which never sends
 * more than the metric of its route (ip_dst_mtu_maybe_forward()), while bpf_fib_lookup() tells of it only where it is
 * locked.
 */
static __always_inline enum reason begin(struct way *way, __u32 ifindex, __u16 route_mtu, __u32 routes, __u32 ours,
					 __u32 now, bool may_show)
{
	if (ours == PAUSED_GENERATION)
		return PAUSED;
	if (way->mtu > route_mtu)
		way->mtu = route_mtu;
	way->left = 0;
	way->routes = routes;
	way->generation = ours;
	way->born = now;
	way->ifindex = ifindex;
	return may_show && is_confirming(way, now) ? CONFIRMING : FORWARDED;
}

static __always_inline void readdress(struct ethernet *eth, const struct way *way)
{
	for (int i = 0; i < 3; i++) {
		eth->to[i] = way->next_hop[i];
		eth->from[i] = way->source[i];
	}
}

#endif
