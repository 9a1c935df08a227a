/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's bridge as it is in memory, relocated when the object is loaded (see <pliant/kernel.h>); read with
 * peek().
 */
#ifndef PLIANT_FASTPATH_BRIDGE_KERNEL_H
#define PLIANT_FASTPATH_BRIDGE_KERNEL_H

#include <linux/types.h>

#include <pliant/fastpath/kernel.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct rhash_head {
	struct rhash_head *next;
};

struct rhash_lock_head;

struct bucket_table {
	unsigned int size;
	unsigned int nest;
	__u32 hash_rnd;
	struct bucket_table *future_tbl;
	struct rhash_lock_head *buckets[];
};

struct rhashtable {
	struct bucket_table *tbl;
};

struct hlist_node {
	struct hlist_node **pprev;
};

struct net_bridge_fdb_key {
	unsigned char addr[6];
	__u16 vlan_id;
};

struct net_bridge_fdb_entry {
	struct rhash_head rhnode;
	struct net_bridge_port *dst;
	struct net_bridge_fdb_key key;
	struct hlist_node fdb_node;
	unsigned long flags;
	unsigned long updated;
	unsigned long used;
};

struct net_bridge {
	struct net_device *dev;
	unsigned long options;
	struct rhashtable fdb_hash_tbl;
	unsigned char topology_change;
	unsigned long forward_delay;
	unsigned long ageing_time;
};

struct net_bridge_port {
	struct net_bridge *br;
	struct net_device *dev;
	unsigned long flags;
	struct net_bridge_port *backup_port;
	__u8 state;
	int hwdom; /* of a kernel with switchdev: the switch chip that the port is of */
};

enum net_bridge_opts {
	BROPT_VLAN_ENABLED = 0,
	BROPT_MST_ENABLED = 16,
};

#pragma clang attribute pop

/* Bits of net_bridge_fdb_entry.flags, in an enumeration without a name, which cannot be relocated. */
#define FDB_LOCAL	    (1 << 0)
#define FDB_STATIC	    (1 << 1)
#define FDB_NOTIFY_INACTIVE (1 << 7)
#define FDB_LOCKED	    (1 << 8)

/* Bits of net_bridge_port.flags: macros in the kernel, whose numbers have not changed since they came. */
#define PORT_HAIRPIN	 (1 << 0)
#define PORT_LEARNING	 (1 << 5)
#define PORT_VLAN_TUNNEL (1 << 13)
#define PORT_ISOLATED	 (1 << 16)
#define PORT_LOCKED	 (1 << 21)

#define PORT_FORWARDS 3 /* BR_STATE_FORWARDING */

#define IFF_PROMISC 0x100

#endif
