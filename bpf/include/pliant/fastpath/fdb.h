/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's forwarding database of a bridge, looked up in its own memory.
 */
#ifndef PLIANT_FASTPATH_FDB_H
#define PLIANT_FASTPATH_FDB_H

#include <stdbool.h>

#include <bpf/bpf_core_read.h>

#include <pliant/fastpath/bridge_kernel.h>
#include <pliant/fastpath/memory.h>

#define CHAIN_MAX     16 /* entries in a bucket that are looked at; the kernel keeps about one in each */
#define TABLES_MAX    3
#define JHASH_INITVAL 0xdeadbeef

union station {
	struct {
		__u16 address[3];
		__u16 vlan;
	};
	__u32 words[2];
	__u64 key; /* struct net_bridge_fdb_key */
};

static __always_inline __u64 station_of(const __u16 *address)
{
	union station found = {.address = {address[0], address[1], address[2]}};

	return found.key;
}

static __always_inline __u64 key_of(const struct net_bridge_fdb_entry *entry)
{
	return *(const __u64 *)((const void *)entry + bpf_core_field_offset(struct net_bridge_fdb_entry, key));
}

static __always_inline __u32 rotated(__u32 word, int bits)
{
	return word << bits | word >> (32 - bits);
}

/* Of two words: Bob Jenkins' lookup3, as jhash2() of the kernel has it. */
static __always_inline __u32 jhash(const union station *station, __u32 seed)
{
	__u32 a = JHASH_INITVAL + (2 << 2) + seed, b = a, c = a;

	b += station->words[1];
	a += station->words[0];
	c = (c ^ b) - rotated(b, 14);
	a = (a ^ c) - rotated(c, 11);
	b = (b ^ a) - rotated(a, 25);
	c = (c ^ b) - rotated(b, 16);
	a = (a ^ c) - rotated(c, 4);
	b = (b ^ a) - rotated(a, 14);
	return (c ^ b) - rotated(b, 24);
}

/* The entry of a station in one table; 0 also where the table has several levels, which the kernel rarely needs. */
static __always_inline __u64 find_in(const struct bucket_table *table, __u64 key)
{
	union station station = {.key = key};
	__u64 next, bucket;

	if (table->nest || !table->size)
		return 0;
	bucket = jhash(&station, table->hash_rnd) & (table->size - 1);
	bucket = bpf_core_field_offset(struct bucket_table, buckets) + bucket * sizeof(void *);
	next = *(__u64 *)((void *)table + bucket) & ~1ull; /* less the lock */
	for (int i = 0; i < CHAIN_MAX; i++) {
		const struct net_bridge_fdb_entry *entry;

		if (!next || next & 1) /* the end of a chain is odd */
			return 0;
		next -= bpf_core_field_offset(struct net_bridge_fdb_entry, rhnode);
		entry = peek((void *)next);
		if (key_of(entry) == key)
			return next;
		next = (__u64)entry->rhnode.next;
	}
	return 0;
}

/* As br_fdb_find_rcu() does: also in the table that is about to replace this one, into which entries are moved. */
static __noinline __u64 find_station(const struct net_bridge *address, __u64 key)
{
	const struct net_bridge *bridge = peek(address);
	__u64 table = (__u64)bridge->fdb_hash_tbl.tbl;

	for (int i = 0; i < TABLES_MAX && table; i++) {
		const struct bucket_table *from = peek((void *)table);
		__u64 found = find_in(from, key);

		if (found)
			return found;
		table = (__u64)from->future_tbl;
	}
	return 0;
}

/* Whether an entry is in the database, for this station, at this port, and a plain one. */
static __always_inline bool is_at(const struct net_bridge_fdb_entry *entry, __u64 key, __u64 port)
{
	return key_of(entry) == key && (__u64)entry->dst == port && entry->fdb_node.pprev &&
	       !(entry->flags & (FDB_LOCAL | FDB_NOTIFY_INACTIVE | FDB_LOCKED));
}

#endif
