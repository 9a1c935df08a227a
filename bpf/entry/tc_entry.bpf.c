// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The same as xdp_entry.bpf.c, at tc.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} current SEC(".maps");

SEC("tc") int tc_entry(struct __sk_buff *ctx)
{
	bpf_tail_call_static(ctx, &current, 0);
	return -1; /* TCX_NEXT: whoever else is at the hook, then the kernel */
}

SEC("tc") int tc_nothing(struct __sk_buff *ctx)
{
	return -1; /* TCX_NEXT: whoever else is at the hook, then the kernel */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
