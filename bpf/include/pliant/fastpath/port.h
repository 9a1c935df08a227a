/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where packets may leave, and the count of what became of those that came in by an interface.
 *
 * Nothing here or elsewhere is made for one interface alone: those that differ in nothing that is a constant run the
 * same program, and what is an interface's own is found by its index or read in the kernel.
 */
#ifndef PLIANT_FASTPATH_PORT_H
#define PLIANT_FASTPATH_PORT_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <pliant/fastpath/packet.h>
#include <pliant/fastpath/slot.h>

#define PORTS_MAX 1024

/* What became of a packet: all but the first are left to the kernel, as they came, and this is why. */
enum reason {
	FORWARDED,
	NOT_OURS,      /* for another station, or for many */
	NOT_IP,	       /* ARP, VLAN, 802.2, or an IP version that is not forwarded here */
	MALFORMED,     /* a length, the version or the checksum is wrong */
	OPTIONS,       /* IPv4 options, IPv6 hop-by-hop options */
	EXPIRING,      /* its last hop */
	MARTIAN,       /* from or to an address that a router does not forward */
	FRAGMENT,      /* where ports decide, and a fragment, or its protocol, has none */
	QUOTING,       /* an ICMP packet, where errors take the way of the packet they quote */
	NO_ROUTE,      /* none, or one that delivers here, drops, rejects or encapsulates */
	NO_NEIGHBOUR,  /* the next hop's address is not known (yet) */
	TOO_BIG,       /* for the way out */
	SAME_WAY_BACK, /* out where it came in: the sender may have to be told of a shorter way */
	REVERSE_PATH,  /* the way back to the source is not this way, or the source is this host */
	NO_PORT,       /* out by an interface that takes no redirected packets */
	CONFIRMING,    /* once a second the kernel sees a packet to each neighbour, and keeps its address fresh */
	PAUSED,	       /* while programs are replaced that have become wrong */
	UNTRACKED,     /* of no connection that is established, or of one that the kernel does more for */
	SIGNALLING,    /* TCP that begins or ends a connection, or has just done so */
	STRICT,	       /* the kernel checks TCP's windows, and for that has to see all of a connection */
	BAD_CHECKSUM,  /* of TCP or UDP */
	UNFINISHED,    /* its VLAN tag or the checksum of TCP or UDP is left to hardware that it has not passed */
	NOT_UNICAST,   /* a frame to a group, or from none or from one */
	NOT_CARRIED,   /* a frame that the bridge may answer or change: ARP, neighbour discovery, VLAN, 802.2 */
	NOT_BRIDGED,   /* for the bridge itself, or a bridge that does more with it */
	NO_STATION,    /* a source that is to be learnt here, or a destination that is not known */
	PORT_CLOSED,   /* one of both ports does not forward, or not to the other */
	REFUSED,       /* nftables drops it */
	UNDECIDED,     /* comes to a rule of nftables that is not understood, or that has to see it */
	CHANGING,      /* nftables' rules have changed, and have not been looked at yet */
	NO_POD,	       /* from or to what is no pod, or no plain veth pair into another network namespace */
	DROPPED,       /* for nftables, and here: the kernel does not see it */
	MANY_COUNTERS, /* passes more rules of nftables that count than are kept with a flow */
	MOVED_AWAY,    /* came in by an interface that is in another network namespace now */
	REASONS,
};

/* So that user space finds the names in the object's types. */
const volatile enum reason reasons = REASONS;

struct count {
	__u64 packets;
	__u64 bytes;
};

struct counts {
	struct count by_reason[2 * REASONS]; /* the second half is IPv6 */
};

/* By the slot of the interface that packets came in by. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

/* Where packets may leave, by small numbers; and the number of an interface. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32);   /* ifindex */
	__type(value, __u32); /* its number */
} port_numbers SEC(".maps");

static __always_inline void count(__u32 ifindex, __u32 reason, __u32 bytes)
{
	__u32 slot = slot_of_interface(ifindex);
	struct counts *own = bpf_map_lookup_elem(&counts, &slot);

	if (own && reason < 2 * REASONS) {
		own->by_reason[reason].packets++;
		own->by_reason[reason].bytes += bytes;
	}
}

/* What an XDP program returns that has redirected what it forwards. */
static __always_inline int xdp_verdict(enum reason reason)
{
	if (reason == FORWARDED)
		return XDP_REDIRECT;
	return reason == DROPPED ? XDP_DROP : XDP_PASS;
}

#endif
