// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What is attached to an interface (XDP), and stays attached: it goes on to the program that is in force there, which
 * is replaced by one write to a table. The kernel takes a grace period of RCU, with all its network configuration
 * locked, to replace what is attached itself. Where there is no program, or one that only passes, packets are the
 * kernel's.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} current SEC(".maps");

SEC("xdp") int xdp_entry(struct xdp_md *ctx)
{
	bpf_tail_call_static(ctx, &current, 0);
	return XDP_PASS;
}

SEC("xdp") int xdp_nothing(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
