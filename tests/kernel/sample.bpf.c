// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// One of each kind of map, constants, and programs for the hooks the loader's tests attach to.
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 verdict = 2;
const volatile __s16 small = -3;
const volatile __u64 large = 0;
const volatile __u8 prefix[16] = {};

struct pair {
	__u8 flag;
	__u32 number;
};

struct value {
	__u64 count;
	__s32 delta;
	__u16 port;
	struct pair inner;
	struct pair many[2];
	char name[8];
	__u8 mac[6];
	__u32 words[3];
};

struct prefix_key {
	__u32 bits;
	__u8 address[4];
};

struct bitty {
	__u32 low : 4;
	__u32 high : 28;
};

enum reason { REASON_NONE, REASON_FULL = 7 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct value);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u64);
} prefixes SEC(".maps");

struct bitty unused_bitty;
enum reason unused_reason;

static void set(__u32 index, __u64 value)
{
	bpf_map_update_elem(&results, &index, &value, BPF_ANY);
}

SEC("xdp") int verdict_by_constant(struct xdp_md *ctx)
{
	struct prefix_key everything = {};
	__u32 key = 1;
	__u32 *counter = bpf_map_lookup_elem(&counters, &key);

	if (counter)
		(*counter)++;
	bpf_map_lookup_elem(&prefixes, &everything);
	set(0, (__u64)small);
	set(1, large);
	set(2, prefix[0] + prefix[15]);
	bpf_map_lookup_elem(&table, &key);
	return verdict;
}

SEC("xdp") int always_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("tcx/ingress") int pass_ingress(struct __sk_buff *skb)
{
	return -1;
}

SEC("sockops") int count_sockets(struct bpf_sock_ops *ctx)
{
	__u32 key = 0;
	__u32 *counter = bpf_map_lookup_elem(&counters, &key);

	if (counter)
		(*counter)++;
	return 1;
}

SEC("sockops") int ignore_sockets(struct bpf_sock_ops *ctx)
{
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
